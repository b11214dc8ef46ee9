"""The data set D split by a request into the retained set L = D \\ S, the forget set S and a holdout set H.

Rows are never copied: the parts of a ``Dataset`` are index mappings over its Arrow table, the parts of an
``IterableDataset`` are filters that depend on each row alone, so they hold for any number of shards and workers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from .duplicates import Copies, find_copies, text_columns
from .errors import InputError
from .requests import Records, require_columns
from .selection import RowTaker, Selection, select_rows
from .tables import AnyDataset, column_names, row_count

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
    forget, held_out = _selected(dataset, request, holdout, allow_unmatched)
    forget_mask, holdout_mask = _masks(forget, held_out)
    copies = Copies((), None, None, None)
    if duplicates is not None:
        columns = _text_columns(dataset, duplicate_columns, forget, held_out)
        other = holdout if isinstance(holdout, Dataset | IterableDataset) else None
        copies = find_copies(dataset, columns, forget_mask, holdout_mask, other)
    found = _found(copies, duplicates)
    moved = found or 0 if duplicates == "forget" else 0
    if moved and copies.mask is not None:
        forget_mask |= copies.mask
    retained_mask = ~(forget_mask | holdout_mask)
    if not retained_mask.any():
        raise InputError("The request removes every row; with nothing retained there is no model to train.")

    take = RowTaker(dataset, forget, held_out, copies if moved else None)
    audit = SplitAudit(
        dataset_rows=int(np.count_nonzero(~holdout_mask)),
        forget_rows=int(np.count_nonzero(forget_mask)),
        retained_rows=int(np.count_nonzero(retained_mask)),
        holdout_rows=_holdout_rows(holdout, holdout_mask),
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
        holdout=take(holdout_mask, "holdout") if isinstance(holdout, Records) else holdout,
        audit=audit,
        forget_rows=_forget_rows(dataset, take, forget_mask, holdout_mask),
    )


def _one_split(dataset: Any, split: str | None) -> AnyDataset:
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        if split not in dataset:
            asked = "Name one with split=…" if split is None else f"There is no split {split!r}"
            raise InputError(f"{asked}; the data set has the splits {', '.join(dataset)}.")
        return dataset[split]
    if not isinstance(dataset, Dataset | IterableDataset):
        raise InputError(f"{type(dataset).__name__} is not a data set of the datasets library.")
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise InputError("The data set is empty; there is nothing to forget.")
    return dataset


def _selected(
    dataset: AnyDataset, request: Records, holdout: Records | AnyDataset | None, allow_unmatched: bool
) -> tuple[Selection, Selection | None]:
    """What the request, and that for H where there is one, name in D."""
    forget = Selection(request, "The request", dataset)
    held_out = Selection(holdout, "The holdout request", dataset) if isinstance(holdout, Records) else None
    select_rows(dataset, [forget, held_out] if held_out else [forget], allow_unmatched)
    return forget, held_out


def _masks(forget: Selection, held_out: Selection | None) -> tuple[np.ndarray, np.ndarray]:
    """Which rows belong to S and which to H, both bool of shape (rows of D and H,)."""
    forget_mask = forget.mask()
    holdout_mask = held_out.mask() if held_out else np.zeros_like(forget_mask)
    if overlap := int(np.count_nonzero(forget_mask & holdout_mask)):
        raise InputError(
            f"{overlap} rows are both in the request and in the holdout request; name each in one of them."
        )
    return forget_mask, holdout_mask


def _text_columns(
    dataset: AnyDataset, named: Sequence[str] | None, forget: Selection, held_out: Selection | None
) -> list[str]:
    """The columns to look for copies in: those that the user named, or the usual ones."""
    looked_at = {column for part in (forget, held_out) if part for column in part.columns}
    return require_columns(named or text_columns(dataset, looked_at), column_names(dataset))


def _found(copies: Copies, policy: DuplicatePolicy | None) -> int | None:
    """How many copies of S the retained rows hold, None where nobody looked; raises InputError where that matters."""
    if copies.mask is None:
        return None
    found = int(np.count_nonzero(copies.mask))
    if found and policy == "error":
        raise InputError(
            f"{found} retained rows have the same text as a forgotten one and would keep teaching it; "
            "forget them too (duplicates='forget') or go on (duplicates='report')."
        )
    return found


def _holdout_rows(holdout: Records | AnyDataset | None, mask: np.ndarray) -> int:
    if holdout is None or isinstance(holdout, Records):
        return int(np.count_nonzero(mask))
    return row_count(holdout)


def _forget_rows(
    dataset: AnyDataset, take: RowTaker, forget_mask: np.ndarray, holdout_mask: np.ndarray
) -> ForgetRows | None:
    if not isinstance(dataset, Dataset):
        return None
    trained = take(~holdout_mask, "retained") if holdout_mask.any() else dataset
    assert isinstance(trained, Dataset)
    return ForgetRows(np.flatnonzero(forget_mask[~holdout_mask]), trained._fingerprint)
