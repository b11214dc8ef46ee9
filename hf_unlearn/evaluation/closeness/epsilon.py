"""Epsilon: how far unlearned models are from retrained ones, as a bound that holds with a stated confidence.

Both arms are many models, each trained with a seed of its own. Every model has one score on every example, such as
minus its loss. An attack guesses the arm of a model from its score, and its rate of right guesses bounds epsilon from
below (Sekhari et al. 2021 for the definition, Jagielski et al. 2020 for the bound).
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from scipy import special

from ...errors import InputError

ALPHA = 0.05
DELTA = 1e-5
LARGEST_EPSILON = 50.0
COLUMNS_AT_A_TIME = 1024

Limits: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class EpsilonBound:
    """What one attack proves about epsilon, on models that had no part in the choice of the attack.

    Attributes:
        epsilon: lower confidence limit of epsilon, at level alpha; 0 when nothing is proven.
        attack_high: upper confidence limit, at level alpha, of what this attack could prove with any number of models;
            None when there is none. It limits this attack, never epsilon.
        ceiling: the ``epsilon`` of an attack without a mistake on as many models.
        hits_unlearned, n_unlearned: unlearned models on the side where they are expected; all that were tested.
        hits_retrained, n_retrained: retrained models on that same side; all that were tested.
        threshold: of the score.
        above: whether unlearned models are expected at the threshold or above it, rather than below.
        calibrated_on: unlearned and retrained models that the threshold and the side were chosen on; none was tested.
        example: the column of the score, None for the statistic of all of them.
        alpha: the probability that ``epsilon`` is too large.
        delta: of the definition.
    """

    epsilon: float
    attack_high: float | None
    ceiling: float
    hits_unlearned: int
    n_unlearned: int
    hits_retrained: int
    n_retrained: int
    threshold: float
    above: bool
    calibrated_on: tuple[int, int]
    example: int | None
    alpha: float
    delta: float


@dataclass(frozen=True, eq=False)
class ExampleBounds:
    """What the attacks on single examples prove, each one on its own.

    Attributes:
        epsilon: lower confidence limits, shape (examples,). Each is too large with probability alpha at most, so some
            of many lie above 0 by chance; their largest is no bound, that of ``witness`` is.
        hits_unlearned, hits_retrained: as in :class:`EpsilonBound`, shape (examples,).
        threshold, above: as in :class:`EpsilonBound`, shape (examples,).
        n_unlearned, n_retrained, calibrated_on, alpha, delta: as in :class:`EpsilonBound`.
        witness: the example on which the models of the calibration prove most; no tested model chose it.
    """

    epsilon: np.ndarray
    hits_unlearned: np.ndarray
    hits_retrained: np.ndarray
    threshold: np.ndarray
    above: np.ndarray
    n_unlearned: int
    n_retrained: int
    calibrated_on: tuple[int, int]
    witness: int
    alpha: float
    delta: float

    def bound(self, example: int) -> EpsilonBound:
        """What the attack on one example proves.

        Args:
            example: ``witness``, or one that was named before the models were scored. An example that is picked for
                its bound proves less than that.
        """
        counts = int(self.hits_unlearned[example]), self.n_unlearned, int(self.hits_retrained[example])
        _, high = confidence_limits(*counts, self.n_retrained, self.alpha, self.delta)
        return EpsilonBound(
            epsilon=float(self.epsilon[example]),
            attack_high=float(high) if np.isfinite(high) else None,
            ceiling=float(ceiling(self.n_unlearned, self.n_retrained, self.alpha, self.delta)),
            hits_unlearned=counts[0],
            n_unlearned=self.n_unlearned,
            hits_retrained=counts[2],
            n_retrained=self.n_retrained,
            threshold=float(self.threshold[example]),
            above=bool(self.above[example]),
            calibrated_on=self.calibrated_on,
            example=int(example),
            alpha=self.alpha,
            delta=self.delta,
        )


# From scores to bounds


def example_bounds(
    unlearned: np.ndarray, retrained: np.ndarray, *, alpha: float = ALPHA, delta: float = DELTA, seed: int = 0
) -> ExampleBounds:
    """Attack each example by a threshold on its score: chosen on half of the models, judged on the others.

    Args:
        unlearned: one score of every unlearned model on every example, shape (models, examples).
        retrained: the same of the retrained models; their number may differ.
        alpha: the probability that a bound is too large.
        delta: of the definition.
        seed: of the halves; the same places go to the same half in both arms, so models may come in pairs.

    Raises:
        InputError: scores of other shapes or that are no numbers, an alpha or delta that is not possible.
    """
    _check(alpha, delta)
    unlearned, retrained = check_scores(unlearned, retrained)
    (calibrate_u, test_u), (calibrate_r, test_r) = halves(len(unlearned), seed), halves(len(retrained), seed)
    n_u, n_r, examples = len(test_u), len(test_r), unlearned.shape[1]
    limits = _lower_limits(len(calibrate_u), len(calibrate_r), alpha, delta)
    tested = np.maximum(_lower_limits(n_u, n_r, alpha, delta), 0)
    threshold, above, limit = np.empty(examples), np.empty(examples, bool), np.empty(examples)
    hits_u, hits_r = np.empty(examples, int), np.empty(examples, int)
    for start in range(0, examples, COLUMNS_AT_A_TIME):
        part = slice(start, start + COLUMNS_AT_A_TIME)
        # Sorting is fastest along the last axis.
        u, r = np.ascontiguousarray(unlearned[:, part].T), np.ascontiguousarray(retrained[:, part].T)
        threshold[part], above[part], limit[part] = _choose(u[:, calibrate_u], r[:, calibrate_r], limits)
        reached_u = (u[:, test_u] >= threshold[part, None]).sum(1)
        reached_r = (r[:, test_r] >= threshold[part, None]).sum(1)
        hits_u[part] = np.where(above[part], reached_u, n_u - reached_u)
        hits_r[part] = np.where(above[part], reached_r, n_r - reached_r)
    difference, variance = _difference(unlearned[calibrate_u], retrained[calibrate_r])
    return ExampleBounds(
        epsilon=tested[hits_u, hits_r],
        hits_unlearned=hits_u,
        hits_retrained=hits_r,
        threshold=threshold,
        above=above,
        n_unlearned=n_u,
        n_retrained=n_r,
        calibrated_on=(len(calibrate_u), len(calibrate_r)),
        # Few models separate many examples by chance; of those the one with the largest difference counts.
        witness=int(np.lexsort((np.abs(difference) / np.sqrt(variance), limit))[-1]),
        alpha=alpha,
        delta=delta,
    )


def pooled_bound(
    unlearned: np.ndarray, retrained: np.ndarray, *, alpha: float = ALPHA, delta: float = DELTA, seed: int = 0
) -> EpsilonBound:
    """Attack all examples at once: by a weighted sum of their scores, as one statistic of a model.

    An example weighs as much as the arms' means differ there, over the variance within the arms: the discriminant of
    Fisher with a diagonal covariance, which for more examples than models beats the full one (Bickel and Levina 2004,
    Bernoulli 10). The mean variance of all examples is added to each, because that of few models can be small by
    chance. Weights, threshold and side come from half of the models, the bound from the others.

    Args:
        unlearned, retrained, alpha, delta, seed: as for :func:`example_bounds`.

    Raises:
        InputError: as :func:`example_bounds`.
    """
    unlearned, retrained = check_scores(unlearned, retrained)
    calibrate_u, calibrate_r = halves(len(unlearned), seed)[0], halves(len(retrained), seed)[0]
    difference, variance = _difference(unlearned[calibrate_u], retrained[calibrate_r])
    weights = difference / variance
    pooled = example_bounds(
        (unlearned @ weights)[:, None], (retrained @ weights)[:, None], alpha=alpha, delta=delta, seed=seed
    )
    return replace(pooled.bound(0), example=None)


def check_scores(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scores of both arms in float64.

    Raises:
        InputError: they are not two tables of numbers of the same examples, with two models or more each.
    """
    unlearned, retrained = np.asarray(unlearned, np.float64), np.asarray(retrained, np.float64)
    if unlearned.ndim != 2 or retrained.ndim != 2 or unlearned.shape[1] != retrained.shape[1] or not unlearned.size:
        raise InputError(
            f"The scores of the unlearned and retrained models have the shapes {unlearned.shape} and "
            f"{retrained.shape}. Give (models, examples) for both, with the same examples."
        )
    if min(len(unlearned), len(retrained)) < 2:
        raise InputError(
            f"There are {len(unlearned)} unlearned and {len(retrained)} retrained models; epsilon needs two of each, "
            "one to choose the threshold on and one to test."
        )
    if not (np.isfinite(unlearned).all() and np.isfinite(retrained).all()):
        raise InputError("Some scores are infinite or no numbers. Leave those models or examples out.")
    return unlearned, retrained


