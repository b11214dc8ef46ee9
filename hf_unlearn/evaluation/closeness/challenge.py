"""The forgetting quality F of the NeurIPS 2023 unlearning challenge, and what equal models get.

F is for comparison only: its epsilons are maxima of noisy ratios over many thresholds, without any confidence, and
models that were retrained themselves get about 0.18 instead of 1. Source: Triantafillou et al. 2024, arXiv:2406.09073.
"""

import math

import numpy as np

from ...errors import InputError
from .epsilon import DELTA, check_scores

LARGEST_EPSILON = 50.0
BIN_WIDTH = 0.5
STEPS = 400  # right ends, and left ends for each of them
REACH = 2.0  # how far the ends of the interval go beyond those of the narrower arm
NULL_EXAMPLES = 2000  # of all deals together
MOST_DEALS = 50


def dealt_epsilons(unlearned: np.ndarray, retrained: np.ndarray, *, delta: float = DELTA, seed: int = 0) -> np.ndarray:
    """:func:`challenge_epsilons` of arms that are alike: the same models, divided into two arms at random.

    The challenge tries thresholds in steps of fixed width, so what it finds by chance depends on the spread of the
    models: with a standard deviation of 0.3 within the arms, alike ones get F = 0.10 instead of 0.19 (64 models a
    side).

    Args:
        unlearned, retrained, delta: as for :func:`challenge_epsilons`.
        seed: of the deals, of which there are as many as give 2000 examples, 50 at most.

    Returns:
        The estimates of all deals, shape (deals * examples,).
    """
    unlearned, retrained = check_scores(unlearned, retrained)
    models, n = np.concatenate([unlearned, retrained]), len(unlearned)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(min(math.ceil(NULL_EXAMPLES / models.shape[1]), MOST_DEALS)):
        order = rng.permutation(len(models))
        found.append(challenge_epsilons(models[order[:n]], models[order[n:]], delta))
    return np.concatenate(found)


def challenge_epsilons(unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """The challenge's estimate of epsilon for each example.

    It is the largest epsilon of two families of attacks that make a mistake in both arms, or 50 for an attack that
    makes none. The attacks take for one arm the scores at or above a threshold, every 0.01 from the lowest score to
    the highest, or those in an interval around the narrower arm, whose ends move by 2 either way in 400 steps. It is
    50 as well where one arm's range is less than a hundredth of the other's.

    Args:
        unlearned: log(p / (1 - p)) of the right answer for every unlearned model, shape (models, examples).
        retrained: the same of as many retrained models.
        delta: of the definition.

    Returns:
        Shape (examples,). Thresholds are exact, so the challenge's own result, which rounding decides, can differ
        where a score falls on a threshold.

    Raises:
        InputError: scores of other shapes or that are no numbers, or arms of different size.
    """
    unlearned, retrained = check_scores(unlearned, retrained)
    if len(unlearned) != len(retrained):
        raise InputError(
            f"The challenge's score compares arms of the same size, and there are {len(unlearned)} unlearned and "
            f"{len(retrained)} retrained models. Leave some out."
        )
    table = _attack_epsilons(len(unlearned), delta).ravel()
    return np.array([_epsilon(u, r, table) for u, r in zip(unlearned.T, retrained.T, strict=True)])


def _epsilon(unlearned: np.ndarray, retrained: np.ndarray, table: np.ndarray) -> float:
    ranges = np.ptp(unlearned), np.ptp(retrained)
    if min(ranges) < 0.01 * max(ranges):
        return LARGEST_EPSILON
    unlearned, retrained = np.sort(unlearned), np.sort(retrained)
    higher, lower = unlearned, retrained
    if np.median(retrained) > np.median(unlearned):
        higher, lower = retrained, unlearned
    inner, outer = (unlearned, retrained) if ranges[0] <= ranges[1] else (retrained, unlearned)
    best = max(_best_threshold(higher, lower, table), _best_interval(inner, outer, table))
    if best == -np.inf:
        # No threshold is left over arms that are constant, or that lie apart between two of the thresholds.
        best = LARGEST_EPSILON if lower[-1] < higher[0] or higher[-1] < lower[0] else 0.0
    return min(best, LARGEST_EPSILON)


def _best_threshold(higher: np.ndarray, lower: np.ndarray, table: np.ndarray) -> float:
    """The largest epsilon of the attacks that take a score at or above a threshold for one of the higher arm."""
    n = len(higher)
    scores = np.concatenate([higher, lower])
    order = scores.argsort(kind="stable")
    scores = scores[order]
    width = scores[-1] - scores[0]
    last = math.ceil(100 * width) - 1
    if last < 1:
        return -np.inf
    # A cut between neighbours is tried if a threshold lies above the one and not above the other.
    places = np.floor((scores - scores[0]) / width * last)
    tried = np.diff(places) > 0
    below_higher = (order < n).cumsum()[:-1][tried]
    below_lower = np.flatnonzero(tried) + 1 - below_higher
    return float(table[(n - below_higher) * (n + 1) + n - below_lower].max())


def _best_interval(inner: np.ndarray, outer: np.ndarray, table: np.ndarray) -> float:
    """The largest epsilon of the attacks that take a score in an interval for one of the inner arm."""
    n = len(inner)
    step = 2 * REACH / (STEPS - 1)
    # The left ends begin a fixed distance below each right end, so all of them lie on one grid of the same step.
    right = inner[-1] + step * (np.arange(STEPS) - (STEPS - 1) / 2)
    left = inner[0] + step * (np.arange(2 * STEPS - 1) - (STEPS - 1))
    # Counts of both arms as one number, whose difference is the place in the table.
    reached = np.searchsorted(inner, right, "right") * (n + 1) + np.searchsorted(outer, right, "right")
    cut_off = np.searchsorted(inner, left, "left") * (n + 1) + np.searchsorted(outer, left, "left")
    windows = np.lib.stride_tricks.sliding_window_view(cut_off.astype(np.int32), STEPS)
    # An interval that ends before it begins holds nothing, as place 0 says.
    return float(table.take(reached.astype(np.int32)[:, None] - windows, mode="clip").max())


def _attack_epsilons(n: int, delta: float) -> np.ndarray:
    """The epsilon of each pair of hits and false alarms, shape (n + 1, n + 1); -inf for those discarded."""
    missed = 1 - np.arange(n + 1)[:, None] / n
    false_alarms = np.arange(n + 1)[None, :] / n
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [
            np.where(1 - delta > one, np.log(np.maximum(1 - delta - one, 0)) - np.log(other), -np.inf)
            for one, other in ((false_alarms, missed), (missed, false_alarms))
        ]
    epsilons = np.maximum(np.maximum(ratios[0], ratios[1]), 0)
    epsilons[(missed == 0) ^ (false_alarms == 0)] = -np.inf
    epsilons[(missed == 0) & (false_alarms == 0)] = np.inf
    return epsilons


def qualities(epsilons: np.ndarray, n: int) -> np.ndarray:
    """The score of each example: 1 in the first bin of epsilon, half of it in each next one, 0 beyond the last.

    Args:
        epsilons: as :func:`challenge_epsilons` gives them.
        n: models in each arm.
    """
    bins = np.floor(epsilons / BIN_WIDTH) + 1
    return np.where(bins * BIN_WIDTH > math.ceil(math.log(n - 1)), 0.0, 2.0 / 2.0**bins)
