"""The report on a deletion from a sharded model: what each record's owner was answered before, and is answered now."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from ..data.arrow_tables import AnyDataset
from ..data.split import RetainedSplit
from ..evaluation.assemble import Judging, assemble_report, model_entry
from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.report import (
    CostEntry,
    MethodEntry,
    Road,
    SetName,
    ShardsEntry,
    UnlearningReport,
)
from ..evaluation.verdict import Provenance
from ..models.layers import flops_per_token
from ..models.loading import load_config, load_tokenizer, to_device
from ..models.location import ModelSource
from ..models.tasks import TASKS
from ..models.training_record import DataSource, TrainingRecord
from ..training.config import UnlearningConfig
from ..training.cost import peak_memory_bytes
from ..training.trainer_data import measured_sets
from .deletion import Deletion, reasons, unproven_way
from .layout import Sharding
from .serving import ShardedModel, routed_scores
from .training import answers_alone, base_model

METHOD = "retrain_shards"

Tables = dict[SetName, pa.Table]

# Enough for the mean loss of L and of a test split.
SAMPLE_ROWS = {"sample": 64, "full": 1000}


@dataclass(frozen=True)
class Measured:
    """What models make of the records, by model and set, and what measuring that cost."""

    tables: dict[str, Tables]
    evidence: EvidenceSets
    seconds: float
    flops: float


def measure(
    models: Mapping[str, tuple[ModelSource, Sharding]],
    base: ModelSource,
    parts: RetainedSplit,
    test: AnyDataset | None,
    config: UnlearningConfig,
    key: bytes,
) -> Measured:
    """Score S, H, and a part of L and of the test split, each record as each model answers its owner.

    Args:
        models: that are dealt into adapters of one base, ``unlearned`` and those that it is compared with.
        base: the model under the adapters.
        parts: of the split of D.
        test: a test split.
        config: the settings of the measuring.
        key: that the owners of all models were dealt by.
    """
    started, flops = time.perf_counter(), 0.0
    sets: dict[SetName, AnyDataset | None] = {
        "forget": parts.forget,
        "holdout": parts.holdout,
        "retained": _sample(parts.retained, config),
        "test": None if test is None else _sample(test, config),
    }
    sharding = models.get("original", models["unlearned"])[1]
    model_config = load_config(base)
    if sharding.labels:
        model_config.id2label = dict(enumerate(sharding.labels))
    evidence = measured_sets(sets, [base], model_config, sharding.task, config)
    evidence.sampled |= {"retained"} if sets["retained"] is not parts.retained else set()
    evidence.sampled |= {"test"} if sets["test"] is not test else set()
    tables: dict[str, Tables] = {}
    for arm, (source, its) in models.items():
        model, tokenizer = to_device(base_model(its, base), config.device), load_tokenizer([base])
        served = ShardedModel(source, its, model, tokenizer, key)
        shards = {name: _shards(served, part) for name, part in sets.items() if part is not None}
        tables[arm] = routed_scores(served, evidence, shards)
        if arm == "unlearned" and (not TASKS[its.task].classes or answers_alone(base, its.task, its.labels)):
            # How hard each record is by nature, and whether the base knows S; for the deleted it may answer now.
            alone = ShardedModel(source, replace(its, unknown="base"), model, tokenizer, key)
            nobody: dict[SetName, Sequence[int | None]] = {name: [None] * len(of) for name, of in shards.items()}
            tables["base"] = routed_scores(alone, evidence, nobody)
            flops += alone.tokens * flops_per_token(served.model)[1]
        flops += served.tokens * flops_per_token(served.model)[1]
    return Measured(tables, evidence, time.perf_counter() - started, flops)


def _sample(rows: AnyDataset, config: UnlearningConfig) -> AnyDataset:
    most = SAMPLE_ROWS[config.measure]
    if not isinstance(rows, Dataset) or len(rows) <= most:
        return rows
    return rows.select(np.sort(np.random.default_rng(config.seed).choice(len(rows), most, replace=False)))


def _shards(served: ShardedModel, rows: AnyDataset) -> list[int | None]:
    """The shard that answers each record."""
    assert isinstance(rows, Dataset)
    column = served.sharding.column
    return served.shards_of(rows[column][:] if column in rows.column_names else [None] * len(rows))


def deletion_report(
    deletion: Deletion,
    measured: Measured,
    trained: Sequence[TrainingRecord],
    whole: TrainingRecord,
    parts: RetainedSplit,
    dataset: DataSource,
    original: ModelSource,
    base: ModelSource,
    config: UnlearningConfig,
) -> UnlearningReport:
    """The report on a deletion.

    Args:
        deletion: what was done to each shard.
        measured: what the models make of the records.
        trained: the records of the adapters that were trained again.
        whole: the training record of all adapters together.
        parts: of the split of D.
        dataset: where D came from.
        original: the model from before.
        base: the model under the adapters.
        config: the settings of the measuring.
    """
    audit, flops = parts.audit, sum(one.flops for one in trained)
    retraining = whole.flops if not deletion.dropped or deletion.retrained else None
    report = assemble_report(
        measured.tables,
        measured.evidence,
        Judging(config.auc_margin, config.utility_margin, audit.group_column, config.seed),
        generated={},
        provenance=Provenance(
            start_saw_forget=False,
            stage=f"what the adapters learned, and not what {base.public_name} had learned before",
            duplicates_retained=audit.duplicates_retained,
            near_duplicates_retained=audit.near_duplicates_retained,
            holdout_groups_retained=audit.holdout_groups_retained,
            base_is_clean="stated" if config.base_is_clean else "unchecked",
            other_ways=unproven_way(deletion),
        ),
        original=original,
        base=base,
        dataset=dataset,
        audit=audit,
        method=_method(deletion, trained, whole, base),
        cost=CostEntry(
            seconds=sum(one.seconds for one in trained),
            measuring_seconds=measured.seconds,
            tokens=sum(one.tokens for one in trained),
            flops=flops,
            measuring_flops=measured.flops,
            peak_memory_bytes=peak_memory_bytes(),
            retraining_flops=retraining,
            training_ratio=flops / retraining if retraining else None,
            total_ratio=(flops + measured.flops) / retraining if retraining else None,
        ),
        weights_moved=bool(deletion.retrained or deletion.dropped),
    )
    shards = ShardsEntry(
        adapters=len(deletion.sharding.parts),
        retrained=sorted(deletion.retrained),
        dropped=deletion.dropped,
        kept=len(deletion.kept),
        unproven=deletion.unproven,
        price=deletion.price,
        copies_elsewhere=deletion.copies_elsewhere,
        unknown=deletion.sharding.unknown,
    )
    road = Road("exact", reasons(deletion, base.public_name))
    return replace(report, road=road, shards=shards)


def _method(
    deletion: Deletion, trained: Sequence[TrainingRecord], whole: TrainingRecord, base: ModelSource
) -> MethodEntry:
    settings: dict[str, Any] = dict(whole.settings)
    return MethodEntry(
        name=METHOD,
        summary="The adapters of the shards that held a record of S are trained again without it, or dropped.",
        source="Bourtoule et al. 2021, arXiv:1912.03817, with adapters dealt by owner",
        alpha=None,
        budget=None,
        epochs=whole.epochs,
        steps=sum(one.steps for one in trained),
        seed=deletion.sharding.seed,
        settings=settings,
        lora=whole.peft,
        adapter_of=model_entry(base),
        stopped_early=False,
    )
