"""Models that are dealt into adapters by owner: to train one, to delete from it, and to price that beforehand."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from datasets import Dataset

from ..data.copies.paraphrases import SentenceEncoder
from ..data.loading import pick_split
from ..data.request.digests import key_check, key_path, load_digest_key
from ..data.split import RetainedSplit
from ..errors import InputError
from ..evaluation.assemble import save_evidence
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..evaluation.router_rates import RouterEntry
from ..evaluation.wording import duration
from ..files import save_json
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..models.training_record import RECORD_FILE, DataSource, LeftOut, load_record
from ..output_folder import own_folder, run_identity, run_settings, start_folder
from ..publishing.card import CARD_FILE, write_card
from ..publishing.command import given_settings
from ..publishing.ledger import LEDGER_FILE, Ledger
from ..publishing.ledger_of_model import ledger_of, weights_of, with_note, write_line
from ..sharding.card import write_sharded_card
from ..sharding.deletion import plan_deletion
from ..sharding.layout import (
    MOST_SHARDS,
    MOST_SLICES,
    SHARDING_FILE,
    Sharding,
    Unknown,
    deal,
    owner_key,
    passes,
)
from ..sharding.planning import advice, shard_prices
from ..sharding.report import deletion_report, measure
from ..sharding.router import measured_router
from ..sharding.training import (
    ShardTraining,
    answers_alone,
    record_of_all,
    save_sharding,
    shard_records,
    train_shards,
)
from ..training.config import UnlearningConfig
from .console import console, plain, print_report, show_split, table, terminal
from .helping.live import show_training
from .preparation import lora_config, words_in_reach
from .settings import DataArguments, ModelArguments, RequestArguments, RunArguments, TrainArguments, build
from .splitting import count_attempt, left_out_of, named_data, split_data

# What of a training shapes no weight, or names places of this machine, begins or is like this.
ELSEWHERE = (
    "output_dir", "seed", "hub_", "push_", "logging_", "log_", "save_", "eval_", "run_name", "report_to", "project",
    "disable_tqdm", "use_cpu", "measure", "deepspeed", "fsdp", "base_", "alternates_file", "rewind_checkpoint",
    "resume_", "method", "auc_", "utility_", "group_column", "generate_", "gradient_norm", "paraphrase_", "corrected_",
    "do_", "trackio", "per_device_eval", "stop_when", "budget", "keep_labels",
)  # fmt: skip
# Of the settings of a model, those that shape an adapter.
OF_MODEL = (
    "dtype", "attn_implementation", "load_in_4bit", "load_in_8bit", "lora_r", "lora_alpha", "lora_dropout",
    "lora_target_modules",
)  # fmt: skip
OF_TRAINING = [one.name for one in fields(UnlearningConfig) if one.init and not one.name.startswith(ELSEWHERE)]


def check_shards(args: TrainArguments, data: DataArguments, config: UnlearningConfig) -> None:
    """Raise InputError where a model cannot be dealt into shards as it is asked for."""
    if args.shard_column is None:
        raise InputError("--shards needs --shard_column, the column that says whose a record is.")
    if args.shards is None or not 1 <= args.shards <= MOST_SHARDS:
        raise InputError(f"--shards {args.shards} is not possible; it must be between 1 and {MOST_SHARDS:,}.")
    if not 1 <= args.slices <= MOST_SLICES:
        raise InputError(f"--slices {args.slices} is not possible; it must be between 1 and {MOST_SLICES}.")
    if args.slices > 1 and config.max_steps > 0:
        raise InputError("--max_steps does not go together with --slices; name --num_train_epochs.")
    if data.dataset_streaming:
        raise InputError("--shards needs the whole data set to deal it; leave --dataset_streaming out.")
    _check_processes(args.shard_processes, config)
    for name in ("budget", "stop_when_useful", "train_last_layers", "merge_adapter", "load_best_model_at_end"):
        if vars(config)[name]:
            raise InputError(f"--{name} does not go together with --shards; leave it out.")


def _check_processes(processes: int, config: UnlearningConfig) -> None:
    """Raise InputError where so many processes cannot train shards."""
    if processes < 1:
        raise InputError(f"--shard_processes {processes} is not possible; it must be 1 or more.")
    if config.world_size > 1:
        raise InputError(
            f"Each shard is trained by one process as if it were alone; launch one process with --shard_processes "
            f"{config.world_size}, which starts the others."
        )


def kept_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings that shape an adapter; a later retraining takes these and no others."""
    return {name: value for name, value in sorted(values.items()) if name in (*OF_MODEL, *OF_TRAINING)}


