"""What an objective is, and what it sees of one micro-batch: S and L, and what models make of them when asked.

Nothing is run before an objective asks for it, and nothing twice. A mean is over the items, or records, of the whole
optimiser step: all its micro-batches, and all processes.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.layers import blocks_until, first_blocks, flops_per_token, names_until
from ..models.loading import Model, plain_model
from ..models.tasks import IGNORED, TASKS, Task
from .items import Items, labelled_items, labelled_rows, labels_in_place
from .losses import l1_norm, l1_weight

Batch = dict[str, torch.Tensor]

# The parts of a batch. "instead" is what is to be said in S's place: refusals, or alternates.
Part = Literal["forget", "retained", "instead"]

PARTS: tuple[Part, ...] = ("forget", "retained", "instead")

Teacher = Literal["original", "fresh"]


@dataclass(frozen=True)
class Objective:
    """What a method makes smaller.

    Attributes:
        loss: gives one micro-batch's part of it, such that the parts add up.
        teachers: the models that it compares with, which are held for as long as the training takes.
        taught: the parts that a teacher is asked about, where there is one.
        start_log_p: whether it compares with log-probabilities under the start, which are found out before.
        l1: whether it looks at the weights themselves.
        depth: the option that says after how much of the blocks it stops; "" where it runs all of them.
    """

    loss: Callable[["Step"], torch.Tensor]
    teachers: tuple[Teacher, ...] = ()
    taught: tuple[Part, ...] = ("retained",)
    start_log_p: bool = False
    l1: bool = False
    depth: str = ""

    @property
    def needs_teacher(self) -> bool:
        return bool(self.teachers)


@dataclass(frozen=True)
class Step:
    """One micro-batch of an optimiser step.

    Attributes:
        parts: what it holds; a part that no record of this batch belongs to is not there.
        progress: the part of the training that is done, from 0 to 1.
        alpha: the method's strength.
        options: the method's other settings.
        passes: runs the models.
        batches: how many micro-batches the mean is over; 1 where items are counted.
        rule: the method's step rule, None without one.
        seed: of whatever is drawn once.
    """

    parts: Mapping[Part, "Branch"]
    progress: float
    alpha: float
    options: Mapping[str, float]
    passes: "Passes"
    batches: int = 1
    rule: Any = None
    seed: int = 0

    @property
    def forget(self) -> "Branch":
        """S."""
        return self.parts["forget"]

    @property
    def retained(self) -> "Branch":
        """L."""
        return self.parts["retained"]

    @property
    def instead(self) -> "Branch":
        """What is to be said in S's place."""
        return self.parts["instead"]

    def l1_penalty(self) -> torch.Tensor:
        """What this batch bears of the L1 norm of the trained weights, whose weight falls from alpha to 0."""
        trained = (weight for weight in self.passes.model.parameters() if weight.requires_grad)
        return l1_weight(self.alpha, self.progress) * l1_norm(trained) / self.batches


@dataclass(frozen=True)
class InStep:
    """How many there are in the whole optimiser step, of one part.

    Attributes:
        items: labelled tokens or words, or records of a text classifier; None where nobody counts, and the trainer
            averages over the micro-batches.
        records: rows of the batches.
        processes: over how many of them a gradient is averaged.
    """

    items: torch.Tensor | int | None
    records: torch.Tensor | int | None
    processes: int