def halves(models: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The places of the models that choose an attack, and of those that test it, which get the odd one."""
    order = np.random.default_rng(seed).permutation(models)
    return order[: models // 2], order[models // 2 :]


def _choose(u: np.ndarray, r: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row the threshold and side with the largest bound on these models, and that bound."""
    n_u, n_r = u.shape[1], r.shape[1]
    scores = np.concatenate([u, r], axis=1)
    order = scores.argsort(axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    # Of the cuts between neighbours: how many models lie below.
    below_u = (order < n_u).cumsum(axis=1)[:, :-1]
    below_r = np.arange(1, n_u + n_r) - below_u
    limit_above, limit_below = limits[n_u - below_u, n_r - below_r], limits[below_u, below_r]
    limit = np.maximum(limit_above, limit_below)
    width = np.diff(scores, axis=1)
    limit[width <= 0] = -np.inf
    # Of cuts with the same bound the widest one.
    width[limit < limit.max(axis=1, keepdims=True)] = -1
    rows, cut = np.arange(len(scores)), width.argmax(axis=1)
    low, high = scores[rows, cut], scores[rows, cut + 1]
    middle = low / 2 + high / 2
    if_above, if_below = limit_above[rows, cut], limit_below[rows, cut]
    above = np.where(if_above == if_below, u.mean(1) > r.mean(1), if_above > if_below)
    return np.where(middle > low, middle, high), above, limit[rows, cut]


def _difference(u: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the arms' means lie apart on each example, and the variance within the arms plus its mean."""
    squares = ((u - u.mean(0)) ** 2).sum(0) + ((r - r.mean(0)) ** 2).sum(0)
    variance = squares / max(len(u) + len(r) - 2, 1)
    variance = variance + variance.mean()
    return u.mean(0) - r.mean(0), np.where(variance > 0, variance, 1.0)


# From counts to bounds


def confidence_limits(
    hits_unlearned: np.ndarray | int,
    n_unlearned: int,
    hits_retrained: np.ndarray | int,
    n_retrained: int,
    alpha: float = ALPHA,
    delta: float = DELTA,
) -> Limits:
    """Confidence limits of the epsilon of an attack, from the exact limits of Clopper and Pearson (1934).

    With p and q the rates of hits among unlearned and retrained models, (epsilon, delta) demands
    p <= exp(epsilon) q + delta and 1 - q <= exp(epsilon) (1 - p) + delta. Both hold for the true rates, so a lower
    limit of p and an upper one of q, each at alpha / 2, give a lower limit of epsilon at alpha, whether or not the
    models of the arms come in pairs. The upper limit demands the same with the arms swapped too.

    Args:
        hits_unlearned: unlearned models on the side where the attack expects them, any shape.
        n_unlearned: all unlearned models.
        hits_retrained: retrained models on that same side, a shape that broadcasts.
        n_retrained: all retrained models.
        alpha: the probability that the lower limit is too large, and that the upper one is too small.
        delta: of the definition.

    Returns:
        The lower limits, 0 or more, and the upper ones, infinite where a rate may be 0.
    """
    _check(alpha, delta)
    hits_u, hits_r = np.asarray(hits_unlearned), np.asarray(hits_retrained)
    low = _lower_limits(n_unlearned, n_retrained, alpha, delta)[hits_u, hits_r]
    p_low, p_high = _rate_limits(n_unlearned, alpha / 2)
    q_low, q_high = _rate_limits(n_retrained, alpha / 2)
    high = np.maximum(
        np.maximum(_log_ratio(p_high[hits_u], q_low[hits_r], delta), _log_ratio(q_high[hits_r], p_low[hits_u], delta)),
        np.maximum(
            _log_ratio(p_high[n_unlearned - hits_u], q_low[n_retrained - hits_r], delta),
            _log_ratio(q_high[n_retrained - hits_r], p_low[n_unlearned - hits_u], delta),
        ),
    )
    return np.maximum(low, 0), np.maximum(high, 0)


def _rate_limits(n: int, tail: float) -> Limits:
    """The one-sided limits of Clopper and Pearson of a rate for 0 to n hits, shapes (n + 1,)."""
    hits = np.arange(n + 1)
    low, high = np.zeros(n + 1), np.ones(n + 1)
    low[1:] = special.betaincinv(hits[1:], n - hits[1:] + 1, tail)
    high[:-1] = special.betainccinv(hits[:-1] + 1, n - hits[:-1], tail)
    return low, high


def _lower_limits(n_u: int, n_r: int, alpha: float, delta: float) -> np.ndarray:
    """The lower limit of epsilon for all counts of hits, before it is cut at 0, shape (n_u + 1, n_r + 1)."""
    p_low, p_high = _rate_limits(n_u, alpha / 2)
    q_low, q_high = _rate_limits(n_r, alpha / 2)
    hits = _log_ratio(p_low[:, None], q_high[None, :], delta)
    return np.maximum(hits, _log_ratio(q_low[None, ::-1], p_high[::-1, None], delta))


def _log_ratio(larger: np.ndarray, smaller: np.ndarray, delta: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(larger > delta, np.log(np.maximum(larger - delta, 0)) - np.log(smaller), -np.inf)


# Before any model is trained


def ceiling(
    n_unlearned: np.ndarray | int,
    n_retrained: np.ndarray | int,
    alpha: float = ALPHA,
    delta: float = DELTA,
) -> np.ndarray:
    """The lower limit of epsilon that an attack without a mistake reaches.

    Args:
        n_unlearned, n_retrained: models tested of each arm.
        alpha, delta: as for :func:`confidence_limits`.
    """
    _check(alpha, delta)
    logs = np.log(alpha / 2) / np.asarray(n_unlearned), np.log(alpha / 2) / np.asarray(n_retrained)
    (p_low, q_high), (q_low, p_high) = ((np.exp(one), -np.expm1(other)) for one, other in (logs, logs[::-1]))
    return np.maximum(np.maximum(_log_ratio(p_low, q_high, delta), _log_ratio(q_low, p_high, delta)), 0)


def models_needed(epsilon: float, alpha: float = ALPHA, delta: float = DELTA) -> int:
    """How many models of each arm must be tested to prove more than an epsilon, if the attack makes no mistake.

    The models that choose the attack come on top.

    Args:
        epsilon: above 0, up to 50.
        alpha, delta: as for :func:`confidence_limits`.
    """
    _check(alpha, delta)
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise InputError(f"epsilon={epsilon} is not possible. It must be above 0 and at most {LARGEST_EPSILON:.0f}.")
    # With q = (alpha / 2) ** (1 / n), the ceiling is log((q - delta) / (1 - q)).
    return math.floor(math.log(alpha / 2) / math.log1p(-(1 - delta) / (1 + math.exp(epsilon)))) + 1


def _check(alpha: float, delta: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha} is not possible. It must lie between 0 and 1.")
    if not 0 <= delta < 1:
        raise InputError(f"delta={delta} is not possible. It must be 0 or more and below 1.")
