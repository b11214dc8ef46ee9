"""Whose records S and H are: the groups (customers, authors) that the statistics take for their unit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, IterableDataset, Value

from .arrow_tables import AnyDataset, column_names, read_tables
from .canonical import texts_of
from .request.records import Records, Values
from .request.selection import Masks


@dataclass(frozen=True)
class Groups:
    """The groups of S and H; the fields are those of :class:`~hf_unlearn.data.split.SplitAudit`, None without groups.

    Attributes:
        holdout: H from elsewhere, with the column of the groups, if any; None where H is in D or there is none.
    """

    group_column: str | None = None
    forget_groups: int | None = None
    holdout_groups: int | None = None
    holdout_groups_retained: int | None = None
    holdout_rows_of_retained_groups: int | None = None
    holdout: AnyDataset | None = None

    def counts(self) -> dict[str, Any]:
        """What the audit of the split says about them."""
        return {name: value for name, value in vars(self).items() if name != "holdout"}


def find_groups(
    dataset: AnyDataset, request: Records, holdout: Records | AnyDataset | None, masks: Masks, asked: str | None
) -> Groups:
    """Find the groups, by the column ``asked`` for, or else by the ids that a request names where these repeat.

    A record without a value is a group of its own.
    """
    other = holdout if isinstance(holdout, Dataset | IterableDataset) else None
    columns = [asked] if asked is not None else _id_columns(request, holdout)
    found = []
    for column in columns:
        part = _with_column(other, column) if other is not None else None
        groups, repeated = _counted(dataset, part, masks, column)
        if repeated or asked is not None:
            found.append(groups)
    # Of several columns the one with the fewest groups: what it holds together, no statistics may part.
    return min(
        found, key=lambda one: (one.forget_groups or 0) + (one.holdout_groups or 0), default=Groups(holdout=other)
    )


def _id_columns(request: Records, holdout: Records | AnyDataset | None) -> list[str]:
    """The columns of ids in the requests; other values, such as flags, do not say whose a record is."""
    parts = request.parts + (holdout.parts if isinstance(holdout, Records) else ())
    return list(dict.fromkeys(part.column for part in parts if isinstance(part, Values) and part.are_ids))


def _with_column(other: AnyDataset, column: str) -> AnyDataset:
    """H with the column of the groups; without it each of its records is a group of its own."""
    if column in column_names(other):
        return other
    if isinstance(other, Dataset):
        return other.add_column(column, [None] * len(other))
    features = None if other.features is None else Features({**other.features, column: Value("null")})
    return other.map(lambda row: {**row, column: None}, features=features)


def _counted(dataset: AnyDataset, other: AnyDataset | None, masks: Masks, column: str) -> tuple[Groups, bool]:
    """The groups by one column, and whether one of them has several records."""
    nothing = pa.array([], pa.large_string())
    forget, held_out = [nothing], [nothing]
    feature, of_other = ((part.features or {}).get(column) if part is not None else None for part in (dataset, other))
    for table, start in read_tables(dataset, [column]):
        for found, mask in ((forget, masks.forget), (held_out, masks.held_out)):
            rows = np.flatnonzero(mask[start : start + table.num_rows])
            found.append(texts_of(table.column(column).take(rows), feature))
    for table, _ in read_tables(other, [column]) if other is not None else ():
        held_out.append(texts_of(table.column(column), of_other))
    of_forget, of_holdout = pa.chunked_array(forget), pa.chunked_array(held_out)
    known = of_holdout.unique().drop_null()
    stays = np.zeros(len(known), bool)
    if len(known):
        for table, start in read_tables(dataset, [column]):
            retained = pa.array(masks.retained[start : start + table.num_rows])
            stays |= np.asarray(
                pc.is_in(known, value_set=texts_of(table.column(column), feature).filter(retained).unique())
            )
    of_those = int(pc.sum(pc.is_in(of_holdout, value_set=known.filter(pa.array(stays)))).as_py() or 0)
    has_holdout = len(of_holdout) > 0
    groups = Groups(
        column,
        _count(of_forget),
        _count(of_holdout) if has_holdout else None,
        int(np.count_nonzero(stays)) if has_holdout else None,
        of_those if has_holdout else None,
        other,
    )
    repeated = _count(of_forget) < len(of_forget) or _count(of_holdout) < len(of_holdout)
    return groups, repeated or (other is None and bool(stays.any()))


def _count(labels: pa.ChunkedArray) -> int:
    return len(labels.unique().drop_null()) + labels.null_count
