"""Estimates and intervals, against their formulas and against other implementations."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.statistics import mean_loss, membership_auc, membership_gap, rate, smallest_margin

SEEDS = range(100)


@pytest.mark.parametrize("seed", SEEDS)
def test_auc_and_delong_against_other_implementations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(5, 60, 2)
    forget, holdout = rng.normal(0, 1, m).round(1), rng.normal(rng.uniform(-1, 1), 1, n).round(1)
    found = membership_auc(forget, holdout)
    truth = np.concatenate([np.ones(m), np.zeros(n)])
    assert found.value == pytest.approx(roc_auc_score(truth, -np.concatenate([forget, holdout])))
    # DeLong et al. 1988, equations 3 to 6, written out pair by pair
    psi = (forget[:, None] < holdout[None, :]) + 0.5 * (forget[:, None] == holdout[None, :])
    v10, v01 = psi.mean(1), psi.mean(0)
    error = math.sqrt(v10.var(ddof=1) / m + v01.var(ddof=1) / n)
    assert found.low == pytest.approx(max(psi.mean() - 1.959963984540054 * error, 0))
    assert found.high == pytest.approx(min(psi.mean() + 1.959963984540054 * error, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gap_is_delongs_paired_difference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(5, 40, 2)
    skill_forget, skill_holdout = rng.normal(0, 1, m), rng.normal(0.5, 1, n)
    models = [(skill_forget + rng.normal(0, 1, m), skill_holdout + rng.normal(0, 1, n)) for _ in range(2)]
    found = membership_gap(*models[0], reference=models[1], confidence=0.90)
    psi = [(f[:, None] < h[None, :]) + 0.5 * (f[:, None] == h[None, :]) for f, h in models]
    s10 = np.cov([p.mean(1) for p in psi])
    s01 = np.cov([p.mean(0) for p in psi])
    contrast = np.array([1, -1])
    error = math.sqrt(contrast @ (s10 / m + s01 / n) @ contrast)
    assert found.value == pytest.approx(psi[0].mean() - psi[1].mean())
    assert found.high - found.value == pytest.approx(1.6448536269514722 * error)


def test_the_intervals_of_the_auc_cover() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.5 / math.sqrt(2))
    hits = 0
    for _ in range(1000):
        found = membership_auc(rng.normal(0, 1, 40), rng.normal(0.5, 1, 40))
        hits += found.low <= truth <= found.high
    assert 0.925 <= hits / 1000 <= 0.975


def test_sets_that_do_not_overlap_have_an_exact_interval() -> None:
    found = membership_auc(np.zeros(20), np.ones(30))
    assert found.value == 1
    assert found.high == 1
    # 20 independent pairs, all right: Clopper and Pearson's lower limit
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 20, 1))
    assert membership_auc(np.ones(20), np.zeros(30)).high == pytest.approx(stats.beta.ppf(0.975, 1, 20))
    gap = membership_gap(np.zeros(20), np.ones(30), (np.zeros(20), np.ones(30)))
    assert gap.value == 0
    assert gap.low == pytest.approx(-(1 - stats.beta.ppf(0.025, 20, 1)))


def test_one_record_tells_nothing() -> None:
    found = membership_auc(np.array([0.1]), np.array([0.2, 0.3]))
    assert found.low < 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_rates_against_the_beta_quantiles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    k = int(rng.integers(0, n + 1))
    found = rate(k, n)
    assert found.value == k / n
    assert found.low == pytest.approx(stats.beta.ppf(0.025, k, n - k + 1) if k else 0, abs=1e-9)
    assert found.high == pytest.approx(stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_token_a_record_gives_the_t_interval_of_a_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.exponential(1, int(rng.integers(2, 80)))
    found = mean_loss(losses, np.ones(len(losses)))
    low, high = stats.t.interval(0.95, len(losses) - 1, losses.mean(), stats.sem(losses))
    assert (found.value, found.low, found.high) == pytest.approx((losses.mean(), low, high))


def test_records_of_unequal_length_against_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 60, 400)
    nll = tokens * rng.gamma(4, 0.5, 400)
    found = mean_loss(nll, tokens)
    assert found.value == pytest.approx(nll.sum() / tokens.sum())
    draws = [(nll[i].sum() / tokens[i].sum()) for i in (rng.integers(0, 400, 400) for _ in range(4000))]
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.low == pytest.approx(low, rel=0.01)
    assert found.high == pytest.approx(high, rel=0.01)


def test_a_single_record_has_no_interval() -> None:
    assert mean_loss(np.array([2.0]), np.array([4])).low == 0.5


@pytest.mark.parametrize(("records", "margin"), [(40, 0.21), (181, 0.10), (723, 0.05)])
def test_the_smallest_margins_that_are_promised(records: int, margin: float) -> None:
    assert smallest_margin(records, records) == pytest.approx(margin, abs=0.005)


def test_the_smallest_margin_has_the_power_it_says() -> None:
    rng = np.random.default_rng(1)
    margin = smallest_margin(100, 100)
    confirmed = 0
    for _ in range(1000):
        gap = membership_auc(rng.normal(0, 1, 100), rng.normal(0, 1, 100), confidence=0.90)
        confirmed += 0.5 - margin < gap.low and gap.high < 0.5 + margin
    assert 0.86 <= confirmed / 1000 <= 0.94
