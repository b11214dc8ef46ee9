"""The data set D split by a request into the retained set L = D \\ S, the forget set S and a holdout set H.

Rows are never copied: the parts of a ``Dataset`` are index mappings over its Arrow table, the parts of an
``IterableDataset`` are filters that depend on each row alone, so they hold for any number of shards and workers.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from datasets import ClassLabel, Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.table import InMemoryTable

from .digests import keyed_digest
from .duplicates import Copies, find_copies, text_columns
from .errors import InputError
from .requests import Matcher, PositionMatcher, Records, require_columns
from .tables import AnyDataset, column_names, read_tables, row_count

DuplicatePolicy = Literal["report", "forget", "error"]


@dataclass(frozen=True)
class SplitAudit:
    """What a request did to a data set, in counts: it holds no id and no text.

    Attributes:
        dataset_rows: rows of D; the holdout rows are not among them.
        forget_rows, retained_rows, holdout_rows: rows of S, L and H.
        ids_requested, ids_matched, ids_unmatched: distinct ids, values, positions or rows that the request names.
        duplicate_columns: the columns compared, after Unicode, case and whitespace normalisation.
        duplicate_policy: ``report``, ``forget``, ``error``, or None when duplicates were not looked for.
        duplicates_retained: rows of L whose text equals that of a row of S; each keeps teaching S.
        duplicates_forgotten: such rows that the policy ``forget`` moved to S.
        near_duplicates_retained: None, not looked for.
        holdout_overlap: rows of H whose text also occurs in S or L, so that the original model did see it.
        dataset_fingerprint: the ``datasets`` fingerprint of the data set that was split, None for a stream.
        dataset_revision: the commit of the data set on the Hub, None when unknown.
        request_digest: keyed digest (HMAC-SHA256) of what the request names, None without a key.
    """

    dataset_rows: int
    forget_rows: int
    retained_rows: int
    holdout_rows: int
    ids_requested: int
    ids_matched: int
    ids_unmatched: int
    duplicate_columns: list[str]
    duplicate_policy: DuplicatePolicy | None
    duplicates_retained: int | None
    duplicates_forgotten: int
    near_duplicates_retained: int | None
    holdout_overlap: int | None
    dataset_fingerprint: str | None
    dataset_revision: str | None
    request_digest: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ForgetRows:
    """Where S is in the data that a model was trained on; it is never written anywhere.

    Attributes:
        rows: places of the rows of S in D without the holdout rows, from 0, int64 of shape (rows of S,).
        fingerprint: the ``datasets`` fingerprint of D without the holdout rows.
    """

    rows: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class RetainedSplit:
    """The parts of a data set after a request, in the order of its rows and with its features.

    Attributes:
        retained: L, everything that stays.
        forget: S, the records to forget.
        holdout: H, records like S that no model was trained on, or None.
        audit: the counts.
        forget_rows: where S is in D, None for a stream.
    """

    retained: AnyDataset
    forget: AnyDataset
    holdout: AnyDataset | None
    audit: SplitAudit
    forget_rows: ForgetRows | None = None

    def flattened(self) -> "RetainedSplit":
        """Write each part out as a table of its own, without index mappings (``Dataset`` only)."""

        def flat(part: AnyDataset | None) -> AnyDataset | None:
            return part.flatten_indices() if isinstance(part, Dataset) else part

        retained, forget = flat(self.retained), flat(self.forget)
        assert retained is not None
        assert forget is not None
        return replace(self, retained=retained, forget=forget, holdout=flat(self.holdout))


def split_retained(
    dataset: AnyDataset | DatasetDict | IterableDatasetDict,
    request: Records,
    *,
    split: str | None = None,
    holdout: Records | AnyDataset | None = None,
    duplicates: DuplicatePolicy | None = "report",
    duplicate_columns: Sequence[str] | None = None,
    allow_unmatched: bool = False,
    digest_key: bytes | None = None,
    revision: str | None = None,
) -> RetainedSplit:
    """Split a data set into what stays and what a request names.

    Args:
        dataset: D, in memory, memory-mapped or streamed; a dictionary of splits needs ``split``. A stream is read once
            for the request and once more for duplicates, and must yield the same rows each time.
        request: the records to forget.
        split: which split of a dictionary to use; the other splits stay untouched.
        holdout: records like S that the original model never saw: a request naming rows of ``dataset``, which then
            belong neither to S nor to L, or a data set of its own.
        duplicates: what to do with rows of L whose text equals that of a row of S: count them (``report``), forget
            them too (``forget``), or raise (``error``); None skips the search.
        duplicate_columns: the columns that make a duplicate; by default ``messages``, or ``prompt`` and
            ``completion``, or ``text``, or else every column of strings that the request does not look at.
        allow_unmatched: go on when the request names something that the data set does not have.
        digest_key: the owner's key for the digest of the request in the audit.
        revision: the commit of the data set, recorded in the audit.

    Returns:
        The parts and the audit.

    Raises:
        InputError: unknown column, wrong type, something unmatched or repeated, a request that removes everything,
            a row both forgotten and held out, or a duplicate under the policy ``error``.
    """
    dataset = _one_split(dataset, split)
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise InputError("The data set is empty; there is nothing to forget.")
    class_names = _class_names(dataset)
    forget = _Selection(request, "The request", class_names)
    held_out = _Selection(holdout, "The holdout request", class_names) if isinstance(holdout, Records) else None

    parts = [forget] + ([held_out] if held_out else [])
    for part in parts:
        part.choose_columns(column_names(dataset))
    for table, start in read_tables(dataset, [column for part in parts for column in part.columns]):
        for part in parts:
            part.look_at(table, start)
    for part in parts:
        part.check(allow_unmatched, dataset)
    forget_mask = forget.mask()
    holdout_mask = held_out.mask() if held_out else np.zeros_like(forget_mask)
    if overlap := int(np.count_nonzero(forget_mask & holdout_mask)):
        raise InputError(
            f"{overlap} rows are both in the request and in the holdout request; name each in one of them."
        )

    copies = Copies((), None, None, None)
    if duplicates is not None:
        columns = duplicate_columns or text_columns(dataset, {column for part in parts for column in part.columns})
        require_columns(columns, column_names(dataset))
        other = holdout if isinstance(holdout, Dataset | IterableDataset) else None
        copies = find_copies(dataset, list(columns), forget_mask, holdout_mask, other)
    found = int(np.count_nonzero(copies.mask)) if copies.mask is not None else None
    if found and duplicates == "error":
        raise InputError(
            f"{found} retained rows have the same text as a forgotten one and would keep teaching it; "
            "forget them too (duplicates='forget') or go on (duplicates='report')."
        )
    moved = found or 0 if duplicates == "forget" else 0
    if moved and copies.mask is not None:
        forget_mask |= copies.mask
    retained_mask = ~(forget_mask | holdout_mask)
    if not retained_mask.any():
        raise InputError("The request removes every row; with nothing retained there is no model to train.")

    take = _RowTaker(dataset, forget, held_out, copies if moved else None)
    own_holdout = take(holdout_mask, "holdout") if held_out else None
    forget_rows = None
    if isinstance(dataset, Dataset):
        trained = take(~holdout_mask, "retained") if held_out else dataset
        assert isinstance(trained, Dataset)
        forget_rows = ForgetRows(np.flatnonzero(forget_mask[~holdout_mask]), trained._fingerprint)
    audit = SplitAudit(
        dataset_rows=len(forget_mask) - int(np.count_nonzero(holdout_mask)),
        forget_rows=int(np.count_nonzero(forget_mask)),
        retained_rows=int(np.count_nonzero(retained_mask)),
        holdout_rows=int(np.count_nonzero(holdout_mask))
        if held_out
        else row_count(holdout)
        if holdout is not None
        else 0,
        ids_requested=forget.requested,
        ids_matched=forget.requested - forget.unmatched,
        ids_unmatched=forget.unmatched,
        duplicate_columns=list(copies.columns),
        duplicate_policy=duplicates,
        duplicates_retained=None if found is None else found - moved,
        duplicates_forgotten=moved,
        near_duplicates_retained=None,
        holdout_overlap=copies.holdout_overlap,
        dataset_fingerprint=dataset._fingerprint if isinstance(dataset, Dataset) else None,
        dataset_revision=revision,
        request_digest=forget.digest(digest_key) if digest_key else None,
    )
    return RetainedSplit(
        retained=take(retained_mask, "retained"),
        forget=take(forget_mask, "forget"),
        holdout=own_holdout if held_out or holdout is None else holdout,
        audit=audit,
        forget_rows=forget_rows,
    )


def _one_split(dataset: Any, split: str | None) -> AnyDataset:
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        if split not in dataset:
            asked = "Name one with split=…" if split is None else f"There is no split {split!r}"
            raise InputError(f"{asked}; the data set has the splits {', '.join(dataset)}.")
        return dataset[split]
    if not isinstance(dataset, Dataset | IterableDataset):
        raise InputError(f"{type(dataset).__name__} is not a data set of the datasets library.")
    return dataset


def _class_names(dataset: AnyDataset) -> dict[str, list[str]]:
    features = dataset.features or {}
    return {name: feature.names for name, feature in features.items() if isinstance(feature, ClassLabel)}


# Selecting


class _Selection:
    """A request at work on one data set: which rows it names and what it could not find."""

    def __init__(self, request: Records, name: str, class_names: dict[str, list[str]]):
        self.parts, self.name, self.class_names = request.parts, name, class_names
        self.columns: list[str] = []
        self.matchers: list[Matcher] = []
        self.masks: list[list[np.ndarray]] = []

    def choose_columns(self, available: Sequence[str]) -> None:
        self.columns = [column for part in self.parts for column in part.columns(available)]

    def look_at(self, table: pa.Table, start: int) -> None:
        if not self.matchers:
            self.matchers = [part.bind(table.schema, self.class_names) for part in self.parts]
            self.masks = [[] for _ in self.parts]
        for matcher, masks in zip(self.matchers, self.masks, strict=True):
            mask = matcher.mask(table, start)
            matcher.count(table, mask, start)
            masks.append(mask)

    def check(self, allow_unmatched: bool, dataset: AnyDataset) -> None:
        if not self.matchers:
            raise InputError("The data set is empty; there is nothing to forget.")
        for matcher in self.matchers:
            missing = np.flatnonzero(matcher.hits == 0)
            if len(missing) and not allow_unmatched:
                nearly = matcher.nearly(missing, read_tables(dataset, self.columns))
                hint = f"it has {nearly} of them in another case, white space or Unicode form; " if nearly else ""
                raise InputError(
                    f"{self.name} names {len(missing)} of {len(matcher.hits)} records that the data set does not have "
                    f"({matcher.place(missing)}); {hint}correct them, or go on without them with --allow_unmatched."
                )
            repeated = np.flatnonzero(matcher.hits > 1)
            if matcher.unique and len(repeated):
                raise InputError(
                    f"{len(repeated)} ids belong to more than one row of the data set ({matcher.place(repeated)}), "
                    "although they must be unique."
                )

        if not allow_unmatched and not self.mask().any():
            raise InputError(f"{self.name} names no record of the data set; there is nothing to do.")

    def mask(self) -> np.ndarray:
        return np.logical_or.reduce([np.concatenate(masks) for masks in self.masks])

    def names(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table it names, by what is in the rows alone."""
        return np.logical_or.reduce([matcher.mask(table, 0) for matcher in self.matchers])

    @property
    def requested(self) -> int:
        return sum(len(matcher.hits) for matcher in self.matchers)

    @property
    def unmatched(self) -> int:
        return sum(int(np.count_nonzero(matcher.hits == 0)) for matcher in self.matchers)

    def digest(self, key: bytes) -> str:
        named = zip(self.matchers, self.masks, strict=True)
        return keyed_digest(
            key, (text for matcher, masks in named for text in matcher.digestible(np.concatenate(masks)))
        )


