"""What a person sees in the terminal: the split, the report, the attacks and the references."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers.utils import logging as transformers_logging

from ..data.request.id_files import request_files
from ..data.split import RetainedSplit, SplitAudit
from ..errors import in_one_line
from ..evaluation.closeness.compare import Closeness
from ..evaluation.reach import Reach
from ..evaluation.report import ArmEntry, ReferenceEntry, Road, UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.verdict.sentences import confirmed
from ..evaluation.wording import (
    ARM_NAMES,
    MEASURES,
    OUTSIDE_ATTACKS,
    TAUGHT,
    attempt_words,
    beside_verdict,
    duration,
    show,
)
from ..publishing.card import new_version
from ..publishing.sections import before_and_after, generation_rows
from ..training.config import UnlearningConfig
from .prices import Price, Prices
from .settings import RequestArguments

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

    from ..evaluation.attacks.report import AttackReport
    from ..evaluation.references import ReferencesReport

# Whether jobs show nothing.
silent: ContextVar[bool] = ContextVar("silent", default=False)

# What prints above the live line, while there is one: nothing else may write beside it.
above_live_line: ContextVar[Console | None] = ContextVar("above_live_line", default=None)

COLOURS = {
    "exact": "green",
    "certified": "green",
    "not_distinguished": "green",
    "undecided": "yellow",
    "not_forgotten": "red",
    "over_forgotten": "red",
}

SETS = {"forget": "S forget", "holdout": "H holdout", "retained": "L retained", "test": "test"}


CURES = {
    "duplicates": "Forget them too with --duplicates forget.",
    "near_duplicates": "Forget them too with --near_duplicates forget. To read them first, add "
    "--near_duplicates_review FILE.",
    "holdout_groups": "Compare with models trained on L alone (--with_retrained, or `hf-unlearn references`).",
}

KINDS: dict[str, dict[str, Any]] = {
    "text": {"overflow": "fold"},
    "word": {"no_wrap": True},
    "number": {"no_wrap": True, "justify": "right"},
}


def plain(text: object) -> str:
    """Text from outside, such as a folder's name, with nothing in it that rich or the terminal would act on."""
    return escape(in_one_line(text))


class Terminal(Console):
    """A console that leaves it to the command line what to do where nobody reads the output any more."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


@contextmanager
def silence() -> Iterator[None]:
    """Let jobs show nothing: neither results nor progress, and of what transformers logs only errors."""
    told, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    bars_of_data = datasets.are_progress_bars_disabled()
    token = silent.set(True)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        silent.reset(token)
        transformers_logging.set_verbosity(told)
        with warnings.catch_warnings():
            # The libraries warn where the environment had switched their bars off for good.
            warnings.simplefilter("ignore")
            if bars:
                transformers_logging.enable_progress_bar()
            if not bars_of_data:
                datasets.enable_progress_bars()


def terminal(*, quiet: bool = False) -> Console:
    """Where results are shown: as wide as the terminal, and not squeezed when they go to a file."""
    quiet = quiet or silent.get()
    if not quiet and (above := above_live_line.get()) is not None:
        return above
    shown = Terminal(quiet=quiet, soft_wrap=True)
    return shown if shown.is_terminal else Terminal(quiet=quiet, soft_wrap=True, highlight=False, width=160)


def console(config: UnlearningConfig) -> Console:
    """The terminal on the main process; the settings know which process this is."""
    return terminal(quiet=config.process_index > 0)


def table(title: str, columns: Mapping[str, str]) -> Table:
    """An empty table; each column has a heading and holds a ``text``, which may wrap, a ``word`` or a ``number``."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading, kind in columns.items():
        made.add_column(heading, **KINDS[kind])
    return made


def numbers(title: str, headings: Iterable[str]) -> Table:
    """An empty table with a name for each row, and numbers under the headings."""
    return table(title, {"": "word", **dict.fromkeys(headings, "number")})


def _print_audit(console: Console, audit: SplitAudit) -> None:
    shown = Table(title="The split", title_justify="left", show_header=False, box=None, pad_edge=False)
    shown.add_column()
    shown.add_column(justify="right")
    for row in audit.rows():
        shown.add_row(*row)
    console.print(shown)
    concerns = audit.concerns()
    for name in ("duplicates", "near_duplicates"):
        if name in concerns:
            console.print(f"{_alarm(concerns[name])} {CURES[name]}")
    for near in audit.near_duplicates:
        if near.pairs:
            console.print(f"  {near.pairs:,} pairs by {plain(near.measure)}, similarity: {near.shown_histogram}")
        if near.too_common:
            console.print(near.too_common)
    if audit.group_column is not None:
        counts = f"{audit.forget_groups:,} in S"
        if audit.holdout_groups is not None:
            counts += f" and {audit.holdout_groups:,} in H"
        column = plain(f"`{audit.group_column}`")
        console.print(f"Records with the same {column} count as one group: there are {counts}.")
    for name in ("holdout_groups", "holdout_overlap"):
        if name in concerns:
            console.print(f"{_alarm(concerns[name])} {CURES.get(name, '')}".rstrip())


