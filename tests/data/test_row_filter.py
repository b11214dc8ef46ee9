"""The filter of training rows: it forgets none of them, is rarely wrong of others, and tells nobody else anything."""

import datetime as dt
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_unlearn import InputError
from hf_unlearn.data.loading import load_data
from hf_unlearn.data.request import row_filter as module
from hf_unlearn.data.request.row_filter import (
    FILTER_FILE,
    OpenFilter,
    RowFilter,
    forms_in,
    load_row_filter,
    row_filter,
    row_filter_of,
)
from hf_unlearn.files import save_json

from .test_ids_fuzz import People, Version

KEY, OTHER_KEY = b"0123456789abcdef", b"fedcba9876543210"


def opened(data: Dataset) -> OpenFilter:
    found = row_filter(data, KEY).open(KEY)
    assert found is not None
    return found


def known(data: Dataset, column: str, asked: list[str]) -> list[bool] | None:
    """Which ids the filter has; None where it does not have the column."""
    filter_ = opened(data)
    family = filter_.family(column)
    if family is None:
        return None
    return [bool(filter_.holds(column, forms).any()) for forms in (forms_in(family, one) or [] for one in asked)]


def table(**columns: Any) -> Dataset:
    return Dataset(pa.table(columns))


def as_people_write(value: Any) -> str:
    return value.isoformat() if isinstance(value, dt.date) else str(value)


@pytest.mark.parametrize("part", range(8))
def test_no_id_of_a_training_row_is_missed_under_any_type_of_column(part: int, tmp_path: Path) -> None:
    told = 0
    for seed in range(part, 240, 8):
        rng = random.Random(seed)
        people = People(rng)
        (tmp_path / str(seed)).mkdir()
        version = Version(rng, people, tmp_path / str(seed), "data")
        try:
            data = load_data(str(version.path))[0]["train"]
        except InputError:
            continue
        ids = [value for value in data["id"] if value is not None]
        found = known(data, "id", [as_people_write(value) for value in ids])
        told += found is not None
        assert found is None or all(found), seed
        # Texts are entries too.
        assert all(known(data, "text", data["text"]) or [False]), seed
    assert told > 10, "most columns have to be answered for"


@pytest.mark.parametrize(
    ("column", "asked", "expected"),
    [
        (pa.array([1, 2, 3]), ["2", "002", "2.0", "4", "two"], [True, True, True, False, False]),
        (pa.array([1.0, None, 3.0]), ["1", "3.0", "2", "nan"], [True, True, False, False]),
        (pa.array(["1", "02", None]), ["1", "02", "2", "01"], [True, True, False, False]),
        (pa.array([2**60]), [str(2**60), str(2**60 + 1)], [True, False]),
        (
            pa.array([dt.datetime(2024, 1, 2, 3)], pa.timestamp("us", "UTC")),
            ["2024-01-02T04:00:00+01:00", "2024-01-02 03:00:00", "2024-01-02"],
            [True, True, False],
        ),
        (pa.array([dt.date(2024, 1, 2)]), ["2024-01-02", "2024-01-03"], [True, False]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "c"], [True, False]),
    ],
)
def test_ids_are_found_as_people_write_them(column: Any, asked: list[str], expected: list[bool]) -> None:
    assert known(table(id=column), "id", asked) == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0.5, 1.0]),
        pa.array([float(2**53), 1.0]),
        pa.array([[1, 2]]),
        pa.array([{"a": 1}]),
        pa.array([b"\xff"]),
        pa.array([None]),
    ],
)
def test_columns_without_ids_are_not_answered_for(column: Any) -> None:
    assert known(table(id=column, text=["x"] * len(column)), "id", ["1"]) is None
    assert known(table(id=column, text=["x"] * len(column)), "text", ["x"]) == [True]


def test_classes_go_by_their_names() -> None:
    data = Dataset.from_dict(
        {"label": [0, 1, 0]}, features=Features({"label": ClassLabel(names=["spam", "ham", "x"])})
    )
    assert known(data, "label", ["spam", "ham", "x", "0"]) == [True, True, False, False]


def test_chosen_rows_have_the_filter_of_the_same_rows_alone() -> None:
    data = table(id=[f"c-{i}" for i in range(1000)], n=list(range(1000)))
    kept = [i for i in range(1000) if i % 7]
    for part in (data.select(kept), data.select(kept).shuffle(seed=1), data.filter(lambda row: row["n"] % 7 != 0)):
        asked = known(part, "id", [f"c-{i}" for i in range(1000)])
        assert asked == [i % 7 != 0 for i in range(1000)]


@pytest.mark.parametrize("rows", [1, 300, 20_000])
def test_false_positives_are_as_rare_as_the_file_says(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # So rare as usual, nobody would see one.
    monkeypatch.setattr(module, "SPARE_BITS", 5)
    data = table(id=[f"c-{i}" for i in range(rows)])
    made, asked = row_filter(data, KEY), 200_000
    assert made.false_positives == made.entries / 256**made.entry_bytes <= 2**-5
    found = int(opened(data).holds("id", [f"other-{i}" for i in range(asked)]).sum())
    expected = asked * made.false_positives
    assert abs(found - expected) <= 5 * math.sqrt(expected) + 5


def test_the_usual_size_and_bound() -> None:
    made = row_filter(table(id=[f"c-{i}" for i in range(50_000)]), KEY)
    assert (made.rows, made.entries, made.entry_bytes) == (50_000, 50_001, 5)
    assert made.false_positives == 50_001 / 2**40 <= 2**-20


def test_another_key_opens_nothing_and_the_file_tells_nothing(tmp_path: Path) -> None:
    data = table(customer=["Jane Doe", "John Roe"], diagnosis=["flu", "gout"])
    made = row_filter(data, KEY)
    assert made.open(OTHER_KEY) is None
    save_json(made, tmp_path / FILTER_FILE)
    text = (tmp_path / FILTER_FILE).read_text()
    assert not [word for word in ("Jane", "Roe", "customer", "diagnosis", "flu") if word in text]
    assert load_row_filter(tmp_path / FILTER_FILE) == made == row_filter(data, KEY)
    # Not even how many of the rows two models share: the same values are other entries.
    more = table(customer=["Jane Doe", "John Roe", "x"], diagnosis=["flu", "gout", "x"])
    one, two = (opened(part).entries for part in (data, more))
    assert not len(np.intersect1d(one, two))


def test_a_damaged_filter_is_refused(tmp_path: Path) -> None:
    made = row_filter(table(id=["a", "b"]), KEY)
    for damaged in (
        replace(made, digests=made.digests[4:]),
        replace(made, digests="?" * 8),
        replace(made, entry_bytes=9),
        replace(made, entries=10**9),
    ):
        with pytest.raises(InputError, match="is damaged"):
            damaged.open(KEY)
    (tmp_path / FILTER_FILE).write_text(json.dumps({"schema_version": 1, "rows": 2}))
    with pytest.raises(InputError, match="no readable filter of training rows"):
        load_row_filter(tmp_path / FILTER_FILE)


def test_a_stream_has_no_filter() -> None:
    assert row_filter_of(table(id=["a"]).to_iterable_dataset(), KEY) is None
    assert opened(table(tokens=[[1, 2], [3]])).family("tokens") is None
    empty = Dataset.from_dict({"id": []}, features=Features({"id": Value("string")}))
    assert isinstance(row_filter(empty, KEY), RowFilter)
