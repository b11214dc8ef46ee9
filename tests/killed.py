"""Runs a command in child processes and kills them at random moments, for test_faults.py.

    python tests/killed.py KILLS SEED FOLDER COMMAND FLAG ...

The command runs once undisturbed, to FOLDER/whole. Then it is started in FOLDER/0, killed at a moment drawn over its
whole duration and started again, until it ends before it is killed; then the same in FOLDER/1 and so on, until it has
been killed KILLS times. The modules are loaded once, so that starting again takes no time.
"""

import os
import random
import signal
import sys
import time

import torch

from hf_unlearn import jobs  # noqa: F401
from hf_unlearn.cli import main


def start(argv: list[str]) -> int:
    """Fork a child that runs a command; its process id."""
    child = os.fork()
    if child == 0:
        os._exit(main(argv))
    return child


def end(child: int) -> bool:
    """Wait for a child; whether it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"the command ended with exit code {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def run(kills: int, seed: int, folder: str, command: list[str]) -> None:
    torch.set_num_threads(1)
    draw = random.Random(seed)
    started = time.perf_counter()
    end(start([*command, "--output_dir", f"{folder}/whole"]))
    whole = time.perf_counter() - started
    killed, number = 0, 0
    while killed < kills:
        child = start([*command, "--output_dir", f"{folder}/{number}"])
        time.sleep(draw.uniform(0.02, whole))
        os.kill(child, signal.SIGKILL)
        if end(child):
            killed += 1
        else:
            number += 1
    end(start([*command, "--output_dir", f"{folder}/{number}"]))
    print(f"killed {killed} times in {number + 1} folders; a whole run takes {whole:.2f} s")


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
