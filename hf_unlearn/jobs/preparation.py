"""From the settings of a command to what it works on; whatever can be wrong without a model is found here."""

import copy
import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.console import Console
from transformers import PretrainedConfig

from ..data.alternates_file import AlternatesSettings, alternates_to
from ..data.arrow_tables import AnyDataset, column_names
from ..data.checks import check_fit
from ..data.format import record_format
from ..data.forms import other_forms
from ..data.loading import pick_split
from ..data.request.attempts import AttemptCount
from ..data.split import RetainedSplit
from ..errors import InputError
from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.reach import Reach, Sizes, expected_attacks, reach
from ..evaluation.report import SetName
from ..methods.table import CHOICES, METHODS, find_method, trains_on_forget
from ..models.loading import (
    PEFT_TASKS,
    load_any,
    load_config,
    load_tokenizer,
    loading_of,
    quantised_bits,
    quantization,
    source_task,
)
from ..models.location import ModelSource, locate, on_named_base
from ..models.tasks import Task
from ..models.training_record import DataSource, TrainingRecord, load_record
from ..output_folder import run_identity
from ..publishing.ledger import Ledger
from ..publishing.ledger_of_model import ledger_of, weights_of
from ..sharding.layout import load_sharding
from ..training.config import UnlearningConfig
from ..training.fitted import fitted_reason, inherited_settings
from ..training.lineage import Lineage, find_lineage, fit_to_lineage
from ..training.measuring import check_measures
from ..training.retrained_model import Retraining
from ..training.trained_weights import check_adapter, fit_rate
from ..training.trainer import UnlearningTrainer
from ..training.trainer_data import check_tokens_of, measured_sets
from .console import console, plain, show_split
from .helping.live import show_training
from .settings import DataArguments, ModelArguments, RequestArguments, build
from .splitting import count_attempt, named_data, split_data

# What says how to unlearn, and nothing else.
METHOD_SETTINGS = (
    "method", "alpha", "start", "method_kwargs", "alternates_file", "teacher_dtype", "rewind_checkpoint",
    "base_is_clean",
)  # fmt: skip


