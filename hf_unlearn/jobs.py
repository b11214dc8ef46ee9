"""The commands, each from its settings to its result: split, train, run, references, evaluate, attack."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from datasets import Dataset
from rich.console import Console

from .arguments import (
    AttackArguments,
    ComparisonArguments,
    DataArguments,
    EvaluateArguments,
    HarnessArguments,
    ModelArguments,
    ReferencesArguments,
    RequestArguments,
    RunArguments,
    TrainArguments,
    build,
)
from .attack_plan import plan_attacks
from .attacks import attack_models, attacked_models
from .auto import auto, check_auto
from .console import plain, print_attacks, print_published, print_references, print_report
from .data.arrow_tables import AnyDataset, column_names
from .data.checks import check_fit, check_head
from .data.format import record_format
from .data.labels import class_names
from .data.loading import pick_split
from .data.split import split_retained
from .dial import check_dial, dial
from .errors import InputError
from .evaluation.assemble import assemble_report, save_evidence
from .evaluation.attack_report import ATTACKS_FILE, CURVE_FILE, LEAKS_FILE, AttackReport, plot_leaks, plot_relearning
from .evaluation.closeness.compare import HISTOGRAM_FILE
from .evaluation.generation import generation_tables
from .evaluation.harness import HarnessScore, check_harness_tasks, harness_scores
from .evaluation.references import (
    REFERENCES_FILE,
    Arm,
    ReferencesReport,
    TrainedReference,
    references_report,
    save_references,
    score_references,
    with_references,
)
from .evaluation.report import REPORT_FILE, MethodEntry, SetName, UnlearningReport
from .evaluation.score_cache import score_once
from .evaluation.verdict import Provenance
from .methods.table import CHOICES
from .models.loading import (
    load_any,
    load_config,
    load_tokenizer,
    peft_task,
    quantised_bits,
    task_of,
    to_device,
)
from .models.location import ModelSource, locate
from .models.tasks import TASKS
from .models.training_record import RECORD_FILE, DataSource
from .output_folder import REFERENCES_FOLDER, is_finished, require_folder, run_settings
from .preparation import (
    Preparation,
    check_needs,
    console,
    loading_options,
    located,
    lora_config,
    precision,
    prepare_run,
    show_split,
    without_method,
)
from .publishing.card import CARD_FILE, write_card
from .publishing.ledger import LEDGER_FILE, Ledger
from .publishing.ledger_of_model import ledger_of, weights_of, with_note, write_line
from .publishing.publish import publish
from .references import (
    Reference,
    check_task,
    evidence_of,
    named_references,
    own_references,
    plan_reference,
    plan_references,
    train_reference,
)
from .sources import holdout_rows, named_data, split_data
from .training.config import UnlearningConfig
from .training.measuring import check_measures
from .training.trainer import UnlearningTrainer
from .training.trainer_data import measured_sets
from .training_runs import train_plainly
from .trials import EXACT, Choice, clear_trials, known_base, show_prices
from .trials import train as train_trial

# split


def split(values: dict[str, Any]) -> None:
    """Show what a request would do; nothing is trained or written."""
    data_args = build(DataArguments, values)
    config = build(UnlearningConfig, without_method(values))
    request_args, out = build(RequestArguments, values), console(config)
    ledger = _ledger_of_named(build(ModelArguments, values), out)
    data, source = named_data(data_args)
    show_split(out, split_data(data, source, data_args, request_args, config, ledger), request_args)


def _ledger_of_named(model_args: ModelArguments, out: Console) -> Ledger | None:
    """The ledger of the model that a split is for, which need not be there yet."""
    if model_args.model_name_or_path is None:
        return None
    try:
        source = located(model_args)
    except InputError as error:
        out.print(
            f"What the model had to forget before is left out of this, as it cannot be looked at: {plain(error)}"
        )
        return None
    return ledger_of(source)


# train


def train(values: dict[str, Any]) -> None:
    """Train A(D), or A(L), plainly, and write the training record beside it."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    request_args = build(RequestArguments, values)
    config = build(UnlearningConfig, {"output_dir": "original", **values})
    out = console(config)
    data, source = named_data(data_args)
    dataset: AnyDataset
    if build(TrainArguments, values).train_on == "retained":
        dataset = split_data(data, source, data_args, request_args, config).retained
    else:
        dataset = pick_split(data, data_args.dataset_train_split, "dataset_train_split")
        if (held_out := holdout_rows(request_args)) is not None:
            dataset = split_retained(dataset, held_out, duplicates=None).retained
    base = located(model_args)
    config_of_base = load_config(base)
    task = task_of(base.name, config_of_base, model_args.task, peft=peft_task(base))
    check_fit([dataset], None, config_of_base, task, config.layout)
    labels = None
    if TASKS[task].classes:
        labels = class_names(dataset, record_format(column_names(dataset), task, **config.layout).label)
        check_head(base, config_of_base, task, len(labels))
    lora = lora_config(model_args, task)
    loading = loading_options(model_args, base)
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


