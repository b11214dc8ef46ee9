"""The verdict: one word for what is known about the forgetting, with the numbers it rests on.

Provenance alone decides ``exact``. Everything else is measured, and the strongest word for a measurement is
``not_distinguished``: by these attacks, on so many records. Accuracy never decides.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from .blind_baseline import BlindBaseline
from .statistics import (
    CONFIDENCE,
    Estimate,
    Groups,
    Separation,
    equivalent,
    membership_auc,
    separation,
    smallest_margin,
)

BaseIsClean = Literal["stated", "checked", "unchecked", "doubtful"]

VerdictWord = Literal[
    "exact", "certified", "not_distinguished", "not_forgotten", "over_forgotten", "undecided"
]  # fmt: skip

# The attacks that decide, and what each goes by.
ATTACKS = {
    "loss": "the loss",
    "zlib": "the loss for each byte of the compressed text",
    "min_k": "the least likely tokens (Min-K%)",
    "min_k_plus": "the least likely tokens for their place (Min-K%++)",
    "exact": "exact memorization",
    "extraction": "extraction strength",
    "reference": "the loss less that of the base model",
    "entropy": "the entropy of the classes",
    "gradient_norm": "the norm of the loss's gradient",
}


@dataclass(frozen=True)
class Provenance:
    """What is known about an unlearned model without measuring it.

    Attributes:
        start_saw_forget: whether the fine-tuning began at weights that S had shaped; None when unknown.
        stage: the stage of training that a clean start covers, in words.
        duplicates_retained: rows of L with the text of a row of S; None when nobody looked.
        stopped_by_forget: whether measurements of S decided when the training stopped.
        chosen_by_forget: whether measurements of S decided what was trained.
        base_is_clean: whether the model that a clean start is at never saw S; None where it is no trained model.
        base_finding: what the tests of that model found, in words; empty where they could not be made.
        base_is_told: whether they distinguish S from H.
        near_duplicates_retained: rows of L that are near copies of a row of S or quote one; None when nobody looked.
        trained_on_forget: whether the method trained on S itself.
        other_ways: what else of the result may depend on S, one sentence each.
    """

    start_saw_forget: bool | None
    stage: str
    duplicates_retained: int | None
    stopped_by_forget: bool = False
    chosen_by_forget: bool = False
    base_is_clean: BaseIsClean | None = None
    base_finding: str = ""
    base_is_told: bool = False
    near_duplicates_retained: int | None = None
    trained_on_forget: bool = False
    other_ways: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """What the attacks make of the records that are judged, under one model.

    Attributes:
        forget: by attack, one number a record of S, higher where it looks better known, shape (m,).
        holdout: the same for H, shape (n,).
        groups: label of each record's group (author, customer), for S and H; None when records are independent.
    """

    forget: dict[str, np.ndarray]
    holdout: dict[str, np.ndarray]
    groups: Groups | None = None


@dataclass(frozen=True)
class Verdict:
    """What is known about the forgetting.

    Attributes:
        word: ``exact``: the weights never depended on S. ``certified``: reserved. ``not_distinguished``: none of the
            attacks distinguishes S from H, within the margin. ``not_forgotten``: one does. ``over_forgotten``: S is
            treated worse than records never seen. ``undecided``: the records are too few to say, or the attacks are
            blind here.
        reasons: why, in words.
        warnings: what contradicts or weakens it.
        margin: the distance in AUC within which S counts as not distinguished.
        smallest_margin: the smallest margin that the sample can confirm, None without H.
        gap: of the attack that decided, its AUC minus what it is compared with (95 %), None without H.
        compared_with: ``retrained``, ``chance``, or None without H.
        attack: the one that decided, a key of :data:`ATTACKS`; None without H.
        attacks: all that were made.
        blind: how S and H differ before any model is asked; None when nobody looked.
        groups: how many authors or customers S and H come from, where the intervals take these for the unit.
    """

    word: VerdictWord
    reasons: list[str]
    warnings: list[str]
    margin: float
    smallest_margin: float | None
    gap: Estimate | None
    compared_with: Literal["retrained", "chance"] | None
    attack: str | None = None
    attacks: list[str] = field(default_factory=list)
    blind: BlindBaseline | None = None
    groups: list[int] | None = None


@dataclass(frozen=True)
class _Gap:
    """One attack's AUC less that of the retrained model, or less 0.5."""

    attack: str
    auc: Estimate
    gap: Estimate
    # For the equivalence tests at 5 %, and corrected for the number of attacks at 5 % in all; over all looks.
    equivalence: Estimate
    strict_gap: Estimate
    strict_auc: Estimate
    # Whether both the gap and the AUC itself lie above what they are compared with, or both below, corrected alike.
    above: bool
    below: bool


