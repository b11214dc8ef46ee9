"""The last batches of an epoch on several processes, which would otherwise count some records twice."""

from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset
from torch.utils.data import Dataset as MapDataset
from torch.utils.data import RandomSampler, Sampler
from transformers import TrainingArguments

from ..models.tasks import IGNORED


def repeated(rows: Any, batch: int, processes: int) -> int:
    """How many rows come again in an epoch, so that all processes take equally many batches of one size.

    It is 0 for a stream, of which nobody knows the number of rows.
    """
    return -len(rows) % (batch * processes) if processes > 1 and isinstance(rows, Sized) else 0


class FilledUp(MapDataset[dict[str, Any]]):
    """Examples, and after them so many of the first ones again, without labels."""

    def __init__(self, examples: Dataset, more: int):
        self.examples, self.size = examples, len(examples) + more

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> dict[str, Any]:
        """An example; one that fills up teaches nothing, and is read only so that the processes meet."""
        example = self.examples[place % len(self.examples)]
        if place < len(self.examples):
            return example
        labels = example["labels"]
        return {**example, "labels": IGNORED if isinstance(labels, int) else [IGNORED] * len(labels)}


class ThenFilledUp(Sampler[int]):
    """The places of an epoch in the order of another sampler, and then those that fill up.

    A random order follows from the seed and the epoch, as Accelerate makes it for every process.
    """

    def __init__(self, sampler: Sampler[int], filled: FilledUp, seed: int | None):
        if isinstance(sampler, RandomSampler):
            generator = sampler.generator or torch.Generator()
            sampler = SeedableRandomSampler(sampler.data_source, generator=generator, data_seed=seed)
        self.sampler, self.filled = sampler, filled

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; Accelerate calls this."""
        if isinstance(self.sampler, SeedableRandomSampler):
            self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.filled)

    def __iter__(self) -> Iterator[int]:
        yield from self.sampler
        yield from range(len(self.filled.examples), len(self.filled))


def filled_up(
    examples: Dataset, sampler: Sampler[int], more: int, args: TrainingArguments
) -> tuple[FilledUp, Callable[[Any], Sampler[int]]]:
    """Examples with so many more that teach nothing, and what gives their order."""
    filled = FilledUp(examples, more)
    order = ThenFilledUp(sampler, filled, args.data_seed)
    return filled, lambda _: order
