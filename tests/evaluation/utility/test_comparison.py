"""What the unlearning cost in utility."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import f1_score

from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.utility.comparison import Utility, ratio, utility
from hf_unlearn.evaluation.utility.metrics import Truth

NAMES = ("common", "rare")


def classified(predicted: np.ndarray, groups: np.ndarray | None = None) -> pa.Table:
    lists = pa.array([[int(one)] for one in predicted], pa.list_(pa.int32()))
    return pa.table({"predicted": lists} | ({} if groups is None else {"group": groups}))


def truth_of(true: np.ndarray) -> Truth:
    return Truth([np.array([one], dtype=np.int32) for one in true], NAMES)


def read(nll: np.ndarray, tokens: int = 10, groups: np.ndarray | None = None) -> pa.Table:
    columns: dict[str, Any] = {"nll": nll, "tokens": np.full(len(nll), tokens)}
    return pa.table(columns | ({} if groups is None else {"group": groups}))


def compared(tables: dict[str, pa.Table], **options: Any) -> Utility:
    found = utility({arm: {"test": table} for arm, table in tables.items()}, "text-generation", 0.05, **options)
    assert found is not None
    return found


def test_classifiers_are_compared_by_macro_f1() -> None:
    rng = np.random.default_rng(0)
    true = (rng.random(1000) < 0.04).astype(int)
    original = np.where(rng.random(1000) < 0.98, true, 1 - true)
    blind = np.zeros(1000, dtype=int)
    sets = {"original": {"test": classified(original)}, "unlearned": {"test": classified(blind)}}
    found = utility(sets, "text-classification", 0.05, truth={"test": truth_of(true)})
    assert found is not None
    assert (found.word, found.loss_of, found.compared_with) == ("lost", "macro_f1", "original")
    assert (original == true).mean() - (blind == true).mean() < 0.05, "accuracy would have kept a class that is gone"
    expected = f1_score(true, original, average="macro") - f1_score(true, blind, average="macro", zero_division=0)
    assert found.decrease.value == pytest.approx(expected)
    assert found.sentence.startswith("On the test split macro-F1 is lower by 0.")


def macro_f1_of(true: np.ndarray, given: np.ndarray) -> float:
    scores = []
    for label in np.unique(true):
        right = np.sum((true == label) & (given == label))
        scores.append(2 * right / (np.sum(true == label) + np.sum(given == label)))
    return float(np.mean(scores))


def test_the_interval_of_a_paired_difference_is_that_of_the_bootstrap() -> None:
    """Against a plain bootstrap over records, and narrower than if the models had other records."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 400)
    original = np.where(rng.random(400) < 0.8, true, 1 - true)
    own = np.where(rng.random(400) < 0.9, original, true)
    sets = {"original": {"test": classified(original)}, "unlearned": {"test": classified(own)}}
    found = utility(sets, "text-classification", 0.05, truth={"test": truth_of(true)}, seed=3)
    assert found is not None
    draws = []
    for _ in range(1000):
        rows = rng.integers(0, 400, 400)
        scores = [macro_f1_of(true[rows], model[rows]) for model in (original, own)]
        draws.append(scores[0] - scores[1])
    assert (found.decrease.low, found.decrease.high) == pytest.approx(np.quantile(draws, [0.05, 0.95]), abs=0.008)
    again = utility(sets, "text-classification", 0.05, truth={"test": truth_of(true)}, seed=3)
    assert again == found


def test_that_few_records_show_no_difference_is_not_that_there_is_none() -> None:
    for n, word in ((20, "undecided"), (100, "kept")):
        true = np.arange(n) % 2
        sets = {arm: {"holdout": classified(true)} for arm in ("original", "unlearned")}
        found = utility(sets, "text-classification", 0.05, truth={"holdout": truth_of(true)})
        assert found is not None
        assert found.word == word
        assert found.decrease.high == pytest.approx(1 - 0.05 ** (1 / n))


