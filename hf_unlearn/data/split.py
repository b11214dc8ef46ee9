"""The data set D split by a request into the retained set L = D \\ S, the forget set S and a holdout set H.

Rows are never copied: the parts of a ``Dataset`` are index mappings over its Arrow table, the parts of an
``IterableDataset`` are filters that depend on each row alone, so they hold for any number of shards and workers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from ..errors import AlreadyForgotten, InputError
from .arrow_tables import AnyDataset, column_names, require_columns, row_count
from .copies.exact import Copies, DuplicatePolicy, find_copies, text_columns, texts_of
from .copies.review import check_review
from .copies.search import NearAudit, NearCopies, look_for_near_copies
from .groups import Groups, find_groups
from .request.forgotten_digests import Forgotten, forgotten_digests
from .request.records import Records, Values
from .request.selection import Masks, RowTaker, Selection, Selections, select_rows, take_rows
from .short_table import ShortTable, Shown

if TYPE_CHECKING:
    from .copies.paraphrases import SentenceEncoder


@dataclass(frozen=True)
class SplitAudit:
    """What a request did to a data set, in counts; it holds no id and no text.

    Attributes:
        dataset_rows: rows of D without the held-out rows.
        forget_rows, retained_rows, holdout_rows: rows of S, L and H.
        ids_requested, ids_matched, ids_unmatched: distinct ids, values, positions or rows that the request names.
        duplicate_columns: the columns compared, after Unicode, case and whitespace normalisation.
        duplicate_policy: ``report``, ``forget``, ``error``, or None when duplicates were not looked for.
        duplicates_retained: rows of L with the text of a row of S, or of a row that was forgotten before. Each keeps
            teaching that text.
        duplicates_forgotten: such rows that the policy ``forget`` moved to S.
        near_duplicates_retained: rows of L that nearly equal, quote or paraphrase a row of S, see
            :mod:`~hf_unlearn.data.copies.near`; None when they were not looked for.
        holdout_overlap: rows of H whose text also occurs in S or L, so that the original model saw it.
        dataset_fingerprint: the ``datasets`` fingerprint of the data set that was split, None for a stream.
        dataset_revision: the commit of the data set on the Hub, None when unknown.
        request_digest: keyed digest (HMAC-SHA256) of what the request names, None without a key.
        near_duplicate_policy: as ``duplicate_policy``, for near copies.
        near_duplicates_forgotten: near copies that the policy ``forget`` moved to S.
        near_duplicates: what each search for near copies found.
        forgotten_before_rows: rows of D that earlier requests named; they are in neither S nor L.
        ids_honoured: ids and values of the request that earlier requests named too. The counts above leave them out.
        group_column: the column that says whose record it is, see :func:`~hf_unlearn.data.groups.find_groups`; None
            where each record counts as a group of its own.
        forget_groups, holdout_groups: groups in S and H, None without groups.
        holdout_groups_retained: groups of H that have other records in L, so that the model saw their like; None
            without groups.
        holdout_rows_of_retained_groups: the rows of H in those groups.
        id_columns: the columns whose values the request names.
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
    near_duplicate_policy: DuplicatePolicy | None = None
    near_duplicates_forgotten: int = 0
    near_duplicates: list[NearAudit] = field(default_factory=list)
    forgotten_before_rows: int = 0
    ids_honoured: int = 0
    group_column: str | None = None
    forget_groups: int | None = None
    holdout_groups: int | None = None
    holdout_groups_retained: int | None = None
    holdout_rows_of_retained_groups: int | None = None
    id_columns: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """The counts as people read them, each with its name."""
        rows = {
            "rows in D": f"{self.dataset_rows:,}",
            "rows to forget (S)": f"{self.forget_rows:,}",
            "rows retained (L)": f"{self.retained_rows:,}",
            "rows held out (H)": f"{self.holdout_rows:,}",
        }
        if self.ids_requested:
            rows["requested, found, missing"] = f"{self.ids_requested:,}, {self.ids_matched:,}, {self.ids_unmatched:,}"
        optional = {
            "requested, and forgotten before": self.ids_honoured,
            "rows forgotten before, left out": self.forgotten_before_rows,
            "copies of S left in L": self.duplicates_retained,
            "copies forgotten too": self.duplicates_forgotten,
            "near copies of S left in L": self.near_duplicates_retained,
            "near copies forgotten too": self.near_duplicates_forgotten,
        }
        for label, count in optional.items():
            # What was looked for and not found is shown; None says that nobody looked.
            if count or (count == 0 and label.endswith("left in L")):
                rows[label] = f"{count:,}"
        return list(rows.items())

    def concerns(self) -> dict[str, str]:
        """What is wrong with the split, a sentence or two each."""
        groups, rows = self.holdout_groups_retained or 0, self.holdout_rows_of_retained_groups or 0
        found = {
            "duplicates": (
                self.duplicates_retained,
                "{:,} retained rows have the text of a forgotten row and will teach it again.",
            ),
            "near_duplicates": (
                self.near_duplicates_retained,
                "{:,} retained rows nearly equal or quote a forgotten row and will teach most of it again.",
            ),
            "holdout_groups": (
                groups,
                f"Groups of H with other records in L: {groups:,} ({rows:,} rows). Every model knows them better "
                "than S.",
            ),
            "holdout_overlap": (
                self.holdout_overlap,
                "{:,} held-out rows have the text of a row in D. The original model was trained on that text, so "
                "these rows make a poor comparison.",
            ),
        }
        return {name: words.format(count) for name, (count, words) in found.items() if count}

    def identity(self) -> dict[str, Any]:
        """What makes this split this split, with no more than older folders of runs and references say of it."""
        values = {name: value for name, value in asdict(self).items() if name not in vars(Groups())}
        for near in values["near_duplicates"]:
            del near["common_texts"], near["common_rows"]
        return values


