"""What the unlearning cost in utility."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from hf_unlearn.evaluation.utility import utility


def classified(right: np.ndarray) -> pa.Table:
    ones = np.ones(len(right), dtype=np.int64)
    return pa.table({"nll": np.where(right, 0.1, 2.0), "tokens": ones, "correct": right.astype(np.int64)})


def read(nll: np.ndarray, tokens: int = 10) -> pa.Table:
    return pa.table({"nll": nll, "tokens": np.full(len(nll), tokens), "correct": np.zeros(len(nll), np.int64)})


def test_accuracy_is_compared_record_by_record() -> None:
    rng = np.random.default_rng(0)
    original = rng.random(500) < 0.9
    worse = original & (rng.random(500) > 0.02)
    found = utility({"original": {"test": classified(original)}, "unlearned": {"test": classified(worse)}},
                    "text-classification", 0.05)  # fmt: skip
    assert found is not None
    difference = original.astype(float) - worse
    interval = stats.ttest_1samp(difference, 0).confidence_interval(0.90)
    assert found.decrease.value == pytest.approx(difference.mean())
    assert (found.decrease.low, found.decrease.high) == pytest.approx((interval.low, interval.high))
    assert (found.word, found.compared_with, found.measured_on, found.loss_of) == (
        "kept",
        "original",
        "test",
        "accuracy",
    )
    assert "within the margin of 0.05" in found.sentence


def test_the_retrained_model_comes_before_the_original_and_the_test_split_before_l() -> None:
    good, bad = classified(np.ones(200, bool)), classified(np.arange(200) < 150)
    tables = {
        "original": {"test": bad, "retained": bad},
        "retrained": {"test": good, "retained": bad},
        "unlearned": {"test": bad, "retained": bad},
    }
    found = utility(tables, "text-classification", 0.05)
    assert found is not None
    assert (found.word, found.compared_with, found.measured_on) == ("lost", "retrained", "test")
    assert found.decrease.value == pytest.approx(0.25)
    without = utility(
        {arm: {"retained": sets["retained"]} for arm, sets in tables.items()}, "text-classification", 0.05
    )
    assert without is not None
    assert (without.word, without.measured_on, without.decrease.value) == ("kept", "retained", 0.0)


def test_a_language_models_loss_is_compared_as_a_fraction() -> None:
    rng = np.random.default_rng(1)
    base = rng.gamma(20, 1, 300)
    for factor, word in ((1.01, "kept"), (1.20, "lost")):
        tables = {"original": {"test": read(base)}, "unlearned": {"test": read(base * factor)}}
        found = utility(tables, "text-generation", 0.05)
        assert found is not None
        assert (found.word, found.loss_of) == (word, "loss")
        assert found.decrease.value == pytest.approx(factor - 1)
    few = {"original": {"test": read(base[:4])}, "unlearned": {"test": read(base[:4] * [0.8, 1.3, 1.1, 0.95])}}
    found = utility(few, "text-generation", 0.05)
    assert found is not None
    assert found.word == "undecided"
    assert "too few records" in found.sentence


def test_with_nothing_to_compare_there_is_no_comparison() -> None:
    table = read(np.ones(3))
    assert utility({"unlearned": {"test": table}}, "text-generation", 0.05) is None
    assert utility({"unlearned": {"forget": table}, "original": {"forget": table}}, "text-generation", 0.05) is None
