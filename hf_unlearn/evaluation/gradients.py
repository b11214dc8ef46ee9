"""How steep the loss of each record is: flat for a record that the model has learned."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn

from ..models.tasks import IGNORED, TASKS, Task
from .scoring import evaluating, shared_batches


@torch.enable_grad()
def gradient_norms(
    model: nn.Module,
    examples: Dataset,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    *,
    task: Task,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> np.ndarray:
    """The 2-norm of the gradient of each record's mean loss (Nasr et al. 2019, arXiv:1812.00910, section III).

    The gradient is that for all weights of the model, whichever are trained, and for those under a LoRA adapter
    instead of the adapter's own, so that a merged adapter gives the same number and all models are compared by the
    same weights. It takes one backward pass a record, and the memory of one gradient of all weights, of two for a
    document in pieces.

    Args:
        model: the model, whole and not quantised; its training mode, and which weights are trained, are restored.
        examples: as for :func:`~hf_unlearn.evaluation.scoring.score`.
        collator: stacks examples.
        task: what the model does.
        context: makes what is entered around the forward passes, such as ``accelerator.autocast``.

    Returns:
        Nats per unit of weight, shape (records,), in the order of the rows.
    """
    rows, which = np.unique(examples["row"], return_inverse=True)
    records = [np.flatnonzero(which == i) for i in range(len(rows))]
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    inputs = examples.select_columns(["input_ids", "attention_mask", "labels"])
    norms: list[tuple[int, float]] = []
    with evaluating(model), _trained(weights):
        for i, counts in shared_batches(range(len(records)), "Gradients"):
            if not counts:
                continue
            total: list[torch.Tensor] = []
            tokens = 0
            for place in records[i]:
                with context():
                    nll, labelled = _nll(model, collator([inputs[int(place)]]), task)
                # What is not used, such as the original under a copy that PEFT trains, has no gradient.
                found = [g for g in torch.autograd.grad(nll, weights, allow_unused=True) if g is not None]
                total = [a + b for a, b in zip(total, found, strict=True)] if total else found
                tokens += labelled
            squares = sum(float(gradient.float().square().sum()) for gradient in total)
            norms.append((i, squares**0.5 / tokens))
    return np.array([norm for _, norm in sorted(gather_object(norms))])


def _nll(model: nn.Module, batch: dict[str, torch.Tensor], task: Task) -> tuple[torch.Tensor, int]:
    """The summed negative log-likelihood of the labels, and how many there are."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs["labels"] if TASKS[task].two_texts else inputs.pop("labels")
    logits = model(**inputs).logits
    if TASKS[task].next_token:
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    kept = labels != IGNORED
    return nn.functional.cross_entropy(logits[kept].float(), labels[kept], reduction="sum"), int(kept.sum())


@contextmanager
def _trained(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """With a gradient for all these weights, and as it was afterwards."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, trained in zip(weights, before, strict=True):
            weight.requires_grad_(trained)
