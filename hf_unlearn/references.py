"""Reference models, which never saw S: what an unlearned model is compared with, several seeds of each kind."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig

from .arguments import ComparisonArguments, ReferencesArguments, RunArguments, build
from .bases import find_base
from .config import UnlearningConfig
from .data.split import SplitAudit
from .errors import InputError
from .evaluation.cache import score_once
from .evaluation.closeness import FEWEST_MODELS, HISTOGRAM_FILE, Closeness, Tables, closeness, plot_closeness
from .evaluation.evidence import EvidenceSets, attack_scores, save_tables
from .evaluation.outside import outside_attacks
from .evaluation.report import ReferenceEntry, SetName, Spread, UnlearningReport
from .evaluation.statistics import membership_auc
from .files import write_text
from .methods.table import CHOICES, METHODS
from .models.loading import PEFT_TASKS, load_any, load_config, peft_task, task_of, to_device
from .models.location import ModelSource, locate
from .models.tasks import Task
from .models.training_record import RECORD_FILE, TrainingRecord
from .output_folder import REFERENCES_FOLDER, SETTINGS_FILE, is_finished, run_settings
from .preparation import METHOD_SETTINGS, Preparation, inherited_settings, measured_sets
from .saving import TABLES_FOLDER
from .training import train_plainly, unlearn

Arm = Literal["retrained", "retrained_unlearned", "same_budget", "unlearned"]
ARMS: tuple[Arm, ...] = get_args(Arm)
REFERENCES_FILE = "references.json"
REFERENCES_VERSION = 1

# What of a run's settings holds for a retraining too, and does not change its result.
HOUSEKEEPING = ("save_strategy", "save_steps", "save_total_limit", "logging_steps", "disable_tqdm")

# What does not make an unlearning another one.
AROUND_IT = {f.name for kind in (RunArguments, ComparisonArguments, ReferencesArguments) for f in fields(kind)}


@dataclass(frozen=True)
class TrainedReference:
    """One model to compare with.

    Attributes:
        arm: ``retrained``: A(L), trained as the original's record says; ``retrained_unlearned``: that model put
            through the run's own unlearning, U(A(L), {}, L), which Sekhari et al. 2021 (arXiv:2103.03279) compare
            with, and which there is none of where the steps are on S; ``same_budget``: the base trained on L for what
            the run may spend. And ``unlearned``, which did see S and is what the others are for: the run's own
            unlearning of the original, U(A(D), S, L).
        seed: of data order, dropout and new weights.
        folder: where it is, or will be.
        settings: what makes it this reference; see :func:`~hf_unlearn.output_folder.is_finished`.
    """

    arm: Arm
    seed: int
    folder: Path
    settings: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it has been trained; raises InputError when its folder holds something else."""
        return is_finished(self.folder, self.settings, RECORD_FILE)


@dataclass(frozen=True)
class Reference(TrainedReference):
    """One model to train.

    Attributes:
        arguments: of its :class:`~hf_unlearn.config.UnlearningConfig`.
    """

    arguments: dict[str, Any]


@dataclass(frozen=True)
class ScoredArm:
    """The models of one arm and what they make of the records.

    Attributes:
        models: in the order of their seeds.
        tables: of each, by set; see :func:`~hf_unlearn.evaluation.scoring.score`.
    """

    models: list[TrainedReference]
    tables: list[dict[SetName, pa.Table]]


