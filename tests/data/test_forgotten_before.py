"""What was forgotten before: recognised in D by digests, and kept out of every part of a split."""

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_unlearn import InputError, RetainedSplit, split_retained
from hf_unlearn.data.request.digest_selector import recognised
from hf_unlearn.data.request.digests import digest_each, key_check, keyed_digest
from hf_unlearn.data.request.records import Records
from hf_unlearn.errors import AlreadyForgotten

KEY = b"0123456789abcdef"


def data(n: int = 10) -> Dataset:
    rows = {"id": [f"r{i}" for i in range(n)], "n": list(range(n)), "text": [f"text {i}" for i in range(n)]}
    return Dataset.from_dict(rows)


def numbers(part: Any) -> list[int]:
    return [row["n"] for row in part]


def before(*splits: RetainedSplit, key: bytes = KEY) -> Records | None:
    """What these splits forgot, as a ledger would tell."""
    return recognised(key, [part for split in splits if split.forgotten for part in split.forgotten.digests])


def after(request: Records, dataset: Any = None, **options: Any) -> RetainedSplit:
    return split_retained(data() if dataset is None else dataset, request, digest_key=KEY, **options)


@pytest.mark.parametrize("size", [16, 32, 63, 64, 65, 200])
def test_a_digest_is_that_of_the_set_of_one(size: int) -> None:
    key, texts = bytes(range(size)), ["", "a", "b\nc", "ü", "long " * 50]
    assert digest_each(key, texts) == [keyed_digest(key, [text]) for text in texts]
    assert key_check(KEY) != key_check(b"another key 0123")


REQUESTS = {
    "ids": Records.ids("id", ["r3", "r4"]),
    "numbers": Records.ids("n", [3, 4]),
    "rows": Records.rows([3, 4]),
    "predicate": Records.matching(lambda row: row["n"] in (3, 4)),
    "contents": Records.like(Dataset.from_dict({"text": ["text 3", "text 4"]})),
    "mixed": Records.rows([3]) | Records.where("text", "text 4"),
}


@pytest.mark.parametrize("kind", list(REQUESTS))
@pytest.mark.parametrize("shards", [0, 1, 3])
def test_it_is_found_again_however_it_was_named(kind: str, shards: int) -> None:
    first = after(REQUESTS[kind])
    assert numbers(first.forget) == [3, 4]
    again: Dataset | IterableDataset = data(12).select([11, 4, 0, 3, 5, 1])
    if shards:
        again = again.to_iterable_dataset(num_shards=shards)
    split = after(Records.ids("id", ["r0"]), again, forgotten_before=before(first))
    assert (numbers(split.forget), numbers(split.retained)) == ([0], [11, 5, 1])
    audit = split.audit
    assert (audit.dataset_rows, audit.forget_rows, audit.retained_rows, audit.forgotten_before_rows) == (6, 1, 3, 2)
    if not shards:
        # a checkpoint that used a row forgotten before is not clean
        assert split.forget_rows is not None
        assert split.forget_rows.rows.tolist() == [1, 2, 3]


def test_a_row_is_known_by_all_that_is_in_it_and_another_one_is_not() -> None:
    first = after(Records.rows([3]))
    changed = data().map(lambda row: {"text": row["text"] + "!"} if row["n"] == 3 else {})
    assert 3 in numbers(after(Records.rows([0]), changed, forgotten_before=before(first)).retained)
    wider = data().add_column("more", ["x"] * 10)
    assert 3 not in numbers(after(Records.rows([0]), wider, forgotten_before=before(first)).retained)


def test_an_id_that_d_did_not_have_does_not_come_in_later() -> None:
    first = after(Records.ids("id", ["r1", "r11"]), allow_unmatched=True)
    split = after(Records.ids("id", ["r2"]), data(12), forgotten_before=before(first))
    assert numbers(split.retained) == [0, 3, 4, 5, 6, 7, 8, 9, 10]


def test_copies_are_forgotten_for_good_and_copies_of_what_was_forgotten_are_looked_for() -> None:
    rows = Dataset.from_dict({"id": ["a", "b", "c", "d"], "n": [0, 1, 2, 3], "text": ["x", "y", "X ", "z"]})
    first = after(Records.ids("id", ["a"]), rows, duplicates="forget")
    assert numbers(first.forget) == [0, 2]
    assert numbers(after(Records.ids("id", ["b"]), rows, forgotten_before=before(first)).retained) == [3]
    reported = after(Records.ids("id", ["a"]), rows)
    second = after(Records.ids("id", ["b"]), rows, forgotten_before=before(reported))
    assert second.audit.duplicates_retained == 1
    moved = after(Records.ids("id", ["b"]), rows, forgotten_before=before(reported), duplicates="forget")
    assert (numbers(moved.forget), numbers(moved.retained)) == ([1, 2], [3])


