"""The commands, each from its settings to its result: split, train, run, evaluate, card, push."""

import json
from pathlib import Path
from typing import Any, Literal

from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers import set_seed

from .arguments import (
    DataArguments,
    EvaluateArguments,
    ModelArguments,
    RequestArguments,
    RunArguments,
    TrainArguments,
    build,
)
from .card import CARD_FILE, write_card
from .checkpoints import last_checkpoint
from .config import UnlearningConfig
from .console import plain, print_audit, print_report
from .data import PaddingCollator, class_names, make_encoder, padding_id, record_format
from .errors import InputError
from .evaluation.assemble import assemble_report
from .evaluation.evidence import evidence_sets, save_tables
from .evaluation.plots import PLOT_FILE, plot_losses
from .evaluation.report import REPORT_FILE, MethodEntry, SetName, UnlearningReport, write_text
from .evaluation.verdict import Provenance
from .fit import check_fit, check_head
from .hub import publish
from .masking import token_masking
from .models import (
    PEFT_TASKS,
    ModelSource,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    peft_task,
    quantization,
    task_of,
    to_device,
)
from .record import RECORD_FILE, DataSource, TrainingRecord, find_base, load_any, load_record
from .reporting import training_record
from .retained import RetainedSplit, split_retained
from .sources import holdout_rows, load_data, pick_split, split_data
from .tables import AnyDataset, column_names
from .tasks import TASKS, Task
from .trainer import UnlearningTrainer

SETTINGS_FILE = "run.json"
DEFAULT_BUDGET = 0.25
REFERENCE_FOLDER = "retrained"
PRIVATE_SETTINGS = ("forget_values", "forget_rows", "holdout_values", "holdout_rows", "hub_token")
# What may change between a run and its repetition: where it is published, and whether.
PUBLISHING_SETTINGS = ("push", "push_anyway", "push_to_existing", "hub_model_id", "hub_private_repo", "hub_token")


def console(config: UnlearningConfig) -> Console:
    """Where results are shown: on the main process only, and not squeezed when they go to a file.

    Args:
        config: making it has told the processes of a launch apart.
    """
    shown = Console(quiet=config.process_index > 0, soft_wrap=True)
    return shown if shown.is_terminal else Console(quiet=shown.quiet, soft_wrap=True, width=120)


# split


def split(values: dict[str, Any]) -> None:
    """Show what a request would do; nothing is trained or written."""
    data_args = build(DataArguments, values)
    config = build(UnlearningConfig, values)
    data, source = load_data(data_args)
    parts = split_data(data, source, data_args, build(RequestArguments, values), config)
    print_audit(console(config), parts.audit)


# train


