"""What a method is: a start, data, an objective and a step rule, with the settings it was published with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from ..models.tasks import TASKS, Task
from . import starts, step_rules
from .forget_batches import RETAINED_ALONE, TrainingData
from .objectives import OWN_LOSS
from .step import Objective, Part

ALL_TASKS = tuple(TASKS)
# Of a run that says nothing about how long to train.
DEFAULT_BUDGET = 0.25


@dataclass(frozen=True)
class Method:
    """A way to unlearn.

    Attributes:
        name: as in ``--method``.
        start: where the fine-tuning begins.
        summary: one sentence for the card.
        alpha: the default strength; None where the method has no such setting.
        strength: what alpha is, in words.
        objective: what is made smaller.
        data: what it is made smaller on.
        options: its other settings, ``method_kwargs``, as published.
        rule: what is done between the steps, None for nothing.
        tasks: those that it fits.
        misfit: why it fits no other, in words that follow "because".
        settings: of ``UnlearningConfig``, where the user says nothing; they go before those of
            the original's training record.
        learning_rate_factor: multiplies the learning rate of the original's training record, or the default one.
        budget: of a run that says nothing about how long to train, None for the usual one.
        needs_base: whether the model that the original was fine-tuned from must be known.
        uses_base: whether that model is used where it is known.
        disturbs: whether its rule changes weights in other ways than by keeping them as they were.
        looks: how often each record of a part passes back before the first step; None for once for each class.
        chooses: whether its rule looks at one half of S and H to choose, so that the other half judges.
        trains_block_ends: whether it trains the last matrix of three blocks alone, up to where its objective stops.
        picks_weights: whether it picks single weights of the model, so that all of them must be there to be trained.
        replaces: whether at alpha 1 nothing is left of the original, so that S has not shaped the start.
        source: where it was published, with the published setting.
        ours: how this differs from what was published.
    """

    name: str
    start: starts.Start
    summary: str
    alpha: float | None = None
    strength: str = ""
    objective: Objective = OWN_LOSS
    data: TrainingData = RETAINED_ALONE
    options: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    rule: step_rules.Rule | None = None
    tasks: tuple[Task, ...] = ALL_TASKS
    misfit: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    learning_rate_factor: float = 1.0
    budget: float | None = None
    needs_base: bool = False
    uses_base: bool = False
    disturbs: bool = False
    looks: Mapping[Part, int | None] = field(default_factory=lambda: MappingProxyType({}))
    chooses: bool = False
    trains_block_ends: bool = False
    picks_weights: bool = False
    replaces: bool = False
    source: str = ""
    ours: str = ""

    def resolve_alpha(self, asked: float | None) -> float:
        """The alpha to use; raises InputError when the method has none to set."""
        if self.alpha is not None:
            return self.alpha if asked is None else asked
        if asked is not None:
            raise InputError(f"The method {self.name!r} has no alpha; leave it out, or name a start that has one.")
        return 1.0 if self.replaces else 0.0

    def resolve_options(self, asked: Mapping[str, Any]) -> dict[str, float]:
        """All options, those that were asked for before the published ones.

        Raises:
            InputError: there is no such option, or it is no number.
        """
        for name, value in asked.items():
            if name not in self.options:
                known = f"has {', '.join(self.options)}" if self.options else "has none"
                raise InputError(f"method_kwargs names {name!r}, and the method {self.name!r} {known}.")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"method_kwargs {name}={value!r} is not possible; it must be a finite number.")
        return {**self.options, **{name: float(value) for name, value in asked.items()}}

    def check_task(self, task: Task) -> None:
        """Raise InputError where the method does not fit what a model does."""
        if task not in self.tasks:
            raise InputError(f"The method {self.name!r} does not fit {task}, because {self.misfit}.")

    @property
    def passes(self) -> dict[Part, tuple[int, int]]:
        """How often a record of each part passes through the trained model, forward and back, and a teacher."""
        data, objective = self.data, self.objective
        # Where something is learned in the place of S and nothing compared with it, S itself is not read.
        read: dict[Part, bool] = {
            "forget": data.forget and (data.instead is None or objective.reference),
            "retained": data.retained,
            "instead": data.instead is not None,
        }
        return {
            part: (1, int(objective.needs_teacher and part in objective.told))
            for part, is_read in read.items()
            if is_read
        }

    @property
    def uses_forget(self) -> bool:
        """Whether S enters training batches."""
        return self.data.forget

    def started_as(self, other: "Method") -> "Method":
        """This method from the start of another one.

        Raises:
            InputError: it has a start of its own, or the other has none.
        """
        if self.start is not starts.original or self.alpha is not None:
            raise InputError(f"The method {self.name!r} has a start, or a strength, of its own; leave start out.")
        if other.start in (starts.original, starts.checkpoint):
            raise InputError(
                f"start={other.name!r} is not possible: that method begins at the original, or a checkpoint."
            )
        names = ("start", "alpha", "strength", "needs_base", "uses_base", "replaces")
        taken = {name: getattr(other, name) for name in names}
        looks = {**self.looks, **other.looks}
        return replace(self, looks=looks, picks_weights=self.picks_weights or other.picks_weights, **taken)

    def is_clean(self, alpha: float) -> bool:
        """Whether nothing that S has shaped goes into the result: not the start, nor a teacher, nor S itself."""
        return self.replaces and alpha == 1 and not self.objective.needs_teacher and not self.uses_forget

    def begins_at_base(self, alpha: float, *, known: bool) -> bool:
        """Whether the fine-tuning begins at the model that the original was fine-tuned from, bit for bit.

        Args:
            alpha: the strength.
            known: whether that model is.
        """
        return self.replaces and self.uses_base and alpha == 1 and known

    def moves(self, alpha: float) -> bool:
        """Whether it changes weights other than by training them."""
        unmoved = self.start is starts.original or (self.alpha is not None and alpha == 0)
        return not unmoved or self.disturbs
