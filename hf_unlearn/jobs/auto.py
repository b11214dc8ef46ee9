"""``--method auto``: the exact way where a base is known and the result is useful enough, else an approximate one."""

from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..evaluation.report import Road, TrialEntry, UnlearningReport
from ..evaluation.utility.comparison import Utility, utility
from ..training.trainer import UnlearningTrainer
from .preparation import Preparation
from .training_runs import unlearn
from .trials import (
    APPROXIMATE,
    EXACT,
    Choice,
    Trial,
    approximate_obstacle,
    plan_trial,
    with_method,
    with_trials,
)


@dataclass(frozen=True)
class Tried:
    """A trial and what was found, with its trainer and report; without them where an earlier run had finished it."""

    trial: Trial
    entry: TrialEntry
    trained: tuple[UnlearningTrainer, UnlearningReport] | None


def auto(choice: Choice) -> tuple[UnlearningTrainer, UnlearningReport]:
    """Choose a way to unlearn, and take it: the trainer of the result, not yet saved, and its report."""
    run, base = choice.run, choice.run.lineage.base
    obstacle = approximate_obstacle(run)
    if base is None:
        reason = "No base model is known that the fine-tuning could begin at, so only an approximate way is open."
        trainer, report = _trained(choice, with_method(run, APPROXIMATE), choice.settings, APPROXIMATE)
        return trainer, replace(report, road=Road("approximate", [reason]))

    exact = _try(choice, plan_trial(run, EXACT, EXACT))
    found = exact.entry.utility
    reasons = [
        f"The base model {base.public_name} is known, so the exact way was tried first: fine-tuning it on the "
        f"retained records for what this run may spend. {_in_words(found)}"
    ]
    taken = acceptable(found)
    if taken or obstacle is not None:
        if not taken:
            reasons.append(f"It was taken all the same: {obstacle}.")
        elif found is not None and found.word == "undecided":
            reasons.append(
                "The estimate itself is within the margin, and exactness is worth more than what so few records can "
                "show, so it was taken."
            )
        return _take(choice, exact, Road("exact", reasons, [_outcome(exact, "taken")]), [])

    # The next one needs the memory; what is finished can be had again from its checkpoint.
    exact = replace(exact, trained=None)
    other = _try(choice, plan_trial(run, APPROXIMATE, APPROXIMATE))
    reasons.append(f"So the approximate way was tried, {APPROXIMATE}. {_in_words(other.entry.utility)}")
    if better(other.entry.utility, found):
        reasons.append("That is better, so it was taken.")
        trials = [_outcome(exact, "left, for its utility"), _outcome(other, "taken")]
        return _take(choice, other, Road("approximate", reasons, trials), [exact.entry])
    reasons.append("That is no better, so the exact way was taken.")
    trials = [_outcome(exact, "taken"), _outcome(other, "left: no more useful than the exact way")]
    return _take(choice, exact, Road("exact", reasons, trials), [other.entry])


def check_auto(run: Preparation) -> None:
    """Raise InputError where no way is possible."""
    obstacle = approximate_obstacle(run)
    if run.lineage.base is None and obstacle is not None:
        raise InputError(f"No base model is known, and {obstacle}; or name a method.")


def acceptable(found: Utility | None) -> bool:
    """Whether the exact way is taken with this utility: it is kept, or the estimate is within the margin."""
    return found is None or found.word == "kept" or found.decrease.value <= found.margin


def better(one: Utility | None, other: Utility | None) -> bool:
    """Whether the first of two models does better, by the estimates."""
    return one is not None and other is not None and one.decrease.value < other.decrease.value


def _try(choice: Choice, trial: Trial) -> Tried:
    if (entry := trial.finished()) is not None:
        return Tried(trial, entry, None)
    trainer, report = _trained(choice, trial.run, trial.settings, EXACT, APPROXIMATE)
    assert report.cost is not None
    entry = TrialEntry(
        name=trial.name,
        method=report.method.name,
        alpha=report.method.alpha,
        cost=report.cost,
        measured_on="all",
        membership_auc=report.arms["unlearned"].membership_auc,
        told=None,
        utility=_utility(trainer),
    )
    trial.keep(entry)
    return Tried(trial, entry, (trainer, report))


def _utility(trainer: UnlearningTrainer) -> Utility | None:
    """Compared with the original, also where there is a retrained model, which a run that has to choose lacks."""
    tables = {arm: tables for arm, tables in trainer.tables.items() if arm != "retrained"}
    truth = trainer.evidence.truth() if trainer.evidence is not None else {}
    args = trainer.args
    return utility(tables, trainer.task, args.utility_margin, truth=truth, written=trainer.generated, seed=args.seed)


def _trained(
    choice: Choice, run: Preparation, settings: dict[str, Any], *priced: str
) -> tuple[UnlearningTrainer, UnlearningReport]:
    parts = run.parts
    trainer = unlearn(run, settings, forget=parts.forget, holdout=parts.holdout, begin=choice.begin(*priced))
    return trainer, trainer.report(
        audit=parts.audit, dataset=run.data, retrained=choice.retrained, more_retrained=choice.more_retrained
    )


def _take(
    choice: Choice, tried: Tried, road: Road, others: list[TrialEntry]
) -> tuple[UnlearningTrainer, UnlearningReport]:
    trial = tried.trial
    trainer, report = tried.trained or _trained(choice, trial.run, trial.settings, EXACT, APPROXIMATE)
    # Its checkpoints lay in the folder of the trial; the result goes to that of the run.
    trainer.args.output_dir = str(choice.run.config.output_dir)
    return trainer, with_trials(report, road, others)


def _outcome(tried: Tried, outcome: str) -> TrialEntry:
    return replace(tried.entry, outcome=outcome)


def _in_words(found: Utility | None) -> str:
    if found is None:
        return "What that cost in utility could not be measured."
    return f"Its utility is {found.word}. {found.sentence}"
