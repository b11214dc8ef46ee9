"""The utility that unlearning cost, on records that have nothing to do with S."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from ..models.tasks import TASKS, Task
from .statistics import Estimate, mean_loss

# In this order.
MeasuredOn = Literal["test", "holdout", "retained"]


@dataclass(frozen=True)
class Utility:
    """How much worse a model is than another one on the same records.

    Attributes:
        measured_on: ``test``; ``holdout`` where there is no test split, since neither model saw H; ``retained`` where
            there is neither.
        compared_with: ``retrained``, or ``original`` where there is no retrained model.
        loss_of: ``accuracy``: the other model's accuracy less this one's; ``loss``: by what fraction this one's mean
            loss is the higher one.
        decrease: that number with its 90 % interval; below zero where this model is better.
        margin: fixed before the run.
        word: ``kept`` where the interval lies below the margin (a one-sided test at 5 %), ``lost`` where it lies above
            it, else ``undecided``.
    """

    measured_on: MeasuredOn
    compared_with: Literal["retrained", "original"]
    loss_of: Literal["accuracy", "loss"]
    decrease: Estimate
    margin: float
    word: Literal["kept", "lost", "undecided"]

    @property
    def sentence(self) -> str:
        """The finding in a sentence."""
        found = self.decrease
        unit, sign = ("", 1) if self.loss_of == "accuracy" else (" %", 100)
        value, low, high, margin = (
            f"{sign * number:.{2 if sign == 1 else 1}f}"
            for number in (found.value, found.low, found.high, self.margin)
        )
        worse = "accuracy is lower" if self.loss_of == "accuracy" else "the loss is higher"
        where = {"test": "the test split", "holdout": "held-out records", "retained": "retained records"}[
            self.measured_on
        ]
        finding = {
            "kept": "within the margin",
            "lost": "more than the margin",
            "undecided": "too few records to say whether that is within the margin",
        }[self.word]
        return (
            f"On {where} {worse} by {value}{unit} (90 % interval {low} to {high}{unit}) than the "
            f"{self.compared_with} model's, {finding} of {margin}{unit}."
        )


def utility(tables: Mapping[str, Mapping[Any, pa.Table]], task: Task, margin: float) -> Utility | None:
    """Compare the unlearned model with the retrained one, else with the original, record by record.

    Args:
        tables: by model and set, as scored.
        task: what the models do.
        margin: how much worse it may be: in accuracy, or as a fraction of the loss.

    Returns:
        The comparison, None where there is nothing to compare.
    """
    compared_with: Literal["retrained", "original"] = "retrained" if "retrained" in tables else "original"
    if compared_with not in tables:
        return None
    measured_on = next((name for name in get_args(MeasuredOn) if name in tables["unlearned"]), None)
    if measured_on is None:
        return None
    own, other = tables["unlearned"][measured_on], tables[compared_with][measured_on]
    loss_of: Literal["accuracy", "loss"] = "accuracy" if TASKS[task].quality == "accuracy" else "loss"
    if loss_of == "accuracy":
        decrease = mean_loss(_column(other, "correct") - _column(own, "correct"), _column(own, "tokens"), 0.90)
    else:
        # A ratio of two sums over records, for which mean_loss has the interval.
        decrease = mean_loss(_column(own, "nll") - _column(other, "nll"), _column(other, "nll"), 0.90)
    word: Literal["kept", "lost", "undecided"] = "undecided"
    if decrease.high < margin:
        word = "kept"
    elif decrease.low > margin:
        word = "lost"
    return Utility(measured_on, compared_with, loss_of, decrease, margin, word)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
