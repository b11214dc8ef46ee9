"""Estimates and intervals, against their formulas and against other implementations."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hf_unlearn.evaluation.statistics import (
    Groups,
    bootstrap,
    clustered_mean,
    distances_from_middle,
    equivalent,
    folds,
    mean_loss,
    membership_auc,
    rate,
    separation,
    smallest_margin,
)

from ..support.draws import seeds

SEEDS = seeds()


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
    measured = separation(*models[0], [models[1]])
    psi = [(f[:, None] < h[None, :]) + 0.5 * (f[:, None] == h[None, :]) for f, h in models]
    s10 = np.cov([p.mean(1) for p in psi])
    s01 = np.cov([p.mean(0) for p in psi])
    contrast = np.array([1, -1])
    error = math.sqrt(contrast @ (s10 / m + s01 / n) @ contrast)
    value = psi[0].mean() - psi[1].mean()
    for confidence, quantile in ((0.90, 1.6448536269514722), (0.95, 1.959963984540054), (0.99, 2.5758293035489004)):
        found = measured.interval(confidence)
        assert found.value == pytest.approx(value)
        assert found.low == pytest.approx(max(value - quantile * error, -1))
        assert found.high == pytest.approx(min(value + quantile * error, 1))


def test_the_intervals_of_the_auc_cover() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.5 / math.sqrt(2))
    hits = 0
    for _ in range(1000):
        found = membership_auc(rng.normal(0, 1, 40), rng.normal(0.5, 1, 40))
        hits += found.low <= truth <= found.high
    assert 0.925 <= hits / 1000 <= 0.975


@pytest.mark.parametrize(("of_forget", "of_holdout"), [(2, 20), (3, 100), (10, 10), (20, 20)])
def test_the_intervals_of_few_groups_cover(of_forget: int, of_holdout: int) -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(of_forget), 10), 1000 + np.repeat(np.arange(of_holdout), 10)
    hits = 0
    for _ in range(400):
        forget, holdout = (
            np.repeat(rng.normal(0, 0.5, k), 10) + rng.normal(0, 0.9, k * 10) for k in (of_forget, of_holdout)
        )
        found = membership_auc(forget, holdout, groups=groups)
        hits += found.low <= 0.5 <= found.high
    assert hits / 400 >= 0.93


def test_the_gap_to_several_references_is_that_to_their_mean() -> None:
    rng = np.random.default_rng(0)
    models = [(rng.normal(0, 1, 30), rng.normal(0.5, 1, 40)) for _ in range(4)]
    aucs = [membership_auc(*model).value for model in models]
    assert separation(*models[0], models[1:]).value == pytest.approx(aucs[0] - np.mean(aucs[1:]))
    # more of them agree better with their mean
    few, many = (separation(*models[0], [models[1]] * times).interval() for times in (1, 3))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_a_wider_set_lies_farther_from_the_middle() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(0, 1.3, 200), rng.normal(0, 1, 200)
    own, other = distances_from_middle(forget, holdout)
    # scipy's statistic adds up the ranks counted from both ends
    assert stats.ansari(forget, holdout).statistic == pytest.approx((401 / 2 - own).sum())
    assert membership_auc(-own, -other).low > 0.5


def test_sets_that_do_not_overlap_have_an_exact_interval() -> None:
    found = membership_auc(np.zeros(20), np.ones(30))
    assert found.value == 1
    assert found.high == 1
    # 20 independent pairs, all right: Clopper and Pearson's lower limit
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 20, 1))
    assert membership_auc(np.ones(20), np.zeros(30)).high == pytest.approx(stats.beta.ppf(0.975, 1, 20))
    gap = separation(np.zeros(20), np.ones(30), [(np.zeros(20), np.ones(30))]).interval()
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


def grouped(rng: np.random.Generator, groups: int, records: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Values whose variance is four fifths between groups, and the group of each."""
    values = shift + rng.normal(0, 1, (groups, 1)) + rng.normal(0, 0.5, (groups, records))
    return values.ravel(), np.repeat(np.arange(groups), records)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_auc_of_groups_against_obuchowskis_sums(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(10, 50, 2)
    forget, holdout = rng.normal(0, 1, m).round(1), rng.normal(0.4, 1, n).round(1)
    # Some groups are on both sides.
    groups = rng.choice(list("abcdefgh"), m), rng.choice(list("efghijkl"), n)
    value = sum((x < y) + 0.5 * (x == y) for x in forget for y in holdout) / (m * n)
    v10 = [sum((x < y) + 0.5 * (x == y) for y in holdout) / n for x in forget]
    v01 = [sum((x < y) + 0.5 * (x == y) for x in forget) / m for y in holdout]
    sums = {
        name: (
            sum(v - value for v, g in zip(v10, groups[0], strict=True) if g == name),
            sum(v - value for v, g in zip(v01, groups[1], strict=True) if g == name),
        )
        for name in {*groups[0], *groups[1]}
    }
    i10, i01, i = len(set(groups[0])), len(set(groups[1])), len(sums)
    s10 = i10 / ((i10 - 1) * m) * sum(x**2 for x, _ in sums.values())
    s01 = i01 / ((i01 - 1) * n) * sum(y**2 for _, y in sums.values())
    s11 = i / (i - 1) * sum(x * y for x, y in sums.values())
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    freedom = (s10 / m + s01 / n) ** 2 / ((s10 / m) ** 2 / (i10 - 1) + (s01 / n) ** 2 / (i01 - 1))
    # groups that all vary alike
    alike = (1 / i10 + 1 / i01) ** 2 / (1 / (i10**2 * (i10 - 1)) + 1 / (i01**2 * (i01 - 1)))
    measured = separation(forget, holdout, groups=groups)
    for confidence in (0.90, 0.95, 0.99):
        half = stats.t.ppf((1 + confidence) / 2, min(freedom, alike, i - 1)) * math.sqrt(variance)
        found = measured.interval(confidence)
        assert found == membership_auc(forget, holdout, confidence, groups)
        assert found.value == pytest.approx(value)
        assert found.low == pytest.approx(max(value - half, 0))
        assert found.high == pytest.approx(min(value + half, 1))
        assert found.n == i


def test_groups_of_one_record_give_delongs_error() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(0, 1, 4000), rng.normal(0.5, 1, 4000)
    plain = membership_auc(forget, holdout)
    # So many degrees of freedom make Student's quantile the normal one.
    found = membership_auc(forget, holdout, groups=(np.arange(4000), np.arange(4000, 8000)))
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (plain.value, plain.low, plain.high, 8000), abs=1e-5
    )