@dataclass(frozen=True)
class ReferencesReport:
    """What the models of each arm make of S and H, and how close the unlearned ones are to the others.

    ``references.json`` in the folder of the references is this object.

    Attributes:
        task: what the models do.
        arms: by arm.
        closeness: of the arm ``unlearned`` to each of the others that has enough models.
        schema_version: 1.
    """

    task: Task
    arms: dict[Arm, ReferenceEntry]
    closeness: dict[Arm, Closeness]
    schema_version: int = REFERENCES_VERSION

    def save(self, path: Path) -> None:
        """Write the report, all of it or nothing."""
        write_text(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")


# To train


def plan_references(run: Preparation, arms: list[Arm], seeds: int) -> list[Reference]:
    """The references to train, without loading a model.

    Args:
        run: the run that they are for.
        arms: of which kinds.
        seeds: how many of each; the run's own seed and the next ones.

    Returns:
        By arm and seed.

    Raises:
        InputError: they cannot be trained, or a folder holds something else.
    """
    if seeds < 1 or run.config.seed + seeds > 2**32:
        raise InputError(
            f"--seeds {seeds} is not possible; the seeds count from --seed {run.config.seed} to at most 4294967295."
        )
    if not isinstance(run.parts.retained, Dataset):
        raise InputError("References pass over L as often as the original over D; leave --dataset_streaming out.")
    repeating = sorted(set(arms) & {"retrained_unlearned", "unlearned"})
    if run.config.method in CHOICES and repeating:
        raise InputError(
            f"The arms {' and '.join(repeating)} repeat one method, and {run.config.method!r} chooses it in the run; "
            "name the one that it chose, with its alpha and budget, as the report says."
        )
    method = run.config.method
    if method not in CHOICES and METHODS[method].uses_forget and "retrained_unlearned" in arms:
        raise InputError(
            f"{method!r} takes its steps on S: without S it has none, and with S the arm retrained_unlearned would "
            "see S and be spoiled where the result is; leave that arm out, and compare with retrained."
        )
    if run.config.stop_when_forgotten and set(arms) != {"retrained"}:
        raise InputError(
            "With stop_when_forgotten the price of the run depends on S, so no other model can be given the same; "
            "leave it out, or ask for --arms retrained alone."
        )
    planned = [plan_reference(run, arm, run.config.seed + i) for arm in dict.fromkeys(arms) for i in range(seeds)]
    starts = [plan_reference(run, "retrained", r.seed) for r in planned if r.arm == "retrained_unlearned"]
    for reference in (*planned, *starts):
        _ = reference.finished
    return planned


def plan_reference(run: Preparation, arm: Arm, seed: int) -> Reference:
    """One reference to train; see :func:`plan_references`."""
    record, base = recorded_base(run)
    retraining = {
        **record.settings,
        **_batch(record, run.config),
        "num_train_epochs": record.epochs,
        "merge_adapter": record.peft is not None and not run.source.adapter,
    }
    made: dict[str, Any] = {"arm": arm, "seed": seed, "split": run.parts.audit.to_dict()}
    trained = {
        "base": [base.name, base.revision],
        "task": record.task,
        "labels": record.labels,
        "peft": record.peft,
        "loading": run.loading,
        **retraining,
    }
    if arm == "retrained":
        kept = {name: run.values[name] for name in HOUSEKEEPING if name in run.values}
        batch = run.config.per_device_eval_batch_size
        arguments = {**retraining, **kept, "use_cpu": run.config.use_cpu, "per_device_eval_batch_size": batch}
        made |= trained
    else:
        arguments = {**run.inherited, **run.values}
        if arm == "same_budget":
            # Training from the base is the plain training; the base is no longer what something else came from.
            dropped = (*METHOD_SETTINGS, "base_model_name_or_path", "base_model_revision")
            given = {name: value for name, value in run.values.items() if name not in dropped}
            arguments = {**inherited_settings(record, given), **given}
        if run.config.budget is not None:
            arguments["num_train_epochs"] = run.config.budget * record.epochs
        arguments.pop("budget", None)
        asked = {name: value for name, value in run.values.items() if name not in AROUND_IT}
        made = {**run_settings(asked, **run.made_up), **made, "original": trained}
    folder = run.config.folder / REFERENCES_FOLDER / f"{arm}-seed{seed}"
    return Reference(arm, seed, folder, made, {**arguments, "output_dir": str(folder), "seed": seed})


def recorded_base(run: Preparation) -> tuple[TrainingRecord, ModelSource]:
    """How the original was trained, and from what.

    Raises:
        InputError: nobody says, or it was trained from scratch.
    """
    if run.record is None:
        raise InputError(
            f"References are trained as {RECORD_FILE} beside the model says, and there is none; train one yourself "
            "and name it with --retrained_model."
        )
    config = run.config
    base = find_base(run.source, run.record, config.base_model_name_or_path, config.base_model_revision)
    if base is None:
        raise InputError(
            "The original was trained from scratch; train a reference yourself and name it with --retrained_model."
        )
    return run.record, base


def train_reference(run: Preparation, reference: Reference) -> Path:
    """Train a reference, go on with it from its last checkpoint, or take the one that is there already.

    Args:
        run: the run that it is for.
        reference: as planned.

    Returns:
        Its folder.
    """
    if reference.finished:
        return reference.folder
    settings, retained = reference.settings, run.parts.retained
    # PEFT notes in it what it was put on.
    lora = copy.deepcopy(run.lora)
    if reference.arm in ("retrained_unlearned", "unlearned"):
        original = run.source
        if reference.arm == "retrained_unlearned":
            # The configuration that is made last is the one in force, so the other training comes before it.
            start = train_reference(run, plan_reference(run, "retrained", reference.seed))
            original = locate(str(start), trust_remote_code=run.source.trust_remote_code)
        config = build(UnlearningConfig, reference.arguments)
        forget = run.parts.forget if METHODS[run.config.method].uses_forget else None
        trainer = unlearn(
            original, run.task, retained, config, lora, run.loading, settings, forget=forget, test=run.test
        )
        trainer.save_model()
    else:
        record, base = recorded_base(run)
        recorded = LoraConfig(task_type=PEFT_TASKS[record.task], **record.peft) if record.peft else None
        test, loading = None, run.loading
        if reference.arm == "retrained":
            lora = recorded
            # Few bits are for the weights under an adapter, which may be the run's alone.
            loading = {**loading, "bits": loading["bits"] if lora else None}
        else:
            lora, test = recorded if run.source.adapter else lora, run.test
        config = build(UnlearningConfig, reference.arguments)
        train_plainly(base, record.task, record.labels, retained, config, run.data, lora, loading, settings, test)
    # The others must not look for a model that one process is still writing.
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        # With its optimizer a checkpoint is three times the model, and a finished one needs none.
        for checkpoint in reference.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return reference.folder


# To compare with


def own_references(run: Preparation) -> tuple[list[TrainedReference], int]:
    """The references in a run's own folder that are trained and belong to it.

    Args:
        run: the run.

    Returns:
        By arm and seed; and how many others there are, which belong to other settings.
    """
    if run.record is None:
        return [], 0
    found = _found(run.config.folder / REFERENCES_FOLDER)
    ours = [r for r in found if r.settings == plan_reference(run, r.arm, r.seed).settings]
    return ours, len(found) - len(ours)


def named_references(folder: Path, audit: SplitAudit) -> list[TrainedReference]:
    """The references in a folder that the user names, without loading them.

    Args:
        folder: as ``hf-unlearn references`` makes it.
        audit: of the split that they are to have been trained for.

    Raises:
        InputError: there are none, or they were trained for another split and may have seen S.
    """
    found = _found(folder)
    if not found:
        raise InputError(
            f"There are no trained references in {folder}; name the folder {REFERENCES_FOLDER!r} that "
            "`hf-unlearn references` makes in its --output_dir."
        )
    split = audit.to_dict()
    for reference in found:
        if reference.settings["split"] != split:
            raise InputError(
                f"{reference.folder} was trained for another request or on other data than this, so it may have seen "
                "S; name references of this one, and the --digest_key_file that they were made with."
            )
    return found


def _found(folder: Path) -> list[TrainedReference]:
    """All trained references in a folder, by arm and seed."""
    found = []
    for path in folder.glob(f"*/{SETTINGS_FILE}"):
        arm, _, seed = path.parent.name.rpartition("-seed")
        if arm in ARMS and seed.isdecimal() and (path.parent / RECORD_FILE).is_file():
            try:
                settings = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                settings = None
            if not isinstance(settings, dict) or "split" not in settings:
                raise InputError(f"{path} cannot be read; delete the folder that it is in, or name other references.")
            found.append(TrainedReference(arm, int(seed), path.parent, settings))
    return sorted(found, key=lambda reference: (ARMS.index(reference.arm), reference.seed))


def check_task(references: Sequence[TrainedReference], task: Task) -> None:
    """Raise InputError where a reference does something else than the model it is compared with."""
    for reference in references:
        place = locate(str(reference.folder))
        task_of(place.name, load_config(place), task, peft=peft_task(place))


def score_references(
    references: Sequence[TrainedReference],
    evidence: EvidenceSets,
    *,
    loading: dict[str, Any],
    device: torch.device,
    trust_remote_code: bool = False,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> dict[Arm, ScoredArm]:
    """Score trained references on the very records that the evidence about a model rests on.

    What was scored once beside a reference may have been other records, so it is scored again.

    Args:
        references: by arm and seed.
        evidence: the records.
        loading: options of :func:`~hf_unlearn.models.loading.load_model`.
        device: to score on.
        trust_remote_code: whether to run code from the models' folders.
        context: makes what is entered around the forward passes.
    """
    found: dict[Arm, ScoredArm] = {}
    for reference in references:
        place = locate(str(reference.folder), trust_remote_code=trust_remote_code)
        model = to_device(load_any(place, evidence.task, **loading), device)
        arm = found.setdefault(reference.arm, ScoredArm([], []))
        arm.models.append(reference)
        tables, _ = score_once(evidence, model, context)
        arm.tables.append(tables)
    return found


def evidence_of(run: Preparation) -> EvidenceSets:
    """The records that the evidence about a run rests on, encoded without loading a model."""
    record, base = recorded_base(run)
    model_config = load_config(run.source)
    if run.source.adapter and record.labels:
        # That of the model under an adapter knows nothing of the adapter's classes.
        model_config.id2label = dict(enumerate(record.labels))
    evidence = measured_sets(run.sets, [run.source, base], model_config, run.task, run.config)
    return evidence.halves(run.config.seed)[1] if run.config.stop_when_forgotten else evidence


def summarise_references(arm: ScoredArm, base: Tables | None = None) -> ReferenceEntry:
    """What the models of one arm make of the records.

    Args:
        arm: the models.
        base: the tables of the base model, for the attack that takes the difficulty of a record into account.
    """
    losses = {
        name: float(np.mean([tables[name]["loss"].to_numpy().mean() for tables in arm.tables]))
        for name in arm.tables[0]
    }
    found: dict[str, list[float]] = {}
    for tables in arm.tables:
        scores = attack_scores(tables, base)
        for attack in scores.forget if scores is not None else ():
            auc = membership_auc(-scores.forget[attack], -scores.holdout[attack])  # type: ignore[union-attr]
            found.setdefault(attack, []).append(auc.value)
    return ReferenceEntry(
        seeds=[model.seed for model in arm.models],
        losses={str(name): loss for name, loss in losses.items()},
        aucs={
            attack: Spread(
                mean=float(np.mean(aucs)),
                deviation=float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
                lowest=min(aucs),
                highest=max(aucs),
            )
            for attack, aucs in found.items()
        },
    )


def references_report(scored: Mapping[Arm, ScoredArm], task: Task, *, delta: float, seed: int) -> ReferencesReport:
    """Sum up what references were trained for.

    Args:
        scored: the models of each arm.
        task: what they do.
        delta: of the definition of epsilon.
        seed: of the halves of the models.
    """
    arms = {arm: summarise_references(found) for arm, found in scored.items()}
    compared: dict[Arm, Closeness] = {
        arm: closeness(scored["unlearned"].tables, scored[arm].tables, delta=delta, seed=seed)
        for arm in scored
        if arm != "unlearned" and _enough(scored, "unlearned") and _enough(scored, arm)
    }
    return ReferencesReport(task, arms, compared)


def save_references(report: ReferencesReport, scored: Mapping[Arm, ScoredArm], folder: Path, seed: int) -> None:
    """Write the report, its picture, and what each model makes of each record, beside the models.

    Args:
        report: of the models.
        scored: the models.
        folder: that of the references.
        seed: of the deals in the picture.
    """
    for arm, found in scored.items():
        for model, tables in zip(found.models, found.tables, strict=True):
            save_tables({arm: tables}, model.folder / TABLES_FOLDER)
    if report.closeness:
        drawn = {str(arm): (scored[arm].tables, found) for arm, found in report.closeness.items()}
        plot_closeness(scored["unlearned"].tables, drawn, folder / HISTOGRAM_FILE, seed=seed)
    report.save(folder / REFERENCES_FILE)


def with_references(
    report: UnlearningReport,
    tables: Mapping[str, Tables],
    scored: Mapping[Arm, ScoredArm],
    *,
    seed: int,
    retrained: str | None,
) -> UnlearningReport:
    """A report with the references, and with the attacks on its models that need retrained ones.

    Args:
        report: the report.
        tables: of its models, by arm.
        scored: the references.
        seed: of what is drawn for the intervals.
        retrained: the place of the report's own retrained model, which is not compared with itself.
    """
    entries = {str(arm): summarise_references(found, tables.get("base")) for arm, found in scored.items()}
    arms = dict(report.arms)
    found = scored.get("retrained", ScoredArm([], []))
    for name, entry in report.arms.items():
        outside = [
            other
            for model, other in zip(found.models, found.tables, strict=True)
            if name != "retrained" or retrained is None or model.folder.resolve() != Path(retrained).resolve()
        ]
        arms[name] = replace(entry, attacks={**entry.attacks, **outside_attacks(tables[name], outside, seed=seed)})
    return replace(report, arms=arms, references=entries)


def _enough(scored: Mapping[Arm, ScoredArm], arm: Arm) -> bool:
    return arm in scored and len(scored[arm].models) >= FEWEST_MODELS


def _batch(record: TrainingRecord, config: UnlearningConfig) -> dict[str, int]:
    """The record's batch, in the pieces of the run when they add up to it, since those fit into the memory."""
    batch, steps = ("per_device_train_batch_size", "gradient_accumulation_steps")
    asked = {batch: config.per_device_train_batch_size, steps: config.gradient_accumulation_steps}
    recorded = {name: record.settings[name] for name in (batch, steps)}
    return asked if asked[batch] * asked[steps] == recorded[batch] * recorded[steps] else recorded