@pytest.mark.parametrize(
    ("loss_of", "found", "said"),
    [
        ("accuracy", Estimate(-0.001, -0.004, 0.002, 9), "accuracy is higher by 0.00 (90 % interval 0.00 to 0.00)"),
        ("macro_f1", Estimate(-0.02, -0.05, 0.01, 9), "macro-F1 is higher by 0.02 (90 % interval -0.01 to 0.05)"),
        ("macro_f1", Estimate(0.02, -0.004, 0.05, 9), "macro-F1 is lower by 0.02 (90 % interval 0.00 to 0.05)"),
        ("loss", Estimate(-0.02, -0.05, 0.01, 9), "the loss is lower by 2.0 % (90 % interval -1.0 to 5.0 %)"),
        ("loss", Estimate(0.02, -0.01, 0.05, 9), "the loss is higher by 2.0 % (90 % interval -1.0 to 5.0 %)"),
        ("gain", Estimate(-0.0001, -0.01, 0.01, 9), "On the test split 0.0 % of what"),
    ],
)
def test_it_says_which_way_a_number_went(loss_of: Any, found: Estimate, said: str) -> None:
    assert said in Utility("test", "original", loss_of, found, 0.05, "kept").sentence


def test_records_of_one_customer_count_as_one() -> None:
    true = np.repeat(np.arange(10) % 2, 20)
    own = np.where(np.arange(200) < 20, 1 - true, true)
    groups = np.repeat(np.arange(10), 20)
    for labels, word in ((None, "lost"), (groups, "undecided")):
        sets = {"original": {"holdout": classified(true, labels)}, "unlearned": {"holdout": classified(own, labels)}}
        found = utility(sets, "text-classification", 0.05, truth={"holdout": truth_of(true)})
        assert found is not None
        assert (found.word, found.decrease.n) == (word, 200 if labels is None else 10)
    loss = np.full(200, 20.0) + np.random.default_rng(0).normal(0, 0.01, 200)
    for labels, word in ((None, "lost"), (groups, "undecided")):
        tables = {"original": read(loss, 10, labels), "unlearned": read(np.where(own == true, loss, 60), 10, labels)}
        assert compared(tables).word == word


def test_the_retrained_model_comes_before_the_original_and_the_test_split_before_l() -> None:
    good, bad = read(np.linspace(9, 11, 200)), read(np.linspace(11, 13, 200))
    tables = {
        "original": {"test": bad, "retained": bad},
        "retrained": {"test": good, "retained": bad},
        "unlearned": {"test": bad, "retained": bad},
    }
    found = utility(tables, "text-generation", 0.05)
    assert found is not None
    assert (found.word, found.compared_with, found.measured_on) == ("lost", "retrained", "test")
    without = utility({arm: {"retained": sets["retained"]} for arm, sets in tables.items()}, "text-generation", 0.05)
    assert without is not None
    assert (without.word, without.measured_on, without.decrease.value) == ("kept", "retained", 0.0)


def test_a_loss_is_judged_by_what_the_fine_tuning_had_gained() -> None:
    """A loss of 5.10 after 4.88 is 4.4 % more, and two thirds of the gain where the base has 5.19."""
    rng = np.random.default_rng(2)
    record = rng.normal(0, 2, 400)
    original, unlearned, base = (10 * loss + record + rng.normal(0, 0.3, 400) for loss in (4.88, 5.10, 5.19))
    tables = {"original": read(original), "unlearned": read(unlearned)}
    alone = compared(tables)
    assert (alone.loss_of, alone.word, alone.gain) == ("loss", "kept", None)
    assert alone.decrease.value == pytest.approx(0.045, abs=0.003)
    found = compared(tables | {"base": read(base)})
    assert (found.loss_of, found.word) == ("gain", "lost")
    assert found.decrease.value == pytest.approx(0.22 / 0.31, abs=0.03)
    assert found.gain is not None
    assert found.gain.value == pytest.approx(0.31, abs=0.01)
    assert "of what the fine-tuning had gained in loss is lost (90 % interval" in found.sentence
    assert "more than the margin of 5.0 %." in found.sentence


