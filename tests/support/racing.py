"""Starts two commands in one output folder at once, again and again, for test_places.py to judge.

    python -m tests.support.racing FOLDER TRIES FIRST SECOND

FIRST and SECOND are commands with their flags, as JSON lists; OUT stands for the folder. Each runs once by itself, in
FOLDER/first and FOLDER/second. Then both start in FOLDER/0, FOLDER/1 and so on, the second one up to a run later. The
exit codes are printed as JSON, a pair a try.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

from hf_unlearn.evaluation import statistics
from tests.support.forked import get_ready, load, start, start_first


def to(out: Path, command: list[str]) -> list[str]:
    return [word.replace("OUT", str(out)) for word in command]


def run(folder: Path, tries: int, first: list[str], second: list[str]) -> None:
    get_ready()
    # The race is for the folder, whatever the numbers.
    statistics.DRAWS = 20
    listed = folder / "modules.txt"
    os.waitpid(start_first(to(folder / "first", first), listed), 0)
    load(listed)
    began = time.perf_counter()
    os.waitpid(start(to(folder / "again", first)), 0)
    whole = time.perf_counter() - began
    if second[0] == "run":
        os.waitpid(start(to(folder / "second", second)), 0)
    draw = random.Random(2)
    codes = []
    for number in range(tries):
        children = [start(to(folder / str(number), first))]
        time.sleep(draw.choice([0.0, draw.uniform(0, 1.2 * whole)]))
        children.append(start(to(folder / str(number), second)))
        codes.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    print(json.dumps(codes))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
