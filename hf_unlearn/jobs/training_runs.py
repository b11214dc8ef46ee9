"""The two trainings that there are: plainly from a base, and unlearning from an original."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from transformers import set_seed

from ..data.arrow_tables import AnyDataset, column_names
from ..data.checks import check_fit, check_head
from ..data.format import record_format
from ..data.labels import class_names
from ..data.loading import pick_split
from ..data.request.digests import key_check, key_path, load_digest_key
from ..data.request.row_filter import row_filter_of
from ..data.split import split_retained
from ..errors import InputError
from ..evaluation.assemble import summarise
from ..evaluation.report import SetName
from ..evaluation.score_cache import score_once
from ..evaluation.wording import MEASURES, show
from ..models.loading import load_any, load_config, load_model, load_tokenizer, source_task, to_device
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import RECORD_FILE, DataSource, LeftOut, TrainingRecord
from ..output_folder import own_folder, run_settings, start_folder
from ..sharding.layout import SHARDING_FILE
from ..training.config import UnlearningConfig
from ..training.saving import last_checkpoint
from ..training.trainer import UnlearningTrainer
from ..training.trainer_data import check_tokens_of, measured_sets
from .console import console, plain
from .helping.live import show_training
from .preparation import Preparation, loading_options, located, lora_config
from .settings import DataArguments, ModelArguments, RequestArguments, TrainArguments, build
from .sharded import check_shards, train_sharded
from .splitting import holdout_rows, left_out_of, named_data, split_data


def train_plainly(
    base: ModelSource,
    task: Task,
    labels: list[str] | None,
    dataset: AnyDataset,
    config: UnlearningConfig,
    source: DataSource,
    lora: LoraConfig | None,
    loading: dict[str, Any],
    settings: dict[str, Any],
    left_out: LeftOut,
    key: bytes,
    test: AnyDataset | None = None,
) -> TrainingRecord:
    """Train a base model on a data set and save it with its training record; goes on from the last checkpoint.

    The folder gets the ``settings`` once the trainer has found nothing wrong, see
    :func:`~hf_unlearn.output_folder.start_folder`, and a filter of the rows that is keyed with ``key``.
    """
    set_seed(config.seed)
    id2label = dict(enumerate(labels)) if labels else None
    model = load_model(base, task, id2label=id2label, new_head=True, **loading)
    trainer = UnlearningTrainer(model, config, dataset, eval_dataset=test, peft_config=lora, source=base, task=task)
    show_training(trainer)
    start_folder(config.folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(config.folder) or False)
    record = trainer.training_record(replace(source, fingerprint=trainer.data_fingerprint, rows=trainer.retained_rows))
    trainer.record = record = replace(record, left_out=left_out)
    trainer.row_filter = row_filter_of(dataset, key)
    trainer.save_model()
    return record


def unlearn(
    run: Preparation,
    settings: dict[str, Any],
    *,
    forget: AnyDataset | None,
    holdout: AnyDataset | None,
    begin: Callable[[UnlearningTrainer], None] | None = None,
) -> UnlearningTrainer:
    """Unlearn, from the last checkpoint on if there is one, and leave the saving to the caller.

    ``begin`` is called once the trainer has found nothing wrong, before anything is written.
    """
    trainer, folder = run.trainer(forget, holdout), run.config.folder
    if begin is not None:
        begin(trainer)
    start_folder(folder, settings)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder) or False)
    return trainer


def train(values: dict[str, Any]) -> None:
    """Train A(D), or A(L), plainly or in shards, and write the training record beside it."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    request_args = build(RequestArguments, values)
    train_args = build(TrainArguments, values)
    config = build(UnlearningConfig, {"output_dir": "original", **values})
    if train_args.shards is not None:
        check_shards(train_args, data_args, config)
        model_args.use_peft = True
    elif train_args.slices != 1:
        raise InputError("--slices needs --shards, into how many adapters the owners are dealt.")
    elif train_args.shard_processes != 1:
        raise InputError("--shard_processes needs --shards, into how many adapters the owners are dealt.")
    out = console(config)
    base = located(model_args)
    config_of_base = load_config(base)
    task = source_task(base, model_args.task, config_of_base)
    data, source = named_data(data_args, config.folder)
    dataset: AnyDataset
    left_out = LeftOut()
    if train_args.train_on == "retained":
        parts = split_data(data, source, data_args, request_args, config, task=task)
        dataset, left_out = parts.retained, left_out_of(parts)
    else:
        dataset = pick_split(data, data_args.dataset_train_split, "dataset_train_split")
        if (held_out := holdout_rows(request_args)) is not None:
            dataset = split_retained(dataset, held_out, duplicates=None).retained
    test = None
    if data_args.dataset_test_split is not None:
        test = pick_split(data, data_args.dataset_test_split, "dataset_test_split")
    check_fit([dataset, test], None, config_of_base, task, config.layout)
    labels = None
    if TASKS[task].classes:
        labels = class_names(dataset, record_format(column_names(dataset), task, **config.layout).label)
        check_head(base, config_of_base, task, len(labels))
        config_of_base.id2label = dict(enumerate(labels))
        config_of_base.label2id = {name: i for i, name in enumerate(labels)}
    check_tokens_of([dataset, test], load_tokenizer([base]), config_of_base, task, config)
    lora = lora_config(model_args, task)
    loading = loading_options(model_args, base)
    folder = config.folder
    fingerprint = dataset._fingerprint if isinstance(dataset, Dataset) else None
    settings = run_settings(values, data=fingerprint)
    key = load_digest_key(key_path(request_args.digest_key_file))
    if train_args.shards is not None:
        # Dealt by another key, half of the adapters would be of other owners.
        settings |= {"owner_key": key_check(key)}
    # What a request changes in the data is in their fingerprint; a stream has none.
    ignored = [one.name for one in fields(RequestArguments)] if fingerprint is not None else []
    last = RECORD_FILE if train_args.shards is None else SHARDING_FILE
    with own_folder(folder, settings, last, ignored) as finished:
        if finished:
            out.print(f"{plain(folder)} holds this training, finished.")
            return
        if train_args.shards is not None:
            assert isinstance(dataset, Dataset)
            train_sharded(values, base, task, labels, dataset, source, settings, left_out)
            return
        record = train_plainly(
            base, task, labels, dataset, config, source, lora, loading, settings, left_out, key, test
        )
        score = _test_score(locate(str(folder)), test, task, config, loading) if test is not None else ""
    out.print(
        f"Trained {plain(base.public_name)} on {record.dataset.rows or 'streamed'} records for {record.epochs:.3g} "
        f"epochs ({record.steps} steps, {record.seconds:.0f} s).{score} The model and its {RECORD_FILE} are in "
        f"{plain(config.output_dir)}."
    )


def _test_score(
    trained: ModelSource, test: AnyDataset, task: Task, config: UnlearningConfig, loading: dict[str, Any]
) -> str:
    """What a trained model makes of the test split, in a sentence."""
    model = load_any(trained, task, **loading)
    # As one measures L, which is the set that every measurement has.
    sets: dict[SetName, AnyDataset | None] = {"retained": test, "forget": None, "holdout": None}
    evidence = measured_sets(sets, [trained], model.config, task, config)
    tables, _ = score_once(evidence, to_device(model, config.device))
    sampled = "retained" in evidence.sampled
    scores = summarise(tables["retained"], task, sampled, evidence.truth().get("retained"), config.seed)
    shown = {"loss": scores.loss} | {
        name.removesuffix(" on").removesuffix(" of"): vars(scores)[measure]
        for measure, name in MEASURES.items()
        if vars(scores)[measure] is not None
    }
    part = "a random part of " if sampled else ""
    found = ", ".join(f"{name} {show(value, 2)}" for name, value in shown.items())
    return f" On {part}the test split ({scores.records:,} records): {found}."
