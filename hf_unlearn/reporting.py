"""From a trainer that has run: its training record, and its report."""

from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from .evaluation.assemble import assemble_report, model_entry
from .evaluation.report import CostEntry, CurvePoint, MethodEntry, UnlearningReport
from .evaluation.verdict import BaseIsClean, Provenance
from .first_use import NEVER, FirstUse, training_identity
from .record import TRAINING_SETTINGS, DataSource, TrainingRecord, software_versions
from .retained import ForgetRows, SplitAudit
from .tasks import TASKS

if TYPE_CHECKING:
    from .method_trainer import MethodTrainer
    from .trainer import UnlearningTrainer

CURVE_FIELDS = (
    "forget_loss",
    "holdout_loss",
    "retained_loss",
    "membership_auc",
    "membership_auc_low",
    "membership_auc_high",
    "worst_gap",
    "worst_gap_low",
    "worst_gap_high",
)


def training_record(trainer: "MethodTrainer", dataset: DataSource) -> TrainingRecord:
    """How a trainer has just trained its model, for ``training_record.json``.

    Args:
        trainer: after ``train()``, plainly, from the model that its source names.
        dataset: where the data came from.
    """
    values = trainer.args.to_dict()
    labels = trainer.model.config.id2label if TASKS[trainer.task].classes else None
    return TrainingRecord(
        task=trainer.task,
        labels=[labels[i] for i in sorted(labels)] if labels else None,
        base_model=trainer.source.name if trainer.source else None,
        base_revision=trainer.source.revision if trainer.source else None,
        dataset=dataset,
        settings={name: values[name] for name in TRAINING_SETTINGS},
        peft=trainer.lora,
        seed=trainer.args.seed,
        epochs=trainer.state.epoch or 0.0,
        steps=trainer.state.global_step,
        world_size=trainer.args.world_size,
        tokens=int(trainer.state.num_input_tokens_seen),
        flops=trainer.state.total_flos,
        seconds=trainer.cost.training_seconds,
        software=software_versions(),
    )


def trainer_report(
    trainer: "UnlearningTrainer",
    audit: SplitAudit | None,
    dataset: DataSource,
    reference: TrainingRecord | None,
    forget_rows: ForgetRows | None,
) -> UnlearningReport:
    """The report on a trainer that has trained and scored its models.

    Args:
        trainer: its tables hold the scores.
        audit: of the split.
        dataset: where D came from.
        reference: how the retrained model was trained, None when there is none or it does not say.
        forget_rows: where S is in D, None when nobody says.
    """
    clean = trainer.method.is_clean(trainer.alpha) or _began_before(trainer, forget_rows)
    assert trainer.evidence is not None
    return assemble_report(
        trainer.tables,
        generated=trainer.generated,
        task=trainer.task,
        sampled=trainer.evidence.sampled,
        blind=trainer.evidence.blind(trainer.args.seed),
        seed=trainer.args.seed,
        provenance=Provenance(
            start_saw_forget=not clean,
            stage=_stage(trainer),
            duplicates_retained=audit.duplicates_retained if audit else None,
            near_duplicates_retained=audit.near_duplicates_retained if audit else None,
            stopped_by_forget=trainer.args.stop_when_forgotten,
            chosen_by_forget=trainer.chosen_by_forget,
            base_is_clean=_base_is_clean(trainer, clean),
            trained_on_forget=trainer.method.uses_forget,
        ),
        margin=trainer.args.auc_margin,
        utility_margin=trainer.args.utility_margin,
        group_column=trainer.args.group_column,
        judged_on_part=trainer.args.stop_when_forgotten or trainer.chosen_by_forget,
        original=trainer.source,
        base=trainer.base,
        dataset=dataset,
        audit=audit,
        method=_method_entry(trainer),
        cost=cost_entry(trainer, reference),
        curve=[
            CurvePoint(int(entry["step"]), *(entry.get(name) for name in CURVE_FIELDS))
            for entry in trainer.state.log_history
            if "forget_loss" in entry
        ],
        processes=trainer.args.world_size,
    )


