"""Attempts on the same records: noted once each, by nobody lost, counted, and private."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from hf_unlearn import InputError, Records, split_retained
from hf_unlearn.data.request.attempts import Attempt, AttemptCount, attempts_path, check_attempts, note_attempt

from ..conftest import secrets_rows

KEY = bytes(range(32))


def attempt(run: str, records: str = "s", method: str = "base", seed: int = 0, margin: float = 0.1) -> Attempt:
    return Attempt(run, records, method, seed, margin)


def test_each_run_counts_once_and_only_for_its_own_records(tmp_path: Path) -> None:
    path = attempts_path(tmp_path / "owner.key")
    noted = [
        attempt("a"),
        attempt("b", records="other"),
        attempt("c", seed=1),
        attempt("d"),
        attempt("a"),
        attempt("e", margin=0.2),
        attempt("f", method="npo"),
    ]
    counts = [note_attempt(path, one) for one in noted]
    assert [count.number for count in counts] == [1, 1, 2, 3, 1, 4, 5]
    assert [count.others for count in counts] == [0, 0, 1, 1, 0, 3, 4]
    assert len(path.read_text().splitlines()) == 6
    assert path.stat().st_mode & 0o777 == 0o600


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    path = attempts_path(tmp_path / "owner.key")
    script = (
        "import sys; from pathlib import Path; from hf_unlearn.data.request.attempts import Attempt, note_attempt\n"
        "for i in range(40): note_attempt(Path(sys.argv[1]), Attempt(sys.argv[2] + str(i), 's', 'base', i, 0.1))\n"
    )
    two = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("a", "b")]
    assert [one.wait() for one in two] == [0, 0]
    runs = [json.loads(line)["run"] for line in path.read_text().splitlines()]
    assert sorted(runs) == sorted(f"{name}{i}" for name in ("a", "b") for i in range(40))
    assert note_attempt(path, attempt("last")) == AttemptCount(81, 80 - 2)


@pytest.mark.parametrize("text", ["x\n", "null\n", "[1]\n", '{"run": "a"}\n', '{"run":', "\n", "\xff\n", "[" * 10_000])
def test_a_damaged_file_is_told_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = attempts_path(tmp_path / "owner.key")
    note_attempt(path, attempt("a"))
    with path.open("ab") as file:
        file.write(text.encode("latin-1"))
    damaged = path.read_bytes()
    for use in (lambda: check_attempts(path), lambda: note_attempt(path, attempt("b"))):
        with pytest.raises(InputError, match=r"^Line 2 of .*owner\.key\.attempts, which counts the attempts"):
            use()
    assert path.read_bytes() == damaged


def test_a_file_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path) -> None:
    attempts_path(tmp_path / "owner.key").mkdir()
    (tmp_path / "file").write_text("")
    for path in (attempts_path(tmp_path / "owner.key"), attempts_path(tmp_path / "file" / "owner.key")):
        with pytest.raises(InputError, match="Attempts are noted in .*--digest_key_file"):
            check_attempts(path)


def test_the_same_records_are_recognised_however_they_are_named() -> None:
    data = Dataset.from_list(secrets_rows())
    named = [
        Records.rows(range(10)),
        Records.ids("id", [f"p-{i:03d}" for i in range(10)]),
        Records.like(data.select(range(10))),
    ]
    splits = [split_retained(data, one, digest_key=KEY) for one in named]
    streamed = split_retained(data.to_iterable_dataset(), named[1], digest_key=KEY)
    found = {one.forgotten.records for one in (*splits, streamed) if one.forgotten}
    assert len(found) == 1
    for other, key in ((Records.rows(range(9)), KEY), (Records.rows(range(10)), b"k" * 32)):
        differs = split_retained(data, other, digest_key=key).forgotten
        assert differs is not None
        assert differs.records not in found