def train(values: dict[str, Any]) -> None:
    """Train A(D), or A(L), plainly, and write the training record beside it."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    request_args = build(RequestArguments, values)
    config = build(UnlearningConfig, {"output_dir": "original", **values})
    out = console(config)
    data, source = load_data(data_args)
    dataset: AnyDataset
    if build(TrainArguments, values).train_on == "retained":
        dataset = split_data(data, source, data_args, request_args, config).retained
    else:
        dataset = pick_split(data, data_args.dataset_train_split, "dataset_train_split")
        if (held_out := holdout_rows(request_args)) is not None:
            dataset = split_retained(dataset, held_out, duplicates=None).retained
    base = _located(model_args)
    config_of_base = load_config(base)
    task = task_of(base.name, config_of_base, model_args.task, peft=peft_task(base))
    check_fit([dataset], None, config_of_base, task, config.layout)
    labels = None
    if TASKS[task].classes:
        labels = class_names(dataset, record_format(column_names(dataset), task, **config.layout).label)
        check_head(base, config_of_base, task, len(labels))
    lora = _lora(model_args, task)
    loading = _loading(model_args, base)
    folder = config.folder
    fingerprint = dataset._fingerprint if isinstance(dataset, Dataset) else None
    settings = run_settings(values, data=fingerprint)
    if is_finished(folder, settings, RECORD_FILE):
        out.print(f"{plain(folder)} holds this training, finished.")
        return
    trainer = train_plainly(base, task, labels, dataset, config, source, lora, loading, settings)
    record = trainer.record
    assert record is not None
    out.print(
        f"Trained {plain(base.public_name)} on {record.dataset.rows or 'streamed'} records for {record.epochs:.3g} "
        f"epochs ({record.steps} steps, {record.seconds:.0f} s). The model and its {RECORD_FILE} are in "
        f"{plain(config.output_dir)}."
    )


def train_plainly(
    base: ModelSource,
    task: Task,
    labels: list[str] | None,
    dataset: AnyDataset,
    config: UnlearningConfig,
    source: DataSource,
    lora: LoraConfig | None,
    loading: dict[str, Any],
    settings: dict[str, Any] | None = None,
) -> UnlearningTrainer:
    """Train a base model on a data set and save it with its training record.

    Args:
        base: what to start from.
        task: what the model is to do.
        labels: the classes of a classifier.
        dataset: the records.
        config: the settings; the method is not used.
        source: where the data came from.
        lora: trains an adapter.
        loading: options of :func:`~hf_unlearn.models.load_model`.
        settings: noted in the output folder once the trainer has found nothing wrong; see :func:`start_folder`.
    """
    set_seed(config.seed)
    id2label = dict(enumerate(labels)) if labels else None
    model = load_model(base, task, id2label=id2label, new_head=True, **loading)
    trainer = UnlearningTrainer(model, config, dataset, peft_config=lora, source=base, task=task)
    if settings is not None:
        start_folder(config.folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(config.folder) or False)
    rows = len(dataset) if isinstance(dataset, Dataset) else None
    fingerprint = dataset._fingerprint if isinstance(dataset, Dataset) else None
    trainer.record = training_record(
        trainer, DataSource(source.name, source.config, source.split, source.revision, fingerprint, rows)
    )
    trainer.save_model()
    return trainer


# run


def run(values: dict[str, Any]) -> UnlearningReport:
    """The main job: split, unlearn, measure, report, card and, if asked, publish."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    request_args, run_args = build(RequestArguments, values), build(RunArguments, values)

    # Everything that can be wrong without a model is found before one is loaded.
    if {"budget", "num_train_epochs"} <= set(values):
        raise InputError("--budget and --num_train_epochs both say how long to train; give one of them.")
    source = _located(model_args)
    record = load_record(source)
    inherited = _inherited(record, values)
    config = build(UnlearningConfig, {"output_dir": "unlearned", **inherited, **values})
    out = console(config)
    _tell_inherited(out, record, inherited, config)
    if run_args.push and config.hub_model_id is None:
        raise InputError("--push needs --hub_model_id, the repository to publish to.")
    data, data_source = load_data(data_args)
    parts = split_data(data, data_source, data_args, request_args, config)
    print_audit(out, parts.audit)
    model_config = load_config(source)
    task = task_of(source.name, model_config, model_args.task, peft=peft_task(source))
    lora = _lora(model_args, task)
    loading = _loading(model_args, source)
    test = None
    if data_args.dataset_test_split is not None:
        test = pick_split(data, data_args.dataset_test_split, "dataset_test_split")
    check_fit([parts.retained, parts.forget, parts.holdout, test], source, model_config, task, config.layout)
    if run_args.retrained_model is not None:
        reference = locate(run_args.retrained_model)
        task_of(reference.name, load_config(reference), task, peft=peft_task(reference))
    if run_args.with_retrained and record is None:
        raise InputError(
            f"--with_retrained trains as {RECORD_FILE} beside the model says, and there is none; train a reference "
            "yourself and name it with --retrained_model."
        )
    _warn_of_other_data(out, record, parts)

    folder, settings = config.folder, run_settings(values, split=parts.audit.to_dict())
    if is_finished(folder, settings, CARD_FILE):
        out.print(f"{plain(folder)} holds this run, finished.")
        report = UnlearningReport.load(folder / REPORT_FILE)
    else:
        report = _unlearn(source, lora, loading, config, run_args, parts, test, task, record, data_source, settings)
    print_report(out, report)
    out.print(f"The model, its card, {REPORT_FILE} and {PLOT_FILE} are in {plain(folder)}.")
    if run_args.push and PartialState().is_main_process:
        _publish(folder, config, run_args, out)
    return report