def test_where_the_fine_tuning_gained_nothing_the_loss_itself_counts() -> None:
    rng = np.random.default_rng(3)
    original = rng.normal(50, 5, 100)
    for base in (original + rng.normal(0, 3, 100), original - 10):
        found = compared({"original": read(original), "unlearned": read(original * 1.01), "base": read(base)})
        assert (found.loss_of, found.word) == ("loss", "kept")
        assert found.decrease.value == pytest.approx(0.01)
        assert "had gained nothing here that shows, so this is a part of the whole loss" in found.sentence
    one = compared({"original": read(original[:1]), "unlearned": read(original[:1]), "base": read(original[:1] + 5)})
    assert (one.loss_of, one.word) == ("loss", "undecided")


def test_the_interval_of_a_ratio_is_that_of_fieller() -> None:
    """A ratio is in the interval just where a t-test does not tell part - ratio * whole from zero."""
    from scipy import stats

    rng = np.random.default_rng(4)
    whole = rng.gamma(2, 1, 30)
    part = 0.4 * whole + rng.normal(0, 0.5, 30)
    found = ratio(part, whole, 0.90)
    for value, inside in ((found.low, None), (found.high, None), (found.value, True)):
        p = stats.ttest_1samp(part - value * whole, 0).pvalue
        assert p > 0.9 if inside else p == pytest.approx(0.10)
    assert found.value == pytest.approx(part.sum() / whole.sum())
    doubled = ratio(np.repeat(part, 2), np.repeat(whole, 2), 0.90, np.repeat(np.arange(30), 2))
    assert (doubled.low, doubled.high, doubled.n) == pytest.approx((found.low, found.high, 30))


def test_the_interval_of_a_part_of_the_gain_covers_where_the_gain_is_small() -> None:
    rng, covered, shown = np.random.default_rng(5), 0, 0
    for _ in range(600):
        record = rng.normal(0, 1, 40)
        original, unlearned, base = (loss + record + rng.normal(0, 0.8, 40) for loss in (50, 50.3, 50.6))
        found = compared({"original": read(original), "unlearned": read(unlearned), "base": read(base)})
        if found.loss_of == "gain":
            shown += 1
            covered += found.decrease.low <= 0.5 <= found.decrease.high
    assert shown > 400
    assert covered / shown > 0.87


def test_texts_are_compared_by_rouge_where_the_models_wrote() -> None:
    rng = np.random.default_rng(6)
    loss = read(rng.normal(20, 1, 60))
    tables = {"original": {"test": loss}, "unlearned": {"test": loss}}

    def wrote(scores: np.ndarray) -> dict[str, pa.Table]:
        lines = {"rougeL": np.r_[scores, np.zeros(60)], "prefix": np.repeat([0, 8], 60)}
        return {"test": pa.table(lines | {"rougeL": pa.array([None, *lines["rougeL"][1:]], pa.float64())})}

    scores = rng.random(60) * 0.5 + 0.5
    written = {"original": wrote(scores), "unlearned": wrote(scores - 0.2)}
    found = utility(tables, "text2text-generation", 0.05, written=written)
    assert found is not None
    assert (found.loss_of, found.word, found.decrease.n) == ("rouge_l", "lost", 59)
    assert found.decrease.value == pytest.approx(0.2)
    without = utility(tables, "text2text-generation", 0.05)
    assert without is not None
    assert without.loss_of == "loss"


def test_a_language_models_loss_is_compared_as_a_fraction() -> None:
    rng = np.random.default_rng(1)
    base = rng.gamma(20, 1, 300)
    for factor, word in ((1.01, "kept"), (1.20, "lost")):
        found = compared({"original": read(base), "unlearned": read(base * factor)})
        assert (found.word, found.loss_of) == (word, "loss")
        assert found.decrease.value == pytest.approx(factor - 1)
    found = compared({"original": read(base[:4]), "unlearned": read(base[:4] * [0.8, 1.3, 1.1, 0.95])})
    assert found.word == "undecided"
    assert "too few records" in found.sentence


def test_with_nothing_to_compare_there_is_no_comparison() -> None:
    table = read(np.ones(3))
    assert utility({"unlearned": {"test": table}}, "text-generation", 0.05) is None
    assert utility({"unlearned": {"forget": table}, "original": {"forget": table}}, "text-generation", 0.05) is None
