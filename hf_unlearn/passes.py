"""Runs models on batches for an objective, and adds up the operations that it takes."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from .models.layers import blocks_until, first_blocks, flops_per_token, names_until
from .models.loading import Model, plain_model
from .models.tasks import TASKS, Task

Teacher = Literal["original", "fresh"]


class Passes:
    """Runs the trained model and its teachers.

    Args:
        task: what they do.
        model: the trained model, without what wraps it for several processes.
        autocast: makes what a teacher runs in.

    Attributes:
        wrapped: the trained model as it is to be called, so that processes meet in it.
        teachers: by name, frozen and in evaluation mode.
        flops: operations of all that was run.
    """

    def __init__(self, task: Task, model: Model, autocast: Callable[[], AbstractContextManager]):
        self.task, self.model, self.autocast = task, model, autocast
        self.wrapped: nn.Module = model
        self.teachers: dict[Teacher, Model] = {}
        self.flops = 0.0
        self._prices: dict[tuple[str, int | None], tuple[float, float]] = {}

    def run(self, batch: dict[str, torch.Tensor], gradients: int = 1) -> Any:
        """The trained model's outputs, without its own loss; so many passes back are counted with it."""
        self.trained(batch, gradients)
        return self.wrapped(**self._read(batch))

    def hidden(self, batch: dict[str, torch.Tensor], depth: float) -> torch.Tensor:
        """What the trained model's last block of those until a depth gives; the blocks after it are not run.

        Args:
            batch: what the model reads.
            depth: from 0 to 1.

        Returns:
            Shape (records, positions, features).
        """
        plain = plain_model(self.model)
        count = blocks_until(plain, depth)
        self.flops += _tokens(batch, self.task) * self._price("trained", self.model, count)[0]
        return _cut(plain, self.wrapped, self._read(batch), count)

    @torch.no_grad()
    def told(self, teacher: Teacher, batch: dict[str, torch.Tensor], depth: float | None = None) -> torch.Tensor:
        """A teacher's logits, or hidden states where a depth is given; see :meth:`hidden`."""
        model = self.teachers[teacher]
        plain = plain_model(model)
        count = None if depth is None else blocks_until(plain, depth)
        self.flops += _tokens(batch, self.task) * self._price(teacher, model, count)[1]
        with self.autocast():
            if count is None:
                return model(**self._read(batch)).logits
            return _cut(plain, model, self._read(batch), count)

    def trained(self, batch: dict[str, torch.Tensor], gradients: int = 1) -> None:
        """Count a pass of the trained model on a batch, forward and so often back."""
        step, forward = self._price("trained", self.model, None)
        self.flops += _tokens(batch, self.task) * (forward + gradients * (step - forward))

    def _read(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # An encoder-decoder makes from the labels what it reads.
        return {name: values for name, values in batch.items() if name != "labels" or TASKS[self.task].two_texts}

    def _price(self, name: str, model: Model, blocks: int | None) -> tuple[float, float]:
        if (name, blocks) not in self._prices:
            until = None if blocks is None else names_until(plain_model(model), blocks)
            self._prices[name, blocks] = flops_per_token(model, until)
        return self._prices[name, blocks]


def _cut(plain: PreTrainedModel, called: nn.Module, read: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    with first_blocks(plain, count) as (states, options):
        called(**read, **options)
    return states[0]


def _tokens(batch: dict[str, torch.Tensor], task: Task) -> float:
    tokens = batch["input_ids"].numel()
    # Each text passes through half of the model.
    return (tokens + batch["labels"].numel()) / 2 if TASKS[task].two_texts else tokens


def in_parts(inputs: dict[str, Any]) -> Iterable[dict[str, torch.Tensor]]:
    """The batches that a batch holds: one for each part, or itself."""
    return [inputs] if "input_ids" in inputs else inputs.values()
