"""Shards that train at once, each in its process, are the bits of those that train one after the other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_unlearn import InputError, jobs
from hf_unlearn.cli import main
from hf_unlearn.sharding.processes import run_apart

from ..conftest import write_rows
from ..training.test_processes import LAUNCH, launched
from .conftest import CLASSIFIER, OWNERS, killed, question_rows, same_files, shards_of, ticket_rows, words_of

Train = Callable[..., Path]

SECRET = "what a record says"


def note(folder: Path, number: int) -> None:
    (folder / str(number)).write_text(f"{os.getpid()} {torch.get_num_threads()} {number}")


def refuse(folder: Path, number: int) -> None:
    raise InputError(f"{number} is not possible.") if number else ValueError(SECRET)


def die(folder: Path, number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_ever(folder: Path, number: int) -> None:
    note(folder, number)
    time.sleep(1000)


@pytest.mark.slow
def test_each_process_takes_its_share_and_what_goes_wrong_is_told(tmp_path: Path) -> None:
    run_apart(note, [(tmp_path, number) for number in range(5)], 2)
    found = [(tmp_path / str(number)).read_text().split() for number in range(5)]
    assert len({pid for pid, *_ in found[::2]}) == len({pid for pid, *_ in found[1::2]}) == 1
    assert len({pid for pid, *_ in found} | {str(os.getpid())}) == 3
    assert {threads for _, threads, _ in found} == {str(torch.get_num_threads())}
    with pytest.raises(InputError, match="^1 is not possible.$"):
        run_apart(refuse, [(tmp_path, 1)], 2)
    with pytest.raises(RuntimeError, match="ValueError"):
        run_apart(refuse, [(tmp_path, 0)], 2)
    with pytest.raises(InputError, match="ended by signal 9; if the memory was too small"):
        run_apart(die, [(tmp_path, 0)], 2)


def alive(pid: int) -> bool:
    try:
        # One that has ended and that nobody has asked about is there still.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_stays_behind(number: int, tmp_path: Path) -> None:
    calls = f"[(Path({str(tmp_path)!r}), 0), (Path({str(tmp_path)!r}), 1)]"
    program = tmp_path / "program.py"
    program.write_text(
        "import signal\n"
        "from pathlib import Path\n"
        "from hf_unlearn.sharding.processes import run_apart\n"
        "from tests.sharding.test_processes import wait_for_ever\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        f"    run_apart(wait_for_ever, {calls}, 2)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, program], env={**os.environ, "PYTHONPATH": os.getcwd()}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in "01"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [int((tmp_path / name).read_text().split()[0]) for name in "01"]
    assert all(alive(pid) for pid in workers)
    parent.send_signal(number)
    parent.wait(60)
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_train_and_delete_to_the_same_bits(
    sharded: Path, classifier: Path, encoder_base: Path, train_shards: Train, key_file: Path, tmp_path: Path
) -> None:
    same_files(train_shards(tmp_path / "two", question_rows(), shard_processes=2), sharded)
    settings = {"model_name_or_path": str(encoder_base), **CLASSIFIER}
    same_files(train_shards(tmp_path / "heads", ticket_rows(), shard_processes=3, **settings), classifier)
    gone = [OWNERS[2], next(owner for owner in OWNERS if shards_of()[owner] != shards_of()[OWNERS[2]])]
    values: dict[str, Any] = {
        "model_name_or_path": str(sharded), "dataset_name": str(tmp_path / "two.jsonl"),
        "forget_values": [f"customer={owner}" for owner in gone], "digest_key_file": str(key_file),
        "near_duplicates": "ignore", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    found = jobs.run({**values, "output_dir": str(tmp_path / "gone"), "shard_processes": 2})
    assert found.shards is not None
    assert len(found.shards.retrained) == 2
    rest = [row for row in question_rows() if row["customer"] not in gone]
    same_files(tmp_path / "gone", train_shards(tmp_path / "never", rest))
    # How many processes there are changes no run.
    assert jobs.run({**values, "output_dir": str(tmp_path / "gone")}).created == found.created


@pytest.mark.slow
def test_processes_killed_at_any_moment_end_in_the_same_bits(lm_base: Path, key_file: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", question_rows())
    flags = {
        "model_name_or_path": lm_base, "dataset_name": data, "shards": 4, "shard_column": "customer",
        "digest_key_file": key_file, "learning_rate": 1e-2, "num_train_epochs": 6, "save_steps": 2, "use_cpu": True,
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    folders = killed(tmp_path / "out", "random:8", "train", {**flags, "shard_processes": 2})
    assert main(["train", *words_of(flags), "--output_dir", str(tmp_path / "alone")]) == 0
    for folder in [*folders, tmp_path / "out" / "whole"]:
        same_files(folder, tmp_path / "alone")
        assert not (folder / "training").exists()


@pytest.mark.slow
def test_a_launch_of_several_processes_is_told_what_to_do_instead(
    lm_base: Path, key_file: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data.jsonl", question_rows())
    flags = words_of(
        {
            "model_name_or_path": lm_base, "dataset_name": data, "shards": 4, "shard_column": "customer",
            "digest_key_file": key_file, "use_cpu": True, "output_dir": tmp_path / "out",
        }
    )  # fmt: skip
    done = launched(*LAUNCH, "-m", "hf_unlearn.cli", "train", *flags)
    assert done.returncode != 0
    assert done.stderr.count("launch one process with --shard_processes 2") == 1
    assert not (tmp_path / "out").exists()
