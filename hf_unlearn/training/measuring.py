"""What a trainer measures: models on sets of records, and what that costs; and a part of them during the training."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase, TrainerState

from ..data.arrow_tables import AnyDataset, column_names, require_columns
from ..errors import InputError
from ..evaluation.generation import check_writes, generation_tables
from ..evaluation.measured_sets import EvidenceSets, attack_scores
from ..evaluation.report import SetName
from ..evaluation.score_cache import score_once
from ..evaluation.statistics import membership_auc
from ..machine_faults import measuring_memory, telling_memory
from ..methods.table import CHOICES, find_method
from ..models.loading import Model
from ..models.tasks import TASKS, Task
from .callbacks import StopWhenForgotten
from .config import UnlearningConfig
from .cost import CostMeter

Tables = dict[SetName, pa.Table]


class Measuring:
    """Scores models and lets them write, and adds up the cost by the operations per token of a forward pass."""

    def __init__(
        self,
        args: UnlearningConfig,
        tokenizer: PreTrainedTokenizerBase,
        context: Callable[[], AbstractContextManager],
        cost: CostMeter,
        flops: Callable[[], float],
    ):
        self.args, self.tokenizer, self.context, self.cost, self.flops = args, tokenizer, context, cost, flops

    def score(self, sets: EvidenceSets, model: Model, *, kept: bool = False) -> Tables:
        """Score a model, or read what an earlier run ``kept`` of the same weights and records."""
        started, tokens = time.perf_counter(), sets.tokens
        with telling_memory(measuring_memory(self.args)):
            if kept:
                tables, tokens = score_once(sets, model, self.context)
            else:
                tables = sets.score(model, self.context)
        flops = self.flops()
        self.cost.measured(time.perf_counter() - started, flops * tokens, flops * (sets.tokens - tokens))
        return tables

    def write_on(self, sets: EvidenceSets, model: Model) -> Tables:
        """Let a model continue some records, where that is asked for; raises InputError where the memory is small."""
        started = time.perf_counter()
        with telling_memory(measuring_memory(self.args)):
            tables, tokens = self._written(sets, model)
        self.cost.measured(time.perf_counter() - started, self.flops() * tokens)
        return tables

    def uncounted(self, sets: EvidenceSets, model: Model) -> tuple[Tables, Tables]:
        """What a model scores and writes that is no part of what unlearning costs."""
        tables, _ = score_once(sets, model, self.context)
        generated, _ = self._written(sets, model)
        return tables, generated

    def _written(self, sets: EvidenceSets, model: Model) -> tuple[Tables, int]:
        if not self.args.generate_records:
            return {}, 0
        records, seed = self.args.generate_records, self.args.seed
        return generation_tables(model, sets, self.tokenizer, records=records, seed=seed, context=self.context)


class Watching:
    """Scores some records while the model is trained, for the log and for the rule that stops the training, if any."""

    def __init__(self, measuring: Measuring, sets: EvidenceSets, stopping: StopWhenForgotten | None):
        self.measuring, self.sets, self.stopping = measuring, sets, stopping
        self._base: Tables | None = None

    def begin(self, original: Model, load_base: Callable[[], Model | None]) -> None:
        """Score what the stopping rule compares with: the original, and its base where that can be measured."""
        if self.stopping is None:
            return
        tables = self.measuring.score(self.sets, original)
        if (base := load_base()) is not None:
            self._base = self.measuring.score(self.sets, base)
        self.stopping.watch(attack_scores(tables, self._base), self.sets.blind(self.measuring.args.seed))

    def look(self, model: Model, state: TrainerState) -> dict[str, float]:
        """Score the model as it is now, for the log.

        That is the mean losses of S, H and L in nats, the membership AUC by the loss with its 90 % interval, and what
        the stopping rule finds.
        """
        tables, measured = self.measuring.score(self.sets, model), {}
        for name in ("forget", "holdout", "retained"):
            if name in tables:
                measured[f"{name}_loss"] = float(np.mean(tables[name]["loss"].to_numpy()))
        found = attack_scores(tables, self._base)
        if found is not None:
            auc = membership_auc(-found.forget["loss"], -found.holdout["loss"], confidence=0.90)
            measured |= {
                "membership_auc": auc.value,
                "membership_auc_low": auc.low,
                "membership_auc_high": auc.high,
            }
            if self.stopping is not None:
                measured |= self.stopping.look(found, state)
        return measured


def check_measures(
    task: Task, config: UnlearningConfig, bits: Literal[4, 8] | None, forget: AnyDataset | None = None
) -> None:
    """Raise InputError where the measurements or the method do not fit a model or S; ``bits`` are of its weights."""
    if config.corrected_label_column is not None:
        if not TASKS[task].classes:
            raise InputError(f"corrected_label_column is for classifiers, and this model is for {task}; leave it out.")
        if forget is not None:
            require_columns([config.corrected_label_column], column_names(forget))
    if config.gradient_norm_attack and bits is not None:
        raise InputError(f"gradient_norm_attack needs a gradient, and weights in {bits} bits have none; leave it out.")
    if config.generate_records:
        check_writes(task)
    if config.method not in CHOICES:
        find_method(config.method, config.start).check_task(task)
