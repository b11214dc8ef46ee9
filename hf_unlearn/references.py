"""Reference models, which never saw S: what an unlearned model is compared with, several seeds of each kind."""

import copy
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig

from .arguments import build
from .config import UnlearningConfig
from .errors import InputError
from .evaluation.cache import score_once
from .evaluation.evidence import EvidenceSets, attack_scores, save_tables
from .evaluation.report import SetName
from .evaluation.statistics import membership_auc
from .folders import REFERENCES_FOLDER, is_finished, run_settings
from .models import PEFT_TASKS, ModelSource, locate, to_device
from .preparation import Preparation, measured_sets
from .record import RECORD_FILE, TrainingRecord, find_base, load_any
from .trainer import TABLES_FOLDER
from .training import train_plainly, unlearn

Arm = Literal["retrained", "retrained_unlearned", "same_budget"]
ARMS: tuple[Arm, ...] = get_args(Arm)

# What of a run's settings holds for a retraining too, and does not change its result.
HOUSEKEEPING = ("save_strategy", "save_steps", "save_total_limit", "logging_steps", "disable_tqdm")


@dataclass(frozen=True)
class Reference:
    """One model to train.

    Attributes:
        arm: ``retrained``: A(L), trained as the original's record says; ``retrained_unlearned``: that model put
            through the run's own unlearning, U(A(L), {}, L), which Sekhari et al. 2021 (arXiv:2103.03279) compare
            with; ``same_budget``: the base trained on L for what the run may spend.
        seed: of data order, dropout and new weights.
        folder: where it is, or will be.
        arguments: of its :class:`~hf_unlearn.config.UnlearningConfig`.
        settings: what makes it this reference; see :func:`~hf_unlearn.folders.is_finished`.
    """

    arm: Arm
    seed: int
    folder: Path
    arguments: dict[str, Any]
    settings: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it has been trained; raises InputError when its folder holds something else."""
        return is_finished(self.folder, self.settings, RECORD_FILE)


@dataclass(frozen=True)
class ArmSummary:
    """What the references of one arm make of S and H.

    Attributes:
        seeds: of the models.
        auc: the mean of their membership AUCs, None without H.
        auc_deviation: the AUCs' standard deviation over the seeds, None for one seed or without H.
        auc_lowest, auc_highest: the extremes, None without H.
        forget_loss, holdout_loss: mean loss of a record of S and of H over all models, in nats; None without H.
    """

    seeds: tuple[int, ...]
    auc: float | None
    auc_deviation: float | None
    auc_lowest: float | None
    auc_highest: float | None
    forget_loss: float
    holdout_loss: float | None


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
    if run.config.stop_when_forgotten and set(arms) != {"retrained"}:
        raise InputError(
            "With stop_when_forgotten the price of the run depends on S, so no reference can be given the same; leave "
            "it out, or ask for --arms retrained alone."
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
        if run.config.budget is not None:
            arguments["num_train_epochs"] = run.config.budget * record.epochs
        dropped = ["budget"]
        if arm == "same_budget":
            # Training from the base is the plain training; the base is no longer what something else came from.
            dropped += ["method", "alpha", "base_model_name_or_path", "base_model_revision"]
        arguments = {name: value for name, value in arguments.items() if name not in dropped}
        asked = {name: value for name, value in run.values.items() if name not in ("arms", "seeds")}
        made = {**run_settings(asked), **made, "original": trained}
    folder = run.config.folder / REFERENCES_FOLDER / f"{arm}-seed{seed}"
    return Reference(arm, seed, folder, {**arguments, "output_dir": str(folder), "seed": seed}, made)


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
    if reference.arm == "retrained_unlearned":
        # The configuration that is made last is the one in force, so the other training comes before it.
        start = train_reference(run, plan_reference(run, "retrained", reference.seed))
        original = locate(str(start), trust_remote_code=run.source.trust_remote_code)
        config = build(UnlearningConfig, reference.arguments)
        unlearn(original, run.task, retained, config, lora, run.loading, settings, test=run.test).save_model()
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


def score_references(run: Preparation, planned: list[Reference]) -> dict[Arm, list[dict[SetName, pa.Table]]]:
    """Score trained references on the very records that the run's evidence rests on, and keep the tables beside them.

    Args:
        run: the run that they are for.
        planned: references that have been trained.

    Returns:
        For each arm and seed the tables by set; see :func:`~hf_unlearn.evaluation.scoring.score`.
    """
    found: dict[Arm, list[dict[SetName, pa.Table]]] = {}
    evidence: EvidenceSets | None = None
    for reference in planned:
        place = locate(str(reference.folder), trust_remote_code=run.source.trust_remote_code)
        model = to_device(load_any(place, run.task, **run.loading), run.config.device)
        if evidence is None:
            _, base = recorded_base(run)
            evidence = measured_sets(run.sets, [run.source, base], model.config, run.task, run.config)
            if run.config.stop_when_forgotten:
                evidence = evidence.halves(run.config.seed)[1]
        tables, _ = score_once(evidence, model, lambda: precision(run.config))
        found.setdefault(reference.arm, []).append(tables)
        if PartialState().is_main_process:
            save_tables({reference.arm: tables}, reference.folder / TABLES_FOLDER)
    return found


def precision(config: UnlearningConfig) -> AbstractContextManager:
    """What a trainer with these settings enters around its forward passes."""
    if not (config.bf16 or config.fp16):
        return nullcontext()
    return torch.autocast(config.device.type, torch.bfloat16 if config.bf16 else torch.float16)


def summarise_references(seeds: list[int], scored: list[dict[SetName, pa.Table]]) -> ArmSummary:
    """What the references of one arm make of S and H.

    Args:
        seeds: of the models.
        scored: the tables of each model, by set.
    """
    means = {
        name: float(np.mean([tables[name]["loss"].to_numpy().mean() for tables in scored]))
        for name in ("forget", "holdout")
        if name in scored[0]
    }
    found = [attack_scores(tables) for tables in scored]
    aucs = [membership_auc(-pair.forget["loss"], -pair.holdout["loss"]).value for pair in found if pair is not None]
    return ArmSummary(
        seeds=tuple(seeds),
        auc=float(np.mean(aucs)) if aucs else None,
        auc_deviation=float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        auc_lowest=min(aucs, default=None),
        auc_highest=max(aucs, default=None),
        forget_loss=means["forget"],
        holdout_loss=means.get("holdout"),
    )


def _batch(record: TrainingRecord, config: UnlearningConfig) -> dict[str, int]:
    """The record's batch, in the pieces of the run when they add up to it, since those fit into the memory."""
    batch, steps = ("per_device_train_batch_size", "gradient_accumulation_steps")
    asked = {batch: config.per_device_train_batch_size, steps: config.gradient_accumulation_steps}
    recorded = {name: record.settings[name] for name in (batch, steps)}
    return asked if asked[batch] * asked[steps] == recorded[batch] * recorded[steps] else recorded
