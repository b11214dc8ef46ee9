"""What a method is: a start, data, an objective and a step rule, with the settings it was published with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..errors import InputError
from ..models.tasks import TASKS, Task
from . import starts, step_rules
from .forget_batches import RETAINED_ALONE, TrainingData
from .objectives import OWN_LOSS
from .step import Objective, Part

# At the rate of all weights an adapter moves a model little; its best rate is about ten times that
# (Schulman et al. 2025, LoRA Without Regret).
ADAPTER_RATE = 10

# The share of the original's training that a run may take when it does not say how long to train.
DEFAULT_BUDGET = 0.25


class Fit(NamedTuple):
    """The tasks that a method fits, and why it fits no other, in words that follow "because"."""

    tasks: tuple[Task, ...]
    why_no_other: str


ALL_TASKS = Fit(tuple(TASKS), "")


@dataclass(frozen=True)
class Method:
    """A way to unlearn.

    Attributes:
        name: as in ``--method``.
        summary: one sentence for the card.
        start: where the fine-tuning begins.
        alpha: the default strength; None where the method has no such setting.
        strength: what alpha is, in words.
        objective: what is made smaller.
        data: what it is made smaller on.
        options: its other settings, ``method_kwargs``, as published.
        rule: what is done between the steps, None for nothing.
        fits: the tasks that it is for.
        settings: of ``UnlearningConfig``, where the user says nothing; they go before those of the original's
            training record.
        rate_is_for_adapters: whether the rate in the settings was published for an adapter, and not for all weights.
        learning_rate_factor: multiplies the learning rate of the original's training record, or the default one.
        budget: of a run that says nothing about how long to train, None for the usual one.
        needs_base: whether the base model must be known.
        uses_base: whether the base model is used where it is known.
        disturbs: whether its rule changes weights in other ways than by keeping them as they were.
        looks: how often each record of a part passes back before the first step; None for once for each class.
        chooses: whether its rule chooses by one half of S and H, so that the other half judges.
        trains_block_ends: whether it trains the last matrix of three blocks alone, up to where its objective stops.
        picks_weights: whether it picks single weights of the model, so that all of them must be there to be trained.
        replaces: whether at alpha 1 nothing is left of the original, so that S has not shaped the start.
        source: where it was published, with the published setting.
        ours: how this differs from what was published.
    """

    name: str
    summary: str
    start: starts.Start = starts.original
    alpha: float | None = None
    strength: str = ""
    objective: Objective = OWN_LOSS
    data: TrainingData = RETAINED_ALONE
    options: Mapping[str, float] = field(default_factory=dict)
    rule: step_rules.Rule | None = None
    fits: Fit = ALL_TASKS
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate_is_for_adapters: bool = False
    learning_rate_factor: float = 1.0
    budget: float | None = None
    needs_base: bool = False
    uses_base: bool = False
    disturbs: bool = False
    looks: Mapping[Part, int | None] = field(default_factory=dict)
    chooses: bool = False
    trains_block_ends: bool = False
    picks_weights: bool = False
    replaces: bool = False
    source: str = ""
    ours: str = ""

    def check_task(self, task: Task) -> None:
        """Raise InputError where the method does not fit what a model does."""
        if task not in self.fits.tasks:
            raise InputError(f"The method {self.name!r} does not fit {task}, because {self.fits.why_no_other}.")

    def resolve_alpha(self, asked: float | None) -> float:
        """The alpha to use; raises InputError when the method has none to set."""
        if self.alpha is not None:
            return self.alpha if asked is None else asked
        if asked is not None:
            raise InputError(f"The method {self.name!r} has no alpha; leave it out, or name a start that has one.")
        return 1.0 if self.replaces else 0.0

    def resolve_options(self, asked: Mapping[str, Any]) -> dict[str, float]:
        """All options, those that were asked for before the published ones; raises InputError for a wrong one."""
        for name, value in asked.items():
            if name not in self.options:
                known = f"has {', '.join(self.options)}" if self.options else "has none"
                raise InputError(f"method_kwargs names {name!r}, and the method {self.name!r} {known}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"method_kwargs {name}={value!r} is not possible; it must be a finite number.")
        return {**self.options, **{name: float(value) for name, value in asked.items()}}

    def started_as(self, other: "Method") -> "Method":
        """This method from the start of another one; raises InputError when it has its own, or the other has none."""
        if self.start is not starts.original or self.alpha is not None:
            raise InputError(f"The method {self.name!r} has a start, or a strength, of its own; leave start out.")
        if other.start in (starts.original, starts.checkpoint):
            raise InputError(
                f"start={other.name!r} is not possible: that method begins at the original, or a checkpoint."
            )
        return replace(
            self,
            start=other.start,
            alpha=other.alpha,
            strength=other.strength,
            needs_base=other.needs_base,
            uses_base=other.uses_base,
            replaces=other.replaces,
            looks={**self.looks, **other.looks},
            picks_weights=self.picks_weights or other.picks_weights,
        )

    @property
    def passes(self) -> dict[Part, tuple[int, int]]:
        """How often a record of each part passes through the trained model, forward and back, and a teacher."""
        data, objective = self.data, self.objective
        # Where something is learned in the place of S and nothing compared with it, S itself is not read.
        read: dict[Part, bool] = {
            "forget": data.forget and (data.instead is None or objective.start_log_p),
            "retained": data.retained,
            "instead": data.instead is not None,
        }
        return {
            part: (1, int(objective.needs_teacher and part in objective.taught))
            for part, is_read in read.items()
            if is_read
        }

    @property
    def adapter_rate(self) -> float | None:
        """The learning rate for an adapter, by the published one; None where none was published."""
        rate: float | None = self.settings.get("learning_rate")
        return rate if rate is None or self.rate_is_for_adapters else rate * ADAPTER_RATE

    @property
    def uses_forget(self) -> bool:
        """Whether S enters training batches."""
        return self.data.forget

    def is_clean(self, alpha: float) -> bool:
        """Whether nothing that S has shaped goes into the result: not the start, nor a teacher, nor S itself."""
        return self.replaces and alpha == 1 and not self.objective.needs_teacher and not self.uses_forget

    def begins_at_base(self, alpha: float, *, known: bool) -> bool:
        """Whether the fine-tuning begins at the base model, bit for bit, where that is known."""
        return self.replaces and self.uses_base and alpha == 1 and known

    def moves(self, alpha: float) -> bool:
        """Whether it changes weights other than by training them."""
        unmoved = self.start is starts.original or (self.alpha is not None and alpha == 0)
        return not unmoved or self.disturbs
