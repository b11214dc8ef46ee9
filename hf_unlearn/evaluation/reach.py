"""Which words a measurement can reach, found before the run from the sizes of S and H alone."""

import math
from dataclasses import dataclass

from scipy import stats

from ..models.tasks import TASKS, Task
from .statistics import CONFIDENCE, POWER, smallest_margin
from .verdict import ATTACKS, OTHER_FORMS, VerdictWord
from .verdict.attack_tests import ACCUSING
from .verdict.sentences import WHOLE

MOST = 10**9


@dataclass(frozen=True)
class Sizes:
    """How much S and H have to compare.

    Attributes:
        forget, holdout: records of S and H; 0 without H.
        groups: how many groups (customers, authors) each comes from; None where records are independent.
    """

    forget: int
    holdout: int
    groups: tuple[int, int] | None = None

    @property
    def records(self) -> tuple[int, int]:
        return self.forget, self.holdout

    @property
    def units(self) -> tuple[int, int]:
        """What the statistics count: groups, or records where these are independent."""
        return self.groups or self.records

    def halved(self) -> "Sizes":
        """What the verdict has where a search or a stopping rule looks at one half of each side."""
        groups = self.groups and (_later_half(self.groups[0]), _later_half(self.groups[1]))
        return Sizes(_later_half(self.forget), _later_half(self.holdout), groups)

    def __str__(self) -> str:
        sides = [_counted(self.forget, "record") + " to forget", _counted(self.holdout, "held-out record")]
        if self.groups is not None:
            sides = [f"{side} in {_counted(n, 'group')}" for side, n in zip(sides, self.groups, strict=True)]
        return " against ".join(sides)


@dataclass(frozen=True)
class Reach:
    """What a measurement can decide.

    Attributes:
        words: those that it can reach.
        at_best: the smallest margin on the AUC that it can be expected to confirm; None where it can confirm none.
        smallest: the same where the records of a group are alike, so that each group counts as one record.
        needed: records, or groups, a side that are enough for the margin that was asked for.
        sentence: the same for people, in a few sentences.
    """

    words: tuple[VerdictWord, ...]
    at_best: float | None
    smallest: float | None
    needed: int
    sentence: str


def reach(sizes: Sizes, margin: float, attacks: int = 1, *, halved: bool = False, exact: bool = True) -> Reach:
    """Say which words a measurement can reach.

    Args:
        sizes: of S and H.
        margin: on the AUC, above 0.
        attacks: how many will be made; each has to pass.
        halved: whether a search or a stopping rule looks at one half of S and H, and the verdict at the other.
        exact: whether the run may begin at weights that never saw S.
    """
    sizes = sizes.halved() if halved else sizes
    grouped = sizes.groups is not None
    needed = _needed(margin, attacks, grouped=grouped) * (1 + halved)
    others = "Models trained on L alone (`hf-unlearn references`) are another yardstick."
    if exact:
        others = f"An exact start (`--method base`) decides without a measurement. {others}"
    if not sizes.holdout:
        why = "There are no held-out records, so a measurement can decide nothing."
        return Reach(("undecided",), None, None, needed, f"{why} {others}")
    shown = f"Half of each is judged, {sizes}" if halved else f"{sizes}"
    if min(sizes.units) < 2:
        unit = "customer or author" if grouped else "record"
        why = f"one {unit} differs from others by nature, and that looks like memory"
        sentence = f"{shown}: a measurement against them decides nothing. For {why}. {others}"
        return Reach(("undecided",), None, None, needed, sentence)
    best, smallest = (_smallest(m, n, sizes.units, attacks, grouped=grouped) for m, n in (sizes.records, sizes.units))
    words: list[VerdictWord] = ["not_distinguished"] if best <= margin else []
    # Even where all of S lies beyond all of H, chance does that once in so many draws.
    if 1 / math.comb(sum(sizes.units), sizes.units[0]) < ACCUSING / attacks:
        words += ["not_forgotten", "over_forgotten"]
    words.append("undecided")
    confirmed = f"{_shown(best)} at best" if best < WHOLE else "no margin"
    if grouped and best < WHOLE:
        confirmed += f", and {_shown(smallest)} where the records of a group are alike"
    by = "one attack" if attacks == 1 else f"{attacks} attacks"
    found = f"{shown}: a measurement with {by} can confirm {confirmed}. You ask for ±{margin:.2f}"
    if smallest <= margin:
        found += "."
    else:
        found += f", for which {needed:,} {'groups' if grouped else 'records'} a side are enough."
    if best > margin:
        plainly = ", unless S is plainly known or avoided" if len(words) > 1 else ""
        found += f" Its word will be `undecided`{plainly}."
    if smallest > margin:
        found += f" {others}"
    return Reach(tuple(words), _below_whole(best), _below_whole(smallest), needed, found)


def expected_attacks(task: Task | None, *, gradient_norm: bool = False, forms: int = 0) -> int:
    """How many attacks a model faces without a base, in so many other forms too; 1 where the task is unknown."""
    if task is None:
        return 1
    of_language = ATTACKS.keys() - OTHER_FORMS.keys() - {"entropy", "gradient_norm", "reference"}
    return (2 if TASKS[task].classes else len(of_language)) + gradient_norm + forms


def _later_half(count: int) -> int:
    # Of one there is no half: the records of one group are dealt instead.
    return count - count // 2


def _counted(n: int, unit: str) -> str:
    return f"{n:,} {unit}{'s' * (n != 1)}"


def _shown(margin: float) -> str:
    return f"±{margin:.2f}" if margin < WHOLE else "no margin"


def _below_whole(margin: float) -> float | None:
    return margin if margin < WHOLE else None


def _smallest(m: int, n: int, units: tuple[int, int], attacks: int, *, grouped: bool) -> float:
    """As :func:`~.statistics.smallest_margin`; where the units are groups, with Student's t for so few of them."""
    if not grouped:
        return smallest_margin(m, n, attacks)
    freedom = sum(1 / k for k in units) ** 2 / sum(1 / (k**2 * (k - 1)) for k in units)
    error = math.sqrt((m + n + 1) / (12 * m * n))
    return float(sum(stats.t.ppf([CONFIDENCE, 1 - (1 - POWER) / (2 * attacks)], freedom)) * error)


def _needed(margin: float, attacks: int, *, grouped: bool) -> int:
    """The fewest records, or groups, a side with which a measurement can confirm a margin."""
    low, high = 1, 2
    while high < MOST and _smallest(high, high, (high, high), attacks, grouped=grouped) > margin:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = _smallest(middle, middle, (middle, middle), attacks, grouped=grouped) <= margin
        low, high = (low, middle) if enough else (middle, high)
    return high