# run


def run(values: dict[str, Any]) -> UnlearningReport:
    """The main job: split, unlearn, measure, report, card and, if asked, publish.

    Args:
        values: the settings by the names of their flags, such as ``{"model_name_or_path": "acme/router", ...}``.

    Returns:
        The report; it lies beside the model in the output folder.

    Raises:
        AlreadyHonoured: all that is asked for was forgotten before.
        InputError: something does not fit together.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint has been saved; the same call goes on from there.
    """
    values = {"method": "auto", **values}
    run_args = build(RunArguments, values)
    if run_args.push and "hub_model_id" not in values:
        raise InputError("--push needs --hub_model_id, the repository to publish to.")
    prepared = prepare_run(values)
    check_needs(prepared)
    config, task = prepared.config, prepared.task
    out = console(config)
    if run_args.tell_users_to_move and prepared.source.is_local:
        raise InputError("The original is a folder and has no users on the Hub; leave out --tell_users_to_move.")
    # The ledger will need it; asked now, nothing is lost where the Hub does not answer.
    weights_of(prepared.source)
    if run_args.retrained_model is not None:
        model = locate(run_args.retrained_model)
        task_of(model.name, load_config(model), task, peft=peft_task(model))
    reference = plan_reference(prepared, "retrained", config.seed) if run_args.with_retrained else None
    named = None
    if (place := build(ComparisonArguments, values).references) is not None:
        named = named_references(Path(place), prepared.parts.audit)
        check_task(named, task)
    harness_tasks = build(HarnessArguments, values).lm_eval_tasks
    if harness_tasks is not None:
        check_harness_tasks(harness_tasks, task)

    if config.method in CHOICES:
        {"auto": check_auto, "dial": check_dial}[config.method](prepared, known_base(prepared))
    folder, forgotten = config.folder, prepared.parts.forgotten
    assert forgotten is not None
    settings = run_settings(values, split=prepared.parts.audit.to_dict(), **prepared.made_up)
    if is_finished(folder, settings, CARD_FILE):
        clear_trials(folder)
        out.print(f"{plain(folder)} holds this run, finished.")
        report = UnlearningReport.load(folder / REPORT_FILE)
    else:
        report = _unlearn(prepared, run_args.retrained_model, reference, named, settings)
    if PartialState().is_main_process:
        write_line(folder, report, prepared.ledger, forgotten, prepared.source)
    if harness_tasks is not None and not report.harness:
        retrained = run_args.retrained_model
        if reference is not None:
            retrained = str(train_reference(prepared, reference))
        places = {"original": prepared.source, "unlearned": locate(str(folder))}
        places |= {"retrained": locate(retrained)} if retrained is not None else {}
        report = replace(report, harness=_harness(places, harness_tasks, prepared.loading, config))
        if PartialState().is_main_process:
            report.save(folder / REPORT_FILE)
            write_card(folder, report)
            write_line(folder, report, prepared.ledger, forgotten, prepared.source)
    print_report(out, report)
    out.print(f"The model, its card, {REPORT_FILE}, {LEDGER_FILE} and the pictures are in {plain(folder)}.")
    if run_args.push and PartialState().is_main_process:
        _publish(folder, config, run_args, out)
    return report