def decide(
    provenance: Provenance,
    unlearned: Scores | None,
    *,
    original: Scores | None,
    retrained: Scores | None,
    margin: float,
    blind: BlindBaseline | None = None,
    looks: int = 1,
) -> Verdict:
    """Reach a verdict.

    The gap of an attack is its AUC on the unlearned model minus that on the retrained one, or minus 0.5. The worst
    attack counts.

    - ``not_forgotten``: the gap of one is larger than the margin and its interval lies above zero; and a rank test
      (Mann and Whitney 1947) puts the AUC above 0.5, because one retrained model is a noisy yardstick, and because
      intervals of an AUC are too narrow with few records. Intervals and tests are at 5 % for all attacks together
      (Bonferroni).
    - ``over_forgotten``: the mirror image. Where the loss shows it, it goes before ``not_forgotten``: of a model that
      is certain and wrong about S, an attack that does not look at the label finds that it knows S.
    - ``not_distinguished``: the 90 % intervals of all gaps lie within the margin (two one-sided tests at 5 %; all have
      to pass, so that needs no correction), and one of the attacks distinguishes S from H in the original model.
    - ``undecided``: otherwise.

    Where the texts alone distinguish S from H, H is a poor stand-in for a model that never saw S. Without a retrained
    model the only word left is then ``not_forgotten``, and only where an attack does better than the texts: the
    interval of its AUC lies above theirs.

    Args:
        provenance: what is known without measuring.
        unlearned: scores under the unlearned model; None without H.
        original: scores under the original model, which show whether an attack sees anything here.
        retrained: scores under a model that never saw S.
        margin: the margin on the AUC, fixed before the run.
        blind: how the texts of S and H differ.
        looks: of how many verdicts on the same records this is one; each then gets its share of the 5 % (Bonferroni).
    """
    reasons, warnings = _provenance_reasons(provenance)
    decided_by_forget = provenance.stopped_by_forget or provenance.chosen_by_forget
    clean = provenance.start_saw_forget is False and provenance.base_is_clean != "doubtful" and not decided_by_forget
    exact = clean and provenance.duplicates_retained == 0 and not provenance.other_ways
    if unlearned is None:
        word: VerdictWord = "exact" if exact else "undecided"
        if not exact:
            reasons.append("There are no held-out records to compare S with; give a holdout set.")
        return Verdict(word, reasons, warnings, margin, None, None, None)

    names = list(unlearned.forget)
    m, n = len(unlearned.forget[names[0]]), len(unlearned.holdout[names[0]])
    gaps = [_gap(unlearned, retrained, name, len(names), looks) for name in names]
    word, worst, finding = _measured(gaps, margin)
    if word == "not_distinguished" and original is not None and not _any_sees(names, original, retrained):
        word = "undecided"
        finding = "No attack distinguishes S from H in the original model either, so none can show forgetting"
    expected = unlearned.groups is None and retrained is None
    smallest = smallest_margin(m, n, len(names)) if expected else _smallest_seen(gaps, looks)
    found = f"{finding}: {_numbers(worst, unlearned, retrained)}."
    if word == "undecided":
        found += f" This many records can confirm a margin of ±{smallest:.2f}; the run asks for ±{margin:.2f}."
    compared_with: Literal["retrained", "chance"] = "retrained" if retrained else "chance"
    if blind is not None and blind.separable and not exact and retrained is None:
        beyond = [gap for gap in gaps if gap.gap.value > margin and gap.strict_auc.low > blind.natural_auc]
        if word == "not_forgotten" and beyond:
            worst = max(beyond, key=lambda gap: gap.gap.value)
            found = _beyond_texts(blind, worst, _numbers(worst, unlearned, retrained))
        else:
            word, found = "undecided", _differ(blind, worst)
    if exact and word == "not_forgotten":
        warnings.append(f"The measurement contradicts the clean start; check that the base never saw S. {found}")
    else:
        reasons.append(found)
    word = "exact" if exact else word
    groups = [len(np.unique(side)) for side in unlearned.groups] if unlearned.groups else None
    return Verdict(
        word, reasons, warnings, margin, smallest, worst.gap, compared_with, worst.attack, names, blind, groups
    )


def _any_sees(names: list[str], original: Scores, retrained: Scores | None) -> bool:
    """Whether one of the attacks distinguishes S from H in the original model."""
    return any(_gap(original, retrained, name, len(names)).strict_gap.low > 0 for name in names)


