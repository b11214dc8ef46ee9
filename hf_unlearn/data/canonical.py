"""One text for each value, whatever the type of its column, so that what was forgotten is found in D again.

Types change from one reading to the next: one missing id turns integers into floating-point numbers, a zone or a unit
is added to a time, classes are put into another order. The value is the same, and so is its text.
"""

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Features, LargeList, List

from ..errors import InputError
from .arrow_tables import joined_keys

WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
NUMBER = re.compile(WHOLE.pattern + r"(\.[0-9]+)?([eE][+-]?[0-9]+)?")
LARGE = pa.large_string()
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def kind_of(column_type: pa.DataType, feature: Any = None) -> str:
    """What a column holds, in a word for messages and for the ledger; it is the same for types of the same texts."""
    if isinstance(feature, ClassLabel) and pa.types.is_integer(column_type):
        return "label"
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    for kind, is_kind in KINDS.items():
        if is_kind(column_type):
            return kind
    if pa.types.is_timestamp(column_type):
        return f"timestamp{' with a zone' if column_type.tz else ''}[{column_type.unit}]"
    if pa.types.is_time(column_type):
        return f"time[{column_type.unit}]"
    if pa.types.is_nested(column_type):
        return "nested"
    return str(column_type)


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(check(kind) for check in checks)


KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "string": _is_string,
    "integer": pa.types.is_integer,
    "boolean": pa.types.is_boolean,
    "decimal": pa.types.is_decimal,
    "date": pa.types.is_date,
    "duration": pa.types.is_duration,
    "bytes": _is_binary,
    "mixed": lambda kind: isinstance(kind, pa.JsonType),
}


def is_number(kind: str) -> bool:
    """Whether columns of a kind hold numbers; whole ones have the same text in all of them."""
    return kind in ("integer", "decimal") or kind in FLOATS


# Follows a kind of numbers where some of them are not whole, so that a column whose numbers were cut is known.
FRACTIONS = " with fractions"
FLOATS = {"double": 2**53, "float": 2**24, "halffloat": 2**11}


def comparable(one: pa.DataType, of_one: Any, other: pa.DataType, of_other: Any) -> bool:
    """Whether equal texts in columns of two types, each with its feature, are equal values."""
    kinds = {kind_of(one, of_one), kind_of(other, of_other)}
    if kinds == {"nested"}:
        if pa.types.is_struct(one) and pa.types.is_struct(other):
            shared = {field.name for field in one} & {field.name for field in other}
            return all(comparable(one.field(name).type, None, other.field(name).type, None) for name in shared)
        lists = not (pa.types.is_struct(one) or pa.types.is_struct(other))
        return lists and comparable(one.value_type, None, other.value_type, None)
    if len(kinds) == 1 or "null" in kinds or all(map(is_number, kinds)):
        return True
    if (
        kinds <= {"label", "string"}
        or kinds <= {"label", "integer"}
        or kinds in ({"mixed", "string"}, {"mixed", "integer"})
    ):
        return True
    # Times in other units have the same texts.
    return len({kind.partition("[")[0] for kind in kinds}) == 1


def texts_of(column: pa.Array | pa.ChunkedArray, feature: Any = None) -> pa.Array:
    """The text of each value of a column, null where there is none; ``feature`` gives the names of classes."""
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays([texts_of(chunk, feature) for chunk in column.chunks] or [pa.array([], LARGE)])
    array = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    kind = kind_of(array.type, feature)
    if kind == "string" or kind == "integer" or kind == "date":
        return array.cast(LARGE)
    if kind == "boolean":
        return pc.if_else(array, pa.scalar("True", LARGE), pa.scalar("False", LARGE))
    if kind == "mixed":
        return _each(array.storage, _mixed_text)
    if pa.types.is_timestamp(array.type) or pa.types.is_time(array.type):
        if pa.types.is_timestamp(array.type) and array.type.tz:
            array = array.cast(pa.timestamp(array.type.unit, "UTC"))
        # How many digits stand after the second depends on the unit.
        text = pc.replace_substring_regex(array.cast(LARGE), r"(\.[0-9]*[1-9])0+(Z?)$", r"\1\2")
        return pc.replace_substring_regex(text, r"\.0+(Z?)$", r"\1")
    if kind == "duration":
        size = NANOSECONDS[array.type.unit]
        return _each(array.cast(pa.int64()), lambda value: str(value * size))
    return _each(array, _writer(array.type, feature))


def _each(array: pa.Array, write: Callable[[Any], str]) -> pa.Array:
    """The text of each value by a Python function, which sees each value once where Arrow can tell them apart."""
    try:
        coded = array.dictionary_encode()
    except pa.ArrowNotImplementedError:
        texts = [None if value is None else write(value) for value in array.to_pylist()]
        return pa.array(texts, LARGE)
    values = [None if value is None else write(value) for value in coded.dictionary.to_pylist()]
    return pa.array(values, LARGE).take(coded.indices)


