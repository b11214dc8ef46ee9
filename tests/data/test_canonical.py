"""Ids have one text, whatever the type of their column is today: what was forgotten stays so, and no one else goes."""

import datetime as dt
import hashlib
import hmac
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.loading import load_data
from hf_unlearn.data.request.digest_selector import recognised
from hf_unlearn.data.request.digests import ForgottenDigests

KEY = b"0123456789abcdef"
BERLIN = dt.timezone(dt.timedelta(hours=1))
MOMENTS = [dt.datetime(2024, 1, 1 + i, 3, 0, 0, 500_000) for i in range(6)]
SECONDS = [moment.replace(microsecond=0) for moment in MOMENTS]
DAYS = [moment.date() for moment in MOMENTS]
AWARE = [moment.replace(tzinfo=dt.UTC) for moment in MOMENTS]


def data(ids: Any, feature: Any = None) -> Dataset:
    """Six rows, numbered from 0."""
    rows = Dataset(pa.table({"id": ids, "n": list(range(len(ids))), "text": [f"text {i}" for i in range(len(ids))]}))
    return rows if feature is None else rows.cast(Features({**rows.features, "id": feature}))


def split(dataset: Dataset, request: Records, before: Sequence[ForgottenDigests] = (), **options: Any) -> Any:
    return split_retained(
        dataset,
        request,
        near_duplicates=None,
        duplicates=None,
        digest_key=KEY,
        forgotten_before=recognised(KEY, before),
        **options,
    )


def numbers(part: Any) -> list[int]:
    return [row["n"] for row in part]


def array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


WHOLE = list(range(6))
TEXTS = [str(i) for i in WHOLE]
MISSING: list[Any] = [*range(5), None]
SAME = {
    "one id is missing": (array(WHOLE, pa.int64()), array([float(i) for i in range(5)] + [None], pa.float64())),
    "no id is missing any more": (array(MISSING, pa.float64()), array(WHOLE, pa.int64())),
    "text to numbers": (array(TEXTS, pa.string()), array(WHOLE, pa.int32())),
    "numbers to text": (array(WHOLE, pa.uint8()), array(TEXTS, pa.large_string())),
    "half precision": (array(WHOLE, pa.int64()), pa.array(np.arange(6, dtype=np.float16))),
    "single precision": (array([i + 0.1 for i in WHOLE], pa.float32()), array([i + 0.1 for i in WHOLE], pa.float64())),
    "decimals": (array(WHOLE, pa.int64()), array([Decimal(i) for i in WHOLE], pa.decimal128(9, 2))),
    "digits of decimals": (
        array([Decimal(i) / 2 for i in WHOLE], pa.decimal128(5, 1)),
        array([Decimal(i) / 2 for i in WHOLE], pa.decimal256(50, 9)),
    ),
    "units": (array(MOMENTS, pa.timestamp("ms")), array(MOMENTS, pa.timestamp("ns"))),
    "zones": (array(AWARE, pa.timestamp("us", "UTC")), array(AWARE, pa.timestamp("ms", "Asia/Tokyo"))),
    "dates": (array(DAYS, pa.date32()), array(DAYS, pa.date64())),
    "times": (array([dt.time(i) for i in WHOLE], pa.time32("s")), array([dt.time(i) for i in WHOLE], pa.time64("us"))),
    "bytes": (array([b"k%d" % i for i in WHOLE], pa.binary()), array([f"k{i}" for i in WHOLE], pa.string())),
    "views": (array(TEXTS, pa.string()), array(TEXTS, pa.string_view())),
}


@pytest.mark.parametrize("case", list(SAME))
@pytest.mark.parametrize("how", ["ids", "rows"])
def test_what_was_forgotten_is_found_in_a_column_of_another_type(case: str, how: str) -> None:
    first, second = (data(ids) for ids in SAME[case])
    request = (
        Records.ids("id", first[1:3]["id"]) if how == "ids" and case != "half precision" else Records.rows([1, 2])
    )
    known = split(first, request).forgotten.digests
    again = split(second, Records.rows([0]), known)
    assert (numbers(again.forget), numbers(again.retained), again.lacking) == ([0], [3, 4, 5], 0)


