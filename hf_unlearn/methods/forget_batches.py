"""What comes in the batches of a method that uses S, and in which order: draws, their examples, and their batches.

Every draw follows from the seed and its place in the whole training alone. So the batches are the same for any number
of processes that make steps of the same size, and after an interruption.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import Sampler

from ..models.tasks import IGNORED
from .items import other_labels, skip_first
from .step import PARTS, Part

COLUMNS = ["input_ids", "attention_mask", "labels"]
# Streams of random numbers.
OF_FORGET, OF_RETAINED, OF_LABELS, OF_REPLACEMENTS = range(4)


@dataclass(frozen=True)
class TrainingData:
    """What a method trains on; by default on L alone, as any training.

    Attributes:
        forget: whether S is used; its epochs are then counted on S.
        retained: whether L is used. Beside S one record of L comes with each of S, drawn without replacement, on and
            on across the epochs.
        alternating: whether an epoch is a pass over S and then one over L. Each is filled up to whole optimiser steps.
        forget_epochs: the first so many epochs have S in them, later ones have more of L in its place; None for all.
        relabelled: whether S comes with other labels, drawn anew in each epoch.
        skipped: how many labels at the beginning of each record of S are left alone.
        instead: what is to be said in the place of S and comes beside it; None for nothing.
    """

    forget: bool = False
    retained: bool = True
    alternating: bool = False
    forget_epochs: int | None = None
    relabelled: bool = False
    skipped: int = 0
    instead: Literal["refusals", "alternates"] | None = None


RETAINED_ALONE = TrainingData()
FORGET_ALONE = TrainingData(forget=True, retained=False)
PAIRED = TrainingData(forget=True)


def drawn(seed: int, stream: int, start: int, count: int, size: int) -> np.ndarray:
    """So many rows of an endless sequence of permutations of ``size`` rows, from the place ``start`` on; int64.

    All rows come before any comes again. The seed and the stream say which sequence it is.
    """
    turns = range(start // size, (start + count - 1) // size + 1)
    rows = [np.random.default_rng([seed, stream, turn]).permutation(size) for turn in turns]
    first = start - turns.start * size
    return np.concatenate([*rows, np.zeros(0, np.int64)])[first : first + count]


@dataclass(frozen=True)
class Draw:
    """One place of the training.

    Attributes:
        place: in the sequence of S, counted over all epochs.
        forget, retained: rows; None where the place has none.
    """

    place: int
    forget: int | None
    retained: int | None


class Draws(Sampler[Draw]):
    """The draws of an epoch, in order; an optimiser step of all processes takes ``step`` of them."""

    def __init__(self, data: TrainingData, forget: int, retained: int, step: int, seed: int):
        self.data, self.forget, self.retained, self.seed = data, forget, retained, seed
        self.whole = [-(-size // step) * step for size in (forget, retained)]
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; Accelerate calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.whole) if self.data.alternating else self.forget

    def __iter__(self) -> Iterator[Draw]:
        return self._phases() if self.data.alternating else self._pairs()

    def _pairs(self) -> Iterator[Draw]:
        start = self.epoch * self.forget
        of_forget = drawn(self.seed, OF_FORGET, start, self.forget, self.forget)
        of_retained: Sequence[int | None] = [None] * self.forget
        if self.data.retained:
            of_retained = drawn(self.seed, OF_RETAINED, start, self.forget, self.retained).tolist()
        for i, row in enumerate(of_forget.tolist()):
            yield Draw(start + i, row, of_retained[i])

    def _phases(self) -> Iterator[Draw]:
        forget, retained = self.whole
        limit = self.epoch + 1 if self.data.forget_epochs is None else self.data.forget_epochs
        with_forget = self.epoch < limit
        start = self.epoch * forget
        if with_forget:
            for i, row in enumerate(drawn(self.seed, OF_FORGET, start, forget, self.forget).tolist()):
                yield Draw(start + i, row, None)
        begun = self.epoch * retained + max(0, self.epoch - limit) * forget
        count = retained if with_forget else retained + forget
        for row in drawn(self.seed, OF_RETAINED, begun, count, self.retained).tolist():
            yield Draw(0, None, row)


class ForgetRetainedDataset(MapDataset[dict[Part, dict[str, Any]]]):
    """Fetches the examples that the draws say, from the set of each part.

    ``replacements`` holds for each example of S the rows of what may be said in its place.
    """

    def __init__(
        self,
        data: TrainingData,
        sets: dict[Part, Dataset],
        replacements: list[list[int]] | None,
        classes: int,
        draws: Draws,
    ):
        self.data, self.sets, self.replacements, self.classes, self.draws = data, sets, replacements, classes, draws

    def __len__(self) -> int:
        return len(self.draws)

    def rows(self, draw: Draw) -> dict[Part, int]:
        """The rows of a draw by part."""
        rows: dict[Part, int | None] = {"forget": draw.forget, "retained": draw.retained}
        if draw.forget is not None and self.replacements is not None:
            possible = self.replacements[draw.forget]
            # Another one in each epoch, until all had their turn.
            turn = draw.place // self.draws.forget
            order = np.random.default_rng([self.draws.seed, OF_REPLACEMENTS, draw.forget]).permutation(len(possible))
            rows["instead"] = possible[order[turn % len(possible)]]
        return {part: row for part, row in rows.items() if row is not None}

    def __getitem__(self, draw: Draw) -> dict[Part, dict[str, Any]]:
        """The examples of a draw by part, each with its row in its set, ``place``."""
        found: dict[Part, dict[str, Any]] = {}
        for part, row in self.rows(draw).items():
            example = self.sets[part][row]
            found[part] = {**{name: example[name] for name in COLUMNS}, "place": row}
        if draw.forget is not None and self.data.relabelled:
            found["forget"]["labels"] = self._other(found["forget"]["labels"], draw.place)
        if draw.forget is not None and self.data.skipped:
            found["forget"]["labels"] = skip_labels(found["forget"]["labels"], self.data.skipped)
        return found

    def _other(self, labels: Any, place: int) -> Any:
        seed = int(np.random.default_rng([self.draws.seed, OF_LABELS, place]).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        return other_labels(torch.as_tensor(labels), self.classes, generator).tolist()


def skip_labels(labels: list[int], count: int) -> list[int]:
    """The labels of a next-token example without the first ones that are predicted."""
    # The first token is predicted by nothing.
    return [IGNORED, *skip_first(torch.tensor([labels[1:]]), count)[0].tolist()]


class PartsCollator:
    """Stacks what the draws gave, each part for itself, as another collator stacks examples."""

    def __init__(self, collator: Callable[[list[dict]], dict[str, torch.Tensor]]):
        self.collator = collator

    def __call__(self, examples: list[dict[Part, dict[str, Any]]]) -> dict[str, dict[str, torch.Tensor]]:
        """Return for each part that is there what the collator returns, and ``place``, shape (records,)."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for part in PARTS:
            if own := [example[part] for example in examples if part in example]:
                plain = [{name: example[name] for name in COLUMNS} for example in own]
                found[part] = {**self.collator(plain), "place": torch.tensor([example["place"] for example in own])}
        return found