def without_method(values: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that say how to unlearn, and how long."""
    return {
        name: value for name, value in values.items() if name not in ("budget", "num_train_epochs", *METHOD_SETTINGS)
    }


@dataclass(frozen=True)
class Preparation:
    """What an unlearning run works on.

    Attributes:
        values: the settings that were given.
        inherited: the training settings that the original's record adds to them.
        config: both together.
        source: the original.
        loading: options of :func:`~hf_unlearn.models.loading.load_model`.
        data: where D came from.
        test: a split to report on.
        ledger: what the original had to forget before; empty where nobody says.
        alternates: what the answers follow from that come in S's place, None without them.
    """

    values: dict[str, Any]
    inherited: dict[str, Any]
    config: UnlearningConfig
    source: ModelSource
    lineage: Lineage
    task: Task
    lora: LoraConfig | None
    loading: dict[str, Any]
    data: DataSource
    parts: RetainedSplit
    test: AnyDataset | None
    ledger: Ledger
    alternates: AlternatesSettings | None = None

    @property
    def made_up(self) -> dict[str, Any]:
        """What belongs to the settings of a run besides those that were given: what is said in S's place, and which H
        in memory it was.
        """
        made: dict[str, Any] = {} if self.alternates is None else {"alternates": self.alternates.in_run()}
        in_memory = [self.values.get(name) for name in ("holdout_ids", "holdout_dataset")]
        if isinstance(self.parts.holdout, Dataset) and any(
            one is not None and not isinstance(one, str) for one in in_memory
        ):
            made["holdout"] = self.parts.holdout._fingerprint
        return made

    @property
    def retraining(self) -> Retraining:
        """What a retrained model has to have been trained on."""
        return Retraining.on(self.parts, self.data, self.source)

    @property
    def sets(self) -> dict[SetName, AnyDataset | None]:
        """The records that models are measured on."""
        return {
            "forget": self.parts.forget,
            "holdout": self.parts.holdout,
            "retained": self.parts.retained,
            "test": self.test,
        }

    def count_attempt(self) -> AttemptCount:
        """As :func:`~hf_unlearn.jobs.splitting.count_attempt`, for the run that the output folder was started for."""
        args, run = build(RequestArguments, self.values), run_identity(self.config.folder)
        return count_attempt(self.parts, args, self.config, run, self.config.method)

    def model_config(self) -> PretrainedConfig:
        """The original's configuration, read without its weights."""
        config, record = load_config(self.source), self.lineage.record
        if self.source.adapter and record is not None and record.labels:
            # That of the model under an adapter knows nothing of the adapter's classes.
            config.id2label = dict(enumerate(record.labels))
        return config

    def evidence(self, sets: dict[SetName, AnyDataset | None]) -> EvidenceSets:
        """Encode sets to measure models on, without loading one."""
        sources = [place for place in (self.source, self.lineage.base) if place is not None]
        in_forms = trains_on_forget(self.config.method)
        return measured_sets(sets, sources, self.model_config(), self.task, self.config, in_forms=in_forms)

    def trainer(self, forget: AnyDataset | None, holdout: AnyDataset | None) -> UnlearningTrainer:
        """A trainer of the original on L, which measures these sets."""
        # A trainer refers to itself, so that of an earlier trial holds its model until it is looked for.
        gc.collect()
        trainer = UnlearningTrainer(
            load_any(self.source, self.task, **self.loading),
            self.config,
            train_dataset=self.parts.retained,
            forget_dataset=forget,
            holdout_dataset=holdout,
            eval_dataset=self.test,
            # PEFT notes in it what it was put on.
            peft_config=copy.deepcopy(self.lora),
            source=self.source,
            task=self.task,
            lineage=self.lineage,
        )
        show_training(trainer, priced=True)
        return trainer


def prepare_run(
    values: dict[str, Any], source: ModelSource | None = None, *, ask_again: bool = False, find_base: bool = True
) -> Preparation:
    """Find the model, its record and its base, split the data, and check that all of it fits; shows what it finds.

    ``source`` is the model where it has been found, and is not dealt into shards; for ``ask_again`` see
    :func:`~hf_unlearn.data.split.split_retained`.

    Raises:
        AlreadyForgotten: there is nothing to do.
        InputError: something does not fit together.
    """
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    if {"budget", "num_train_epochs"} <= set(values):
        raise InputError("--budget and --num_train_epochs both say how long to train; give one of them.")
    if source is None:
        source = located(model_args)
        if load_sharding(source) is not None:
            raise InputError(
                f"{source.public_name!r} is dealt into shards, and this command takes one model; name one of its "
                "adapters, such as the folder shards/0000."
            )
    record, ledger = load_record(source), ledger_of(source) or Ledger()
    inherited = inherited_settings(record, values)
    config = build(UnlearningConfig, {"output_dir": "unlearned", **inherited, **values})
    out = console(config)
    if values.get("method") != "auto":
        print_inherited(out, record, inherited, config)
    source = on_named_base(source, config.base_model_name_or_path, config.base_model_revision)
    model_config = load_config(source)
    task = source_task(source, model_args.task, model_config)
    data, data_source = named_data(data_args, config.folder)
    request_args = build(RequestArguments, values)
    parts = split_data(data, data_source, data_args, request_args, config, ledger, task=task, ask_again=ask_again)
    config.group_column = parts.audit.group_column
    in_reach = words_in_reach(
        parts, config, task, halved=_judges_half(config, config.method), in_forms=trains_on_forget(config.method)
    )
    show_split(out, parts, request_args, in_reach)
    lora = lora_config(model_args, task)
    loading = loading_options(model_args, source)
    check_measures(task, config, loading["bits"] or quantised_bits(model_config), parts.forget)
    test = None
    if data_args.dataset_test_split is not None:
        test = pick_split(data, data_args.dataset_test_split, "dataset_test_split")
    check_fit([parts.retained, parts.forget, parts.holdout, test], source, model_config, task, config.layout)
    alternates = _alternates(config, parts.forget, task, source)
    _warn_of_other_data(out, record, parts, ledger)
    prepared = Preparation(
        values=values,
        inherited=inherited,
        config=config,
        source=source,
        lineage=find_lineage(source, record, config) if find_base else Lineage(record, None, source.adapter),
        task=task,
        lora=lora,
        loading=loading,
        data=replace(data_source, fingerprint=parts.audit.dataset_fingerprint, rows=parts.audit.dataset_rows),
        parts=parts,
        test=test,
        ledger=ledger,
        alternates=alternates,
    )
    if find_base:
        tokenizer = load_tokenizer([place for place in (source, prepared.lineage.base) if place is not None])
        check_tokens_of(list(prepared.sets.values()), tokenizer, prepared.model_config(), task, config)
    return prepared


def words_in_reach(
    parts: RetainedSplit,
    config: UnlearningConfig,
    task: Task | None,
    *,
    halved: bool,
    exact: bool = True,
    in_forms: bool = False,
) -> Reach:
    """Which words a measurement can reach, in other forms too; see :func:`~hf_unlearn.evaluation.reach.reach`.

    Raises InputError where paraphrases are named for other forms and are not there.
    """
    audit = parts.audit
    groups = None if audit.forget_groups is None else (audit.forget_groups, audit.holdout_groups or 0)
    sizes = Sizes(audit.forget_rows, audit.holdout_rows, groups)
    forms = 0
    if in_forms and task is not None:
        forms = len(other_forms([parts.forget, parts.holdout], task, config.layout, config.paraphrase_column))
    attacks = expected_attacks(task, gradient_norm=config.gradient_norm_attack, forms=forms)
    return reach(sizes, config.auc_margin, attacks, halved=halved, exact=exact)


def _judges_half(config: UnlearningConfig, method: str) -> bool:
    """Whether a run looks at one half of S and H and is judged on the other."""
    row = METHODS.get(method)
    return config.stop_when_forgotten or method == "dial" or (row is not None and row.chooses)


def _alternates(
    config: UnlearningConfig, forget: AnyDataset, task: Task, source: ModelSource
) -> AlternatesSettings | None:
    """Where the method prefers invented answers to S: how they were made; raises InputError where they do not fit."""
    if config.method in CHOICES or METHODS[config.method].data.instead != "alternates":
        return None
    path, columns = Path(str(config.alternates_file)), column_names(forget)
    if "input_ids" in columns:
        raise InputError(f"The method {config.method!r} needs the records to forget as texts, not as tokens.")
    settings = alternates_to(forget, record_format(columns, task, **config.layout), path).settings
    if settings.original and settings.weights != weights_of(source):
        raise InputError(
            f"{path} was written by another original than {source.public_name!r}; write it anew with `hf-unlearn "
            "alternates`."
        )
    return settings


def check_needs(run: Preparation) -> None:
    """Raise InputError where a base, a record or whole weights are missing that the method needs."""
    config = run.config
    method = find_method(config.method, config.start)
    fit_to_lineage(config, method, run.lineage)
    adapter, published = run.lineage.adapter or run.lora is not None, config.learning_rate
    fit_rate(config, method, adapter=adapter)
    if config.learning_rate != published:
        console(config).print(
            f"An adapter is trained, so the learning rate is {config.learning_rate:g}. {config.method} was published "
            f"with {published:g} for all weights, at which an adapter hardly moves. --learning_rate sets another."
        )
    check_adapter(config, method, method.resolve_alpha(config.alpha), run.lineage, new=run.lora is not None)


def print_inherited(
    out: Console, record: TrainingRecord | None, inherited: dict[str, Any], config: UnlearningConfig
) -> None:
    """Show what the original's training record adds to the settings, and where they differ from it."""
    shown = ("learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "budget")
    if settings := ", ".join(f"{name}={inherited[name]}" for name in shown if name in inherited):
        out.print(f"From the original's training record, or by default: {settings}.")
    if reason := fitted_reason(record, config):
        out.print(reason)
    if record is not None and record.world_size != config.world_size:
        out.print(
            f"The original was trained by {record.world_size} processes, this is {config.world_size}: with the same "
            f"--per_device_train_batch_size a step sees {config.world_size / record.world_size:.3g} times the records."
        )


def _warn_of_other_data(out: Console, record: TrainingRecord | None, parts: RetainedSplit, ledger: Ledger) -> None:
    if record is None or record.dataset.rows is None:
        return
    # What was forgotten before may be gone from D.
    gone = sum(run.rows for run in ledger.runs) - parts.audit.forgotten_before_rows
    if record.dataset.rows - parts.audit.dataset_rows not in (0, gone):
        out.print(
            f"[bold red]The original was trained on {record.dataset.rows:,} rows, but the data set has "
            f"{parts.audit.dataset_rows:,}.[/] Is this the data set it was trained on?"
        )


# Models


def precision(config: UnlearningConfig) -> AbstractContextManager:
    """What a trainer with these settings enters around its forward passes."""
    if not (config.bf16 or config.fp16):
        return nullcontext()
    return torch.autocast(config.device.type, torch.bfloat16 if config.bf16 else torch.float16)


def located(args: ModelArguments) -> ModelSource:
    if args.model_name_or_path is None:
        raise InputError("Which model? Name a folder or Hub id with --model_name_or_path.")
    return locate(args.model_name_or_path, args.model_revision, trust_remote_code=args.trust_remote_code)


def loading_options(args: ModelArguments, source: ModelSource, training: bool = True) -> dict[str, Any]:
    if args.load_in_4bit and args.load_in_8bit:
        raise InputError("--load_in_4bit and --load_in_8bit exclude each other; give one of them.")
    loading = loading_of(vars(args))
    if (bits := loading["bits"]) is not None:
        if training and not (args.use_peft or source.adapter):
            raise InputError(
                f"--load_in_{bits}bit is for the weights under an adapter; add --use_peft, or name an adapter."
            )
        quantization(bits, args.dtype)
    return loading


def lora_config(args: ModelArguments, task: Task) -> LoraConfig | None:
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


def split(values: dict[str, Any]) -> None:
    """Show what a request would do; nothing is trained or written."""
    data_args, model_args = build(DataArguments, values), build(ModelArguments, values)
    config = build(UnlearningConfig, without_method(values))
    request_args, out = build(RequestArguments, values), console(config)
    ledger, task = _ledger_and_task(model_args, out)
    data, source = named_data(data_args)
    parts = split_data(data, source, data_args, request_args, config, ledger, task=task)
    method = str(values.get("method"))
    in_reach = words_in_reach(
        parts, config, task, halved=_judges_half(config, method), in_forms=trains_on_forget(method)
    )
    show_split(out, parts, request_args, in_reach)


def _ledger_and_task(model_args: ModelArguments, out: Console) -> tuple[Ledger | None, Task | None]:
    """The ledger and the task of the model that a split is for, which need not be there yet."""
    if model_args.model_name_or_path is None:
        return None, model_args.task
    try:
        source = located(model_args)
    except InputError as error:
        out.print(f"This leaves out what the model had to forget before, as the model cannot be read: {plain(error)}")
        return None, model_args.task
    try:
        task = source_task(source, model_args.task)
    except InputError:
        # A split has no need of a model that can be measured.
        task = None
    return ledger_of(source), task