@dataclass(frozen=True)
class ForgetRows:
    """Where S is in the data that a model was trained on; this is never written to a file.

    Attributes:
        rows: positions of the rows of S, and of those forgotten before, in D without the held-out rows, int64 of
            shape (rows,), counted from 0.
        fingerprint: the ``datasets`` fingerprint of D without the held-out rows.
    """

    rows: np.ndarray
    fingerprint: str


@dataclass(frozen=True)
class RetainedSplit(Shown):
    """The parts of a data set after a request, in the order of its rows and with its features.

    Attributes:
        retained: the retained records (L).
        forget: the records to forget (S).
        holdout: the held-out records (H), like S but never seen by the original model; None without any.
        audit: the counts.
        forget_rows: where S is in D, None for a stream.
        forgotten: what the ledger keeps of S, None without a key.
        lacking: ids and rows that earlier requests named, and that D had then and lacks now.
    """

    retained: AnyDataset
    forget: AnyDataset
    holdout: AnyDataset | None
    audit: SplitAudit
    forget_rows: ForgetRows | None = field(default=None, repr=False)
    forgotten: Forgotten | None = field(default=None, repr=False)
    lacking: int = 0

    def short_table(self) -> ShortTable:
        """The counts, and what is wrong with them."""
        return ShortTable("The split", [], self.audit.rows(), list(self.audit.concerns().values()))