@pytest.mark.slow
def test_the_intervals_of_groups_cover_and_those_of_their_records_do_not() -> None:
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.5 / math.sqrt(2.5))
    covered = {"groups": 0, "records": 0}
    for _ in range(500):
        (forget, of_forget), (holdout, of_holdout) = grouped(rng, 30, 10), grouped(rng, 30, 10, 0.5)
        for unit, groups in (("groups", (of_forget, of_holdout + 30)), ("records", None)):
            found = membership_auc(forget, holdout, groups=groups)
            covered[unit] += found.low <= truth <= found.high
    # The Monte Carlo error of 95 % is 1 %.
    assert 0.92 <= covered["groups"] / 500 <= 0.98
    assert covered["records"] / 500 < 0.7


def test_groups_on_both_sides_move_both_shares() -> None:
    rng = np.random.default_rng(0)
    covered = {"shared": 0, "apart": 0}
    for _ in range(500):
        forget, names = grouped(rng, 30, 10)
        # What raises a group in S lowers it in H, so that the sides move apart; both have the mean 0.
        holdout = -forget.reshape(30, 10).mean(1).repeat(10) + rng.normal(0, 0.5, 300)
        for name, groups in (("shared", (names, names)), ("apart", (names, names + 30))):
            found = membership_auc(forget, holdout, groups=groups)
            covered[name] += found.low <= 0.5 <= found.high
    assert 0.92 <= covered["shared"] / 500 <= 0.98
    assert covered["apart"] / 500 < 0.9


def test_one_group_tells_nothing() -> None:
    groups = np.zeros(20), np.arange(1, 21)
    found = membership_auc(np.zeros(20), np.ones(20), groups=groups)
    assert (found.low, found.high) == (0, 1)


