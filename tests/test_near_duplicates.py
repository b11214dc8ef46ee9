"""Near copies of S that stay in L: found, counted exactly, moved, reviewed, and never shown."""

import math
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import event, given, settings
from hypothesis import strategies as st

from hf_unlearn import slices
from hf_unlearn.near_duplicates import find_near_copies
from hf_unlearn.pairs import NearPairs

# The definition, word for word, in plain Python


def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def small(words: list[str]) -> set[tuple[str, ...]]:
    return {*runs(words, 1), *runs(words, 2)}


def digits(shingles: set[tuple[str, ...]]) -> int:
    counts = [len(re.findall(r"\d", shingle[0])) for shingle in shingles if len(shingle) == 1]
    return sum(count for count in counts if count >= 4)


def longest_passage(a: list[str], b: list[str], rare: set[tuple[str, ...]]) -> int:
    longest = 0
    for i in range(len(a)):
        for j in range(len(b)):
            if i and j and a[i - 1] == b[j - 1]:
                continue
            length = 0
            while i + length < len(a) and j + length < len(b) and a[i + length] == b[j + length]:
                length += 1
            if length >= 20:
                of_passage = rare & set(runs(a[i : i + length], 4))
                if len(of_passage) >= min(len(rare), length - 3) / 2:
                    longest = max(longest, length)
    return longest


def by_hand(forgotten: list[str], retained: list[str], threshold: float) -> dict[tuple[int, int], tuple[float, float]]:
    """The Jaccard index and the containment of each pair that counts, by places in the two lists."""
    frequency = Counter(run for text in retained for run in set(runs(text.split(), 4)))
    found = {}
    for j, forgotten_text in enumerate(forgotten):
        a = forgotten_text.split()
        bound = max(20, 10 * min((frequency[run] for run in runs(a, 4)), default=math.inf))
        common = [i for i, run in enumerate(runs(a, 4)) if frequency[run] > bound]
        hidden = {place for i in common for place in range(i, i + 4)}
        hidden_pairs = {place for i in common for place in range(i, i + 3)}
        particular = {run for i, run in enumerate(runs(a, 1)) if i not in hidden}
        particular |= {run for i, run in enumerate(runs(a, 2)) if i not in hidden_pairs}
        particular = particular or small(a)
        rare = {run for run in runs(a, 4) if frequency[run] <= bound}
        for i, retained_text in enumerate(retained):
            b = retained_text.split()
            if not a or not b:
                continue
            both = small(a) & small(b)
            jaccard = len(both) / len(small(a) | small(b))
            similar = jaccard >= (1 if min(len(a), len(b)) < 6 else threshold) - 1e-9
            if similar and digits(both) < min(digits(small(a)), digits(small(b))) / 2 and jaccard < 0.95 - 1e-9:
                continue
            similar &= len(both & particular) >= len(particular) / 2
            shared = set(runs(a, 4)) & set(runs(b, 4))
            containment = len(shared) / max(len(set(runs(a, 4))), 1)
            quoted = len(a) >= 8 and containment >= 0.8 - 1e-9 and len(shared & rare) >= len(rare) / 2
            quoted &= digits(both) >= digits(small(a)) / 2
            if similar or quoted or longest_passage(a, b, rare):
                found[i, j] = (jaccard, containment)
    return found


def search(forgotten: list[str], retained: list[str], threshold: float = 0.55) -> NearPairs:
    dataset = Dataset.from_dict({"text": retained})
    look = np.ones(len(retained), bool)
    return find_near_copies(dataset, ["text"], pa.array(forgotten, pa.large_string()), look, threshold)


WORDS = ["ann", "bob", "cat", "345", "6789", "12345", "a0b1c2d3", "dog", "eve"]


@st.composite
def related_texts(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Short texts of few words, made of each other's pieces."""
    alphabet = WORDS[: draw(st.integers(2, len(WORDS)))] + (
        [f"w{i}" for i in range(40)] if draw(st.booleans()) else []
    )
    pieces = draw(st.lists(st.lists(st.sampled_from(alphabet), min_size=1, max_size=26), min_size=1, max_size=4))

    def text() -> list[str]:
        words = [word for piece in draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=3)) for word in piece]
        for _ in range(draw(st.integers(0, 3))):
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(alphabet))
        return words

    forgotten = [" ".join(text()) for _ in range(draw(st.integers(1, 4)))]
    retained = [" ".join(text()) for _ in range(draw(st.integers(1, 8)))]
    # Enough copies of one text to make boilerplate of it.
    retained += draw(st.sampled_from([[], retained[:1] * 25]))
    return list(dict.fromkeys(forgotten)), retained


@settings(deadline=None, max_examples=200)
@given(related_texts(), st.sampled_from([0.3, 0.55, 0.8, 1.0]), st.sampled_from([1, 2**23]))
def test_what_is_found_is_what_the_definition_says(
    texts: tuple[list[str], list[str]], threshold: float, slice_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_BYTES", slice_bytes)
        pairs = search(*texts, threshold)
    expected = by_hand(*texts, threshold)
    found = dict(
        zip(
            zip(pairs.row.tolist(), pairs.forgotten.tolist(), strict=True),
            zip(pairs.jaccard, pairs.containment, strict=True),
            strict=True,
        )
    )
    event(f"found {min(len(expected), 3)}")
    assert found.keys() == expected.keys()
    for pair, numbers in expected.items():
        assert found[pair] == pytest.approx(numbers)
