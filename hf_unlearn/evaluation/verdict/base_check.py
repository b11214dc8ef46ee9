"""Whether the model that a clean start is at knows S itself."""

from dataclasses import replace

from ..blind_baseline import BlindBaseline
from .decision import decide
from .facts import ATTACKS, Provenance, Scores
from .sentences import confirmed


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
    assert found.smallest_margin is not None
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
            f"the strongest attack on it has {numbers}. This many records can confirm "
            f"{confirmed(found.smallest_margin)}; the run asks for ±{margin:.2f}."
        )
    word = provenance.base_is_clean
    if word == "unchecked" and distinguished:
        word = "doubtful"
    elif word == "unchecked" and found.word == "not_distinguished":
        word = "checked"
    return replace(provenance, base_is_clean=word, base_finding=finding, base_is_told=distinguished)
