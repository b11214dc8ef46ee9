"""What a loss is taken of: the labelled positions of a batch, and labels that are changed on purpose."""

from typing import NamedTuple

import torch
from torch import nn

from ..errors import InputError
from ..models.tasks import IGNORED

RULED_OUT = -1e15  # what counts as the log-probability of something impossible, in nats


class Items(NamedTuple):
    """What a batch teaches, record after record; made by :func:`labelled_items`.

    Attributes:
        rows: logits, shape (items, vocabulary or classes), or hidden states, shape (items, features); in float32 or
            better.
        labels: shape (items,).
        lengths: how many items each record has, at least one; shape (records,).
    """

    rows: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor


def labelled_items(values: torch.Tensor, labels: torch.Tensor, next_token: bool) -> Items:
    """The labelled items of a batch.

    Args:
        values: logits or hidden states, shape (records, positions, vocabulary, classes or features), or
            (records, classes).
        labels: shape (records, positions), or (records,); -100 is left out.
        next_token: whether the label of a position is predicted one position earlier.

    Raises:
        InputError: a record has nothing that is predicted.
    """
    placed = labels_in_place(labels, next_token)
    wanted = placed != IGNORED
    lengths = wanted.reshape(len(labels), -1).sum(-1)
    if empty := int((lengths == 0).sum()):
        raise InputError(
            f"{empty} of the {len(labels)} records of a batch have no label to forget; leave them out, or raise "
            "max_length until a part of each answer is kept."
        )
    return Items(labelled_rows(values, labels, next_token), placed[wanted], lengths)


def labelled_rows(logits: torch.Tensor, labels: torch.Tensor, next_token: bool) -> torch.Tensor:
    """The labelled rows of a batch, item after item, in float32 or better; arguments as for :func:`labelled_items`."""
    rows = logits[labels_in_place(labels, next_token) != IGNORED]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def labels_in_place(labels: torch.Tensor, next_token: bool) -> torch.Tensor:
    """Labels, each at the position that predicts it: one earlier for next tokens, where the first label has none."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) if next_token else labels


def log_p(logits: torch.Tensor) -> torch.Tensor:
    """log(softmax(logits)) over the last axis, in nats; finite also for a class that the model rules out."""
    # Such a class has no part in a sum, and zero times infinity would be no number.
    return logits.log_softmax(-1).clamp(min=RULED_OUT)


# Changed labels


def skip_first(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Labels without the first ones of each record, which CE-U leaves alone (1 in open-unlearning, arXiv:2503.01224).

    Labels have the shape (records, positions). Those of -100 do not count, and what is taken away becomes -100.
    """
    return labels.masked_fill((labels != IGNORED).cumsum(-1) <= count, IGNORED)


def other_labels(labels: torch.Tensor, classes: int, generator: torch.Generator) -> torch.Tensor:
    """For every label another one, each as likely: random labels, to be learned by :func:`nll`.

    Graves et al. 2020, arXiv:2010.10981; SalUn, Fan et al. 2023, arXiv:2310.12508, which draws anew each epoch; its
    code draws the label itself too. Labels of any shape; -100 stays. The generator is on the CPU, so that every device
    draws the same. Raises InputError where there is no other label.
    """
    if classes < 2:
        raise InputError(f"Random labels need at least 2 classes, and this model has {classes}; use another method.")
    steps = torch.randint(1, classes, labels.shape, generator=generator).to(labels.device)
    return torch.where(labels == IGNORED, labels, (labels + steps) % classes)