def test_classes_are_known_by_their_names() -> None:
    names = ["ann", "bob", "cem", "dan", "eva", "fay"]
    first = data(WHOLE, ClassLabel(names=names))
    known = split(first, Records.where("id", "bob", "cem")).forgotten.digests
    for second in (data(WHOLE[::-1], ClassLabel(names=names[::-1])), data(names)):
        assert numbers(split(second, Records.rows([0]), known).retained) == [3, 4, 5]
    with pytest.raises(InputError, match=r"named 2 ids of the column id .* has 0 now.* were label and are integer"):
        split(data(WHOLE), Records.rows([0]), known)


CHANGED = {
    "leading zeros are gone": (array([f"00{i}" for i in WHOLE], pa.string()), array(WHOLE, pa.int64())),
    "leading zeros came": (array(WHOLE, pa.int64()), array([f"00{i}" for i in WHOLE], pa.string())),
    "a zone came": (array(MOMENTS, pa.timestamp("us")), array(AWARE, pa.timestamp("us", "UTC"))),
    "a unit cuts off": (array(MOMENTS, pa.timestamp("ms")), array(SECONDS, pa.timestamp("s"))),
    "times became text": (array(MOMENTS, pa.timestamp("us")), array([m.isoformat() for m in MOMENTS], pa.string())),
    "dates became text": (array(DAYS, pa.date32()), array([f"{m:%d.%m.%Y}" for m in MOMENTS], pa.string())),
    "truth became numbers": (array([False, True] * 3, pa.bool_()), array([0, 1] * 3, pa.int64())),
    "parts were cut off": (array([i + 0.5 for i in WHOLE], pa.float64()), array(WHOLE, pa.int64())),
    "parts came": (array(WHOLE, pa.int64()), array([i + 0.5 for i in WHOLE], pa.float64())),
    "single precision was widened": (
        array([i + 0.1 for i in WHOLE], pa.float32()),
        array([i + 0.1 for i in WHOLE], pa.float32()).cast(pa.float64()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(CHANGED))
def test_a_type_in_which_nothing_is_found_ends_the_run_with_the_numbers(case: str) -> None:
    first, second = (data(ids) for ids in CHANGED[case])
    known = split(first, Records.ids("id", first[1:2]["id"])).forgotten.digests
    with pytest.raises(
        InputError, match=r"An earlier request named 1 ids of the column id .*, and it has 0 now\. The c"
    ):
        split(second, Records.rows([0]), known)
    assert split(second, Records.rows([0]), known, allow_unmatched=True).lacking == 1


def test_a_part_that_is_found_ends_the_run_and_a_request_that_is_gone_is_counted() -> None:
    known = split(data(TEXTS), Records.ids("id", ["1", "2", "3"])).forgotten.digests
    part = data(["0", "1", "02", "3"])
    with pytest.raises(InputError, match="named 3 ids of the column id that the data set had, and it has 2 now"):
        split(part, Records.rows([0]), known)
    goes_on = split(part, Records.rows([0]), known, allow_unmatched=True)
    assert (numbers(goes_on.retained), goes_on.lacking) == ([2], 1)
    gone = split(data(["0", "4", "5"]), Records.rows([0]), known)
    assert (numbers(gone.retained), gone.lacking) == ([1, 2], 3)
    # What D did not have then may still be missing.
    first = split(data(TEXTS), Records.ids("id", ["1", "9"]), allow_unmatched=True)
    assert split(data(TEXTS), Records.rows([0]), first.forgotten.digests).lacking == 0


def test_rows_known_by_their_content_are_missed_too() -> None:
    known = split(data(array(MOMENTS, pa.timestamp("us"))), Records.rows([1, 2])).forgotten.digests
    with pytest.raises(
        InputError, match="named 2 rows that the data set had, and it has 0 now. The column types were"
    ):
        split(data([m.isoformat() for m in MOMENTS]), Records.rows([0]), known)
    other = data(array(MOMENTS, pa.timestamp("us"))).map(
        lambda row: {"text": row["text"] + "!"} if row["n"] == 1 else {}
    )
    with pytest.raises(InputError, match="named 2 rows that the data set had, and it has 1 now. The others"):
        split(other, Records.rows([0]), known)


MERGED = {
    "zeros": (array([3, 3, 5], pa.int64()), ["3", "03", "5"]),
    "zeros and a missing id": (array([3, 3, None], pa.float64()), ["3", "0003", "5"]),
    "signs": (array([3, 3, 5], pa.int64()), ["3", "+3", "5"]),
    "points": (array([3, 3, 5], pa.float32()), ["3", "3.0", "5"]),
    "spaces": (array([3, 3, 5], pa.int64()), ["3", " 3", "5"]),
    "parts": (array([3, 3, 5], pa.int64()), array([3.0, 3.25, 5.0], pa.float64())),
    "decimals": (array([3, 3, 5], pa.int64()), array([Decimal("3.00"), Decimal("3.25"), 5], pa.decimal128(9, 2))),
    "half precision": (pa.array(np.array([1025, 1025, 5], dtype=np.float16)), ["1025", "1025.25", "5"]),
    "seconds": (
        array([MOMENTS[0].replace(microsecond=0)] * 2 + SECONDS[1:2], pa.timestamp("s")),
        array([SECONDS[0], MOMENTS[0], SECONDS[1]], pa.timestamp("ms")),
    ),
    "times": (
        array([dt.time(3), dt.time(3), None], pa.time32("s")),
        array([dt.time(3), dt.time(3, 0, 0, 5), None], pa.time64("us")),
    ),
    "zones as text": (
        array(SECONDS[:1] * 2 + SECONDS[1:2], pa.timestamp("s", "UTC")),
        [f"{SECONDS[0]}Z", f"{SECONDS[0].isoformat()}Z", "never"],
    ),
}


@pytest.mark.parametrize("case", list(MERGED))
def test_one_id_that_stood_for_two_people_ends_the_run_until_both_are_named(case: str) -> None:
    then, now = (data(ids) for ids in MERGED[case])
    known = split(then, Records.ids("id", [1025] if case == "half precision" else then[:1]["id"]))
    assert numbers(known.forget) == [0, 1]
    with pytest.raises(
        InputError, match=r"1 rows to retain may be of people whom an earlier request named: column id"
    ):
        split(now, Records.rows([2]), known.forgotten.digests)
    assert numbers(split(now, Records.rows([1]), known.forgotten.digests).retained) == [2]
    goes_on = split(now, Records.rows([2]), known.forgotten.digests, allow_unmatched=True)
    assert numbers(goes_on.retained) == [1]


@pytest.mark.parametrize("how", ["ids", "rows"])
@pytest.mark.parametrize(
    ("then", "now"),
    [
        (array([i + 0.35 for i in WHOLE], pa.float64()), array([float(i) for i in WHOLE], pa.float64())),
        (
            array([Decimal(i) / 4 for i in WHOLE], pa.decimal128(9, 2)),
            array([Decimal(i) for i in WHOLE], pa.decimal128(9, 2)),
        ),
    ],
)
def test_numbers_that_were_cut_in_a_column_of_the_same_type_end_the_run(how: str, then: Any, now: Any) -> None:
    first = data(then)
    known = split(first, Records.ids("id", first[1:2]["id"]) if how == "ids" else Records.rows([1])).forgotten.digests
    with pytest.raises(InputError, match="it has 0 now. The column types were .* with fractions"):
        split(data(now), Records.rows([0]), known)
    # That row was taken out of D, and of the others some are as they were.
    assert split(data(then.take([0, 2, 3])), Records.rows([0]), known).lacking == 1


def test_text_that_lost_its_zeros_ends_the_run() -> None:
    known = split(data(["007", "8"]), Records.ids("id", ["007"])).forgotten.digests
    with pytest.raises(InputError, match="it has 0 now"):
        split(data(["7", "8"]), Records.rows([1]), known)


def test_a_key_that_only_fills_the_table_does_not_hide_a_row() -> None:
    turns = [[{"role": "user", "content": f"text {i}"}] for i in range(4)]
    first = Dataset.from_dict({"messages": turns, "n": [0, 1, 2, 3]})
    named = [[{**turn[0], "name": None if i else "x"}] for i, turn in enumerate(turns)]
    wider = Dataset.from_dict({"messages": named, "n": [0, 1, 2, 3]})
    known = split(first, Records.rows([2])).forgotten.digests
    assert numbers(split(wider, Records.rows([0]), known).retained) == [1, 3]


IN_BERLIN = array(AWARE, pa.timestamp("ms", "Europe/Berlin"))


def old_digest(text: str) -> str:
    return hmac.new(KEY, f"id\x1f{text}".encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("was", "ids"),
    [
        (["1", "2"], array(WHOLE, pa.int64())),
        (["1", "2"], array(MISSING, pa.float64())),
        (["1.0", "2.0"], array(WHOLE, pa.int64())),
        (["1.0", "2.0"], array(TEXTS, pa.string())),
        (["1.0", "2.0"], array(MISSING, pa.float64())),
        (["1.100000023841858", "2.0999999046325684"], array([i + 0.1 for i in WHOLE], pa.float32())),
        (["2024-01-02 03:00:00.500000", "2024-01-03 03:00:00.500000"], array(MOMENTS, pa.timestamp("ms"))),
        (["2024-01-02 04:00:00.500000+01:00", "2024-01-03 04:00:00.500000+01:00"], IN_BERLIN),
        (["2024-01-02", "2024-01-03"], array(DAYS, pa.date32())),
    ],
)  # fmt: skip
def test_a_ledger_from_before_types_were_noted_still_works(was: list[str], ids: pa.Array) -> None:
    known = [ForgottenDigests(["id"], False, sorted(map(old_digest, was)))]
    found = split(data(ids), Records.rows([0]), known)
    assert numbers(found.retained) == [3, 4, 5]


def test_an_old_ledger_knows_classes_by_number_and_rows_by_their_old_text() -> None:
    known = [ForgottenDigests(["id"], False, sorted(map(old_digest, ["1", "2"])))]
    labelled = data(WHOLE, ClassLabel(names=list("abcdef")))
    assert numbers(split(labelled, Records.rows([0]), known).retained) == [3, 4, 5]
    rows = [
        hmac.new(KEY, f"id\x1fn\x1d5\x1f{i}.{i}00\x1e1\x1f{i}".encode(), hashlib.sha256).hexdigest() for i in (1, 2)
    ]
    decimals = data(array([Decimal(i) * Decimal("1.1") for i in WHOLE], pa.decimal128(9, 3)))
    known = [ForgottenDigests(["id", "n"], True, sorted(rows))]
    assert numbers(split(decimals, Records.rows([0]), known).retained) == [3, 4, 5]


# Two people are never one id


@pytest.mark.parametrize(
    ("ids", "asked"),
    [
        (array([2**53 + 0.0, 2**53 + 2.0], pa.float64()), [2**53]),
        (array([1.0, 2**53 + 2.0], pa.float64()), [1]),
        (array([2.0**24, 3.0], pa.float32()), [3]),
        (pa.array(np.array([2048, 3], np.float16)), [3]),
    ],
)
def test_numbers_that_cannot_be_told_apart_are_refused(ids: pa.Array, asked: list[int]) -> None:
    with pytest.raises(InputError, match="1 of the ids are .* or more, where neighbours become the same number"):
        split(data(ids), Records.ids("id", asked))
    known = [ForgottenDigests(["id"], False, [old_digest("1")])]
    with pytest.raises(InputError, match="neighbours become the same number"):
        split(data(ids), Records.rows([0]), known)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (array(WHOLE, pa.int64()), ["003"]),
        (array(TEXTS, pa.string()), [3]),
        (array([False, True] * 3, pa.bool_()), [5]),
        (array(WHOLE, pa.int64()), [True]),
        (array(MOMENTS, pa.timestamp("us")), [MOMENTS[3].replace(tzinfo=BERLIN)]),
        (array(MOMENTS, pa.timestamp("us")), [MOMENTS[3].date()]),
        (array([b"3"] * 6, pa.binary()), ["3"]),
    ],
)
def test_records_of_another_data_set_are_never_cast(ids: pa.Array, wanted: list[Any]) -> None:
    with pytest.raises(InputError, match="give them the same types"):
        split(data(ids), Records.like(Dataset(pa.table({"id": wanted}))))


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (array(MISSING, pa.float64()), array([3], pa.int64())),
        (array(MOMENTS, pa.timestamp("ns")), array(MOMENTS[3:4], pa.timestamp("ms"))),
        (array([i + 0.1 for i in WHOLE], pa.float32()), array([3.1], pa.float64())),
    ],
)
def test_records_of_another_data_set_are_the_same_in_types_of_the_same_values(ids: pa.Array, wanted: pa.Array) -> None:
    assert numbers(split(data(ids), Records.like(Dataset(pa.table({"id": wanted})))).forget) == [3]


