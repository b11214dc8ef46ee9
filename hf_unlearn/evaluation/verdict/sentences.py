"""The verdict's sentences."""

from collections.abc import Sequence

import numpy as np

from ..blind_baseline import BlindBaseline
from ..statistics import membership_auc
from .attack_tests import Mixture, Part, Shift
from .facts import ATTACKS, Provenance, Scores

# From here on a margin allows every AUC.
WHOLE = 0.5


def confirmed(smallest: float) -> str:
    """What the smallest margin that a sample can confirm is worth, as in ``a margin of ±0.21``, or ``no margin``."""
    return f"a margin of ±{smallest:.2f}" if smallest < WHOLE else "no margin"


def provenance_reasons(provenance: Provenance) -> tuple[list[str], list[str]]:
    """What provenance says for the verdict, and what contradicts or weakens it."""
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
    if provenance.retrained_unrecorded:
        warnings.append("Nothing shows what the retrained model was trained on: it has no training_record.json.")
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


def beyond_texts(blind: BlindBaseline, worst: Shift, found: str) -> str:
    """That an attack does better than the texts."""
    return (
        f"S and H differ by nature, but the attack by {ATTACKS[worst.attack]} distinguishes them better than their "
        f"texts do, which explain an AUC of {blind.natural_auc:.2f}: {found}."
    )


def differ(blind: BlindBaseline, worst: Shift) -> str:
    """That the texts alone tell S from H."""
    labels = ""
    if blind.label_auc is not None:
        labels = f", and its label is the likelier one with probability {blind.label_auc.value:.2f}"
    return (
        "S and H differ by nature: a classifier that sees only their texts distinguishes them with AUC "
        f"{blind.auc.value:.2f} (95 % interval {blind.auc.low:.2f} to {blind.auc.high:.2f}). A record of S is the "
        f"longer one with probability {blind.length_auc.value:.2f}{labels}. So the AUC of {worst.auc.value:.2f} "
        f"({ATTACKS[worst.attack]}) may come from this difference or from memory. Compare with models that never saw "
        "S (--with_retrained, or `hf-unlearn references`)."
    )


def of_part(part: Part) -> str:
    """What a part of S does."""
    better = "better" if part.side == "known" else "worse"
    return (
        f"{part.share:.1%} of the records to forget look {better} known than {1 - part.allowed:.0%} of the held-out "
        f"records by {ATTACKS[part.attack]}"
    )


def of_mixture(mixture: Mixture) -> str:
    """That S spreads wider than H."""
    return (
        "The records to forget spread wider than the held-out records on both sides of the middle by "
        f"{ATTACKS[mixture.attack]}, as they do where some are known and others avoided"
    )


def numbers(gap: Shift, unlearned: Scores, retrained: Sequence[Scores]) -> str:
    """The AUC of an attack, the sizes, and what it is compared with."""
    against = ""
    if retrained:
        aucs = [membership_auc(-model.forget[gap.attack], -model.holdout[gap.attack]).value for model in retrained]
        against = f"; the retrained model has an AUC of {aucs[0]:.2f}"
        if len(aucs) > 1:
            against = f"; {len(aucs)} retrained models have AUCs of {min(aucs):.2f} to {max(aucs):.2f}"
    sizes = [len(scores[gap.attack]) for scores in (unlearned.forget, unlearned.holdout)]
    of = [f" in {len(np.unique(side))} groups" for side in unlearned.groups] if unlearned.groups else ["", ""]
    return (
        f"membership AUC {gap.auc.value:.2f} (95 % interval {gap.auc.low:.2f} to {gap.auc.high:.2f}), {sizes[0]} "
        f"records to forget{of[0]} against {sizes[1]} held-out records{of[1]}{against}"
    )
