"""Runs a command in child processes and kills them, for test_faults.py.

    python tests/support/killed.py FOLDER MOMENTS COMMAND FLAG ...

The command runs once undisturbed, to FOLDER/whole. Then it is started in FOLDER/0, killed, and started again until it
ends; the same in FOLDER/1 and so on. MOMENTS says when it is killed:

    random:20    20 times in all, at moments drawn over its whole duration
    files:5      in folder i once, before it makes, opens for writing, renames or removes its 5 * (i + 1)th file
    requests:1   FOLDER/whole is published; in attempt i it is killed after request i to the Hub

A flag may name a file in the folder, as in OUT/review.jsonl, or beside it, as in OUT.jsonl.
The modules are loaded once, so that starting again takes no time.
"""

import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import httpx

from hf_unlearn.training.saving import last_checkpoint
from tests.support.forked import get_ready, load, start, start_first

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")


def end(child: int) -> bool:
    """Wait for a child; whether it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"the command ended with exit code {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def kill_at_file(folder: Path, number: int) -> None:
    """Have this process killed just before it changes a folder for that many times."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(args[0]).startswith(str(folder)):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def kill_after_request(number: int) -> None:
    """Have this process killed once the Hub has done what the request of that number asks for."""
    send = httpx.Client.send
    seen = 0

    def sent(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        response = send(*args, **kwargs)
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return response

    httpx.Client.send = sent


def to(out: Path, command: list[str]) -> list[str]:
    """The command, with this folder for what it writes."""
    if any("OUT/" in word for word in command):
        out.mkdir(exist_ok=True)
    return [*(re.sub("^OUT(?=[./])", str(out), word) for word in command), "--output_dir", str(out)]


def at_random(kills: int, folder: Path, command: list[str], whole: float) -> int:
    draw = random.Random(1)
    killed, number, step = 0, 0, 0
    while killed < kills:
        out = folder / str(number)
        child = start(to(out, command))
        time.sleep(draw.uniform(0.02, whole))
        os.kill(child, signal.SIGKILL)
        if end(child):
            killed += 1
            newest = last_checkpoint(out)
            now = int(newest.rpartition("-")[2]) if newest else 0
            assert now >= step, f"of the checkpoint of step {step} only that of step {now} is left"
            step = now
        else:
            number, step = number + 1, 0
    end(start(to(folder / str(number), command)))
    return number + 1


def at_files(every: int, folder: Path, command: list[str]) -> int:
    number = 0
    while True:
        out = folder / str(number)
        moment = every * (number + 1)
        argv = to(out, command)
        if not end(start(argv, lambda out=out, moment=moment: kill_at_file(out, moment))):
            return number
        end(start(argv))
        number += 1


def at_requests(folder: Path, command: list[str]) -> int:
    api = HfApi()
    number = 0
    while True:
        repo = f"owner/killed-{number}"
        argv = [*command, "--output_dir", str(folder / "whole"), "--push", "--push_anyway", "--hub_model_id", repo]
        killed = end(start(argv, lambda number=number: kill_after_request(number + 1)))
        if killed and api.repo_exists(repo):
            files = set(api.list_repo_files(repo)) - {".gitattributes"}
            assert not files or {"README.md", "model.safetensors", "unlearning_report.json"} <= files
        if not killed:
            return number
        end(start(argv))
        number += 1


def run(folder: Path, moments: str, command: list[str]) -> None:
    get_ready()
    listed = folder / "modules.txt"
    end(start_first(to(folder / "whole", command), listed))
    load(listed)
    mode, count = moments.split(":")
    if mode == "random":
        started = time.perf_counter()
        end(start(to(folder / "again", command)))
        folders = at_random(int(count), folder, command, time.perf_counter() - started)
    else:
        folders = at_files(int(count), folder, command) if mode == "files" else at_requests(folder, command)
    print(f"killed in {folders} folders")


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
