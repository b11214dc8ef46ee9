"""Estimates with their intervals: losses, rates, membership AUC."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its two-sided interval.

    Attributes:
        value: the estimate.
        low, high: the interval's ends; 95 % unless said otherwise.
        n: how many records it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def mean_loss(nll: np.ndarray, tokens: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """Mean loss per token, with records as the unit of sampling.

    The estimate is sum(nll) / sum(tokens); its variance is that of a ratio estimator (Cochran 1977, eq. 6.13), which
    for one token a record is the variance of a mean.

    Args:
        nll: summed negative log-likelihood of each record in nats, shape (n,).
        tokens: tokens of each record, shape (n,).
        confidence: of the interval (Student's t with n - 1 degrees of freedom).
    """
    n = len(nll)
    value = float(nll.sum() / tokens.sum())
    if n < 2:
        return Estimate(value, value, value, n)
    residuals = nll - value * tokens
    error = np.sqrt(n / (n - 1) * (residuals**2).sum()) / tokens.sum()
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * error)
    return Estimate(value, value - half, value + half, n)


def rate(hits: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion with the exact interval of Clopper and Pearson (1934).

    Args:
        hits: successes.
        n: trials.
        confidence: of the interval.
    """
    interval = stats.binomtest(int(hits), int(n)).proportion_ci(confidence, method="exact")
    return Estimate(hits / n, float(interval.low), float(interval.high), int(n))


def clustered_rate(hits: np.ndarray, trials: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """A proportion over trials that come in records, where the trials of one record resemble each other.

    The interval is that of Clopper and Pearson for as many independent trials as tell as much (Korn and Graubard 1998,
    Survey Methodology 24): the proportion's binomial variance over the variance that the records show, as a ratio
    estimator. Where they show none, because all trials or no trial succeeded, a record counts as one trial.

    Args:
        hits: successes of each record, shape (n,).
        trials: trials of each record, shape (n,).
        confidence: of the interval.
    """
    n, total = len(hits), int(trials.sum())
    value = float(hits.sum() / total)
    variance = 0.0
    if n > 1:
        variance = float(n / (n - 1) * ((hits - value * trials) ** 2).sum() / total**2)
    effective = float(n)
    if variance > 0:
        quantiles = stats.t.ppf((1 + confidence) / 2, [total - 1, n - 1])
        effective = min(value * (1 - value) / variance * float(quantiles[0] / quantiles[1]) ** 2, float(total))
    success, tail = value * effective, (1 - confidence) / 2
    low = float(stats.beta.ppf(tail, success, effective - success + 1)) if value > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, success + 1, effective - success)) if value < 1 else 1.0
    return Estimate(value, low, high, n)


def membership_auc(forget_loss: np.ndarray, holdout_loss: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """How well a record's loss tells S from H: the probability that a record of S has the lower loss.

    0.5 is what a model that never saw S gives when H is like S; above it S is still known, below it S is avoided.

    Args:
        forget_loss: shape (m,).
        holdout_loss: shape (n,).
        confidence: of the interval.

    Returns:
        The AUC (ties count half) with the interval of DeLong et al. (1988). Where S and H do not overlap at all that
        interval has no width, and the exact one for min(m, n) independent pairs takes its place.
    """
    return membership_gap(forget_loss, holdout_loss, None, confidence)


def membership_gap(
    forget_loss: np.ndarray,
    holdout_loss: np.ndarray,
    reference: tuple[np.ndarray, np.ndarray] | None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The membership AUC of one model, or how far it lies above that of a reference on the same records.

    Args:
        forget_loss, holdout_loss: the model's losses, shapes (m,) and (n,).
        reference: the reference's losses on the same records, or None for the AUC itself.
        confidence: of the interval.

    Returns:
        The AUC, or the difference, with the (paired) interval of DeLong et al. (1988).
    """
    pairs = [(forget_loss, holdout_loss)] + ([reference] if reference else [])
    components = [_delong_components(-s, -h) for s, h in pairs]
    forget, holdout = components[0]
    value = float(forget.mean())
    if len(components) == 2:
        forget, holdout = forget - components[1][0], holdout - components[1][1]
        value -= float(components[1][0].mean())
    m, n = len(forget), len(holdout)
    error = float(np.sqrt(_variance(forget) / m + _variance(holdout) / n))
    half = float(stats.norm.ppf((1 + confidence) / 2)) * error
    if error == 0:
        half = 1 - ((1 - confidence) / 2) ** (1 / min(m, n))
    lowest = 0.0 if reference is None else -1.0
    return Estimate(value, max(value - half, lowest), min(value + half, 1.0), m + n)


def _delong_components(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each member the share of others below it, for each other the share of members above it (Sun and Xu 2014)."""
    m, n = len(members), len(others)
    ranks = stats.rankdata(np.concatenate([members, others]))
    of_members = (ranks[:m] - stats.rankdata(members)) / n
    of_others = 1 - (ranks[m:] - stats.rankdata(others)) / m
    return of_members, of_others


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.25


def smallest_margin(m: int, n: int, attacks: int = 1, alpha: float = 0.05, power: float = 0.90) -> float:
    """The smallest AUC margin that equivalence tests on m and n records can be expected to confirm.

    Two one-sided tests at level alpha reach the power for a true gap of zero when the margin is
    (z[1 - alpha] + z[1 - (1 - power) / 2]) standard errors, with the error of an AUC of one half,
    sqrt((m + n + 1) / (12 m n)). All attacks have to pass, so each gets its share of 1 - power.

    Args:
        m, n: records in S and H.
        attacks: how many are made.
        alpha: of each one-sided test.
        power: wanted.
    """
    error = np.sqrt((m + n + 1) / (12 * m * n))
    return float((stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - (1 - power) / (2 * attacks))) * error)
