"""Settings for a training that is shorter than the original's: as many steps, of smaller batches."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..methods.method import DEFAULT_BUDGET
from ..methods.table import find_method
from ..models.training_record import TrainingRecord
from .useful import MARKS, WARMUP

if TYPE_CHECKING:
    from .config import UnlearningConfig

# Records of a step, at least. On an accelerator smaller batches cost more time than they save.
SMALLEST_ON_CPU, SMALLEST = 4, 16
# How much higher the peak of the learning rate may be than the original's.
LARGEST_RISE = 2.0
# Steps to aim at, as a multiple of the original's.
MORE_STEPS = 2
# The method that begins at the base, and the approximate one: auto takes it at its own strength, dial at one that it
# searches for.
EXACT, APPROXIMATE = "base", "shrink_reheat"
# What a choice of a method takes over, before it has chosen.
INHERITED_AS = {"auto": EXACT, "dial": APPROXIMATE}
BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
CONSTANT = ("constant", "constant_with_warmup")


@dataclass(frozen=True)
class Fitted:
    """Training settings by their names, and why, in a sentence."""

    settings: dict[str, Any]
    reason: str


def fitted(asked: Mapping[str, Any], own: int, budget: float, device: str, processes: int = 1) -> Fitted | None:
    """Fit the settings of the original's training to a part of its epochs.

    A quarter of the epochs in the same batches is a quarter of the steps, each at the same rate. Smaller batches give
    twice the number of steps back, in powers of two and down to the smallest. Where that leaves fewer steps than the
    original's, the rate rises with the square root of what is missing, as the noise of Adam's steps does (Malladi et
    al. 2022, arXiv:2205.10287). A tenth of the steps warms up, and the rate falls to zero at the end. S has no part in
    it: only what was asked for counts, not what was reached.

    Args:
        asked: the settings of the original's training, of those its batch, learning rate and schedule.
        own: records of one of its steps.
        budget: epochs, as a fraction of the original's.
        device: the type of the device, such as ``"cpu"``.
        processes: that train together.

    Returns:
        The settings that change; None where the training is not shorter.
    """
    if budget >= 1:
        return None
    batch = min(own, SMALLEST_ON_CPU if device == "cpu" else SMALLEST)
    while MORE_STEPS * batch < own * budget:
        batch *= 2
    batch = min(batch, own)
    rise = min(LARGEST_RISE, max(1.0, (batch / (own * budget)) ** 0.5))
    of_process = -(-batch // processes)
    per_device = min(of_process, asked["per_device_train_batch_size"])
    falls = "linear" if asked["lr_scheduler_type"] in CONSTANT else asked["lr_scheduler_type"]
    rate = "the same learning rate" if rise == 1 else f"{rise:.3g} times its learning rate"
    return Fitted(
        {
            "per_device_train_batch_size": per_device,
            "gradient_accumulation_steps": -(-of_process // per_device),
            "learning_rate": asked["learning_rate"] * rise,
            "warmup_steps": WARMUP,
            "lr_scheduler_type": falls,
        },
        f"The training is fitted to {100 * budget:.3g} % of the original's epochs: {batch} records a step instead of "
        f"{own}, {rate}, and a warm-up.",
    )


def inherited_settings(record: TrainingRecord | None, values: Mapping[str, Any]) -> dict[str, Any]:
    """The training settings that the original's record adds where neither the user nor the method says something.

    A method that trains on L alone gets those fitted to its budget, unless the user sets the batches or the rate.
    """
    if record is None:
        return {}
    name = values.get("method", "auto")
    method = find_method(INHERITED_AS.get(name, name))
    given = {*values, *method.settings}
    inherited = {name: value for name, value in record.settings.items() if name not in given}
    if not method.uses_forget:
        if not {"budget", "num_train_epochs", "max_steps"} & set(values):
            inherited["budget"] = method.budget or DEFAULT_BUDGET
        budget = values.get("budget", inherited.get("budget"))
        if budget is not None and not {*BATCH, "learning_rate"} & given:
            found = fitted(
                record.settings, record.step_records, budget_to_fit(values, budget), _device(values),
                int(os.environ.get("WORLD_SIZE", 1)),
            )  # fmt: skip
            inherited |= {} if found is None else {n: v for n, v in found.settings.items() if n not in given}
    if "learning_rate" in inherited:
        recorded = record.settings["learning_rate"]
        inherited["learning_rate"] = max(inherited["learning_rate"], recorded * method.learning_rate_factor)
    return inherited


def budget_to_fit(values: Mapping[str, Any], budget: float) -> float:
    """The part of the original's epochs that settings are fitted to: where it may end early, the last mark."""
    return min(budget, MARKS[-1]) if values.get("stop_when_useful") else budget


def fitted_reason(record: TrainingRecord | None, args: "UnlearningConfig") -> str:
    """Why the settings of a training differ from the record's; empty where they are not the fitted ones."""
    if record is None or args.budget is None:
        return ""
    share = budget_to_fit(vars(args), args.budget)
    found = fitted(record.settings, record.step_records, share, args.device.type, args.world_size)
    if found is None or any(vars(args)[name] != found.settings[name] for name in BATCH):
        return ""
    return found.reason


def _device(values: Mapping[str, Any]) -> str:
    return "cpu" if values.get("use_cpu") or not torch.accelerator.is_available() else "accelerator"