def _unlearn(
    source: ModelSource,
    lora: LoraConfig | None,
    loading: dict[str, Any],
    config: UnlearningConfig,
    run_args: RunArguments,
    parts: RetainedSplit,
    test: AnyDataset | None,
    task: Task,
    record: TrainingRecord | None,
    data_source: DataSource,
    settings: dict[str, Any],
) -> UnlearningReport:
    trainer = UnlearningTrainer(
        load_any(source, task, **loading),
        config,
        train_dataset=parts.retained,
        forget_dataset=parts.forget,
        holdout_dataset=parts.holdout,
        eval_dataset=test,
        peft_config=lora,
        source=source,
        task=task,
    )
    start_folder(config.folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(config.folder) or False)
    retrained = run_args.retrained_model
    if run_args.with_retrained and record is not None:
        retrained = retrain(record, parts.retained, config, data_source, loading)
    rows = parts.audit.dataset_rows
    fingerprint = parts.audit.dataset_fingerprint
    where = DataSource(
        data_source.name, data_source.config, data_source.split, data_source.revision, fingerprint, rows
    )
    report = trainer.report(audit=parts.audit, dataset=where, retrained=retrained)
    trainer.save_model()
    return report


def retrain(
    record: TrainingRecord,
    retained: AnyDataset,
    config: UnlearningConfig,
    data_source: DataSource,
    loading: dict[str, Any],
) -> str:
    """Train the reference A(L) as the record says A(D) was trained, or take the one that is there already.

    Args:
        record: how A(D) was trained.
        retained: L.
        config: the run's settings: its seed, its output folder.
        data_source: where D came from.
        loading: options of :func:`~hf_unlearn.models.load_model`.

    Returns:
        The folder of the reference.
    """
    folder = config.folder / REFERENCE_FOLDER
    if (folder / RECORD_FILE).is_file():
        return str(folder)
    base = find_base(None, record, None, None)
    if base is None:
        raise InputError(
            "The original was trained from scratch; train a reference and name it with --retrained_model."
        )
    settings = build(
        UnlearningConfig,
        {
            **record.settings,
            "output_dir": str(folder),
            "num_train_epochs": record.epochs,
            "seed": config.seed,
            "use_cpu": config.use_cpu,
            "per_device_eval_batch_size": config.per_device_eval_batch_size,
            **_batch(record, config),
        },
    )
    lora = LoraConfig(task_type=PEFT_TASKS[record.task], **record.peft) if record.peft else None
    train_plainly(base, record.task, record.labels, retained, settings, data_source, lora, loading)
    return str(folder)


def _batch(record: TrainingRecord, config: UnlearningConfig) -> dict[str, int]:
    """The record's batch, in the pieces of the run when they add up to it, since those fit into the memory."""
    batch, steps = ("per_device_train_batch_size", "gradient_accumulation_steps")
    asked = {batch: config.per_device_train_batch_size, steps: config.gradient_accumulation_steps}
    recorded = {name: record.settings[name] for name in (batch, steps)}
    return asked if asked[batch] * asked[steps] == recorded[batch] * recorded[steps] else recorded


def _inherited(record: TrainingRecord | None, values: dict[str, Any]) -> dict[str, Any]:
    """The training settings that the record fills in where the user said nothing."""
    if record is None:
        return {}
    inherited = {name: value for name, value in record.settings.items() if name not in values}
    if not {"budget", "num_train_epochs", "max_steps"} & set(values):
        inherited["budget"] = DEFAULT_BUDGET
    return inherited


