"""A row's content in some columns as one string, by which it is compared and digested."""

import json

import pyarrow as pa
import pyarrow.compute as pc

from .errors import InputError


def row_texts(table: pa.Table, names: list[str]) -> list[str]:
    """One string for each row's content in these columns, for its keyed digest."""
    return texts_of_keys(row_keys(table, names), names)


def texts_of_keys(keys: pa.ChunkedArray, names: list[str]) -> list[str]:
    """For the keyed digest the columns belong to the content."""
    told = "\x1f".join(names) + "\x1d"
    return [told + key for key in keys.to_pylist()]


def row_keys(table: pa.Table, names: list[str]) -> pa.ChunkedArray:
    """One string a row that is equal exactly where all the columns are: each value with its length before it."""
    parts = []
    for name in names:
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        if _is_plain(column.type):
            text = column.cast(pa.large_string())
        else:
            rows = [None if v is None else json.dumps(v, sort_keys=True, default=repr) for v in column.to_pylist()]
            text = pa.chunked_array([pa.array(rows, pa.large_string())])
        length = pc.utf8_length(text).cast(pa.large_string())
        key = pc.binary_join_element_wise(length, text, pa.scalar("\x1f", pa.large_string()))
        parts.append(pc.fill_null(key, "null"))
    if not parts:
        raise InputError("The data set of records to forget has no columns.")
    if len(parts) == 1:
        return parts[0]
    return pc.binary_join_element_wise(*parts, pa.scalar("\x1e", pa.large_string()))


def _is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow itself writes values of a type as text, each in one way and for all values."""
    plain = (pa.types.is_primitive, pa.types.is_string, pa.types.is_large_string, pa.types.is_decimal)
    return any(is_kind(kind) for is_kind in plain) and not pa.types.is_duration(kind)