def test_new_ids_only_are_the_request() -> None:
    first = after(Records.ids("id", ["r1", "r2"]))
    both = Records.ids("id", ["r1", "r5"]) | Records.ids("id", ["r2"])
    split = after(both, forgotten_before=before(first))
    assert numbers(split.forget) == [5]
    audit = split.audit
    assert (audit.ids_requested, audit.ids_matched, audit.ids_honoured) == (1, 1, 2)
    assert split.forgotten is not None
    assert split.forgotten.digests[0].digests == digest_each(KEY, ["id\x1fr5"])
    # also where D has lost them
    shorter = data().filter(lambda row: row["n"] not in (1, 2))
    assert numbers(after(both, shorter, forgotten_before=before(first)).forget) == [5]
    with pytest.raises(InputError, match="names 1 of 1 records that the data set does not have"):
        after(Records.ids("id", ["r1", "gone"]), forgotten_before=before(first))


@pytest.mark.parametrize("request_", [*REQUESTS.values(), Records.ids("id", ["r3"])])
def test_all_of_it_was_honoured_before(request_: Records) -> None:
    first = after(Records.ids("id", ["r3", "r4"]))
    with pytest.raises(AlreadyForgotten, match="were forgotten before; there is nothing to do"):
        after(request_, forgotten_before=before(first))
    both = Records.ids("id", ["r3", "gone"])
    with pytest.raises(AlreadyForgotten, match="does not have 1 of the ids, and the 1 others that the request names"):
        after(both, forgotten_before=before(first), allow_unmatched=True)
    measured = after(request_, forgotten_before=before(first), ask_again=True)
    assert measured.audit.forget_rows > 0
    assert measured.audit.ids_honoured == 0
    assert measured.audit.retained_rows == 8


def test_held_out_rows_that_were_forgotten_are_held_out_no_more() -> None:
    first = after(Records.ids("id", ["r8"]))
    held_out = Records.ids("id", ["r8", "r9"])
    split = after(Records.ids("id", ["r0"]), holdout=held_out, forgotten_before=before(first))
    assert numbers(split.holdout) == [9]
    assert numbers(split.retained) == [1, 2, 3, 4, 5, 6, 7]


def test_without_the_column_it_would_come_back() -> None:
    first = after(Records.ids("id", ["r3"]))
    with pytest.raises(InputError, match="recognised by id, and the data set has no id; add the missing columns"):
        after(Records.rows([0]), data().remove_columns("id"), forgotten_before=before(first))


def test_another_key_recognises_nothing_and_is_not_shown() -> None:
    records = before(after(Records.ids("id", ["r3"])), key=b"another key 0123")
    assert 3 in numbers(after(Records.rows([0]), forgotten_before=records).retained)
    assert "another key" not in repr(records)
    assert recognised(KEY, []) is None


def test_nothing_is_no_id_and_labels_are_their_numbers() -> None:
    rows = Dataset.from_dict(
        {"id": ["None", None, "b"], "label": [0, 1, 1], "n": [0, 1, 2], "text": ["x", "y", "z"]},
        features=Features(
            {
                "id": Value("string"),
                "label": ClassLabel(names=["p", "q"]),
                "n": Value("int64"),
                "text": Value("string"),
            }
        ),
    )
    first = after(Records.ids("id", ["None"]), rows)
    assert numbers(after(Records.ids("id", ["b"]), rows, forgotten_before=before(first)).retained) == [1]
    by_label = after(Records.where("label", "p"), rows)
    assert numbers(after(Records.ids("id", ["b"]), rows, forgotten_before=before(by_label)).retained) == [1]


ROWS = st.sets(st.integers(0, 11), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), ROWS, st.booleans(), st.integers(0, 3))
def test_nothing_that_was_forgotten_comes_back(
    earlier: list[set[int]], held_out: set[int], by_id: bool, shards: int
) -> None:
    forgotten: set[int] = set()
    splits: list[RetainedSplit] = []
    for rows in earlier:
        asked = rows - held_out
        if not asked:
            continue
        request = Records.ids("id", [f"r{i}" for i in asked]) if by_id or shards > 1 else Records.rows(asked)
        dataset = data(12).to_iterable_dataset(num_shards=shards) if shards else data(12)
        holdout = Records.ids("id", [f"r{i}" for i in held_out]) if held_out else None
        try:
            split = after(request, dataset, holdout=holdout, forgotten_before=before(*splits))
        except AlreadyForgotten:
            assert asked <= forgotten
            continue
        except InputError:
            if asked | forgotten | held_out < set(range(12)):
                raise
            return
        assert set(numbers(split.forget)) == asked - forgotten
        forgotten |= asked
        assert set(numbers(split.retained)) == set(range(12)) - forgotten - held_out
        assert split.audit.forgotten_before_rows == len(forgotten) - split.audit.forget_rows
        splits.append(split)