def _tell_inherited(
    out: Console, record: TrainingRecord | None, inherited: dict[str, Any], config: UnlearningConfig
) -> None:
    shown = ("learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "budget")
    told = ", ".join(f"{name}={inherited[name]}" for name in shown if name in inherited)
    if told:
        out.print(f"From the original's training record, or by default: {told}.")
    if record is not None and record.world_size != config.world_size:
        out.print(
            f"The original was trained by {record.world_size} processes, this is {config.world_size}: with the same "
            f"--per_device_train_batch_size a step sees {config.world_size / record.world_size:.3g} times the records."
        )


def _warn_of_other_data(out: Console, record: TrainingRecord | None, parts: RetainedSplit) -> None:
    if record is None or record.dataset.rows is None:
        return
    if record.dataset.rows != parts.audit.dataset_rows:
        out.print(
            f"[bold red]The original was trained on {record.dataset.rows:,} rows, but D has "
            f"{parts.audit.dataset_rows:,};[/] is this the data set it was trained on?"
        )


# The output folder


def is_finished(folder: Path, settings: dict[str, Any], last_file: str) -> bool:
    """Whether a folder holds the very run that these settings ask for, to its end.

    Args:
        folder: the output folder.
        settings: what makes a run this run, as :func:`run_settings` gives it.
        last_file: the file that is written last.

    Raises:
        InputError: the folder holds something else.
    """
    require_folder(folder)
    path = folder / SETTINGS_FILE
    if not path.is_file():
        # A kill may have come before the settings had their name.
        if folder.is_dir() and {file.name for file in folder.iterdir()} - {f".{SETTINGS_FILE}.part"}:
            raise InputError(f"{folder} is not empty and holds no run; name another --output_dir.")
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{path} cannot be read; name another --output_dir or delete this one.")
    changed = sorted(name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name))
    if changed:
        raise InputError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); name another --output_dir or delete it."
        )
    return (folder / last_file).is_file()


def require_folder(folder: Path) -> None:
    """Raise InputError where a folder cannot be made because a file is in its way."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"--output_dir {folder} cannot be a folder, {nearest} is a file; name another.")


def run_settings(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What makes a run this run, without ids: what of the request matters is in the digest of the audit."""
    ignored = (*PRIVATE_SETTINGS, *PUBLISHING_SETTINGS, "output_dir")
    return {name: value for name, value in values.items() if name not in ignored} | more


