"""Held-out records that are like the ones to forget, chosen among records that no model saw."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .arrow_tables import read_tables
from .canonical import texts_of as value_texts
from .copies.exact import normalised_text, texts_of

# Lengths that differ by no more than this factor count as alike.
ALIKE = 1.4
# For this many records a side most attacks can decide (recipes/guides/held_out_records.md).
ENOUGH = 300
# Of each further record a record to forget, so many have to have a match.
COVERED = 0.8


@dataclass(frozen=True)
class Likeness:
    """Chosen records, and how like the ones to forget they are.

    Attributes:
        rows: their positions among the candidates, sorted, int64.
        known_groups: candidates that were left out because their id has records that a model saw.
        known_texts: candidates that were left out because a model saw their text.
        matched: the share of the records to forget that has a record of its own with its label and length.
        lengths: the median length in characters, of the records to forget and of the chosen ones.
    """

    rows: np.ndarray
    known_groups: int
    known_texts: int
    matched: float
    lengths: tuple[float, float]


def choose_holdout(
    candidates: Dataset,
    trained: Dataset,
    forget: np.ndarray,
    *,
    texts: Sequence[str],
    label: str | None,
    group: str | None,
    seed: int,
) -> Likeness | None:
    """Choose candidates with the labels and lengths of the records to forget, without groups and texts that were seen.

    Args:
        candidates: records that no model saw.
        trained: the data set D that the original was trained on.
        forget: the rows of D to forget, int64.
        texts: the columns that carry the text.
        label: the column of the class, None without classes.
        group: the column that says whose a record is, None where none does.
        seed: of the draw among candidates that are alike.

    Returns:
        What was chosen; None where every candidate was seen.
    """
    seen_texts = texts_of(trained, texts).unique()
    of_candidates = texts_of(candidates, texts)
    known_texts = np.asarray(pc.is_in(of_candidates, value_set=seen_texts))
    known_groups = np.zeros(len(candidates), bool)
    if group is not None and group in candidates.column_names:
        seen = _values(trained, group).unique().drop_null()
        known_groups = np.asarray(pc.is_in(_values(candidates, group), value_set=seen))
    free = np.flatnonzero(~(known_texts | known_groups))
    if not len(free):
        return None
    records = trained.select(forget)
    wanted, lengths = _strata(records, texts, label)
    offered, of_offered = _strata(candidates, texts, label)
    order = np.random.default_rng(seed).permutation(free)
    by_kind: dict[tuple[str, int], list[int]] = {}
    for row in order.tolist():
        by_kind.setdefault(offered[row], []).append(row)
    kinds = {kind: wanted.count(kind) for kind in set(wanted)}
    rows: list[int] = []
    matched, times = 0.0, 0
    while True:
        times += 1
        taken = [row for kind, count in kinds.items() for row in by_kind.get(kind, [])[: count * times]]
        covered = len(taken) / (times * len(wanted))
        if times > 1 and (covered < COVERED or len(taken) == len(rows)):
            break
        rows = taken
        matched = covered if times == 1 else matched
        if len(rows) >= max(ENOUGH, len(wanted)) or covered < COVERED:
            break
    if not rows:
        # Nothing is alike; what there is still shows how far apart the two are.
        rows = order[: max(ENOUGH, len(wanted))].tolist()
    chosen = np.sort(np.array(rows, dtype=np.int64))
    medians = float(np.median(lengths)), float(np.median(of_offered[chosen]))
    return Likeness(chosen, int(known_groups.sum()), int((known_texts & ~known_groups).sum()), matched, medians)


def _values(dataset: Dataset, column: str) -> pa.ChunkedArray:
    feature = (dataset.features or {}).get(column)
    chunks = [value_texts(table.column(column), feature) for table, _ in read_tables(dataset, [column])]
    return pa.chunked_array(chunks or [pa.array([], pa.large_string())])


def _strata(dataset: Dataset, texts: Sequence[str], label: str | None) -> tuple[list[tuple[str, int]], np.ndarray]:
    """The class and the size of each record, and its length in characters."""
    lengths = [
        np.asarray(pc.fill_null(pc.utf8_length(normalised_text(table, texts)), 0))
        for table, _ in read_tables(dataset, texts)
    ]
    size = np.concatenate(lengths) if lengths else np.zeros(0)
    steps = np.floor(np.log(np.maximum(size, 1)) / np.log(ALIKE)).astype(int).tolist()
    classes = [""] * len(steps)
    if label is not None and label in dataset.column_names:
        classes = [str(value) for value in _labels(dataset, label)]
    return list(zip(classes, steps, strict=True)), size


def _labels(dataset: Dataset, label: str) -> list[str | None]:
    """The classes as texts; those of words are no class of a record."""
    kind = dataset.features[label]
    return (
        [None] * len(dataset)
        if "List" in type(kind).__name__ or isinstance(kind, list)
        else _values(dataset, label).to_pylist()
    )
