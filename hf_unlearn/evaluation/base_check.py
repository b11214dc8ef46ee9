"""Whether the base that a clean start is at had seen S itself: its own membership tests."""

from dataclasses import replace

from .blind import BlindBaseline
from .verdict import ATTACKS, Provenance, Scores, decide


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
        why = "there are no held-out records to compare with."
        if not measurable:
            why = "it does not do this task with these tokens, so it cannot be asked."
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
    told = found.word == "not_forgotten"
    if told:
        finding = f"under the base itself S can be told from H, {numbers}."
    elif blind is not None and blind.separable:
        finding = f"S and H differ by nature, so its {numbers}, may be nature or memory."
        return replace(provenance, base_finding=finding if provenance.base_is_clean == "unchecked" else "")
    else:
        finding = (
            f"No attack tells S from H under the base itself: the furthest has {numbers}; so many records show a "
            f"difference of {found.smallest_margin:.2f}."
        )
    word = provenance.base_is_clean
    if word == "unchecked":
        word = "doubtful" if told else "checked"
    return replace(provenance, base_is_clean=word, base_finding=finding, base_is_told=told)
