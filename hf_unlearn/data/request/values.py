"""The values that a request names, as the texts that a column of the data set has for them."""

import datetime
import json
import re
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel

from ...errors import InputError
from ..canonical import FLOATS, NUMBER, WHOLE, is_number, kind_of, number_text, refuse_large, texts_of

TRUTH = {"true": True, "True": True, "false": False, "False": False}
ZEROS = re.compile(r"(\.[0-9]*?)0+(?=[-+Z]|$)")
# What JSON and text can only write as text.
WRITTEN = ("decimal", "date", "timestamp", "time", "bytes")


def requested_texts(
    column: str,
    values: Sequence[Any],
    column_type: pa.DataType,
    feature: Any,
    untyped: bool,
    place: Callable[[int], str],
) -> pa.Array:
    """The text of each value that a request names, nothing of which is rounded or cast.

    Args:
        column: its name.
        values: as the request gives them.
        column_type, feature: of the column.
        untyped: whether the values are text from a file or a command line, to be read as the column's type.
        place: where the request has the value of a position, in words.

    Raises:
        InputError: a value is of another type, or cannot be written in this one.
    """
    kind = kind_of(column_type, feature)
    given = {kind_of_value(python_type) for python_type in set(map(type, values))}
    if kind == "mixed" and given <= {"string", "integer", "floating", "boolean"}:
        return pa.array([v if isinstance(v, str) else json.dumps(v) for v in values], pa.large_string())
    if len(given) > 1 and not (is_number(kind) and given <= {"integer", "floating", "decimal"}):
        found = ", ".join(sorted(given))
        raise InputError(f"The values for column {column!r} mix types ({found}); give values of one type.")
    if isinstance(feature, ClassLabel) and given == {"string"}:
        known = set(feature.names)
        if not set(values) <= known:
            first = next(i for i, value in enumerate(values) if value not in known)
            raise InputError(f"{place(first)} is none of the {len(known):,} labels of {column!r}; correct it.")
        return pa.array(values, pa.large_string())
    word = _word(kind)
    as_text = given == {"string"} and (untyped or kind.startswith(WRITTEN))
    if as_text and _reader(kind, column_type) is None:
        raise InputError(
            f"Column {column!r} holds {word} values, which text cannot name; name the rows by their position "
            "(--forget_rows; in Python, Records.rows), or give a data set of them (--forget_dataset; Records.like)."
        )
    if not as_text and not given <= GIVEN.get(word, {word}):
        (found,) = given if len(given) == 1 else [", ".join(sorted(given))]
        raise InputError(
            f"Column {column!r} holds {word} values but the request gives {found} values"
            + (' ("7" is not 7)' if {found, word} == {"string", "integer"} else "")
            + "; give them in the column's own type."
        )
    read = _reader(kind, column_type)
    found_values = [read(value) if read is not None and (as_text or kind not in PLAIN) else value for value in values]
    if as_text and None in found_values:
        hint = " (as in 2024-01-31T12:00:00+00:00)" if "zone" in kind else ""
        raise InputError(
            f"{place(found_values.index(None))} is no {word} value, as column {column!r} holds{hint}; correct it."
        )
    if kind in FLOATS:
        refuse_large(column, kind, np.array(found_values, dtype=np.float64))
    try:
        texts = texts_of(pa.array(found_values, type=column_type), feature)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        texts = None
    if texts is None or texts.null_count or not _exact(values, texts, kind, as_text):
        raise InputError(f"A requested value does not fit the type {column_type} of {column!r}.")
    return texts


GIVEN = {
    "floating": {"floating", "integer"},
    "decimal": {"decimal", "integer", "floating"},
    "bytes": {"bytes", "UUID"},
    "string": {"string", "UUID"},
    "label": {"integer"},
}
# Kinds whose values in Python are taken as they are.
PLAIN = ("integer", "boolean", "label", "duration", "double", "float", "halffloat")


def kind_of_value(python_type: type) -> str:
    """The kind of a value in Python, in the words of the messages."""
    kinds = {
        "boolean": (bool, np.bool_),
        "integer": (int, np.integer),
        "floating": (float, np.floating),
        "string": (str,),
        "date or time": (datetime.date,),
        "decimal": (Decimal,),
        "bytes": (bytes,),
        "time": (datetime.time,),
        "duration": (datetime.timedelta,),
    }
    return next((kind for kind, types in kinds.items() if issubclass(python_type, types)), python_type.__name__)


def _word(kind: str) -> str:
    if kind == "date" or kind.startswith("timestamp"):
        return "date or time"
    if kind.startswith("time"):
        return "time"
    return "floating" if is_number(kind) and kind not in ("integer", "decimal") else kind


def _reader(kind: str, column_type: pa.DataType) -> Callable[[Any], Any] | None:
    """What reads a value, and returns None where it is none of the kind; None for kinds that no text names."""
    if kind == "date" or kind.startswith("timestamp"):
        return lambda value: _moment(value, column_type)
    if kind.startswith("time"):
        return _time
    if kind == "bytes":
        return lambda value: _bytes(value, column_type)
    readers: dict[str, Callable[[Any], Any]] = {
        "string": str,
        "integer": lambda text: int(text) if WHOLE.fullmatch(text) and text != "-0" else None,
        "boolean": TRUTH.get,
        "decimal": lambda value: Decimal(str(value)) if NUMBER.fullmatch(str(value)) else None,
    }
    if is_number(kind) and kind not in readers:
        return lambda text: float(text) if NUMBER.fullmatch(text) else None
    return readers.get(kind)


def _moment(value: Any, column_type: pa.DataType) -> Any:
    """A date or a point in time; Arrow refuses what its type would cut off, and a zone too many or too few."""
    text = value if isinstance(value, str) else value.isoformat()
    text = ZEROS.sub(r"\1", text).replace(".+", "+").replace(".-", "-").replace(".Z", "Z").removesuffix(".")
    try:
        return pa.scalar(text).cast(column_type)
    except pa.ArrowException:
        return None


def _time(value: Any) -> datetime.time | None:
    try:
        found = datetime.time.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    # Python would cut off what is smaller.
    too_fine = isinstance(value, str) and len(value.partition(".")[2]) > 6
    return None if too_fine or found.tzinfo is not None else found


def _bytes(value: Any, column_type: pa.DataType) -> bytes | None:
    """Bytes, from a UUID, from the text that they hold, or from hexadecimal characters after ``\\x``."""
    if isinstance(value, uuid.UUID):
        return value.bytes
    if not isinstance(value, str):
        return bytes(value)
    try:
        if value.startswith("\\x"):
            return bytes.fromhex(value[2:])
        return uuid.UUID(value).bytes if column_type == pa.binary(16) and len(value) == 36 else value.encode()
    except ValueError:
        return None


def _exact(values: Sequence[Any], texts: pa.Array, kind: str, as_text: bool) -> bool:
    """Whether the column's type holds the values as they were given."""
    if kind.startswith("time") and not kind.startswith("timestamp"):
        written = [value if isinstance(value, str) else value.isoformat() for value in values]
        finest = [datetime.time.fromisoformat(text).isoformat() for text in written]
        return [text.rstrip("0").rstrip(".") if "." in text else text for text in finest] == texts.to_pylist()
    if not is_number(kind):
        return True
    return all(
        number_text(str(value)) == text
        for value, text in zip(values, texts.to_pylist(), strict=True)
        if as_text or kind_of_value(type(value)) != "floating"
    )
