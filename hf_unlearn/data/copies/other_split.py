"""Records of S in another split, which may have a say in the training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import canonical
from ..arrow_tables import AnyDataset, column_names, read_tables
from .exact import texts_of
from .near import find_near_copies


@dataclass(frozen=True)
class SharedRows:
    """Rows of a split that tell of S: with the text of a record of S, nearly equal to one, or with an id of one."""

    copies: int
    near_copies: int
    same_ids: int

    def __bool__(self) -> bool:
        return any((self.copies, self.near_copies, self.same_ids))


def shared_rows(
    split: AnyDataset, forget: AnyDataset, columns: Sequence[str], id_columns: Sequence[str], *, near: bool
) -> SharedRows | None:
    """Look in a split for what tells of S.

    Args:
        split: the split.
        forget: S.
        columns: those that carry the text.
        id_columns: those by which the records of S were named, or grouped.
        near: whether to look for near copies, too.

    Returns:
        The counts; None where one of the two lacks a column, so that they cannot be compared.
    """
    needed = {*columns, *id_columns}
    if not columns or not all(needed <= set(column_names(part)) for part in (split, forget)):
        return None
    keys = texts_of(forget, columns).unique().drop_null()
    copied = np.asarray(pc.is_in(texts_of(split, columns), value_set=keys))
    nearly, same = np.zeros_like(copied), np.zeros_like(copied)
    if near:
        _, found = find_near_copies(split, list(columns), keys, ~copied)
        for part in found:
            nearly[part["row"].to_numpy()] = True
    for column in id_columns:
        same |= np.asarray(pc.is_in(_values(split, column), value_set=_values(forget, column).unique().drop_null()))
    return SharedRows(*(int(np.count_nonzero(mask)) for mask in (copied, nearly, same)))


def _values(dataset: AnyDataset, column: str) -> pa.ChunkedArray:
    feature = (dataset.features or {}).get(column)
    chunks = [canonical.texts_of(table.column(column), feature) for table, _ in read_tables(dataset, [column])]
    return pa.chunked_array(chunks or [pa.array([], pa.large_string())])