def _alarm(text: str) -> str:
    """Sentences of which the first stands out."""
    first, stop, rest = text.partition(". ")
    return f"[bold red]{first}.[/] {rest}" if stop else f"[bold red]{first}[/]"


def print_prices(console: Console, prices: Prices) -> None:
    """Show what each way to unlearn would cost, and which one is recommended."""
    costs = {"retraining on L, for each pass": prices.one_pass}
    if prices.retraining is not None:
        costs = {"retraining on L": prices.retraining}
    for name, price in prices.roads.items():
        label = f"{name} ({'exact for its stage' if name in prices.exact else 'approximate'})"
        if prices.earliest < 1 and name in prices.exact:
            costs[f"{label}, at least"] = price.times(prices.earliest)
            label += ", at most"
        costs[label] = price
    headings = dict.fromkeys(("operations", "time", "of retraining", "with the measuring"), "number")
    shown = table("What it will cost", {"": "text", **headings})
    for label, price in costs.items():
        total = Price(price.flops + prices.measuring.flops, price.seconds + prices.measuring.seconds)
        shares = ("" if (share := prices.share(one)) is None else f"{share:.0%}" for one in (price, total))
        shown.add_row(label, f"{price.flops:.2g}", duration(price.seconds), *shares)
    console.print(shown)
    basis = f"a few training steps, timed in {duration(prices.timed)}"
    if prices.retraining is None:
        basis += "; no record says how many passes the original's training made"
    else:
        basis = f"the original's training record (with retraining's time on its machine), and {basis}"
    measuring = prices.measuring
    console.print(f"Estimated from {basis}. Measuring takes {measuring.flops:.2g} operations of that.")
    console.print(prices.recommendation)


def print_report(console: Console, report: UnlearningReport) -> None:
    """Show the evidence and the verdict."""
    arms = [arm for arm in ARM_NAMES if arm in report.arms]
    made = "" if report.method.name == "unknown" else f" ({report.method.name})"
    shown = numbers(f"The evidence{made}", (ARM_NAMES[arm] for arm in arms))
    for name, label in SETS.items():
        if name in report.arms["unlearned"].sets:
            scores = [report.arms[arm].sets.get(name) for arm in arms]
            n = report.arms["unlearned"].sets[name].records
            shown.add_row(f"{label}, n={n:,}: loss", *(show(s.loss, 2) if s else "" for s in scores))
            for measure, title in MEASURES.items():
                if any(s and vars(s)[measure] for s in scores):
                    short = title.removesuffix(" on").removesuffix(" of")
                    shown.add_row(f"{short:>26}", *(show(vars(s)[measure] if s else None, 2) for s in scores))
    for label, found in generation_rows(report):
        shown.add_row(f"{label:>26}", *(show(found.get(arm), 2) for arm in arms))
    if report.arms["unlearned"].membership_auc:
        shown.add_row("membership AUC of S: loss", *(show(report.arms[arm].membership_auc, 2) for arm in arms))
    for attack in report.arms["unlearned"].attacks:
        if attack != "loss":
            shown.add_row(f"{attack:>26}", *(show(_auc(report.arms[arm], attack), 2) for arm in arms))
    if report.arms["unlearned"].pair_auc:
        shown.add_row("change since before, AUC", *(show(report.arms[arm].pair_auc, 2) for arm in arms))
    console.print(shown)
    if report.references:
        console.print(_references_table(report.references))
        if OUTSIDE_ATTACKS.keys() & report.arms["unlearned"].attacks:
            seeds = report.references["retrained"].seeds
            console.print(f"lira and rmia compare with {len(seeds)} retrained models that saw neither S nor H.")
    if report.road.trials:
        console.print(_trials_table(report.road))
    if report.road.taken != "as_asked":
        console.print(f"Chosen: {report.road.taken}")
        for line in report.road.reasons:
            console.print(f"  {plain(line)}")
    if report.router:
        console.print(plain(report.router.sentence))
    if report.cost:
        console.print(report.cost.sentence)
    if report.harness:
        console.print(_harness_table(report))
    if report.method.stop_reason:
        console.print(f"Stopped early: {plain(report.method.stop_reason)}")
    verdict = report.verdict
    console.print(f"Verdict: [bold {COLOURS[verdict.word]}]{verdict.word}[/]{plain(beside_verdict(report.verdict))}")
    for line in verdict.reasons:
        console.print(f"  {plain(line)}")
    for line in verdict.warnings:
        console.print(f"  [bold red]Warning:[/] {plain(line)}")
    if report.weights_moved is False:
        console.print("  [bold red]Warning:[/] All weights are those of the original, so nothing was unlearned.")
    if report.utility:
        lost = "[bold red]Warning:[/] " if report.utility.word == "lost" else ""
        console.print(f"  {lost}Utility {report.utility.word}. {report.utility.sentence}")
    if verdict.smallest_margin is not None:
        console.print(f"  This sample can confirm {confirmed(verdict.smallest_margin)}.")
    if report.attempts is not None:
        console.print(f"  {attempt_words(report.attempts)}")


