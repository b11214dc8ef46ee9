"""What a split does about near copies of S in L, and what it says of them in counts."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..arrow_tables import AnyDataset
from .exact import Copies, DuplicatePolicy
from .near import find_near_copies
from .pairs import Pairs
from .review import check_review, write_review

if TYPE_CHECKING:
    from .paraphrases import SentenceEncoder

BINS = 10


@dataclass(frozen=True)
class NearSearch:
    """How to look for near copies of S, and what to do about them.

    Attributes:
        policy: count them (``report``), forget them too (``forget``), or raise (``error``).
        threshold: the least Jaccard index of similar records.
        encoder: finds paraphrases, too; None: nobody looks for these.
        review: a file for the owner with the texts of all pairs, None for none.
    """

    policy: DuplicatePolicy
    threshold: float
    encoder: "SentenceEncoder | None" = None
    review: Path | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(
                f"A Jaccard index of {self.threshold} is no threshold for near copies; give one above 0 and at most 1."
            )
        if self.review is not None:
            check_review(self.review)


@dataclass(frozen=True)
class NearAudit:
    """Near copies of S in L by one measure, in counts.

    Attributes:
        encoder: the sentence encoder whose cosine was measured; None: words, see :mod:`~hf_unlearn.data.copies.near`.
        threshold: the least cosine, or the least Jaccard index of similar records.
        rows: near copies.
        pairs: of such a row and a text of S.
        histogram: pairs by their cosine, or by the Jaccard index or the containment, whichever is larger; ten counts:
            from 0 to 0.1, to 0.2, and so on, to 1 with 1 itself.
    """

    encoder: str | None
    threshold: float
    rows: int
    pairs: int
    histogram: list[int]

    @property
    def measure(self) -> str:
        """What makes a near copy, in words."""
        if self.encoder is None:
            return f"their words (a Jaccard index of {self.threshold:g} or more, or a quotation)"
        return f"their embeddings by {self.encoder} (a cosine of {self.threshold:g} or more)"

    @property
    def shown_histogram(self) -> str:
        """The counts above 0, in words."""
        counts = [(i / BINS, (i + 1) / BINS, count) for i, count in enumerate(self.histogram) if count]
        return ", ".join(f"{count:,} from {low:g} to {high:g}" for low, high, count in counts)


@dataclass(frozen=True)
class NearFindings:
    """What was found.

    Attributes:
        policy: as in :class:`NearSearch`; None: nobody looked.
        mask: near copies in D, bool of shape (rows,).
        audits: by measure.
    """

    policy: DuplicatePolicy | None
    mask: np.ndarray
    audits: list[NearAudit]

    @property
    def moved(self) -> np.ndarray:
        """The rows that the policy moves to S, bool of shape (rows of D,)."""
        return self.mask & (self.policy == "forget")

    def counts(self) -> dict[str, Any]:
        """What the audit of the split says about them."""
        found, moved = int(np.count_nonzero(self.mask)), int(np.count_nonzero(self.moved))
        return {
            "near_duplicate_policy": self.policy,
            "near_duplicates_retained": None if self.policy is None else found - moved,
            "near_duplicates_forgotten": moved,
            "near_duplicates": self.audits,
        }


def look_for_near_copies(
    dataset: AnyDataset, copies: Copies, forget: np.ndarray, retained: np.ndarray, search: NearSearch | None
) -> NearFindings:
    """Look for near copies of S among the rows that are no copies of it.

    Args:
        dataset: D.
        copies: what the search for copies found.
        forget, retained: which rows belong to S and to L, bool of shape (rows,).
        search: how to look, None: not at all.

    Raises:
        InputError: there are some, under the policy ``error``; the review is written before.
    """
    if search is None:
        return NearFindings(None, np.zeros_like(retained), [])
    columns, look = copies.columns, retained & ~copies.mask
    words = find_near_copies(dataset, columns, copies.keys, look, search.threshold)
    found = [_Found(None, search.threshold, look, words, search.review is not None)]
    if (encoder := search.encoder) is not None:
        paraphrases = encoder.find_paraphrases(dataset, columns, copies.keys, look)
        found.append(_Found(encoder.public_name, encoder.threshold, look, paraphrases, search.review is not None))
    if search.review is not None:
        nearest = [pairs for part in found for pairs in part.nearest]
        write_review(search.review, dataset, columns, copies.keys, forget, nearest)
    mask = np.logical_or.reduce([part.mask for part in found])
    rows = int(np.count_nonzero(mask))
    if rows and search.policy == "error":
        raise InputError(
            f"{rows} retained rows are near copies of a forgotten one, or quote one, and would keep teaching it; "
            "forget them too (near_duplicates='forget') or go on (near_duplicates='report')."
        )
    return NearFindings(search.policy, mask, [part.audit for part in found])


class _Found:
    """What one search finds: counted as it comes, as there may be far more pairs than rows.

    Args:
        encoder, threshold: as in :class:`NearAudit`.
        look: which rows are looked at, bool of shape (rows,).
        parts: the pairs; no row is in two parts.
        review: whether to keep the nearest pair of each row.
    """

    def __init__(self, encoder: str | None, threshold: float, look: np.ndarray, parts: Iterable[Pairs], review: bool):
        self.mask = np.zeros_like(look)
        self.nearest: list[Pairs] = []
        pairs, histogram = 0, np.zeros(BINS, int)
        for part in parts:
            self.mask[part.row] = True
            pairs += len(part.row)
            histogram += np.histogram(part.similarity, BINS, (0, 1))[0]
            if review:
                self.nearest.append(part.nearest())
        self.audit = NearAudit(encoder, threshold, int(np.count_nonzero(self.mask)), pairs, histogram.tolist())
