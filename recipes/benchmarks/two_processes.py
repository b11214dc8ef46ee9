"""How much faster two processes train than one, each with one thread: tokens a second, in turns.

python recipes/benchmarks/two_processes.py recipes/quickstart/recipe.yaml --per_device_train_batch_size 32

Every other option goes to `hf-unlearn train`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER = Path(__file__).parents[1] / "accelerate" / "cpu_2_processes.yaml"


def tokens_per_second(config: str, processes: int, steps: int, overrides: list[str]) -> float:
    """Train for some steps, in a process or two of their own; model loading and start-up do not count."""
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCHER)] if processes == 2 else []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        command = [
            sys.executable, *launch, "-m", "hf_unlearn.cli", "train", "--config", config, "--max_steps", str(steps),
            "--use_cpu", "true", "--save_strategy", "no", "--output_dir", str(output), *overrides,
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        record = json.loads((output / "training_record.json").read_text(encoding="utf-8"))
    assert record["world_size"] == processes
    return record["tokens"] / record["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a recipe whose data and base model are there")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=5)
    args, overrides = parser.parse_known_args()
    pairs = []
    for i in range(args.pairs):
        order = (1, 2) if i % 2 == 0 else (2, 1)
        speeds = {processes: tokens_per_second(args.config, processes, args.steps, overrides) for processes in order}
        pairs.append((speeds[1], speeds[2]))
    ratios = [two / one for one, two in pairs]
    one, two = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
    print(f"{args.steps} steps a run, {args.pairs} interleaved pairs, one thread a process:")
    print(f"  median tokens a second: one process {one:.0f}, two processes {two:.0f}")
    print(f"  two / one: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