def _harness(
    places: dict[str, ModelSource], tasks: list[str], loading: dict[str, Any], config: UnlearningConfig
) -> dict[str, list[HarnessScore]]:
    """What each model does on tasks of the harness, one model at a time."""
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


def _unlearn(
    prepared: Preparation,
    retrained: str | None,
    reference: Reference | None,
    named: list[TrainedReference] | None,
    settings: dict[str, Any],
) -> UnlearningReport:
    parts, data, method = prepared.parts, prepared.data, prepared.config.method
    where = DataSource(
        data.name, data.config, data.split, data.revision, parts.audit.dataset_fingerprint, parts.audit.dataset_rows
    )
    if method in CHOICES:
        choice = Choice(prepared, settings, where, retrained, known_base(prepared))
        if reference is not None:
            # What is chosen by it has to wait for it.
            choice = replace(choice, retrained=(retrained := str(train_reference(prepared, reference))))
        trainer, report = {"auto": auto, "dial": dial}[method](choice)
    else:

        def begin(trainer: UnlearningTrainer) -> None:
            if not trainer.method.is_clean(trainer.alpha):
                show_prices(prepared, trainer, [*([EXACT] if trainer.base is not None else []), method])

        trainer = train_trial(prepared, settings, begin, forget=parts.forget, holdout=parts.holdout)
        if reference is not None:
            retrained = str(train_reference(prepared, reference))
        report = trainer.report(audit=parts.audit, dataset=where, retrained=retrained, forget_rows=parts.forget_rows)
    evidence = trainer.evidence
    assert evidence is not None
    assert parts.forgotten is not None
    scored = score_references(
        named if named is not None else _own_references(prepared),
        evidence,
        loading=prepared.loading,
        device=prepared.config.device,
        trust_remote_code=prepared.source.trust_remote_code,
        context=trainer.accelerator.autocast,
    )
    report = with_references(report, trainer.tables, scored, seed=prepared.config.seed, retrained=retrained)
    trainer.evidence_report = report = with_note(report, prepared.ledger, parts.forgotten, prepared.source)
    trainer.save_model()
    clear_trials(prepared.config.folder)
    return report


def _own_references(prepared: Preparation) -> list[TrainedReference]:
    """The references in the run's own folder; tells of those that are left out."""
    found, others = own_references(prepared)
    if others:
        place = plain(prepared.config.folder / REFERENCES_FOLDER)
        console(prepared.config).print(f"{others} models in {place} belong to other settings and are left out.")
    return found


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
        tell_users_to_move=run_args.tell_users_to_move,
    )
    print_published(out, commit, UnlearningReport.load(folder / REPORT_FILE))


