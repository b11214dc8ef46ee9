"""Texts as numbers of words, pairs of words and runs of four words: shingles without hashing, so without collisions.

A word is a run of letters and digits; in scripts without blanks between words each letter is a word. Texts come from
``normalised_text``, so case, white space and Unicode form do not count, and neither does punctuation.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array

NOT_A_WORD = r"[^\pL\pM\pN ]+"
FEWEST_DIGITS = 4
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"


@dataclass(frozen=True)
class Words:
    """The words of some texts, one after the other.

    Attributes:
        text: to which text each belongs, int64 of shape (words,), ascending.
        code: each word's place in the vocabulary, int64 of shape (words,).
        vocabulary: the distinct words, strings.
        texts: how many texts there are.
    """

    text: np.ndarray
    code: np.ndarray
    vocabulary: pa.Array
    texts: int

    @classmethod
    def of(cls, texts: pa.Array) -> "Words":
        """Split normalised texts of type ``large_string``, without nulls, into words."""
        spaced = pc.replace_substring_regex(texts, NOT_A_WORD, " ")
        if pc.any(pc.match_substring_regex(spaced, UNSPACED)).as_py():
            spaced = pc.replace_substring_regex(spaced, f"({UNSPACED})", r" \1 ")
        lists = pc.ascii_split_whitespace(spaced)
        words = lists.flatten().dictionary_encode()
        text = np.repeat(np.arange(len(texts)), np.asarray(pc.list_value_length(lists)))
        code = words.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        # A blank at the beginning or the end gives an empty word.
        is_word = np.append(np.asarray(pc.greater(pc.binary_length(words.dictionary), 0)), False)[code]
        return cls(text[is_word], code[is_word], words.dictionary, len(texts))

    @cached_property
    def lengths(self) -> np.ndarray:
        """How many words each text has, int64 of shape (texts,)."""
        return np.bincount(self.text, minlength=self.texts)

    @cached_property
    def firsts(self) -> np.ndarray:
        """Where the words of each text begin, and how many words there are, int64 of shape (texts + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def digits(self) -> np.ndarray:
        """How many digits each word of the vocabulary has, 0 for those with fewer than 4, int64."""
        digits = np.asarray(pc.count_substring_regex(self.vocabulary, r"\p{Nd}")).astype(np.int64)
        return np.where(digits < FEWEST_DIGITS, 0, digits)

    def begins(self, n: int) -> np.ndarray:
        """Where a run of ``n`` words of one text begins, bool of shape (words,)."""
        begins = np.zeros(len(self.text), bool)
        if len(self.text) >= n:
            begins[: len(begins) - n + 1] = self.text[n - 1 :] == self.text[: len(begins) - n + 1]
        return begins


@dataclass(frozen=True)
class Shingles:
    """The shingles of some texts.

    Attributes:
        words: the words of the texts.
        small: ids of the word and the pair of words that begin at each word, of shape (2, words); -1 where there is
            none or the vocabulary lacks it. A pair's id is above all ids of words.
        four: ids of the runs of four words that begin at each word, of shape (words,); -1 as above.
    """

    words: Words
    small: np.ndarray
    four: np.ndarray


class ShingleVocabulary:
    """The ids of all ``small`` distinct words and pairs of words of some texts, and of all ``four`` runs of four."""

    def __init__(self, words: Words):
        self._words = words.vocabulary
        pair_keys, begins = self._pair_keys(words.code), words.begins(2)
        self._pairs = pa.array(pair_keys[begins]).unique()
        four_keys, begins = self._four_keys(places(pair_keys, begins, self._pairs)), words.begins(4)
        self._fours = pa.array(four_keys[begins]).unique()
        self.small, self.four = len(self._words) + len(self._pairs), len(self._fours)

    def shingles(self, words: Words) -> Shingles:
        """Look up the shingles of texts."""
        place = pc.index_in(words.vocabulary, value_set=self._words)
        word = np.append(_numbers(place), -1)[words.code]
        known = word >= 0
        pair_known = words.begins(2) & known & _shifted(known, 1)
        pair = places(self._pair_keys(word), pair_known, self._pairs)
        found = pair >= 0
        four = places(self._four_keys(pair), words.begins(4) & found & _shifted(found, 2), self._fours)
        return Shingles(words, np.stack([word, np.where(found, pair + len(self._words), -1)]), four)

    def _pair_keys(self, word: np.ndarray) -> np.ndarray:
        return word * len(self._words) + _shifted(word, 1)

    def _four_keys(self, pair: np.ndarray) -> np.ndarray:
        return pair * len(self._pairs) + _shifted(pair, 2)


def _shifted(values: np.ndarray, by: int) -> np.ndarray:
    """The values moved forward by some places, with zeros at the end."""
    shifted = np.zeros_like(values)
    shifted[: max(len(values) - by, 0)] = values[by:]
    return shifted


def places(keys: np.ndarray, asked: np.ndarray, known: pa.Array) -> np.ndarray:
    """The place of each key among the known ones, -1 where it has none or is not asked for."""
    places = np.full(len(keys), -1, np.int64)
    places[asked] = _numbers(pc.index_in(pa.array(keys[asked]), value_set=known))
    return places


def _numbers(places: pa.Array) -> np.ndarray:
    return pc.fill_null(places, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def incidence(text: np.ndarray, ids: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """A sparse matrix of ones where a text (row) has a shingle (column); ids of -1 are left out."""
    known = ids >= 0
    matrix = csr_array((np.ones(np.count_nonzero(known), np.int32), (text[known], ids[known])), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def distinct(text: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of a text and a value, sorted by text."""
    codes = pa.array(values).dictionary_encode()
    kinds = max(len(codes.dictionary), 1)
    keys = np.sort(text * kinds + codes.indices.to_numpy(zero_copy_only=False))
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return keys // kinds, codes.dictionary.to_numpy(zero_copy_only=False)[keys % kinds]
