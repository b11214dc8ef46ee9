"""Files of text: what their quotation marks mean, and those that are not UTF-8."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Json, Value
from huggingface_hub import HfApi

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.checks import check_records
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.loading import load_data


def rows_of(path: Path, text: str, **options: Any) -> list[dict[str, Any]]:
    path.write_text(text, encoding="utf-8", newline="")
    return list(load_data(str(path), **options)[0]["train"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "between"), [("d.tsv", "\t"), ("d.csv", ",")])
def test_marks_that_are_text_join_no_lines(tmp_path: Path, name: str, between: str, end: str) -> None:
    texts = [('"' if i in (7, 12) else "") + f"message {i}" + ('" she said' if i == 20 else "") for i in range(40)]
    text = end.join([f"id{between}text", *(f"c{i}{between}{one}" for i, one in enumerate(texts)), ""])
    found = rows_of(tmp_path / name, text)
    assert found == [{"id": f"c{i}", "text": one} for i, one in enumerate(texts)]
    (tmp_path / "folder").mkdir()
    rows_of(tmp_path / "folder" / name, text)
    with pytest.raises(InputError, match="are text and enclose no fields; name the file"):
        load_data(str(tmp_path / "folder"))


def test_a_mark_that_is_closed_nowhere(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "d.tsv", 'id\ttext\na\t"open\nb\tend\n')[0] == {"id": "a", "text": '"open'}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("d.tsv", 'id\ttext\na\t"one\ntwo"\nb\t"a ""word"""\n', ["one\ntwo", 'a "word"']),
        ("d.csv", 'id,text\na,"one, two"\nb,"x\n\ny"\n', ["one, two", "x\n\ny"]),
        ("d.csv", 'text\n"one\ntwo"\nthree\n', ["one\ntwo", "three"]),
        ("d.tsv", 'id\ttext\na\t5" pipe\nb\t6" pipe\n', ['5" pipe', '6" pipe']),
    ],
)
def test_marks_around_fields(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    assert [row["text"] for row in rows_of(tmp_path / name, text)] == expected


@pytest.mark.parametrize(
    "text",
    ['id\ttext\na\t"one\nb\ttwo"\nc\tx\n', 'id\ttext\na\t"one\nb\ttwo" three\nc\n'],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_marks_that_may_mean_both(tmp_path: Path, text: str, streaming: bool) -> None:
    with pytest.raises(InputError, match="lines, which are . rows if quotation marks enclose fields"):
        rows_of(tmp_path / "d.tsv", text, streaming=streaming)


def on_hub(owner: HfApi, file: str, text: str) -> str:
    owner.create_repo("owner/lines", repo_type="dataset", exist_ok=True)
    owner.upload_file(repo_id="owner/lines", repo_type="dataset", path_in_repo=file, path_or_fileobj=text.encode())
    return "owner/lines"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("train.csv", 'id,text\n1,"open\n2,b\n3,c\n', "are text and enclose no fields; name that file, downloaded"),
        ("train.tsv", 'id\ttext\na\t"one\nb\ttwo"\nc\tx\n', "lines, which are . rows if quotation marks enclose"),
    ],
)
def test_so_it_is_with_files_on_the_hub(owner: HfApi, file: str, text: str, said: str) -> None:
    name = on_hub(owner, file, text)
    try:
        with pytest.raises(InputError, match=said):
            load_data(name)
    finally:
        owner.delete_repo(name, repo_type="dataset")


@pytest.mark.parametrize("place", ["file", "folder", "Hub"])
def test_an_id_may_read_like_no_value(owner: HfApi, tmp_path: Path, place: str) -> None:
    text = 'id,text\nNA,"one, two"\nnull,b\nx,\n'
    (tmp_path / "train.csv").write_text(text)
    name = {"file": str(tmp_path / "train.csv"), "folder": str(tmp_path)}.get(place) or on_hub(
        owner, "train.csv", text
    )
    rows = list(load_data(name)[0]["train"])
    assert rows == [{"id": "NA", "text": "one, two"}, {"id": "null", "text": "b"}, {"id": "x", "text": None}]
    if place == "Hub":
        owner.delete_repo(name, repo_type="dataset")


def test_no_message_of_the_sms_collection_is_lost(shared: Path) -> None:
    path = shared / "data" / "sms_spam" / "sms.tsv"
    (data,) = load_data(str(path))[0].values()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert list(zip(*(data[name] for name in data.column_names), strict=True)) == [
        tuple(line.split("\t")) for line in lines[1:]
    ]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.tsv", "d.txt", "folder/d.jsonl"])