class Branch:
    """The records of one part of a micro-batch.

    Args:
        batch: what the model reads, and ``labels``.
        passes: runs the models.
        in_step: what a mean is over.
        own: runs the model with its own loss: the loss as it adds up, and the outputs; None for S, of which every
            objective takes its own view.
        start_log_p: log-probabilities under the start, in nats, shape (records,); None where none are kept.
    """

    def __init__(
        self,
        batch: Batch,
        passes: "Passes",
        in_step: InStep,
        own: Callable[[], tuple[torch.Tensor, Any]] | None = None,
        start_log_p: torch.Tensor | None = None,
    ):
        # A label smoother takes the labels out of what it is given.
        self.batch, self.labels = batch, batch["labels"]
        self.passes, self.in_step = passes, in_step
        self._next_token = TASKS[passes.task].next_token
        self._own, self._start_log_p = own, start_log_p
        self._of_teachers: dict[tuple[Teacher, float | None], torch.Tensor] = {}

    # What the trained model makes of it

    @cached_property
    def _run(self) -> tuple[torch.Tensor | None, Any]:
        return (None, self.passes.run(self.batch)) if self._own is None else self._own()

    @property
    def loss(self) -> torch.Tensor:
        """The model's own loss on L, a scalar whose sum over the step is the mean over its items."""
        loss, _ = self._run
        assert loss is not None
        return loss

    @property
    def outputs(self) -> Any:
        """The model's outputs."""
        return self._run[1]

    @cached_property
    def rows(self) -> torch.Tensor:
        """Logits, item after item, shape (items, vocabulary or classes)."""
        return labelled_rows(self.outputs.logits, self.labels, self._next_token)

    @cached_property
    def items(self) -> Items:
        """The labelled items; raises InputError when a record has none."""
        return labelled_items(self.outputs.logits, self.labels, self._next_token)

    def hidden(self, depth: float) -> Items:
        """The labelled items with the hidden states after so much of the blocks (0 to 1) in the place of logits."""
        states = self.passes.hidden(self.batch, depth)
        return labelled_items(states, self.labels, self._next_token)

    # What other models make of it

    def teacher_logits(self, teacher: Teacher = "original") -> torch.Tensor:
        """A teacher's logits, shape (items, vocabulary or classes)."""
        return self._of_teacher(teacher, None)

    def teacher_hidden(self, depth: float) -> torch.Tensor:
        """The original's hidden states, shape (items, features); see :meth:`hidden`."""
        return self._of_teacher("original", depth)

    def _of_teacher(self, teacher: Teacher, depth: float | None) -> torch.Tensor:
        if (teacher, depth) not in self._of_teachers:
            values = self.passes.of_teacher(teacher, {**self.batch, "labels": self.labels}, depth)
            self._of_teachers[teacher, depth] = labelled_rows(values, self.labels, self._next_token)
        return self._of_teachers[teacher, depth]

    @property
    def start_log_p(self) -> torch.Tensor:
        """The log-probability of each record under the start, found out before; in nats, shape (records,)."""
        assert self._start_log_p is not None
        return self._start_log_p

    # Means over the step

    @property
    def share(self) -> torch.Tensor | float:
        """What one item counts in the step."""
        items, processes = self.in_step.items, self.in_step.processes
        return 1 / max(1, len(self.rows)) if items is None else processes / items

    @property
    def items_in_step(self) -> torch.Tensor | int:
        """How many items the step has, where they are counted."""
        assert self.in_step.items is not None
        return self.in_step.items

    def mean_of_items(self, values: torch.Tensor) -> torch.Tensor:
        """What this batch adds to the mean over the items of the step; of values of shape (items,)."""
        return values.sum() * (self.in_step.processes / self.items_in_step)

    def mean_of_records(self, values: torch.Tensor) -> torch.Tensor:
        """What this batch adds to the mean over the records of the step; of values of shape (records,)."""
        assert self.in_step.records is not None
        return values.sum() * (self.in_step.processes / self.in_step.records)


class Passes:
    """Runs the trained model and its teachers; ``autocast`` makes what a teacher runs in.

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

    def run(self, batch: Batch, gradients: int = 1) -> Any:
        """The trained model's outputs, without its own loss; so many passes back are counted with it."""
        self.trained(batch, gradients)
        return self.wrapped(**self._read(batch))

    def trained(self, batch: Batch, gradients: int = 1) -> None:
        """Count a pass of the trained model on a batch, forward and so often back."""
        step, forward = self._price("trained", self.model, None)
        self.flops += self._tokens(batch) * (forward + gradients * (step - forward))

    def hidden(self, batch: Batch, depth: float) -> torch.Tensor:
        """The trained model's states after its blocks up to a depth (0 to 1), shape (records, positions, features).

        The blocks after it are not run.
        """
        plain = plain_model(self.model)
        count = blocks_until(plain, depth)
        self.flops += self._tokens(batch) * self._price("trained", self.model, count)[0]
        return _cut(plain, self.wrapped, self._read(batch), count)

    @torch.no_grad()
    def of_teacher(self, teacher: Teacher, batch: Batch, depth: float | None = None) -> torch.Tensor:
        """A teacher's logits, or hidden states where a depth is given; see :meth:`hidden`."""
        model = self.teachers[teacher]
        plain = plain_model(model)
        count = None if depth is None else blocks_until(plain, depth)
        self.flops += self._tokens(batch) * self._price(teacher, model, count)[1]
        with self.autocast():
            if count is None:
                return model(**self._read(batch)).logits
            return _cut(plain, model, self._read(batch), count)

    def _read(self, batch: Batch) -> Batch:
        # An encoder-decoder makes from the labels what it reads.
        return {name: values for name, values in batch.items() if name != "labels" or TASKS[self.task].two_texts}

    def _tokens(self, batch: Batch) -> float:
        tokens = batch["input_ids"].numel()
        # Each text passes through half of the model.
        return (tokens + batch["labels"].numel()) / 2 if TASKS[self.task].two_texts else tokens

    def _price(self, name: str, model: Model, blocks: int | None) -> tuple[float, float]:
        if (name, blocks) not in self._prices:
            until = None if blocks is None else names_until(plain_model(model), blocks)
            self._prices[name, blocks] = flops_per_token(model, until)
        return self._prices[name, blocks]


def _cut(plain: PreTrainedModel, called: nn.Module, read: Batch, count: int) -> torch.Tensor:
    with first_blocks(plain, count) as (states, options):
        called(**read, **options)
    return states[0]


def in_parts(inputs: dict[str, Any]) -> Iterable[Batch]:
    """The batches that a batch holds: one for each part, or itself."""
    return [inputs] if "input_ids" in inputs else inputs.values()


def count(batch: Mapping[str, Batch], next_token: bool) -> torch.Tensor:
    """How many items and records each part of a batch has, int64 of shape (parts, 2)."""
    labels = [labels_in_place(batch[part]["labels"], next_token) if part in batch else None for part in PARTS]
    return torch.tensor([[0, 0] if of is None else [int((of != IGNORED).sum()), len(of)] for of in labels])
