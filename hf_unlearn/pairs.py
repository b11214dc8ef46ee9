"""Retained rows and the forgotten texts that they are like, and how much."""

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True)
class NearPairs:
    """Retained rows and the forgotten texts that they are near copies of, or quote.

    Attributes:
        row: positions of retained rows in D, int64 of shape (pairs,).
        forgotten: positions of forgotten texts among the distinct ones of S, int64 of shape (pairs,).
        jaccard: Jaccard index of words and pairs of words, 0 to 1.
        containment: share of the forgotten text's runs of four words that the row has, 0 to 1.
        passage: length in words of the longest passage shared, 0 where nobody had to look.
    """

    row: np.ndarray
    forgotten: np.ndarray
    jaccard: np.ndarray
    containment: np.ndarray
    passage: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        """The Jaccard index or the containment, whichever is larger."""
        return np.maximum(self.jaccard, self.containment)

    def chosen(self, which: np.ndarray) -> "NearPairs":
        """The pairs at these places, or those that a mask names."""
        return NearPairs(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def joined(cls, parts: list["NearPairs"]) -> "NearPairs":
        """All pairs of several."""
        none = cls(*(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0, int)))
        return cls(*(np.concatenate([getattr(part, f.name) for part in [none, *parts]]) for f in fields(cls)))


@dataclass(frozen=True)
class ParaphrasePairs:
    """Retained rows and the forgotten texts that they may be paraphrases of.

    Attributes:
        row: positions of retained rows in D, int64 of shape (pairs,).
        forgotten: positions of forgotten texts among the distinct ones of S, int64 of shape (pairs,).
        cosine: of their embeddings, -1 to 1.
    """

    row: np.ndarray
    forgotten: np.ndarray
    cosine: np.ndarray

    @property
    def similarity(self) -> np.ndarray:
        return self.cosine


Pairs: TypeAlias = NearPairs | ParaphrasePairs
