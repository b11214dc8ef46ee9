"""When a training first used each row of its data: what proves that a checkpoint is from before it met S.

The proof lies in each checkpoint and is made of the batches that came, not worked out from a seed. A row is known by
its place in the data set that was trained on: the proof holds no id and no text, but with the data set it tells in
what order the rows were used.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import written_whole
from ..models.training_record import TrainingRecord

FIRST_USE_FILE = "first_use.safetensors"
NEVER = np.iinfo(np.uint32).max
# Other orders follow from the lengths of the records, so that rows which are never used shape it too.
BLIND_ORDERS = ("random", "sequential")
IDENTITY = ("base_model", "base_revision", "settings", "peft", "seed", "world_size")

Collator = Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]


class CollatorWithRows:
    """Adds to a batch the number of each example's row, ``row``, int64 of shape (batch,)."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        others = [{name: value for name, value in example.items() if name != "row"} for example in examples]
        return {**self.collator(others), "row": torch.tensor([example["row"] for example in examples])}


@dataclass(frozen=True)
class FirstUse:
    """The optimiser step at which each row was first used, so far.

    Attributes:
        steps: counted from 1, :data:`NEVER` for a row that was not used, uint32 of shape (rows,). Of a row that makes
            several examples the first counts.
    """

    steps: np.ndarray

    @classmethod
    def of(cls, rows: int) -> "FirstUse":
        """Nothing was used yet."""
        return cls(np.full(rows, NEVER, np.uint32))

    def note(self, rows: np.ndarray, step: int) -> None:
        """Rows are in a batch of a step."""
        self.steps[rows] = np.minimum(self.steps[rows], np.uint32(step))

    def save(self, folder: Path, training: str) -> None:
        """Write it into a checkpoint; for ``training`` see :func:`training_identity`."""
        with written_whole(folder / FIRST_USE_FILE) as part:
            save_file({"steps": self.steps}, part, {"training": training})

    @classmethod
    def load(cls, folder: Path, training: str) -> "FirstUse | None":
        """Read it from a checkpoint; None where there is none of this training."""
        try:
            with safe_open(folder / FIRST_USE_FILE, framework="numpy") as file:
                found = (file.metadata() or {}).get("training")
                return cls(file.get_tensor("steps")) if found == training else None
        except (OSError, SafetensorError):
            return None


def training_identity(record: TrainingRecord, steps: int) -> str:
    """A digest of what makes a training this training: its base, its data, its settings and its planned steps."""
    values = asdict(record)
    told = {name: values[name] for name in IDENTITY} | {"data": record.dataset.fingerprint, "steps": steps}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
