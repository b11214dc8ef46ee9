"""From provenance and tests to the word.

The gap of an attack is its AUC on the unlearned model minus the mean of that on the retrained ones, or minus 0.5.
The worst attack counts.

- ``not_forgotten``: the gap of one is larger than the margin and its interval lies above zero; and a rank test
  (Mann and Whitney 1947) puts the AUC above 0.5, because intervals of an AUC are too narrow with few records. Or a
  part of S lies beyond nearly all of H: half a margin of it beyond 99 % of H, or a margin of it beyond 95 %, and more
  than chance gives. Or S spreads wider than H by more than the margin (Ansari and Bradley 1960), as it does where
  some is known and some avoided. All tests together are at 5 % for all attacks (Bonferroni).
- ``over_forgotten``: the mirror image. Where the loss shows it, it goes before what an attack finds that does not
  look at the label: a model that is certain and wrong about S seems to know S. It never goes before what is known
  when asked in another form.
- ``not_distinguished``: for all attacks the 90 % intervals of gap and spread lie within the margin (two one-sided
  tests at 5 %; all have to pass, so that needs no correction), no part of S lies beyond H, and one of the attacks
  distinguishes S from H in the original model.
- ``undecided``: otherwise.

One retrained model does not show how far the seed moves S, so that is taken from the calibration, and the model
has to be near chance too. From two on their own spread is used.

Where the texts alone distinguish S from H, or other records of H's authors stay in L, H is a poor stand-in for a
model that never saw S. Without a retrained model the only word left is then ``not_forgotten``, and only where an
attack does better than the texts: the interval of its AUC lies above theirs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import stats

from ...errors import InputError
from ..blind_baseline import BlindBaseline
from ..statistics import CONFIDENCE, POWER, equivalent, separation, smallest_margin
from .attack_tests import Shift, findings, shift
from .facts import ATTACKS, LARGEST_MARGIN, OTHER_FORMS, Provenance, Scores, Shown, Verdict, VerdictWord
from .sentences import beyond_texts, confirmed, differ, numbers, of_mixture, of_part, provenance_reasons

# These do not look at what the record says, and find certainty about a wrong answer too.
BLIND_TO_CONTENT = {"entropy", "gradient_norm"}


def decide(
    provenance: Provenance,
    unlearned: Scores | None,
    *,
    original: Scores | None,
    retrained: Scores | Sequence[Scores] | None,
    margin: float,
    blind: BlindBaseline | None = None,
    looks: int = 1,
) -> Verdict:
    """Reach a verdict, by the rules at the top of this file.

    Args:
        provenance: what is known without measuring.
        unlearned: scores under the unlearned model; None without H.
        original: scores under the original model, which show whether an attack sees anything here.
        retrained: scores under models that never saw S.
        margin: the margin on the AUC, fixed before the run.
        blind: how the texts of S and H differ.
        looks: of how many verdicts on the same records this is one; each then gets its share of the 5 % (Bonferroni).

    Raises:
        InputError: the margin is larger than a model can be from chance and still count as like it.
    """
    if margin > LARGEST_MARGIN:
        raise InputError(
            f"auc_margin is {margin}, and at most {LARGEST_MARGIN} may count as not distinguished; set a smaller one."
        )
    reasons, warnings = provenance_reasons(provenance)
    decided_by_forget = provenance.stopped_by_forget or provenance.chosen_by_forget
    clean = provenance.start_saw_forget is False and provenance.base_is_clean != "doubtful" and not decided_by_forget
    exact = clean and provenance.duplicates_retained == 0 and not provenance.other_ways
    if unlearned is None:
        word: VerdictWord = "exact" if exact else "undecided"
        if not exact:
            reasons.append("There are no held-out records to compare S with; give a holdout set.")
        return Verdict(word, reasons, warnings, margin, None, None, None)
    yardsticks = [retrained] if isinstance(retrained, Scores) else list(retrained or ())
    judged = Judged(unlearned, yardsticks, margin, looks)
    found = _settle(_measure(judged), judged, provenance, original, blind, exact=exact)
    warnings.extend(found.warnings)
    if provenance.trained_on_forget and not OTHER_FORMS.keys() & unlearned.forget.keys():
        warnings.append(
            "The method trained on S itself, and nobody asked for S in other words or formats: such records have none."
        )
    if exact and found.word == "not_forgotten":
        warnings.append(
            f"The measurement contradicts the clean start; check that the base never saw S. {found.reason}"
        )
    else:
        reasons.append(found.reason)
    return Verdict(
        "exact" if exact else found.word,
        reasons,
        warnings,
        margin,
        judged.smallest_margin,
        found.worst.gap,
        found.compared_with,
        found.worst.attack,
        list(unlearned.forget),
        blind,
        [len(np.unique(side)) for side in unlearned.groups] if unlearned.groups else None,
        found.shown,
    )


@dataclass
class Judged:
    """The scores of a model with what they are compared with, and all tests of them."""

    scores: Scores
    yardsticks: Sequence[Scores]
    margin: float
    looks: int

    def __post_init__(self) -> None:
        names = list(self.scores.forget)
        self.tests = [
            findings(self.scores, self.yardsticks, name, self.margin, len(names), self.looks) for name in names
        ]

    @property
    def smallest_margin(self) -> float:
        """The smallest margin that such a sample can confirm, by what is expected or by the errors that are seen."""
        attack = self.tests[0].shift.attack
        if self.scores.groups is None and not self.yardsticks:
            return smallest_margin(len(self.scores.forget[attack]), len(self.scores.holdout[attack]), len(self.tests))
        # With one retrained model chance has to be met too.
        tests = self.tests + (self.against_chance().tests if len(self.yardsticks) == 1 else [])
        half = max(one.shift.equivalence.high - one.shift.equivalence.low for one in tests) / 2
        test, power = stats.norm.ppf([1 - (1 - CONFIDENCE) / self.looks, 1 - (1 - POWER) / (2 * len(self.tests))])
        return float(half * (test + power) / test)

    def against_chance(self) -> "Judged":
        """The same without the retrained models."""
        return Judged(self.scores, (), self.margin, self.looks)

    def numbers(self, gap: Shift) -> str:
        return numbers(gap, self.scores, self.yardsticks)


@dataclass(frozen=True)
class _Finding:
    """The word that measurements give, the attack that decides and what of it, and why in words."""

    word: VerdictWord
    worst: Shift
    shown: Shown
    reason: str
    compared_with: Literal["retrained", "chance"]
    warnings: tuple[str, ...] = ()


def _measure(judged: Judged) -> _Finding:
    """The word that the tests alone give."""
    margin, tests = judged.margin, judged.tests
    compared: Literal["retrained", "chance"] = "retrained" if judged.yardsticks else "chance"

    def found(word: VerdictWord, worst: Shift, reason: str, shown: Shown = "shift") -> _Finding:
        return _Finding(word, worst, shown, f"{reason}: {judged.numbers(worst)}.", compared)

    shifts = {one.shift.attack: one.shift for one in tests}
    wrong = "loss" in shifts and shifts["loss"].gap.value < -margin
    counted = [one for one in tests if not (wrong and one.shift.attack in BLIND_TO_CONTENT)]
    known = [one.shift for one in counted if one.shift.gap.value > margin and one.shift.above]
    avoided = [gap for gap in shifts.values() if gap.gap.value < -margin and gap.below]
    if any(gap.attack == "loss" for gap in avoided):
        known = [gap for gap in known if gap.attack in OTHER_FORMS]
    if known:
        worst = max(known, key=lambda gap: gap.gap.value)
        return found("not_forgotten", worst, f"The attack by {ATTACKS[worst.attack]} still distinguishes S from H")
    parts = [part for one in counted for part in one.parts if part.shown and part.large]
    mixtures = [one.mixture for one in counted if one.mixture.shown and one.mixture.equivalence.value > margin]
    if of_side := [part for part in parts if part.side == "known"]:
        part = max(of_side, key=lambda part: part.share - part.allowed)
        return found(
            "not_forgotten", shifts[part.attack], f"A part of S is still known: {of_part(part)}", "known_part"
        )
    if of_both := [mixture for mixture in mixtures if mixture.side == "known"]:
        mixture = max(of_both, key=lambda mixture: mixture.equivalence.value)
        return found("not_forgotten", shifts[mixture.attack], of_mixture(mixture), "mixture")
    if avoided:
        worst = min(avoided, key=lambda gap: gap.gap.value)
        reason = f"The model treats S worse than records it never saw, as the attack by {ATTACKS[worst.attack]} shows"
        return found("over_forgotten", worst, reason)
    if parts:
        part = max(parts, key=lambda part: part.share - part.allowed)
        reason = f"The model avoids a part of S: {of_part(part)}"
        return found("over_forgotten", shifts[part.attack], reason, "avoided_part")
    if mixtures:
        mixture = max(mixtures, key=lambda mixture: mixture.equivalence.value)
        return found("over_forgotten", shifts[mixture.attack], of_mixture(mixture), "mixture")
    worst = max(shifts.values(), key=lambda gap: abs(gap.gap.value))
    if all(one.rules_out(margin) for one in tests):
        reason = f"No attack distinguishes S from H beyond the margin of ±{margin:.2f}, and none finds a known part"
        return found("not_distinguished", worst, f"{reason}; the strongest is the attack by {ATTACKS[worst.attack]}")
    return _undecided(judged, worst, found)


def _undecided(judged: Judged, worst: Shift, found: Callable[..., _Finding]) -> _Finding:
    """Neither shown: because the records are few, or because a part of S may be known."""
    if all(equivalent(one.shift.equivalence, judged.margin) for one in judged.tests):
        parts = [part for one in judged.tests for part in one.parts if part.large or part.shown]
        if parts:
            part = max(parts, key=lambda part: part.share / part.allowed)
            reason = f"On the whole S lies within the margin, but {of_part(part)}, so that a part may be {part.side}"
            shown: Shown = "known_part" if part.side == "known" else "avoided_part"
            return found("undecided", worst, reason, shown)
        return found("undecided", worst, "On the whole S lies within the margin, but it may spread wider", "mixture")
    finding = found(
        "undecided",
        worst,
        f"Neither forgetting nor remembering was shown; the strongest is the attack by {ATTACKS[worst.attack]}",
    )
    confirm = (
        f" This many records can confirm {confirmed(judged.smallest_margin)}; the run asks for ±{judged.margin:.2f}."
    )
    return replace(finding, reason=finding.reason + confirm)


def _settle(
    found: _Finding,
    judged: Judged,
    provenance: Provenance,
    original: Scores | None,
    blind: BlindBaseline | None,
    *,
    exact: bool,
) -> _Finding:
    """The word after asking whether the yardstick is one, whether the attacks see anything, and whether it moved."""
    natural = bool(blind is not None and blind.separable)
    stands_in = blind is not None and not natural and not provenance.holdout_groups_retained
    if len(judged.yardsticks) == 1:
        found = _by_one_model(found, judged, stands_in=stands_in)
    if found.word == "not_distinguished" and (told := _told(judged, blind)):
        found = replace(found, word="undecided", reason=f"{told} {found.reason}", warnings=(told,))
    if found.word == "not_distinguished" and original is not None and not _any_sees(judged, original):
        blindly = "No attack distinguishes S from H in the original model either, so none can show forgetting"
        found = replace(found, word="undecided", reason=f"{blindly}: {judged.numbers(found.worst)}.")
    if not judged.yardsticks and not exact:
        if blind is not None and natural:
            found = _by_texts(found, judged, blind)
        elif provenance.holdout_groups_retained and found.word != "not_forgotten":
            known = (
                f"{provenance.holdout_groups_retained:,} groups of H have other records in L, so every model knows H "
                "better than S. Compare with models that never saw S (--with_retrained, or `hf-unlearn references`)."
            )
            found = replace(found, word="undecided", reason=f"{known} {found.reason}")
    if provenance.unmoved and original is not None and found.word != "not_forgotten":
        before = _measure(Judged(original, judged.yardsticks, judged.margin, judged.looks))
        if before.word == "not_forgotten":
            still = "The model did not move from the original, in which an attack distinguishes S from H"
            found = replace(before, reason=f"{still}. {before.reason}")
    return found


def _by_one_model(found: _Finding, judged: Judged, *, stands_in: bool) -> _Finding:
    """One retrained model does not show how far the seed moves S, so chance has a say where H can stand in for it."""
    if found.word not in ("not_distinguished", "undecided"):
        return found
    alone = judged.against_chance()
    by_chance = _measure(alone)
    if stands_in and by_chance.word in ("not_forgotten", "over_forgotten"):
        return by_chance
    if found.word == "not_distinguished" and not all(one.rules_out(judged.margin) for one in alone.tests):
        why = "One retrained model does not show how much the seed moves S, and chance is not within the margin"
        return replace(found, word="undecided", reason=f"{why}; name a second one. {found.reason}")
    return found


def _told(judged: Judged, blind: BlindBaseline | None) -> str:
    """What is wrong with retrained models that know S themselves; empty where none does."""
    explained = blind.natural_auc if blind is not None and blind.separable else 0.5
    for model in judged.yardsticks:
        for attack in model.forget:
            found = shift(model, (), attack, len(model.forget), judged.looks)
            if found.above and found.strict_auc.low > explained + judged.margin:
                return (
                    f"A retrained model distinguishes S from H itself, with an AUC of {found.auc.value:.2f} by "
                    f"{ATTACKS[attack]}, so it may have seen S; check what it was trained on."
                )
    return ""


def _any_sees(judged: Judged, original: Scores) -> bool:
    """Whether one of the attacks distinguishes S from H in the original model, or S from what retraining leaves."""
    attacks = list(judged.scores.forget)
    if judged.yardsticks:
        # The seed matters to what a gap proves, and not to whether an attack sees one.
        margin, count = judged.margin, len(attacks)
        return any(_sees(original, model, name, margin, count) for model in judged.yardsticks for name in attacks)
    return any(shift(original, (), name, len(attacks)).strict_auc.low > 0.5 for name in attacks)


def _sees(original: Scores, retrained: Scores, attack: str, margin: float, count: int) -> bool:
    """Whether an attack finds S better known than under a retrained model; of one group a side, in these records."""
    losses = [(-scores.forget[attack], -scores.holdout[attack]) for scores in (original, retrained)]
    found = separation(*losses[0], [losses[1]], original.groups)
    if not np.isfinite(found.error):
        return found.value > margin
    return found.interval(1 - (1 - CONFIDENCE) / count).low > 0


def _by_texts(found: _Finding, judged: Judged, blind: BlindBaseline) -> _Finding:
    """Where the texts alone distinguish S from H, an attack has to do better than they do."""
    beyond = [
        one.shift for one in judged.tests
        if one.shift.gap.value > judged.margin and one.shift.strict_auc.low > blind.natural_auc
    ]  # fmt: skip
    if found.word == "not_forgotten" and beyond:
        worst = max(beyond, key=lambda gap: gap.gap.value)
        return replace(found, worst=worst, reason=beyond_texts(blind, worst, judged.numbers(worst)), shown="shift")
    return replace(found, word="undecided", reason=differ(blind, found.worst))
