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

from ..errors import AlreadyHonoured, InputError
from .arrow_tables import AnyDataset, column_names, require_columns, row_count
from .copies.exact import Copies, DuplicatePolicy, find_copies, text_columns, texts_of
from .copies.near import NEAR_THRESHOLD
from .copies.search import NearAudit, NearFindings, NearSearch, look_for_near_copies
from .request.forgotten_digests import Forgotten, forgotten_digests
from .request.records import Records
from .request.selection import Masks, RowTaker, Selection, Selections, select_rows

if TYPE_CHECKING:
    from .copies.paraphrases import SentenceEncoder


@dataclass(frozen=True)
class SplitAudit:
    """What a request did to a data set, in counts: it holds no id and no text.

    Attributes:
        dataset_rows: rows of D; the holdout rows are not among them.
        forget_rows, retained_rows, holdout_rows: rows of S, L and H.
        ids_requested, ids_matched, ids_unmatched: distinct ids, values, positions or rows that the request names.
        duplicate_columns: the columns compared, after Unicode, case and whitespace normalisation.
        duplicate_policy: ``report``, ``forget``, ``error``, or None when duplicates were not looked for.
        duplicates_retained: rows of L whose text equals that of a row of S, or of one that was forgotten before; each
            keeps teaching it.
        duplicates_forgotten: such rows that the policy ``forget`` moved to S.
        near_duplicates_retained: rows of L that are near copies of a row of S or quote one, as
            :mod:`~hf_unlearn.data.copies.near` defines it, or paraphrase one; None when nobody looked.
        holdout_overlap: rows of H whose text also occurs in S or L, so that the original model did see it.
        dataset_fingerprint: the ``datasets`` fingerprint of the data set that was split, None for a stream.
        dataset_revision: the commit of the data set on the Hub, None when unknown.
        request_digest: keyed digest (HMAC-SHA256) of what the request names, None without a key.
        near_duplicate_policy: as above, or None when near copies were not looked for.
        near_duplicates_forgotten: near copies that the policy ``forget`` moved to S.
        near_duplicates: what each search for near copies found.
        forgotten_before_rows: rows of D that earlier requests named; they are in neither S nor L.
        ids_honoured: ids and values that the request names and earlier ones named too; the others are counted above.
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ForgetRows:
    """Where S is in the data that a model was trained on; it is never written anywhere.

    Attributes:
        rows: places of the rows of S, and of those forgotten before, in D without the holdout rows, from 0, int64 of
            shape (rows,).
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
        forgotten: what the ledger keeps of S, None without a key.
    """

    retained: AnyDataset
    forget: AnyDataset
    holdout: AnyDataset | None
    audit: SplitAudit
    forget_rows: ForgetRows | None = None
    forgotten: Forgotten | None = None

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
    near_duplicates: DuplicatePolicy | None = "report",
    near_threshold: float = NEAR_THRESHOLD,
    near_encoder: "SentenceEncoder | None" = None,
    near_review: Path | None = None,
    allow_unmatched: bool = False,
    digest_key: bytes | None = None,
    revision: str | None = None,
    forgotten_before: Records | None = None,
    ask_again: bool = False,
) -> RetainedSplit:
    """Split a data set into what stays and what a request names.

    Args:
        dataset: D, in memory, memory-mapped or streamed; a dictionary of splits needs ``split``. A stream is read once
            for the request and several times for duplicates, and must yield the same rows each time.
        request: the records to forget.
        split: which split of a dictionary to use; the other splits stay untouched.
        holdout: records like S that the original model never saw: a request naming rows of ``dataset``, which then
            belong neither to S nor to L, or a data set of its own.
        duplicates: what to do with rows of L whose text equals that of a row of S: count them (``report``), forget
            them too (``forget``), or raise (``error``); None skips the search.
        duplicate_columns: the columns that make a duplicate; by default ``messages``, or ``prompt`` and
            ``completion``, or ``text``, or else every column of strings that the request does not look at.
        near_duplicates: the same for rows of L that nearly equal a row of S or quote it, see
            :mod:`~hf_unlearn.data.copies.near`; None, or no search for duplicates, skips this.
        near_threshold: from which Jaccard index on rows are nearly equal.
        near_encoder: finds paraphrases, too.
        near_review: a file to write for the owner, with the texts of all near copies; for nobody else's eyes.
        allow_unmatched: go on when the request names something that the data set does not have.
        digest_key: the owner's key for the digest of the request in the audit.
        revision: the commit of the data set, recorded in the audit.
        forgotten_before: what earlier requests named (see ``recognised``): it stays in none
            of the parts, and the request goes on without it.
        ask_again: keep what was forgotten before in S where the request names it, to measure its forgetting again.

    Returns:
        The parts and the audit.

    Raises:
        AlreadyHonoured: all that the request names was forgotten before.
        InputError: unknown column, wrong type, something unmatched or repeated, a request that removes everything,
            a row both forgotten and held out, or a duplicate under the policy ``error``.
    """
    near_search = _near_search(duplicates, near_duplicates, near_threshold, near_encoder, near_review)
    dataset = _one_split(dataset, split)
    selections = _selected(dataset, request, holdout, forgotten_before, ask_again, allow_unmatched)
    masks, forget = _masks(selections), selections.forget
    columns = _text_columns(dataset, duplicate_columns, selections) if duplicates is not None else []
    other = holdout if isinstance(holdout, Dataset | IterableDataset) else None
    # A copy of what was forgotten before teaches it again, too.
    copies = find_copies(dataset, columns, masks.forget | masks.before, masks.held_out, other, duplicates)
    masks = replace(masks, forget=masks.forget | copies.moved)
    near = look_for_near_copies(dataset, copies, masks.forget | masks.before, masks.retained, near_search)
    masks = replace(masks, forget=masks.forget | near.moved)
    if not masks.retained.any():
        raise InputError("The request removes every row; with nothing retained there is no model to train.")

    take = RowTaker(dataset, selections, copies.columns, _keys(dataset, copies, near))
    return RetainedSplit(
        retained=take(masks.retained, "retained"),
        forget=take(masks.forget, "forget"),
        holdout=take(masks.held_out, "held_out") if isinstance(holdout, Records) else holdout,
        audit=_audit(dataset, forget, holdout, masks, copies, near, revision, digest_key),
        forget_rows=_forget_rows(dataset, take, masks),
        forgotten=forgotten_digests(dataset, forget, masks.forget, digest_key) if digest_key else None,
    )


def _near_search(
    duplicates: DuplicatePolicy | None,
    policy: DuplicatePolicy | None,
    threshold: float,
    encoder: "SentenceEncoder | None",
    review: Path | None,
) -> NearSearch | None:
    """How to look for near copies; raises InputError where more is asked for than can be done."""
    if duplicates is not None and policy is not None:
        return NearSearch(policy, threshold, encoder, review)
    if policy in ("forget", "error") or encoder is not None or review is not None:
        raise InputError("Near copies are looked for only where copies are, too; skip neither search.")
    return None


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
    dataset: AnyDataset,
    request: Records,
    holdout: Records | AnyDataset | None,
    forgotten_before: Records | None,
    ask_again: bool,
    allow_unmatched: bool,
) -> Selections:
    """What the request, that for H and the earlier ones name in D."""
    known = None if ask_again else forgotten_before
    forget = Selection(request, "The request", dataset, known)
    held_out = before = None
    if isinstance(holdout, Records):
        held_out = Selection(holdout, "The holdout request", dataset, forgotten_before)
    if forgotten_before is not None:
        before = Selection(forgotten_before, "The ledger", dataset)
    selections = Selections(forget, held_out, before, ask_again)
    select_rows(dataset, selections.all)
    for part in (forget, held_out):
        if part is not None:
            part.check(allow_unmatched, dataset)
    return selections


def _masks(selections: Selections) -> Masks:
    """Which rows belong to which part; raises InputError where that cannot be."""
    masks = selections.masks(Selection.mask)
    if overlap := int(np.count_nonzero(masks.forget & masks.held_out)):
        raise InputError(
            f"{overlap} rows are both in the request and in the holdout request; name each in one of them."
        )
    forget = selections.forget
    honoured = sum(forget.honoured)
    if not masks.forget.any() and (honoured or forget.mask().any()):
        what = f"All {honoured:,} ids" if honoured else "All the records"
        if forget.unmatched:
            what = f"The data set does not have {forget.unmatched:,} of the ids, and the {honoured:,} others"
        raise AlreadyHonoured(f"{what} that the request names were forgotten before; there is nothing to do.")
    return masks


def _text_columns(dataset: AnyDataset, named: Sequence[str] | None, selections: Selections) -> list[str]:
    """The columns to look for copies in: those that the user named, or the usual ones."""
    return require_columns(named or text_columns(dataset, selections.columns), column_names(dataset))


def _keys(dataset: AnyDataset, copies: Copies, near: NearFindings) -> pa.Array:
    """The texts by which a stream knows the rows that were moved to S."""
    keys = [copies.keys] if copies.moved.any() else [pa.array([], pa.large_string())]
    if near.moved.any() and isinstance(dataset, IterableDataset):
        keys.append(texts_of(dataset, copies.columns, near.moved).unique())
    return pa.concat_arrays(keys)


def _audit(
    dataset: AnyDataset,
    forget: Selection,
    holdout: Records | AnyDataset | None,
    masks: Masks,
    copies: Copies,
    near: NearFindings,
    revision: str | None,
    digest_key: bytes | None,
) -> SplitAudit:
    return SplitAudit(
        dataset_rows=int(np.count_nonzero(~masks.held_out)),
        forget_rows=int(np.count_nonzero(masks.forget)),
        retained_rows=int(np.count_nonzero(masks.retained)),
        holdout_rows=_holdout_rows(holdout, masks.held_out),
        ids_requested=forget.requested,
        ids_matched=forget.requested - forget.unmatched,
        ids_unmatched=forget.unmatched,
        dataset_fingerprint=dataset._fingerprint if isinstance(dataset, Dataset) else None,
        dataset_revision=revision,
        request_digest=forget.digest(digest_key) if digest_key else None,
        **copies.counts(),
        **near.counts(),
        forgotten_before_rows=int(np.count_nonzero(masks.before)),
        ids_honoured=sum(forget.honoured),
    )


def _holdout_rows(holdout: Records | AnyDataset | None, mask: np.ndarray) -> int:
    if holdout is None or isinstance(holdout, Records):
        return int(np.count_nonzero(mask))
    return row_count(holdout)


def _forget_rows(dataset: AnyDataset, take: RowTaker, masks: Masks) -> ForgetRows | None:
    if not isinstance(dataset, Dataset):
        return None
    trained = take(~masks.held_out, "retained") if masks.held_out.any() else dataset
    assert isinstance(trained, Dataset)
    forgotten = masks.forget | masks.before
    return ForgetRows(np.flatnonzero(forgotten[~masks.held_out]), trained._fingerprint)