def test_groups_that_do_not_overlap_are_the_independent_pairs() -> None:
    groups = np.repeat(np.arange(8), 50), np.repeat(np.arange(8, 18), 50)
    found = membership_auc(np.zeros(400), np.ones(500), groups=groups)
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 8, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_equivalence_against_two_one_sided_tests(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(rng.uniform(-0.5, 0.5), 1, rng.integers(5, 60))
    found = mean_loss(values, np.ones(len(values)), 0.90)
    margin, center = rng.uniform(0.1, 1), rng.uniform(-0.2, 0.2)
    below = stats.ttest_1samp(values, center - margin, alternative="greater").pvalue
    above = stats.ttest_1samp(values, center + margin, alternative="less").pvalue
    assert equivalent(found, margin, center) == (max(below, above) < 0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_of_one_size_against_the_test_on_their_means(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, groups = grouped(rng, 7, 4)
    means = values.reshape(7, 4).mean(1)
    found = clustered_mean(values, groups)
    low, high = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert (found.value, found.low, found.high, found.n) == pytest.approx((values.mean(), low, high, 7))


def difference(forget: np.ndarray, holdout: np.ndarray) -> float:
    return float(forget.mean() - holdout.mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bootstrap_against_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    forget, holdout = rng.exponential(1, rng.integers(8, 40)), rng.exponential(1, rng.integers(8, 40))
    found = bootstrap(difference, forget, holdout, seed=seed)
    other = stats.bootstrap(
        (forget, holdout),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        method="percentile",
        n_resamples=4000,
        rng=seed,
    )
    assert found.value == difference(forget, holdout)
    # The ends of 1,000 draws are known to about 0.1 standard errors, more where the distribution leans.
    assert found.low == pytest.approx(other.confidence_interval.low, abs=0.5 * other.standard_error)
    assert found.high == pytest.approx(other.confidence_interval.high, abs=0.5 * other.standard_error)
    assert found == bootstrap(difference, forget, holdout, seed=seed)


@pytest.mark.parametrize("shared", [False, True])
def test_the_bootstrap_of_groups_against_the_closed_form(shared: bool) -> None:
    rng = np.random.default_rng(0)
    forget, names = grouped(rng, 40, 5)
    holdout = forget + 0.3 if shared else grouped(rng, 40, 5)[0]
    groups: Groups = (names, names + (0 if shared else 40))
    found = bootstrap(difference, forget, holdout, groups, seed=0)
    # Of groups of one size; where S and H share them the difference is always 0.3.
    means = forget.reshape(40, 5).mean(1), holdout.reshape(40, 5).mean(1)
    low, high = (0.0, 0.0) if shared else stats.ttest_ind(*means, equal_var=False).confidence_interval()
    assert found.n == (40 if shared else 80)
    assert found.high - found.low == pytest.approx(high - low, rel=0.12, abs=1e-9)


def test_each_draw_of_the_bootstrap_has_as_many_groups_of_each_kind() -> None:
    groups: Groups = np.arange(8).repeat(3), np.arange(5, 20).repeat(3)
    for side in (0, 1):
        found = bootstrap(lambda *values, side=side: len(values[side]), np.zeros(24), np.zeros(45), groups, seed=0)
        assert found.low == found.high == found.value


@pytest.mark.parametrize("seed", SEEDS)
def test_folds_hold_whole_groups_of_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.choice(list("abcdef"), 30), rng.choice(list("defghijk"), 40)
    k = int(rng.integers(2, 7))
    dealt = folds(30, 40, groups, k, seed)
    assert dealt is not None
    parts: dict[str, set[int]] = {}
    for names, part in zip(groups, dealt, strict=True):
        assert set(part) == set(range(min(k, len(set(groups[0])), len(set(groups[1])))))
        for name, number in zip(names, part, strict=True):
            parts.setdefault(name, set()).add(number)
    assert all(len(numbers) == 1 for numbers in parts.values())
    again = folds(30, 40, groups, k, seed)
    assert again is not None
    assert np.array_equal(dealt[0], again[0])


def test_one_record_cannot_be_dealt() -> None:
    assert folds(1, 40, None, 2, 0) is None
    assert folds(3, 40, (np.zeros(3), np.arange(1, 41)), 2, 0) is None
