"""D, requests and ledger of any types: what was forgotten is never in L, and what was not asked for is never in S.

A case draws people with ids, and two versions of D with one row for each person and message, whose column of ids has
another type or is another kind of file. What is in L and S is read back from the text of the rows, which says whose
they are; nothing of the package decides what is right.
"""

import csv
import datetime as dt
import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.loading import load_data
from hf_unlearn.data.request.digest_selector import recognised

KEY = b"0123456789abcdef"
DAY = dt.datetime(2024, 1, 1)
ZONES = ["UTC", "Europe/Berlin", "Asia/Tokyo"]


class People:
    """Ids of people as their values are, and how one of them is written in a column of a type."""

    def __init__(self, rng: random.Random):
        self.kind = rng.choice(["whole", "large", "padded", "words", "moments", "fractions", "bytes"])
        numbers = rng.sample(range(200), 8)
        self.values: list[Any] = {
            "whole": lambda: numbers,
            "large": lambda: [2**53 + number for number in numbers],
            "padded": lambda: [f"{'0' * rng.randint(0, 2)}{number}" for number in numbers[:6]] + ["03", "3"],
            "words": lambda: [rng.choice("ab") + str(number) for number in numbers],
            "moments": lambda: [DAY + dt.timedelta(hours=number, milliseconds=number % 3) for number in numbers],
            "fractions": lambda: [Decimal(number) / 4 + Decimal("0.1") for number in numbers],
            "bytes": lambda: [bytes([number, 255 if number % 2 else 65]) for number in numbers],
        }[self.kind]()
        # Two people may not have one id.
        self.values = list(dict.fromkeys(self.values))

    def types(self) -> list[pa.DataType]:
        """The types that hold all of these ids, whether each exactly or not."""
        return {
            "whole": [
                pa.int16(), pa.uint64(), pa.float64(), pa.float32(), pa.float16(), pa.string(), pa.decimal128(9, 3),
            ],
            "large": [pa.int64(), pa.float64(), pa.string(), pa.decimal128(20, 0)],
            "padded": [pa.string(), pa.large_string(), pa.int64(), pa.float64()],
            "words": [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())],
            "moments": [
                # Parquet has no whole seconds: a column that was cut to them looks like any other of milliseconds.
                *(pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, *ZONES)),
                pa.date32(), pa.string(), pa.time64("us"),
            ],
            "fractions": [
                pa.float64(), pa.float32(), pa.float16(), pa.decimal128(9, 2), pa.decimal128(20, 9), pa.string(),
                pa.int32(),
            ],
            "bytes": [pa.binary(), pa.large_binary(), pa.binary(2), pa.string()],
        }[self.kind]  # fmt: skip


def written(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of a type has it, rounded and cut off as other programs would."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return (
            value.hex()
            if isinstance(value, bytes)
            else value.isoformat()
            if isinstance(value, dt.date)
            else str(value)
        )
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_floating(kind):
        return kind.to_pandas_dtype()(float(value)).item()
    if pa.types.is_decimal(kind):
        return Decimal(value).quantize(Decimal(1).scaleb(-kind.scale))
    if pa.types.is_date(kind):
        return value.date()
    if pa.types.is_time(kind):
        return value.time()
    if pa.types.is_timestamp(kind):
        return value.replace(tzinfo=dt.UTC) if kind.tz else value
    return value.encode() if isinstance(value, str) else value