def shard_training(
    sharding: Sharding, base: ModelSource, source: DataSource, values: Mapping[str, Any]
) -> ShardTraining:
    """How an adapter is trained by the settings of its model; of ``values`` only what shapes no weight counts."""
    model_args = build(ModelArguments, {**sharding.settings, "use_peft": True})
    lora = lora_config(model_args, sharding.task)
    assert lora is not None
    own = {one.name for one in fields(UnlearningConfig) if one.init}
    around = {name: value for name, value in values.items() if name in own and name not in OF_TRAINING}
    settings = recorded_settings(sharding)
    dropped = ("method", "group_column", "budget", "base_is_clean", "generate_records", "gradient_norm_attack")
    around = {name: value for name, value in around.items() if name not in dropped and not name.startswith("hub_")}
    return ShardTraining(sharding, base, lora, {**around, **settings}, source)


def _unknown(asked: Unknown | None, base: ModelSource, task: Task, labels: list[str] | None) -> Unknown:
    """What answers to unknown owners; raises InputError where that cannot."""
    if asked == "base" and TASKS[task].classes and not answers_alone(base, task, labels):
        raise InputError(
            f"--unknown_owner base: {base.public_name!r} has no head for {task} with the classes of the data set in "
            "their order; name vote."
        )
    return asked or ("vote" if TASKS[task].classes else "base")


def train_sharded(
    values: dict[str, Any],
    base: ModelSource,
    task: Task,
    labels: list[str] | None,
    dataset: Dataset,
    source: DataSource,
    settings: dict[str, Any],
    left_out: LeftOut,
) -> None:
    """Train one adapter a shard, and write ``sharding.json``, the training record and a card beside them."""
    args, request = build(TrainArguments, values), build(RequestArguments, values)
    config = build(UnlearningConfig, {"output_dir": "original", **values})
    assert args.shards is not None
    assert args.shard_column is not None
    out, folder = console(config), config.folder
    key = load_digest_key(key_path(request.digest_key_file))
    sharding = Sharding(
        task=task,
        labels=labels,
        column=args.shard_column,
        shards=args.shards,
        unknown=_unknown(args.unknown_owner, base, task, labels),
        base=base.name,
        base_revision=base.revision,
        base_weights=weights_of(base),
        seed=config.seed,
        key_check=key_check(key),
        settings=kept_settings(values),
        slices=args.slices,
    )
    dealt = deal(dataset, sharding, key, config.layout)
    training = shard_training(sharding, base, source, values)
    start_folder(folder, settings)
    sharding = train_shards(training, dealt, folder, {}, key, args.shard_processes, show=show_training)
    records = [record for part in sharding.parts for record in shard_records(folder, part)]
    data = DataSource(source.name, source.config, source.split, source.revision, dataset._fingerprint, len(dataset))
    record = record_of_all(records, sharding, data, left_out)
    save_json(record, folder / RECORD_FILE)
    write_sharded_card(folder, sharding)
    save_sharding(sharding, folder)
    sizes = [part.rows for part in sharding.parts]
    out.print(
        f"Trained {len(sizes):,} adapters of {plain(base.public_name)}, one for each shard with records: "
        f"{min(sizes):,} to {max(sizes):,} of {len(dataset):,} records each, {record.seconds:.0f} s in all. A "
        f"deletion costs {_mean_price(sharding):.1%} of that on average. The adapters, {SHARDING_FILE} and the card "
        f"are in {plain(config.output_dir)}."
    )


def _mean_price(sharding: Sharding) -> float:
    """The share of a training that one owner's deletion takes, if each row is as likely to be asked for."""
    total = rows = price = 0.0
    for part in sharding.parts:
        total, rows, before = total + passes(part.stages), rows + part.rows, 0
        for slice_, until in enumerate(part.stages):
            price, before = price + (until - before) * passes(part.stages, slice_), until
    return price / (rows * total)


# Deletion

# What `hf-unlearn run` does with other models alone.
NOT_OF_SHARDS = (
    "retrained_model", "with_retrained", "references", "lm_eval_tasks", "alternates_file", "budget", "start", "alpha",
    "stop_when_forgotten", "stop_when_useful", "merge_adapter", "rewind_checkpoint", "use_peft",
)  # fmt: skip