def _provenance_reasons(provenance: Provenance) -> tuple[list[str], list[str]]:
    reasons, warnings = [], []
    copies = provenance.duplicates_retained
    if provenance.start_saw_forget is False:
        reasons.append(f"The fine-tuning began at weights that do not depend on S. This covers {provenance.stage}.")
        if copies is None:
            warnings.append("The retained set was not searched for copies of S, so the clean start proves nothing.")
        if provenance.stopped_by_forget:
            warnings.append("S decided when the training stopped, so the weights depend on it a little.")
        if provenance.chosen_by_forget:
            warnings.append("S decided where the training began, so the weights depend on it a little.")
        warnings.extend(provenance.other_ways)
        _add_base(provenance, reasons, warnings)
    elif provenance.start_saw_forget:
        began = "The fine-tuning began at weights that depend on S"
        if provenance.trained_on_forget:
            began = "The method trained on S itself"
        reasons.append(f"{began}, so only measurements can show forgetting.")
    if copies:
        warnings.append(
            f"{copies} retained records have the text of a record to forget, so the model was trained on it."
        )
    if near := provenance.near_duplicates_retained:
        nevertheless = ""
        if provenance.start_saw_forget is False:
            nevertheless = " A clean start does not remove what these taught."
        warnings.append(
            f"{near} retained records are near copies of a record to forget, or quote one, so the model was trained "
            "on most of it." + nevertheless
        )
    return reasons, warnings


def _add_base(provenance: Provenance, reasons: list[str], warnings: list[str]) -> None:
    """Say what is known about the model that a clean start is at."""
    found = provenance.base_finding
    if provenance.base_is_clean == "stated":
        reasons.append("The user states that the base model never saw S.")
        if provenance.base_is_told:
            warnings.append(f"The tests contradict the statement: {found}")
        elif found:
            reasons.append(f"It was tested for S: {found}")
    elif provenance.base_is_clean == "checked":
        reasons.append(f"The base model was tested for S, and no attack distinguishes S from H: {found}")
    elif provenance.base_is_clean == "unchecked":
        reasons[0] = f"Nobody could test whether the base model saw S{f': {found}' if found else '.'} {reasons[0]}"
    elif provenance.base_is_clean == "doubtful":
        warnings.append(
            f"The clean start proves nothing, because the tests contradict it; if they err, set base_is_clean: {found}"
        )


def _beyond_texts(blind: BlindBaseline, worst: _Gap, numbers: str) -> str:
    return (
        f"S and H differ by nature, but the attack by {_name(worst)} distinguishes them better than their texts do, "
        f"which explain an AUC of {blind.natural_auc:.2f}: {numbers}."
    )


def _differ(blind: BlindBaseline, worst: _Gap) -> str:
    labels = ""
    if blind.label_auc is not None:
        labels = f", and its label is the likelier one with probability {blind.label_auc.value:.2f}"
    return (
        "S and H differ by nature: a classifier that sees only their texts distinguishes them with AUC "
        f"{blind.auc.value:.2f} (95 % interval {blind.auc.low:.2f} to {blind.auc.high:.2f}). A record of S is the "
        f"longer one with probability {blind.length_auc.value:.2f}{labels}. So the AUC of {worst.auc.value:.2f} "
        f"({_name(worst)}) may come from this difference or from memory. Compare with a model that never saw S "
        "(--with_retrained, or `hf-unlearn references`)."
    )


def _measured(gaps: list[_Gap], margin: float) -> tuple[VerdictWord, _Gap, str]:
    """The word that the measurements alone give, the attack that decides, and the finding in words."""
    known = [g for g in gaps if g.gap.value > margin and g.above]
    avoided = [g for g in gaps if g.gap.value < -margin and g.below]
    if known and not any(g.attack == "loss" for g in avoided):
        worst = max(known, key=lambda g: g.gap.value)
        return "not_forgotten", worst, f"The attack by {_name(worst)} still distinguishes S from H"
    if avoided:
        worst = min(avoided, key=lambda g: g.gap.value)
        return (
            "over_forgotten",
            worst,
            f"The model treats S worse than records it never saw, as the attack by {_name(worst)} shows",
        )
    worst = max(gaps, key=lambda g: abs(g.gap.value))
    if all(equivalent(g.equivalence, margin) for g in gaps):
        finding = f"No attack distinguishes S from H beyond the margin of ±{margin:.2f}"
        return "not_distinguished", worst, f"{finding}; the strongest is the attack by {_name(worst)}"
    return (
        "undecided",
        worst,
        f"Neither forgetting nor remembering was shown; the strongest is the attack by {_name(worst)}",
    )


