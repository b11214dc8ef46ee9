"""The metrics of classifiers, against their formulas and against the libraries that define them."""

import warnings
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import recall_score as seqeval_recall
from sklearn.metrics import f1_score as sklearn_f1
from sklearn.metrics import recall_score as sklearn_recall

from hf_unlearn.evaluation.utility.metrics import (
    Truth,
    corrected_share,
    entity_f1,
    f1_score,
    macro_f1,
    predictions,
    recalls,
    tally,
)

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def lists(*values: list[int]) -> list[np.ndarray]:
    return [np.array(one, dtype=np.int32) for one in values]


def test_macro_f1_by_its_formula() -> None:
    # Class 0: 2 right, 3 found, 3 true, F1 4/6. Class 1: 1, 2 and 1, F1 2/3. Class 2 is found once and never true.
    truth = Truth(lists([0], [0], [0], [1]), ("a", "b", "c"))
    found = tally(truth, [lists([0], [0], [2], [1])], None, "macro_f1")
    assert f1_score(found, "macro_f1", 0).value == pytest.approx((2 * 2 / (2 + 3) + 1) / 2)
    assert recalls(found, one_each=True)["a"].value == pytest.approx(2 / 3)
    assert set(recalls(found, one_each=True)) == {"a", "b"}


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_and_recall_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = tuple("abcdef"[: rng.integers(2, 7)])
    true = rng.integers(0, len(names), 50)
    given = np.where(rng.random(50) < 0.6, true, rng.integers(0, len(names), 50))
    truth = Truth(lists(*([one] for one in true)), names)
    for groups in (None, rng.integers(0, 9, 50)):
        found = tally(truth, [lists(*([one] for one in given))], groups, "macro_f1")
        has = np.unique(true)
        assert f1_score(found, "macro_f1", 0).value == pytest.approx(
            sklearn_f1(true, given, labels=has, average="macro")
        )
        expected = sklearn_recall(true, given, labels=has, average=None)
        shares = recalls(found, one_each=groups is None)
        assert [shares[names[label]].value for label in has] == pytest.approx(list(expected))


def tagged(rng: np.random.Generator, names: tuple[str, ...]) -> Iterator[list[int]]:
    """Tags in any order, so that many are malformed: entities that begin inside, or change their type."""
    for _ in range(int(rng.integers(1, 12))):
        yield rng.integers(0, len(names), int(rng.integers(1, 12))).tolist()


@pytest.mark.parametrize("names", [BIO, (*BIO, "E-PER", "S-PER", "B-A-B", "I-A-B", "I-MISC")])
def test_the_f1_of_entities_is_that_of_seqeval_also_on_malformed_tags(names: tuple[str, ...]) -> None:
    rng, seen = np.random.default_rng(1), 0
    for _ in range(300):
        true = list(tagged(rng, names))
        given = [[tag if rng.random() < 0.7 else int(rng.integers(len(names))) for tag in one] for one in true]
        words = [[[names[tag] for tag in one] for one in side] for side in (true, given)]
        truth = Truth(lists(*true), names)
        if truth.f1 != "entity_f1":
            continue
        seen += 1
        found = tally(truth, [lists(*given)], None, "entity_f1")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected, per_type = seqeval_f1(*words), seqeval_recall(*words, average=None)
        ours = found.weights @ found.counts.reshape(len(found.counts), -1)
        assert entity_f1(ours.reshape(found.counts.shape[1:]))[0] == pytest.approx(expected)
        types = sorted({name[2:] for one in words for record in one for name in record if name != "O"})
        shares = recalls(found, one_each=False)
        for name, share in zip(types, per_type, strict=True):
            if name in shares:
                assert shares[name].value == pytest.approx(share)
    assert seen > 250


def test_entities_by_hand() -> None:
    # True: PER at 0-1 and LOC at 3. Found: PER at 0 alone, which is another entity, and LOC at 3.
    truth = Truth(lists([1, 2, 0, 3]), BIO)
    found = tally(truth, [lists([1, 0, 0, 3])], None, "entity_f1")
    assert f1_score(found, "entity_f1", 0).value == pytest.approx(2 * 1 / (2 + 2))
    assert recalls(found, one_each=False)["PER"].value == 0
    assert recalls(found, one_each=False)["LOC"].value == 1


