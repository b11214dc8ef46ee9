"""From a trainer that has run to its report."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
from peft import PeftModel

from ..data.split import ForgetRows, SplitAudit
from ..evaluation.assemble import Judging, assemble_report, model_entry
from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.report import CurvePoint, MeasuredWeights, MethodEntry, SetName, UnlearningReport
from ..evaluation.utility.comparison import NAMES
from ..evaluation.verdict import BaseIsClean, Provenance
from ..models.classes import class_names_of
from ..models.loading import plain_model
from ..models.location import locate
from ..models.tasks import TASKS
from ..models.training_record import TRAINING_SETTINGS, DataSource, TrainingRecord
from ..models.weights_digest import weights_digest
from ..publishing.ledger_of_model import weights_of
from .callbacks import StopWhenForgotten
from .first_use_of_rows import NEVER, FirstUse, training_identity
from .fitted import fitted_reason
from .method_trainer import MethodTrainer
from .side_channels import other_ways

CURVE_FIELDS = [field.name for field in fields(CurvePoint) if field.name != "step"]


def trainer_report(
    trainer: MethodTrainer,
    tables: dict[str, dict[SetName, pa.Table]],
    generated: dict[str, dict[SetName, pa.Table]],
    evidence: EvidenceSets,
    stopping: StopWhenForgotten,
    *,
    others: Sequence[dict[SetName, pa.Table]],
    chosen_by_forget: bool,
    audit: SplitAudit | None,
    dataset: DataSource,
    retraining: TrainingRecord | None,
    forget_rows: ForgetRows | None,
) -> UnlearningReport:
    """The report on a trainer that has trained and scored its models; scores and texts are by model and set.

    ``others`` are the scores of more retrained models.
    """
    clean = trainer.method.is_clean(trainer.alpha) or _began_before(trainer, forget_rows)
    args = trainer.args
    on_part = args.stop_when_forgotten or chosen_by_forget
    report = assemble_report(
        tables,
        evidence,
        Judging(args.auc_margin, args.utility_margin, args.group_column, args.seed, on_part),
        generated=generated,
        others=others,
        provenance=Provenance(
            start_saw_forget=not clean,
            stage=_stage(trainer),
            duplicates_retained=audit.duplicates_retained if audit else None,
            near_duplicates_retained=audit.near_duplicates_retained if audit else None,
            holdout_groups_retained=audit.holdout_groups_retained if audit else None,
            stopped_by_forget=args.stop_when_forgotten,
            chosen_by_forget=chosen_by_forget,
            base_is_clean=_base_is_clean(trainer, clean),
            trained_on_forget=trainer.method.uses_forget,
            retrained_unrecorded="retrained" in tables and retraining is None,
            other_ways=tuple(other_ways(trainer, evidence, audit)) if clean else (),
        ),
        original=trainer.source,
        base=trainer.base,
        dataset=dataset,
        audit=audit,
        method=_method_entry(trainer, stopping),
        cost=trainer.cost_entry(retraining),
        weights_moved=trainer.weights_moved,
        curve=[
            CurvePoint(int(entry["step"]), *(entry.get(name) for name in CURVE_FIELDS))
            for entry in trainer.state.log_history
            if "forget_loss" in entry
        ],
    )
    return replace(_without_gone(report, trainer), measured=_measured_weights(trainer))


def _without_gone(report: UnlearningReport, trainer: MethodTrainer) -> UnlearningReport:
    """The report without the names of classes that have left the model."""
    if trainer.data.kept_classes is None:
        return report
    kept = set(class_names_of(plain_model(trainer.model).config))
    # Entities are named by their type.
    kept |= {name[2:] for name in kept}
    arms = {}
    for arm, entry in report.arms.items():
        sets = {
            name: replace(scores, recall={label: share for label, share in scores.recall.items() if label in kept})
            for name, scores in entry.sets.items()
        }
        arms[arm] = replace(entry, sets=sets)
    return replace(report, arms=arms)


def _measured_weights(trainer: MethodTrainer) -> MeasuredWeights:
    """The weights as they are now, and the files of those under an adapter."""
    model, files = trainer.accelerator.unwrap_model(trainer.model), None
    if isinstance(model, PeftModel):
        named = model.active_peft_config
        base = trainer.adapter_base or locate(str(named.base_model_name_or_path), named.revision)
        files = weights_of(base)
    return MeasuredWeights(weights_digest(model), str(plain_model(model).dtype).removeprefix("torch."), files)


def _began_before(trainer: MethodTrainer, forget_rows: ForgetRows | None) -> bool:
    """Whether it is proven that the fine-tuning began at a checkpoint from before a row of S was used."""
    record, rewound = trainer.record, trainer.args.rewind_checkpoint
    if record is None or rewound is None or forget_rows is None or trainer.method.objective.needs_teacher:
        return False
    found = FirstUse.load(Path(rewound), training_identity(record, record.steps))
    trained = record.dataset
    if found is None or (forget_rows.fingerprint, len(found.steps)) != (trained.fingerprint, trained.rows):
        return False
    return bool((found.steps[forget_rows.rows] == NEVER).all())


def _stage(trainer: MethodTrainer) -> str:
    """The part of the original's training that a start from the base, random weights or a checkpoint leaves behind."""
    dropped = "" if trainer.data.kept_classes is None else "; classes without a retained record are gone"
    if not _rests_on_base(trainer):
        return f"the whole training, from random weights on{dropped}"
    name = trainer.base.public_name if trainer.base else "the base"
    return f"the fine-tuning of {name}, and not what {name} had learned before{dropped}"