def _check_deletion(values: Mapping[str, Any], sharding: Sharding) -> None:
    """Raise InputError for settings that a deletion from a sharded model lacks, or that are not the model's."""
    if values.get("method", "auto") != "auto":
        raise InputError("This model is dealt into shards, and what was touched is trained again; leave --method out.")
    for name in NOT_OF_SHARDS:
        if values.get(name):
            raise InputError(f"--{name} does not go together with a model that is dealt into shards; leave it out.")
    asked = {name: value for name, value in values.items() if name in (*OF_MODEL, *OF_TRAINING)}
    if others := sorted(name for name, value in asked.items() if sharding.settings.get(name) != value):
        raise InputError(
            f"The adapters were trained with other settings ({', '.join(others)}), and are trained again as "
            "they were; leave these out."
        )


def key_of_owners(path: str | None, sharding: Sharding) -> bytes:
    """The key that the owners were dealt by; raises InputError where it is not there."""
    key = owner_key(path, sharding)
    if key is None:
        raise InputError(
            f"{key_path(None)} is not the key that the owners were dealt by; name that one with --digest_key_file."
        )
    return key


def recorded_settings(sharding: Sharding) -> dict[str, Any]:
    """How the adapters of a model were trained, as settings of :class:`~hf_unlearn.UnlearningConfig`."""
    return {name: value for name, value in sharding.settings.items() if name in OF_TRAINING}


def router_of(
    sharding: Sharding,
    shard_of: Mapping[str, int],
    parts: RetainedSplit,
    key: bytes,
    args: RequestArguments,
    config: UnlearningConfig,
) -> RouterEntry | None:
    """How often a router by the encoder of ``--near_duplicates_encoder`` errs; None where none is named."""
    if args.near_duplicates_encoder is None:
        return None
    encoder = SentenceEncoder(args.near_duplicates_encoder, config.device)
    found = measured_router(sharding, shard_of, parts, key, encoder)
    if found is None:
        console(config).print("No router was measured, because the adapters know fewer than two owners in L.")
    return found


def run_sharded(
    values: dict[str, Any], source: ModelSource, sharding: Sharding
) -> tuple[UnlearningReport, RetainedSplit]:
    """Delete from a sharded model: train the shards touched again without S, or drop them, and report."""
    _check_deletion(values, sharding)
    run_args, data_args = build(RunArguments, values), build(DataArguments, values)
    request_args = build(RequestArguments, values)
    recorded = recorded_settings(sharding)
    config = build(UnlearningConfig, {"output_dir": "unlearned", **values, **recorded, "method": "auto"})
    _check_processes(run_args.shard_processes, config)
    out, folder = console(config), config.folder
    key = key_of_owners(request_args.digest_key_file, sharding)
    base = sharding.base_source(trust_remote_code=source.trust_remote_code)
    ledger = ledger_of(source) or Ledger()
    data, data_source = named_data(data_args, config.folder)
    parts = split_data(data, data_source, data_args, request_args, config, ledger, task=sharding.task)
    config.group_column = parts.audit.group_column
    test = None
    if data_args.dataset_test_split is not None:
        test = pick_split(data, data_args.dataset_test_split, "dataset_test_split")
    show_split(out, parts, request_args, words_in_reach(parts, config, sharding.task, halved=False, exact=False))
    deletion = plan_deletion(sharding, parts, key, source, drop=run_args.drop)
    if deletion.sharding.labels != sharding.labels and answers_alone(base, sharding.task, sharding.labels):
        raise InputError(
            "A class comes or goes with the request, and the head of the base has a place for each class; declare "
            "the classes of the data set as a ClassLabel, so that they stay."
        )
    settings = run_settings(values, split=parts.audit.identity())
    forgotten = parts.forgotten
    assert forgotten is not None
    dataset = replace(data_source, fingerprint=parts.audit.dataset_fingerprint, rows=parts.audit.dataset_rows)
    with own_folder(folder, settings, CARD_FILE) as finished:
        if finished:
            out.print(f"{plain(folder)} holds this run, finished.")
            report = UnlearningReport.load(folder / REPORT_FILE)
        else:
            out.print(
                f"The request touches {len(deletion.retrained) + len(deletion.dropped):,} of {len(sharding.parts):,} "
                f"adapters. Price: {deletion.price:.1%} of training all of them again."
            )
            router = router_of(sharding, deletion.shard_of, parts, key, request_args, config)
            start_folder(folder, settings)
            training = shard_training(deletion.sharding, base, data_source, values)
            kept = deletion.folders(source)
            processes, begun = run_args.shard_processes, deletion.begun
            after = train_shards(training, deletion.retrained, folder, kept, key, processes, begun, show_training)
            save_sharding(after, folder)
            everything = [record for part in after.parts for record in shard_records(folder, part)]
            again = [part for part in after.parts if part.number in deletion.retrained]
            trained = [one for part in again for one in shard_records(folder, part, deletion.start(part.number))]
            whole = record_of_all(everything, after, replace(dataset, rows=len(parts.retained)), left_out_of(parts))
            save_json(whole, folder / RECORD_FILE)
            models = {"original": (source, sharding), "unlearned": (locate(str(folder)), after)}
            measured = measure(models, base, parts, test, config, key)
            report = deletion_report(deletion, measured, trained, whole, parts, dataset, source, base, config)
            attempts = count_attempt(parts, request_args, config, run_identity(folder), report.method.name)
            report = replace(report, attempts=attempts, router=router, given=given_settings(values))
            report = with_note(report, ledger, forgotten, source)
            save_evidence(report, measured.tables, folder)
            write_card(folder, report)
        write_line(folder, report, ledger, forgotten, source)
    print_report(out, report)
    out.print(" ".join(plain(reason) for reason in report.road.reasons))
    out.print(f"The model, its card, {REPORT_FILE}, {LEDGER_FILE} and the pictures are in {plain(folder)}.")
    return report, parts


