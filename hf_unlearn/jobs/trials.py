"""Trials: trainings to choose from, each in a folder of its own until the choice is saved."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..evaluation.report import CostEntry, Road, TrialEntry, UnlearningReport
from ..files import load_json, save_json
from ..methods.table import METHODS
from ..output_folder import SETTINGS_FILE, TRIALS_FOLDER, is_finished, run_settings, start_folder
from ..training.config import UnlearningConfig
from ..training.fitted import inherited_settings
from ..training.trainer import UnlearningTrainer
from .console import console, print_prices
from .preparation import Preparation
from .prices import estimate
from .settings import build

# Written last: with it a trial is finished.
TRIAL_FILE = "trial.json"

Begin = Callable[[UnlearningTrainer], None]


@dataclass(frozen=True)
class Choice:
    """The run to choose a method for, its settings (see :func:`~hf_unlearn.output_folder.start_folder`), and models
    that were trained on L alone, to compare with.
    """

    run: Preparation
    settings: dict[str, Any]
    retrained: str | None
    more_retrained: Sequence[str] = ()

    def begin(self, *methods: str) -> Begin:
        """What to do once the first trainer has found nothing wrong: show the prices, and say whose folder it is."""

        def begin(trainer: UnlearningTrainer) -> None:
            folder = self.run.config.folder
            if not (folder / SETTINGS_FILE).is_file():
                show_prices(self.run, trainer, methods)
                start_folder(folder, self.settings)
            self.run.count_attempt()

        return begin


@dataclass(frozen=True)
class Trial:
    """One training to try, in a folder of its own name; ``settings`` are what makes it this trial."""

    name: str
    run: Preparation
    settings: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.run.config.folder

    def finished(self) -> TrialEntry | None:
        """What an earlier run has found; raises InputError where the folder holds something else."""
        if not is_finished(self.folder, self.settings, TRIAL_FILE):
            return None
        return load_json(TrialEntry, self.folder / TRIAL_FILE, "trial", cure="delete its folder")

    def keep(self, entry: TrialEntry) -> None:
        """Note what was found, so that it is not tried again, and remove the weights."""
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            save_json(entry, self.folder / TRIAL_FILE)
            for place in self.folder.iterdir():
                if place.is_dir():
                    shutil.rmtree(place)
                elif place.name not in (TRIAL_FILE, SETTINGS_FILE):
                    place.unlink()


def with_method(
    run: Preparation,
    method: str,
    alpha: float | None = None,
    *,
    folder: Path | None = None,
    share: float = 1.0,
    settings: Mapping[str, Any] | None = None,
) -> Preparation:
    """The same run with one method and its settings, in a folder of its own, for a share of what the run may spend."""
    config = run.config
    values = {**run.values, **(settings or {}), "method": method, "output_dir": str(folder or config.output_dir)}
    if alpha is not None:
        values["alpha"] = alpha
    if share != 1:
        if config.max_steps > 0:
            values["max_steps"] = max(1, round(config.max_steps * share))
        if config.budget is not None:
            values["budget"] = config.budget * share
        else:
            values["num_train_epochs"] = config.num_train_epochs * share
    inherited = inherited_settings(run.lineage.record, values)
    # What the split takes for the groups is in no setting.
    made = {**inherited, **values, "group_column": config.group_column}
    return replace(run, values=values, inherited=inherited, config=build(UnlearningConfig, made))


def plan_trial(run: Preparation, name: str, method: str, alpha: float | None = None, share: float = 1.0) -> Trial:
    tried = with_method(run, method, alpha, folder=run.config.folder / TRIALS_FOLDER / name, share=share)
    return Trial(name, tried, run_settings(tried.values, split=run.parts.audit.identity()))


def approximate_obstacle(run: Preparation) -> str | None:
    """Why the weights of this model cannot be moved, None where they can."""
    if run.lora is None or run.config.merge_adapter:
        return None
    return (
        "an approximate way moves the weights under the new adapter, so that the adapter alone would not be the "
        "result; set --merge_adapter"
    )


def show_prices(run: Preparation, trainer: UnlearningTrainer, methods: Sequence[str]) -> None:
    """Show what methods cost, and what is recommended."""
    if (prices := estimate(trainer, [METHODS[name] for name in dict.fromkeys(methods)])) is not None:
        print_prices(console(run.config), prices)


def with_trials(report: UnlearningReport, road: Road, others: Sequence[TrialEntry]) -> UnlearningReport:
    """A report that says which way was taken, with the cost of the trials besides the result's own training."""
    cost = report.cost and total_cost(report.cost, [entry.cost for entry in others])
    return replace(report, road=road, cost=cost)


def total_cost(cost: CostEntry, others: Sequence[CostEntry]) -> CostEntry:
    """What several trainings cost together, beside what retraining costs by the first."""
    every, retraining = [cost, *others], cost.retraining_flops
    names = ("seconds", "measuring_seconds", "tokens", "flops", "measuring_flops", "kept_flops")
    sums = {name: sum(vars(one)[name] for one in every) for name in names}
    return CostEntry(
        **sums,
        peak_memory_bytes=max(one.peak_memory_bytes for one in every),
        retraining_flops=retraining,
        training_ratio=sums["flops"] / retraining if retraining else None,
        total_ratio=(sums["flops"] + sums["measuring_flops"]) / retraining if retraining else None,
    )
