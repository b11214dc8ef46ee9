"""Bounds of epsilon, the challenge's F and U-LiRA, against published numbers and formulas written out in full."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_unlearn import InputError
from hf_unlearn.evaluation.closeness.challenge import challenge_epsilons, qualities
from hf_unlearn.evaluation.closeness.epsilon import (
    ceiling,
    confidence_limits,
    example_bounds,
    halves,
    models_needed,
    pooled_bound,
)
from hf_unlearn.evaluation.closeness.ulira import unlearning_lira

COMMON: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None, "max_examples": 50}


def arms(n_u: int, n_r: int, examples: int, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n_u, examples)), rng.normal(0, 1, (n_r, examples))


# Before any model is trained


def test_ceiling_and_models_needed_are_the_known_ones() -> None:
    n = np.array([8, 16, 32, 64, 128, 256, 512, 1000, 5000])
    assert ceiling(n, n).round(2) == pytest.approx([0.53, 1.35, 2.10, 2.82, 3.53, 4.23, 4.93, 5.60, 7.21], abs=0.011)
    assert [models_needed(epsilon) for epsilon in (1, 2, 3, 5)] == [12, 30, 76, 550]


@given(st.floats(0.01, 12), st.floats(0, 0.1), st.floats(0.001, 0.5))
@settings(**COMMON)
def test_models_needed_are_enough_and_one_less_is_not(epsilon: float, delta: float, alpha: float) -> None:
    n = models_needed(epsilon, alpha, delta)
    assert ceiling(n, n, alpha, delta) > epsilon - 1e-9
    assert n == 1 or ceiling(n - 1, n - 1, alpha, delta) <= epsilon + 1e-9


@pytest.mark.parametrize(("n_u", "n_r"), [(5, 5), (7, 30), (64, 16)])
def test_ceiling_is_what_an_attack_without_a_mistake_proves(n_u: int, n_r: int) -> None:
    proven, high = confidence_limits(n_u, n_u, 0, n_r)
    assert ceiling(n_u, n_r) == pytest.approx(proven, rel=1e-12)
    assert high == np.inf


# From counts to bounds


def test_confidence_limits_are_the_known_ones() -> None:
    assert np.array(confidence_limits(450, 500, 50, 500)) == pytest.approx([1.9035, 2.5103], abs=5e-5)
    assert np.array(confidence_limits(256, 512, 10, 512)) == pytest.approx([2.5490, 4.0580], abs=5e-5)
    for n, expected in {64: 0.52, 128: 0.36, 256: 0.25, 512: 0.18, 1000: 0.13, 2000: 0.09}.items():
        low, high = confidence_limits(n // 2, n, n // 2, n)
        assert low == 0
        assert high == pytest.approx(expected, abs=0.006)


@given(st.integers(2, 60), st.integers(2, 60), st.data())
@settings(**COMMON)
def test_confidence_limits_follow_the_formula(n_u: int, n_r: int, data: st.DataObject) -> None:
    k_u, k_r = data.draw(st.integers(0, n_u)), data.draw(st.integers(0, n_r))
    alpha, delta = data.draw(st.sampled_from([0.01, 0.05, 0.2])), data.draw(st.sampled_from([0.0, 1e-5, 0.1]))

    def limits(k: int, n: int) -> tuple[float, float]:
        interval = stats.binomtest(k, n).proportion_ci(1 - alpha, method="exact")
        return float(interval.low), float(interval.high)

    def log_ratio(larger: float, smaller: float) -> float:
        return -math.inf if larger <= delta else math.inf if smaller == 0 else math.log((larger - delta) / smaller)

    (p, p_up), (q, q_up) = limits(k_u, n_u), limits(k_r, n_r)
    (not_p, not_p_up), (not_q, not_q_up) = limits(n_u - k_u, n_u), limits(n_r - k_r, n_r)
    low = max(0.0, log_ratio(p, q_up), log_ratio(not_q, not_p_up))
    high = max(0.0, log_ratio(p_up, q), log_ratio(q_up, p), log_ratio(not_p_up, not_q), log_ratio(not_q_up, not_p))
    assert np.array(confidence_limits(k_u, n_u, k_r, n_r, alpha, delta)) == pytest.approx([low, high], rel=1e-8)
    # The arms and the sides swapped are the same attack.
    swapped = confidence_limits(n_r - k_r, n_r, n_u - k_u, n_u, alpha, delta)
    assert np.array(swapped) == pytest.approx([low, high], rel=1e-8)
    assert confidence_limits(k_u, n_u, k_r, n_r, alpha, delta + 0.05)[0] <= low


# From scores to bounds


def test_the_halves_are_all_models_and_nothing_of_the_test_chooses_the_attack() -> None:
    calibrate, test = halves(9, seed=1)
    assert (len(calibrate), len(test)) == (4, 5)
    assert sorted([*calibrate, *test]) == list(range(9))
    unlearned, retrained = arms(9, 9, 5, shift=1.0)
    chosen = example_bounds(unlearned, retrained, seed=1)
    pooled = pooled_bound(unlearned, retrained, seed=1)
    unlearned[test], retrained[test] = -unlearned[test], 7 * retrained[test]
    again = example_bounds(unlearned, retrained, seed=1)
    assert np.array_equal(chosen.threshold, again.threshold)
    assert np.array_equal(chosen.above, again.above)
    assert chosen.witness == again.witness
    assert pooled.threshold == pooled_bound(unlearned, retrained, seed=1).threshold


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(2, 12))
@settings(**{**COMMON, "max_examples": 15})
def test_the_threshold_is_the_best_one_on_the_calibration(seed: int, n_u: int, n_r: int) -> None:
    rng = np.random.default_rng(seed)
    # With ties.
    unlearned, retrained = rng.integers(0, 6, (n_u, 3)) + 2.0, rng.integers(0, 9, (n_r, 3)) * 1.0
    bounds = example_bounds(unlearned, retrained, delta=0.0, seed=seed)
    (cal_u, test_u), (cal_r, test_r) = halves(n_u, seed), halves(n_r, seed)
    for j in range(3):

        def proven(threshold: float, above: bool, u: np.ndarray, r: np.ndarray) -> float:
            hits = [(x >= threshold if above else x < threshold).sum() for x in (u, r)]
            low, q_up = (_one_sided(hits[0], len(u))[0], _one_sided(hits[1], len(r))[1])
            q_low, p_up = _one_sided(len(r) - hits[1], len(r))[0], _one_sided(len(u) - hits[0], len(u))[1]
            with np.errstate(divide="ignore"):
                return float(max(np.log(low) - np.log(q_up), np.log(q_low) - np.log(p_up)))

        u, r = unlearned[cal_u, j], retrained[cal_r, j]
        values = np.unique(np.concatenate([u, r]))
        best = max((proven(t, a, u, r) for t in values[1:] for a in (True, False)), default=-np.inf)
        if len(values) > 1:
            assert proven(bounds.threshold[j], bool(bounds.above[j]), u, r) == pytest.approx(best, rel=1e-9)
        judged = proven(bounds.threshold[j], bool(bounds.above[j]), unlearned[test_u, j], retrained[test_r, j])
        assert bounds.epsilon[j] == pytest.approx(max(judged, 0), rel=1e-9)


def _one_sided(k: int, n: int) -> tuple[float, float]:
    interval = stats.binomtest(int(k), n).proportion_ci(0.95, method="exact")
    return float(interval.low), float(interval.high)


@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(-2, 2))
@settings(**COMMON)
def test_swapping_the_arms_changes_no_bound(seed: int, n: int, shift: float) -> None:
    unlearned, retrained = arms(n, n, 4, shift, seed)
    one, other = example_bounds(unlearned, retrained), example_bounds(retrained, unlearned)
    assert one.epsilon == pytest.approx(other.epsilon, rel=1e-9)
    assert np.array_equal(one.above, ~other.above)
    assert one.witness == other.witness
    pooled = pooled_bound(unlearned, retrained), pooled_bound(retrained, unlearned)
    assert pooled[0].epsilon == pytest.approx(pooled[1].epsilon, rel=1e-9)


@given(st.integers(0, 10_000), st.floats(0, 0.3), st.floats(0, 0.3))
@settings(**COMMON)
def test_a_larger_delta_or_alpha_moves_the_bound_the_right_way(seed: int, delta: float, more: float) -> None:
    counts = np.random.default_rng(seed).integers(0, 41, (2, 100))
    low, high = confidence_limits(counts[0], 40, counts[1], 40, 0.05, delta)
    lower, less_high = confidence_limits(counts[0], 40, counts[1], 40, 0.05, delta + more)
    assert (lower <= low).all()
    assert (less_high <= high).all()
    assert (confidence_limits(counts[0], 40, counts[1], 40, 0.05 + more, delta)[0] >= low).all()
    assert (low <= high).all()


def test_the_bound_is_above_the_true_epsilon_no_more_often_than_alpha() -> None:
    # Scores are 1 with rate .8 and .2, so epsilon is log 4 and every threshold between finds it.
    rng, alpha, true = np.random.default_rng(0), 0.1, math.log(4)
    unlearned, retrained = (rng.random((120, 4000)) < rate for rate in (0.8, 0.2))
    bounds = example_bounds(unlearned, retrained, alpha=alpha, delta=0.0)
    too_large = (bounds.epsilon > true).mean()
    assert 0.005 < too_large <= alpha
    assert bounds.epsilon.mean() > 0.6 * true


def test_without_a_difference_hardly_anything_is_proven() -> None:
    unlearned, retrained = arms(64, 64, 4000)
    assert (example_bounds(unlearned, retrained, alpha=0.05).epsilon > 0).mean() <= 0.05
    proven = [pooled_bound(*arms(16, 16, 200, seed=seed)).epsilon > 0 for seed in range(100)]
    assert np.mean(proven) <= 0.05


def test_all_examples_together_prove_what_single_ones_do_not() -> None:
    unlearned, retrained = arms(32, 32, 400, shift=0.5)
    bounds = example_bounds(unlearned, retrained)
    pooled = pooled_bound(unlearned, retrained)
    assert pooled.epsilon > 1
    assert pooled.epsilon > bounds.bound(bounds.witness).epsilon
    assert pooled.example is None


def test_a_bound_says_how_it_came_about() -> None:
    unlearned, retrained = arms(16, 20, 3)
    unlearned[:, 1] -= 30
    bounds = example_bounds(unlearned, retrained, alpha=0.05, delta=0.0)
    bound = bounds.bound(bounds.witness)
    assert (bound.example, bound.above) == (1, False)
    assert -29 < bound.threshold < -2
    assert (bound.hits_unlearned, bound.n_unlearned, bound.hits_retrained, bound.n_retrained) == (8, 8, 0, 10)
    assert bound.calibrated_on == (8, 10)
    assert bound.epsilon == pytest.approx(bound.ceiling) == pytest.approx(float(ceiling(8, 10, 0.05, 0.0)))
    assert bound.attack_high is None


def test_of_many_examples_that_separate_by_chance_the_one_that_differs_most_is_the_witness() -> None:
    unlearned, retrained = arms(4, 4, 500)
    unlearned[:, 77] += 10
    # Two models of each arm choose; a third of the examples separate those.
    assert example_bounds(unlearned, retrained).witness == 77


def test_scores_that_are_all_the_same_prove_nothing() -> None:
    same = np.ones((8, 3))
    assert example_bounds(same, same).epsilon.tolist() == [0, 0, 0]
    assert pooled_bound(same, same).epsilon == 0
    # Constant in each arm, they prove all that there is.
    assert pooled_bound(same, same + 1).epsilon == pytest.approx(float(ceiling(4, 4)))


def test_where_delta_allows_everything_nothing_is_proven() -> None:
    unlearned, retrained = arms(4, 4, 3, shift=9)
    bounds = example_bounds(unlearned, retrained, delta=0.5)
    assert bounds.epsilon.tolist() == [0, 0, 0]
    # Where all cuts prove the same the means tell the side.
    assert bounds.above.all()
    assert not example_bounds(retrained, unlearned, delta=0.5).above.any()


def test_every_example_is_attacked_whatever_their_number() -> None:
    unlearned, retrained = arms(8, 8, 2500, shift=1)
    together = example_bounds(unlearned, retrained)
    alone = example_bounds(unlearned[:, 2400:2401], retrained[:, 2400:2401])
    assert together.epsilon[2400] == alone.epsilon[0]
    assert together.threshold[2400] == alone.threshold[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlearned": np.ones((4, 3))}, r"shapes \(4, 3\) and \(4, 2\)"),
        ({"unlearned": np.ones(4)}, r"shapes \(4,\) and \(4, 2\)"),
        ({"unlearned": np.ones((1, 2))}, "There are 1 unlearned and 4 retrained models"),
        ({"unlearned": np.full((4, 2), np.nan)}, "infinite or no numbers"),
        ({"retrained": np.full((4, 2), -np.inf)}, "infinite or no numbers"),
        ({"delta": 1.0}, "delta=1.0 is not possible"),
        ({"alpha": 0.0}, "alpha=0.0 is not possible"),
    ],
)
def test_scores_and_settings_that_cannot_be_used_are_refused(change: dict[str, Any], message: str) -> None:
    values = {"unlearned": np.ones((4, 2)), "retrained": np.ones((4, 2)), **change}
    for function in (example_bounds, pooled_bound):
        with pytest.raises(InputError, match=message):
            function(**values)


# The challenge's F


def seeded_input() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    retrained = rng.normal(0, 1, (64, 4))
    return rng.normal([0, 0.5, 1, 3], [1, 1, 0.5, 1], (64, 4)), retrained


def test_forgetting_quality_is_the_known_one() -> None:
    epsilons = challenge_epsilons(*seeded_input())
    assert epsilons == pytest.approx([1.0983987, 2.1971533, 3.4339666, 3.931813], abs=1e-6)
    assert qualities(epsilons, 64).mean() == 0.083984375


@pytest.mark.parametrize(("n", "expected"), [(16, 0.165), (64, 0.188), (512, 0.184), (1024, 0.189)])
def test_the_forgetting_quality_of_equal_models_is_the_known_one(n: int, expected: float) -> None:
    epsilons = challenge_epsilons(*np.random.default_rng(3).normal(size=(2, n, 500)))
    assert qualities(epsilons, n).mean() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("n", "scale"), [(5, 1.0), (30, 1.0), (30, 0.02)])
def test_challenge_epsilons_are_those_of_all_thresholds_one_by_one(n: int, scale: float) -> None:
    rng = np.random.default_rng(n)
    shift, spread = rng.uniform(-2, 2, 8), rng.uniform(0.3, 2, 8)
    unlearned, retrained = scale * rng.normal(shift, spread, (n, 8)), scale * rng.normal(0, 1, (n, 8))
    expected = [_one_by_one(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    assert challenge_epsilons(unlearned, retrained) == pytest.approx(expected, abs=1e-9)


def _one_by_one(unlearned: np.ndarray, retrained: np.ndarray, delta: float = 1e-5) -> float:
    """The challenge's estimate as its description says, all attacks tried."""

    def shown(hit: np.ndarray, alarm: np.ndarray) -> float:
        false_positive, false_negative = alarm.mean(1), 1 - hit.mean(1)
        found = 0.0
        for one, other in zip(false_positive, false_negative, strict=True):
            if one == other == 0:
                return math.inf
            if one == 0 or other == 0:
                continue
            for x, y in ((one, other), (other, one)):
                if 1 - delta > x:
                    found = max(found, math.log(1 - delta - x) - math.log(y))
        return found

    high, low = unlearned, retrained
    if np.median(unlearned) < np.median(retrained):
        high, low = retrained, unlearned
    scores = np.concatenate([high, low])
    thresholds = np.linspace(scores.min(), scores.max(), math.ceil(100 * np.ptp(scores)))[:, None]
    best = shown(high >= thresholds, low >= thresholds)
    inner, outer = (unlearned, retrained) if np.ptp(unlearned) <= np.ptp(retrained) else (retrained, unlearned)
    width = np.ptp(inner)
    for right in np.linspace(inner.min() + width - 2, inner.max() + 2, 400):
        left = np.linspace(right - width - 2, right - width + 2, 400)[:, None]
        # One of them is the lowest score itself, but for rounding.
        left[np.abs(left - inner.min()) < 1e-12] = inner.min()
        best = max(best, shown(*((left <= arm) & (arm <= right) for arm in (inner, outer))))
    return min(best, 50.0)