def _gap(scores: Scores, retrained: Scores | None, attack: str, attacks: int, looks: int = 1) -> _Gap:
    share = (1 - CONFIDENCE) / looks
    equivalence, strict = 1 - 2 * share, 1 - share / attacks
    auc = _separation(scores, attack)
    # Against chance the intervals are those of the AUC, moved.
    against, chance = (auc, 0.5) if retrained is None else (_separation(scores, attack, retrained), 0.0)

    def gap(confidence: float) -> Estimate:
        found = against.interval(confidence)
        return Estimate(found.value - chance, found.low - chance, found.high - chance, found.n)

    strict_gap, strict_auc = gap(strict), auc.interval(strict)
    above, below = strict_gap.low > 0, strict_gap.high < 0
    if scores.groups is not None:
        above, below = above and strict_auc.low > 0.5, below and strict_auc.high < 0.5
    elif above or below:
        side = "greater" if above else "less"
        ranks = stats.mannwhitneyu(scores.forget[attack], scores.holdout[attack], alternative=side)
        significant = bool(ranks.pvalue < (1 - strict) / 2)
        above, below = above and significant, below and significant
    return _Gap(
        attack, auc.interval(CONFIDENCE), gap(CONFIDENCE), gap(equivalence), strict_gap, strict_auc, above, below
    )


def _separation(scores: Scores, attack: str, retrained: Scores | None = None) -> Separation:
    target = None if retrained is None else (-retrained.forget[attack], -retrained.holdout[attack])
    return separation(-scores.forget[attack], -scores.holdout[attack], target, scores.groups)


def _name(gap: _Gap) -> str:
    return ATTACKS[gap.attack]


def _smallest_seen(gaps: list[_Gap], looks: int) -> float:
    """As :func:`~.statistics.smallest_margin`, with the errors that the gaps show instead of those expected."""
    half = max(gap.equivalence.high - gap.equivalence.low for gap in gaps) / 2
    test, power = stats.norm.ppf([1 - (1 - CONFIDENCE) / looks, 1 - 0.10 / (2 * len(gaps))])
    return float(half * (test + power) / test)


def _numbers(gap: _Gap, unlearned: Scores, retrained: Scores | None) -> str:
    against = ""
    if retrained is not None:
        other = membership_auc(-retrained.forget[gap.attack], -retrained.holdout[gap.attack])
        against = f"; the retrained model has an AUC of {other.value:.2f}"
    sizes = [len(scores[gap.attack]) for scores in (unlearned.forget, unlearned.holdout)]
    of = [f" in {len(np.unique(side))} groups" for side in unlearned.groups] if unlearned.groups else ["", ""]
    return (
        f"membership AUC {gap.auc.value:.2f} (95 % interval {gap.auc.low:.2f} to {gap.auc.high:.2f}), {sizes[0]} "
        f"records to forget{of[0]} against {sizes[1]} held-out records{of[1]}{against}"
    )


def check_base(
    provenance: Provenance, base: Scores | None, *, measurable: bool, blind: BlindBaseline | None, margin: float
) -> Provenance:
    """Complete what is known about a clean start by what the verdict's tests find in the base.

    They compare with chance and never with a retrained model, which began at the same base and knows what it knows.
    What the texts alone explain does not count.

    Args:
        provenance: its ``base_is_clean`` is ``stated`` or ``unchecked``; None where no trained model is begun at.
        base: scores under the base; None without H, or where it cannot be measured.
        measurable: whether the base does the same task with the same tokens.
        blind: how the texts of S and H differ.
        margin: on the AUC.

    Returns:
        The same with ``checked`` or ``doubtful`` where nothing is stated, and with the finding in words.
    """
    if provenance.base_is_clean is None:
        return provenance
    if base is None:
        why = "there are no held-out records to compare S with."
        if not measurable:
            why = "it does another task, or has other tokens, so it cannot be measured."
        return replace(provenance, base_finding=why if provenance.base_is_clean == "unchecked" else "")
    found = decide(Provenance(None, "", None), base, original=None, retrained=None, margin=margin, blind=blind)
    assert found.gap is not None
    assert found.attack is not None
    auc, low, high = (0.5 + value for value in (found.gap.value, found.gap.low, found.gap.high))
    sides = [len(side[found.attack]) for side in (base.forget, base.holdout)]
    numbers = (
        f"membership AUC {auc:.2f} (95 % interval {low:.2f} to {high:.2f}) by {ATTACKS[found.attack]}, {sides[0]} "
        f"records of S against {sides[1]} of H"
    )
    distinguished = found.word in ("not_forgotten", "over_forgotten")
    if distinguished:
        finding = f"an attack distinguishes S from H under the base model, {numbers}."
    elif blind is not None and blind.separable:
        finding = f"S and H differ by nature, so its {numbers}, may come from that or from memory."
        return replace(provenance, base_finding=finding if provenance.base_is_clean == "unchecked" else "")
    else:
        finding = (
            f"the strongest attack on it has {numbers}. This many records can confirm a margin of "
            f"±{found.smallest_margin:.2f}; the run asks for ±{margin:.2f}."
        )
    word = provenance.base_is_clean
    if word == "unchecked" and distinguished:
        word = "doubtful"
    elif word == "unchecked" and found.word == "not_distinguished":
        word = "checked"
    return replace(provenance, base_is_clean=word, base_finding=finding, base_is_told=distinguished)
