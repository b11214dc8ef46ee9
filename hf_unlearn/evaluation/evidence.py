"""The sets of records that every model of a run is measured on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch import nn

from ..data import RecordEncoder, encode
from ..errors import InputError
from ..masking import TokenMasking
from ..tables import AnyDataset
from ..tasks import TASKS, Task
from .report import SetName, written_whole
from .scoring import score
from .verdict import Losses

# S and H are scored whole; of L and the test split this many records give the losses well enough.
SAMPLE_ROWS = 1000


@dataclass
class EvidenceSets:
    """Encoded records, by set.

    Attributes:
        task: what the models do.
        sets: the examples of each set.
        sampled: the sets of which these are a random part.
        collator: stacks examples.
        batch_size: examples in a forward pass.
    """

    task: Task
    sets: dict[SetName, Dataset]
    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    batch_size: int
    sampled: set[SetName] = field(default_factory=set)

    def score(
        self, model: nn.Module, context: Callable[[], AbstractContextManager] = nullcontext
    ) -> dict[SetName, pa.Table]:
        """Score a model on every set (see :func:`~hf_unlearn.evaluation.scoring.score`).

        Raises:
            InputError: what the model makes of a record is no number.
        """
        tables = {
            name: score(model, part, self.collator, task=self.task, batch_size=self.batch_size, context=context)
            for name, part in self.sets.items()
        }
        for name, table in tables.items():
            bad = np.count_nonzero(~np.isfinite(table["loss"].to_numpy()))
            if bad:
                raise InputError(
                    f"The loss of {bad:,} of {table.num_rows:,} {name} records is no number, so the model's weights "
                    "are damaged or too large for their type; if they came from this training, lower the learning "
                    "rate or use bf16 instead of fp16."
                )
        return tables

    @property
    def tokens(self) -> int:
        """Tokens that one scoring reads; of two texts each passes through half of the model."""
        columns = ("input_ids", "labels") if TASKS[self.task].two_texts else ("input_ids",)
        read = sum(len(ids) for part in self.sets.values() for column in columns for ids in part[column])
        return read // len(columns)

    def halves(self, seed: int) -> tuple["EvidenceSets", "EvidenceSets"]:
        """Two parts with half of the records of S and H each, and all of the others."""
        parts: tuple[dict[SetName, Dataset], dict[SetName, Dataset]] = (dict(self.sets), dict(self.sets))
        for name in ("forget", "holdout"):
            if name in self.sets:
                rows = np.array(self.sets[name]["row"])
                drawn = np.random.default_rng(seed).permutation(np.unique(rows))
                first = np.isin(rows, drawn[: len(drawn) // 2])
                for part, mask in zip(parts, (first, ~first), strict=True):
                    part[name] = self.sets[name].select(np.flatnonzero(mask))
        first_half, second_half = (
            EvidenceSets(self.task, part, self.collator, self.batch_size, self.sampled) for part in parts
        )
        return first_half, second_half

    def at_most(self, records: int, seed: int) -> "EvidenceSets":
        """The same sets with at most so many records, drawn at random, in each."""
        sets = {name: _draw(part, records, seed) for name, part in self.sets.items()}
        return EvidenceSets(self.task, sets, self.collator, self.batch_size, self.sampled)


def evidence_sets(
    records: Mapping[SetName, AnyDataset | None],
    encoder: RecordEncoder | None,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    task: Task,
    batch_size: int,
    seed: int,
    masking: TokenMasking | None = None,
) -> EvidenceSets:
    """Encode the sets to measure on; of L and the test split a random part.

    Args:
        records: records, or examples that are encoded already, by set; None for a set that there is none of.
        encoder: how to read records; None when all are examples.
        collator: stacks examples.
        task: what the models do.
        batch_size: examples in a forward pass.
        seed: of the random parts.
        masking: hides what a masked language model has to guess, in the same way for every model.

    Raises:
        InputError: a set has no record, or some sets are encoded and some are not.
    """
    sets: dict[SetName, Dataset] = {}
    sampled: set[SetName] = set()
    for name, part in records.items():
        if part is None:
            continue
        whole = name in ("forget", "holdout")
        if not isinstance(part, Dataset):
            part = Dataset.from_list(list(part if whole else part.take(SAMPLE_ROWS)), features=part.features)
            if not whole:
                sampled.add(name)
        elif not whole and len(part) > SAMPLE_ROWS:
            part = part.select(_choice(len(part), SAMPLE_ROWS, seed))
            sampled.add(name)
        if len(part) == 0:
            raise InputError(f"The {name} set is empty; leave it out or put records in it.")
        if "input_ids" in part.column_names:
            sets[name] = with_rows(part)
        elif encoder is not None:
            sets[name] = encode(part, encoder, name)
        else:
            raise InputError(f"The retained set is tokenised but the {name} set is not; tokenise both or neither.")
        if masking is not None:
            sets[name] = masking.fixed(sets[name])
    return EvidenceSets(task, sets, collator, batch_size, sampled)


def losses(tables: Mapping[SetName, pa.Table]) -> Losses | None:
    """The losses of S and H that a verdict rests on, None unless both were scored."""
    if "forget" not in tables or "holdout" not in tables:
        return None
    return Losses(tables["forget"]["loss"].to_numpy(), tables["holdout"]["loss"].to_numpy())


def save_tables(tables: dict[str, dict[SetName, pa.Table]], folder: Path) -> None:
    """Write what each model makes of each record, one parquet file a model; rows are positions within their set."""
    folder.mkdir(parents=True, exist_ok=True)
    for arm, sets in tables.items():
        parts = [table.append_column("set", pa.array([name] * table.num_rows)) for name, table in sets.items()]
        with written_whole(folder / f"{arm}.parquet") as temporary:
            pq.write_table(pa.concat_tables(parts), temporary)


def with_rows(examples: Dataset) -> Dataset:
    """Examples with the column ``row``; where it is missing each example is a record."""
    if "row" in examples.column_names:
        return examples
    return examples.add_column("row", list(range(len(examples))))


def _draw(examples: Dataset, records: int, seed: int) -> Dataset:
    rows = np.array(examples["row"])
    unique = np.unique(rows)
    if len(unique) <= records:
        return examples
    return examples.select(np.flatnonzero(np.isin(rows, unique[_choice(len(unique), records, seed)])))


def _choice(n: int, size: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).choice(n, size, replace=False))
