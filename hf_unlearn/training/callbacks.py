"""When to measure, when to stop, and what Ctrl-C does."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback

from ..evaluation.blind_baseline import BlindBaseline
from ..evaluation.statistics import CONFIDENCE
from ..evaluation.verdict import Provenance, Scores, decide


def show_nothing(trainer: Trainer) -> None:
    """Let a trainer tell nothing of its progress; trackers get it all."""
    for shown in (ProgressCallback, DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(shown)


def planned_looks(every: float, max_steps: int) -> int:
    """How often a training is measured before its last step; see :class:`MeasureForgetting`."""
    return (max_steps - 1) // _steps_between(every, max_steps)


def _steps_between(every: float, max_steps: int) -> int:
    return int(every) if every >= 1 else max(1, round(every * max_steps))


class MeasureForgetting(TrainerCallback):
    """Measures every so many steps, or that fraction of the training when below 1, and has it logged at that step."""

    def __init__(self, measure: Callable[[], None], every: float):
        self.measure, self.every = measure, every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        steps = _steps_between(self.every, state.max_steps)
        # The end is measured anyway, with all the records.
        if state.global_step % steps == 0 and state.global_step < state.max_steps:
            self.measure()
            control.should_log = True


class StopWhenForgotten(TrainerCallback, ExportableState):
    """Stops once the verdict's tests find S forgotten, or treated worse than H.

    It watches one half of S and of H; the report is made on the other half. The verdict's 5 % are spent in equal parts
    on the looks that are planned (Bonferroni; the linear spending function of Lan and DeMets 1983, Biometrika 70,
    without the gain from looks that resemble each other). Each look is at other weights, so this bounds the chance
    that any of them is wrongly found forgotten. Its state travels in the checkpoints.

    Attributes:
        reason: why it stopped, in words that begin with ``forgotten`` or ``overshoot``; None while it has not.
        steps: of the looks.
    """

    def __init__(self, margin: float = 0.10, every: float = 0.2):
        self.margin, self.every = margin, every
        self.stopped = False
        self.reason: str | None = None
        self.steps: list[int] = []
        self._original: Scores | None = None
        self._blind: BlindBaseline | None = None

    def watch(self, original: Scores | None, blind: BlindBaseline | None) -> None:
        """Note what the attacks find under the original, and how the texts of S and H differ by nature."""
        self._original, self._blind = original, blind

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped:
            # It goes on from the checkpoint that it was stopped at, and nothing is left to do.
            control.should_training_stop = True

    def look(self, scores: Scores, state: TrainerState) -> dict[str, float]:
        """Test the model as it is now; for the log the gap of the attack that decides, with its 95 % interval."""
        looks = planned_looks(self.every, state.max_steps)
        found = decide(
            Provenance(None, "", None),
            scores,
            original=self._original,
            retrained=None,
            margin=self.margin,
            blind=self._blind,
            looks=looks,
        )
        assert found.gap is not None
        self.steps.append(state.global_step)
        word = {"not_distinguished": "forgotten", "over_forgotten": "overshoot"}.get(found.word)
        if word is not None:
            self.stopped = True
            share = 100 * (1 - CONFIDENCE) / looks
            self.reason = f"{word}, at look {len(self.steps)} of {looks} at {share:.2g} % each. {found.reasons[-1]}"
        return {"worst_gap": found.gap.value, "worst_gap_low": found.gap.low, "worst_gap_high": found.gap.high}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped:
            control.should_training_stop = True

    def state(self) -> dict[str, dict[str, Any]]:
        return {
            "args": {"margin": self.margin, "every": self.every},
            "attributes": {name: vars(self)[name] for name in ("stopped", "reason", "steps")},
        }

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
