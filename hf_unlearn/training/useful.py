"""A training that ends once more of it would bring little; S has no part in that.

The learning rate stays at its peak until the curve of usefulness has flattened, and falls to zero then. At each mark
the average of the last weights is measured, for the curve of the weights themselves flattens before they do.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..data.masking import TokenMasking
from ..evaluation.measured_sets import EvidenceSets, with_rows
from ..evaluation.report import SetName, UsefulnessPoint
from ..evaluation.scoring import preserved_rng
from ..evaluation.utility.comparison import Utility, utility
from ..evaluation.utility.metrics import Truth
from ..files import typed
from ..models.tasks import TASKS
from .measuring import Tables

# Where usefulness is measured, as fractions of the original's epochs.
MARKS = (0.2, 0.35, 0.5, 0.7)
# Steps of the shortest such training, as a fraction, until the learning rate is at its peak.
WARMUP = 0.1
# Of the steps up to a mark the last fifth is averaged.
AVERAGED = 0.2
# Once the curve has flattened, so many more steps as a fraction of those before, while the rate falls to zero.
DECAY = 0.2
# Records of L that are held out from the training, as a fraction, and at most and at least.
HELD_OUT, MOST_HELD_OUT, FEWEST_HELD_OUT = 0.1, 256, 64
# Records that are trained on and measured, at most.
MOST_TRAINED = 64
AVERAGE_FILE = "average.safetensors"
# Weights that an average is of, at most.
SNAPSHOTS = 32
# The sets, by the names that a comparison knows.
HELD: SetName = "test"
TRAINED: SetName = "retained"
# The columns of a table that a comparison of two models reads.
COMPARED = ("row", "tokens", "nll", "loss", "correct", "predicted")


def held_out_rows(examples: Dataset, seed: int) -> np.ndarray:
    """Which records of L are held out to measure usefulness on, bool of shape (examples,).

    Those with the smallest keyed hashes are, whatever their places in D. The pieces of a document stay together.
    """
    key = seed.to_bytes(8, "little")
    rows = np.array(examples["row"]) if "row" in examples.column_names else np.arange(len(examples))
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    texts = examples.select(first)["input_ids"]
    digests = [hashlib.blake2b(np.array(ids, np.int64).tobytes(), digest_size=8, key=key).digest() for ids in texts]
    number = min(round(HELD_OUT * len(digests)), MOST_HELD_OUT)
    chosen = np.zeros(len(digests), bool)
    chosen[sorted(range(len(digests)), key=digests.__getitem__)[:number]] = True
    return chosen[which]


def usefulness_sets(
    examples: Dataset, held_out: np.ndarray, empty: EvidenceSets, masking: TokenMasking | None, seed: int
) -> EvidenceSets | None:
    """What usefulness is measured on: records that are held out, and some that are trained on.

    None where these are too few to see anything. ``empty`` says how they are measured, ``masking`` what is hidden.
    """
    if held_out.sum() < FEWEST_HELD_OUT:
        return None
    trained = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(~held_out))[:MOST_TRAINED])
    sets: dict[SetName, Dataset] = {}
    for name, rows in ((HELD, np.flatnonzero(held_out)), (TRAINED, trained)):
        part = with_rows(examples.select(rows))
        sets[name] = part if masking is None else masking.fixed(part)
    return replace(empty, sets=sets)


class StableRate:
    """The factor of the learning rate at a step: a warm-up, the peak, and a fall to zero wherever that begins."""

    def __init__(self, warmup: int, decay_from: int, decay_steps: int):
        self.warmup, self.decay_from, self.decay_steps = warmup, decay_from, decay_steps

    @property
    def end(self) -> int:
        """The step at which nothing is left of it."""
        return self.decay_from + self.decay_steps

    def __call__(self, step: int) -> float:
        """The factor of a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return min(1.0, max(0.0, (self.end - step) / self.decay_steps))

    def decay_now(self, step: int) -> None:
        """Begin to fall at a step."""
        self.decay_from, self.decay_steps = step, max(1, round(DECAY * step))


