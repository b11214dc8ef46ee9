"""Which records a request names: by ids or other column values, row positions, equal rows, or a predicate.

A request is first bound to the columns of a data set, which checks the types. Then each table is searched for the rows
that it names. What was found is counted, so that a missing record is always reported.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value

from ...errors import InputError, guarded
from ..arrow_tables import listed, read_tables, require_columns, texts_of_keys
from ..canonical import comparable, content_keys, id_texts
from .id_files import read_ids
from .values import requested_texts

MAX_LINES_SHOWN = 10


@dataclass(frozen=True)
class Records:
    """Names records of a data set; ``|`` unites requests.

    Make one with :meth:`ids`, :meth:`ids_from_file`, :meth:`where`, :meth:`rows`, :meth:`like` or :meth:`matching`.

    >>> request = Records.ids("customer_id", ["c-017"]) | Records.where("source", "scraped")
    """

    parts: tuple["Selector", ...]

    @classmethod
    def ids(cls, column: str, ids: Iterable[Any]) -> "Records":
        """Name rows by the ids in a column.

        Args:
            column: the column that holds the ids.
            ids: strings, integers, booleans, floats or dates, of the column's own type (``"7"`` is not 7).

        Raises:
            InputError: no ids, or ids of several types.
        """
        return cls((Values(column, tuple(ids), are_ids=True),))

    @classmethod
    def ids_from_file(cls, column: str, path: str | Path) -> "Records":
        """Name rows by a file of ids, one per line.

        Args:
            column: the column that holds the ids.
            path: ``.txt`` (one id per line), ``.csv`` (the column of that name, or the only one) or ``.jsonl`` (plain
                values, or objects with a key of that name). Ids in text and CSV are read as values of the column's
                type.

        Raises:
            InputError: the file cannot be read as one of these.
        """
        values, lines = read_ids(Path(path), column)
        untyped = Path(path).suffix != ".jsonl"
        return cls((Values(column, values, lines, Path(path).name, untyped=untyped, are_ids=True),))

    @classmethod
    def where(cls, column: str, *values: Any) -> "Records":
        """Name every row whose column holds one of the values, as in ``Records.where("author", "Jane Doe")``."""
        return cls((Values(column, values),))

    @classmethod
    def where_text(cls, column: str, *values: str) -> "Records":
        """As :meth:`where`, for text from a command line that is read as the column's type."""
        return cls((Values(column, values, untyped=True),))

    @classmethod
    def rows(cls, indices: Iterable[int]) -> "Records":
        """Name rows by their position in the data set, counted from 0."""
        return cls((Positions(tuple(indices)),))

    @classmethod
    def like(cls, dataset: Dataset) -> "Records":
        """Name every row that equals a row of another data set in all of that data set's columns."""
        return cls((Contents(dataset),))

    @classmethod
    def matching(cls, predicate: Callable[[dict[str, Any]], bool]) -> "Records":
        """Name every row (a dict of its columns) for which the predicate is true."""
        return cls((Predicate(predicate),))

    def __or__(self, other: "Records") -> "Records":
        return Records(self.parts + other.parts)


class Selector(ABC):
    """One part of a request."""

    @abstractmethod
    def columns(self, available: Sequence[str]) -> list[str]:
        """The columns it reads; raises InputError when the data set lacks one."""

    @abstractmethod
    def bind(self, schema: pa.Schema, features: Features) -> "Matcher":
        """Bind it to tables of this schema, with these features; raises InputError when a type does not fit."""


@dataclass(frozen=True)
class Named:
    """What a request names, in a form that also finds it in other versions of the data set.

    Attributes:
        columns, whole_rows: as in :class:`~hf_unlearn.data.request.digests.ForgottenDigests`.
        texts: one string for each id or row, for its keyed digest.
    """

    columns: list[str]
    whole_rows: bool
    texts: list[str]


