"""What the benchmarks of sharded models share: cells that are kept as they finish, and commands of hf-unlearn."""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel

from hf_unlearn.cli import main as hf_unlearn
from hf_unlearn.models.loading import load_any, load_tokenizer
from hf_unlearn.models.location import locate
from hf_unlearn.sharding.layout import load_sharding
from hf_unlearn.sharding.serving import ShardedModel

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Cells:
    """Numbers by seed and name, in a file that is written after each; what is there is not made again."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        hardware = f"{platform.machine()}, {os.cpu_count()} cores, no GPU"
        self.found: dict[str, Any] = {"settings": settings, "hardware": hardware, "seeds": {}}
        if path.is_file():
            self.found = json.loads(path.read_text(encoding="utf-8"))
            if self.found["settings"] != json.loads(json.dumps(settings)):
                sys.exit(f"{path} has cells with other settings; name another folder with --output.")

    def make(self, seed: int, name: str, cell: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A cell, made now if it is not there."""
        cells = self.found["seeds"].setdefault(str(seed), {})
        if name not in cells:
            started = time.perf_counter()
            cells[name] = {**cell(), "seconds": round(time.perf_counter() - started)}
            self._write()
            print(f"seed {seed}, {name}: {json.dumps(cells[name])}", flush=True)
        return cells[name]

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Write what was found over the seeds, in the place of what is there."""
        self.found[name] = found
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")


def parser(description: str | None, output: str) -> argparse.ArgumentParser:
    """The flags that all these programs have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, default=Path(output), help="for models and numbers")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return made


def run(*argv: Any) -> None:
    """One command of hf-unlearn; its failure ends this one."""
    if code := hf_unlearn([str(one) for one in argv]):
        sys.exit(code)


def around(output: Path) -> list[Any]:
    """Flags of every command here."""
    return [
        "--digest_key_file", output / "digest.key", "--use_cpu", "true", "--disable_tqdm", "true",
        "--logging_steps", 0.25, "--save_strategy", "no",
    ]  # fmt: skip


def loss(model: ShardedModel, rows: list[dict[str, Any]], owners: list[Any]) -> float:
    """The mean loss of a token in nats."""
    table = model.score(Dataset.from_list(rows), owners, batch_size=32)
    return sum(table["nll"].to_pylist()) / sum(table["tokens"].to_pylist())


def as_one(folder: Path, sharded: Path) -> ShardedModel:
    """A joint model, to be scored as a sharded one is; nobody has an owner in it."""
    sharding = load_sharding(locate(str(sharded)))
    assert sharding is not None
    source = locate(str(folder))
    model = load_any(source, sharding.task)
    whole: Any = model.merge_and_unload() if isinstance(model, PeftModel) else model
    # A vote of the adapters must not answer in its place.
    return ShardedModel(source, replace(sharding, unknown="base"), whole, load_tokenizer([source]), None)
