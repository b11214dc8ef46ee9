"""Reading a data set of any kind as Arrow tables of a few of its columns."""

import re
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import pyarrow as pa
from datasets import Dataset, IterableDataset

AnyDataset: TypeAlias = Dataset | IterableDataset

COLUMN_NAME = re.compile(r"[\w.:/()#%-]+( [\w.:/()#%-]+){0,2}")

# Rows looked at together: enough that Arrow's kernels dominate, few enough that the copies they make stay small.
BATCH_ROWS = 100_000


def column_names(dataset: AnyDataset) -> list[str]:
    """The columns of a data set, taken from its first row when a stream does not say."""
    names = dataset.column_names
    if names is None:
        first = next(iter(dataset), None)
        names = list(first) if first else []
    return names


def listed(names: Sequence[str]) -> str:
    """Columns in a message; what looks like none may be the first record of a file without a line of names."""
    shown = [name for name in names if len(name) <= 30 and COLUMN_NAME.fullmatch(name)]
    other = len(names) - len(shown)
    more = [f"{other} that do not look like names (does the file begin with a line of names?)"] if other else []
    return ", ".join(shown + more)


def read_tables(dataset: AnyDataset, columns: Sequence[str]) -> Iterator[tuple[pa.Table, int]]:
    """Yield the rows as tables of these columns, each with the position of its first row."""
    # A table without columns has no rows in Arrow, so reading no column still reads one.
    names = list(dict.fromkeys(columns)) or column_names(dataset)[:1]
    start = 0
    for table in dataset.select_columns(names).with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield _without_views(table), start
        start += table.num_rows


def _without_views(table: pa.Table) -> pa.Table:
    """The table with its views of strings as strings: Arrow neither filters nor takes views."""
    kinds = [pa.large_string() if pa.types.is_string_view(kind) else kind for kind in table.schema.types]
    return table.cast(pa.schema(list(zip(table.column_names, kinds, strict=True))))


def row_count(dataset: AnyDataset) -> int:
    """The number of rows, counted by reading when the data set is a stream."""
    if isinstance(dataset, Dataset):
        return len(dataset)
    return sum(table.num_rows for table, _ in read_tables(dataset, []))