class Matcher(ABC):
    """A selector bound to a data set: finds the rows of a table that it names, and counts what it found.

    Attributes:
        hits: rows found for each of the ids, values, positions or rows that are named, int64.
        source: the file that names them, empty without one.
    """

    def __init__(self, requested: int, source: str = "", lines: Sequence[int] = ()):
        self.hits = np.zeros(requested, dtype=np.int64)
        self.source = source
        self.unit = "line" if lines else "position"
        self.places = np.array(lines or range(1, requested + 1), dtype=np.int64)

    @abstractmethod
    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        """Which rows of the table are named, bool of shape (rows,); ``start`` is the position of its first row."""

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:  # noqa: B027
        """Add the rows of a table, as found by :meth:`mask`, to ``hits``."""

    def digestible(self, mask: np.ndarray) -> list[str]:
        """What is named, as canonical strings for the keyed digest; ``mask``: the rows found in the whole data set."""
        return [f"\x1f{index}" for index in np.flatnonzero(mask)]

    def named(self) -> Named | None:
        """What it names; None where that is rows by their position or by a predicate."""
        return None

    def keep(self, wanted: np.ndarray) -> None:
        """Drop all but some of what is named, bool of the shape of ``hits``."""
        self.hits, self.places = self.hits[wanted], self.places[wanted]

    def nearly(self, missing: np.ndarray, tables: Iterable[tuple[pa.Table, int]]) -> int:
        """How many of the missing ids differ from an id of the data set in case, white space or Unicode form alone."""
        return 0

    def place(self, missing: np.ndarray) -> str:
        """Where the request names these, in words without their values."""
        numbers = self.places[missing].tolist()
        shown = ", ".join(map(str, numbers[:MAX_LINES_SHOWN])) + (", …" if len(numbers) > MAX_LINES_SHOWN else "")
        where = self.source if self.unit == "line" else "the request"
        return f"{self.unit}{'s' if len(numbers) > 1 else ''} {shown} of {where}"


class KeyMatcher(Matcher):
    """Names the rows that have one of some keys."""

    def __init__(self, keys: pa.Array, source: str = "", lines: Sequence[int] = ()):
        super().__init__(len(keys), source, lines)
        self.keys = keys

    @abstractmethod
    def keys_of(self, table: pa.Table) -> pa.ChunkedArray:
        """The key of each row."""

    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        return np.asarray(pc.is_in(self.keys_of(table), value_set=self.keys))

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:
        which = pc.index_in(self.keys_of(table.take(np.flatnonzero(mask))), value_set=self.keys)
        self.hits += np.bincount(np.asarray(which), minlength=len(self.hits))

    def keep(self, wanted: np.ndarray) -> None:
        super().keep(wanted)
        self.keys = self.keys.filter(pa.array(wanted))


# Values of a column


@dataclass(frozen=True)
class Values(Selector):
    """Rows whose column holds one of the values; ``are_ids`` says that each value is a record, customer or author."""

    column: str
    values: tuple[Any, ...] = field(repr=False)
    lines: tuple[int, ...] = ()
    source: str = ""
    untyped: bool = False
    are_ids: bool = False

    def __post_init__(self) -> None:
        if not self.values:
            raise InputError(f"The request names no value of column {self.column!r}; name one at least.")

    def columns(self, available: Sequence[str]) -> list[str]:
        return require_columns([self.column], available)

    def bind(self, schema: pa.Schema, features: Features) -> "ValueMatcher":
        column_type, feature = schema.field(self.column).type, features.get(self.column)
        texts = requested_texts(self.column, self.values, column_type, feature, self.untyped, self._place).to_pylist()
        first = {text: i for i, text in reversed(list(enumerate(texts)))}
        distinct = list(dict.fromkeys(texts))
        lines = [self.lines[first[text]] for text in distinct] if self.lines else ()
        return ValueMatcher(self.column, pa.array(distinct, pa.large_string()), feature, self.source, lines)

    def _place(self, position: int) -> str:
        if self.lines:
            return f"Line {self.lines[position]} of {self.source}"
        return f"Value {position + 1} of the request"


class ValueMatcher(KeyMatcher):
    def __init__(self, column: str, texts: pa.Array, feature: Any, source: str, lines: Sequence[int]):
        super().__init__(texts, source, lines)
        self.column, self.feature = column, feature

    def keys_of(self, table: pa.Table) -> pa.Array:
        return id_texts(table, self.column, self.feature)

    def nearly(self, missing: np.ndarray, tables: Iterable[tuple[pa.Table, int]]) -> int:
        wanted = _loosely(self.keys.take(missing))
        found = pa.chunked_array([_loosely(self.keys_of(table)).unique() for table, _ in tables], pa.large_string())
        return int(pc.sum(pc.is_in(wanted, value_set=found)).as_py() or 0)

    def digestible(self, mask: np.ndarray) -> list[str]:
        return self.named().texts

    def named(self) -> Named:
        return Named([self.column], False, [value_text(self.column, text) for text in self.keys.to_pylist()])


def value_text(column: str, text: str) -> str:
    """One string for a value of a column, for its keyed digest, from its text."""
    return f"{column}\x1f{text}"


