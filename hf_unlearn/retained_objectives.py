"""What methods make of L: the model's own loss on it, and terms that may be added to that."""

from functools import partial

import torch

from .objectives import Match, distillation, entropy_gap, logit_gap
from .steps import Objective, Step


def own_loss(step: Step) -> torch.Tensor:
    """The model's own loss on L, which is cross-entropy."""
    return step.retained.loss


def own_loss_and_l1(step: Step) -> torch.Tensor:
    """The model's own loss on L + weight * ||trained weights||_1 (see :func:`~hf_unlearn.objectives.l1_weight`)."""
    return step.retained.loss + step.l1_penalty()


def taught(step: Step, *, match: Match, own: float = 1.0, weight: float = 1.0) -> torch.Tensor:
    """own * (the model's own loss on L) + weight * (the mean of match over all items of a step).

    Args:
        step: with L.
        match: compares with the original, item by item.
        own, weight: of the terms.
    """
    loss = own * step.retained.loss
    return loss + weight * step.retained.share * match(step.retained.rows, step.retained.told()).sum()


OWN_LOSS = Objective(own_loss)
L1_SPARSE = Objective(own_loss_and_l1, l1=True)
DISTIL = Objective(partial(taught, match=partial(distillation, temperature=2.0)), teachers=("original",))
# With the factor T^2, 2 / 25 makes it twice the plain KL divergence at T = 5.
DISTIL_SOFTLY = Objective(
    partial(taught, match=partial(distillation, temperature=5.0), weight=2 / 25), teachers=("original",)
)
MATCH_ENTROPY = Objective(partial(taught, match=entropy_gap), teachers=("original",))
MATCH_LOGITS = Objective(partial(taught, match=logit_gap, own=0.0), teachers=("original",))
