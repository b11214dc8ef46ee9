"""TOFU's and MUSE's measures: published logs, their formulas written out, and where they end."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from scipy import stats

from hf_unlearn.data.encoding import PaddingCollator
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.benchmarks.tofu import (
    answer_probability,
    closer_to_one,
    forget_quality,
    model_utility,
    privleak,
    probability_among_options,
    true_better,
    truth_probability,
    truth_ratios,
)
from hf_unlearn.evaluation.benchmarks.tofu_suite import TofuScores, TofuSuite, tofu_metrics
from hf_unlearn.evaluation.measured_sets import EvidenceSets

from ..support.draws import seeds

LOGS = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
COLUMNS = {
    "answer": "avg_gt_loss",
    "paraphrased_answer": "avg_paraphrased_loss",
    "perturbed_answer": "average_perturb_loss",
}


def published(shared: Path, model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses of the right and the wrong answers to the questions about S, and the truth ratios in the log."""
    path = shared / "data" / "tofu_reference_logs" / f"llama2-7b_{model}_wd0.01.json"
    log = json.loads(path.read_text(encoding="utf-8"))["eval_log_forget.json"]
    columns = [list(log[name].values()) for name in ("avg_paraphrased_loss", "average_perturb_loss", "truth_ratio")]
    return np.array(columns[0]), np.array(columns[1]), np.array(columns[2])


def test_the_published_numbers(shared: Path) -> None:
    ratios = {}
    for model, expected in (("full", 0.516), ("retain90", 0.674)):
        correct, wrong, logged = published(shared, model)
        ratios[model] = truth_ratios(correct, wrong, "geometric")
        np.testing.assert_allclose(ratios[model], logged, rtol=1e-5)
        assert closer_to_one(ratios[model]).mean() == pytest.approx(expected, abs=5e-4)
    assert forget_quality(ratios["full"], ratios["retain90"]) == pytest.approx(1.83e-21, rel=5e-3)
    assert forget_quality(ratios["full"], ratios["full"]) == 1


def published_scores(shared: Path, model: str) -> tuple[TofuScores, dict[Any, np.ndarray], dict[str, Any]]:
    """A published log as if it had been scored here: losses, ROUGE-L recall, and the log itself."""
    path = shared / "data" / "tofu_reference_logs" / f"llama2-7b_{model}_wd0.01.json"
    log = json.loads(path.read_text(encoding="utf-8"))
    logs = {name: {key: list(column.values()) for key, column in log[file].items()} for name, file in LOGS.items()}
    losses: list[float] = []
    places: dict[Any, slice] = {}
    for name, columns in logs.items():
        for answer, column in COLUMNS.items():
            values = np.ravel(columns[column]).tolist()
            places[name, answer] = slice(len(losses), len(losses) + len(values))
            losses += values
    first = logs["forget"]["avg_gt_loss"]
    sets: dict[Any, Dataset] = {
        "forget": Dataset.from_dict({"row": range(len(first))}),
        "test": Dataset.from_dict({"row": range(len(losses))}),
    }
    suite = TofuSuite(EvidenceSets("text-generation", sets, PaddingCollator(0), 1), places, {}, "the same rows")
    unknown = np.full(len(first), np.nan)
    forget = pa.table({"loss": first, "exact": unknown, "extraction": unknown})
    recall = {name: np.array(columns["rougeL_recall"]) for name, columns in logs.items()}
    return TofuScores(suite, {"forget": forget, "test": pa.table({"loss": losses})}), recall, logs


def test_the_published_logs_through_the_whole_suite(shared: Path) -> None:
    reference = published_scores(shared, "retain90")[0]
    for model, utility, ratio in (("full", 0.623, 0.516), ("retain90", 0.614, 0.674)):
        scores, recall, logs = published_scores(shared, model)
        found = tofu_metrics(scores, recall, reference)
        assert found["forget_truth_ratio_geometric_closer_to_one"].value == pytest.approx(ratio, abs=5e-4)
        nine: list[float] = []
        for name in ("retain", "real_authors", "world_facts"):
            columns = {key: np.array(column) for key, column in logs[name].items() if key != "generated_text"}
            right = np.exp(-columns["avg_gt_loss"])
            if name != "retain":
                right = right / (right + np.exp(-columns["average_perturb_loss"]).sum(1))
            nine += [right.mean(), columns["rougeL_recall"].mean(), np.maximum(0, 1 - columns["truth_ratio"]).mean()]
        assert found["model_utility_geometric"].value == pytest.approx(statistics.harmonic_mean(nine), rel=1e-5)
        assert found["model_utility_geometric"].value == pytest.approx(utility, abs=5e-4)
        expected = {"full": 1.83e-21, "retain90": 1.0}[model]
        assert found["forget_quality_geometric"].value == pytest.approx(expected, rel=5e-3)
        assert found["forget_quality_geometric"].n == 300