def test_classes_of_another_data_set_are_named_or_numbered() -> None:
    labelled = data([0, 1, 2], ClassLabel(names=["a", "b", "c"]))
    for wanted, feature in ((["b"], Value("string")), ([1], Value("int64")), ([0], ClassLabel(names=["b", "a"]))):
        other = Dataset.from_dict({"id": wanted}, features=Features({"id": feature}))
        found = split(labelled, Records.like(other))
        assert numbers(found.forget) == [1]
        assert numbers(split(data(["b", "a", "c"]), Records.rows([1]), found.forgotten.digests).retained) == [2]


# Ids of all types can be named

SOME_UUIDS = [uuid.UUID(int=i) for i in range(6)]


@pytest.mark.parametrize(
    ("ids", "in_text", "in_json", "in_python"),
    [
        (array(MOMENTS, pa.timestamp("us")), "2024-01-04T03:00:00.5", '"2024-01-04 03:00:00.500"', MOMENTS[3]),
        (array(AWARE, pa.timestamp("ms", "UTC")), "2024-01-04T04:00:00.5+01:00", '"2024-01-04T03:00:00.5Z"', AWARE[3]),
        (array([dt.time(i, 30) for i in WHOLE], pa.time32("s")), "03:30:00", '"03:30"', dt.time(3, 30)),
        (array(DAYS, pa.date32()), "2024-01-04", '"2024-01-04"', dt.date(2024, 1, 4)),
        (array([Decimal(i) for i in WHOLE], pa.decimal128(9, 2)), "3", "3.0", Decimal(3)),
        (array([b"k%d" % i for i in WHOLE], pa.binary()), "k3", '"k3"', b"k3"),
        (array([b"\xff%d" % i for i in WHOLE], pa.binary()), "\\xff33", '"\\\\xff33"', b"\xff3"),
        (array([u.bytes for u in SOME_UUIDS], pa.binary(16)), str(SOME_UUIDS[3]), f'"{SOME_UUIDS[3]}"', SOME_UUIDS[3]),
        (array([str(u) for u in SOME_UUIDS], pa.string()), str(SOME_UUIDS[3]), f'"{SOME_UUIDS[3]}"', SOME_UUIDS[3]),
        (pa.array(np.arange(6, dtype=np.float16)), "3", "3", 3.0),
        (array(MISSING, pa.float64()), "3", "3", 3),
        (array([False, False, False, True], pa.bool_()), "true", "true", True),
    ],
)
def test_ids_of_every_type_can_be_named(
    ids: pa.Array, in_text: str, in_json: str, in_python: Any, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text(f"{in_text}\n")
    (tmp_path / "ids.jsonl").write_text(f"{in_json}\n")
    requests = [Records.ids_from_file("id", tmp_path / name) for name in ("ids.txt", "ids.jsonl")]
    for request in (*requests, Records.ids("id", [in_python]), Records.where_text("id", in_text)):
        assert numbers(split(data(ids), request).forget) == [3]


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (array(MOMENTS, pa.timestamp("us")), "2024-01-04T03:00:00.5+00:00"),
        (array(AWARE, pa.timestamp("us", "UTC")), "2024-01-04T03:00:00.5"),
        (array(MOMENTS, pa.timestamp("s")), "2024-01-04T03:00:00.5"),
        (array([dt.time(i) for i in WHOLE], pa.time64("ns")), "03:00:00.000000001"),
        (array([Decimal(i) for i in WHOLE], pa.decimal128(9, 2)), "03"),
        (array(MISSING, pa.float64()), "03"),
        (array(MISSING, pa.float64()), "0_3"),
        (array([False, True] * 3, pa.bool_()), "1"),
        (array([b"a"] * 6, pa.binary()), "\\xf"),
    ],
)
def test_what_is_no_value_of_the_type_is_refused(ids: pa.Array, text: str) -> None:
    with pytest.raises(InputError, match="^Value 1 of the request is no .* value, as column 'id' holds.*; correct it"):
        split(data(ids), Records.where_text("id", text))