def _began_before(trainer: "UnlearningTrainer", forget_rows: ForgetRows | None) -> bool:
    """Whether it is proven that the fine-tuning began at a checkpoint from before a row of S was used."""
    record, rewound = trainer.record, trainer.args.rewind_checkpoint
    if record is None or rewound is None or forget_rows is None or trainer.method.objective.needs_teacher:
        return False
    found = FirstUse.load(Path(rewound), training_identity(record, record.steps))
    trained = record.dataset
    if found is None or (forget_rows.fingerprint, len(found.steps)) != (trained.fingerprint, trained.rows):
        return False
    return bool((found.steps[forget_rows.rows] == NEVER).all())


def _stage(trainer: "UnlearningTrainer") -> str:
    """What a start at the anchor, or at a checkpoint, leaves behind of the original's training."""
    if not _rests_on_base(trainer):
        return "the whole training, from random weights on"
    name = trainer.base.public_name if trainer.base else "the base"
    return f"the fine-tuning of {name}, and not what {name} had learned before"


def _rests_on_base(trainer: "UnlearningTrainer") -> bool:
    """Whether a clean start is made of a model that had been trained before; otherwise it is of random weights."""
    rewound = trainer.args.rewind_checkpoint is not None and trainer.base is not None
    return trainer.trained_adapter or trainer.starts_at_base or rewound


def _base_is_clean(trainer: "UnlearningTrainer", clean: bool) -> BaseIsClean | None:
    """What is known before any test about the trained model that a clean start is made of, None without one."""
    if not clean or not _rests_on_base(trainer):
        return None
    return "stated" if trainer.args.base_is_clean else "unchecked"


def _method_entry(trainer: "UnlearningTrainer") -> MethodEntry:
    values = trainer.args.to_dict()
    return MethodEntry(
        name=trainer.method.name,
        summary=trainer.method.summary,
        source=trainer.method.source,
        alpha=trainer.alpha,
        budget=trainer.args.budget,
        epochs=trainer.state.epoch,
        steps=trainer.state.global_step,
        seed=trainer.args.seed,
        settings={name: values[name] for name in TRAINING_SETTINGS},
        lora=trainer.lora,
        adapter_of=model_entry(trainer.adapter_base) if isinstance(trainer.model, PeftModel) else None,
        stopped_early=trainer.stopping.stopped,
        stop_reason=trainer.stopping.reason,
        plateau=trainer.stopping.plateau,
        checkpoint=Path(rewound).absolute().name if (rewound := trainer.args.rewind_checkpoint) else None,
        start=trainer.args.start,
        options=trainer.options,
        trained_on_forget=trainer.method.uses_forget,
        alternates=trainer.alternates,
    )


def cost_entry(trainer: "UnlearningTrainer", reference: TrainingRecord | None) -> CostEntry:
    """What a trainer has spent so far, and what retraining costs beside it.

    Args:
        trainer: before, or after ``train()``.
        reference: how the retrained model was trained; else the original's record tells.
    """
    retraining_flops = reference.flops if reference else None
    record, rows = trainer.record, trainer.retained_rows
    if retraining_flops is None and record is not None and rows and record.dataset.rows:
        retraining_flops = record.flops * rows / record.dataset.rows
    training = trainer.state.total_flos
    total = training + trainer.cost.measuring_flops
    return CostEntry(
        seconds=trainer.cost.training_seconds,
        measuring_seconds=trainer.cost.measuring_seconds,
        tokens=int(trainer.state.num_input_tokens_seen),
        flops=training,
        measuring_flops=trainer.cost.measuring_flops,
        peak_memory_bytes=trainer.cost.peak_memory_bytes,
        retraining_flops=retraining_flops,
        training_ratio=training / retraining_flops if retraining_flops else None,
        total_ratio=total / retraining_flops if retraining_flops else None,
        kept_flops=trainer.cost.kept_flops,
    )
