"""Terms that may be added to the loss on L, as pure functions. A teacher is the original model.

A term that compares with the teacher gives one number for each item: a labelled token, a labelled word, or a record of
a text classifier. Rows of logits have the shape (items, classes or vocabulary). Whatever comes from the teacher was
shaped by S.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from .models.layers import whole
from .models.tasks import IGNORED

Match = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

RULED_OUT = -1e15  # what counts as the log-probability of something impossible, in nats


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) in nats (Hinton et al. 2015, arXiv:1503.02531).

    Args:
        student, teacher: logits, shape (items, classes).
        temperature: T.

    Returns:
        Shape (items,).
    """
    said, wanted = log_p(student / temperature), log_p(teacher / temperature)
    return temperature**2 * nn.functional.kl_div(said, wanted, reduction="none", log_target=True).sum(-1)


def entropy_gap(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(H(softmax(student)) - H(softmax(teacher)))^2 in squared nats, H the entropy.

    Args:
        student, teacher: logits, shape (items, classes).

    Returns:
        Shape (items,).
    """
    return (_entropy(student) - _entropy(teacher)).square()


def logit_gap(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean over the classes of (student - teacher)^2.

    Args:
        student, teacher: logits, shape (items, classes).

    Returns:
        Shape (items,).
    """
    return (student - teacher).square().mean(-1)


def l1_weight(strength: float, progress: float) -> float:
    """strength * (1 - progress): the weight of the L1 norm, which ends at nothing (Jia et al. 2023, arXiv:2304.04934).

    Args:
        strength: at the beginning.
        progress: the part of the training that is done, from 0 to 1.
    """
    return strength * (1 - progress)


def l1_norm(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of the magnitudes of all weights, sharded ones included."""
    return torch.stack([whole(weight.abs().sum()) for weight in weights]).sum()


def labelled_rows(logits: torch.Tensor, labels: torch.Tensor, next_token: bool) -> torch.Tensor:
    """The logits of what a model is taught, item after item, in float32 or better.

    Args:
        logits: shape (records, positions, vocabulary or classes), or (records, classes).
        labels: shape (records, positions), or (records,); -100 is left out.
        next_token: whether the label of a position is predicted one position earlier.

    Returns:
        Shape (items, vocabulary or classes).
    """
    rows = logits[labels_in_place(labels, next_token) != IGNORED]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def labels_in_place(labels: torch.Tensor, next_token: bool) -> torch.Tensor:
    """Labels, each at the position that predicts it: one earlier for next tokens, where the first label has none."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) if next_token else labels


def log_p(logits: torch.Tensor) -> torch.Tensor:
    """log(softmax(logits)) over the last axis, in nats; finite also for a class that the model rules out."""
    # Such a class has no part in a sum, and zero times infinity would be no number.
    return logits.log_softmax(-1).clamp(min=RULED_OUT)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    log_probs = log_p(logits)
    return -(log_probs.exp() * log_probs).sum(-1)
