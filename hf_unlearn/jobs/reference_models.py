"""Reference models, which never saw the records to forget: what an unlearned model is compared with."""

import copy
import json
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig

from ..errors import InputError
from ..evaluation.closeness.compare import HISTOGRAM_FILE
from ..evaluation.references import (
    ARMS,
    REFERENCES_FILE,
    Arm,
    ReferencesReport,
    TrainedReference,
    references_report,
    save_references,
    score_references,
)
from ..methods.table import CHOICES, METHODS
from ..models.loading import PEFT_TASKS, source_task
from ..models.location import ModelSource, locate
from ..models.tasks import Task
from ..models.training_record import RECORD_FILE, TrainingRecord, load_record
from ..output_folder import REFERENCES_FOLDER, SETTINGS_FILE, alone_in, run_settings
from ..training.config import UnlearningConfig
from ..training.fitted import inherited_settings
from ..training.lineage import find_lineage
from ..training.retrained_model import Retraining
from .console import console, plain, print_references
from .helping.live import stage
from .preparation import METHOD_SETTINGS, Preparation, precision, prepare_run
from .settings import ComparisonArguments, ReferencesArguments, RunArguments, build
from .splitting import left_out_of
from .training_runs import train_plainly, unlearn

# What of a run's settings holds for a retraining too, and does not change its result.
HOUSEKEEPING = ("save_strategy", "save_steps", "save_total_limit", "logging_steps", "disable_tqdm")

# What does not make an unlearning another one.
AROUND_IT = {f.name for kind in (RunArguments, ComparisonArguments, ReferencesArguments) for f in fields(kind)}


@dataclass(frozen=True)
class Reference(TrainedReference):
    """One model to train, with the arguments of its :class:`~hf_unlearn.training.config.UnlearningConfig`."""

    arguments: dict[str, Any]


# To train


def plan_references(run: Preparation, arms: list[Arm], seeds: int) -> list[Reference]:
    """The references to train, ``seeds`` of each arm, from the run's own seed on; loads no model."""
    if seeds < 1 or run.config.seed + seeds > 2**32:
        raise InputError(
            f"--seeds {seeds} is not possible; the seeds count from --seed {run.config.seed} to at most 4294967295."
        )
    if not isinstance(run.parts.retained, Dataset):
        raise InputError(
            "References pass over the retained records several times, which a stream does not allow; leave "
            "--dataset_streaming out."
        )
    method, repeating = run.config.method, sorted(set(arms) & {"retrained_unlearned", "unlearned"})
    if method in CHOICES and repeating:
        raise InputError(
            f"The arms {' and '.join(repeating)} repeat one method, and {method!r} chooses it in the run; "
            "name the one that it chose, with its alpha and budget, as the report says."
        )
    if method not in CHOICES and METHODS[method].uses_forget and "retrained_unlearned" in arms:
        raise InputError(
            f"{method!r} trains on the records to forget, which the arm retrained_unlearned must not see; leave that "
            "arm out, and compare with retrained."
        )
    if run.config.stop_when_forgotten and set(arms) != {"retrained"}:
        raise InputError(
            "With stop_when_forgotten the records to forget decide the price of the run, so no other model can be "
            "given the same; leave it out, or ask for --arms retrained alone."
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
        "num_train_epochs": record.planned_epochs,
        "merge_adapter": record.peft is not None and not run.source.adapter,
    }
    made: dict[str, Any] = {"arm": arm, "seed": seed, "split": run.parts.audit.identity()}
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
            # A training that begins at the base has no original whose base could be named.
            dropped = (*METHOD_SETTINGS, "base_model_name_or_path", "base_model_revision")
            given = {name: value for name, value in run.values.items() if name not in dropped}
            arguments = {**inherited_settings(record, given), **given}
        if run.config.budget is not None:
            arguments["num_train_epochs"] = run.config.budget * record.planned_epochs
        arguments.pop("budget", None)
        asked = {name: value for name, value in run.values.items() if name not in AROUND_IT}
        made = {**run_settings(asked, **run.made_up), **made, "original": trained}
    folder = run.config.folder / REFERENCES_FOLDER / f"{arm}-seed{seed}"
    return Reference(arm, seed, folder, made, {**arguments, "output_dir": str(folder), "seed": seed})


def recorded_base(run: Preparation) -> tuple[TrainingRecord, ModelSource]:
    """How the original was trained, and from what; raises InputError where nobody says, or it was from scratch."""
    record, base = run.lineage.record, run.lineage.base
    if record is None:
        raise InputError(
            f"References are trained as {RECORD_FILE} beside the model says, and there is none; train a reference "
            "yourself and name it with --retrained_model."
        )
    if base is None:
        raise InputError(
            "The original was trained from scratch; train a reference yourself and name it with --retrained_model."
        )
    return record, base