def test_the_metric_fits_the_classes() -> None:
    assert Truth(lists([1, 0]), BIO).f1 == "entity_f1"
    assert Truth(lists([0, 0]), BIO).f1 == "macro_f1", "there is no entity to find"
    assert Truth(lists([0, 1]), ("NOUN", "VERB")).f1 == "macro_f1"


def test_alike_records_are_counted_once_and_weighed() -> None:
    truth = Truth(lists(*[[0]] * 60, *[[1]] * 40), ("a", "b"))
    found = tally(truth, [lists(*[[0]] * 100)], None, "macro_f1")
    assert sorted(found.weights) == [40, 60]
    score = f1_score(found, "macro_f1", 0)
    assert (score.n, score.value) == (100, pytest.approx((2 * 60 / 160) / 2))


def test_the_interval_of_macro_f1_covers() -> None:
    """The bootstrap of records, and of groups whose records are alike, against the score of the population."""
    names, missed = ("a", "b", "c"), {False: 0, True: 0}
    confusion = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
    share = np.array([0.5, 0.3, 0.2])
    joint = share[:, None] * confusion
    counts = np.stack([np.diag(joint), joint.sum(0), share], axis=-1)
    population = float(macro_f1(counts))
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for grouped in (False, True):
            units, size = (40, 5) if grouped else (200, 1)
            drawn = rng.choice(9, units, p=joint.ravel()).repeat(size)
            truth = Truth(lists(*([one // 3] for one in drawn)), names)
            groups = np.arange(units).repeat(size) if grouped else None
            found = f1_score(
                tally(truth, [lists(*([one % 3] for one in drawn))], groups, "macro_f1"), "macro_f1", seed
            )
            missed[grouped] += not found.low <= population <= found.high
    assert missed[False] <= 7
    assert missed[True] <= 9


def test_a_perfect_score_of_few_records_is_not_certain() -> None:
    truth = Truth(lists([0], [1], [0]), ("a", "b"))
    score = f1_score(tally(truth, [truth.classes], None, "macro_f1"), "macro_f1", 0)
    assert (score.value, score.high) == (1, 1)
    assert score.low == pytest.approx(0.025 ** (1 / 3))


def test_the_share_of_corrected_labels() -> None:
    # The third was right before, and of the fourth nobody says what it should be.
    truth = Truth(lists([0], [0], [1], [0]), ("a", "b"), lists([1], [1], [1], [-100]))
    share = corrected_share(truth, lists([1], [0], [1], [1]), None)
    assert share is not None
    assert (share.value, share.n) == (0.5, 2)
    grouped = corrected_share(truth, lists([1], [0], [1], [1]), np.array([7, 7, 7, 8]))
    assert grouped is not None
    assert (grouped.value, grouped.n) == (0.5, 1)
    words = Truth(lists([0, 1, 0]), ("a", "b"), lists([1, 0, 0]))
    share = corrected_share(words, lists([1, 1, 1]), None)
    assert share is not None
    assert (share.value, share.n) == (0.5, 1)
    assert corrected_share(Truth(lists([0]), ("a", "b")), lists([0]), None) is None
    assert corrected_share(Truth(lists([0]), ("a",), lists([0])), lists([0]), None) is None


def test_predictions_of_a_part_of_a_table() -> None:
    table = pa.table({"predicted": pa.array([[1, 2], [3], [4, 5, 6]], pa.list_(pa.int32()))})
    whole = pa.concat_tables([table, table.slice(1)])
    assert [one.tolist() for one in predictions(whole)] == [[1, 2], [3], [4, 5, 6], [3], [4, 5, 6]]
    assert [one.tolist() for one in predictions(table.slice(1, 1))] == [[3]]
    assert [one.tolist() for one in predictions(table.slice(1))] == [[3], [4, 5, 6]]