@pytest.mark.parametrize("seed", range(20))
def test_truth_ratios_against_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    correct, wrong = rng.exponential(2, 7), rng.exponential(2, (7, 5))
    arithmetic, geometric = (truth_ratios(correct, wrong, mean) for mean in ("arithmetic", "geometric"))
    for i in range(7):
        right = math.exp(-correct[i])
        powers = [math.exp(-loss) for loss in wrong[i]]
        assert arithmetic[i] == pytest.approx(sum(powers) / 5 / right)
        assert geometric[i] == pytest.approx(math.prod(powers) ** (1 / 5) / right)
        assert closer_to_one(arithmetic)[i] == pytest.approx(min(arithmetic[i], 1 / arithmetic[i]))
        assert true_better(arithmetic)[i] == pytest.approx(max(0.0, 1 - arithmetic[i]))
        assert truth_probability(arithmetic)[i] == pytest.approx(right / (right + sum(powers) / 5))
        options = probability_among_options(correct, wrong)[i]
        assert options == pytest.approx(right / (right + sum(powers)))
        assert answer_probability(correct)[i] == pytest.approx(right)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_answers_that_are_impossible_have_finite_measures(mean: str) -> None:
    correct, wrong = np.array([0.0, 1e4]), np.array([[1e4, 1e4], [0.0, 0.0]])
    ratios = truth_ratios(correct, wrong, mean)  # type: ignore[arg-type]
    assert ratios.tolist() == [0, math.inf]
    assert closer_to_one(ratios).tolist() == [0, 0]
    assert true_better(ratios).tolist() == [1, 0]
    assert truth_probability(ratios).tolist() == [1, 0]
    assert probability_among_options(correct, wrong).tolist() == [1, 0]


def test_a_record_without_an_answer_is_an_error_and_not_a_silent_nan() -> None:
    bad, good = np.array([1.0, math.nan]), np.ones(2)
    for call in (
        lambda: truth_ratios(bad, np.ones((2, 3)), "geometric"),
        lambda: truth_ratios(good, np.array([[1.0, 1.0], [1.0, math.nan]]), "arithmetic"),
        lambda: forget_quality(good, bad),
        lambda: privleak(bad, good),
        lambda: answer_probability(bad),
    ):
        with pytest.raises(InputError, match="1 of the|1 of \\d values are no number"):
            call()


def test_forget_quality_is_the_two_sample_test() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 9), rng.normal(0.7, 1, 9)
    # Hodges 1958: the exact p-value is the share of lattice paths that stray as far
    statistic = max(abs((x <= v).mean() - (y <= v).mean()) for v in np.concatenate([x, y]))
    n, far = 9, round(statistic * 9)
    paths = np.zeros((n + 1, n + 1))
    for i in range(n + 1):
        for j in range(n + 1):
            inside = abs(i - j) < far
            before = (paths[i - 1, j] if i else 0) + (paths[i, j - 1] if j else 0)
            paths[i, j] = inside * (before if i or j else 1)
    assert forget_quality(x, y) == pytest.approx(1 - paths[n, n] / math.comb(2 * n, n))
    with pytest.raises(InputError, match="9 and 8"):
        forget_quality(x, y[:8])


def test_model_utility_is_the_harmonic_mean_and_zero_spoils_it() -> None:
    values = np.linspace(0.1, 0.9, 9)
    assert model_utility(values) == pytest.approx(9 / sum(1 / v for v in values))
    assert model_utility(values.reshape(3, 3).tolist()) == pytest.approx(model_utility(values))
    assert model_utility([0.0, *values[1:]]) == 0
    for wrong in (values[:8], [*values[:8], 1.1], [*values[:8], math.nan]):
        with pytest.raises(InputError, match="nine"):
            model_utility(wrong)


def test_privleak_against_the_formula() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(0, 1, 30), rng.normal(0.8, 1, 40)
    reference = rng.normal(0, 1, 30), rng.normal(0.1, 1, 40)

    def share(s: np.ndarray, h: np.ndarray) -> float:
        return stats.mannwhitneyu(s, h).statistic / (len(s) * len(h))

    expected = (share(forget, holdout) - share(*reference)) / share(*reference)
    assert privleak(forget, holdout, reference) == pytest.approx(100 * expected)
    assert privleak(forget, holdout) == pytest.approx(100 * (share(forget, holdout) - 0.5) / 0.5)
    assert privleak(np.zeros(3), np.ones(3)) == -100
    assert privleak(np.ones(3), np.zeros(3)) == 100
    assert privleak(*reference, reference) == 0
    assert math.isnan(privleak(forget, holdout, (np.zeros(3), np.ones(3))))


@pytest.mark.parametrize("seed", seeds())
def test_forget_quality_against_the_count_of_paths(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 15))
    first, second = rng.normal(0, 1, n), rng.normal(rng.uniform(0, 1), 1, n)
    largest = max(abs((first <= x).mean() - (second <= x).mean()) for x in [*first, *second])
    # Every order of n and n values is a path from (0, 0) to (n, n); those are counted that stay nearer the diagonal.
    inside = np.zeros((n + 1, n + 1), dtype=object)
    for i in range(n + 1):
        for j in range(n + 1):
            if abs(i - j) / n < largest - 1e-9:
                inside[i, j] = 1 if i == j == 0 else (inside[i - 1, j] if i else 0) + (inside[i, j - 1] if j else 0)
    expected = 1 - inside[n, n] / math.comb(2 * n, n)
    # Where the exact p-value is 1 scipy gives the asymptotic one.
    assert forget_quality(first, second) == pytest.approx(expected, rel=1e-6 if expected < 1 else 1e-4)
