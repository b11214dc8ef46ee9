"""Whether unlearning moved a model at all, by what it makes of the forget set."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..statistics import Estimate, clustered_mean


@dataclass(frozen=True)
class Movement:
    """How far the scores of S moved, as ranks among those of both models.

    Attributes:
        change: mean rank of a record under the unlearned model less that under the original, between -0.5 and 0.5,
            with its 95 % interval; 0.5 means that every score is now above every score from before.
        noise: standard error of the mean rank of S under the original.
        moved: whether a paired test says so at 5 % and the change exceeds the noise; None with fewer than two groups.
    """

    change: Estimate
    noise: float
    moved: bool | None


def moved(original: np.ndarray, unlearned: np.ndarray, groups: np.ndarray | None = None) -> Movement:
    """Test whether unlearning changed the scores of S by more than noise.

    Ranks make the answer the same for every scale of the scores. A paired test alone would call a shift by a millionth
    a movement where all records share it. So the change must also exceed the standard error of S's own mean rank.
    Where the original is told apart by the same scores, forgetting takes at least two such errors.

    Args:
        original: one score for each record of S under the original model, shape (m,).
        unlearned: the same under the unlearned model, in the same order, shape (m,).
        groups: label of each record's group, shape (m,); None when records are independent.
    """
    m = len(original)
    ranks = stats.rankdata(np.concatenate([original, unlearned])) / (2 * m)
    before, after = ranks[:m], ranks[m:]
    change, place = clustered_mean(after - before, groups), clustered_mean(before, groups)
    if change.n < 2:
        return Movement(change, float("nan"), None)
    noise = (place.high - place.low) / 2 / float(stats.t.ppf(0.975, place.n - 1))
    told = change.low > 0 or change.high < 0
    return Movement(change, noise, bool(told and abs(change.value) > noise))