@pytest.mark.parametrize("text", ["0.10000000000000000001", "2.00000000000000000001"])
def test_a_number_is_not_rounded(text: str) -> None:
    with pytest.raises(InputError, match="does not fit the type double"):
        split(data([0.1, 2.0]), Records.where_text("id", text))


def test_ids_of_several_types_in_one_column_can_be_named(tmp_path: Path) -> None:
    ids = ['"a"', "7", "null", '"b-7"']
    lines = [f'{{"id": {i}, "n": {n}, "text": "t"}}\n' for n, i in enumerate(ids)]
    (tmp_path / "d.jsonl").write_text("".join(lines))
    rows = load_data(str(tmp_path / "d.jsonl"))[0]["train"]
    (tmp_path / "ids.jsonl").write_text('"a"\n7\n')
    for request in (Records.ids_from_file("id", tmp_path / "ids.jsonl"), Records.ids("id", ["a", 7])):
        found = split(rows, request)
        assert numbers(found.forget) == [0, 1]
        again = split(data(["x", "7", "a", "y"]), Records.rows([0]), found.forgotten.digests)
        assert numbers(again.retained) == [3]


def test_a_type_that_no_text_names_is_told_a_way_that_works() -> None:
    durations = data(array([dt.timedelta(i) for i in WHOLE], pa.duration("s")))
    with pytest.raises(InputError, match="which text cannot name; name the rows by their position"):
        split(durations, Records.where_text("id", "3 days"))
    assert numbers(split(durations, Records.ids("id", [dt.timedelta(3)])).forget) == [3]