# references


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
    evidence = evidence_of(prepared)
    for number, reference in enumerate(planned, start=1):
        out.print(f"Model {number} of {len(planned)}: {reference.arm}, seed {reference.seed}.")
        train_reference(prepared, reference)
    scored = score_references(
        _own_references(prepared),
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


# evaluate


def evaluate(values: dict[str, Any]) -> UnlearningReport:
    """Measure a model that was unlearned elsewhere."""
    model_args, data_args = build(ModelArguments, values), build(DataArguments, values)
    compare = build(EvaluateArguments, values)
    config = build(UnlearningConfig, {"output_dir": "evaluation", **without_method(values)})
    out = console(config)
    require_folder(config.folder)
    source = located(model_args)
    data, data_source = named_data(data_args)
    request_args, ledger = build(RequestArguments, values), ledger_of(source)
    parts = split_data(data, data_source, data_args, request_args, config, ledger, ask_again=True)
    show_split(out, parts, request_args)
    model_config = load_config(source)
    task = task_of(source.name, model_config, model_args.task, peft=peft_task(source))
    loading = loading_options(model_args, source, training=False)
    check_measures(task, config, loading["bits"] or quantised_bits(model_config))
    test = data_args.dataset_test_split
    sets: dict[SetName, AnyDataset | None] = {
        "forget": parts.forget,
        "holdout": parts.holdout,
        "retained": parts.retained,
        "test": pick_split(data, test, "dataset_test_split") if test is not None else None,
    }
    check_fit(list(sets.values()), source, model_config, task, config.layout)
    references: list[TrainedReference] = []
    if (folder := build(ComparisonArguments, values).references) is not None:
        references = named_references(Path(folder), parts.audit)
        check_task(references, task)
    harness_tasks = build(HarnessArguments, values).lm_eval_tasks
    if harness_tasks is not None:
        check_harness_tasks(harness_tasks, task)
    names = {"original": compare.original_model, "unlearned": source.name, "retrained": compare.retrained_model}
    places = {arm: source if arm == "unlearned" else locate(name) for arm, name in names.items() if name is not None}
    tables, generated = {}, {}
    tokenizer = load_tokenizer([source, *places.values()]) if config.generate_records else None
    evidence = None
    for arm, place in places.items():
        model = load_any(place, task, **loading)
        if evidence is None:
            evidence = measured_sets(sets, [source, *places.values()], model.config, task, config)
            evidence.gradients = config.gradient_norm_attack
        tables[arm], _ = score_once(evidence, to_device(model, config.device))
        if tokenizer is not None:
            records, seed = config.generate_records, config.seed
            generated[arm], _ = generation_tables(model, evidence, tokenizer, records=records, seed=seed)
    assert evidence is not None
    copies, near = parts.audit.duplicates_retained, parts.audit.near_duplicates_retained
    report = assemble_report(
        tables,
        generated=generated,
        task=task,
        sampled=evidence.sampled,
        blind=evidence.blind(config.seed),
        seed=config.seed,
        provenance=Provenance(None, "", copies, near_duplicates_retained=near),
        margin=config.auc_margin,
        utility_margin=config.utility_margin,
        group_column=config.group_column,
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
    scored = score_references(references, evidence, loading=loading, device=config.device)
    report = with_references(report, tables, scored, seed=config.seed, retrained=compare.retrained_model)
    if harness_tasks is not None:
        report = replace(report, harness=_harness(places, harness_tasks, loading, config))
    if PartialState().is_main_process:
        config.folder.mkdir(parents=True, exist_ok=True)
        save_evidence(report, tables, config.folder)
    print_report(out, report)
    out.print(f"{REPORT_FILE} and the pictures are in {plain(config.output_dir)}.")
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


# attack


def attack(values: dict[str, Any]) -> AttackReport:
    """Try to bring S back in a copy of a model, and of those that it is compared with."""
    asked, compare = build(AttackArguments, values), build(EvaluateArguments, values)
    for name in ("attack_steps", "attack_records", "attack_samples"):
        if vars(asked)[name] < 1:
            raise InputError(f"--{name} {vars(asked)[name]} is not possible; it must be 1 or more.")
    model_args = build(ModelArguments, values)
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise InputError("Weights in few bits cannot be attacked; set --load_in_4bit and --load_in_8bit to false.")
    # How a model was unlearned, and what it cost by the recipe or by default, is nothing to an attack.
    prepared = prepare_run(
        {"output_dir": "attacks", **without_method(values), "max_steps": asked.attack_steps}, ask_again=True
    )
    config = prepared.config
    out = console(config)
    require_folder(config.folder)
    plan = plan_attacks(prepared, asked, model_args)
    places = attacked_models(prepared, compare.original_model, compare.retrained_model)
    report = attack_models(prepared, places, plan)
    if PartialState().is_main_process:
        config.folder.mkdir(parents=True, exist_ok=True)
        report.save(config.folder / ATTACKS_FILE)
        plot_relearning(report, config.folder / CURVE_FILE)
        if report.models["unlearned"].sampling is not None:
            plot_leaks(report, config.folder / LEAKS_FILE)
    print_attacks(out, report)
    out.print(f"{ATTACKS_FILE} and its plots are in {plain(config.output_dir)}.")
    return report
