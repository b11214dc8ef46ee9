"""What membership attacks are worth, and the scores they give, each against its formula in plain loops."""

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.measured_sets import attack_scores
from hf_unlearn.evaluation.membership import (
    attack_result,
    lira_scores,
    logit_confidence,
    rmia_scores,
)
from hf_unlearn.evaluation.statistics import folds, rate

from ..support.draws import seeds

SEEDS = seeds()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_attack_against_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(4, 300, 2)
    forget, holdout = rng.normal(rng.uniform(-1, 2), 1, m).round(1), rng.normal(0, 1, n).round(1)
    found = attack_result(forget, holdout, seed=seed)
    truth, scores = np.repeat([1, 0], [m, n]), np.concatenate([forget, holdout])
    assert found.auc.value == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert found.tpr_at_1pct.value == pytest.approx(tpr[fpr <= 0.01].max())
    assert found.tpr_at_01pct is None

    dealt = folds(m, n, None, 2, seed)
    assert dealt is not None
    first = np.concatenate(dealt) == 0
    right = [balanced_accuracy_score(truth[first], scores[first] >= t) for t in [*np.unique(scores[first]), math.inf]]
    threshold = [*np.unique(scores[first]), math.inf][int(np.argmax(np.round(right, 12)))]
    judged = balanced_accuracy_score(truth[~first], scores[~first] >= threshold)
    assert found.balanced_accuracy is not None
    assert found.balanced_accuracy.value == pytest.approx(judged)
    assert found.balanced_accuracy.n == (~first).sum()


def test_one_in_a_thousand_needs_a_thousand() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(1, 1, 300), rng.normal(0, 1, 1000)
    found = attack_result(forget, holdout, seed=0).tpr_at_01pct
    assert found is not None
    assert found.value == (forget > np.sort(holdout)[-2]).mean()
    assert found.low < found.value < found.high
    assert attack_result(forget, holdout[:999], seed=0).tpr_at_01pct is None


@pytest.mark.slow
@pytest.mark.parametrize(("records", "least"), [(50, 0.95), (200, 0.85)])
def test_the_interval_of_the_rare_rate_knows_that_its_threshold_was_found(records: int, least: float) -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.sf(stats.norm.ppf(0.99) - 1)
    covered = {"found": 0, "as if given": 0}
    for seed in range(100):
        forget, holdout = rng.normal(1, 1, records), rng.normal(0, 1, records)
        found = attack_result(forget, holdout, seed=seed).tpr_at_1pct
        given = rate(round(found.value * records), records)
        covered["found"] += found.low <= truth <= found.high
        covered["as if given"] += given.low <= truth <= given.high
    # What the docstring states, less the Monte Carlo error.
    assert covered["found"] / 100 >= least
    assert covered["as if given"] / 100 < 0.75


def test_a_threshold_is_not_judged_where_it_was_chosen() -> None:
    rng = np.random.default_rng(0)
    values, covered = [], 0
    for seed in range(60):
        found = attack_result(rng.normal(0, 1, 20), rng.normal(0, 1, 20), seed=seed).balanced_accuracy
        assert found is not None
        values.append(found.value)
        covered += found.low <= 0.5 <= found.high
    # The best threshold of twenty records a side has 0.6 and more where it was chosen.
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
    assert covered / 60 >= 0.95


def test_groups_widen_every_interval() -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(12), 100)
    forget, holdout = (rng.normal(0, 1, 12).repeat(100) + rng.normal(0, 0.3, 1200) + shift for shift in (0.5, 0))
    alone = attack_result(forget, holdout, seed=0)
    found = attack_result(forget, holdout, (names, names + 12), seed=0)
    assert found.auc.value == alone.auc.value
    for name in ("auc", "tpr_at_1pct", "tpr_at_01pct", "balanced_accuracy"):
        one, other = vars(found)[name], vars(alone)[name]
        assert one.high - one.low > 2 * (other.high - other.low)
    assert found.tpr_at_1pct.value == alone.tpr_at_1pct.value
    assert (found.auc.n, found.tpr_at_1pct.n) == (24, 12)
    assert found.balanced_accuracy is not None
    assert found.balanced_accuracy.n == 12


def test_the_ends_of_what_can_be_judged() -> None:
    found = attack_result(np.array([1.0]), np.array([0.0]), seed=0)
    assert (found.auc.value, found.auc.low) == (1, 0)
    assert found.tpr_at_1pct.low == 0
    assert found.balanced_accuracy is None
    apart = attack_result(np.full(20, math.inf), np.zeros(20), seed=0)
    assert apart.balanced_accuracy is not None
    assert apart.balanced_accuracy.value == apart.tpr_at_1pct.value == 1
    # Ten records of each side are judged.
    assert apart.balanced_accuracy.low == pytest.approx(1 - (1 - stats.beta.ppf(0.025, 10, 1)) / math.sqrt(2))
    same = attack_result(np.zeros(20), np.zeros(20), seed=0)
    assert same.balanced_accuracy is not None
    assert (same.auc.value, same.balanced_accuracy.value, same.tpr_at_1pct.value) == (0.5, 0.5, 0)


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(1, 1, 60), rng.normal(0, 1, 60)
    assert attack_result(forget, holdout, seed=3) == attack_result(forget, holdout, seed=3)
    assert attack_result(forget, holdout, seed=3) != attack_result(forget, holdout, seed=4)