@pytest.mark.parametrize("place", ["file", "folder"])
def test_types_of_parquet_that_datasets_does_not_know(tmp_path: Path, place: str) -> None:
    people = [uuid.UUID(int=2**100 + 7919 * i) for i in WHOLE]
    inner = pa.struct([("price", pa.decimal32(7, 2))])
    table = pa.table(
        {
            "id": array([one.bytes for one in people], pa.uuid()),
            "account": array([Decimal(i) / 4 for i in WHOLE], pa.decimal64(12, 4)),
            "more": pa.array([{"price": Decimal(i)} for i in WHOLE], inner),
            "text": [f"text {i}" for i in WHOLE],
        }
    )
    path = tmp_path / "d" / "train.parquet"
    path.parent.mkdir()
    pq.write_table(table, path)
    data = load_data(str(path if place == "file" else path.parent))[0]["train"]
    assert data["text"][:] == [f"text {i}" for i in WHOLE]
    (tmp_path / "ids.txt").write_text(f"{people[1]}\n{str(people[2]).upper()}\n")
    asked = Records.ids_from_file("id", tmp_path / "ids.txt")
    first = split(data, asked)
    assert first.forget["text"][:] == ["text 1", "text 2"]
    accounts = split(data, Records.ids("account", [Decimal("0.75"), Decimal("1.25")]), first.forgotten.digests)
    assert (accounts.forget["text"][:], accounts.retained["text"][:]) == (["text 3", "text 5"], ["text 0", "text 4"])
