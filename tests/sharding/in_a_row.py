"""Deletes owners from a sharded model one after the other, in child processes that are killed at random moments.

    python -m tests.sharding.in_a_row FOLDER MODEL OWNER,OWNER,... FLAG ...

Each deletion goes to a folder of its own and begins with the one before. FOLDER/kills says how often one was killed.
"""

import gc
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ..conftest import dot
from ..support.killed import end, start

KILLED = 0.5  # of the starts


def delete(out: Path, command: list[str], draw: random.Random, usual: float) -> int:
    """One deletion; how often it was killed. A run takes ``usual`` seconds."""
    kills = 0
    while True:
        child = start([*command, "--output_dir", str(out)])
        if draw.random() < KILLED:
            time.sleep(draw.uniform(0.02, usual))
            os.kill(child, signal.SIGKILL)
        if not end(child):
            return kills
        kills += 1


def run(folder: Path, model: Path, owners: list[str], flags: list[str]) -> None:
    torch.set_num_threads(1)
    Figure.savefig = dot  # type: ignore[assignment]
    gc.freeze()
    folder.mkdir()
    draw, usual, kills = random.Random(1), 1.0, 0
    for number, owner in enumerate(owners):
        out, started = folder / f"{number:02d}", time.perf_counter()
        command = ["run", "--model_name_or_path", str(model), "--forget_values", f"customer={owner}", *flags]
        mine = delete(out, command, draw, usual)
        if not mine:
            usual = time.perf_counter() - started
        kills, model = kills + mine, out
    (folder / "kills").write_text(str(kills))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:])