def _loosely(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Text without case, Unicode form, white space and invisible characters."""
    text = pc.utf8_lower(pc.utf8_normalize(values.cast(pa.large_string()), "NFKC"))
    return pc.replace_substring_regex(text, r"[\pZ\pC]+", "")


# Positions


@dataclass(frozen=True)
class Positions(Selector):
    """Rows by position."""

    indices: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.indices:
            raise InputError("The request names no row; name one at least.")
        for place, index in enumerate(self.indices, start=1):
            if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
                raise InputError(f"Value {place} of the request is no row number; give whole numbers, counted from 0.")
            if index > np.iinfo(np.int64).max:
                raise InputError(f"Value {place} of the request is no row number; no data set has so many rows.")

    def columns(self, available: Sequence[str]) -> list[str]:
        return []

    def bind(self, schema: pa.Schema, features: Features) -> "PositionMatcher":
        return PositionMatcher(np.unique(np.array(self.indices, dtype=np.int64)))


class PositionMatcher(Matcher):
    def __init__(self, indices: np.ndarray):
        super().__init__(len(indices))
        self.indices = indices

    def _here(self, rows: int, start: int) -> slice:
        return slice(*np.searchsorted(self.indices, [start, start + rows]))

    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        mask = np.zeros(table.num_rows, dtype=bool)
        mask[self.indices[self._here(table.num_rows, start)] - start] = True
        return mask

    def count(self, table: pa.Table, mask: np.ndarray, start: int) -> None:
        self.hits[self._here(table.num_rows, start)] += 1

    def digestible(self, mask: np.ndarray) -> list[str]:
        return [f"\x1f{index}" for index in self.indices]


# Equal rows


@dataclass(frozen=True)
class Contents(Selector):
    """Rows that equal a row of another data set."""

    dataset: Dataset = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.dataset) == 0:
            raise InputError("The data set of records to forget is empty; give one with records.")

    def columns(self, available: Sequence[str]) -> list[str]:
        names = self.dataset.column_names
        if missing := [name for name in names if name not in available]:
            raise InputError(
                f"The records to forget have columns that the data set lacks: {listed(missing)}; its columns are "
                f"{listed(available)}."
            )
        return names

    def bind(self, schema: pa.Schema, features: Features) -> "ContentMatcher":
        own, names = self.dataset.features, self.dataset.column_names
        table = pa.concat_tables([table for table, _ in read_tables(self.dataset, names)])
        for name in names:
            kinds = [one.field(name).type for one in (table.schema, schema)]
            if not comparable(kinds[0], own[name], kinds[1], features.get(name)):
                raise InputError(
                    f"The column {name!r} of the records to forget has the type {kinds[0]}, that of the data set "
                    f"{kinds[1]}; give them the same types."
                )
        wanted = {name: _feature_of_wanted(own[name], features.get(name)) for name in names}
        keys = content_keys(table, names, wanted).unique()
        return ContentMatcher(names, keys, features)


def _feature_of_wanted(own: Any, of_data: Any) -> Any:
    """What names the classes of a record to forget: its own column, unless one side has numbers alone."""
    if "ClassLabel" not in repr(own):
        return of_data
    return None if isinstance(of_data, Value) and "int" in of_data.dtype else own


class ContentMatcher(KeyMatcher):
    def __init__(self, names: list[str], keys: pa.Array, features: Features):
        super().__init__(keys)
        self.names, self.features = names, features

    def keys_of(self, table: pa.Table) -> pa.ChunkedArray:
        return content_keys(table, self.names, self.features)

    def digestible(self, mask: np.ndarray) -> list[str]:
        return self.keys.to_pylist()

    def named(self) -> Named:
        return Named(self.names, True, texts_of_keys(self.keys, self.names))


# A predicate


@dataclass(frozen=True)
class Predicate(Selector):
    """Rows for which a Python function is true."""

    function: Callable[[dict[str, Any]], bool]

    def columns(self, available: Sequence[str]) -> list[str]:
        return list(available)

    def bind(self, schema: pa.Schema, features: Features) -> "PredicateMatcher":
        return PredicateMatcher(self.function)


class PredicateMatcher(Matcher):
    def __init__(self, function: Callable[[dict[str, Any]], bool]):
        super().__init__(0)
        self.function = function

    def mask(self, table: pa.Table, start: int) -> np.ndarray:
        found = np.zeros(table.num_rows, dtype=bool)
        for i, row in enumerate(table.to_pylist()):
            with guarded(f"The predicate fails on row {start + i}; correct it"):
                found[i] = bool(self.function(row))
        return found
