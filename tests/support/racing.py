"""Starts two commands in one output folder at once, again and again, for test_places.py to judge.

    python tests/support/racing.py FOLDER TRIES FIRST SECOND

FIRST and SECOND are commands with their flags, as JSON lists; OUT stands for the folder. Each runs once by itself, in
FOLDER/first and FOLDER/second. Then both start in FOLDER/0, FOLDER/1 and so on, the second one up to a run later. The
exit codes are printed as JSON, a pair a try.
"""

import gc
import json
import os
import random
import sys
import time
from pathlib import Path

import torch

from hf_unlearn import jobs  # noqa: F401
from hf_unlearn.cli import main


def start(command: list[str], out: Path) -> int:
    """Fork a child that runs a command; its process id."""
    child = os.fork()
    if child == 0:
        os._exit(main([word.replace("OUT", str(out)) for word in command]))
    return child


def run(folder: Path, tries: int, first: list[str], second: list[str]) -> None:
    torch.set_num_threads(1)
    gc.freeze()
    began = time.perf_counter()
    os.waitpid(start(first, folder / "first"), 0)
    whole = time.perf_counter() - began
    if second[0] == "run":
        os.waitpid(start(second, folder / "second"), 0)
    draw = random.Random(2)
    codes = []
    for number in range(tries):
        children = [start(first, folder / str(number))]
        time.sleep(draw.choice([0.0, draw.uniform(0, 1.2 * whole)]))
        children.append(start(second, folder / str(number)))
        codes.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(codes))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
