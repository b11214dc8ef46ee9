"""The blind baseline: it sees a shift of topic or length, none where there is none, and lets no text out."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.blind_baseline import BlindBaseline, Labelled, Text, blind_baseline

ALPHABET = np.array(list("abcdefghijklmnopqrstuvwxyz"))
WORDS = ["".join(letters) for letters in np.random.default_rng(0).choice(ALPHABET, (2400, 5))]
ZIPF = 1 / np.arange(1, 2001)


def text(rng: np.random.Generator, topic: float = 0.0, length: int = 20) -> str:
    """Words of everyday, and with this probability each one of a topic."""
    count = rng.poisson(length)
    everyday, special = rng.choice(2000, count, p=ZIPF / ZIPF.sum()), rng.integers(2000, 2040, count)
    return " ".join(WORDS[i] for i in np.where(rng.random(count) < topic, special, everyday))


def texts(rng: np.random.Generator, count: int, topic: float = 0.0, length: int = 20) -> list[Text]:
    return [text(rng, topic, length) for _ in range(count)]


def token_ids(texts: list[Text]) -> list[Text]:
    return [[WORDS.index(word) for word in str(text).split()] for text in texts]


def test_it_sees_labels_that_no_text_tells() -> None:
    rng = np.random.default_rng(0)

    def drawn(count: int, wrong: float) -> tuple[list[Text], np.ndarray]:
        classes = rng.integers(0, 3, count)
        found: list[Text] = [f"{WORDS[i]} {text(rng)}" for i in classes]
        return found, np.where(rng.random(count) < wrong, (classes + 1) % 3, classes)

    retained, known = drawn(600, 0.0)
    for of_forget, of_holdout, separable in ((0.9, 0.0, True), (0.5, 0.5, False), (0.0, 0.9, True)):
        (forget, first), (holdout, second) = drawn(100, of_forget), drawn(100, of_holdout)
        found = blind_baseline(forget, holdout, labels=Labelled(first, second, retained, known), seed=0)
        assert found is not None
        assert found.label_auc is not None
        assert found.separable == separable
        assert (found.label_auc.high < 0.45) == (of_forget > of_holdout)
        assert (found.label_auc.low > 0.55) == (of_holdout > of_forget)
        assert found.natural_auc >= found.label_auc.high
        alone = blind_baseline(forget, holdout, seed=0)
        assert alone is not None
        assert not alone.separable
    # a class that L does not have, or L of one class
    strange = Labelled(np.full(100, 7), second, retained, known)
    found = blind_baseline(forget, holdout, labels=strange, seed=0)
    assert found is not None
    assert found.separable
    one = blind_baseline(forget, holdout, labels=Labelled(first, second, retained, np.zeros(600)), seed=0)
    assert one is not None
    assert one.label_auc is None


def compared(forget: list[Text], holdout: list[Text], seed: int = 0) -> BlindBaseline:
    found = blind_baseline(forget, holdout, seed=seed)
    assert found is not None
    return found


@pytest.mark.parametrize(("records", "topic"), [(10, 0.8), (50, 0.3), (200, 0.1)])
def test_it_sees_a_topic(records: int, topic: float) -> None:
    rng = np.random.default_rng(0)
    found = compared(texts(rng, records, topic), texts(rng, records))
    assert found.separable
    assert found.auc.low > 0.55
    assert found.auc.n == 2 * records


@pytest.mark.parametrize("records", [10, 30])
def test_it_sees_nothing_where_nothing_is(records: int) -> None:
    alarms, aucs = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found = compared(texts(rng, records), texts(rng, records), seed)
        alarms += found.separable
        aucs.append(found.auc.value)
    # The stated level is 5 %.
    assert alarms <= 2
    assert np.mean(aucs) == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("longer", ["forget", "holdout"])
def test_it_sees_a_length(longer: str) -> None:
    rng = np.random.default_rng(0)
    long, short = texts(rng, 40, length=30), texts(rng, 40, length=15)
    found = compared(long, short) if longer == "forget" else compared(short, long)
    assert found.separable
    assert (found.length_auc.low > 0.55) == (longer == "forget")
    assert (found.length_auc.high < 0.45) == (longer == "holdout")
    lengths = [len(text) for text in (long if longer == "forget" else short)]
    assert found.forget_length.value == pytest.approx(np.mean(lengths))
    assert (found.forget_length.value > found.holdout_length.value) == (longer == "forget")


def test_token_ids_are_as_good_as_texts() -> None:
    rng = np.random.default_rng(0)
    forget, alike, holdout = (token_ids(texts(rng, 50, topic)) for topic in (0.4, 0.0, 0.0))
    found = compared(forget, holdout)
    assert found.separable
    assert found.forget_length.value == np.mean([len(ids) for ids in forget])
    assert not compared(alike, holdout).separable
    arrays: list[Text] = [np.array(ids) for ids in forget]  # type: ignore[misc]
    assert compared(arrays, holdout) == found


def test_the_order_of_tokens_is_seen() -> None:
    rng = np.random.default_rng(0)
    forget: list[Text] = [sorted(rng.permutation(12).tolist()) for _ in range(30)]
    holdout: list[Text] = [rng.permutation(12).tolist() for _ in range(30)]
    assert compared(forget, holdout).separable


@pytest.mark.parametrize("empty", ["", [], " \n", "..."])
def test_records_with_nothing_in_them(empty: Text) -> None:
    found = compared([empty] * 10, [empty] * 12)
    assert (found.auc.value, found.length_auc.value, found.separable) == (0.5, 0.5, False)


def test_some_empty_records_do_not_hide_the_others() -> None:
    rng = np.random.default_rng(0)
    assert compared(["", *texts(rng, 40, 0.5)], ["", *texts(rng, 40)]).separable


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("我昨天在北京看见了他的书", "她明天去上海买新的车"),
        ("أحب القهوة في الصباح", "يذهب الولد إلى المدرسة"),
        ("🙂🎉🚀💡", "😢🌧🍂🕯"),
        ("สวัสดีตอนเช้าครับ", "ราตรีสวัสดิ์เพื่อนรัก"),
    ],
)
def test_any_language(one: str, other: str) -> None:
    rng = np.random.default_rng(0)

    def pieces(text: str) -> list[Text]:
        return ["".join(rng.choice(list(text), 12)) for _ in range(20)]

    assert compared(pieces(one), pieces(other)).separable
    assert not compared(pieces(one), pieces(one)).separable


@pytest.mark.parametrize("odd", ["\ud800", "\x00\x1b[31m", "a" * 100_000, "\u202e\u200b", "İıſ\u0345"])
def test_odd_texts_are_texts(odd: str) -> None:
    rng = np.random.default_rng(0)
    compared([odd, *texts(rng, 9)], [*texts(rng, 9), odd])


def by_author(rng: np.random.Generator, authors: int, letters: int) -> tuple[list[Text], np.ndarray]:
    """Ten texts each of authors who have favourite words."""
    found: list[Text] = []
    for _ in range(authors):
        favourites = rng.integers(0, 2000, 20)
        found += [f"{text(rng)} {' '.join(WORDS[i] for i in rng.choice(favourites, 8))}" for _ in range(letters)]
    return found, np.repeat(np.arange(authors), letters)


def test_authors_are_recognised_but_not_taken_for_a_topic() -> None:
    alarms = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        (forget, of_forget), (holdout, of_holdout) = by_author(rng, 6, 10), by_author(rng, 6, 10)
        found = blind_baseline(forget, holdout, (of_forget, of_holdout + 6), seed=seed)
        assert found is not None
        assert found.by_group
        assert found.auc.n == found.length_auc.n == 12
        alarms += found.separable
        assert compared(forget, holdout).separable
    assert alarms <= 1


def test_a_topic_of_groups_is_seen() -> None:
    rng = np.random.default_rng(0)
    names = np.array([f"customer {i}" for i in range(16)]).repeat(5)
    found = blind_baseline(texts(rng, 40, 0.5), texts(rng, 40), (names[:40], names[40:]), seed=0)
    assert found is not None
    assert found.by_group
    assert found.separable


def test_one_author_against_others_is_a_difference() -> None:
    rng = np.random.default_rng(0)
    (forget, of_forget), (holdout, of_holdout) = by_author(rng, 1, 30), by_author(rng, 6, 10)
    found = blind_baseline(forget, holdout, (of_forget, of_holdout + 1), seed=0)
    assert found is not None
    assert not found.by_group
    assert found.separable


def test_one_record_is_nothing_to_compare() -> None:
    assert blind_baseline(["one"], ["two", "three"], seed=0) is None
    assert blind_baseline(["one", "two"], [], seed=0) is None
    assert blind_baseline(["one", "two"], ["three", "four"], seed=0) is not None


def test_of_many_records_a_part_is_read() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = texts(rng, 1500, 0.4, 3), texts(rng, 200, 0.0, 3)
    groups = np.arange(1500), np.arange(1500, 1700)
    found = blind_baseline(forget, holdout, groups, seed=0)
    assert found is not None
    assert found.auc.n == 1200
    assert found.separable


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: records.append(None),
        lambda records: records.append([1, 2]),
        lambda records: records.append({"text": "hidden"}),
        lambda records: records.append(["hidden"]),
        lambda records: records.append(3.5),
    ],
)
def test_what_is_no_text_is_refused_without_naming_it(damage: Callable[[list], None]) -> None:
    records: list = ["hidden", "secret"] * 5
    damage(records)
    with pytest.raises(InputError, match="texts or token ids") as refused:
        blind_baseline(records, ["secret", "hidden"], seed=0)
    assert "hidden" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_only_numbers_come_out_and_the_same_again() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = texts(rng, 20), texts(rng, 20)
    found = compared(forget, holdout, seed=5)
    assert found == compared(forget, holdout, seed=5)
    assert found != compared(forget, holdout, seed=6)

    def leaves(value: object) -> list[object]:
        return [leaf for part in value.values() for leaf in leaves(part)] if isinstance(value, dict) else [value]

    assert all(type(leaf) in (float, int, bool) or leaf is None for leaf in leaves(dataclasses.asdict(found)))