class Average:
    """The mean of a model's trained weights over some steps."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        """Take the weights as they are now in."""
        for name, weight in _trained(model):
            if self.count == 0:
                self.sums[name] = weight.detach().to(torch.float32, copy=True)
            else:
                self.sums[name].add_(weight.detach())
        self.count += 1

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give a model these weights for a while."""
        own = {name: weight.detach().clone() for name, weight in _trained(model)}
        try:
            with torch.no_grad():
                for name, weight in _trained(model):
                    weight.copy_(self.sums[name] / self.count)
            yield
        finally:
            with torch.no_grad():
                for name, weight in _trained(model):
                    weight.copy_(own[name])

    def clear(self) -> None:
        """Forget all weights."""
        self.count, self.sums = 0, {}

    def load(self, folder: Path) -> None:
        """Go on from the sums beside a checkpoint; there are none outside of the steps that are averaged."""
        if not (folder / AVERAGE_FILE).is_file():
            return
        with safe_open(folder / AVERAGE_FILE, "pt") as file:
            self.count = int(file.metadata()["count"])
            self.sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def save(self, folder: Path) -> None:
        """Write the sums beside a checkpoint, where there are any."""
        if self.count:
            save_file(self.sums, folder / AVERAGE_FILE, {"count": str(self.count)})


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


