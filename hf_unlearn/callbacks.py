"""When to measure, when to stop, and what Ctrl-C does."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class MeasureForgetting(TrainerCallback):
    """Calls a function on a schedule and has its result logged with that step.

    Args:
        measure: does the measuring and hands the numbers to the trainer's log.
        every: so many steps, or that fraction of the training when below 1.
    """

    def __init__(self, measure: Callable[[], None], every: float):
        self.measure, self.every = measure, every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = int(self.every) if self.every >= 1 else max(1, round(self.every * state.max_steps))
        # The end is measured anyway, with all the records.
        if state.global_step % steps == 0 and state.global_step < state.max_steps:
            self.measure()
            control.should_log = True


class StopWhenForgotten(TrainerCallback, ExportableState):
    """Stops once S can no longer be told from H: when the measured AUC's 90 % interval lies within the margin of 0.5.

    It watches one half of S and of H; the report is made on the other half, so that looking often does not help. Its
    state travels in the checkpoints.

    Args:
        margin: on the AUC.

    Attributes:
        stopped: whether it has stopped the training.
    """

    def __init__(self, margin: float = 0.10):
        self.margin = margin
        self.stopped = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "membership_auc_low" in logs:
            low, high = logs["membership_auc_low"] - 0.5, logs["membership_auc_high"] - 0.5
            if -self.margin < low and high < self.margin:
                self.stopped = control.should_training_stop = True

    def state(self) -> dict[str, dict[str, Any]]:
        return {"args": {"margin": self.margin}, "attributes": {"stopped": self.stopped}}

    def restore(self, attributes: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.__dict__.update(attributes)


class SaveOnInterrupt(TrainerCallback):
    """On Ctrl-C or SIGTERM finishes the step, saves a checkpoint and stops; a second one stops at once.

    Only in a single process: in several, each would stop at a step of its own and wait for the others.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: dict[int, Any] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.interrupted = False
        if args.world_size == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Give Ctrl-C and SIGTERM their former meaning back."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.restore()
        self.interrupted = True
