"""How long `hf-unlearn run` takes to its first line and to its first training step, beside the imports alone.

    OMP_NUM_THREADS=1 python recipes/benchmarks/start.py --repeats 5

The imports are those of transformers' Trainer, datasets and peft, in a process of their own. A tiny classifier forgets
20 customers of 1,000 rows, so that next to nothing is computed. Each command has a terminal. The numbers are medians,
with the lowest and the highest.
"""

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from statistics import median

from load import settings

IMPORTS = "from transformers import Trainer; import datasets, peft; print(Trainer.__name__)"
TRAINING = b"loss "  # the live line has it after the first step


def seconds_until(command: list[str], *marks: bytes) -> list[float]:
    """The seconds until a command writes each of the marks to its terminal; an empty one is in every output."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 120))
    started, found, written = time.perf_counter(), dict.fromkeys(marks, 0.0), b""
    process = subprocess.Popen(command, stdout=its, stderr=its)
    os.close(its)
    while True:
        try:
            written += os.read(ours, 2**16)
        except OSError:
            break  # so a terminal ends on Linux
        for mark in marks:
            if mark in written and not found[mark]:
                found[mark] = time.perf_counter() - started
    os.close(ours)
    if process.wait() or not all(found.values()):
        raise SystemExit(f"The command ended with {process.returncode}, or did not write what is waited for.")
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run = settings(Path(folder), 1000, 500, 3, 1) | {"max_steps": 5, "logging_steps": 1, "disable_tqdm": False}
        command = [sys.executable, "-m", "hf_unlearn.cli", "run"]
        command += [word for name, value in run.items() for word in (f"--{name}", str(value))]
        for number in range(args.repeats):
            out = ["--output_dir", str(Path(folder) / f"out_{number}")]
            (imports,) = seconds_until([sys.executable, "-c", IMPORTS], b"")
            rows.append((imports, *seconds_until(command + out, b"", TRAINING)))
    imports, first, step = zip(*rows, strict=True)
    beyond = [one - other for one, other in zip(step, imports, strict=True)]
    for told, values in (
        ("the imports alone", imports),
        ("the first line", first),
        ("the first training step", step),
        ("that step, without the imports", beyond),
    ):
        print(f"{told}: {median(values):.1f} s ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