def test_files_that_are_not_utf8(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes('{"text": "ZQtext caf\xe9"}\n'.encode("latin-1") * 3)
    for asked in {path, path.parent}:
        with pytest.raises(InputError, match=f"{path.name} is not UTF-8; save it as UTF-8") as error:
            load_data(str(asked))
        assert "ZQtext" not in str(error.value)


@pytest.mark.parametrize("opening", ["[", '{"a": ', "[\n", '{"a": [\n'])
@pytest.mark.parametrize("depth", [2000, 100_000])
def test_json_that_is_nested_too_deep(tmp_path: Path, opening: str, depth: int) -> None:
    closing = "".join({"{": "}", "[": "]"}.get(letter, "") for letter in reversed(opening))
    path = tmp_path / "d.json"
    path.write_text('{"text": "a", "x": ' + opening * depth + "1" + closing * depth + "}\n")
    with pytest.raises(InputError, match="nested deeper than 1,000 levels"):
        load_data(str(path))


def test_brackets_in_text_are_no_levels(tmp_path: Path) -> None:
    text = "[{" * 2000 + '\\"['
    assert rows_of(tmp_path / "d.jsonl", json.dumps({"text": text}) + "\n") == [{"text": text}]


def test_text_in_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9", b"a", b"b"]).view(pa.string())
    pq.write_table(pa.table({"text": bad, "id": [0, 1, 2]}), tmp_path / "d.parquet")
    data = load_data(str(tmp_path / "d.parquet"))[0]["train"]
    for action in (
        lambda: split_retained(data, Records.ids("id", [1])),
        lambda: check_records(data, RecordFormat("text")),
    ):
        with pytest.raises(InputError, match="text that is not UTF-8, in a column among text"):
            action()


# What Arrow holds words and turns as

WORDS = [["Ann", "here"], ["ann", "HERE"], ["Bob", "there"], ["Ann", "there"]]
TURNS = [[{"role": "user", "content": f"q {' '.join(words)}"}] for words in WORDS]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(WORDS, pa.list_(pa.string_view())),
        pa.array(WORDS, pa.list_(pa.string(), 2)),
        pa.array(WORDS, pa.list_(pa.string_view(), 2)),
        pa.array(WORDS, pa.large_list(pa.large_string())),
        pa.array(TURNS, pa.list_(pa.struct([("role", pa.string_view()), ("content", pa.string_view())]))),
        pa.array(TURNS, pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]), 1)),
    ],
    ids=lambda column: str(column.type),
)
def test_copies_are_found_whatever_holds_them(column: pa.Array) -> None:
    data = Dataset(pa.table({"id": [0, 1, 2, 3], "x": column}))
    for dataset in (data, data.to_iterable_dataset()):
        split = split_retained(dataset, Records.ids("id", [0]), duplicate_columns=["x"], duplicates="forget")
        assert sorted(row["id"] for row in split.forget) == [0, 1]
        assert sorted(row["id"] for row in split.retained) == [2, 3]


def test_calls_count_in_a_search(tmp_path: Path) -> None:
    """Some turns call functions and others have none, so the reader keeps the turns as JSON."""

    def call(guest: str, name: str = "book", **more: Any) -> list[dict[str, Any]]:
        arguments: Any = {"guest": guest, "n": 1} if guest != "Mia B" else '{"n": 1, "guest": "Mia"}'
        return [{"id": more.get("id", "1"), "function": {"name": name, "arguments": arguments}}]

    asked = {"role": "user", "content": "Book it"}
    calls = [call("Mia"), call("Mia", id="2"), call("Mia B"), call("Tom"), call("Mia", "cancel")]
    rows = [{"id": i, "messages": [asked, {"role": "assistant", "tool_calls": one}]} for i, one in enumerate(calls)]
    rows += [{"id": 5, "messages": [asked, {"role": "assistant", "content": "Which room?"}]}]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(str(path))[0]["train"]
    whole = Dataset.from_list(rows, features=Features({"id": Value("int64"), "messages": Json()}))
    for dataset in (data, data.to_iterable_dataset(), whole):
        split = split_retained(dataset, Records.ids("id", [0]), duplicates="forget", near_duplicates=None)
        assert sorted(row["id"] for row in split.forget) == [0, 1, 2]


# The columns that are searched are those that are trained on


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b", "text": "c"}, ["prompt", "completion"]),
        ({"text": "a", "label": 0, "messages": [{"role": "user", "content": "x"}]}, ["text"]),
        ({"tokens": ["a"], "ner_tags": [0], "text": "x", "label": 1}, ["tokens"]),
        ({"messages": [{"role": "user", "content": "x"}], "text": "a"}, ["messages"]),
        ({"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2], "text": "x"}, ["input_ids"]),
    ],
)
def test_copies_are_looked_for_in_what_is_trained_on(row: dict[str, Any], expected: list[str]) -> None:
    """Two rows share what a model reads, and two others what it does not read."""

    def other(value: Any) -> Any:
        if isinstance(value, list):
            return [other(one) for one in value]
        return {**value, "content": "y"} if isinstance(value, dict) else 7 if isinstance(value, int) else "y"

    read = {name: other(value) if name in expected else value for name, value in row.items()}
    beside = {name: value if name in expected else other(value) for name, value in row.items()}
    data = Dataset.from_list([{"id": i, **one} for i, one in enumerate((row, beside, read))])
    split = split_retained(data, Records.ids("id", [0]), near_duplicates=None)
    assert (split.audit.duplicate_columns, split.audit.duplicates_retained) == (expected, 1)
