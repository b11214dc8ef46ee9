"""The private review file: pairs found by a search for near copies, with their texts."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import InputError
from ...files import require_ours, written_privately
from ..arrow_tables import AnyDataset, read_tables
from .exact import normalised_text

ABOUT = (
    "Retained rows that are near copies of rows to forget, or quote them. Each line holds a retained row, the row to "
    "forget that it is most like, the numbers of both counted from 0, how alike they are, and both texts. This file "
    "holds the text of forgotten records. Keep it to yourself, and delete it once you have read it."
)


def check_review(path: Path) -> None:
    """Raise InputError where no review can be written."""
    require_ours(path, "--near_duplicates_review", ABOUT[:40])


def write_review(
    path: Path,
    dataset: AnyDataset,
    columns: list[str],
    forgotten: pa.Array,
    forget: np.ndarray,
    found: Sequence[pa.Table],
) -> None:
    """Write the review, all of it or nothing; only its owner can read it, from the first byte on.

    ``forget`` are the rows, bool of shape (rows,), that have the distinct normalised texts ``forgotten``. The tables
    ``found`` are those of :func:`~hf_unlearn.data.copies.near.find_near_copies`. Raises InputError when it cannot be
    written.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        with written_privately(path) as file:
            for line in _lines(dataset, columns, forgotten, forget, found):
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
    except OSError as error:
        raise InputError(f"The review of near copies cannot be written to {path}: {error.strerror}.") from None


def _lines(
    dataset: AnyDataset,
    columns: list[str],
    forgotten: pa.Array,
    forget: np.ndarray,
    found: Sequence[pa.Table],
) -> Iterator[dict[str, Any]]:
    yield {"about": ABOUT, "rows": sum(pairs.num_rows for pairs in found)}
    retained = np.zeros_like(forget)
    for pairs in found:
        retained[pairs["row"].to_numpy()] = True
    records: dict[int, dict[str, Any]] = {}
    first_rows = np.full(len(forgotten), -1)
    for table, start in read_tables(dataset, columns):
        here = slice(start, start + table.num_rows)
        shown = np.flatnonzero(retained[here] | forget[here])
        places = pc.index_in(normalised_text(table.take(shown), columns), value_set=forgotten)
        for row, place in zip(shown.tolist(), places.to_pylist(), strict=True):
            if forget[start + row] and place is not None and first_rows[place] < 0:
                first_rows[place] = start + row
            elif not retained[start + row]:
                continue
            records[start + row] = table.slice(row, 1).to_pylist()[0]
    for pair in (pair for pairs in found for pair in pairs.to_pylist()):
        row, other = pair.pop("row"), int(first_rows[pair.pop("forgotten")])
        alike = {name: round(float(value), 4) for name, value in pair.items()}
        texts = {"retained": records[row], "forget": records[other]}
        yield {"retained_row": row, "forget_row": other, **alike, **texts}
