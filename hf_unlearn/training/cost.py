"""What training and measuring cost: seconds, operations, memory."""

import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class CostMeter(TrainerCallback, ExportableState):
    """Adds up what training and measuring cost; its state travels in the checkpoints.

    Training includes the measuring within it. ``kept_flops`` are what measurements cost that an earlier run made.
    """

    def __init__(self) -> None:
        self.training_seconds = 0.0
        self.measuring_seconds = 0.0
        self.measuring_flops = 0.0
        self.kept_flops = 0.0
        self.peak_memory_bytes = 0
        self._started: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._started = time.perf_counter()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bank()
        self._started = None

    def measured(self, seconds: float, flops: float, kept_flops: float = 0.0) -> None:
        """Add one measurement, made or read."""
        self.measuring_seconds += seconds
        self.measuring_flops += flops
        self.kept_flops += kept_flops

    def state(self) -> dict[str, dict[str, float]]:
        self._bank()
        names = ("training_seconds", "measuring_seconds", "measuring_flops", "kept_flops", "peak_memory_bytes")
        return {"args": {}, "attributes": {name: vars(self)[name] for name in names}}

    def restore(self, attributes: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.__dict__.update(attributes)

    def _bank(self) -> None:
        if self._started is not None:
            now = time.perf_counter()
            self.training_seconds += now - self._started
            self._started = now
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes())


def peak_memory_bytes() -> int:
    """Most memory held: on the accelerator since training began, else resident in this process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
