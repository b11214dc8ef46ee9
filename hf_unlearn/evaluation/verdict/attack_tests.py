"""The tests of one attack: where S lies on the whole, its best and worst known records, and how wide it spreads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ..statistics import (
    CONFIDENCE,
    Estimate,
    Groups,
    difference_of_shares,
    distances_from_middle,
    equivalent,
    separation,
)
from .facts import Scores

# By how much the membership AUC of S differs between two trainings on L, as a standard deviation, while one retrained
# model alone cannot show it.
SEED_SPREAD = 0.12

# By the share of H that lies beyond a threshold: from what share of S on, in margins, a part of S counts as known. A
# share of two margins would move the AUC by one.
KNOWN_SHARES = {0.01: 0.5, 0.05: 1.0}

# The error that is left on either side for where S lies on the whole, over all attacks and looks.
ACCUSING = (1 - CONFIDENCE) / 4

# The error is spent in halves, on where S lies on the whole and on its parts: two shares on the side of the known
# records and the mixture with it, each for every attack.
PARTS = len(KNOWN_SHARES) + 1

Side = Literal["known", "avoided"]


@dataclass(frozen=True)
class Shift:
    """An attack's AUC less that of the retrained models, or less 0.5.

    Attributes:
        attack: which.
        auc: with its 95 % interval.
        gap: the same; where it is compared with retrained models the seed's share is in the interval.
        equivalence: the gap for the equivalence tests at 5 %.
        strict_auc: the AUC with the interval that is corrected for all tests.
        above, below: whether both the gap and the AUC itself lie above what they are compared with, or both below.
    """

    attack: str
    auc: Estimate
    gap: Estimate
    equivalence: Estimate
    strict_auc: Estimate
    above: bool
    below: bool


@dataclass(frozen=True)
class Part:
    """The records of S that lie beyond a threshold of H.

    Attributes:
        attack: by which.
        side: which end.
        allowed: the share of H beyond the threshold.
        share: that of S.
        shown: whether that is more than chance gives, corrected for all tests.
        large: whether it is so much that S has a known, or an avoided, part.
    """

    attack: str
    side: Side
    allowed: float
    share: float
    shown: bool
    large: bool


@dataclass(frozen=True)
class Mixture:
    """How much wider than H an attack's scores of S spread, as an AUC of the distances from the middle less 0.5.

    Attributes:
        attack: which.
        equivalence: the gap for the equivalence tests at 5 %.
        shown: whether S spreads wider, corrected for all tests.
        side: where more of S lies beyond H.
    """

    attack: str
    equivalence: Estimate
    shown: bool
    side: Side


@dataclass(frozen=True)
class Findings:
    """All tests of one attack."""

    shift: Shift
    parts: tuple[Part, ...]
    mixture: Mixture

    def rules_out(self, margin: float) -> bool:
        """Whether S lies within the margin, spreads wider by less than it, and has no part that lies beyond H."""
        within = equivalent(self.shift.equivalence, margin) and self.mixture.equivalence.high < margin
        return within and not any(part.large or part.shown for part in self.parts)


def findings(
    scores: Scores, retrained: Sequence[Scores], attack: str, margin: float, attacks: int, looks: int = 1
) -> Findings:
    """Run the tests of one attack.

    Args:
        scores: under the judged model.
        retrained: under models that never saw S, which are then compared with instead of chance.
        attack: which.
        margin: on the AUC.
        attacks, looks: of how many attacks and verdicts this is one; the error is divided among them (Bonferroni).
    """
    level = ACCUSING / looks / attacks / PARTS
    return Findings(
        shift(scores, retrained, attack, attacks, looks),
        _parts(scores, retrained, attack, margin, level),
        _mixture(scores, retrained, attack, level, _near(looks)),
    )


def _near(looks: int) -> float:
    """The confidence of the interval by which two one-sided tests find S near."""
    return 1 - 2 * (1 - CONFIDENCE) / looks


def shift(scores: Scores, retrained: Sequence[Scores], attack: str, attacks: int, looks: int = 1) -> Shift:
    """Where S lies on the whole, for one of so many attacks and looks.

    Retrained models differ by their seed, and so does the judged one. To lie apart it has to lie where no further
    retrained model is expected, and to lie near it has to lie near their mean. Of one customer a side nothing can be
    said of customers; what then is said, of these very records under other seeds, rests on the retrained models alone.
    """
    strict = 1 - 2 * ACCUSING / looks / attacks
    auc = separation(*_losses(scores, attack), groups=scores.groups)
    found, chance = auc, 0.5
    if retrained:
        found = separation(*_losses(scores, attack), [_losses(model, attack) for model in retrained], scores.groups)
        chance = 0.0

    alone = bool(retrained) and not np.isfinite(found.error)

    def gap(confidence: float, *, apart: bool) -> Estimate:
        interval = found.at_value() if alone else found.interval(confidence)
        seeds = _half_of_seeds([_auc(model, attack) for model in retrained], confidence, apart=apart)
        low, high = (np.hypot(interval.value - end, seeds) for end in (interval.low, interval.high))
        value = interval.value - chance
        return Estimate(value, float(value - low), float(value + high), interval.n)

    strict_gap, strict_auc = gap(strict, apart=True), auc.interval(strict)
    above, below = strict_gap.low > 0, strict_gap.high < 0
    if alone:
        above, below = above and auc.value > 0.5, below and auc.value < 0.5
    elif scores.groups is not None:
        above, below = above and strict_auc.low > 0.5, below and strict_auc.high < 0.5
    elif above or below:
        significant = _ranks(scores.forget[attack], scores.holdout[attack], above) < (1 - strict) / 2
        above, below = above and significant, below and significant
    return Shift(
        attack,
        auc.interval(CONFIDENCE),
        gap(CONFIDENCE, apart=True),
        gap(_near(looks), apart=False),
        strict_auc,
        above,
        below,
    )


def _half_of_seeds(aucs: Sequence[float], confidence: float, *, apart: bool) -> float:
    """Half of the interval that the seed alone would give.

    Of k models the variance counts 1 + 1/k times where one more model is to be told from them, and 1/k times where
    their mean is to be met. The seed moves all attacks together, so its interval is never wider than 95 %.
    """
    k, upper = len(aucs), (1 + min(confidence, CONFIDENCE)) / 2
    if k == 0:
        return 0.0
    if k == 1:
        return float(stats.norm.ppf(upper) * np.sqrt(2) * SEED_SPREAD) if apart else 0.0
    return float(stats.t.ppf(upper, k - 1) * np.std(aucs, ddof=1) * np.sqrt(1 / k + apart))


def _auc(scores: Scores, attack: str) -> float:
    return separation(*_losses(scores, attack)).value


def _parts(scores: Scores, retrained: Sequence[Scores], attack: str, margin: float, level: float) -> tuple[Part, ...]:
    """Whether a part of S lies beyond H, on either side."""
    sides: list[tuple[Side, int]] = [("known", 1), ("avoided", -1)]
    found = []
    for side, sign in sides:
        own = sign * scores.forget[attack], sign * scores.holdout[attack]
        gained = None
        if retrained:
            # What is known better than by the retrained models, and better than the rest of its set.
            others = zip(*(_losses(model, attack) for model in retrained), strict=True)
            gains = [side + sign * np.mean(losses, axis=0) for side, losses in zip(own, others, strict=True)]
            gained = gains[0] - np.median(gains[0]), gains[1] - np.median(gains[1])
        for allowed, large in KNOWN_SHARES.items():
            share, shown = _beyond(*own, allowed, scores.groups, level)
            if gained is not None:
                share, again = _beyond(*gained, allowed, scores.groups, level)
                shown = shown and again
            found.append(Part(attack, side, allowed, share, shown, share >= large * margin))
    return tuple(found)


def _beyond(
    forget: np.ndarray, holdout: np.ndarray, allowed: float, groups: Groups | None, level: float
) -> tuple[float, bool]:
    """The share of S above the threshold that at most the allowed share of H lies above, and whether that is too much.

    Without groups the test is exact: were S and H drawn alike, so many of S would lie before the rank of H at the
    threshold with the probability of a negative hypergeometric distribution. With groups the two shares are compared.
    """
    rank = int(allowed * len(holdout)) + 1
    threshold = np.sort(holdout)[-rank]
    hits = forget > threshold
    count, m, n = int(hits.sum()), len(forget), len(holdout)
    if count <= allowed * m:
        return count / m, False
    if groups is not None:
        found = difference_of_shares(hits, holdout > threshold, groups).interval(1 - 2 * level)
        units = [len(np.unique(side)) for side in groups]
        # So rarely does chance put all groups of S before all of H.
        rarest = 1 / math.comb(sum(units), units[0])
        return count / m, found.low > 0 and rarest < level
    return count / m, bool(stats.hypergeom.cdf(rank - 1, m + n, n, count + rank - 1) < level)


def _mixture(scores: Scores, retrained: Sequence[Scores], attack: str, level: float, equivalence: float) -> Mixture:
    """Whether S spreads wider than H around the middle of both, as it does where some is known and some is avoided."""
    own = distances_from_middle(scores.forget[attack], scores.holdout[attack])
    others = [distances_from_middle(model.forget[attack], model.holdout[attack]) for model in retrained]
    # The far ones have the small losses, which count as members.
    found = separation(
        -own[0], -own[1], [(-of_forget, -of_holdout) for of_forget, of_holdout in others], scores.groups
    )
    chance = 0.0 if retrained else 0.5

    def gap(confidence: float) -> Estimate:
        if retrained and not np.isfinite(found.error):
            half = _half_of_seeds([separation(-own, -other).value for own, other in others], confidence, apart=False)
            return Estimate(found.value, found.value - half, found.value + half, found.n)
        interval = found.interval(confidence)
        return Estimate(interval.value - chance, interval.low - chance, interval.high - chance, interval.n)

    shown = gap(1 - 2 * level).low > 0
    if scores.groups is None and shown:
        shown = _ranks(*own, greater=True) < level
    beyond = {
        sign: _beyond(sign * scores.forget[attack], sign * scores.holdout[attack], 0.05, None, level)[0]
        for sign in (1, -1)
    }
    return Mixture(attack, gap(equivalence), bool(shown), "known" if beyond[1] >= beyond[-1] else "avoided")


def _ranks(forget: np.ndarray, holdout: np.ndarray, greater: bool) -> float:
    """The p-value of the rank test that S lies higher, or lower, than H (Mann and Whitney 1947)."""
    return float(stats.mannwhitneyu(forget, holdout, alternative="greater" if greater else "less").pvalue)


def _losses(scores: Scores, attack: str) -> tuple[np.ndarray, np.ndarray]:
    return -scores.forget[attack], -scores.holdout[attack]
