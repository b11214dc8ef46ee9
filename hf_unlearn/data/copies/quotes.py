"""Forgotten texts of a few words that a retained row quotes whole.

Texts of so few words are too short for runs of four words, so they count where all of their words stand in a row, in
their order. Case and punctuation do not count, as in :mod:`~hf_unlearn.data.copies.near`.

People say many short texts by themselves, such as "yes, please". A text counts as quoted only where it is rare:

- It has three words or more, and no held-out row has it.
- It has a word of its own, which means that a third of the rows with its rarest word have the whole text. Then at most
  20 retained rows may have it, and at most 2 % of them (3 where that is less).
- Otherwise at most as many retained rows may have it as it has words beyond the first three.

All other short texts that retained rows have are counted as common. How the constants were chosen is in
recipes/benchmarks/README.md.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .shingles import Shingles, ShingleVocabulary, Words, distinct, places
from .text_slices import TextSlice, ranges

FEWEST_WORDS = 3
MOST_WORDS = 7
MOST_ROWS = 20
MOST_OF_ROWS = 0.02
# Up to so many rows pass for a few, however small the data set is.
FEW_ROWS = 3
OWN_RATIO = 3


@dataclass(frozen=True)
class CommonTexts:
    """Short texts of S that are too common to count as quoted.

    Attributes:
        texts: those that retained rows have.
        rows: the retained rows that have each, added up.
    """

    texts: int
    rows: int


class ShortTexts:
    """Those texts of S that have at most seven words, and how common they are in L.

    A run of up to seven words is known by the longest run of 1, 2 or 4 words at its beginning and at its end, which
    have ids in the vocabulary. So each length takes one look-up for each word of L.
    """

    def __init__(self, words: Words, own: Shingles, vocabulary: ShingleVocabulary):
        self.lengths, self.vocabulary = words.lengths, vocabulary
        self.rows = np.zeros(words.texts, np.int64)
        self.is_quoted = np.zeros(words.texts, bool)
        self.retained = 0
        short = np.flatnonzero((self.lengths > 0) & (self.lengths <= MOST_WORDS))
        self._known: dict[int, tuple[pa.Array, np.ndarray, np.ndarray]] = {}
        for n in np.unique(self.lengths[short]).tolist():
            texts = short[self.lengths[short] == n]
            keys = self._keys(own, n)[words.firsts[texts]]
            order = np.argsort(keys, kind="stable")
            firsts = np.flatnonzero(np.diff(keys[order], prepend=-1))
            self._known[n] = pa.array(keys[order][firsts]), np.append(firsts, len(texts)), texts[order]
        self._text, self._word = distinct(*self._words_of(words, short))
        self._rows_of_word = np.zeros(len(words.vocabulary), np.int64)

    @staticmethod
    def _words_of(words: Words, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        of, place = ranges(words.firsts[texts], words.firsts[texts + 1])
        return texts[of], words.code[place]

    def _keys(self, shingles: Shingles, n: int) -> np.ndarray:
        """A number for the run of ``n`` words that begins at each word; -1 where there is none or S lacks its ends."""
        length = 4 if n >= 4 else 2 if n >= 2 else 1
        ids = shingles.four if length == 4 else shingles.small[length - 1]
        last = np.full(len(ids), -1, np.int64)
        last[: max(len(ids) - n + length, 0)] = ids[n - length :]
        kinds = max(self.vocabulary.small, self.vocabulary.four)
        return np.where(shingles.words.begins(n) & (ids >= 0) & (last >= 0), ids * kinds + last, -1)

    def found(self, shingles: Shingles) -> tuple[np.ndarray, np.ndarray]:
        """The places of texts, given by their shingles, and of the short texts that each of them has whole."""
        text, forgotten = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for n, (known, firsts, texts) in self._known.items():
            keys = self._keys(shingles, n)
            key = places(keys, keys >= 0, known)
            at = np.flatnonzero(key >= 0)
            of, place = ranges(firsts[key[at]], firsts[key[at] + 1])
            text.append(shingles.words.text[at][of])
            forgotten.append(texts[place])
        return distinct(np.concatenate(text), np.concatenate(forgotten))

    def count(self, shingles: Shingles, part: TextSlice) -> None:
        """Count the rows that have each text, and those that have each of their words."""
        if not self._known:
            return
        self.retained += len(part.rows)
        text, forgotten = self.found(shingles)
        self.rows += np.bincount(forgotten, part.counts[text], len(self.rows)).astype(np.int64)
        # What is in more rows is nobody's own word, so it need not be counted any further.
        asked = np.zeros(len(self._rows_of_word), bool)
        asked[self._word] = self._rows_of_word[self._word] <= OWN_RATIO * MOST_ROWS
        word = shingles.small[0]
        kept = (word >= 0) & asked[word]
        text, word = distinct(shingles.words.text[kept], word[kept])
        self._rows_of_word += np.bincount(word, part.counts[text], len(asked)).astype(np.int64)

    def arrange(self, held_out: pa.Array | None) -> CommonTexts:
        """After counting, decide which texts count as quoted; ``held_out`` are the distinct texts of H."""
        rarest = np.full(len(self.rows), np.iinfo(np.int64).max)
        np.minimum.at(rarest, self._text, self._rows_of_word[self._word])
        most = min(MOST_ROWS, max(FEW_ROWS, int(MOST_OF_ROWS * self.retained)))
        most_rows = np.where(rarest <= OWN_RATIO * self.rows, most, self.lengths - FEWEST_WORDS)
        short = (self.lengths <= MOST_WORDS) & (self.rows > 0)
        self.is_quoted = short & (self.lengths >= FEWEST_WORDS) & (self.rows <= most_rows)
        if held_out is not None and self.is_quoted.any():
            _, said = self.found(self.vocabulary.shingles(Words.of(held_out.cast(pa.large_string()))))
            self.is_quoted[said] = False
        common = short & ~self.is_quoted
        return CommonTexts(int(np.count_nonzero(common)), int(self.rows[common].sum()))

    def quoted(self, shingles: Shingles) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`found`, of the texts that count as quoted."""
        if not self.is_quoted.any():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        text, forgotten = self.found(shingles)
        counts = self.is_quoted[forgotten]
        return text[counts], forgotten[counts]