# Prices


def plan_shards(
    owners: int,
    rows_each: float,
    requests_a_month: float,
    adapter_mb: float | None,
    shards: list[int] | None,
    slices: list[int] | None,
    model_name_or_path: str | None,
    model_revision: str | None,
) -> None:
    """Show what a year of deletions costs by the number of shards and slices, and whether dealing pays."""
    given = {"owners": owners, "rows_each": rows_each, "requests_a_month": requests_a_month}
    for name, value in {**given, "adapter_mb": adapter_mb}.items():
        least = {"owners": 2, "rows_each": 1}.get(name, 0)
        if value is not None and not least <= value < math.inf:
            raise InputError(f"--{name} {value:g} is not possible; it must be {least} or more.")
    for name, numbers, most in (("shards", shards, MOST_SHARDS), ("slices", slices, MOST_SLICES)):
        for number in numbers or ():
            if not 1 <= number <= most:
                raise InputError(f"--{name} {number} is not possible; it must be between 1 and {most:,}.")
    seconds = None
    if model_name_or_path is not None:
        record = load_record(locate(model_name_or_path, model_revision))
        if record is None:
            raise InputError(f"There is no {RECORD_FILE} beside {model_name_or_path!r} that tells what it cost.")
        seconds = record.seconds
    prices = shard_prices(owners, rows_each, requests_a_month, shards or (), slices=slices or (1,))
    columns = [
        "shards", "slices", "rows in each", "a request, % of training", "at most, %", "a year, in trainings",
        "in monthly runs",
    ]  # fmt: skip
    shown = table("What deletions cost", dict.fromkeys(columns, "number"))
    if adapter_mb is not None:
        shown.add_column("storage", justify="right")
    if seconds is not None:
        shown.add_column("a request takes", justify="right")
    for price in prices:
        cells = [
            f"{price.shards:,}", f"{price.slices}", f"{price.rows:,.0f}", f"{100 * price.request:.3g}",
            f"{100 * price.largest:.3g}", f"{price.year:.3g}", f"{price.monthly:.3g}",
        ]  # fmt: skip
        if adapter_mb is not None:
            cells.append(f"{price.adapters * adapter_mb / 1000:,.3g} GB")
        if seconds is not None:
            cells.append(duration(seconds * price.request))
        shown.add_row(*cells)
    out = terminal()
    out.print(shown)
    out.print(
        f"One simulated year: {owners:,} owners with {rows_each:g} rows on average, {requests_a_month:g} requests a "
        "month. One shard is joint training."
    )
    out.print(advice(prices, requests_a_month))
