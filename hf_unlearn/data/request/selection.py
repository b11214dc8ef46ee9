"""Finds the rows that requests name in a data set, and takes them out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from datasets import Dataset, Features, IterableDataset
from datasets.table import InMemoryTable

from ...errors import InputError
from ..arrow_tables import AnyDataset, column_names, plain_table, read_tables
from ..copies.exact import normalised_text
from .digest_selector import Digested, DigestMatcher
from .digests import keyed_digest
from .records import Matcher, Named, PositionMatcher, Records


class Selection:
    """A request bound to one data set: which rows it names, and what was not found.

    Messages show ``name``. What was forgotten before, ``known``, is left out of the request.

    Attributes:
        named: what each part of the request names, including what was forgotten before.
        honoured: how much of each part was forgotten before.
    """

    def __init__(self, request: Records, name: str, dataset: AnyDataset, known: Records | None = None):
        self.parts, self.name = request.parts, name
        self.features = dataset.features or Features({})
        self.known = known.parts if known else ()
        self.columns = [column for part in self.parts for column in part.columns(column_names(dataset))]
        self.matchers: list[Matcher] = []
        self.masks: list[list[np.ndarray]] = []
        self.named: list[Named | None] = []
        self.honoured: list[int] = []

    def search(self, table: pa.Table, start: int) -> None:
        if not self.matchers:
            self.matchers = [part.bind(table.schema, self.features) for part in self.parts]
            self.masks = [[] for _ in self.parts]
            self.named = [matcher.named() for matcher in self.matchers]
            self.honoured = [self._leave_out(matcher, table.schema) for matcher in self.matchers]
        for matcher, masks in zip(self.matchers, self.masks, strict=True):
            mask = matcher.mask(table, start)
            matcher.count(table, mask, start)
            masks.append(mask)

    def _leave_out(self, matcher: Matcher, schema: pa.Schema) -> int:
        """Drop what was forgotten before from a part of the request, and count it."""
        asked = len(matcher.hits)
        for part in self.known:
            named = matcher.named()
            if named is None or not isinstance(part, Digested):
                continue
            if (named.columns, named.whole_rows) == (part.names, part.whole_rows):
                known = part.bind(schema, self.features).known(named.texts)
                matcher.keep(np.array([text not in known for text in named.texts], dtype=bool))
        return asked - len(matcher.hits)

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
                    f"({matcher.place(missing)}); {hint}correct them, or leave them out with --allow_unmatched "
                    "(in Python, allow_unmatched=True)."
                )
        if not allow_unmatched and not any(self.honoured) and not self.mask().any():
            raise InputError(f"{self.name} names no record of the data set; correct it.")

    def check_earlier(self, allow_unmatched: bool, gone: np.ndarray) -> int:
        """How much of what earlier requests named D lacks; raises InputError where it may be there in another form.

        ``gone``: the rows that are in S now, bool of shape (rows,).
        """
        return sum(one.check(allow_unmatched, gone) for one in self.matchers if isinstance(one, DigestMatcher))

    def mask(self) -> np.ndarray:
        return np.logical_or.reduce([np.concatenate(masks) for masks in self.masks])

    def names(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table it names, without their positions."""
        return np.logical_or.reduce([matcher.mask(table, 0) for matcher in self.matchers])

    @property
    def requested(self) -> int:
        return sum(len(matcher.hits) for matcher in self.matchers)

    @property
    def unmatched(self) -> int:
        return sum(int(np.count_nonzero(matcher.hits == 0)) for matcher in self.matchers)

    def digest(self, key: bytes) -> str:
        named = zip(self.matchers, self.masks, strict=True)
        texts = (text for matcher, masks in named for text in matcher.digestible(np.concatenate(masks)))
        return keyed_digest(key, texts)


def select_rows(dataset: AnyDataset, selections: Sequence[Selection]) -> None:
    """Read D once to find the rows that each selection names; raises InputError for a wrong type."""
    for table, start in read_tables(dataset, [column for part in selections for column in part.columns]):
        for part in selections:
            part.search(table, start)


@dataclass(frozen=True)
class Selections:
    """The requests for S and H, and for what was forgotten before.

    Attributes:
        ask_again: whether what was forgotten before may be in S, to measure it again.
    """

    forget: Selection
    held_out: Selection | None
    before: Selection | None
    ask_again: bool

    @property
    def all(self) -> list[Selection]:
        return [part for part in (self.forget, self.held_out, self.before) if part]

    @property
    def columns(self) -> set[str]:
        """The columns that a request names; they hold ids, not what a record says."""
        return {column for part in (self.forget, self.held_out) if part for column in part.columns}

    def masks(self, of: Callable[[Selection], np.ndarray]) -> "Masks":
        """Which rows belong to which part; ``of`` finds the rows that one request names."""
        forget = of(self.forget)
        nothing = np.zeros_like(forget)
        before = of(self.before) if self.before else nothing
        if self.ask_again:
            before = before & ~forget
        held_out = of(self.held_out) if self.held_out else nothing
        return Masks(forget & ~before, held_out & ~before, before)


@dataclass(frozen=True)
class Masks:
    """Which rows belong to S, to H, or were forgotten before: bool of shape (rows of D and H,) each."""

    forget: np.ndarray
    held_out: np.ndarray
    before: np.ndarray

    @property
    def retained(self) -> np.ndarray:
        return ~(self.forget | self.held_out | self.before)


class RowTaker:
    """Takes the rows of one part out of D.

    Rows with one of the normalised texts ``moved``, in the columns that carry the text, also belong to S.
    """

    def __init__(self, dataset: AnyDataset, selections: Selections, columns: Sequence[str], moved: pa.Array):
        self.dataset, self.selections = dataset, selections
        self.columns, self.moved = columns, moved
        matchers = [matcher for part in selections.all for matcher in part.matchers]
        self.by_position = any(isinstance(matcher, PositionMatcher) for matcher in matchers)
        if self.by_position and isinstance(dataset, IterableDataset) and dataset.num_shards > 1:
            raise InputError(
                f"The rows of a stream of {dataset.num_shards} shards have no fixed position; name them by id instead."
            )

    def __call__(self, mask: np.ndarray, part: Literal["retained", "forget", "held_out"]) -> AnyDataset:
        if isinstance(self.dataset, Dataset):
            return take_rows(self.dataset, np.flatnonzero(mask))
        features = self.dataset.features
        # Arrow filters no views, not even inside of lists.
        stream = self.dataset.with_format("arrow").map(plain_table, batched=True)
        if self.by_position:
            kept = stream.filter(lambda table, rows: pa.array(mask[rows]), with_indices=True, batched=True)
        else:
            kept = stream.filter(self._belongs_to(part), batched=True)
        kept = kept.with_format(None)
        return kept if features is None else kept.cast(features)

    def _belongs_to(self, part: str) -> Callable[[pa.Table], pa.Array]:
        selections, columns, moved = self.selections, self.columns, self.moved

        def belongs(table: pa.Table) -> pa.Array:
            masks = selections.masks(lambda selection: selection.names(table))
            if len(moved):
                copied = np.asarray(pc.is_in(normalised_text(table, columns), value_set=moved))
                masks = replace(masks, forget=masks.forget | (copied & masks.retained))
            wanted = {"forget": masks.forget, "held_out": masks.held_out, "retained": masks.retained}
            return pa.array(wanted[part])

        return belongs


def take_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """``dataset.select(rows)`` for an array, without walking over a Python list of a million rows."""
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
