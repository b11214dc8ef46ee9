"""Run, the main job: split, unlearn, measure, report, card and, if asked, publish."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

from ..data.request.attempts import attempts_path, check_attempts
from ..data.request.digests import key_path
from ..data.request.row_filter import row_filter_of
from ..data.split import RetainedSplit
from ..errors import InputError
from ..evaluation.references import TrainedReference, score_references, with_references
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..lifecycle.local_copies import note_tables
from ..methods.table import CHOICES
from ..models.location import locate
from ..output_folder import own_folder, run_settings, start_folder
from ..publishing.card import CARD_FILE, write_card
from ..publishing.command import given_settings
from ..publishing.ledger import LEDGER_FILE
from ..publishing.ledger_of_model import weights_of, with_note, write_line
from ..publishing.publish import publish
from ..sharding.layout import load_sharding
from ..training.config import UnlearningConfig
from ..training.fitted import EXACT
from ..training.trainer import UnlearningTrainer
from .auto import auto, check_auto
from .console import console, plain, print_published, print_report
from .dial import check_dial, dial
from .evaluating import harness_of, harness_tasks_of
from .helping.live import stage
from .preparation import Preparation, check_needs, located, prepare_run
from .reference_models import (
    Reference,
    named_references,
    named_retrained,
    own_references,
    plan_reference,
    train_reference,
)
from .settings import ModelArguments, RequestArguments, RunArguments, build
from .sharded import run_sharded
from .training_runs import unlearn
from .trials import Choice, show_prices


def run(values: dict[str, Any]) -> UnlearningReport:
    """The main job: split, unlearn, measure, report, card and, if asked, publish.

    Args:
        values: the settings by the names of their flags, such as ``{"model_name_or_path": "acme/router", ...}``.

    Returns:
        The report; it lies beside the model in the output folder.

    Raises:
        AlreadyForgotten: all that is asked for was forgotten before.
        InputError: something does not fit together.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint has been saved; the same call goes on from there.
    """
    return run_and_split(values)[0]


def run_and_split(values: dict[str, Any]) -> tuple[UnlearningReport, RetainedSplit]:
    """As :func:`run`, with the split that the run made."""
    values = {"method": "auto", **values}
    run_args = build(RunArguments, values)
    if run_args.push and "hub_model_id" not in values:
        raise InputError("--push needs --hub_model_id, the repository to publish to.")
    source = located(build(ModelArguments, values))
    if (sharding := load_sharding(source)) is not None:
        report, parts = run_sharded(values, source, sharding)
        if run_args.push:
            config = build(UnlearningConfig, {"output_dir": "unlearned", **values})
            _publish(config.folder, config, run_args, console(config))
        return report, parts
    for name, given in (("drop", run_args.drop), ("shard_processes", run_args.shard_processes != 1)):
        if given:
            raise InputError(f"--{name} is for a model that is dealt into shards, and this one is not; leave it out.")
    prepared = prepare_run(values, source)
    {"auto": check_auto, "dial": check_dial}.get(prepared.config.method, check_needs)(prepared)
    config, task = prepared.config, prepared.task
    out = console(config)
    if run_args.tell_users_to_move and prepared.source.is_local:
        raise InputError("The original is a folder and has no users on the Hub; leave out --tell_users_to_move.")
    if run_args.push:
        _check_public(prepared)
    # The ledger will need it; asked now, nothing is lost where the Hub does not answer.
    weights_of(prepared.source)
    if run_args.retrained_model is not None:
        named_retrained(run_args.retrained_model, prepared.retraining, task)
    reference = plan_reference(prepared, "retrained", config.seed) if run_args.with_retrained else None
    named = named_references(values, prepared.retraining, task)
    harness_tasks = harness_tasks_of(values, task)
    folder, forgotten = config.folder, prepared.parts.forgotten
    assert forgotten is not None
    settings = run_settings(values, split=prepared.parts.audit.identity(), **prepared.made_up)
    with own_folder(folder, settings, CARD_FILE) as finished:
        if finished:
            out.print(f"{plain(folder)} holds this run, finished.")
            report = UnlearningReport.load(folder / REPORT_FILE)
        else:
            check_attempts(attempts_path(key_path(build(RequestArguments, values).digest_key_file)))
            report = _unlearn(prepared, run_args.retrained_model, reference, named, settings)
        if PartialState().is_main_process:
            note_tables(folder, prepared.sets.values())
            write_line(folder, report, prepared.ledger, forgotten, prepared.source)
        if harness_tasks is not None and not report.harness:
            retrained = run_args.retrained_model
            if reference is not None:
                retrained = str(train_reference(prepared, reference))
            places = {"original": prepared.source, "unlearned": locate(str(folder))}
            places |= {"retrained": locate(retrained)} if retrained is not None else {}
            report = replace(report, harness=harness_of(places, harness_tasks, prepared.loading, config))
            if PartialState().is_main_process:
                report.save(folder / REPORT_FILE)
                write_card(folder, report)
                write_line(folder, report, prepared.ledger, forgotten, prepared.source)
    print_report(out, report)
    out.print(f"The model, its card, {REPORT_FILE}, {LEDGER_FILE} and the pictures are in {plain(folder)}.")
    if run_args.push and PartialState().is_main_process:
        _publish(folder, config, run_args, out)
    return report, prepared.parts


def _check_public(prepared: Preparation) -> None:
    """Raise InputError where the result would be an adapter on a folder of this machine, which nobody could load."""
    lineage, source = prepared.lineage, prepared.source
    if prepared.config.merge_adapter or not (lineage.adapter or prepared.lora is not None):
        return
    places = [lineage.base] if lineage.adapter else [source, lineage.base]
    known = [place for place in places if place is not None]
    if known and all(place.is_local for place in known):
        raise InputError(
            f"The adapter would lie on {known[0].name!r}, a folder of this machine, so nobody else could load it; add "
            "--merge_adapter, name a base that is on the Hub, or leave out --push."
        )


def _unlearn(
    prepared: Preparation,
    retrained: str | None,
    reference: Reference | None,
    named: list[TrainedReference] | None,
    settings: dict[str, Any],
) -> UnlearningReport:
    parts, method = prepared.parts, prepared.config.method
    references = named if named is not None else own_references(prepared)
    # The one that is trained for this run may be among them.
    own = retrained or (str(reference.folder) if reference is not None else None)
    more = [str(one.folder) for one in references if one.arm == "retrained" and not _same_place(one.folder, own)]
    if method in CHOICES:
        if reference is not None:
            # What is chosen by it has to wait for it.
            retrained = str(train_reference(prepared, reference))
        trainer, report = {"auto": auto, "dial": dial}[method](Choice(prepared, settings, retrained, more))
    else:

        def begin(trainer: UnlearningTrainer) -> None:
            if not trainer.method.is_clean(trainer.alpha):
                show_prices(prepared, trainer, [*([EXACT] if trainer.base is not None else []), method])
            start_folder(prepared.config.folder, settings)
            prepared.count_attempt()

        trainer = unlearn(prepared, settings, forget=parts.forget, holdout=parts.holdout, begin=begin)
        if reference is not None:
            retrained = str(train_reference(prepared, reference))
        report = trainer.report(
            audit=parts.audit,
            dataset=prepared.data,
            retrained=retrained,
            more_retrained=more,
            forget_rows=parts.forget_rows,
        )
    evidence = trainer.evidence
    assert evidence is not None
    assert parts.forgotten is not None
    scored = score_references(
        references,
        evidence,
        loading=prepared.loading,
        device=prepared.config.device,
        trust_remote_code=prepared.source.trust_remote_code,
        context=trainer.accelerator.autocast,
        known=trainer.others | ({own: trainer.tables["retrained"]} if own is not None else {}),
    )
    report = with_references(report, trainer.tables, scored, seed=prepared.config.seed, retrained=retrained)
    report = replace(report, attempts=prepared.count_attempt(), given=given_settings(prepared.values))
    trainer.evidence_report = report = with_note(report, prepared.ledger, parts.forgotten, prepared.source)
    # The original's filter has S, and nothing can be taken out of one.
    trainer.row_filter = row_filter_of(parts.retained, parts.forgotten.key)
    trainer.save_model()
    return report


def _same_place(folder: Path, name: str | None) -> bool:
    return name is not None and folder.resolve() == Path(name).resolve()


@stage("Publishing")
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
