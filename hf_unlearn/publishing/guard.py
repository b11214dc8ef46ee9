"""A guard against what comes back: rows of new data that were forgotten before, by the ledger of a model.

The ledger has keyed digests of ids and of whole rows, and no texts. So copies are looked for of the forgotten records
that the new data has itself, or that the data set has which they were forgotten from.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from ..data.arrow_tables import listed, read_tables
from ..data.copies.exact import normalised_text, text_columns, texts_of
from ..data.copies.near import MOST_THREADS, find_near_copies
from ..data.processes import in_order, worker_processes
from ..data.request.digest_selector import Digested
from ..data.request.guard_matcher import Batch, Seen, begin, seen_in
from ..errors import InputError
from .ledger import Ledger
from .ledger_of_model import forgotten_before

# Rows that are worth the start of one more process, and batches of rows that each process has before it.
ROWS_OF_A_PROCESS = 1_000_000
BATCHES_OF_A_PROCESS = 2

Look: TypeAlias = Callable[[Iterator[Batch]], Iterator[Seen]]


@dataclass(frozen=True)
class Returned:
    """Which rows of a data set were forgotten before, bool of shape (rows,) each; no row is in two of them.

    Attributes:
        named: those that the ledger names, by an id or by their content.
        copies: others with the text of a forgotten record.
        near_copies: others that nearly equal one, or quote it.
    """

    named: np.ndarray
    copies: np.ndarray
    near_copies: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """All of them, bool of shape (rows,)."""
        return self.named | self.copies | self.near_copies


@dataclass(frozen=True)
class Guard:
    """Tells what was forgotten before.

    Args:
        ledger: of the model that forgot.
        key: the owner's, that the ledger was written with.
        renamed: the names that columns of the ledger have now.
        skip_missing: pass over what cannot be recognised because a column is missing, instead of raising InputError.
    """

    ledger: Ledger
    key: bytes = field(repr=False)
    renamed: Mapping[str, str] = field(default_factory=dict)
    skip_missing: bool = False

    def find(
        self, data: Mapping[str, Dataset], forgotten: Dataset | None = None, processes: int = 1
    ) -> dict[str, Returned]:
        """Look through new data.

        Args:
            data: its splits by name.
            forgotten: the data set that the records were forgotten from, or these records; copies of all of them are
                looked for then, and not only of those that ``data`` has.
            processes: how many look for ids; 0: one a core, where there are rows enough. The result is the same. A
                script that names more than one needs ``if __name__ == "__main__":`` around the call.

        Returns:
            What was found in each split.

        Raises:
            InputError: a column is missing or of a type that tells nothing, or ``forgotten`` has no such record.
        """
        parts = self._parts()
        with _looking(parts, processes, sum(map(len, data.values()))) as look:
            named = {name: self._named(part, parts, look) for name, part in data.items()}
        sources = [(part, named[name]) for name, part in data.items()]
        if forgotten is not None:
            sources.append((forgotten, mask := self.named(forgotten)))
            if not mask.any():
                raise InputError("The data set of forgotten records has none that the ledger names; name another one.")
        return {name: _with_copies(part, named[name], sources, self._columns()) for name, part in data.items()}

    def named(self, dataset: Dataset) -> np.ndarray:
        """Which rows the ledger names by an id or by their content, bool of shape (rows,)."""
        parts = self._parts()
        with _looking(parts, 1, len(dataset)) as look:
            return self._named(dataset, parts, look)

    def _parts(self) -> list[Digested]:
        request = forgotten_before(self.ledger, self.key)
        parts = [part for part in (request.parts if request is not None else ()) if isinstance(part, Digested)]
        assert request is None or len(parts) == len(request.parts)
        return parts

    def _named(self, dataset: Dataset, parts: list[Digested], look: Look) -> np.ndarray:
        mask = np.zeros(len(dataset), bool)
        there = {new: old for old, new in self.renamed.items()}
        if unknown := sorted(set(there) - set(dataset.column_names)):
            raise InputError(f"There is no column {listed(unknown)} to take the place of another one; correct it.")
        dataset = dataset.rename_columns(there) if there else dataset
        for place, part in enumerate(parts):
            missing = [name for name in part.names if name not in dataset.column_names]
            if missing and self.skip_missing:
                continue
            if missing:
                raise InputError(
                    f"The ledger names records by {listed(part.names)}, and the data has no {listed(missing)}; say "
                    "what it is called now (--rename OLD=NEW), or pass over these records (--skip_missing)."
                )
            start, all_seen = 0, None
            for seen in look(_batches(dataset, place, part)):
                mask[start : start + len(seen.mask)] |= seen.mask
                start += len(seen.mask)
                all_seen = seen if all_seen is None else all_seen.counted_with(seen)
            if all_seen is not None:
                all_seen.require_sure(part)
        return mask

    def _columns(self) -> set[str]:
        """The columns of ids."""
        ids = {part.columns[0] for run in self.ledger.runs for part in run.forgotten if not part.whole_rows}
        return {self.renamed.get(name, name) for name in ids}


def _batches(dataset: Dataset, place: int, part: Digested) -> Iterator[Batch]:
    features = Features({name: dataset.features[name] for name in part.names})
    for table, _ in read_tables(dataset, part.names):
        yield Batch.of(place, table, features)


@contextmanager
def _looking(parts: list[Digested], processes: int, rows: int) -> Iterator[Look]:
    """What looks at batches of rows, in this process or in several."""
    count = processes or min(pa.cpu_count(), rows // ROWS_OF_A_PROCESS)
    if count < 2:
        yield lambda batches: (batch.seen(parts) for batch in batches)
        return
    with worker_processes(count, begin, (parts,)) as pool:
        yield lambda batches: in_order(pool, seen_in, batches, BATCHES_OF_A_PROCESS * count)


def _with_copies(
    dataset: Dataset, named: np.ndarray, sources: list[tuple[Dataset, np.ndarray]], ids: set[str]
) -> Returned:
    """Look for copies and near copies of the named rows of all sources."""
    nothing = np.zeros_like(named)
    try:
        columns = text_columns(dataset, ids)
    except InputError:
        # Numbers alone have no copies that tell of somebody.
        return Returned(named, nothing, nothing)
    texts = [
        chunk
        for part, mask in sources
        if mask.any() and set(columns) <= set(part.column_names)
        for chunk in texts_of(part, columns, mask).chunks
    ]
    keys = pa.chunked_array([pa.array([], pa.large_string()), *texts]).unique().drop_null()
    if not len(keys):
        return Returned(named, nothing, nothing)
    copies = nothing.copy()

    def is_copy(part: tuple[pa.Table, int]) -> tuple[int, np.ndarray]:
        return part[1], np.asarray(pc.is_in(normalised_text(part[0], columns), value_set=keys))

    count = min(MOST_THREADS, pa.cpu_count())
    with ThreadPoolExecutor(count) as threads:
        for start, found in in_order(threads, is_copy, read_tables(dataset, columns), count):
            copies[start : start + len(found)] = found
    copies &= ~named
    near = nothing.copy()
    for part in find_near_copies(dataset, columns, keys, ~(named | copies))[1]:
        near[part["row"].to_numpy()] = True
    return Returned(named, copies, near)