# Taking


class _RowTaker:
    """Takes the rows of a part out of the data set."""

    def __init__(self, dataset: AnyDataset, forget: _Selection, held_out: _Selection | None, copies: Copies | None):
        self.dataset, self.forget, self.held_out, self.copies = dataset, forget, held_out, copies
        matchers = forget.matchers + (held_out.matchers if held_out else [])
        self.by_position = any(isinstance(matcher, PositionMatcher) for matcher in matchers)
        if self.by_position and isinstance(dataset, IterableDataset) and dataset.num_shards > 1:
            raise InputError(
                f"Rows of a stream of {dataset.num_shards} shards have no fixed position; name them by id instead."
            )

    def __call__(self, mask: np.ndarray, part: Literal["retained", "forget", "holdout"]) -> AnyDataset:
        if isinstance(self.dataset, Dataset):
            return _take_rows(self.dataset, np.flatnonzero(mask))
        features = self.dataset.features
        stream = self.dataset.with_format("arrow")
        if self.by_position:
            kept = stream.filter(lambda table, rows: pa.array(mask[rows]), with_indices=True, batched=True)
        else:
            kept = stream.filter(self._belongs_to(part), batched=True)
        kept = kept.with_format(None)
        return kept if features is None else kept.cast(features)

    def _belongs_to(self, part: str) -> Callable[[pa.Table], pa.Array]:
        forget, held_out, copies = self.forget, self.held_out, self.copies

        def belongs(table: pa.Table) -> pa.Array:
            in_holdout = held_out.names(table) if held_out else np.zeros(table.num_rows, bool)
            in_forget = forget.names(table)
            if copies:
                in_forget |= copies.names(table) & ~in_holdout
            wanted = {"forget": in_forget, "holdout": in_holdout, "retained": ~(in_forget | in_holdout)}
            return pa.array(wanted[part])

        return belongs


def _take_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """``dataset.select(rows)`` for an array: the same index mapping without a walk over a Python list of a million."""
    indices = pa.array(rows, type=pa.uint64())
    if dataset._indices is not None:
        indices = dataset._indices.column(0).take(indices)
    part = Dataset(
        dataset.data,
        info=dataset.info.copy(),
        split=dataset.split,
        indices_table=InMemoryTable(pa.table({"indices": indices})),
        fingerprint=xxhash.xxh64(dataset._fingerprint.encode() + rows.tobytes()).hexdigest(),
    )
    form = dataset.format
    return part.with_format(form["type"], form["columns"], form["output_all_columns"], **form["format_kwargs"])
