"""From tables of records to the scores that the report holds."""

import math

import numpy as np
import pyarrow as pa

from ..models.tasks import TASKS, Task
from .membership import attack_result
from .report import ArmEntry, GenerationScores, SetName, SetScores
from .statistics import Estimate, clustered_mean, clustered_rate, mean_loss, rate
from .verdict import Scores


def summarise(table: pa.Table, task: Task, sampled: bool) -> SetScores:
    """The scores of a set from its table of records."""
    nll, tokens = table["nll"].to_numpy(), table["tokens"].to_numpy()
    # The unit of sampling: a record, or those of one author or customer together.
    unit = np.unique(table["group"].to_numpy(), return_inverse=True)[1] if "group" in table.column_names else None

    def total(values: np.ndarray) -> np.ndarray:
        return values if unit is None else np.bincount(unit, values)

    def mean(values: np.ndarray) -> Estimate:
        return mean_loss(total(values), total(np.ones(len(values))))

    loss = mean_loss(total(nll), total(tokens))
    if TASKS[task].quality == "accuracy":
        correct = table["correct"].to_numpy()
        one_each = unit is None and bool((tokens == 1).all())
        accuracy = (
            rate(int(correct.sum()), len(correct)) if one_each else clustered_rate(total(correct), total(tokens))
        )
        return SetScores(table.num_rows, loss, accuracy, None, sampled)
    perplexity = Estimate(_exp(loss.value), _exp(loss.low), _exp(loss.high), loss.n)
    probability, exact = mean(np.exp(-table["loss"].to_numpy())), mean(table["exact"].to_numpy())
    strength = None if task == "fill-mask" else mean(table["extraction"].to_numpy())
    return SetScores(table.num_rows, loss, None, perplexity, sampled, probability, exact, strength)


def summarise_generation(table: pa.Table) -> GenerationScores:
    """The scores of a set from its table of :func:`~hf_unlearn.evaluation.generation.measure`, a line or more."""
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    unit = columns.get("group", columns["row"])
    # Of each passage the line with the fewest tokens given.
    first = np.unique(np.stack([columns["row"], columns["passage"]]), axis=1, return_index=True)[1]
    worded = first[~np.isnan(columns["rougeL_recall"][first])]

    def share(lines: np.ndarray, column: str) -> Estimate:
        hits, codes = columns[column][lines].astype(float), np.unique(unit[lines], return_inverse=True)[1]
        trials = np.bincount(codes)
        if (trials == 1).all():
            return rate(int(hits.sum()), len(hits))
        return clustered_rate(np.bincount(codes, hits), trials)

    return GenerationScores(
        records=len(np.unique(columns["row"])),
        rouge_l_recall=clustered_mean(columns["rougeL_recall"][worded], unit[worded]) if len(worded) else None,
        refusal_rate=share(first, "refused"),
        extracted={
            str(prefix): share(np.flatnonzero(columns["prefix"] == prefix), "extracted")
            for prefix in np.unique(columns["prefix"])
        },
    )


def summarise_arm(
    tables: dict[SetName, pa.Table],
    task: Task,
    sampled: set[SetName],
    scores: Scores | None,
    seed: int,
    generated: dict[SetName, pa.Table] | None = None,
) -> ArmEntry:
    """The scores of a model from its tables, one a set, from what the attacks make of S and H, and what it wrote."""
    attacks = {}
    if scores is not None:
        attacks = {
            name: attack_result(scores.forget[name], scores.holdout[name], scores.groups, seed=seed)
            for name in scores.forget
        }
    sets: dict[str, SetScores] = {name: summarise(table, task, name in sampled) for name, table in tables.items()}
    written: dict[str, GenerationScores] = {
        name: summarise_generation(table) for name, table in (generated or {}).items() if table.num_rows
    }
    return ArmEntry(sets, attacks["loss"].auc if attacks else None, attacks, written)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
