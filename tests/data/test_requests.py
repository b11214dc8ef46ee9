"""Requests: what they name, how they are read, and what is refused."""

import datetime
import os
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.request.id_files import request_files

DATA = Dataset.from_dict(
    {
        "id": [f"r{i}" for i in range(8)],
        "number": list(range(8)),
        "author": ["ann", "bob"] * 4,
        "text": [f"text number {i}" for i in range(8)],
    }
)


def forgotten(request: Records, data: Dataset = DATA, **options: Any) -> list[int]:
    return split_retained(data, request, **options).forget["number"][:]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Records.ids("id", ["r6", "r1", "r1"]), [1, 6]),
        (Records.ids("number", [5]), [5]),
        (Records.where("author", "bob"), [1, 3, 5, 7]),
        (Records.where_text("number", "3", "4"), [3, 4]),
        (Records.rows([7, 0, 0]), [0, 7]),
        (Records.like(DATA.select([2, 4]).select_columns(["text", "author"])), [2, 4]),
        (Records.matching(lambda row: row["number"] % 3 == 0), [0, 3, 6]),
        (Records.rows([0]) | Records.ids("id", ["r7"]) | Records.where("number", 0), [0, 7]),
    ],
    ids=["ids", "integers", "value", "text values", "rows", "like", "predicate", "union"],
)
def test_what_a_request_names(request_: Records, expected: list[int]) -> None:
    assert forgotten(request_) == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "r1\n\nr6\r\n"),
        ("ids.csv", "when,id\n2020,r1\n2021,r6\n"),
        ("ids.csv", "r1\nr6\n"),
        ("ids.jsonl", '"r1"\n{"id": "r6", "why": "asked"}\n'),
        ("ids.txt", "\ufeffr1\nr6"),
    ],
)
def test_files_of_ids(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert forgotten(Records.ids_from_file("id", tmp_path / name)) == [1, 6]


def test_untyped_files_are_read_as_the_columns_type_and_typed_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("1\n6\n")
    assert forgotten(Records.ids_from_file("number", tmp_path / "ids.txt")) == [1, 6]
    (tmp_path / "ids.jsonl").write_text('"1"\n"6"\n')
    with pytest.raises(
        InputError, match='holds integer values but the request gives string values \\("7" is not 7\\)'
    ):
        forgotten(Records.ids_from_file("number", tmp_path / "ids.jsonl"))
    (tmp_path / "ids.txt").write_text("1\n06\n")
    with pytest.raises(InputError, match=r"Line 2 of ids\.txt is no integer value, as column 'number' holds"):
        forgotten(Records.ids_from_file("number", tmp_path / "ids.txt"))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: Records.ids("id", [7]), "holds string values but the request gives integer values"),
        (lambda: Records.ids("number", ["7"]), '"7" is not 7'),
        (lambda: Records.ids("number", [True]), "gives boolean values"),
        (lambda: Records.ids("number", [2**70]), "does not fit the type int64"),
        (lambda: Records.ids("id", ["r1", 2]), "mix types"),
        (lambda: Records.ids("id", [None]), "NoneType values"),
        (lambda: Records.ids("id", []), "names no value of column 'id'"),
        (lambda: Records.ids("name", ["r1"]), "no column 'name'; its columns are id, number, author, text"),
        (lambda: Records.ids("id", ["r1", "x", "y"]), r"names 2 of 3 records .* \(positions 2, 3 of the request\)"),
        (lambda: Records.rows([8]), "names 1 of 1 records that the data set does not have"),
        (lambda: Records.rows([-1]), "Value 1 of the request is no row number; give whole"),
        (lambda: Records.rows([True]), "Value 1 of the request is no row number; give whole"),
        (lambda: Records.rows([]), "names no row"),
        (lambda: Records.matching(lambda row: False), "names no record"),
        (lambda: Records.matching(lambda row: True), "removes every row"),
        (lambda: Records.like(Dataset.from_dict({"text": []})), "records to forget is empty"),
        (lambda: Records.like(Dataset.from_dict({"body": ["a"]})), "columns that the data set lacks: body"),
        (lambda: Records.like(Dataset.from_dict({"number": ["a"]})), "give them the same types"),
    ],
)
def test_what_is_refused(request_: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        forgotten(request_())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.txt", "", "holds no ids"),
        ("ids.xlsx", "r1", "is no file of ids"),
        ("ids.csv", "a,b\n1,2\n", "does not name the column 'id'"),
        ("ids.jsonl", "{", "Line 1 .* is not JSON"),
        ("ids.jsonl", '{"key": 1}', "Line 1 .* has no key 'id'"),
        ("ids.txt", "r1\nnobody\nr2\nno one\n", r"names 2 of 4 .* \(lines 2, 4 of ids\.txt\)"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        forgotten(Records.ids_from_file("id", tmp_path / name))


def test_a_file_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Records.ids_from_file("id", tmp_path / "none.txt")
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        Records.ids_from_file("id", tmp_path / "ids.txt")


def test_many_missing_ids_are_not_all_listed(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("".join(f"nobody{i}\n" for i in range(50)))
    with pytest.raises(InputError) as raised:
        forgotten(Records.ids_from_file("id", tmp_path / "ids.txt"))
    assert "names 50 of 50" in str(raised.value)
    assert "lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …" in str(raised.value)
    assert "nobody" not in str(raised.value), "an id must not be in a message"


def test_missing_ids_may_be_allowed() -> None:
    split = split_retained(DATA, Records.ids("id", ["r1", "x"]), allow_unmatched=True)
    assert (split.audit.ids_requested, split.audit.ids_matched, split.audit.ids_unmatched) == (2, 1, 1)


def test_labels_are_named_and_dates_are_dates() -> None:
    when = [datetime.date(2020, 1, day) for day in range(1, 5)]
    features = Features({"label": ClassLabel(names=["ham", "spam"]), "when": Value("date32"), "number": Value("int8")})
    data = Dataset.from_dict({"label": [0, 1, 0, 1], "when": when, "number": range(4)}, features=features)
    assert forgotten(Records.where("label", "spam"), data, duplicates=None) == [1, 3]
    assert forgotten(Records.where("label", 0), data, duplicates=None) == [0, 2]
    assert forgotten(Records.ids("when", [datetime.date(2020, 1, 3)]), data, duplicates=None) == [2]
    with pytest.raises(InputError, match="Value 1 of the request is none of the 2 labels of 'label'; correct it"):
        forgotten(Records.where("label", "eggs"), data, duplicates=None)


def test_rows_alike_in_nested_columns_and_nulls() -> None:
    turns = [[{"role": "user", "content": text}] for text in ("a", "b", "a")]
    data = Dataset.from_dict({"messages": turns, "note": [None, "null", "x"], "number": [0, 1, 2]})
    assert forgotten(Records.like(data.select([0]).select_columns(["messages"])), data) == [0, 2]
    assert forgotten(Records.like(data.select([0]).select_columns(["note"])), data) == [0]


def test_equal_rows_are_compared_column_by_column() -> None:
    data = Dataset.from_dict({"a": ["x", "x\x1f1", "y"], "b": ["1\x1fz", "z", "y"], "number": [0, 1, 2]})
    wanted = Dataset.from_dict({"a": ["x"], "b": ["1\x1fz"]})
    assert forgotten(Records.like(wanted), data, duplicates=None) == [0]


@pytest.mark.parametrize(
    ("asked", "nearly"),
    [("Caf\u00e9 ", 1), ("cafe\u0301", 1), ("caf\u00e9\n", 1), ("\u200bCAF\u00c9", 1), ("cafe", 0), ("caf\u00e8", 0)],
)
def test_ids_are_exact_and_a_near_miss_is_told(asked: str, nearly: int) -> None:
    data = Dataset.from_dict({"id": ["caf\u00e9", "b"], "text": ["x", "y"]})
    with pytest.raises(InputError) as raised:
        forgotten(Records.ids("id", [asked]), data)
    told = "it has 1 of them in another case, white space or Unicode form"
    assert (told in str(raised.value)) == bool(nearly)
    assert "caf" not in str(raised.value).lower()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ids.csv", "name,id\nx,p-1\nJane\n", "Line 3 of .*ids.csv has no id in the column 'id'"),
        ("ids.csv", "name,id\nJane,\n", "Line 2 of .* has no id"),
        ("ids.csv", "id\n" + "Jane" * 50_000 + "\n", "is not a CSV file"),
        ("ids.jsonl", "9" * 5000 + "\n", "Line 1 of .* is not JSON"),
        ("ids.jsonl", "[" * 100_000 + "\n", "Line 1 of .* is not JSON"),
        ("ids.jsonl", '"a"\nnull\n', "Line 2 of .* holds no id"),
        ("ids.jsonl", '{"id": ["Jane"]}\n', "Line 1 of .* holds no id"),
    ],
)
def test_no_line_of_a_file_is_passed_over(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        Records.ids_from_file("id", tmp_path / name)
    assert "Jane" not in str(raised.value)


def test_values_that_their_column_cannot_hold() -> None:
    data = Dataset.from_dict(
        {"id": [1, 2], "text": ["x", "y"]}, features=Features({"id": Value("int8"), "text": Value("string")})
    )
    for value in (300, 10**30):
        with pytest.raises(InputError, match="does not fit the type int8"):
            forgotten(Records.ids("id", [value]), data)
    with pytest.raises(InputError, match="no data set has so many rows"):
        Records.rows([2**63])


@pytest.mark.parametrize(
    "values", [[b"\xff", b"\xfe"], [datetime.timedelta(1), datetime.timedelta(2)], [{"a": b"\xff"}, {"a": b"a"}]]
)
def test_rows_alike_in_columns_that_are_no_text(values: list[Any]) -> None:
    data = Dataset.from_dict(
        {"raw": [values[0], values[1], None, values[0]], "text": list("abcd"), "number": [0, 1, 2, 3]}
    )
    assert forgotten(Records.like(data.select([0]).select_columns(["raw"])), data) == [0, 3]
    assert forgotten(Records.like(data.select([2]).select_columns(["raw"])), data) == [2]


def test_a_first_record_that_was_taken_for_names_is_not_quoted() -> None:
    data = Dataset.from_dict({"id": ["a"], "text": ["x"]})
    wanted = Dataset.from_dict({"My name is Jane Doe, of Elm Street": ["b"], "id": ["a"]})
    with pytest.raises(
        InputError, match="lacks: 1 in all, 1 of which may be no names .*; its columns are id, text"
    ) as raised:
        forgotten(Records.like(wanted), data)
    assert "Jane" not in str(raised.value)


# Folders of requests


def folder_of(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "requests"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("r1\n")
    return folder


def test_each_file_in_a_folder_is_a_request(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "b.txt", "a.csv", "c.jsonl", ".d.txt", "ü €.txt")
    (folder / "sub").mkdir()
    (folder / "sub" / "e.txt").write_text("r2\n")
    files, ignored = request_files(folder)
    assert [path.name for path in files] == ["a.csv", "b.txt", "c.jsonl", "ü €.txt"]
    assert ignored == 2


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "broken link", "pipe", "other", "upper case"])
def test_what_may_lead_out_of_the_folder_or_is_no_request_is_refused(tmp_path: Path, kind: str) -> None:
    folder = folder_of(tmp_path, "a.txt")
    outside = tmp_path / "outside.txt"
    outside.write_text("r2\n")
    if kind == "pipe":
        os.mkfifo(folder / "b.txt")
    elif kind in ("other", "upper case"):
        (folder / ("b.pdf" if kind == "other" else "b.TXT")).write_text("r2\n")
    else:
        target = {"link to a file": outside, "link to a folder": tmp_path}.get(kind, tmp_path / "nowhere")
        (folder / "b.txt").symlink_to(target)
    with pytest.raises(InputError, match=r"is a link or no regular file|is no \.txt, \.csv or \.jsonl file of ids"):
        request_files(folder)


def test_a_folder_without_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file of ids in"):
        request_files(folder_of(tmp_path, ".hidden.txt"))
    with pytest.raises(InputError, match="Cannot read the folder of requests .*: Not a directory"):
        request_files(tmp_path / "requests" / ".hidden.txt")
    with pytest.raises(InputError, match="Cannot read the folder of requests .*: No such file"):
        request_files(tmp_path / "nowhere")