def test_scores_that_cannot_be_judged() -> None:
    with pytest.raises(InputError, match="at least one record to forget and one held-out record"):
        attack_result(np.array([]), np.array([1.0]), seed=0)
    with pytest.raises(InputError, match="1 of 4 attack scores are not a number"):
        attack_result(np.array([1.0, math.nan]), np.array([0.0, 2.0]), seed=0)


def test_the_scores_of_one_model() -> None:
    scored, base = pa.table({"loss": [2.0, 0.5], "zlib": [40, 10]}), pa.table({"loss": [3.0, 0.4]})
    found = attack_scores({"forget": scored, "holdout": scored}, {"forget": base, "holdout": base})
    assert found is not None
    for scores in (found.forget, found.holdout):
        assert scores["loss"] == pytest.approx([-2.0, -0.5])
        assert scores["zlib"] == pytest.approx([-0.05, -0.05])
        assert scores["reference"] == pytest.approx([1.0, -0.1])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_logit_of_a_loss(seed: int) -> None:
    loss = np.random.default_rng(seed).exponential(2, 20) + 1e-3
    expected = [math.log(math.exp(-x) / (1 - math.exp(-x))) for x in loss]
    assert logit_confidence(loss) == pytest.approx(expected)


def test_the_logit_of_a_loss_of_zero_is_a_number() -> None:
    assert logit_confidence(np.array([0.0, 1e-9, 900.0])) == pytest.approx([15.942385, 15.942385, -900.0])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("models", [3, 64])
def test_lira_against_its_formula(models: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outside, judged = rng.normal(0, rng.uniform(0.5, 2, 5), (models, 5)), rng.normal(0.5, 1, 5)
    own = [sum((x - sum(c) / len(c)) ** 2 for x in c) / (len(c) - 1) for c in outside.T.tolist()]
    variances = own if models >= 64 else [sum(own) / 5] * 5
    found = lira_scores(judged, outside)
    for i, c in enumerate(judged):
        # 1 - P[Z > c], as the paper has it
        beyond = 0.5 * math.erfc((c - outside[:, i].mean()) / math.sqrt(2 * variances[i]))
        assert stats.norm.cdf(found[i]) == pytest.approx(1 - beyond)


def test_lira_where_the_references_agree() -> None:
    outside = np.zeros((64, 3))
    assert lira_scores(np.array([1.0, 0.0, -1.0]), outside) == pytest.approx([1, 0, -1])
    outside[:, 0] = np.linspace(-1, 1, 64)
    assert np.isfinite(lira_scores(np.array([1.0, 0.0, -1.0]), outside)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_rmia_against_its_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss, population = rng.exponential(1, 6), rng.exponential(1, 9)
    outside, of_population = rng.exponential(1, (2, 6)), rng.exponential(1, (2, 9))
    found = rmia_scores(loss, population, outside, of_population)
    for i in range(6):
        p_x = (1.3 * sum(math.exp(-x) for x in outside[:, i]) / 2 + 0.7) / 2
        beaten = 0
        for j in range(9):
            p_z = (1.3 * sum(math.exp(-x) for x in of_population[:, j]) / 2 + 0.7) / 2
            beaten += (math.exp(-loss[i]) / p_x) / (math.exp(-population[j]) / p_z) > 1
        assert found[i] == pytest.approx(beaten / 9)


def test_rmia_counts_only_what_is_beaten() -> None:
    loss, outside = np.array([1.0]), np.array([[2.0]])
    assert rmia_scores(loss, loss, outside, outside) == [0]
    assert rmia_scores(loss, loss + 0.01, outside, outside) == [1]


def test_references_see_what_the_loss_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members lose half a nat, and records differ by three: only attacks that know each record's difficulty see it."""
    monkeypatch.setattr("hf_unlearn.evaluation.membership.A", 1.0)
    rng = np.random.default_rng(0)
    difficulty = rng.gamma(4, 0.75, 600)
    member = np.arange(600) < 200
    population = np.arange(600) >= 400
    judged = ~population

    def model(knows: np.ndarray) -> np.ndarray:
        return difficulty * np.exp(rng.normal(0, 0.05, 600)) * np.where(knows, 0.8, 1.0)

    loss, outside = model(member), np.stack([model(np.zeros(600, dtype=bool)) for _ in range(8)])
    scores = {
        "loss": -loss,
        "calibrated": outside.mean(0) - loss,
        "lira": lira_scores(logit_confidence(loss), logit_confidence(outside)),
    }
    scores["rmia"] = np.zeros(600)
    scores["rmia"][judged] = rmia_scores(loss[judged], loss[population], outside[:, judged], outside[:, population])
    auc = {
        name: attack_result(values[member], values[judged & ~member], seed=0).auc for name, values in scores.items()
    }
    assert auc["loss"].value < 0.7
    assert all(auc[name].low > 0.9 for name in ("calibrated", "lira", "rmia"))