def print_published(console: Console, commit: "CommitInfo", report: UnlearningReport) -> None:
    """Show where a model was published, and what is left to do about the one from before."""
    console.print(f"Published: {plain(commit.commit_url)}")
    console.print(f"Its verdict: {report.verdict.word}{plain(beside_verdict(report.verdict))}.")
    console.print(before_and_after(report))
    original, name = report.original, commit.repo_url.repo_id
    if original is not None and original.on_hub and original.name != name:
        console.print(
            f"So that its page leads here, add to the metadata on top of the card of {plain(original.name)}:\n"
            f"  {plain(new_version(name))}",
        )


def _harness_table(report: UnlearningReport) -> Table:
    shown = numbers("On other tasks (lm-evaluation-harness)", (ARM_NAMES[arm] for arm in report.harness))
    for scores in zip(*report.harness.values(), strict=True):
        label = plain(f"{scores[0].task}, n={scores[0].n:,}: {scores[0].metric}")
        shown.add_row(label, *(show(score.estimate, 2) or f"{score.value:.2f}" for score in scores))
    return shown


def _trials_table(road: Road) -> Table:
    headings = ("alpha", "of retraining", "membership AUC of S", "on", "utility")
    shown = table("What was tried", {"": "word", **dict.fromkeys(headings, "number"), "outcome": "text"})
    for trial in road.trials:
        share = trial.cost.training_ratio
        shown.add_row(
            plain(trial.name),
            "" if trial.alpha is None else f"{trial.alpha:g}",
            "" if share is None else f"{share:.0%}",
            show(trial.membership_auc, 2),
            "half of S" if trial.measured_on == "search" else "S",
            trial.utility.word if trial.utility else "",
            plain(trial.outcome.split(":")[0]),
        )
    return shown


def _auc(arm: ArmEntry, attack: str) -> Estimate | None:
    return arm.attacks[attack].auc if attack in arm.attacks else None


def print_references(console: Console, report: "ReferencesReport") -> None:
    """Show what the models of each arm make of S and H, and how close the unlearned ones are to the others."""
    console.print(_references_table(report.arms))
    for arm, found in report.closeness.items():
        console.print(_closeness_table(arm, found))
        for sentence in found.findings:
            console.print(f"  {sentence}.")
        for assumption in found.assumptions:
            console.print(f"  - {assumption}")


def _references_table(arms: Mapping[Any, ReferenceEntry]) -> Table:
    title = "The references, which never saw S"
    if "unlearned" in arms:
        title += ", and this unlearning repeated"
    shown = numbers(title, ("models", "membership AUC of S", "SD", "lowest to highest", "loss of S", "loss of H"))
    for arm, found in arms.items():
        auc = found.aucs.get("loss")
        spread = ("", "", "")
        if auc is not None:
            extremes = f"{_number(auc.lowest)} to {_number(auc.highest)}"
            spread = (_number(auc.mean), _number(auc.deviation), extremes)
        means = (_number(found.losses["forget"]), _number(found.losses.get("holdout")))
        shown.add_row(arm, f"{len(found.seeds)}", *spread, *means)
    return shown


def _closeness_table(arm: str, closeness: Closeness) -> Table:
    headings = ("epsilon >", "of at most", "by one record", "F (of models alike)", "U-LiRA AUC")
    shown = numbers(f"How far this unlearning is from {arm}", headings)
    for name, found in closeness.sets.items():
        shown.add_row(
            "S" if name == "forget" else "H, the control",
            _number(found.pooled.epsilon),
            _number(found.pooled.ceiling),
            _number(found.single.epsilon),
            f"{found.quality:.3f} ({found.quality_null:.3f})",
            show(found.lira_auc, 2),
        )
    return shown


