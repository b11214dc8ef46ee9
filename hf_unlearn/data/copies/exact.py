"""Copies of forgotten records among the retained ones; each copy keeps teaching what was forgotten."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ..arrow_tables import AnyDataset, column_names, read_tables, require_columns
from ..conversations import WORDS, turn_text
from ..format import columns_read

DuplicatePolicy: TypeAlias = Literal["report", "forget", "error"]

END_OF_TURN = "\x1f"
SAYING = {*WORDS[1:], "tool_calls"}


@dataclass(frozen=True)
class FoundRows:
    """Rows of L that repeat a row of S.

    Attributes:
        policy: count them (``report``), forget them too (``forget``), or raise (``error``); None: nobody looked.
        mask: the rows, bool of shape (rows of D,).
        prefix: of their counts in the audit of the split.
    """

    policy: DuplicatePolicy | None
    mask: np.ndarray
    prefix: ClassVar[str] = ""

    @property
    def moved(self) -> np.ndarray:
        """The rows that the policy moves to S, bool of shape (rows of D,)."""
        return self.mask & (self.policy == "forget")

    def counts(self) -> dict[str, Any]:
        """What the audit of the split says about them."""
        found, moved = int(np.count_nonzero(self.mask)), int(np.count_nonzero(self.moved))
        return {
            f"{self.prefix}duplicate_policy": self.policy,
            f"{self.prefix}duplicates_retained": None if self.policy is None else found - moved,
            f"{self.prefix}duplicates_forgotten": moved,
        }


@dataclass(frozen=True)
class Copies(FoundRows):
    """Rows of L with the text of a row of S.

    Attributes:
        columns: those that carry the text.
        keys: the distinct normalised texts of S.
        holdout_keys: those of H, None without H.
        holdout_overlap: rows of H whose text also occurs in S or L, None without H.
    """

    columns: list[str]
    keys: pa.Array
    holdout_keys: pa.Array | None
    holdout_overlap: int | None


def text_columns(dataset: AnyDataset, looked_at: set[str]) -> list[str]:
    """The columns that carry what a record says, where nobody says what the model does."""
    names = column_names(dataset)
    read = columns_read(names)
    if read is not None:
        return read
    table = next(read_tables(dataset, names), (pa.table({}), 0))[0]
    if "tokens" in names and _is_text(table.schema.field("tokens").type, of_lists=True):
        return ["tokens"]
    strings = [f.name for f in table.schema if _is_text(f.type)]
    chosen = [name for name in strings if name not in looked_at]
    if not chosen:
        raise InputError(
            "The data set has no column of text to find copies in; leave the search out with --duplicates ignore (in "
            "Python, name duplicate_columns, or duplicates=None)."
        )
    return chosen


def _is_text(kind: pa.DataType, of_lists: bool = False) -> bool:
    if of_lists:
        return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def normalised_text(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """The text of each row in NFKC, lower case and single spaces; null where there is no text.

    The columns are of strings, of lists of words or token ids (joined by blanks), or of lists of chat messages (what
    they say and call). Raises InputError for a column of another type.
    """
    space, separator = pa.scalar(" ", pa.large_string()), pa.scalar(END_OF_TURN, pa.large_string())
    parts = []
    for name in columns:
        column = table.column(name)
        if not _is_text(column.type):
            column = _joined(column, name)
        text = pc.utf8_lower(pc.utf8_normalize(column.cast(pa.large_string()), "NFKC"))
        parts.append(pc.binary_join(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(text)), space))
    joined = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, separator, null_handling="replace")
    return pc.if_else(pc.equal(pc.utf8_length(pc.utf8_trim(joined, END_OF_TURN)), 0), None, joined)


def _joined(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """One string for each list of words, of token ids or of chat messages."""
    rows = column.combine_chunks()
    is_list = pa.types.is_list(rows.type) or pa.types.is_large_list(rows.type)
    kind = rows.type.value_type if is_list else rows.type
    fields = {field.name: field.type for field in kind} if is_list and pa.types.is_struct(kind) else {}
    content = fields.get("content", pa.null())
    if not _is_text(content) and not pa.types.is_null(content) and not isinstance(content, pa.JsonType):
        raise InputError(f"Column {name!r} has messages whose content is {content}, not text; write it as text.")
    # Arrow can join messages that say nothing but their contents.
    if isinstance(kind, pa.JsonType) or (fields and (SAYING & set(fields) or not _is_text(content))):
        said = [_said(_decoded(row, rows.type, name), name) for row in rows.to_pylist()]
        return pa.chunked_array([pa.array(said, pa.large_string())])
    if not is_list:
        raise InputError(f"Column {name!r} holds {rows.type}, not text; name a column of text.")
    items, separator = rows.flatten(), " "
    if fields:
        items, separator = pc.struct_field(items, "content"), END_OF_TURN
    elif not _is_text(kind) and not (name == "input_ids" and pa.types.is_integer(kind)):
        raise _no_text(name)
    contents = items.cast(pa.large_string())
    lengths = pc.fill_null(pc.list_value_length(rows), 0)
    offsets = np.concatenate([[0], np.cumsum(np.asarray(lengths))]).astype(np.int64)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pc.fill_null(contents, ""))
    return pa.chunked_array([pc.binary_join(lists, pa.scalar(separator, pa.large_string()))])


def _decoded(value: Any, kind: pa.DataType, name: str) -> Any:
    """A value whose JSON, which Arrow keeps as text, is read."""
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        try:
            return json.loads(value)
        except RecursionError:
            raise InputError(f"Column {name!r} holds values that are nested too deep; make them flat.") from None
    if pa.types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type, name) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_decoded(one, kind.value_type, name) for one in value]
    return value


def _said(row: Any, name: str) -> str | None:
    """What a row says, as text, as words or as chat messages."""
    if row is None or isinstance(row, str):
        return row
    if isinstance(row, list) and all(isinstance(word, str) for word in row):
        return " ".join(row)
    if not isinstance(row, list) or not all(isinstance(turn, dict) and "role" in turn for turn in row):
        raise _no_text(name)
    if wrong := {type(turn.get("content")).__name__ for turn in row} - {"str", "NoneType"}:
        raise InputError(f"Column {name!r} has messages whose content is {wrong.pop()}, not text; write it as text.")
    return END_OF_TURN.join(map(turn_text, row))


def _no_text(name: str) -> InputError:
    return InputError(
        f"Column {name!r} holds neither words nor chat messages; leave the search out with --duplicates ignore (in "
        "Python, name other duplicate_columns)."
    )


def texts_of(dataset: AnyDataset, columns: Sequence[str], mask: np.ndarray | None = None) -> pa.ChunkedArray:
    """The normalised texts of a data set, or of the rows that a mask names."""
    found = [pa.array([], pa.large_string())]
    for table, start in read_tables(dataset, columns):
        if mask is not None:
            table = table.take(np.flatnonzero(mask[start : start + table.num_rows]))
        found.extend(normalised_text(table, columns).chunks)
    return pa.chunked_array(found)


def find_copies(
    dataset: AnyDataset,
    columns: list[str],
    forget: np.ndarray,
    held_out: np.ndarray,
    other: AnyDataset | None,
    policy: DuplicatePolicy | None,
) -> Copies:
    """Look in D for the texts of S and H, given as bool of shape (rows,), or as ``other`` where H is not in D.

    Raises InputError where there are copies, under the policy ``error``.
    """
    if policy is None:
        return Copies(None, np.zeros_like(forget), columns, pa.array([], pa.large_string()), None, None)
    forget_keys = texts_of(dataset, columns, forget).unique().drop_null()
    holdout_texts = None
    if other is not None:
        require_columns(columns, column_names(other), "The held-out data set")
    if other is not None or held_out.any():
        holdout_texts = texts_of(other, columns) if other is not None else texts_of(dataset, columns, held_out)
    holdout_keys = None if holdout_texts is None else holdout_texts.unique().drop_null()
    mask = np.zeros_like(forget)
    seen_in_holdout: list[pa.Array] = []
    for table, start in read_tables(dataset, columns):
        here = slice(start, start + table.num_rows)
        keys = normalised_text(table, columns)
        mask[here] = np.asarray(pc.is_in(keys, value_set=forget_keys))
        if holdout_keys is not None:
            trained_on = pa.array(~held_out[here])
            seen_in_holdout.extend(keys.filter(pc.and_(trained_on, pc.is_in(keys, value_set=holdout_keys))).chunks)
    mask &= ~(forget | held_out)
    found = int(np.count_nonzero(mask))
    if found and policy == "error":
        raise InputError(
            f"{found} retained rows have the same text as a row to forget. They would keep teaching it. Forget them "
            "too (duplicates='forget'), or only count them (duplicates='report')."
        )
    overlap = None
    if holdout_texts is not None:
        seen = pa.chunked_array(seen_in_holdout or [pa.array([], pa.large_string())]).unique()
        overlap = int(pc.sum(pc.is_in(holdout_texts, value_set=seen)).as_py() or 0)
    return Copies(policy, mask, columns, forget_keys, holdout_keys, overlap)