def test_challenge_epsilons_at_the_edges() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(0, 1e-3, (32, 1)), rng.normal(0, 1, (32, 1))
    assert challenge_epsilons(narrow, wide) == 50
    assert challenge_epsilons(wide, wide + 20) == 50
    same = np.ones((32, 1))
    assert challenge_epsilons(same, same) == 0
    assert challenge_epsilons(same, same + 1e-4) == 50
    # Beyond the last bin an example counts nothing.
    assert qualities(challenge_epsilons(wide, wide + 20), 32).mean() == 0
    with pytest.raises(InputError, match="arms of the same size, and there are 32 unlearned and 31 retrained"):
        challenge_epsilons(wide, wide[1:])


@given(st.integers(0, 10_000))
@settings(**{**COMMON, "max_examples": 15})
def test_challenge_epsilons_do_not_depend_on_the_names_of_the_arms(seed: int) -> None:
    unlearned, retrained = arms(20, 20, 3, 0.5, seed)
    assert challenge_epsilons(unlearned, retrained) == pytest.approx(challenge_epsilons(retrained, unlearned))


# U-LiRA


def test_u_lira_does_what_theory_says_for_normal_scores() -> None:
    unlearned, retrained = arms(400, 400, 60, shift=1.5)
    lira = unlearning_lira(unlearned, retrained)
    assert lira.auc.value == pytest.approx(stats.norm.cdf(1.5 / math.sqrt(2)), abs=0.01)
    assert lira.accuracy.value == pytest.approx(stats.norm.cdf(0.75), abs=0.01)
    assert lira.tpr is not None
    assert lira.tpr.value == pytest.approx(stats.norm.cdf(1.5 - stats.norm.ppf(0.99)), abs=0.03)
    assert lira.auc.low < stats.norm.cdf(1.5 / math.sqrt(2)) < lira.auc.high
    assert lira.auc.n == 400
    assert lira.auc_of_examples.shape == (60,)
    assert lira.auc_of_examples.mean() == pytest.approx(lira.auc.value)


def test_u_lira_without_a_difference_is_a_coin() -> None:
    covered = []
    for seed in range(100):
        lira = unlearning_lira(*arms(12, 12, 20, seed=seed), seed=seed)
        covered.append([e.low <= 0.5 <= e.high for e in (lira.auc, lira.accuracy)])
    assert ((np.mean(covered, axis=0) > 0.88) & (np.mean(covered, axis=0) < 1)).all(), np.mean(covered, axis=0)


def test_u_lira_sees_a_difference_of_the_spread_alone() -> None:
    unlearned, retrained = arms(100, 100, 30)
    assert unlearning_lira(unlearned * 4, retrained).accuracy.low > 0.7


def test_u_lira_gives_no_rate_at_one_percent_from_few_scores() -> None:
    assert unlearning_lira(*arms(10, 10, 3)).tpr is None
    assert unlearning_lira(*arms(2, 2, 1)).auc.low == 0