def print_attacks(console: Console, report: "AttackReport") -> None:
    """Show what the attacks brought back."""
    from ..evaluation.attacks.low_bits import FORMS

    models, first = report.models.values(), report.models["unlearned"]
    shown = numbers("The attacks, on copies of the models", (ARM_NAMES[arm] for arm in report.models))

    def add(label: str, estimates: Iterable[Estimate | None]) -> None:
        shown.add_row(label, *(show(estimate, 2) for estimate in estimates))

    add("loss of the rest of S", (found.relearning[0].points[0].forget_loss for found in models))
    for number, curve in enumerate(first.relearning):
        add(f"  taught {TAUGHT[curve.taught]}", (found.relearning[number].points[-1].forget_loss for found in models))
    for number, curve in enumerate(first.one_epoch):
        words = TAUGHT[curve.taught].removesuffix(" with LoRA")
        add(f"  one epoch on {words}", (found.one_epoch[number].points[-1].forget_loss for found in models))
    for number, rounded in enumerate(first.quantised):
        scores = [found.quantised[number] for found in models]
        if any(score.recovery for score in scores):
            add(f"S back, {FORMS[rounded.form].shown}", (score.recovery for score in scores))
        elif rounded.membership_auc is not None:
            add(f"AUC, {FORMS[rounded.form].shown}", (score.membership_auc for score in scores))
    leaks = [found.sampling for found in models if found.sampling is not None]
    if leaks:
        often, last = leaks[0].forget[-1].samples, leaks[0].forget[-1]
        add(f"S written in {often} samples", (curve.forget[-1].verbatim for curve in leaks))
        if leaks[0].holdout is not None:
            held_out = (curve.holdout[-1].verbatim if curve.holdout else None for curve in leaks)
            add(f"H written in {often} samples", held_out)
        if last.similar is not None:
            add("S, similar text", (curve.forget[-1].similar for curve in leaks))
        if last.answer is not None:
            add("S, short answer", (curve.forget[-1].answer for curve in leaks))
        if last.entailed is not None:
            add("S, by entailment", (curve.forget[-1].entailed for curve in leaks))
    contexts = [found.in_context for found in models if found.in_context is not None]
    if contexts:
        add("loss of S, alone", (score.alone for score in contexts))
        add("  after others of S", (score.after_forget for score in contexts))
        others = "H" if contexts[0].others == "holdout" else "L"
        add(f"  after records of {others}", (score.after_others for score in contexts))
    if first.worst_wording is not None:
        worst = [found.worst_wording for found in models if found.worst_wording is not None]
        add("loss of S, as trained", (found.wordings[0].forget_loss for found in models))
        add("  in the worst wording", (found.forget_loss for found in worst))
        if worst[0].membership_auc is not None:
            add("AUC, as trained", (found.wordings[0].membership_auc for found in models))
            add("  in the worst wording", (found.membership_auc for found in worst))
        add("S told in one wording", (found.told for found in worst))
        if worst[0].holdout_told is not None:
            add("H told in one wording", (found.holdout_told for found in worst))
    if report.pair is not None:
        add("change since before, AUC", (report.pair.membership.get(arm) for arm in report.models))
    if report.pair is not None and report.pair.texts:
        add("S written by the pair", (texts.forget.recall if texts else None for texts in report.written_by_pair()))
        add("H written by the pair", (t.holdout.recall if t and t.holdout else None for t in report.written_by_pair()))
    if report.depth is not None:
        add("depth", (report.depth.depth if arm == "unlearned" else None for arm in report.models))
    console.print(shown)
    if leaks:
        console.print(
            f"  Sampling at temperature {leaks[0].temperature:g} read and wrote {leaks[0].tokens:,} tokens a model."
        )
    if first.wordings and (tokens := first.wordings[-1].translation_tokens) is not None:
        console.print(f"  Translating the prompts read and wrote {tokens:,} tokens.")
    for finding in report.findings():
        console.print(f"  {plain(finding)}.")
    for attack, reason in report.skipped.items():
        console.print(f"  Left out: {attack.replace('_', ' ')}, because {plain(reason)}.")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def show_split(out: Console, parts: RetainedSplit, request_args: RequestArguments, reached: Reach) -> None:
    """Show what a request does to a data set, which words a measurement can reach then, and each file of requests."""
    _print_audit(out, parts.audit)
    if parts.lacking:
        out.print(f"The data set has {parts.lacking:,} ids or rows no more that earlier requests named.")
    out.print(plain(reached.sentence))
    if request_args.forget_requests is None or parts.forgotten is None:
        return
    files, ignored = request_files(Path(request_args.forget_requests))
    names = {path.name for path in files}
    shown = table("The requests", {"file": "text", "ids": "number", "forgotten before": "number", "": "word"})
    for file in parts.forgotten.files:
        if file.name in names:
            state = "pending" if file.pending else "forgotten already"
            shown.add_row(plain(file.name), f"{file.ids:,}", f"{file.honoured:,}", state)
    out.print(shown)
    if ignored:
        out.print(f"{ignored:,} hidden files or folders in the folder of requests were ignored.")
