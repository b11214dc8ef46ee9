"""What a split does about near copies of S in L, and what it says of them in counts."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from ...errors import InputError
from ..arrow_tables import AnyDataset
from .exact import Copies, DuplicatePolicy, FoundRows
from .near import NEAR_THRESHOLD, find_near_copies
from .review import write_review

if TYPE_CHECKING:
    from .paraphrases import SentenceEncoder

BINS = 10


@dataclass(frozen=True)
class NearAudit:
    """Near copies of S in L by one measure, in counts.

    Attributes:
        encoder: the sentence encoder whose cosine was measured; None: words, see :mod:`~hf_unlearn.data.copies.near`.
        threshold: the least cosine, or the least Jaccard index of similar records.
        rows: near copies.
        pairs: of such a row and a text of S.
        histogram: pairs by their similarity, see :func:`similarity`; ten counts: from 0 to 0.1, to 0.2, and so on, to
            1 with 1 itself.
        common_texts: short texts of S that retained rows have, and that are too common to count as quoted, see
            :mod:`~hf_unlearn.data.copies.quotes`.
        common_rows: the retained rows that have each of them, added up.
    """

    encoder: str | None
    threshold: float
    rows: int
    pairs: int
    histogram: list[int]
    common_texts: int = 0
    common_rows: int = 0

    @property
    def measure(self) -> str:
        """What makes a near copy, in words."""
        if self.encoder is None:
            return f"their words (a Jaccard index of {self.threshold:g} or more, or a quotation)"
        return f"their embeddings by {self.encoder} (a cosine of {self.threshold:g} or more)"

    @property
    def too_common(self) -> str:
        """What is too common to count as quoted, in a sentence; empty where there is nothing."""
        if not self.common_texts:
            return ""
        texts = "1 short text of S is" if self.common_texts == 1 else f"{self.common_texts:,} short texts of S are"
        rows = "1 retained row" if self.common_rows == 1 else f"{self.common_rows:,} retained rows"
        return f"{texts} also in {rows}, but too short or too common to count as quoted there."

    @property
    def shown_histogram(self) -> str:
        """The counts above 0, in words."""
        counts = [(i / BINS, (i + 1) / BINS, count) for i, count in enumerate(self.histogram) if count]
        return ", ".join(f"{count:,} from {low:g} to {high:g}" for low, high, count in counts)


@dataclass(frozen=True)
class NearCopies(FoundRows):
    """Rows of L that are near copies of a row of S, with counts by measure."""

    audits: list[NearAudit]
    prefix: ClassVar[str] = "near_"


def look_for_near_copies(
    dataset: AnyDataset,
    copies: Copies,
    forget: np.ndarray,
    retained: np.ndarray,
    policy: DuplicatePolicy | None,
    encoder: "SentenceEncoder | None" = None,
    review: Path | None = None,
) -> NearCopies:
    """Look for near copies of S among the rows that are no copies of it; not at all without a policy.

    ``forget`` and ``retained`` are the rows of S and L, bool of shape (rows,). Raises InputError where there are some,
    under the policy ``error``; the review is written before.
    """
    mask = np.zeros_like(retained)
    if policy is None:
        return NearCopies(None, mask, [])
    columns, look = copies.columns, retained & ~copies.mask
    common, by_words = find_near_copies(dataset, columns, copies.keys, look, copies.holdout_keys)
    searches: list[tuple[str | None, float, Iterator[pa.Table]]] = [(None, NEAR_THRESHOLD, by_words)]
    if encoder is not None:
        paraphrases = encoder.find_paraphrases(dataset, columns, copies.keys, look)
        searches.append((encoder.public_name, encoder.threshold, paraphrases))
    audits, shown = [], []
    for name, threshold, parts in searches:
        # Counted as they come: there may be far more pairs than rows.
        found, pairs, histogram = np.zeros_like(look), 0, np.zeros(BINS, int)
        for part in parts:
            found[part["row"].to_numpy()] = True
            pairs += part.num_rows
            histogram += np.histogram(similarity(part), BINS, (0, 1))[0]
            if review is not None:
                shown.append(nearest(part))
        audits.append(NearAudit(name, threshold, int(np.count_nonzero(found)), pairs, histogram.tolist()))
        mask |= found
    audits[0] = replace(audits[0], common_texts=common.texts, common_rows=common.rows)
    if review is not None:
        write_review(review, dataset, columns, copies.keys, forget, shown)
    if policy == "error" and mask.any():
        raise InputError(
            f"{np.count_nonzero(mask)} retained rows are near copies of a row to forget, or quote one. They would "
            "keep teaching it. Forget them too (near_duplicates='forget'), or only count them "
            "(near_duplicates='report')."
        )
    return NearCopies(policy, mask, audits)


def similarity(pairs: pa.Table) -> np.ndarray:
    """How alike each pair is, at most 1: the cosine, or the larger of the Jaccard index and the containment."""
    measures = [name for name in ("jaccard", "containment", "cosine") if name in pairs.column_names]
    return np.maximum.reduce([pairs[name].to_numpy() for name in measures])


def nearest(pairs: pa.Table) -> pa.Table:
    """Of each row the pair with the forgotten text that it is most like."""
    row = pairs["row"].to_numpy()
    order = np.lexsort((-similarity(pairs), row))
    return pairs.take(order[np.diff(row[order], prepend=-1) > 0])
