"""What a verdict is reached from, and what it is."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..blind_baseline import BlindBaseline
from ..statistics import Estimate, Groups

BaseIsClean = Literal["stated", "checked", "unchecked", "doubtful"]

VerdictWord = Literal[
    "exact", "certified", "not_distinguished", "not_forgotten", "over_forgotten", "undecided"
]  # fmt: skip

# What told S from H in the attack that decided: where S lies on the whole, the records of S that are known best or
# worst, or that S spreads wider than H.
Shown = Literal["shift", "known_part", "avoided_part", "mixture"]

# A model that an attack recognises three times in four is no forgotten one, whoever asks.
LARGEST_MARGIN = 0.25

# Attacks that ask for the same in another form; see :mod:`~hf_unlearn.data.forms`.
OTHER_FORMS = {
    "loss_request": "the loss after a request (other words)",
    "loss_heading": "the loss under a heading (another format)",
    "loss_paraphrase": "the loss with the paraphrase",
}

# The attacks that decide, and what each goes by.
ATTACKS = {
    "loss": "the loss",
    "zlib": "the loss for each byte of the compressed text",
    "min_k": "the least likely tokens (Min-K%)",
    "min_k_plus": "the least likely tokens for their place (Min-K%++)",
    "exact": "exact memorization",
    "extraction": "extraction strength",
    "window_5": "the best known 5 tokens in a row",
    "window_20": "the best known 20 tokens in a row",
    "reference": "the loss less that of the base model",
    "entropy": "the entropy of the classes",
    "gradient_norm": "the norm of the loss's gradient",
    **OTHER_FORMS,
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
        holdout_groups_retained: groups (authors, customers) of H that have other records in L, so that every model
            knows them better than those of S; None when nobody looked.
        retrained_unrecorded: whether a retrained model has no record of what it was trained on.
        unmoved: whether the model is the original as far as its weights or its scores of S can show.
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
    holdout_groups_retained: int | None = None
    unmoved: bool = False
    retrained_unrecorded: bool = False


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
        shown: what of that attack decided; ``shift`` is the AUC itself.
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
    shown: Shown = "shift"
