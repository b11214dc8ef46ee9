"""Names and numbers as people read them."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .statistics import Estimate
from .verdict import Verdict

if TYPE_CHECKING:
    from ..data.request.attempts import AttemptCount

SET_NAMES = {
    "forget": "the forgotten records (S)",
    "holdout": "held-out records (H)",
    "retained": "the retained records (L)",
    "test": "the test split",
}
VERDICTS = {
    "exact": "In the stage of training that was done again, this model never saw the records it was asked to forget.",
    "certified": "The report calls this model certified. No method of this software earns that word.",
    "not_distinguished": "The tests cannot distinguish the records that this model was asked to forget from records "
    "that no model saw.",
    "not_forgotten": "This model still knows the records it was asked to forget.",
    "over_forgotten": "This model treats the records it was asked to forget worse than records it never saw, which "
    "gives them away.",
    "undecided": "The tests could not decide whether this model has forgotten the records it was asked to forget.",
}
# What a set is scored by besides the loss, by its name in SetScores.
MEASURES = {
    "accuracy": "accuracy on",
    "perplexity": "perplexity on",
    "macro_f1": "macro-F1 on",
    "entity_f1": "F1 of entities on",
    "corrected": "corrected labels of",
    "exact_memorization": "exact memorization of",
    "extraction_strength": "extraction strength of",
}
# The models that are compared, in this order in every table and picture.
ARM_NAMES = {"original": "before", "unlearned": "after", "retrained": "retrained without S"}
ARM_STYLES: dict[str, dict[str, Any]] = {
    "original": {"color": "#7570b3", "linestyle": ":", "marker": "s"},
    "unlearned": {"color": "#d95f02", "linestyle": "-", "marker": "o"},
    "retrained": {"color": "black", "linestyle": "--", "marker": "^"},
}
PLOT_FILE = "loss_histograms.png"
FORGETTING_FILE = "forgetting_curve.png"
ROC_FILE = "roc.png"
# In the order of the card, each with what stands in its place where it cannot be seen.
PICTURES = {
    PLOT_FILE: "Losses of forgotten and held-out records",
    FORGETTING_FILE: "Losses and membership AUC during the training",
    ROC_FILE: "ROC curves of the attacks",
}
REFERENCE_NAMES = {
    "retrained": "retrained on L",
    "retrained_unlearned": "retrained on L, then put through the same unlearning",
    "same_budget": "trained on L from the base at the price of the unlearning",
    "unlearned": "this unlearning of the same original, repeated",
}
TAUGHT = {"forget": "half of S", "retained": "records of L", "public": "public texts with LoRA"}

# Attacks that know other models; they are shown and do not decide.
OUTSIDE_ATTACKS = {
    "lira": "the likelihood ratio to retrained models (LiRA)",
    "rmia": "the probability relative to that under retrained models (RMIA)",
}


def show(estimate: Estimate | None, digits: int = 3) -> str:
    """A number with its interval, as in ``0.93 [0.89, 0.97]``."""
    if estimate is None or math.isnan(estimate.value):
        return ""
    digits = digits if abs(estimate.value) < 10 else 1
    return f"{estimate.value:z.{digits}f} [{estimate.low:z.{digits}f}, {estimate.high:z.{digits}f}]"


def beside_word(word: str, margin: float | None, attacks: Sequence[str], decided: str | None) -> str:
    """What a verdict's word rests on, to stand right after it.

    Args:
        word: of the verdict.
        margin: on the AUC; None where nobody noted it.
        attacks: the names of those that were made.
        decided: the one that decided.

    Returns:
        As in `` (margin ±0.10 in AUC; attacks: loss, zlib; zlib decided)``; empty without a margin.
    """
    if margin is None:
        return ""
    terms = ["by how it was made, not by a test"] if word == "exact" else []
    if attacks or word != "exact":
        terms.append(f"margin ±{margin:.2f} in AUC")
    if attacks:
        terms.append(f"attacks: {', '.join(attacks)}")
        if word != "exact" and decided is not None:
            terms.append(f"{decided} decided")
    return f" ({'; '.join(terms)})"


def beside_verdict(verdict: Verdict) -> str:
    """As :func:`beside_word`, of a whole verdict."""
    return beside_word(verdict.word, verdict.margin, verdict.attacks, verdict.attack)


def attempt_words(count: "AttemptCount | None") -> str:
    """Which attempt on the same records a run is, in one sentence; empty where nobody counted."""
    if count is None:
        return ""
    if count.number == 1:
        return "This is the first attempt on these records."
    return (
        f"This is attempt {count.number:,} on these records; {count.others:,} of those before had another method, "
        "seed or margin."
    )


def duration(seconds: float) -> str:
    """A time in the largest unit that it has two of, as in ``2.5 min``."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
