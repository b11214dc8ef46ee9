"""The ledger: its chain, and deletions one after another."""

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_unlearn import InputError
from hf_unlearn.publishing.ledger import (
    LEDGER_FILE,
    Erased,
    Event,
    ForgottenDigests,
    Ledger,
    LedgerData,
    LedgerModel,
    Unlearned,
    digest_of,
    line_of,
    load_ledger,
)

# The file and its chain


def a_run(number: int) -> Unlearned:
    return Unlearned(
        time=f"2026-11-2{number}T10:00:00+00:00",
        method="base",
        road="exact",
        verdict="exact",
        rows=10 + number,
        ids=9,
        ids_found=8,
        forgotten=[ForgottenDigests(["id"], False, [digest_of(f"{number}")])],
        requests=[digest_of(f"request {number}")],
        dataset=LedgerData("owner/secrets", None, "train", "abc", "def"),
        parent=LedgerModel("owner/original", "abc", {"model.safetensors": digest_of("original")}),
        weights={"model.safetensors": digest_of(f"weights {number}")},
        report=digest_of(f"report {number}"),
        key_check=digest_of("check"),
        software="0.1.0",
        # Lines from before say nothing of these.
        margin=0.1 if number > 1 else None,
        attack="loss" if number > 1 else None,
        attacks=["loss", "zlib"] if number > 1 else None,
        files={"config.json": digest_of("config")} if number > 2 else None,
    )


def a_ledger() -> Ledger:
    erased = Erased("2026-11-23T11:00:00+00:00", "owner/x", digest_of("erasure"), {"objects": 3})
    return Ledger().with_event(a_run(1)).with_event(a_run(2)).with_event(erased).with_event(a_run(3))


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_ledger(tmp_path) is None
    ledger = a_ledger()
    ledger.save(tmp_path)
    assert load_ledger(tmp_path) == ledger
    lines = (tmp_path / LEDGER_FILE).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["unlearned", "unlearned", "erased", "unlearned"]
    assert [json.loads(line)["previous"] for line in lines] == [None, *map(digest_of, lines[:-1])]
    assert all(list(json.loads(line)) == sorted(json.loads(line)) for line in lines)
    assert ledger.last_line == digest_of(lines[-1])
    assert [run.rows for run in ledger.runs] == [11, 12, 13]


def changed(value: Any) -> list[Any]:
    """A value with one thing in it changed, in all ways."""
    if isinstance(value, dict):
        return [{**value, name: new} for name, item in value.items() for new in changed(item)] + [
            {name: item for name, item in value.items() if name != gone} for gone in value
        ]
    if isinstance(value, list):
        return [[*value[:i], new, *value[i + 1 :]] for i in range(len(value)) for new in changed(value[i])] + [
            [] if value else ["x"]
        ]
    if isinstance(value, bool):
        return [not value, int(value)]
    if isinstance(value, int):
        return [value + 1, str(value), None]
    return ["0" * 64 if value != "0" * 64 else "1" * 64, 7] if value is not None else ["x"]


def test_each_field_of_each_line_but_the_last_is_under_the_chain() -> None:
    ledger = a_ledger()
    lines = [line_of(event) for event in ledger.events]
    for number in range(len(lines) - 1):
        variants = changed(json.loads(lines[number]))
        assert len(variants) > 10
        for variant in variants:
            line = json.dumps(variant, sort_keys=True, separators=(",", ":"))
            text = "\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n"
            with pytest.raises(InputError, match=r"Line [1-4] of unlearning_ledger.jsonl here was changed"):
                Ledger.read(text, "here")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[3], lines[2]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:-1], lines[-1][:-5]],
        lambda lines: [lines[0], "", *lines[1:]],
        lambda lines: [*lines[:-1], lines[-1].replace(":", ": ")],
        lambda lines: [lines[0] + "\r", *lines[1:]],
        lambda lines: [*lines, "[" * 100_000],
        lambda lines: [*lines, "null"],
        lambda lines: [],
    ],
)
def test_lines_are_dropped_moved_repeated_or_cut(change: Any) -> None:
    lines = change([line_of(event) for event in a_ledger().events])
    with pytest.raises(InputError, match=r"was changed, or lines before it are missing|is empty"):
        Ledger.read("".join(f"{line}\n" for line in lines), "here")


def test_a_ledger_without_its_last_line_end_or_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Line 4"):
        Ledger.read(a_ledger().text[:-1], "here")
    (tmp_path / LEDGER_FILE).write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="is not a ledger of this package"):
        load_ledger(tmp_path)