def split_retained(
    dataset: AnyDataset | DatasetDict | IterableDatasetDict,
    request: Records,
    *,
    split: str | None = None,
    holdout: Records | AnyDataset | None = None,
    duplicates: DuplicatePolicy | None = "report",
    duplicate_columns: Sequence[str] | None = None,
    near_duplicates: DuplicatePolicy | None = "report",
    near_encoder: "SentenceEncoder | None" = None,
    near_review: Path | None = None,
    allow_unmatched: bool = False,
    digest_key: bytes | None = None,
    revision: str | None = None,
    forgotten_before: Records | None = None,
    ask_again: bool = False,
    group_column: str | None = None,
) -> RetainedSplit:
    """Split a data set into the records to forget, the retained records and the held-out records.

    Args:
        dataset: D, in memory, memory-mapped or streamed. A dictionary of splits needs ``split``. A stream is read once
            for the request and several times for copies, and must give the same rows each time.
        request: the records to forget.
        split: which split of a dictionary to use; the other splits stay untouched.
        holdout: records like S that the original model never saw: a data set of its own, or a request that names rows
            of ``dataset``, which then belong neither to S nor to L.
        duplicates: what to do with rows of L that have the text of a row of S: count them (``report``), forget them
            too (``forget``), or raise (``error``); None skips the search.
        duplicate_columns: the columns that carry the text; by default :func:`~hf_unlearn.data.format.columns_read`,
            or else every column of strings that the request does not name.
        near_duplicates: the same for rows of L that nearly equal a row of S or quote it, see
            :mod:`~hf_unlearn.data.copies.near`. None skips the search, and so does ``duplicates=None``.
        near_encoder: also finds paraphrases.
        near_review: a private file to write, with the texts of all near copies.
        allow_unmatched: go on when the data set lacks a part of what the request, or an earlier one, names.
        digest_key: the owner's key for the digest of the request in the audit.
        revision: the commit of the data set, for the audit.
        forgotten_before: what earlier requests named, see ``recognised``. It is left out of all parts.
        ask_again: keep in S what the request names although it was forgotten before, to measure it again.
        group_column: the column that says whose record it is (author, customer); that of ids where these repeat.

    Returns:
        The parts and the audit.

    Raises:
        AlreadyForgotten: all that the request names was forgotten before.
        InputError: a column is unknown, a type is wrong, the data set lacks a part of what a request names, nothing
            would be retained, a row is both to forget and held out, or there is a copy under the policy ``error``.
    """
    near_policy = _near_policy(duplicates, near_duplicates, near_encoder, near_review)
    dataset = _one_split(dataset, split)
    _require_groups(group_column, dataset, holdout)
    selections, lacking = _selected(dataset, request, holdout, forgotten_before, ask_again, allow_unmatched)
    masks, forget = _masks(selections), selections.forget
    usual = [] if duplicates is None else duplicate_columns or text_columns(dataset, selections.columns)
    columns = require_columns(usual, column_names(dataset))
    other = holdout if isinstance(holdout, Dataset | IterableDataset) else None
    # A copy of what was forgotten before teaches it again, too.
    copies = find_copies(dataset, columns, masks.forget | masks.before, masks.held_out, other, duplicates)
    masks = replace(masks, forget=masks.forget | copies.moved)
    gone = masks.forget | masks.before
    near = look_for_near_copies(dataset, copies, gone, masks.retained, near_policy, near_encoder, near_review)
    masks = replace(masks, forget=masks.forget | near.moved)
    if not masks.retained.any():
        raise InputError("The request removes every row, so nothing is left to train on; name fewer records.")
    groups = find_groups(dataset, request, holdout, masks, group_column)

    take = RowTaker(dataset, selections, copies.columns, _keys(dataset, copies, near))
    return RetainedSplit(
        retained=take(masks.retained, "retained"),
        forget=take(masks.forget, "forget"),
        holdout=take(masks.held_out, "held_out") if isinstance(holdout, Records) else groups.holdout,
        audit=_audit(dataset, forget, other, masks, copies, near, groups, revision, digest_key),
        forget_rows=_forget_rows(dataset, masks),
        forgotten=forgotten_digests(dataset, forget, masks.forget, digest_key) if digest_key else None,
        lacking=lacking,
    )


def _near_policy(
    duplicates: DuplicatePolicy | None,
    near_duplicates: DuplicatePolicy | None,
    encoder: "SentenceEncoder | None",
    review: Path | None,
) -> DuplicatePolicy | None:
    """What to do about near copies, None to skip them; raises InputError where that contradicts the rest."""
    policy = near_duplicates if duplicates is not None else None
    if policy is None and (near_duplicates in ("forget", "error") or encoder is not None or review is not None):
        raise InputError(
            "Near copies are looked for only together with exact copies; set both duplicates and near_duplicates to "
            "'report', 'forget' or 'error'."
        )
    if review is not None:
        check_review(review)
    return policy


def _one_split(dataset: Any, split: str | None) -> AnyDataset:
    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        if split not in dataset:
            asked = "Name a split with split=…" if split is None else f"There is no split {split!r}"
            raise InputError(f"{asked}; the data set has the splits {', '.join(dataset)}.")
        return dataset[split]
    if not isinstance(dataset, Dataset | IterableDataset):
        raise InputError(f"dataset is a {type(dataset).__name__}; give a Dataset or IterableDataset of datasets.")
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise InputError("The data set is empty; there is nothing to forget.")
    return dataset


