"""The distinct texts of a data set, a few megabytes at a time, and the rows that have them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers.utils.logging import tqdm

from ..arrow_tables import AnyDataset, read_tables
from .exact import normalised_text

# Text looked at together, which bounds the memory.
SLICE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class TextSlice:
    """Distinct normalised texts of some rows.

    Attributes:
        rows: positions in the data set, in the order of their texts, int64 of shape (rows,).
        begins: where the rows of each text begin in ``rows``, and their number, int64 of shape (texts + 1,).
    """

    texts: pa.Array
    rows: np.ndarray
    begins: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How many rows have each text, int64 of shape (texts,)."""
        return np.diff(self.begins)

    def rows_of(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row that has one of these texts (places): the place of its text in ``texts``, and its position."""
        place, row = ranges(self.begins[texts], self.begins[texts + 1])
        return place, self.rows[row]


def text_slices(dataset: AnyDataset, columns: list[str], look: np.ndarray, desc: str) -> Iterator[TextSlice]:
    """Read the texts of a data set; ``look`` says of which rows, bool of shape (rows,), and ``desc`` is shown."""
    shown = os.environ.get("RANK", "0") == "0"
    with tqdm(total=len(look), desc=desc, unit=" rows", leave=False, disable=None if shown else True) as bar:
        for table, start in read_tables(dataset, columns):
            rows = np.flatnonzero(look[start : start + table.num_rows])
            coded = normalised_text(table.take(rows), columns).combine_chunks().dictionary_encode()
            code = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
            order = np.argsort(code, kind="stable")[np.count_nonzero(code < 0) :]
            begins = np.searchsorted(code[order], np.arange(len(coded.dictionary) + 1))
            sizes = np.asarray(pc.binary_length(coded.dictionary))
            for first, last in cuts(np.cumsum(sizes) // SLICE_BYTES):
                texts, of_texts = coded.dictionary[first:last], order[begins[first] : begins[last]]
                yield TextSlice(texts, start + rows[of_texts], begins[first : last + 1] - begins[first])
            bar.update(table.num_rows)


def cuts(numbers: np.ndarray) -> list[tuple[int, int]]:
    """Where each series of equal numbers begins and ends."""
    places = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1)).tolist()
    return list(pairwise(places))


def ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of some ranges: for each number the place of its range, and the number."""
    lengths = last - first
    of_range = np.repeat(np.arange(len(first)), lengths)
    return of_range, np.arange(len(of_range)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + first[of_range]