class StopWhenUseful(TrainerCallback, ExportableState):
    """Ends a training once its usefulness has flattened.

    At each mark the average of the last weights is compared with that at the mark before: on held-out records and on
    some that are trained on, in the metric of the task, else in loss as a part of what has been gained since the
    start. Gains get smaller from mark to mark, so the last one bounds what the next would bring. What a classifier
    still gets wrong bounds it, too. Once the interval of the smaller bound lies below the margin on both sets, the
    learning rate falls to zero and the training ends. S and the original have no part in it. Its state travels in the
    checkpoints.

    Args:
        sets: what usefulness is measured on.
        score: scores the model on them.
        margin: as ``utility_margin``.
        budget: epochs of this training at most, as a fraction of a retraining's.
        seed: of the bootstrap that the interval of an F1 needs.

    Attributes:
        curve: what was found at each mark.
        rate: the learning rate's schedule, once the number of steps is known.
    """

    def __init__(
        self, sets: EvidenceSets, score: Callable[[EvidenceSets], Tables], margin: float, budget: float, seed: int
    ):
        self.sets, self.score, self.margin, self.budget, self.seed = sets, score, margin, budget, seed
        self.curve: list[UsefulnessPoint] = []
        self.rate: StableRate | None = None
        self.average = Average()
        self._first: Tables | None = None
        self._last: Tables | None = None

    @property
    def flattened(self) -> bool:
        """Whether the curve has flattened."""
        return bool(self.curve) and self.curve[-1].flattened

    @property
    def earliest(self) -> float:
        """Where it may end at the first chance, as a fraction of its budget."""
        return min(1.0, (1 + DECAY) * MARKS[1] / self.budget)

    @property
    def looks(self) -> int:
        """How often it measures until then."""
        return sum(mark < self.budget for mark in MARKS[:2]) + int(not TASKS[self.sets.task].classes)

    def schedule(self, steps: int) -> StableRate:
        """The learning rate's schedule for a training of so many steps at most."""
        if self.rate is None:
            # A tenth of the shortest training that there may be.
            warmup = max(1, round(WARMUP * steps * min(1.0, MARKS[1] / self.budget)))
            decay_from = min(steps - 1, round(steps / (1 + DECAY)))
            self.rate = StableRate(warmup, decay_from, steps - decay_from)
        return self.rate

    def begin(self) -> None:
        """Measure the start, which the gain in loss counts from, where usefulness is measured in loss."""
        if self._first is None and not TASKS[self.sets.task].classes:
            self._first = self.score(self.sets)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.flattened and self.rate is not None and state.global_step >= self.rate.end:
            # It goes on from the checkpoint that it ended at, and nothing is left to do.
            control.should_training_stop = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.rate is not None
        step, model = state.global_step, kwargs["model"]
        if self.flattened:
            if step >= self.rate.end:
                control.should_training_stop = True
            return
        marks = {round(mark / self.budget * state.max_steps): mark for mark in MARKS if mark < self.budget}
        if (mark := next((at for at in sorted(marks) if at >= step), None)) is None or step >= self.rate.decay_from:
            return
        if step > (1 - AVERAGED) * mark and (mark - step) % max(1, round(AVERAGED * mark / SNAPSHOTS)) == 0:
            self.average.add(model)
        if step == mark:
            with self.average.in_place(model):
                self._look(marks[mark], state)
            self.average.clear()

    def _look(self, share: float, state: TrainerState) -> None:
        """Compare the model as it is with that at the mark before; where the curve has flattened, begin to end."""
        assert self.rate is not None
        with preserved_rng():
            tables = self.score(self.sets)
        bounds, truth = [], self.sets.truth()
        if self._last is not None:
            for name in self.sets.sets:
                of_set = [(self._gain(self._last, tables, name, truth), False)]
                if name in truth:
                    perfect = {name: _all_right(tables[name], truth[name])}
                    of_set.append((self._gain(tables, perfect, name, truth), True))
                bounds.append(min(of_set, key=lambda bound: bound[0].decrease.high))
        flattened = bool(bounds) and all(gain.word == "kept" for gain, _ in bounds)
        gain, left = max(bounds, key=lambda bound: bound[0].decrease.high, default=(None, False))
        losses, shares = ({name: _mean(tables[name], column) for name in tables} for column in ("nll", "correct"))
        self.curve.append(
            UsefulnessPoint(
                share, state.global_step, losses[HELD], losses[TRAINED], shares[HELD], shares[TRAINED],
                None if gain is None else gain.loss_of, None if gain is None else gain.decrease, flattened, left,
            )
        )  # fmt: skip
        self._last = tables
        if flattened:
            self.rate.decay_now(state.global_step)

    def _gain(self, before: Tables, after: Tables, name: SetName, truth: Mapping[SetName, Truth]) -> Utility:
        """How much more useful the second model is on a set."""
        arms = {"unlearned": before, "original": after, "base": self._first}
        part = {arm: {name: found[name]} for arm, found in arms.items() if found is not None}
        found = utility(part, self.sets.task, self.margin, truth=truth, seed=self.seed)
        assert found is not None
        return found

    def state(self) -> dict[str, dict[str, Any]]:
        tables = {name: _listed(found) for name, found in (("first", self._first), ("last", self._last))}
        rate = None if self.rate is None else dict(vars(self.rate))
        curve = [asdict(point) for point in self.curve]
        return {"args": {}, "attributes": {"tables": tables, "rate": rate, "curve": curve}}

    def restore(self, attributes: dict[str, Any], folder: Path) -> None:
        """Continue from the state in a checkpoint and the average beside it."""
        self._first, self._last = (_tables(attributes["tables"][name]) for name in ("first", "last"))
        self.rate = StableRate(**attributes["rate"])
        self.curve = [typed(UsefulnessPoint, point) for point in attributes["curve"]]
        self.average.load(folder)


def _mean(table: pa.Table, column: str) -> float:
    """The mean of a sum of each record, over all predictions."""
    return float(np.sum(table[column].to_numpy()) / np.sum(table["tokens"].to_numpy()))


def _all_right(table: pa.Table, truth: Truth) -> pa.Table:
    """The table of a model that makes no mistake."""
    column = table.schema.get_field_index("predicted")
    return table.set_column(column, "predicted", pa.array(truth.classes, table.schema.field(column).type))


def _listed(tables: Tables | None) -> dict[str, dict[str, list]] | None:
    """Tables as a checkpoint holds them: the columns that a comparison reads."""
    if tables is None:
        return None
    read = {name: [column for column in COMPARED if column in table.column_names] for name, table in tables.items()}
    return {str(name): table.select(read[name]).to_pydict() for name, table in tables.items()}


def _tables(listed: dict[str, dict[str, list]] | None) -> Tables | None:
    if listed is None:
        return None
    return {cast(SetName, name): pa.table(columns) for name, columns in listed.items()}
