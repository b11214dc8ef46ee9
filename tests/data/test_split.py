"""The split of D into L, S and H: its laws, its audit, its refusals."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, IterableDataset, concatenate_datasets
from huggingface_hub import constants
from hypothesis import event, given, settings
from hypothesis import strategies as st

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.request.digests import key_path, keyed_digest, load_digest_key

KEY = b"0123456789abcdef"


def data(n: int = 10) -> Dataset:
    return Dataset.from_dict(
        {"id": [f"r{i}" for i in range(n)], "n": list(range(n)), "text": [f"t {i}" for i in range(n)]}
    )


def numbers(part: Any) -> list[int]:
    return [row["n"] for row in part]


def streamed(dataset: Dataset, shards: int = 1) -> IterableDataset:
    return dataset.to_iterable_dataset(num_shards=shards)


TEXTS = st.sampled_from(["Hello", "hello ", "HELLO", "bye", "Bye\t now", "bye now", "", "ß", "é", "e\u0301"])


@st.composite
def datasets_and_requests(draw: st.DrawFn) -> tuple[Dataset, list[str], list[int], list[str]]:
    n = draw(st.integers(3, 25))
    ids = draw(st.lists(st.text(max_size=4), min_size=n, max_size=n, unique=True))
    texts = draw(st.lists(TEXTS, min_size=n, max_size=n))
    dataset = Dataset.from_dict({"id": ids, "n": list(range(n)), "text": texts})
    if draw(st.booleans()):
        order = draw(st.permutations(range(n)))
        dataset = dataset.select(order)
    chosen = draw(st.lists(st.sampled_from(ids), min_size=1, max_size=n // 2 + 1))
    rows = draw(st.lists(st.integers(0, n - 1), max_size=2))
    return dataset, chosen, rows, draw(st.lists(st.sampled_from(ids), max_size=2))


def as_request(chosen: list[str], rows: list[int]) -> Records:
    request = Records.ids("id", chosen)
    return request | Records.rows(rows) if rows else request


@settings(deadline=None, max_examples=80)
@given(datasets_and_requests(), st.sampled_from([None, "report", "forget"]), st.integers(1, 3))
def test_laws_of_the_split(case: tuple[Dataset, list[str], list[int], list[str]], policy: Any, shards: int) -> None:
    dataset, chosen, rows, held_out = case
    request = as_request(chosen, rows)
    holdout = Records.ids("id", held_out) if held_out else None
    named = {row["n"] for i, row in enumerate(dataset) if row["id"] in chosen or i in rows}
    kept_out = {row["n"] for row in dataset if row["id"] in held_out}
    try:
        split = split_retained(dataset, request, holdout=holdout, duplicates=policy)
    except InputError as error:
        event("refused")
        everything_goes = "removes every row" in str(error)
        if not (named & kept_out or everything_goes):
            raise
        return
    retained, forget = numbers(split.retained), numbers(split.forget)
    in_order = numbers(dataset)
    # S, L and H together are D, they are disjoint, and in its order
    assert sorted(retained + forget + sorted(kept_out)) == sorted(in_order)
    assert retained == [n for n in in_order if n in set(retained)]
    assert forget == [n for n in in_order if n in set(forget)]
    assert named <= set(forget)
    assert policy == "forget" or named == set(forget)
    assert split.retained.features == dataset.features
    assert split.audit.dataset_rows == len(dataset) - len(kept_out)
    assert split.audit.forget_rows + split.audit.retained_rows == split.audit.dataset_rows
    # again: nothing is left to forget
    again = split_retained(split.retained, Records.ids("id", chosen), duplicates=None, allow_unmatched=True)
    assert numbers(again.retained) == retained
    assert len(again.forget) == 0
    # streamed: the same (rows have no fixed position in several shards)
    if not rows:
        stream = split_retained(
            streamed(dataset, min(shards, len(dataset))), request, holdout=holdout, duplicates=policy
        )
        assert numbers(stream.retained) == retained
        assert numbers(stream.forget) == forget
        assert (sorted(numbers(stream.holdout)) if held_out else stream.holdout) == (sorted(kept_out) or None)
        assert stream.retained.features == dataset.features
        expected = {**split.audit.to_dict(), "dataset_fingerprint": None}
        assert stream.audit.to_dict() == expected


@settings(deadline=None, max_examples=30)
@given(st.sets(st.integers(0, 9), min_size=1, max_size=4), st.sets(st.integers(0, 9), min_size=1, max_size=4))
def test_the_union_of_requests_is_the_request_of_the_union(a: set[int], b: set[int]) -> None:
    both = split_retained(data(), Records.rows(a) | Records.ids("n", b), duplicates=None)
    one = split_retained(data(), Records.rows(a | b), duplicates=None)
    assert numbers(both.retained) == numbers(one.retained)
    assert numbers(both.forget) == numbers(one.forget) == sorted(a | b)


def test_nothing_is_copied() -> None:
    dataset = data(1000)
    split = split_retained(dataset, Records.rows(range(0, 1000, 7)))
    assert isinstance(split.retained, Dataset)

    def address(part: Dataset) -> int:
        return part.data["text"].chunk(0).buffers()[2].address

    assert address(split.retained) == address(dataset)


def test_fingerprints_follow_the_content_of_the_split() -> None:
    first = split_retained(data(), Records.rows([1]))
    same = split_retained(data(), Records.rows([1]))
    other = split_retained(data(), Records.rows([2]))
    assert isinstance(first.retained, Dataset)
    assert first.retained._fingerprint == same.retained._fingerprint  # type: ignore[union-attr]
    assert first.retained._fingerprint != other.retained._fingerprint  # type: ignore[union-attr]
    assert first.audit == same.audit


def test_a_split_of_a_split_and_of_a_shuffled_data_set() -> None:
    shuffled = data(20).shuffle(seed=1)
    first = split_retained(shuffled, Records.ids("id", ["r3"]))
    second = split_retained(first.retained, Records.rows([0]))
    assert numbers(second.forget) == numbers(first.retained)[:1]
    assert numbers(second.retained) == numbers(first.retained)[1:]


def test_the_format_of_the_rows_is_kept() -> None:
    formatted = data().with_format("numpy", columns=["n"], dtype="float32")
    split = split_retained(formatted, Records.ids("id", ["r3"]))
    assert isinstance(split.retained, Dataset)
    assert split.retained.format == formatted.format
    assert split.retained[:]["n"].dtype == np.float32
    assert list(split.forget[:]) == ["n"]  # type: ignore[index]


def test_a_dictionary_of_splits_needs_a_name() -> None:
    both = DatasetDict({"train": data(), "test": data(3)})
    assert len(split_retained(both, Records.rows([0]), split="train").retained) == 9  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Name a split with split=…; the data set has the splits train, test"):
        split_retained(both, Records.rows([0]))
    with pytest.raises(InputError, match="no split 'dev'"):
        split_retained(both, Records.rows([0]), split="dev")


def test_rows_have_no_position_in_a_stream_of_several_shards() -> None:
    with pytest.raises(InputError, match="2 shards have no fixed position"):
        split_retained(streamed(data(), 2), Records.rows([0]))
    split = split_retained(streamed(data()), Records.rows([0, 4]), duplicates=None)
    assert numbers(split.forget) == [0, 4]


def test_a_stream_split_over_nodes_loses_nothing() -> None:
    from datasets.distributed import split_dataset_by_node

    split = split_retained(streamed(data(40), 4), Records.ids("n", [0, 11, 25, 39]), duplicates=None)
    seen = [n for rank in range(2) for n in numbers(split_dataset_by_node(split.retained, rank, 2))]
    assert sorted(seen) == [n for n in range(40) if n not in (0, 11, 25, 39)]


def test_a_stream_without_declared_columns() -> None:
    def rows() -> Any:
        yield from data()

    split = split_retained(IterableDataset.from_generator(rows), Records.ids("id", ["r2"]))
    assert numbers(split.forget) == [2]
    assert numbers(split.retained) == [0, 1, 3, 4, 5, 6, 7, 8, 9]


# Duplicates


def with_copies() -> Dataset:
    texts = ["My  name is Ann", "my name is ann ", "MY NAME IS ANN", "My name is Bob", "My\u00a0name\nis Ann", "x"]
    return Dataset.from_dict({"id": list(range(6)), "n": list(range(6)), "text": texts})


def test_copies_left_in_the_retained_set_are_counted() -> None:
    audit = split_retained(with_copies(), Records.ids("id", [0])).audit
    assert audit.duplicates_retained == 3
    assert audit.duplicate_columns == ["text"]
    assert audit.near_duplicates_retained == 0


def test_copies_can_be_forgotten_too_or_be_an_error() -> None:
    split = split_retained(with_copies(), Records.ids("id", [0]), duplicates="forget")
    assert numbers(split.forget) == [0, 1, 2, 4]
    assert (split.audit.duplicates_retained, split.audit.duplicates_forgotten) == (0, 3)
    with pytest.raises(InputError, match="3 retained rows have the same text"):
        split_retained(with_copies(), Records.ids("id", [0]), duplicates="error")
    assert split_retained(with_copies(), Records.ids("id", [0]), duplicates=None).audit.duplicates_retained is None


def test_copies_among_conversations_and_pairs() -> None:
    chat = [[{"role": "user", "content": c}, {"role": "assistant", "content": "Yes"}] for c in ("Hi", "hi ", "ho")]
    split = split_retained(Dataset.from_dict({"messages": chat, "n": [0, 1, 2]}), Records.rows([0]))
    assert split.audit.duplicates_retained == 1
    pairs = {"prompt": ["a", "A", "a"], "completion": ["b", "B", "c"], "n": [0, 1, 2]}
    audit = split_retained(Dataset.from_dict(pairs), Records.rows([0])).audit
    assert (audit.duplicates_retained, audit.duplicate_columns) == (1, ["prompt", "completion"])


def test_boundaries_between_columns_count() -> None:
    pairs = {"prompt": ["a b", "a"], "completion": ["c", "b c"], "n": [0, 1]}
    assert split_retained(Dataset.from_dict(pairs), Records.rows([0])).audit.duplicates_retained == 0


def test_records_without_text_are_no_copies_of_each_other() -> None:
    dataset = Dataset.from_dict({"text": ["", "  ", None, "a"], "n": [0, 1, 2, 3]})
    assert split_retained(dataset, Records.rows([0])).audit.duplicates_retained == 0


def test_other_columns_are_searched_when_there_is_no_usual_one() -> None:
    dataset = Dataset.from_dict({"id": ["a", "b"], "question": ["Q", "q"], "answer": ["A", "a"], "n": [0, 1]})
    audit = split_retained(dataset, Records.ids("id", ["a"])).audit
    assert (audit.duplicates_retained, audit.duplicate_columns) == (1, ["question", "answer"])
    with pytest.raises(InputError, match="holds int64, not text"):
        split_retained(dataset, Records.ids("id", ["a"]), duplicate_columns=["n"])
    with pytest.raises(InputError, match="no column of text"):
        split_retained(dataset.select_columns(["n"]), Records.rows([0]))


# Holdout


def test_a_holdout_set_of_its_own_is_compared_with_what_was_trained_on() -> None:
    other = Dataset.from_dict({"id": ["x", "y", "z"], "n": [100, 101, 102], "text": ["T 3", "new", "t 4"]})
    split = split_retained(data(), Records.rows([3]), holdout=other)
    assert numbers(split.holdout) == [100, 101, 102]
    assert (split.audit.holdout_rows, split.audit.holdout_overlap) == (3, 2)
    assert split.audit.dataset_rows == 10


def test_a_holdout_set_without_the_columns_that_are_compared() -> None:
    data = Dataset.from_dict({"id": ["0", "1"], "text": ["a", "b"]})
    with pytest.raises(InputError, match="The held-out data set has no column 'text'; its columns are prompt"):
        split_retained(data, Records.ids("id", ["0"]), holdout=Dataset.from_dict({"prompt": ["c"]}))


def test_held_out_rows_belong_to_nothing_else() -> None:
    split = split_retained(data(), Records.rows([3]), holdout=Records.rows([0, 1]))
    assert numbers(split.retained) == [2, 4, 5, 6, 7, 8, 9]
    assert (split.audit.dataset_rows, split.audit.holdout_rows, split.audit.holdout_overlap) == (8, 2, 0)
    with pytest.raises(InputError, match="1 rows are both to be forgotten and held out"):
        split_retained(data(), Records.rows([3]), holdout=Records.rows([3]))
    with pytest.raises(InputError, match="The held-out request names 1 of 1"):
        split_retained(data(), Records.rows([3]), holdout=Records.ids("id", ["nobody"]))


# Digest


def test_the_digest_tells_nothing_without_the_key_and_the_request_with_it() -> None:
    def digest(request: Records, key: bytes = KEY) -> str | None:
        return split_retained(data(), request, digest_key=key).audit.request_digest

    assert digest(Records.ids("id", ["r1", "r2"])) == digest(Records.ids("id", ["r2", "r1", "r1"]))
    assert digest(Records.ids("id", ["r1"])) == keyed_digest(KEY, ["id\x1fr1"])
    others = [Records.ids("id", ["r2"]), Records.ids("text", ["t 1"]), Records.rows([1])]
    assert len({digest(r) for r in [Records.ids("id", ["r1"]), *others]}) == 4
    assert digest(Records.ids("id", ["r1"]), b"another key of 16+") != digest(Records.ids("id", ["r1"]))
    assert digest(Records.matching(lambda row: row["n"] == 1)) == digest(Records.rows([1]))
    assert split_retained(data(), Records.rows([1])).audit.request_digest is None


def test_the_digest_is_hmac_sha256() -> None:
    import hashlib
    import hmac

    assert keyed_digest(KEY, ["b", "a", "b"]) == hmac.new(KEY, b"a\nb", hashlib.sha256).hexdigest()


def test_the_key_is_made_once_and_kept_private(tmp_path: Any) -> None:
    path = tmp_path / "keys" / "digest.key"
    key = load_digest_key(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_digest_key(path) == key
    path.write_text("secret")
    with pytest.raises(InputError, match="is not a digest key"):
        load_digest_key(path)


def test_the_first_use_says_where_the_key_is(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside of caches, but where it was made at first it is found."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    usual = tmp_path / "settings" / "hf_unlearn" / "digest.key"
    assert key_path(None) == usual
    load_digest_key(key_path(None))
    assert f"{usual}. Back it up." in caplog.text
    assert usual.parent.stat().st_mode & 0o777 == 0o700
    caplog.clear()
    load_digest_key(key_path(None))
    assert caplog.text == ""
    usual.unlink()
    old = tmp_path / "cache" / "hf_unlearn_digest.key"
    load_digest_key(old)
    assert key_path(None) == old
    assert key_path(str(tmp_path / "mine")) == tmp_path / "mine"
    for name in ("", "relative/settings"):
        monkeypatch.setenv("XDG_CONFIG_HOME", name)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        old.unlink(missing_ok=True)
        assert key_path(None) == tmp_path / "home" / ".config" / "hf_unlearn" / "digest.key"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o444])
def test_a_key_that_others_can_read_is_refused(mode: int, tmp_path: Any) -> None:
    path = tmp_path / "digest.key"
    load_digest_key(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=f"Others can read the digest key {path}; run `chmod 600 {path}` first"):
        load_digest_key(path)


def test_a_key_is_made_without_hard_links_and_leaves_no_other(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "digest.key"
    # A kill has left this of an earlier attempt.
    (tmp_path / ".digest.key.part").write_text("half")
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(load_digest_key, [path] * 4))) == 1
    assert {file.name for file in tmp_path.iterdir()} <= {"digest.key", ".digest.key.lock"}


def test_a_key_that_cannot_be_read_or_made(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(InputError, match="Cannot read or make the digest key"):
            load_digest_key(path)


def test_messages_whose_content_is_no_text_are_not_searched() -> None:
    turns = [[{"role": "user", "content": [{"type": "text", "text": str(i)}]}] for i in range(3)]
    with pytest.raises(InputError, match="messages whose content is list<.*not text"):
        split_retained(Dataset.from_dict({"messages": turns}), Records.rows([0]))


def test_large_tables_are_read_in_pieces() -> None:
    n = 250_000
    dataset = Dataset.from_dict({"id": np.arange(n), "text": np.char.add("t ", np.arange(n).astype(str))})
    split = split_retained(dataset, Records.ids("id", [0, 99_999, 100_000, n - 1]))
    assert split.forget["id"][:] == [0, 99_999, 100_000, n - 1]
    assert len(split.retained) == n - 4  # type: ignore[arg-type]
    doubled = concatenate_datasets([dataset, dataset])
    assert split_retained(doubled, Records.rows([5])).audit.duplicates_retained == 1


def test_an_empty_data_set() -> None:
    empty = data().select([])
    for dataset in (empty, IterableDataset.from_generator(lambda: iter(()))):
        with pytest.raises(InputError, match=r"nothing to forget|has no column"):
            split_retained(dataset, Records.ids("id", ["r1"]))


def test_copies_among_lists_of_words_are_found() -> None:
    words = [["Ann", "lives", "here"], ["ann", " LIVES", "here"], ["Ann", "lives"], None, ["Ann lives", "here"]]
    tags = [["a"] * 3, ["b"] * 3, ["a"] * 2, ["a"], ["a"] * 2]
    data = Dataset.from_dict({"id": [str(i) for i in range(5)], "tokens": words, "ner_tags": tags})
    for dataset in (data, data.to_iterable_dataset()):
        split = split_retained(dataset, Records.ids("id", ["0"]))
        assert split.audit.duplicate_columns == ["tokens"]
        assert split.audit.duplicates_retained == 2, "case and where the words end do not matter"
    numbers = Dataset.from_dict({"id": ["0", "1"], "tokens": [[1], [2]], "note": ["x", "x"]})
    split = split_retained(numbers, Records.ids("id", ["0"]))
    assert (split.audit.duplicate_columns, split.audit.duplicates_retained) == (["note"], 1)
    with pytest.raises(InputError, match="neither words nor chat messages"):
        split_retained(numbers, Records.ids("id", ["0"]), duplicate_columns=["tokens"])
