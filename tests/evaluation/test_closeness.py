"""How close two arms of models are: each figure against its own function, and arms alike, apart, or too small."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from hf_unlearn import InputError
from hf_unlearn.evaluation.closeness.challenge import challenge_epsilons, dealt_epsilons, qualities
from hf_unlearn.evaluation.closeness.compare import closeness
from hf_unlearn.evaluation.closeness.epsilon import ceiling, example_bounds, pooled_bound
from hf_unlearn.evaluation.closeness.picture import plot_closeness
from hf_unlearn.evaluation.closeness.ulira import unlearning_lira

RECORDS = {"forget": 40, "holdout": 30}


def models(n: int, seed: int, **shift: float) -> list[dict[str, pa.Table]]:
    """The tables of models whose log(p / (1 - p)) is normal, with another mean for each record."""
    means = {name: np.random.default_rng(99).normal(-1, 1, records) for name, records in RECORDS.items()}
    draw = np.random.default_rng(seed)
    return [
        {
            name: pa.table({"loss": np.log1p(np.exp(-draw.normal(means[name] + shift.get(name, 0.0), 0.3)))})
            for name in RECORDS
        }
        for _ in range(n)
    ]


def confidence(found: list[dict[str, pa.Table]], name: str) -> np.ndarray:
    probability = np.exp(-np.stack([tables[name]["loss"].to_numpy() for tables in found]))
    return np.log(probability / (1 - probability))


def test_each_figure_is_that_of_its_own_function() -> None:
    unlearned, retrained = models(12, 1, forget=0.4), models(9, 2)
    found = closeness(unlearned, retrained, delta=1e-3, alpha=0.1, seed=5)
    assert (found.n_unlearned, found.n_reference, found.n_quality, found.originals) == (12, 9, 9, 1)
    assert (found.delta, found.confidence) == (1e-3, 0.9)
    assert list(found.sets) == ["forget", "holdout"]
    for name, numbers in found.sets.items():
        u, r = confidence(unlearned, name), confidence(retrained, name)
        examples = example_bounds(u, r, alpha=0.1, delta=1e-3, seed=5)
        assert numbers.records == RECORDS[name]
        for got, expected in (
            (numbers.pooled, pooled_bound(u, r, alpha=0.1, delta=1e-3, seed=5)),
            (numbers.single, examples.bound(examples.witness)),
        ):
            assert (got.example, got.hits_unlearned, got.hits_retrained) == (
                expected.example,
                expected.hits_unlearned,
                expected.hits_retrained,
            )
            assert got.epsilon == pytest.approx(expected.epsilon)
        quality = qualities(challenge_epsilons(u[:9], r[:9], delta=1e-3), 9).mean()
        assert numbers.quality == pytest.approx(quality)
        null = qualities(dealt_epsilons(u[:9], r[:9], delta=1e-3, seed=5), 9).mean()
        assert numbers.quality_null == pytest.approx(null)
        assert numbers.quality_ratio == pytest.approx(numbers.quality / null)
        lira = unlearning_lira(u, r, seed=5)
        assert numbers.lira_auc.value == pytest.approx(lira.auc.value)
        assert (numbers.lira_accuracy.n, numbers.lira_tpr is None) == (lira.accuracy.n, lira.tpr is None)
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["sets"]["forget"]["pooled"]["delta"] == 1e-3


def test_arms_that_lie_apart_on_s_alone() -> None:
    found = closeness(models(32, 1, forget=2.0), models(32, 2), seed=3)
    forget, holdout = found.sets["forget"], found.sets["holdout"]
    assert forget.pooled.epsilon == forget.pooled.ceiling == float(ceiling(16, 16))
    assert forget.quality_ratio < 0.05
    assert forget.lira_auc.value > 0.99
    assert holdout.pooled.epsilon == holdout.single.epsilon == 0
    assert 0.75 < holdout.quality_ratio < 1.3
    assert 0.4 < holdout.lira_auc.value < 0.6
    assert found.findings == [
        "On S epsilon > 1.35 is proven (confidence 95%), the most that so few models can show",
        "On H no epsilon is proven, and 1.35 is the most that so many models could show",
    ]
    told = " ".join(found.assumptions)
    assert "16 unlearned and 16 reference models chose" in told
    assert "conditional on this original" in told
    assert "conditional on this original" not in " ".join(
        closeness(models(4, 1), models(4, 2), originals=4).assumptions
    )


def test_what_sets_h_apart_too_is_not_about_s() -> None:
    found = closeness(models(24, 1, forget=2.0, holdout=2.0), models(24, 2), seed=3)
    assert found.findings[1].endswith("neither arm saw H, so the distance is not all about S")


def test_one_record_can_prove_what_all_of_them_cannot() -> None:
    unlearned, retrained = models(24, 1), models(24, 2)
    for tables in unlearned:
        loss = tables["forget"]["loss"].to_numpy().copy()
        loss[7] = 1e-3
        tables["forget"] = pa.table({"loss": loss})
    single = closeness(unlearned, retrained, seed=3).sets["forget"].single
    assert single.example == 7
    assert single.epsilon == single.ceiling


def test_few_models_prove_nothing_and_it_says_so() -> None:
    found = closeness(models(8, 1, forget=5.0), models(8, 2))
    assert found.sets["forget"].pooled.epsilon == 0
    assert "4 and 4 tested models are too few, train 12 of each kind or more" in found.findings[0]
    enough = closeness(models(12, 1, forget=5.0), models(12, 2))
    assert enough.sets["forget"].pooled.epsilon > 0
    with pytest.raises(InputError, match="There are 2 unlearned and 5 reference models; closeness needs 3 of each"):
        closeness(models(2, 1), models(5, 2))


def test_without_h_there_is_no_control() -> None:
    unlearned, retrained = ([{"forget": m["forget"]} for m in models(4, seed)] for seed in (1, 2))
    assert list(closeness(unlearned, retrained).sets) == ["forget"]


@pytest.mark.parametrize(("spread", "null"), [(0.3, 0.108), (1.0, 0.181)])
def test_models_dealt_at_random_show_what_alike_ones_do(spread: float, null: float) -> None:
    """The null depends on how far the models spread; the numbers are means over 1,000 examples of alike arms."""
    draw = np.random.default_rng(0)
    unlearned, retrained = draw.normal(0, spread, (2, 32, 200))
    dealt = dealt_epsilons(unlearned, retrained)
    assert dealt.shape == (2000,)
    assert qualities(dealt, 32).mean() == pytest.approx(null, abs=0.015)
    assert qualities(challenge_epsilons(unlearned, retrained), 32).mean() == pytest.approx(null, abs=0.03)
    apart = dealt_epsilons(unlearned + 9 * spread, retrained)
    assert np.median(challenge_epsilons(unlearned + 9 * spread, retrained)) == 50
    assert np.median(apart) < 3


def test_the_picture_shows_each_arm_and_set(tmp_path: Path) -> None:
    unlearned, retrained = models(6, 1, forget=1.0), models(5, 2)
    found = closeness(unlearned, retrained)
    sizes = []
    for arms in (["retrained"], ["retrained", "same_budget"]):
        path = tmp_path / f"{len(arms)}.png"
        plot_closeness(unlearned, dict.fromkeys(arms, (retrained, found)), path)
        with Image.open(path) as image:
            sizes.append(image.size)
            assert set(image.info) <= {"Software", "dpi"}
    assert (sizes[0][0], 2 * sizes[0][1]) == sizes[1]
    assert {file.name for file in tmp_path.iterdir()} == {"1.png", "2.png"}
