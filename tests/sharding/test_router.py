"""A guess goes to the nearest shard, or to nobody where it may be a stranger's; its rates are counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from hf_unlearn import InputError, load_sharded
from hf_unlearn.data.copies.paraphrases import SentenceEncoder
from hf_unlearn.sharding.router import Guess, Router

from ..conftest import WORDS
from .conftest import OWNERS, shards_of

STRANGERS = 0.1


def own_texts() -> tuple[list[str], list[str]]:
    """Texts of owners, each of whom has three favourite words."""
    texts = [
        " ".join([WORDS[(5 * i + j) % len(WORDS)] for j in range(3)] * (2 + again))
        for i in range(len(OWNERS))
        for again in range(4)
    ]
    return texts, [owner for owner in OWNERS for _ in range(4)]


def mean(vectors: np.ndarray) -> np.ndarray:
    total = vectors.sum(0)
    return total / np.linalg.norm(total) if len(vectors) else np.zeros_like(total)


def nearest(vectors: np.ndarray, owners: list[str], row: int, known: np.ndarray) -> tuple[float, int]:
    """The cosine of a text with the nearest mean of an owner's texts that are known, and the shard of that owner."""
    people = sorted({owner for owner, is_known in zip(owners, known, strict=True) if is_known})
    each = [(float(vectors[row] @ mean(vectors[known & (np.array(owners) == one)])), one) for one in people]
    cosine, owner = max(each)
    return cosine, shards_of()[owner]


def test_the_rates_are_those_of_asking_each_text_apart(encoder_base: Path, sharded: Path, key_file: Path) -> None:
    texts, owners = own_texts()
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    router = model.router(str(encoder_base), texts, owners, strangers=STRANGERS)
    vectors, shards = SentenceEncoder(str(encoder_base), "cpu").encode(texts), [shards_of()[one] for one in owners]
    everything = np.arange(len(texts))
    asked = [nearest(vectors, owners, i, everything != i) for i in everything]
    strange = [nearest(vectors, owners, i, np.array(owners) != owners[i])[0] for i in everything]
    middle = sorted(strange)[int(np.ceil((len(texts) - 1) * (1 - STRANGERS)))]
    assert router.threshold == pytest.approx(middle, abs=1e-5)
    rates = {name: rate.value for name, rate in vars(router.rates).items()}
    assert rates["strangers"] <= STRANGERS
    answered = [(shard if cosine > router.threshold else None) for cosine, shard in asked]
    assert rates["own"] == pytest.approx(np.mean([a == b for a, b in zip(answered, shards, strict=True)]), abs=0.03)
    assert rates["nobody"] == pytest.approx(np.mean([a is None for a in answered]), abs=0.03)
    assert rates["own"] + rates["wrong"] + rates["nobody"] == pytest.approx(1)
    assert rates["own"] > 0
    # The texts of one owner are alike, so that an interval rests on owners.
    for rate in vars(router.rates).values():
        assert rate.n == len(OWNERS)
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert rate.low < rate.high
    guesses = router(texts)
    assert {guess.shard for guess in guesses if guess} <= set(shards)
    # A guess answers as an owner of that shard does, also where nobody has the key.
    i = next(i for i, guess in enumerate(guesses) if guess == Guess(shards[i]))
    inputs = model.tokenizer([texts[i]], return_tensors="pt")
    keyless = load_sharded(str(sharded))
    assert keyless.shards_of([Guess(shards[i]), None, owners[i], Guess(99)]) == [shards[i], None, None, None]
    assert (keyless([guesses[i]], **inputs) - model([owners[i]], **inputs)).abs().max() < 1e-5


def test_what_a_router_cannot_know_is_said(encoder_base: Path, sharded: Path, key_file: Path) -> None:
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    texts, owners = own_texts()
    for wrong, words in (
        ((texts, owners[:-1]), "one owner for each text"),
        ((texts, ["stranger"] * len(texts)), "needs texts of two owners"),
        ((texts[:4], owners[:4]), "needs texts of two owners"),
    ):
        with pytest.raises(InputError, match=words):
            model.router(str(encoder_base), *wrong)
    with pytest.raises(InputError, match="strangers=2 is not possible"):
        model.router(str(encoder_base), texts, owners, strangers=2)


def test_texts_of_the_deleted_leave_no_trace_in_a_router(encoder_base: Path) -> None:
    texts, owners = own_texts()
    encoder, shards = SentenceEncoder(str(encoder_base), "cpu"), [shards_of()[one] for one in owners]
    stay = [i for i, owner in enumerate(owners) if owner != OWNERS[2]]
    # To a model the deleted owner is unknown; that the texts are there still changes nothing.
    deleted = [shard if owners[i] != OWNERS[2] else None for i, shard in enumerate(shards)]
    one = Router(encoder, texts, owners, deleted, STRANGERS)
    two = Router(encoder, [texts[i] for i in stay], [owners[i] for i in stay], [shards[i] for i in stay], STRANGERS)
    assert (one.threshold, one.rates, one(texts)) == (two.threshold, two.rates, two(texts))
