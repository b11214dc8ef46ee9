"""The verdict: one word for what is known about the forgetting, with the numbers it rests on.

Provenance alone decides ``exact``. Everything else is measured, and the strongest word for a measurement is
``not_distinguished``: by this attack, on so many records. Accuracy never decides.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .statistics import Estimate, membership_auc, membership_gap, smallest_margin

VerdictWord = Literal[
    "exact", "certified", "not_distinguished", "not_forgotten", "over_forgotten", "undecided"
]  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What is known about an unlearned model without measuring it.

    Attributes:
        start_saw_forget: whether the fine-tuning began at weights that S had shaped; None when unknown.
        stage: the stage of training that a clean start covers, in words.
        duplicates_retained: rows of L with the text of a row of S; None when nobody looked.
        stopped_by_forget: whether S had a say in when the training stopped.
    """

    start_saw_forget: bool | None
    stage: str
    duplicates_retained: int | None
    stopped_by_forget: bool = False


@dataclass(frozen=True)
class Losses:
    """The losses of the records that are judged, under one model: S of shape (m,), H of shape (n,)."""

    forget: np.ndarray
    holdout: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What is known about the forgetting.

    Attributes:
        word: ``exact``: the weights never depended on S. ``certified``: reserved. ``not_distinguished``: the attack
            named in the reasons cannot tell S from H, within the margin. ``not_forgotten``: it can.
            ``over_forgotten``: S is treated worse than records never seen. ``undecided``: the records are too few to
            say, or the attack is blind here.
        reasons: why, in words.
        warnings: what contradicts or weakens it.
        margin: the distance in AUC within which S counts as not distinguished.
        smallest_margin: the smallest margin that the sample can confirm, None without H.
        gap: the measured AUC minus what it is compared with (95 %), None without H.
        compared_with: ``retrained``, ``chance``, or None without H.
    """

    word: VerdictWord
    reasons: list[str]
    warnings: list[str]
    margin: float
    smallest_margin: float | None
    gap: Estimate | None
    compared_with: Literal["retrained", "chance"] | None


def decide(
    provenance: Provenance,
    unlearned: Losses | None,
    *,
    original: Losses | None,
    retrained: Losses | None,
    margin: float,
) -> Verdict:
    """Reach a verdict.

    The measured gap is the membership AUC of the unlearned model minus that of the retrained one, or minus 0.5.

    - ``not_distinguished``: its 90 % interval lies within the margin (two one-sided tests at 5 %), and the attack does
      tell S from H in the original model.
    - ``not_forgotten``: it is larger than the margin and its 95 % interval lies above zero; so does that of the AUC
      above 0.5, because one retrained model is a noisy yardstick.
    - ``over_forgotten``: the mirror image.
    - ``undecided``: otherwise.

    Args:
        provenance: what is known without measuring.
        unlearned: losses under the unlearned model; None without H.
        original: losses under the original model, which show whether the attack sees anything here.
        retrained: losses under a model that never saw S.
        margin: the margin on the AUC, fixed before the run.
    """
    reasons, warnings = _provenance_reasons(provenance)
    clean = provenance.start_saw_forget is False and not provenance.stopped_by_forget
    exact = clean and provenance.duplicates_retained == 0
    if unlearned is None:
        word: VerdictWord = "exact" if exact else "undecided"
        if not exact:
            reasons.append("Without held-out records nothing could be measured against; give a holdout set.")
        return Verdict(word, reasons, warnings, margin, None, None, None)

    m, n = len(unlearned.forget), len(unlearned.holdout)
    smallest = smallest_margin(m, n)
    word, gap, found = _measured(unlearned, original, retrained, margin, smallest)
    compared_with: Literal["retrained", "chance"] = "retrained" if retrained else "chance"
    if exact:
        if word == "not_forgotten":
            warnings.append(f"The measurement contradicts the provenance; check that the base never saw S. {found}")
        else:
            reasons.append(found)
        word = "exact"
    else:
        reasons.append(found)
    return Verdict(word, reasons, warnings, margin, smallest, gap, compared_with)


def _provenance_reasons(provenance: Provenance) -> tuple[list[str], list[str]]:
    reasons, warnings = [], []
    copies = provenance.duplicates_retained
    if provenance.start_saw_forget is False:
        reasons.append(f"The fine-tuning began at weights that S had not shaped. This covers {provenance.stage}.")
        if copies is None:
            warnings.append("Nobody looked for copies of S in the retained set, so the clean start proves nothing.")
        if provenance.stopped_by_forget:
            warnings.append("S had a say in when the training stopped, so the weights do depend on it a little.")
    elif provenance.start_saw_forget:
        reasons.append("The fine-tuning began at weights that S had shaped, so only measurements can speak.")
    if copies:
        warnings.append(f"{copies} retained records have the text of a forgotten one and kept teaching it.")
    return reasons, warnings


def _measured(
    unlearned: Losses, original: Losses | None, retrained: Losses | None, margin: float, smallest: float
) -> tuple[VerdictWord, Estimate, str]:
    """The word that the measurement alone gives, the gap, and the finding in words."""
    target = (retrained.forget, retrained.holdout) if retrained else None
    auc = membership_auc(unlearned.forget, unlearned.holdout)
    gap, gap90 = (_gap(unlearned, target, confidence) for confidence in (0.95, 0.90))
    m, n = len(unlearned.forget), len(unlearned.holdout)
    against = ""
    if retrained:
        against = f"; the retrained model has {membership_auc(retrained.forget, retrained.holdout).value:.2f}"
    seen = (
        f"membership AUC {auc.value:.2f} (95 % interval {auc.low:.2f} to {auc.high:.2f}), {m} forgotten against {n} "
        f"held-out records{against}"
    )
    if gap90.low > -margin and gap90.high < margin:
        blind = original is not None and _gap(original, target, 0.95).low <= 0
        if blind:
            return "undecided", gap, (
                f"The loss attack cannot tell S from H in the original model either, so it cannot witness forgetting: "
                f"{seen}."
            )  # fmt: skip
        return "not_distinguished", gap, f"The loss attack no longer tells S from H within ±{margin:.2f}: {seen}."
    if gap.value > margin and gap.low > 0 and auc.low > 0.5:
        return "not_forgotten", gap, f"The loss attack still tells S from H: {seen}."
    if gap.value < -margin and gap.high < 0 and auc.high < 0.5:
        return "over_forgotten", gap, f"S is treated worse than records that no model saw: {seen}."
    return "undecided", gap, (
        f"Neither forgetting nor remembering could be shown: {seen}. So many records can confirm a margin of "
        f"±{smallest:.2f}, and ±{margin:.2f} is asked for."
    )  # fmt: skip


def _gap(losses: Losses, target: tuple[np.ndarray, np.ndarray] | None, confidence: float) -> Estimate:
    gap = membership_gap(losses.forget, losses.holdout, target, confidence)
    if target is not None:
        return gap
    return Estimate(gap.value - 0.5, gap.low - 0.5, gap.high - 0.5, gap.n)
