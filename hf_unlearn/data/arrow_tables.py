"""Reading a data set of any kind as Arrow tables of a few of its columns."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, IterableDataset

from ..errors import InputError

AnyDataset: TypeAlias = Dataset | IterableDataset

COLUMN_NAME = re.compile(r"[^\W\d]+([ .:/()#%-]+[^\W\d]+){0,2}")

LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)

# Rows looked at together: enough that Arrow's kernels dominate, few enough that the copies they make stay small.
BATCH_ROWS = 100_000


def column_names(dataset: AnyDataset) -> list[str]:
    """The columns of a data set, from the first row of a stream that does not declare them."""
    names = dataset.column_names
    if names is None:
        first = next(iter(dataset), None)
        names = list(first) if first else []
    return names


def listed(names: Sequence[str]) -> str:
    """Columns for a message; none of them where they may be the first record of a file without a line of names."""
    other = sum(not _is_name(name) for name in names)
    if other == 0:
        return ", ".join(names)
    return f"{len(names)} in all, {other} of which may be no names (does the file begin with a line of names?)"


def _is_name(text: str) -> bool:
    """Whether a text looks like the name of a column, and not like an id or a record."""
    return len(text) <= 30 and COLUMN_NAME.fullmatch(text) is not None


def read_tables(dataset: AnyDataset, columns: Sequence[str]) -> Iterator[tuple[pa.Table, int]]:
    """Yield the rows as tables of these columns, each with the position of its first row."""
    # A table without columns has no rows in Arrow, so reading no column still reads one.
    names = list(dict.fromkeys(columns)) or column_names(dataset)[:1]
    start = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(batch_size=BATCH_ROWS):
        try:
            table.validate(full=True)
        except pa.ArrowInvalid:
            raise InputError(
                f"Some rows hold text that is not UTF-8, in a column among {listed(names)}; save the data as UTF-8."
            ) from None
        yield plain_table(table), start
        start += table.num_rows


def plain_table(table: pa.Table) -> pa.Table:
    """The table in types that Arrow can filter, take, flatten and compare, whatever is inside of lists and structs."""
    kinds = [plain_type(kind) for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same values and that Arrow's functions, and datasets, know."""
    if isinstance(kind, pa.UuidType):
        return pa.binary(16)
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if isinstance(kind, LISTS):
        make = pa.large_list if isinstance(kind, pa.LargeListType | pa.LargeListViewType) else pa.list_
        return make(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def without_format(dataset: Any) -> Any:
    """The data set with rows of Python values, where its owner has set another format, such as pandas."""
    if isinstance(dataset, dict):
        return {name: without_format(part) for name, part in dataset.items()}
    if isinstance(dataset, Dataset) and dataset.format["type"] is not None:
        return dataset.with_format(None)
    return dataset.with_format(None) if isinstance(dataset, IterableDataset) else dataset


def row_count(dataset: AnyDataset) -> int:
    """The number of rows; a stream is read to count them."""
    if isinstance(dataset, Dataset):
        return len(dataset)
    return sum(table.num_rows for table, _ in read_tables(dataset, []))


def require_columns(wanted: Sequence[str], available: Sequence[str], name: str = "The data set") -> list[str]:
    """Return the wanted columns, or raise InputError listing what the data set has."""
    for column in wanted:
        if column not in available:
            nearest = difflib.get_close_matches(column, available, n=1, cutoff=0.8)
            found = f"did you mean {nearest[0]!r}?" if nearest else f"its columns are {listed(available)}."
            # With the two sides of column=value in the wrong order it is a value.
            named = f"column {column!r}" if _is_name(column) else "column of the name that the request gives"
            raise InputError(f"{name} has no {named}; {found}")
    return list(wanted)


def row_texts(table: pa.Table, names: list[str]) -> list[str]:
    """One string for each row's content in these columns, as older ledgers have its digest."""
    return texts_of_keys(row_keys(table, names), names)


def texts_of_keys(keys: pa.ChunkedArray, names: list[str]) -> list[str]:
    """The keys of rows with the names of their columns, which belong to the content."""
    columns = "\x1f".join(names) + "\x1d"
    return [columns + key for key in keys.to_pylist()]


def row_keys(table: pa.Table, names: list[str]) -> pa.ChunkedArray:
    """One string for each row, equal exactly where all these columns are and have the same types."""
    texts = []
    for name in names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if _is_plain(column.type):
            texts.append(column.cast(pa.large_string()))
        else:
            rows = [None if v is None else json.dumps(v, sort_keys=True, default=repr) for v in column.to_pylist()]
            texts.append(pa.chunked_array([pa.array(rows, pa.large_string())]))
    return joined_keys(texts)


def joined_keys(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.ChunkedArray:
    """One string for each row from the texts of its columns: each text after its length."""
    parts = []
    for text in columns:
        length = pc.utf8_length(text).cast(pa.large_string())
        key = pc.binary_join_element_wise(length, text, pa.scalar("\x1f", pa.large_string()))
        parts.append(pc.fill_null(key, "null"))
    if not parts:
        raise InputError("The data set of records to forget has no columns; give one with columns of D.")
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, pa.scalar("\x1e", pa.large_string()))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow writes all values of a type as text, each in one way."""
    plain = (pa.types.is_primitive, pa.types.is_string, pa.types.is_large_string, pa.types.is_decimal)
    return any(is_kind(kind) for is_kind in plain) and not pa.types.is_duration(kind)