class Version:
    """One version of D: who has rows in it, and how their ids are stored."""

    def __init__(self, rng: random.Random, people: People, folder: Path, name: str):
        self.kind = rng.choice(people.types())
        self.present = [who for who in range(len(people.values)) if rng.random() < 0.93]
        rows = [(who, n) for who in self.present for n in range(rng.choice([1, 1, 2]))]
        rng.shuffle(rows)
        self.ids = [written(people.values[who], self.kind) for who, _ in rows]
        texts = [f"person {who} message {n}" for who, n in rows]
        if rng.random() < 0.5:
            self.ids, texts = [None, *self.ids], ["nobody", *texts]
        file = rng.choice(["parquet", "parquet", "csv", "jsonl"])
        plain = all(value is None or isinstance(value, int | float | str | Decimal) for value in self.ids)
        # Written as text, a number of single precision is another number.
        rounded = people.kind == "fractions" and self.kind in (pa.float32(), pa.float16())
        self.file = file if plain and not rounded else "parquet"
        self.path = folder / f"{name}.{self.file}"
        if self.file == "parquet":
            flat = self.kind.value_type if pa.types.is_dictionary(self.kind) else self.kind
            pq.write_table(pa.table({"id": pa.array(self.ids, flat).cast(self.kind), "text": texts}), self.path)
        elif self.file == "csv":
            with self.path.open("w", newline="") as opened:
                csv.writer(opened).writerows([("id", "text"), *zip(self.ids, texts, strict=True)])
        else:
            ids = [str(i) if isinstance(i, Decimal) else json.dumps(i) for i in self.ids]
            lines = [f'{{"id": {i}, "text": {json.dumps(text)}}}\n' for i, text in zip(ids, texts, strict=True)]
            self.path.write_text("".join(lines))

    def people_named(self, people: People, asked: list[int]) -> set[str]:
        """The people who have the id of one of those that were asked for, as this version stores it."""
        wanted = {repr(written(people.values[who], self.kind)) for who in asked}
        return {str(w) for w in range(len(people.values)) if repr(written(people.values[w], self.kind)) in wanted}


def whose(rows: Any) -> set[str]:
    return {found[1] for row in rows if (found := re.match(r"person (\d+) ", row["text"]))}


def said(rows: Any) -> set[str]:
    return {row["text"] for row in rows if row["text"] != "nobody"}


def run(version: Version, asked: list[Any], rng: random.Random, folder: Path, before: Any = ()) -> tuple[Any, bool]:
    """Split a version of D by a request, in a file or in Python, and say whether it names ids."""
    data = load_data(str(version.path))[0]["train"]
    way = rng.choice([".txt", ".csv", ".jsonl", "rows", "records"])
    if way == "rows":
        request = Records.rows([i for i, value in enumerate(version.ids) if value in asked])
    elif way == "records":
        request = Records.like(data.select([i for i, value in enumerate(version.ids) if value in asked]))
    else:
        path = folder / f"ids{way}"
        texts = [f"\\x{i.hex()}" if isinstance(i, bytes) else str(i) for i in asked]
        if way == ".jsonl":
            plain = all(isinstance(i, int | float) for i in asked) and version.file != "csv"
            texts = [json.dumps(i if plain else t) for i, t in zip(asked, texts, strict=True)]
        path.write_text("".join(text + "\n" for text in texts))
        request = Records.ids_from_file("id", path)
    known = recognised(KEY, before)
    parts = split_retained(
        data, request, near_duplicates=None, duplicates=None, digest_key=KEY, forgotten_before=known
    )
    return parts, way not in ("rows", "records")


def check(seed: int, folder: Path) -> str:
    """One case; returns what came of it."""
    rng = random.Random(seed)
    people = People(rng)
    folder.mkdir()
    first, second = (Version(rng, people, folder, name) for name in ("first", "second"))
    if len(first.present) < 5 or len(second.present) < 5:
        return "too small"
    asked = rng.sample(first.present, rng.randint(1, 3))
    try:
        one, by_id = run(first, [written(people.values[who], first.kind) for who in asked], rng, folder)
    except InputError:
        return "first refused"
    gone = whose(one.forget)
    assert gone <= first.people_named(people, asked), (seed, "not asked for")
    assert not whose(one.retained) & {str(who) for who in asked}, (seed, "asked for, and retained")
    then = rng.sample([who for who in second.present if str(who) not in gone], 1)
    try:
        ids = [written(people.values[who], second.kind) for who in then]
        two, _ = run(second, ids, rng, folder, one.forgotten.digests)
    except InputError:
        return "second refused"
    # Rows that were named by their content are known by it; who was named by id is, in all that they said.
    back = whose(two.retained) & gone if by_id else said(two.retained) & said(one.forget)
    assert not back, (seed, "forgotten, and retained again")
    assert whose(two.forget) <= second.people_named(people, then), (seed, "not asked for")
    return "split"


QUICK, ALL = range(60), range(60, 2160)


def test_what_was_forgotten_is_never_retained_and_nobody_else_is_forgotten(tmp_path: Path) -> None:
    came = [check(seed, tmp_path / str(seed)) for seed in QUICK]
    assert came.count("split") > len(came) // 5, "most cases are refused, so that little is tried"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_so_it_is_in_many_cases(part: int, tmp_path: Path) -> None:
    for seed in ALL[part::20]:
        check(seed, tmp_path / str(seed))