@stage("Reference")
def train_reference(run: Preparation, reference: Reference) -> Path:
    """The folder of a reference, which is trained here, from its last checkpoint on, unless it is there already."""
    if reference.finished:
        return reference.folder
    settings = reference.settings
    if reference.arm in ("retrained_unlearned", "unlearned"):
        repeated = run
        if reference.arm == "retrained_unlearned":
            # The configuration that is made last is the one in force, so the other training comes before it.
            start = train_reference(run, plan_reference(run, "retrained", reference.seed))
            source = locate(str(start), trust_remote_code=run.source.trust_remote_code)
            repeated = replace(run, source=source, lineage=find_lineage(source, load_record(source), run.config))
        repeated = replace(repeated, config=build(UnlearningConfig, reference.arguments))
        forget = run.parts.forget if METHODS[run.config.method].uses_forget else None
        unlearn(repeated, settings, forget=forget, holdout=None).save_model()
    else:
        record, base = recorded_base(run)
        recorded = LoraConfig(task_type=PEFT_TASKS[record.task], **record.peft) if record.peft else None
        test, loading = None, run.loading
        if reference.arm == "retrained":
            lora = recorded
            # Few bits are for the weights under an adapter, which may be the run's alone.
            loading = {**loading, "bits": loading["bits"] if lora else None}
        else:
            # PEFT notes in it what it was put on.
            lora, test = recorded if run.source.adapter else copy.deepcopy(run.lora), run.test
        config, retained = build(UnlearningConfig, reference.arguments), run.parts.retained
        assert run.parts.forgotten is not None
        train_plainly(
            base, record.task, record.labels, retained, config, run.data, lora, loading, settings,
            left_out_of(run.parts), run.parts.forgotten.key, test,
        )  # fmt: skip
    # The others must not look for a model that one process is still writing.
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        # With its optimizer a checkpoint is three times the model, and a finished one needs none.
        for checkpoint in reference.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return reference.folder


# To compare with


def own_references(run: Preparation) -> list[TrainedReference]:
    """The trained references in a run's own folder that belong to it; says how many do not."""
    if run.lineage.record is None:
        return []
    folder = run.config.folder / REFERENCES_FOLDER
    found = _found(folder)
    ours = [r for r in found if r.settings == plan_reference(run, r.arm, r.seed).settings]
    if others := len(found) - len(ours):
        console(run.config).print(f"{others} models in {plain(folder)} belong to other settings and are left out.")
    return ours


def named_references(values: dict[str, Any], asked: Retraining, task: Task) -> list[TrainedReference] | None:
    """The references in the folder that the settings name, without loading them; None where they name none.

    Raises:
        InputError: there are none in it, they do another task, or they were trained for another split than this and
            may have seen S.
    """
    named = build(ComparisonArguments, values).references
    if named is None:
        return None
    folder = Path(named)
    found = _found(folder)
    if not found:
        raise InputError(
            f"There are no trained references in {folder}; name the folder {REFERENCES_FOLDER!r} that "
            "`hf-unlearn references` makes in its --output_dir."
        )
    split = asked.audit.identity()
    for reference in found:
        if reference.settings["split"] != split:
            raise InputError(
                f"{reference.folder} was trained for another request or on other data, so it may have seen records to "
                "forget; name references of this request, and the --digest_key_file that they were made with."
            )
        place = locate(str(reference.folder))
        source_task(place, task)
        if reference.arm != "unlearned":
            asked.check(place)
    return found


def named_retrained(name: str, asked: Retraining, task: Task) -> ModelSource:
    """The retrained model that the settings name, without loading it; raises InputError where it is none."""
    place = locate(name)
    source_task(place, task)
    asked.check(place)
    return place


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


def _batch(record: TrainingRecord, config: UnlearningConfig) -> dict[str, int]:
    """The record's batch, in the pieces of the run when they add up to it, since those fit into the memory."""
    batch, steps = ("per_device_train_batch_size", "gradient_accumulation_steps")
    asked = {batch: config.per_device_train_batch_size, steps: config.gradient_accumulation_steps}
    recorded = {name: record.settings[name] for name in (batch, steps)}
    return asked if asked[batch] * asked[steps] == recorded[batch] * recorded[steps] else recorded


def references(values: dict[str, Any]) -> ReferencesReport:
    """Train the reference models of a run, score them on its records, and show what they make of S and H."""
    asked = build(ReferencesArguments, values)
    if not 0 <= asked.delta < 1:
        raise InputError(f"--delta {asked.delta} is not possible; it must be 0 or more and below 1.")
    prepared = prepare_run({"method": "auto", **values})
    config = prepared.config
    out = console(config)
    planned = plan_references(prepared, cast(list[Arm], asked.arms), asked.seeds)
    # What the records cannot be read with is found before the first of them is trained.
    evidence = prepared.evidence(prepared.sets)
    if config.stop_when_forgotten:
        # The run watches one half of S and of H, and is judged on the other.
        _, evidence = evidence.halves(config.seed)
    with alone_in(config.folder):
        for number, reference in enumerate(planned, start=1):
            out.print(f"Model {number} of {len(planned)}: {reference.arm}, seed {reference.seed}.")
            train_reference(prepared, reference)
        scored = score_references(
            own_references(prepared),
            evidence,
            loading=prepared.loading,
            device=config.device,
            trust_remote_code=prepared.source.trust_remote_code,
            context=lambda: precision(config),
        )
        report = references_report(scored, prepared.task, delta=asked.delta, seed=config.seed)
        folder = config.folder / REFERENCES_FOLDER
        if PartialState().is_main_process:
            save_references(report, scored, folder, config.seed)
    print_references(out, report)
    pictured = f" and {HISTOGRAM_FILE}" if report.closeness else ""
    out.print(f"The models, their tables, {REFERENCES_FILE}{pictured} are in {plain(folder)}.")
    return report