def start_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make the output folder and note what run it belongs to."""
    # Until all have looked into the folder, nobody changes it.
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    PartialState().wait_for_everyone()


def _publish(folder: Path, config: UnlearningConfig, run_args: RunArguments, out: Console) -> None:
    assert config.hub_model_id is not None
    commit = publish(
        folder,
        config.hub_model_id,
        token=config.hub_token,
        private=config.hub_private_repo,
        revision=config.hub_revision,
        push_anyway=run_args.push_anyway,
        push_to_existing=run_args.push_to_existing,
    )
    out.print(f"Published: {commit.commit_url}")


# evaluate


def evaluate(values: dict[str, Any]) -> UnlearningReport:
    """Measure a model that was unlearned elsewhere."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    compare = build(EvaluateArguments, values)
    config = build(UnlearningConfig, {"output_dir": "evaluation", **values})
    out = console(config)
    require_folder(config.folder)
    source = _located(model_args)
    data, data_source = load_data(data_args)
    parts = split_data(data, data_source, data_args, build(RequestArguments, values), config)
    print_audit(out, parts.audit)
    model_config = load_config(source)
    task = task_of(source.name, model_config, model_args.task, peft=peft_task(source))
    test = data_args.dataset_test_split
    sets: dict[SetName, AnyDataset | None] = {
        "forget": parts.forget,
        "holdout": parts.holdout,
        "retained": parts.retained,
        "test": pick_split(data, test, "dataset_test_split") if test is not None else None,
    }
    check_fit(list(sets.values()), source, model_config, task, config.layout)
    names = {"original": compare.original_model, "unlearned": source.name, "retrained": compare.retrained_model}
    places = {arm: source if arm == "unlearned" else locate(name) for arm, name in names.items() if name is not None}
    loading = _loading(model_args, source, training=False)
    tables = {}
    evidence = None
    for arm, place in places.items():
        model = load_any(place, task, **loading)
        if evidence is None:
            tokenizer = load_tokenizer([source, *places.values()])
            encoder = make_encoder(parts.retained, task, model.config, tokenizer, config.max_length, config.layout)
            collator = PaddingCollator(padding_id(tokenizer))
            masking = token_masking(task, tokenizer, config.mlm_probability, config.seed)
            batch_size = config.per_device_eval_batch_size
            evidence = evidence_sets(sets, encoder, collator, task, batch_size, config.seed, masking, tokenizer)
        tables[arm] = evidence.score(to_device(model, config.device))
    assert evidence is not None
    report = assemble_report(
        tables,
        task=task,
        sampled=evidence.sampled,
        blind=evidence.blind(config.seed),
        seed=config.seed,
        provenance=Provenance(None, "", parts.audit.duplicates_retained),
        margin=config.auc_margin,
        judged_on_part=False,
        original=places.get("original"),
        base=None,
        dataset=data_source,
        audit=parts.audit,
        method=UNKNOWN_METHOD,
        cost=None,
        curve=[],
        processes=PartialState().num_processes,
    )
    if PartialState().is_main_process:
        folder = config.folder
        folder.mkdir(parents=True, exist_ok=True)
        save_tables(tables, folder / "tables")
        plot_losses(report, tables, folder / PLOT_FILE)
        report.save(folder / REPORT_FILE)
    print_report(out, report)
    out.print(f"{REPORT_FILE} and {PLOT_FILE} are in {plain(config.output_dir)}.")
    return report


UNKNOWN_METHOD = MethodEntry(
    name="unknown",
    summary="Made by another tool; only measured here.",
    source="",
    alpha=None,
    budget=None,
    epochs=None,
    steps=None,
    seed=None,
    settings={},
    lora=None,
    adapter_of=None,
    stopped_early=False,
)


# card and push


def card(folder: Path) -> None:
    """Write the card of a finished run again, from its report."""
    write_card(folder, UnlearningReport.load(folder / REPORT_FILE))
    print(f"Wrote {folder / CARD_FILE}.")


def push(folder: Path, repo_id: str, **options: Any) -> None:
    """Publish a finished run (see :func:`~hf_unlearn.hub.publish`)."""
    print(f"Published: {publish(folder, repo_id, **options).commit_url}")


# Settings


def _located(args: ModelArguments) -> ModelSource:
    if args.model_name_or_path is None:
        raise InputError("Which model? Name a folder or Hub id with --model_name_or_path.")
    return locate(args.model_name_or_path, args.model_revision, trust_remote_code=args.trust_remote_code)


def _loading(args: ModelArguments, source: ModelSource, training: bool = True) -> dict[str, Any]:
    if args.load_in_4bit and args.load_in_8bit:
        raise InputError("--load_in_4bit and --load_in_8bit exclude each other; give one of them.")
    bits: Literal[4, 8] | None = 4 if args.load_in_4bit else 8 if args.load_in_8bit else None
    if bits is not None:
        if training and not (args.use_peft or source.adapter):
            raise InputError(
                f"--load_in_{bits}bit is for the weights under an adapter; add --use_peft, or name an adapter."
            )
        quantization(bits, args.dtype)
    return {"dtype": args.dtype, "attn_implementation": args.attn_implementation, "bits": bits}


def _lora(args: ModelArguments, task: Task) -> LoraConfig | None:
    if not args.use_peft:
        return None
    if task not in PEFT_TASKS:
        raise InputError(f"PEFT knows no adapters for {task}; leave --use_peft out.")
    return LoraConfig(
        task_type=PEFT_TASKS[task],
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=args.lora_target_modules,
    )