TEXT = st.text(max_size=20)
DIGEST = st.binary(max_size=4).map(digest_of)
EVENT: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Unlearned,
        time=TEXT, method=TEXT, road=TEXT, verdict=TEXT,
        rows=st.integers(), ids=st.integers(), ids_found=st.integers(),
        forgotten=st.lists(st.builds(ForgottenDigests, st.lists(TEXT), st.booleans(), st.lists(DIGEST)), max_size=3),
        requests=st.lists(DIGEST, max_size=3), dataset=st.builds(LedgerData, *([st.none() | TEXT] * 5)),
        parent=st.none() | st.builds(LedgerModel, TEXT, st.none() | TEXT, st.dictionaries(TEXT, DIGEST)),
        weights=st.dictionaries(TEXT, DIGEST, max_size=2), report=DIGEST, key_check=DIGEST, software=TEXT,
    ),
    st.builds(Erased, TEXT, TEXT, DIGEST, st.dictionaries(TEXT, st.integers(), max_size=2)),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=4))
def test_any_ledger_is_read_as_it_was_written(events: list[Event]) -> None:
    ledger = Ledger()
    for event in events:
        ledger = ledger.with_event(event)
    assert Ledger.read(ledger.text, "here") == ledger
    assert [replace(event, previous=None) for event in ledger.events] == events
    cut = Ledger(ledger.events[1:])
    if cut.events:
        with pytest.raises(InputError):
            Ledger.read(cut.text, "here")


# Whoever lacks the owner's key

KEY = bytes(range(32))


def sealed_ledger() -> Ledger:
    ledger = Ledger()
    for event in a_ledger().events:
        ledger = ledger.with_event(event, KEY)
    return ledger


def anew(events: Iterable[Event]) -> Ledger:
    """A chain that holds, made by somebody without the key."""
    ledger = Ledger()
    for event in events:
        ledger = ledger.with_event(event)
    return Ledger.read(ledger.text, "forged")


FORGED: dict[str, Callable[[list[Any]], list[Any]]] = {
    "the first line is gone": lambda e: e[1:],
    "a line in the middle is gone": lambda e: [e[0], *e[2:]],
    "lines change places": lambda e: [e[1], e[0], *e[2:]],
    "a line stands twice": lambda e: [e[0], *e],
    "what was erased is gone": lambda e: [e[0], e[1], e[3]],
    "what was erased is another": lambda e: [*e[:2], replace(e[2], counts={"objects": 4}), e[3]],
    "a line of another ledger": lambda e: [e[0], replace(a_run(4)).sealed(bytes(32)), *e[1:]],
    "a line without a seal": lambda e: [*e, a_run(4)],
    "the seal of another line": lambda e: [*e, replace(a_run(4), seal=e[-1].seal)],
    "the first seal is gone": lambda e: [replace(e[0], seal=None), *e[1:]],
    "the last seal is gone": lambda e: [*e[:-1], replace(e[-1], seal=None)],
    **{
        f"another {name}": (lambda e, name=name, value=value: [*e[:-1], replace(e[-1], **{name: value})])  # type: ignore[misc]
        for name, value in {
            "verdict": "not_forgotten", "rows": 1, "ids": 1, "ids_found": 1, "method": "retrain", "road": "dial",
            "time": "2027-01-01T00:00:00+00:00", "forgotten": [], "requests": [], "parent": None, "weights": {},
            "report": digest_of("x"), "software": "9", "margin": 0.2,
            "dataset": LedgerData(None, None, None, None, None),
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_chain_written_anew_lacks_the_seals(kind: str) -> None:
    forged = anew(FORGED[kind](list(sealed_ledger().events)))
    with pytest.raises(InputError, match="was not written with the owner's key: its seal is missing or wrong"):
        forged.check_seals(KEY)


def test_seals_come_with_the_next_run_and_old_lines_stay_as_they_are() -> None:
    sealed_ledger().check_seals(KEY)
    assert sealed_ledger().unsealed == 0
    old = a_ledger()
    old.check_seals(KEY)
    assert old.unsealed == 3
    assert '"seal"' not in old.text
    longer = old.with_event(a_run(4), KEY)
    assert longer.text.startswith(old.text)
    longer.check_seals(KEY)
    assert longer.unsealed == 3
    # The seal holds what came before, too.
    with pytest.raises(InputError, match="Line 5"):
        anew([replace(old.events[0], rows=1), *longer.events[1:]]).check_seals(KEY)


@pytest.mark.slow
def test_ten_thousand_lines_are_sealed_and_checked() -> None:
    events, previous = [], None
    for number in range(10_000):
        event = replace(a_run(1), rows=number, previous=previous).sealed(KEY)
        events.append(event)
        previous = digest_of(line_of(event))
    ledger = Ledger(tuple(events))
    Ledger.read(ledger.text, "here").check_seals(KEY)
