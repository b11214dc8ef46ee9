"""The attacks that know models which saw neither S nor H."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.references import outside_attacks

SIZES = {"forget": 50, "holdout": 60}


def tables(draw: np.random.Generator, known: float) -> dict[str, pa.Table]:
    """A model's losses: records differ in difficulty, and what it knows of S lowers their loss by a factor."""
    difficulty = {name: np.random.default_rng(7).uniform(0.1, 4, size) for name, size in SIZES.items()}
    found = {name: loss * np.exp(draw.normal(0, 0.1, len(loss))) for name, loss in difficulty.items()}
    found["forget"] *= 1 - known
    return {name: pa.table({"loss": loss}) for name, loss in found.items()}


def losses(found: dict[str, pa.Table]) -> np.ndarray:
    return np.concatenate([found[name]["loss"].to_numpy() for name in SIZES])


def test_they_see_what_difficulty_hides() -> None:
    draw = np.random.default_rng(0)
    outside = [tables(draw, 0) for _ in range(4)]
    member = np.arange(110) < 50
    for known, low, high in ((0.3, 0.9, 1.0), (0.0, 0.35, 0.65)):
        judged = tables(draw, known)
        found = outside_attacks(judged, outside, seed=0)
        assert list(found) == ["lira", "rmia"]
        assert roc_auc_score(member, -losses(judged)) < 0.7, "the loss alone sees little"
        assert low <= found["lira"].auc.value <= high
        for attack in found.values():
            assert attack.auc.n == 110
            assert attack.balanced_accuracy is not None
            assert 0 <= attack.tpr_at_1pct.value <= 1


def test_their_scores_are_those_of_the_papers() -> None:
    draw = np.random.default_rng(1)
    judged, outside = tables(draw, 0.2), [tables(draw, 0) for _ in range(5)]
    found = outside_attacks(judged, outside, seed=0)
    loss, others = losses(judged), np.stack([losses(other) for other in outside])
    member = np.arange(110) < 50

    def logit(values: np.ndarray) -> np.ndarray:
        return np.log(np.exp(-values) / (1 - np.exp(-values)))

    # With one variance for all records of S and H it does not change the order.
    distance = logit(loss) - logit(others).mean(0)
    assert found["lira"].auc.value == pytest.approx(roc_auc_score(member, distance))
    # With a = 0.3 and gamma = 1 the order of records is that of the ratios, whatever the population.
    ratio = np.exp(-loss) / ((1.3 * np.exp(-others).mean(0) + 0.7) / 2)
    assert found["rmia"].auc.value == pytest.approx(roc_auc_score(member, ratio))


def test_intervals_take_groups_for_the_unit() -> None:
    draw = np.random.default_rng(3)
    judged, outside = tables(draw, 0.2), [tables(draw, 0) for _ in range(3)]
    grouped = {
        name: part.append_column("group", pa.array(np.arange(len(part)) // 10)) for name, part in judged.items()
    }
    alone, together = (outside_attacks(one, outside, seed=0)["lira"].auc for one in (judged, grouped))
    assert (alone.n, together.n) == (110, 6)
    assert alone.value == together.value


def test_one_model_outside_or_no_h_is_too_little() -> None:
    draw = np.random.default_rng(2)
    judged, outside = tables(draw, 0.2), [tables(draw, 0) for _ in range(3)]
    assert outside_attacks(judged, outside[:1], seed=0) == {}
    assert len(outside_attacks(judged, outside[:2], seed=0)) == 2
    judged.pop("holdout")
    assert outside_attacks(judged, outside, seed=0) == {}
