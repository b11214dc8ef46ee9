"""The table of named methods: each is a start, then fine-tuning on the retained set with the model's own loss."""

from dataclasses import dataclass

from . import starts
from .errors import InputError


@dataclass(frozen=True)
class Method:
    """A way to unlearn.

    Attributes:
        name: as in ``--method``.
        start: where the fine-tuning begins.
        alpha: the default way from the original (0) to the anchor (1); None where the method has no such setting.
        needs_base: whether the model that the original was fine-tuned from must be known.
        summary: one sentence for the card.
        source: where it was published.
    """

    name: str
    start: starts.Start
    alpha: float | None
    needs_base: bool
    summary: str
    source: str

    def resolve_alpha(self, asked: float | None) -> float:
        """The alpha to use; raises InputError when the method has none to set."""
        if self.name == "base":
            fixed = 1.0
        elif self.alpha is None:
            fixed = 0.0
        else:
            return self.alpha if asked is None else asked
        if asked is not None:
            movable = ", ".join(m.name for m in METHODS.values() if m.alpha is not None)
            raise InputError(f"The method {self.name!r} has no alpha; leave it out, or use one of {movable}.")
        return fixed


METHODS = {
    method.name: method
    for method in (
        Method(
            name="fine_tune",
            start=starts.original,
            alpha=None,
            needs_base=False,
            summary="The original model, fine-tuned on the retained records.",
            source="",
        ),
        Method(
            name="toward_base",
            start=starts.toward_base,
            alpha=0.6,
            needs_base=True,
            summary="The original model moved part of the way back to the model it was fine-tuned from, then "
            "fine-tuned on the retained records.",
            source="",
        ),
        Method(
            name="shrink_perturb",
            start=starts.shrink_perturb,
            alpha=0.6,
            needs_base=False,
            summary="The original model moved part of the way to a fresh initialisation, then fine-tuned on the "
            "retained records.",
            source="Ash and Adams 2020, arXiv:1910.08475",
        ),
        Method(
            name="base",
            start=starts.toward_base,
            alpha=None,
            needs_base=True,
            summary="The model that the original was fine-tuned from, fine-tuned on the retained records only.",
            source="",
        ),
    )
}