def _require_groups(column: str | None, *parts: Records | AnyDataset | None) -> None:
    """Raise InputError where a data set lacks the column of the groups that is asked for."""
    for part in parts:
        if column is not None and isinstance(part, Dataset | IterableDataset):
            require_columns([column], column_names(part))


def _selected(
    dataset: AnyDataset,
    request: Records,
    holdout: Records | AnyDataset | None,
    forgotten_before: Records | None,
    ask_again: bool,
    allow_unmatched: bool,
) -> tuple[Selections, int]:
    """Find the rows that are to be forgotten, held out, or were forgotten before, and count what D lacks of these."""
    known = None if ask_again else forgotten_before
    forget = Selection(request, "The request", dataset, known)
    held_out = before = None
    if isinstance(holdout, Records):
        held_out = Selection(holdout, "The held-out request", dataset, forgotten_before)
    if forgotten_before is not None:
        before = Selection(forgotten_before, "The ledger", dataset)
    selections = Selections(forget, held_out, before, ask_again)
    select_rows(dataset, selections.all)
    for part in (forget, held_out):
        if part is not None:
            part.check(allow_unmatched, dataset)
    lacking = before.check_earlier(allow_unmatched, forget.mask()) if before is not None else 0
    return selections, lacking


def _masks(selections: Selections) -> Masks:
    """Which rows belong to which part; raises InputError where two parts overlap or all was forgotten before."""
    masks = selections.masks(Selection.mask)
    if overlap := int(np.count_nonzero(masks.forget & masks.held_out)):
        raise InputError(
            f"{overlap} rows are both to be forgotten and held out; name each row in one of the two requests."
        )
    forget = selections.forget
    honoured = sum(forget.honoured)
    if not masks.forget.any() and (honoured or forget.mask().any()):
        what = f"All {honoured:,} ids" if honoured else "All the records"
        if forget.unmatched:
            what = f"The data set does not have {forget.unmatched:,} of the ids, and the {honoured:,} others"
        raise AlreadyForgotten(f"{what} that the request names were forgotten before; there is nothing to do.")
    return masks


def _keys(dataset: AnyDataset, copies: Copies, near: NearCopies) -> pa.Array:
    """The texts by which a stream recognises the rows that were moved to S."""
    keys = [copies.keys] if copies.moved.any() else [pa.array([], pa.large_string())]
    if near.moved.any() and isinstance(dataset, IterableDataset):
        keys.append(texts_of(dataset, copies.columns, near.moved).unique())
    return pa.concat_arrays(keys)


def _audit(
    dataset: AnyDataset,
    forget: Selection,
    other: AnyDataset | None,
    masks: Masks,
    copies: Copies,
    near: NearCopies,
    groups: Groups,
    revision: str | None,
    digest_key: bytes | None,
) -> SplitAudit:
    return SplitAudit(
        dataset_rows=int(np.count_nonzero(~masks.held_out)),
        forget_rows=int(np.count_nonzero(masks.forget)),
        retained_rows=int(np.count_nonzero(masks.retained)),
        holdout_rows=int(np.count_nonzero(masks.held_out)) if other is None else row_count(other),
        ids_requested=forget.requested,
        ids_matched=forget.requested - forget.unmatched,
        ids_unmatched=forget.unmatched,
        dataset_fingerprint=dataset._fingerprint if isinstance(dataset, Dataset) else None,
        dataset_revision=revision,
        request_digest=forget.digest(digest_key) if digest_key else None,
        **copies.counts(),
        duplicate_columns=copies.columns,
        holdout_overlap=copies.holdout_overlap,
        **near.counts(),
        near_duplicates=near.audits,
        forgotten_before_rows=int(np.count_nonzero(masks.before)),
        ids_honoured=sum(forget.honoured),
        **groups.counts(),
        id_columns=sorted({part.column for part in forget.parts if isinstance(part, Values)}),
    )


def _forget_rows(dataset: AnyDataset, masks: Masks) -> ForgetRows | None:
    if not isinstance(dataset, Dataset):
        return None
    trained = take_rows(dataset, np.flatnonzero(~masks.held_out)) if masks.held_out.any() else dataset
    forgotten = masks.forget | masks.before
    return ForgetRows(np.flatnonzero(forgotten[~masks.held_out]), trained._fingerprint)