def _rests_on_base(trainer: MethodTrainer) -> bool:
    """Whether a clean start is made of a model that had been trained before; otherwise it is of random weights."""
    rewound = trainer.args.rewind_checkpoint is not None and trainer.base is not None
    return trainer.trained_adapter or trainer.starts_at_base or rewound


def _base_is_clean(trainer: MethodTrainer, clean: bool) -> BaseIsClean | None:
    """What is known before any test about the trained model that a clean start is made of, None without one."""
    if not clean or not _rests_on_base(trainer):
        return None
    return "stated" if trainer.args.base_is_clean else "unchecked"


def _method_entry(trainer: MethodTrainer, stopping: StopWhenForgotten) -> MethodEntry:
    values, adapter = trainer.args.to_dict(), isinstance(trainer.model, PeftModel)
    classes = trainer.model.config.num_labels if adapter and TASKS[trainer.task].classes else None
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
        adapter_of=model_entry(trainer.adapter_base) if adapter else None,
        stopped_early=stopping.stopped,
        stop_reason=stopping.reason,
        checkpoint=Path(rewound).absolute().name if (rewound := trainer.args.rewind_checkpoint) else None,
        start=trainer.args.start,
        options=trainer.options,
        trained_on_forget=trainer.method.uses_forget,
        alternates=trainer.alternates,
        fitted=fitted_reason(trainer.record, trainer.args),
        usefulness=trainer.useful.curve if trainer.useful is not None else None,
        classes=classes,
        repeated=trainer.repeated if trainer.mixed is not None else 0,
    )


def usefulness_words(method: MethodEntry) -> str:
    """Why a training that watched its usefulness ended, in a sentence; empty for another."""
    curve = method.usefulness
    if curve is None:
        return ""
    if not curve or not curve[-1].flattened:
        return "Its usefulness had not flattened at any mark, so it trained as long as it might."
    last, before = curve[-1], curve[-2]
    assert last.gain is not None
    assert last.gain_of is not None
    part = last.gain_of in ("gain", "loss")
    what = "of what had been learned" if part else f"in {NAMES[last.gain_of]}"
    most = f"{100 * last.gain.high:.1f} % {what}" if part else f"{last.gain.high:.2f} {what}"
    start, end = (f"{100 * point.share:.0f}" for point in (before, last))
    found = f"From {start} to {end} % of the original's epochs it gained at most {most}."
    if last.left:
        found = f"At {end} % of the original's epochs at most {most} was left to gain."
    return f"{found} That is within the margin, so the training ended."