def _writer(kind: pa.DataType, feature: Any) -> Callable[[Any], str]:
    """What writes a value of a type."""
    if isinstance(feature, ClassLabel):
        names = feature.names
        return lambda value: names[value] if 0 <= value < len(names) else str(value)
    if pa.types.is_floating(kind):
        exact = kind.to_pandas_dtype()
        return lambda value: number_text(str(exact(value)))
    if pa.types.is_decimal(kind):
        return lambda value: number_text(str(value))
    if _is_binary(kind):
        return _bytes_text
    return lambda value: json.dumps(_nested(value, feature), sort_keys=True)


def number_text(text: str) -> str:
    """A number without an exponent and without zeros that say nothing."""
    number = Decimal(text)
    if not number.is_finite():
        return text
    plain = format(number, "f")
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    return "0" if plain == "-0" else plain


EXACT: dict[str, Callable[[float], Any]] = {"double": np.float64, "float": np.float32, "halffloat": np.float16}
ANY_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)?[T ]?(\d\d:\d\d:\d\d)?(\.\d+)?Z?")
DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def text_in(kind: str, text: str) -> str | None:
    """The text that a value with this text has in a column of another kind, which may hold less of it.

    Args:
        kind: as :func:`kind_of` says it, of numbers or times, with or without :data:`FRACTIONS`.
        text: of the value, in a column of any kind.

    Returns:
        Its text there: ``3`` for ``03`` and ``3.5`` among integers. None where such a column holds no such value, and
        for other kinds.
    """
    kind = kind.removesuffix(FRACTIONS)
    if is_number(kind):
        if not ANY_NUMBER.fullmatch(text.strip()):
            return None
        number = Decimal(text.strip())
        if kind == "decimal":
            return number_text(str(number))
        if kind == "integer":
            return str(int(number))
        with np.errstate(over="ignore"):
            return number_text(str(EXACT[kind](float(number))))
    name, _, unit = kind.partition("[")
    found = MOMENT.fullmatch(text)
    if found is None or name not in ("date", "time", "timestamp", "timestamp with a zone"):
        return None
    day, time, fraction = (part or "" for part in found.groups())
    fraction = fraction[: DIGITS.get(unit.removesuffix("]"), 0) + 1].rstrip("0").rstrip(".")
    if name == "date":
        return day
    time = (time or "00:00:00") + fraction
    return time if name == "time" else f"{day} {time}{'Z' if 'zone' in name else ''}"


def _bytes_text(value: bytes) -> str:
    """Bytes as the text that they hold, or in hexadecimal characters where they hold none."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = "\\x"
    return f"\\x{value.hex()}" if text.startswith("\\x") else text


def _mixed_text(stored: str) -> str:
    """A value of a column of several types, which is stored as JSON."""
    try:
        value = json.loads(stored)
    except ValueError:
        return stored
    return value if isinstance(value, str) else stored


def _nested(value: Any, feature: Any) -> Any:
    """Lists and dictionaries of texts; a key without a value may only fill the table."""
    if isinstance(value, dict):
        inner: Any = feature if isinstance(feature, dict) else {}
        return {key: _nested(item, inner.get(key)) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        inner = feature.feature if isinstance(feature, List | LargeList) else None
        return [_nested(item, inner) for item in value]
    if value is None:
        return None
    if isinstance(feature, ClassLabel) and isinstance(value, int):
        return _writer(pa.int64(), feature)(value)
    if isinstance(value, str | bool | int):
        return str(value)
    return texts_of(pa.array([value])).to_pylist()[0]


def has_fractions(column: pa.ChunkedArray) -> bool:
    """Whether a column holds numbers that are not whole."""
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    if not (pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        return False
    return bool(pc.any(pc.not_equal(pc.floor(column), column), min_count=0).as_py())


def id_texts(table: pa.Table, name: str, feature: Any = None) -> pa.Array:
    """The texts of a column of ids.

    Raises InputError where the column holds numbers so large that it cannot tell neighbours apart.
    """
    column = table.column(name)
    if str(column.type) in FLOATS:
        refuse_large(name, str(column.type), np.asarray(column.drop_null(), dtype=np.float64))
    return texts_of(column, feature)


def refuse_large(name: str, kind: str, values: np.ndarray) -> None:
    """Raise InputError where a column of floating-point numbers cannot tell some values from their neighbours."""
    sizes, limit = np.abs(values), FLOATS[kind]
    if large := int(np.count_nonzero(np.isfinite(sizes) & (sizes >= limit))):
        raise InputError(
            f"Column {name!r} was read as floating-point numbers, and {large:,} of the ids are {limit:,} or more, "
            "where neighbours become the same number; store the ids as text."
        )


def content_texts(table: pa.Table, names: list[str], features: Features | None = None) -> list[str]:
    """One string for each row's content in these columns, for its keyed digest."""
    prefix = "\x1f".join(names) + "\x1d"
    return [prefix + key for key in content_keys(table, names, features).to_pylist()]


def content_keys(table: pa.Table, names: Sequence[str], features: Features | None = None) -> pa.ChunkedArray:
    """One string for each row, equal exactly where the texts of all these columns are."""
    return pa.chunked_array(
        [joined_keys([texts_of(table.column(name), (features or {}).get(name)) for name in names])]
    )
