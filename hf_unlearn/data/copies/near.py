"""Near copies and quotations of forgotten records that stay in L and teach most of their content.

A retained record is a near copy of a record of S when it is

- *similar*: the Jaccard index of their words and pairs of neighbouring words (shingles) is at least the threshold; it
  has to be 1 where either has fewer than 6 words;
- *a quotation*: it has 80 % of the runs of four words of the record, or all of them where that has 8 to 19 words. A
  record of 3 to 7 words is quoted whole, and only where it is rare, see :mod:`~hf_unlearn.data.copies.quotes`; or
- *a passage*: it has 20 words in a row in common with the record.

Text of many retained records says nothing about one of them. So half of the shingles outside boilerplate have to be
shared, too (for quotations and passages: half of the runs of four words). Boilerplate is every run of four words that
more than 20 retained rows have, and more than ten times as many as have the rarest run of the record.

Records of one template differ in their numbers (of four digits or more). A similar record is no near copy when it has
other numbers, and less than half of the digits of the numbers in the record of S, or of the numbers outside
boilerplate. A Jaccard index of 0.95 or more overrules this. A quotation needs half of both.

Shingles have ids without collisions, so all counts are exact. Candidates come from an index of the rarest shingles of
S. Every near copy shares some of them (prefix filtering: Chaudhuri et al. 2006, Bayardo et al. 2007), so none is
missed. How the constants were chosen is in recipes/benchmarks/README.md.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array

from ..arrow_tables import AnyDataset
from ..processes import in_order
from .quotes import MOST_WORDS, CommonTexts, ShortTexts
from .shingles import Shingles, ShingleVocabulary, Words, distinct, incidence
from .text_slices import TextSlice, cuts, ranges, text_slices

NEAR_THRESHOLD = 0.55
NEARLY_ALL = 0.95
CONTAINED = 0.8
PASSAGE_WORDS = 20
FEWEST_WORDS = 6
FEWEST_QUOTED_WORDS = MOST_WORDS + 1

PARTICULAR = 0.5
COMMON_ROWS = 20
COMMON_RATIO = 10

# How many rare shingles a candidate must share; more mean fewer candidates and a longer index.
LOOKED_FOR = 3
# Entries of the index that are looked up together, which bounds the memory.
LOOKED_UP = 2**20
# Parts that are looked up at the same time, which takes some tens of megabytes each.
MOST_THREADS = 8
# Occurrences of one run of four words in a record at which passages are looked for.
REPEATS = 32
ROUNDING = 1e-9


def find_near_copies(
    dataset: AnyDataset,
    columns: list[str],
    forgotten: pa.Array,
    look: np.ndarray,
    held_out: pa.Array | None = None,
) -> tuple[CommonTexts, Iterator[pa.Table]]:
    """Find near copies and quotations of the texts of S, reading D once now and once for the tables.

    ``forgotten`` are the distinct texts of S from ``normalised_text``, without nulls, and ``held_out`` those of H;
    ``look`` says which rows of D to compare, bool of shape (rows,).

    Returns:
        The short texts of S that are too common to look for. And tables with the columns ``row`` (the position of a
        retained row in D), ``forgotten`` (the place of a text among those of S), ``jaccard``, ``containment`` (the
        share of the forgotten text's runs of four words that the row has; 1 for a short text that it quotes) and
        ``passage`` (words of the longest passage shared, 0 where it was not looked for). No row is in two tables.
    """
    index = _Index(forgotten.cast(pa.large_string()))
    for part, shingles in index.shingled(text_slices(dataset, columns, look, "Counting shingles")):
        index.count(part, shingles)
    return index.arrange(held_out), _tables(index, text_slices(dataset, columns, look, "Near copies of S"))


def _tables(index: "_Index", parts: Iterator[TextSlice]) -> Iterator[pa.Table]:
    for part, shingles in index.shingled(parts):
        for found in index.matches(shingles):
            pair, row = part.rows_of(found["row"].to_numpy())
            yield found.take(pair).set_column(0, "row", pa.array(row))


# The index


@dataclass(frozen=True)
class _Postings:
    """An index of the rarest particular shingles of each forgotten text; a candidate must share some of them.

    Attributes:
        particular: the shingles of each text outside boilerplate, a sparse matrix of shape (texts, shingles).
        sizes: how many these are, int64 of shape (texts,).
        rarest: those in the index, of shape (shingles, texts).
        least: how many of those in the index a candidate must share, int64 of shape (texts,).
    """

    particular: csr_array
    sizes: np.ndarray
    rarest: csr_array
    least: np.ndarray

    @classmethod
    def of(cls, particular: csr_array, needed: np.ndarray, rarity: np.ndarray) -> "_Postings":
        """Index texts so that every text that shares ``needed`` of their shingles is a candidate.

        ``needed`` is int64 of shape (texts,), -1 for texts that are not looked for. ``rarity`` says in how many places
        each shingle occurs, shape (shingles,).
        """
        sizes = np.diff(particular.indptr)
        least = np.minimum(needed, LOOKED_FOR)
        kept = np.where(needed >= 0, sizes - needed + least, 0)
        text = np.repeat(np.arange(len(sizes)), sizes)
        order = np.lexsort((rarity[particular.indices], text))
        rank = np.arange(len(order)) - np.repeat(particular.indptr[:-1], sizes)
        chosen = order[rank < kept[text]]
        rarest = incidence(particular.indices[chosen], text[chosen], particular.shape[::-1])
        return cls(particular, sizes, rarest, least)

    def candidates(self, shingles: csr_array) -> tuple[np.ndarray, np.ndarray]:
        """The places of texts, given by their shingles, and of the forgotten texts that each may be near."""
        shared = (shingles @ self.rarest).tocoo()
        enough = shared.data >= np.maximum(self.least, 1)[shared.col]
        return shared.row[enough].astype(np.int64), shared.col[enough].astype(np.int64)

    def look_ups(self, shingles: csr_array) -> np.ndarray:
        """How many entries of the index each text leads to, int64 of shape (texts,)."""
        return shingles @ np.diff(self.rarest.indptr)


class _Index:
    """The shingles of the texts of S, and how common each is in L."""

    def __init__(self, texts: pa.Array):
        self.words = Words.of(texts)
        self.vocabulary = ShingleVocabulary(self.words)
        self.own = self.vocabulary.shingles(self.words)
        self.short = ShortTexts(self.words, self.own, self.vocabulary)
        self.small, self.four = self._matrices(self.own)
        self.digits = np.zeros(self.vocabulary.small, np.int64)
        self.digits[: len(self.words.vocabulary)] = self.words.digits
        self.places_of_small = np.zeros(self.vocabulary.small, np.int64)
        self.rows_of_four = np.zeros(self.vocabulary.four, np.int64)

    def _matrices(self, shingles: Shingles) -> tuple[csr_array, csr_array]:
        text, texts = shingles.words.text, shingles.words.texts
        small = incidence(np.tile(text, 2), shingles.small.ravel(), (texts, self.vocabulary.small))
        return small, incidence(text, shingles.four, (texts, self.vocabulary.four))

    def shingled(self, parts: Iterator[TextSlice]) -> Iterator[tuple[TextSlice, Shingles]]:
        """Texts with their shingles; a thread makes those of the next ones meanwhile."""
        with ThreadPoolExecutor(1) as thread:
            yield from in_order(thread, lambda one: (one, self.vocabulary.shingles(Words.of(one.texts))), parts, 2)

    def count(self, part: TextSlice, shingles: Shingles) -> None:
        """Count how common the shingles are."""
        small = shingles.small[shingles.small >= 0]
        self.places_of_small += np.bincount(small, minlength=self.vocabulary.small)
        known = shingles.four >= 0
        text, four = distinct(shingles.words.text[known], shingles.four[known])
        rows = np.bincount(four, part.counts[text], minlength=self.vocabulary.four)
        self.rows_of_four += rows.astype(np.int64)
        self.short.count(shingles, part)

    def arrange(self, held_out: pa.Array | None) -> CommonTexts:
        """After counting, find what is particular to each text, and index the rarest shingles of that."""
        text, four = self.words.text, self.own.four
        begins = four >= 0
        rarest = np.full(self.words.texts, np.iinfo(np.int64).max // COMMON_RATIO)
        np.minimum.at(rarest, text[begins], self.rows_of_four[four[begins]])
        common = np.zeros(len(text), bool)
        self.most_rows = np.maximum(COMMON_ROWS, COMMON_RATIO * rarest)
        common[begins] = self.rows_of_four[four[begins]] > self.most_rows[text[begins]]

        small = np.where(np.stack([_within(common, 4), _within(common, 3)]), -1, self.own.small)
        particular = incidence(np.tile(text, 2), small.ravel(), self.small.shape)
        alone = np.diff(particular.indptr) == 0
        if alone.any():
            # A text of boilerplate alone has nothing particular, so all of it counts.
            small = np.where(alone[text], self.own.small, small)
            particular = incidence(np.tile(text, 2), small.ravel(), self.small.shape)
        share = np.where(self.words.lengths < FEWEST_WORDS, 1.0, NEAR_THRESHOLD)
        needed = _needed(self.small, particular, share)
        self.similar = _Postings.of(particular, needed, self.places_of_small)
        self.own_digits, self.own_particular_digits = self.small @ self.digits, particular @ self.digits

        particular = incidence(text, np.where(common, -1, four), self.four.shape)
        in_passage = np.ceil(PARTICULAR * np.minimum(np.diff(particular.indptr), PASSAGE_WORDS - 3)).astype(np.int64)
        self.contained = np.where(self.words.lengths < PASSAGE_WORDS, 1.0, CONTAINED)
        needed = np.where(
            self.words.lengths < PASSAGE_WORDS, _needed(self.four, particular, self.contained), in_passage
        )
        needed[self.words.lengths < FEWEST_QUOTED_WORDS] = -1
        self.quoted = _Postings.of(particular, needed, self.rows_of_four)
        return self.short.arrange(held_out)

    def matches(self, shingles: Shingles) -> Iterator[pa.Table]:
        """The near copies among texts with these shingles; the column ``row`` has their places."""
        small, four = self._matrices(shingles)
        look_ups = np.cumsum(self.similar.look_ups(small) + self.quoted.look_ups(four))
        whole = np.stack(self.short.quoted(shingles))

        def looked_up(cut: tuple[int, int]) -> pa.Table | None:
            first, last = cut
            here = whole[:, (whole[0] >= first) & (whole[0] < last)] - [[first], [0]]
            candidates = [self.similar.candidates(small[first:last]), self.quoted.candidates(four[first:last]), here]
            text, forgotten = distinct(*(np.concatenate(places) for places in zip(*candidates, strict=True)))
            if len(text) == 0:
                return None
            is_whole = np.isin(text * self.words.texts + forgotten, here[0] * self.words.texts + here[1])
            return self._checked(shingles, small, four, text + first, forgotten, is_whole)

        # Nearly all of the time goes to NumPy, SciPy and Arrow, which let other threads work meanwhile.
        with ThreadPoolExecutor(min(MOST_THREADS, pa.cpu_count())) as threads:
            for found in threads.map(looked_up, cuts(look_ups // LOOKED_UP)):
                if found is not None:
                    yield found

    def _checked(
        self,
        shingles: Shingles,
        small: csr_array,
        four: csr_array,
        text: np.ndarray,
        forgotten: np.ndarray,
        is_whole: np.ndarray,
    ) -> pa.Table:
        """Those of some candidates that are near copies; ``is_whole`` says which quote a short text."""
        sizes, digits = _sizes(shingles.words, text)
        own = self.similar.particular[forgotten]
        both = small[text].multiply(self.small[forgotten]).tocsr()
        shared, shared_digits = both.sum(axis=1), both @ self.digits
        jaccard = shared / (sizes + np.diff(self.small.indptr)[forgotten] - shared)
        both = both.multiply(own).tocsr()
        has_digits = both @ self.digits >= self.own_particular_digits[forgotten] / 2
        has_digits &= shared_digits >= self.own_digits[forgotten] / 2
        short = np.minimum(shingles.words.lengths[text], self.words.lengths[forgotten]) < FEWEST_WORDS
        similar = jaccard >= np.where(short, 1.0, NEAR_THRESHOLD) - ROUNDING
        other_numbers = similar & ~has_digits & (digits > shared_digits) & (jaccard < NEARLY_ALL - ROUNDING)
        similar &= both.sum(axis=1) >= PARTICULAR * self.similar.sizes[forgotten]

        own = self.quoted.particular[forgotten]
        both = four[text].multiply(self.four[forgotten]).tocsr()
        containment = both.sum(axis=1) / np.maximum(np.diff(self.four.indptr)[forgotten], 1)
        quoted = containment >= self.contained[forgotten] - ROUNDING
        quoted &= self.words.lengths[forgotten] >= FEWEST_QUOTED_WORDS
        quoted &= (both.multiply(own).sum(axis=1) >= PARTICULAR * self.quoted.sizes[forgotten]) & has_digits

        passage = np.zeros(len(text), np.int64)
        rest = np.flatnonzero(~similar & ~quoted & (self.words.lengths[forgotten] >= PASSAGE_WORDS))
        passage[rest] = self._passages(shingles, text[rest], forgotten[rest])
        kept = ((similar | quoted | (passage > 0)) & ~other_numbers) | is_whole
        containment = np.where(is_whole, 1.0, containment)
        columns = {"row": text, "forgotten": forgotten, "jaccard": jaccard, "containment": containment}
        return pa.table({**columns, "passage": passage}).filter(kept)

    def _passages(self, shingles: Shingles, text: np.ndarray, forgotten: np.ndarray) -> np.ndarray:
        """The length in words of the longest passage that counts for each pair, 0 where there is none."""
        if len(text) == 0:
            return np.zeros(0, np.int64)
        # All places of known runs of four words in the retained texts, with the number of the pair.
        firsts = shingles.words.firsts
        pair, place = ranges(firsts[text], firsts[text + 1])
        known = shingles.four[place] >= 0
        pair, place = pair[known], place[known]
        # With all places of the same run in the forgotten text of the pair.
        keys, places = self._places_of_four
        wanted = forgotten[pair] * self.vocabulary.four + shingles.four[place]
        first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
        match, own = ranges(first, np.minimum(last, first + REPEATS))
        pair, place, own = pair[match], place[match], places[own]
        # A passage is a series of places that follow each other in both texts.
        order = np.lexsort((place, place - own, pair))
        pair, place, own = pair[order], place[order], own[order]
        breaks = np.diff(pair, prepend=-1) != 0
        breaks |= (np.diff(place - own, prepend=0) != 0) | (np.diff(place, prepend=0) != 1)
        series, length = np.flatnonzero(breaks), np.diff(np.flatnonzero(breaks), append=len(pair))
        number, four = distinct(np.cumsum(breaks) - 1, self.own.four[own])
        of_series = forgotten[pair[series]]
        rare = self.rows_of_four[four] <= self.most_rows[of_series][number]
        particular = np.bincount(number, rare, minlength=len(series))
        of_text = self.quoted.sizes[of_series]
        counts = (length + 3 >= PASSAGE_WORDS) & (particular >= PARTICULAR * np.minimum(of_text, length))
        longest = np.zeros(len(text), np.int64)
        np.maximum.at(longest, pair[series][counts], length[counts] + 3)
        return longest

    @cached_property
    def _places_of_four(self) -> tuple[np.ndarray, np.ndarray]:
        """The runs of four words of all texts as sorted keys, and where in ``own`` each stands."""
        places = np.flatnonzero(self.own.four >= 0)
        keys = self.words.text[places] * self.vocabulary.four + self.own.four[places]
        order = np.argsort(keys, kind="stable")
        return keys[order], places[order]


def _needed(all_of_it: csr_array, particular: csr_array, share: np.ndarray) -> np.ndarray:
    """How many of the particular shingles of each text a near copy must share at least."""
    sizes, parts = np.diff(all_of_it.indptr), np.diff(particular.indptr)
    needed = np.maximum(PARTICULAR * parts, parts - sizes + share * sizes)
    return np.ceil(needed - ROUNDING).astype(np.int64)


def _within(begins: np.ndarray, n: int) -> np.ndarray:
    """Whether one of the last ``n`` places is set, counting the place itself."""
    sums = np.concatenate([[0], np.cumsum(begins)])
    places = np.arange(len(begins))
    return sums[places + 1] > sums[np.maximum(places + 1 - n, 0)]


def _sizes(words: Words, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many distinct words and pairs of words each text has, and how many digits its distinct words have."""
    texts, of_asked = np.unique(asked, return_inverse=True)
    text, place = ranges(words.firsts[texts], words.firsts[texts + 1])
    of_word, code = distinct(text, words.code[place])
    digits = np.bincount(of_word, words.digits[code], minlength=len(texts)).astype(np.int64)
    inner = np.diff(text, append=-1) == 0
    text, place = text[inner], place[inner]
    of_pair, _ = distinct(text, words.code[place] * len(words.vocabulary) + words.code[place + 1])
    sizes = np.bincount(of_word, minlength=len(texts)) + np.bincount(of_pair, minlength=len(texts))
    return sizes[of_asked], digits[of_asked]
