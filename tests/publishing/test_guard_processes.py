"""The guard in several processes finds what it finds in one, and what goes wrong in them is told."""

import datetime
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_unlearn import InputError, Records
from hf_unlearn.data import arrow_tables
from hf_unlearn.data.processes import in_order, worker_processes
from hf_unlearn.publishing.guard import Guard, Returned
from hf_unlearn.publishing.ledger import Ledger

from ..data.test_ids_fuzz import KEY
from .test_guard import forget

LETTER = "dear sirs I write to you about the parcel that never came to my house in the old harbour of the town"
SEVERAL = """
import time
from itertools import repeat
from hf_unlearn.data.processes import in_order, worker_processes
if __name__ == "__main__":
    with worker_processes(2, print, ("begun",)) as pool:
        for _ in in_order(pool, time.sleep, repeat(0.1), 4):
            print("one", flush=True)
"""


def people(rows: int, **columns: Any) -> Dataset:
    """Rows with ids of five types; columns replace those that they name."""
    numbers = range(rows)
    kinds = {"number": Value("int64"), "day": Value("date32"), "kind": ClassLabel(names=["a", "b", "c"])}
    data = {
        "name": [f"Customer-{i}" for i in numbers],
        "number": list(numbers),
        "share": [i + 0.5 for i in numbers],
        "day": [datetime.date(2020, 1, 1) + datetime.timedelta(i) for i in numbers],
        "kind": [int(i % 50 == 7) for i in numbers],
        "text": [f"{i * 7919} is a note on something that nobody asked for" for i in numbers],
    }
    types = {"name": Value("string"), "share": Value("float64"), "text": Value("string"), **kinds}
    made = Dataset.from_dict({**data, **columns}, features=Features({name: types[name] for name in data}))
    return made


@pytest.fixture
def known() -> tuple[Dataset, Ledger]:
    """The old data, and the ledger of one run that forgot rows by ids of each type and by their content."""
    texts = [f"{i * 104729} is a line of its own with other words in it" for i in range(60)]
    old = people(60, text=[LETTER, *texts[1:]])
    request = (
        Records.ids("name", ["Customer-0"]) | Records.ids("number", [3, 4]) | Records.ids("day", [old[5]["day"]])
        | Records.where("share", 6.5) | Records.where("kind", "b") | Records.rows([20])
    )  # fmt: skip
    return old, forget(old, request)


def assert_same(one: dict[str, Returned], other: dict[str, Returned]) -> None:
    assert list(one) == list(other)
    for name, found in one.items():
        for mask in ("named", "copies", "near_copies"):
            np.testing.assert_array_equal(getattr(found, mask), getattr(other[name], mask))


def test_two_processes_find_what_one_finds(known: tuple[Dataset, Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    old, ledger = known
    # Many batches, which end at other times than they began.
    monkeypatch.setattr(arrow_tables, "BATCH_ROWS", 7)
    texts = people(80)["text"][:]
    texts[40:43] = [LETTER.upper(), LETTER.replace("parcel", "packet"), f"he wrote: {LETTER} and so on"]
    new = people(80, text=texts, name=[*people(79)["name"][:], "CUSTOMER-0 "])
    data = {"train": new, "test": new.select(range(30, 60)), "same": old.select([20, 21, 7, 0])}
    guard = Guard(ledger, KEY)
    one = guard.find(data, old)
    assert_same(one, guard.find(data, old, processes=2))
    train, same = one["train"], one["same"]
    assert set(np.flatnonzero(train.named)) >= {0, 3, 4, 5, 7, 57, 79}
    assert np.flatnonzero(train.copies).tolist() == [40]
    assert np.flatnonzero(train.near_copies).tolist() == [41, 42]
    assert same.named.tolist() == [True, False, True, True]

    # Both refuse what they cannot tell, in the same words.
    large = {"train": new.remove_columns("number").add_column("number", np.arange(80) + 2.0**53)}
    with pytest.raises(InputError) as here:
        guard.find(large, old)
    with pytest.raises(InputError) as there:
        guard.find(large, old, processes=2)
    assert str(here.value) == str(there.value)
    assert "neighbours become the same number" in str(here.value)


def test_results_come_in_order_and_few_parts_are_read_ahead() -> None:
    read, given = 0, 0

    def parts() -> Iterator[float]:
        nonlocal read
        for number in range(20):
            read += 1
            assert read - given <= 4
            yield number

    def slow_at_first(number: float) -> float:
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number

    with ThreadPoolExecutor(3) as threads:
        for result in in_order(threads, slow_at_first, parts(), 4):
            assert result == given
            given += 1
    assert given == 20


def test_a_process_that_dies_is_told() -> None:
    def ended() -> None:
        with worker_processes(1, gc.collect, ()) as pool:
            list(in_order(pool, os._exit, [3, 3], 2))

    with pytest.raises(InputError, match="A process that helped ended before its work was done"):
        ended()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_others_do_not_see_what_a_process_is_given() -> None:
    secret = "0123456789abcdef" * 2
    with worker_processes(1, len, (secret,)) as pool:
        place = Path(f"/proc/{pool.submit(os.getpid).result()}")
        shown = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
    assert b"spawn" in shown
    assert secret.encode() not in shown


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no groups of processes there")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_end_with_the_one_that_started_them(sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "several.py").write_text(SEVERAL)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "several.py")], stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline() != "one\n":
            pass
        # A terminal sends Ctrl-C to all of them.
        (os.killpg if sent == signal.SIGINT else os.kill)(parent.pid, sent)
        _, said = parent.communicate(timeout=60)
    assert said.count("Traceback") == (sent == signal.SIGINT), said
    if sent == signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(parent.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("a process is still there")
