"""The rows that a request names in one data set, and the taking of them out of it."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import ClassLabel, Dataset, IterableDataset
from datasets.table import InMemoryTable

from .digests import keyed_digest
from .duplicates import normalised_text
from .errors import InputError
from .requests import Matcher, PositionMatcher, Records
from .tables import AnyDataset, column_names, read_tables


class Selection:
    """A request at work on one data set: which rows it names and what it could not find."""

    def __init__(self, request: Records, name: str, dataset: AnyDataset):
        self.parts, self.name, self.class_names = request.parts, name, _class_names(dataset)
        self.columns = [column for part in self.parts for column in part.columns(column_names(dataset))]
        self.matchers: list[Matcher] = []
        self.masks: list[list[np.ndarray]] = []

    def look_at(self, table: pa.Table, start: int) -> None:
        if not self.matchers:
            self.matchers = [part.bind(table.schema, self.class_names) for part in self.parts]
            self.masks = [[] for _ in self.parts]
        for matcher, masks in zip(self.matchers, self.masks, strict=True):
            mask = matcher.mask(table, start)
            matcher.count(table, mask, start)
            masks.append(mask)

    def check(self, allow_unmatched: bool, dataset: AnyDataset) -> None:
        if not self.matchers:
            raise InputError("The data set is empty; there is nothing to forget.")
        for matcher in self.matchers:
            missing = np.flatnonzero(matcher.hits == 0)
            if len(missing) and not allow_unmatched:
                nearly = matcher.nearly(missing, read_tables(dataset, self.columns))
                hint = f"it has {nearly} of them in another case, white space or Unicode form; " if nearly else ""
                raise InputError(
                    f"{self.name} names {len(missing)} of {len(matcher.hits)} records that the data set does not have "
                    f"({matcher.place(missing)}); {hint}correct them, or go on without them with --allow_unmatched."
                )
            repeated = np.flatnonzero(matcher.hits > 1)
            if matcher.unique and len(repeated):
                raise InputError(
                    f"{len(repeated)} ids belong to more than one row of the data set ({matcher.place(repeated)}), "
                    "although they must be unique."
                )

        if not allow_unmatched and not self.mask().any():
            raise InputError(f"{self.name} names no record of the data set; there is nothing to do.")

    def mask(self) -> np.ndarray:
        return np.logical_or.reduce([np.concatenate(masks) for masks in self.masks])

    def names(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table it names, by what is in the rows alone."""
        return np.logical_or.reduce([matcher.mask(table, 0) for matcher in self.matchers])

    @property
    def requested(self) -> int:
        return sum(len(matcher.hits) for matcher in self.matchers)

    @property
    def unmatched(self) -> int:
        return sum(int(np.count_nonzero(matcher.hits == 0)) for matcher in self.matchers)

    def digest(self, key: bytes) -> str:
        named = zip(self.matchers, self.masks, strict=True)
        return keyed_digest(
            key, (text for matcher, masks in named for text in matcher.digestible(np.concatenate(masks)))
        )


def _class_names(dataset: AnyDataset) -> dict[str, list[str]]:
    features = dataset.features or {}
    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


def select_rows(dataset: AnyDataset, selections: Sequence[Selection], allow_unmatched: bool) -> None:
    """Look through D once for the rows that each selection names.

    Raises:
        InputError: an empty data set, a wrong type, something unmatched or repeated.
    """
    for table, start in read_tables(dataset, [column for part in selections for column in part.columns]):
        for part in selections:
            part.look_at(table, start)
    for part in selections:
        part.check(allow_unmatched, dataset)


class RowTaker:
    """Takes the rows of a part out of the data set.

    Args:
        dataset: D.
        forget, held_out: what the requests name.
        columns: those that carry the text.
        moved: normalised texts whose rows belong to S, too.
    """

    def __init__(
        self,
        dataset: AnyDataset,
        forget: Selection,
        held_out: Selection | None,
        columns: Sequence[str],
        moved: pa.Array,
    ):
        self.dataset, self.forget, self.held_out = dataset, forget, held_out
        self.columns, self.moved = columns, moved
        matchers = forget.matchers + (held_out.matchers if held_out else [])
        self.by_position = any(isinstance(matcher, PositionMatcher) for matcher in matchers)
        if self.by_position and isinstance(dataset, IterableDataset) and dataset.num_shards > 1:
            raise InputError(
                f"Rows of a stream of {dataset.num_shards} shards have no fixed position; name them by id instead."
            )

    def __call__(self, mask: np.ndarray, part: Literal["retained", "forget", "holdout"]) -> AnyDataset:
        if isinstance(self.dataset, Dataset):
            return _take_rows(self.dataset, np.flatnonzero(mask))
        features = self.dataset.features
        stream = self.dataset.with_format("arrow")
        if self.by_position:
            kept = stream.filter(lambda table, rows: pa.array(mask[rows]), with_indices=True, batched=True)
        else:
            kept = stream.filter(self._belongs_to(part), batched=True)
        kept = kept.with_format(None)
        return kept if features is None else kept.cast(features)

    def _belongs_to(self, part: str) -> Callable[[pa.Table], pa.Array]:
        forget, held_out, columns, moved = self.forget, self.held_out, self.columns, self.moved

        def belongs(table: pa.Table) -> pa.Array:
            in_holdout = held_out.names(table) if held_out else np.zeros(table.num_rows, bool)
            in_forget = forget.names(table)
            if len(moved):
                copied = np.asarray(pc.is_in(normalised_text(table, columns), value_set=moved))
                in_forget |= copied & ~in_holdout
            wanted = {"forget": in_forget, "holdout": in_holdout, "retained": ~(in_forget | in_holdout)}
            return pa.array(wanted[part])

        return belongs


def _take_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """``dataset.select(rows)`` for an array: the same index mapping without a walk over a Python list of a million."""
    indices = pa.array(rows, type=pa.uint64())
    if dataset._indices is not None:
        indices = dataset._indices.column(0).take(indices)
    part = Dataset(
        dataset.data,
        info=dataset.info.copy(),
        split=dataset.split,
        indices_table=InMemoryTable(pa.table({"indices": indices})),
        fingerprint=xxhash.xxh64(dataset._fingerprint.encode() + rows.tobytes()).hexdigest(),
    )
    form = dataset.format
    return part.with_format(form["type"], form["columns"], form["output_all_columns"], **form["format_kwargs"])
