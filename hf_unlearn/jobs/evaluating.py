"""``hf-unlearn evaluate``: measure a model that another tool unlearned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.arrow_tables import AnyDataset
from ..data.checks import check_fit
from ..data.loading import pick_split
from ..data.split import SplitAudit
from ..errors import InputError
from ..evaluation.assemble import Judging, assemble_report, save_evidence
from ..evaluation.generation import generation_tables
from ..evaluation.harness import HarnessScore, check_harness_tasks, harness_scores
from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.references import ScoredArm, score_references, with_references
from ..evaluation.report import REPORT_FILE, MethodEntry, SetName, UnlearningReport
from ..evaluation.score_cache import score_once
from ..evaluation.verdict import Provenance
from ..evaluation.wording import ARM_NAMES
from ..models.loading import load_any, load_config, load_tokenizer, quantised_bits, source_task, to_device
from ..models.location import ModelSource, locate, on_named_base
from ..models.tasks import Task
from ..output_folder import require_folder
from ..publishing.ledger import digest_of
from ..publishing.ledger_of_model import ledger_of, weights_of
from ..sharding.layout import Sharding, load_sharding
from ..sharding.report import measure
from ..training.config import UnlearningConfig
from ..training.measuring import check_measures
from ..training.retrained_model import Retraining
from ..training.trained_weights import movement_digest
from ..training.trainer_data import measured_sets
from .console import console, plain, print_report, show_split
from .preparation import loading_options, located, without_method, words_in_reach
from .reference_models import named_references
from .settings import DataArguments, EvaluateArguments, HarnessArguments, ModelArguments, RequestArguments, build
from .sharded import key_of_owners, recorded_settings, router_of
from .splitting import count_attempt, named_data, split_data

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


def evaluate(values: dict[str, Any]) -> UnlearningReport:
    """Measure a model that was unlearned elsewhere.

    Args:
        values: the settings by the names of their flags.

    Returns:
        The report, as written to ``unlearning_report.json``.

    Raises:
        InputError: something does not fit together.
    """
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    compare = build(EvaluateArguments, values)
    config = build(UnlearningConfig, {"output_dir": "evaluation", **without_method(values)})
    out = console(config)
    require_folder(config.folder)
    source = located(model_args)
    if (sharding := load_sharding(source)) is not None:
        return _evaluate_sharded(values, source, sharding)
    source = on_named_base(source, config.base_model_name_or_path, config.base_model_revision)
    model_config = load_config(source)
    task = source_task(source, model_args.task, model_config)
    data, data_source = named_data(data_args, config.folder)
    request_args, ledger = build(RequestArguments, values), ledger_of(source)
    parts = split_data(data, data_source, data_args, request_args, config, ledger, task=task, ask_again=True)
    config.group_column = parts.audit.group_column
    show_split(out, parts, request_args, words_in_reach(parts, config, task, halved=False, exact=False, in_forms=True))
    loading = loading_options(model_args, source, training=False)
    check_measures(task, config, loading["bits"] or quantised_bits(model_config), parts.forget)
    test = data_args.dataset_test_split
    sets: dict[SetName, AnyDataset | None] = {
        "forget": parts.forget,
        "holdout": parts.holdout,
        "retained": parts.retained,
        "test": pick_split(data, test, "dataset_test_split") if test is not None else None,
    }
    check_fit(list(sets.values()), source, model_config, task, config.layout)
    harness_tasks = harness_tasks_of(values, task)
    names = {"original": compare.original_model, "unlearned": source.name, "retrained": compare.retrained_model}
    places = {arm: source if arm == "unlearned" else locate(name) for arm, name in names.items() if name is not None}
    asked = Retraining.on(parts, data_source, places.get("original"))
    unrecorded = "retrained" in places and asked.check(places["retrained"]) is None
    references = named_references(values, asked, task) or []
    # The same look again is no other attempt.
    looked = [weights_of(source) or [source.name, source.revision], config.seed, config.auc_margin]
    attempts = count_attempt(parts, request_args, config, digest_of(json.dumps(looked)), UNKNOWN_METHOD.name)
    evidence, tables, generated, weights = _measured(places, sets, task, loading, config)
    before, after = weights.get("original"), weights["unlearned"]
    scored = score_references(references, evidence, loading=loading, device=config.device)
    retrained = scored.get("retrained", ScoredArm([], []))
    own = Path(compare.retrained_model or "").resolve()
    report = assemble_report(
        tables,
        evidence,
        Judging(config.auc_margin, config.utility_margin, config.group_column, config.seed),
        generated=generated,
        others=[
            other for one, other in zip(retrained.models, retrained.tables, strict=True) if one.folder.resolve() != own
        ],
        provenance=_provenance(parts.audit, unrecorded=unrecorded),
        original=places.get("original"),
        dataset=data_source,
        audit=parts.audit,
        method=UNKNOWN_METHOD,
        weights_moved=None if before is None or after is None else before != after,
    )
    report = with_references(report, tables, scored, seed=config.seed, retrained=compare.retrained_model)
    report = replace(report, attempts=attempts)
    if harness_tasks is not None:
        report = replace(report, harness=harness_of(places, harness_tasks, loading, config))
    return _told(report, tables, places, config)


def _told(
    report: UnlearningReport, tables: dict[str, Any], places: dict[str, ModelSource], config: UnlearningConfig
) -> UnlearningReport:
    """Save a report and show it."""
    out = console(config)
    if PartialState().is_main_process:
        config.folder.mkdir(parents=True, exist_ok=True)
        save_evidence(report, tables, config.folder)
    for arm, place in places.items():
        out.print(f"{ARM_NAMES[arm]}: {plain(place.public_name)}")
    print_report(out, report)
    out.print(f"{REPORT_FILE} and the pictures are in {plain(config.output_dir)}.")
    return report


# What is measured of other models alone.
NOT_OF_SHARDS = (
    "base_model_name_or_path", "base_model_revision", "references", "lm_eval_tasks", "generate_records",
    "gradient_norm_attack", "load_in_4bit", "load_in_8bit",
)  # fmt: skip


def _evaluate_sharded(values: dict[str, Any], source: ModelSource, sharding: Sharding) -> UnlearningReport:
    """As :func:`evaluate`, of a model that is dealt into adapters: each record as its owner is answered."""
    for name in NOT_OF_SHARDS:
        if values.get(name):
            raise InputError(f"--{name} does not go together with a model that is dealt into shards; leave it out.")
    compare, data_args = build(EvaluateArguments, values), build(DataArguments, values)
    settings = {"output_dir": "evaluation", **without_method(values), **recorded_settings(sharding)}
    config, request_args = build(UnlearningConfig, settings), build(RequestArguments, values)
    base = sharding.base_source(trust_remote_code=source.trust_remote_code)
    key = key_of_owners(request_args.digest_key_file, sharding)
    models = {"unlearned": (source, sharding)}
    for arm, named in {"original": compare.original_model, "retrained": compare.retrained_model}.items():
        if named is not None:
            models[arm] = _sharded_alike(named, arm, sharding)
    data, data_source = named_data(data_args)
    ledger = ledger_of(source)
    parts = split_data(data, data_source, data_args, request_args, config, ledger, task=sharding.task, ask_again=True)
    config.group_column = parts.audit.group_column
    reach = words_in_reach(parts, config, sharding.task, halved=False, exact=False)
    show_split(console(config), parts, request_args, reach)
    test = data_args.dataset_test_split
    test_rows = None if test is None else pick_split(data, test, "dataset_test_split")
    asked = Retraining.on(parts, data_source, models["original"][0] if "original" in models else None)
    unrecorded = "retrained" in models and asked.check(models["retrained"][0]) is None
    router = router_of(sharding, sharding.shard_of, parts, key, request_args, config)
    looked = [weights_of(source), config.seed, config.auc_margin]
    attempts = count_attempt(parts, request_args, config, digest_of(json.dumps(looked)), UNKNOWN_METHOD.name)
    measured = measure(models, base, parts, test_rows, config, key)
    weights = {arm: [part.weights for part in one.parts] for arm, (_, one) in models.items()}
    report = assemble_report(
        measured.tables,
        measured.evidence,
        Judging(config.auc_margin, config.utility_margin, config.group_column, config.seed),
        generated={},
        provenance=_provenance(parts.audit, unrecorded=unrecorded),
        original=models["original"][0] if "original" in models else None,
        base=base,
        dataset=data_source,
        audit=parts.audit,
        method=UNKNOWN_METHOD,
        weights_moved=weights["original"] != weights["unlearned"] if "original" in weights else None,
    )
    places = {arm: place for arm, (place, _) in models.items()}
    return _told(replace(report, attempts=attempts, router=router), measured.tables, places, config)


def _sharded_alike(name: str, arm: str, other: Sharding) -> tuple[ModelSource, Sharding]:
    """A model to compare with; raises InputError unless it is dealt by the same key on the same base."""
    source = locate(name)
    found = load_sharding(source)
    if found is None:
        raise InputError(f"--{arm}_model {name} is not dealt into shards, and the model is; name one that is.")
    if (found.key_check, found.base_weights) != (other.key_check, other.base_weights):
        raise InputError(f"--{arm}_model {name} was dealt by another key or on another base; name one of the same.")
    return source, found


def _provenance(audit: SplitAudit, *, unrecorded: bool) -> Provenance:
    """What is known of a model that another tool made."""
    return Provenance(
        None,
        "",
        audit.duplicates_retained,
        near_duplicates_retained=audit.near_duplicates_retained,
        holdout_groups_retained=audit.holdout_groups_retained,
        retrained_unrecorded=unrecorded,
    )


def harness_tasks_of(values: dict[str, Any], task: Task) -> list[str] | None:
    """The tasks of lm-evaluation-harness in the settings; raises InputError where they cannot be run."""
    tasks = build(HarnessArguments, values).lm_eval_tasks
    if tasks is not None:
        check_harness_tasks(tasks, task)
    return tasks


def harness_of(
    places: dict[str, ModelSource], tasks: list[str], loading: dict[str, Any], config: UnlearningConfig
) -> dict[str, list[HarnessScore]]:
    """The scores of each model on tasks of lm-evaluation-harness, one model at a time."""
    return {
        arm: harness_scores(
            to_device(load_any(place, "text-generation", **loading), config.device),
            load_tokenizer([place, *places.values()]),
            tasks,
            batch_size=config.per_device_eval_batch_size,
            seed=config.seed,
        )
        for arm, place in places.items()
    }


def _measured(
    places: dict[str, ModelSource],
    sets: dict[SetName, AnyDataset | None],
    task: Task,
    loading: dict[str, Any],
    config: UnlearningConfig,
) -> tuple[EvidenceSets, dict[str, Any], dict[str, Any], dict[str, str | None]]:
    """Score the models one at a time: the encoded sets; and by model its tables, what it writes, and its digest."""
    sources = [places["unlearned"], *places.values()]
    tokenizer = load_tokenizer(sources) if config.generate_records else None
    tables, generated, weights = {}, {}, {}
    evidence = None
    for arm, place in places.items():
        model = load_any(place, task, **loading)
        if evidence is None:
            # A loaded model knows its labels, also those of an adapter; nobody knows whether it was trained on S.
            evidence = measured_sets(sets, sources, model.config, task, config, in_forms=True)
            evidence.gradients = config.gradient_norm_attack
        weights[arm] = movement_digest(model)
        tables[arm], _ = score_once(evidence, to_device(model, config.device))
        if tokenizer is not None:
            records, seed = config.generate_records, config.seed
            generated[arm], _ = generation_tables(model, evidence, tokenizer, records=records, seed=seed)
    assert evidence is not None
    return evidence, tables, generated, weights
