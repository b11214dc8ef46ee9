"""When to measure, when to stop, and what Ctrl-C does."""

import logging
import math
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..evaluation.blind_baseline import BlindBaseline
from ..evaluation.statistics import CONFIDENCE, Estimate, membership_auc, smallest_margin, straight_line
from ..evaluation.verdict import ATTACKS, Provenance, Scores, decide

logger = logging.getLogger(__name__)

FEWEST_FOR_TREND = 3


def planned_looks(every: float, max_steps: int) -> int:
    """How often a training is measured before its last step.

    Args:
        every: so many steps, or that fraction of the training when below 1.
        max_steps: of the training.
    """
    return (max_steps - 1) // _steps_between(every, max_steps)


def _steps_between(every: float, max_steps: int) -> int:
    return int(every) if every >= 1 else max(1, round(every * max_steps))


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
        steps = _steps_between(self.every, state.max_steps)
        # The end is measured anyway, with all the records.
        if state.global_step % steps == 0 and state.global_step < state.max_steps:
            self.measure()
            control.should_log = True


class StopWhenForgotten(TrainerCallback, ExportableState):
    """Stops once the verdict's tests find S forgotten, or treated worse than H, and says when neither is to come.

    It watches one half of S and of H; the report is made on the other half. The verdict's 5 % are spent in equal parts
    on the looks that are planned (Bonferroni; the linear spending function of Lan and DeMets 1983, Biometrika 70,
    without the gain from looks that resemble each other). Each look is at other weights, so this bounds the chance
    that any of them is wrongly found forgotten.

    Where a line through the latest looks cannot reach the margin by the end of the training, it says how near the end
    will be, once, and goes on. As forgetting slows down, a straight line promises rather too much. Its state travels
    in the checkpoints.

    Args:
        margin: on the AUC.
        every: as for :class:`MeasureForgetting`.

    Attributes:
        stopped: whether it has stopped the training.
        reason: why, in words that begin with ``forgotten`` or ``overshoot``; None while it has not.
        plateau: how near the end will be, in words; None while the trend may reach the margin.
        steps: of the looks.
        gaps: by attack, its AUC less 0.5 at each look.
    """

    def __init__(self, margin: float = 0.10, every: float = 0.2):
        self.margin, self.every = margin, every
        self.stopped = False
        self.reason: str | None = None
        self.plateau: str | None = None
        self.steps: list[int] = []
        self.gaps: dict[str, list[float]] = {}
        self._said = False
        self._original: Scores | None = None
        self._blind: BlindBaseline | None = None

    def watch(self, original: Scores | None, blind: BlindBaseline | None) -> None:
        """Take note of the records that are watched.

        Args:
            original: what the attacks make of them under the original model.
            blind: how the texts of S and H differ.
        """
        self._original, self._blind = original, blind

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        obstacle = self._obstacle(planned_looks(self.every, state.max_steps))
        if obstacle is not None and state.is_world_process_zero:
            logger.warning("stop_when_forgotten will hardly stop: %s.", obstacle)
        if self.stopped:
            # It goes on from the checkpoint that it was stopped at, and nothing is left to do.
            control.should_training_stop = True

    def look(self, scores: Scores, state: TrainerState) -> dict[str, float]:
        """Test the model as it is now, on the records that are watched.

        Args:
            scores: what the attacks make of them.
            state: where the training is.

        Returns:
            For the log: the gap of the attack that decides with its 95 % interval.
        """
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
        assert found.attack is not None
        self.steps.append(state.global_step)
        for name in scores.forget:
            auc = membership_auc(-scores.forget[name], -scores.holdout[name])
            self.gaps.setdefault(name, []).append(auc.value - 0.5)
        word = {"not_distinguished": "forgotten", "over_forgotten": "overshoot"}.get(found.word)
        if word is not None:
            self.stopped, self.plateau = True, None
            share = 100 * (1 - CONFIDENCE) / looks
            self.reason = f"{word}, at look {len(self.steps)} of {looks} at {share:.2g} % each. {found.reasons[-1]}"
        elif self._blind is None or not self._blind.separable:
            self.plateau = self._trend(found.attack, found.gap, state.max_steps)
            if self.plateau is not None and not self._said and state.is_world_process_zero:
                logger.warning(self.plateau)
            self._said |= self.plateau is not None
        return {"worst_gap": found.gap.value, "worst_gap_low": found.gap.low, "worst_gap_high": found.gap.high}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.stopped:
            control.should_training_stop = True

    def state(self) -> dict[str, dict[str, Any]]:
        names = ("stopped", "reason", "plateau", "steps", "gaps", "_said")
        return {
            "args": {"margin": self.margin, "every": self.every},
            "attributes": {name: vars(self)[name] for name in names},
        }

    def restore(self, attributes: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.__dict__.update(attributes)

    def _obstacle(self, looks: int) -> str | None:
        """What keeps it from ever finding S forgotten."""
        if looks == 0:
            return "there is no measurement before the last step; set measure_steps to less"
        if self._blind is not None and self._blind.separable:
            return "S and H differ by nature, so during the training nothing can tell what was forgotten"
        if self._original is None:
            return None
        forget, holdout = (next(iter(side.values())) for side in (self._original.forget, self._original.holdout))
        attacks = len(self._original.forget)
        smallest = smallest_margin(len(forget), len(holdout), attacks, alpha=(1 - CONFIDENCE) / looks)
        if smallest <= self.margin:
            return None
        return (
            f"{looks} looks at {len(forget)} records of S and {len(holdout)} of H can confirm a margin of "
            f"±{smallest:.2f}, and ±{self.margin:.2f} is asked for; raise auc_margin, or measure_steps for fewer looks"
        )

    def _trend(self, attack: str, gap: Estimate, last_step: int) -> str | None:
        """Where the gap will be at the end, if that is certainly outside the margin."""
        latest = max(FEWEST_FOR_TREND, -(-len(self.steps) // 2))
        steps, gaps = np.array(self.steps[-latest:]), np.array(self.gaps[attack][-latest:])
        end = straight_line(steps, gaps, last_step)
        if end is None:
            return None
        # The looks are at the same records, so their scatter says nothing of what other records would have shown.
        half = math.hypot(end.high - end.value, (gap.high - gap.low) / 2)
        low, high = max(end.value - half, -0.5), min(end.value + half, 0.5)
        if low <= self.margin and high >= -self.margin:
            return None
        return (
            f"This is as close as it gets: gap = {end.value:.2f} (95 % interval {low:.2f} to {high:.2f}) between the "
            f"membership AUC by {ATTACKS[attack]} and 0.5 at step {last_step}, from the line through the measurements "
            f"at steps {steps[0]} to {steps[-1]}; the margin is ±{self.margin:.2f}."
        )


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
