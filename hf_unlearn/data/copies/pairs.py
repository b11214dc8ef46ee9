"""Retained rows and the forgotten texts that they are like, and how much."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

PARAPHRASE_THRESHOLD = 0.85


@dataclass(frozen=True)
class Pairs(ABC):
    """Pairs of a retained row and a forgotten text.

    Attributes:
        row: positions of retained rows in D, int64 of shape (pairs,).
        forgotten: positions of forgotten texts among the distinct ones of S, int64 of shape (pairs,).
    """

    row: np.ndarray
    forgotten: np.ndarray

    @property
    @abstractmethod
    def similarity(self) -> np.ndarray:
        """How alike they are, at most 1."""

    def chosen(self, which: np.ndarray) -> Self:
        """The pairs at these places, or those that a mask names."""
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})

    def nearest(self) -> Self:
        """Of each row the pair with the forgotten text that it is most like."""
        order = np.lexsort((-self.similarity, self.row))
        return self.chosen(order[np.diff(self.row[order], prepend=-1) > 0])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All pairs of several parts, of which there is one at least."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True)
class NearPairs(Pairs):
    """Rows that are near copies of a text, or quote it.

    Attributes:
        jaccard: Jaccard index of words and pairs of words, 0 to 1.
        containment: share of the forgotten text's runs of four words that the row has, 0 to 1.
        passage: length in words of the longest passage shared, 0 where nobody had to look.
    """

    jaccard: np.ndarray
    containment: np.ndarray
    passage: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """The Jaccard index or the containment, whichever is larger."""
        return np.maximum(self.jaccard, self.containment)


@dataclass(frozen=True)
class ParaphrasePairs(Pairs):
    """Rows that may be paraphrases of a text.

    Attributes:
        cosine: of their embeddings, -1 to 1.
    """

    cosine: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        return self.cosine
