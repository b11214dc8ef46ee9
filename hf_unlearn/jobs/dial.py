"""``--method dial``: searches how far to move from the original until S and H cannot be distinguished."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from datasets import Dataset

from ..data.arrow_tables import AnyDataset
from ..errors import InputError
from ..evaluation.blind_baseline import BlindBaseline
from ..evaluation.measured_sets import EvidenceSets, attack_scores, halves_of_records, loss_and_auc
from ..evaluation.report import Road, SetName, TrialEntry, UnlearningReport
from ..evaluation.score_cache import score_once
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import Provenance, Scores, Verdict, decide
from ..models.layers import flops_per_token
from ..models.loading import Model, load_any, load_measurable, quantised_bits, to_device
from ..models.location import locate
from ..output_folder import start_folder
from ..training.fitted import APPROXIMATE, EXACT
from ..training.trainer import UnlearningTrainer
from .helping.live import stage
from .preparation import Preparation, precision
from .training_runs import unlearn
from .trials import (
    Begin,
    Choice,
    Trial,
    approximate_obstacle,
    plan_trial,
    with_method,
    with_trials,
)

PROBES = 3
# Each spends this part of the budget; the result gets what is left.
PROBE_SHARE = 0.1
ORIGINAL = "original"
# Of S and of H: a half of one record says nothing.
FEWEST = 4


@dataclass(frozen=True)
class Search:
    """The halves of S and H that the search measures, how their texts differ, and what they are compared with."""

    evidence: EvidenceSets
    blind: BlindBaseline | None
    base: Mapping[SetName, pa.Table] | None
    retrained: Scores | None
    margin: float

    def measure(self, trainer: UnlearningTrainer) -> tuple[Verdict, Estimate]:
        """What the verdict's tests find under a trainer's model as it is, and the AUC by the loss; notes the cost."""
        started = time.perf_counter()
        tables = self.evidence.score(trainer.model, trainer.accelerator.autocast)
        flops = flops_per_token(trainer.accelerator.unwrap_model(trainer.model))[1]
        trainer.cost.measured(time.perf_counter() - started, flops * self.evidence.tokens)
        found = attack_scores(tables, self.base)
        verdict = decide(
            Provenance(None, "", None),
            found,
            original=None,
            retrained=self.retrained,
            margin=self.margin,
            blind=self.blind,
        )
        _, auc = loss_and_auc(tables)
        assert auc is not None
        return verdict, auc

    def entry(self, trial: Trial, begin: Begin | None) -> TrialEntry:
        """Train a short time on L from the start that a trial moves to, and measure; at alpha 0 without training."""
        if (finished := trial.finished()) is not None:
            return finished
        if trial.run.config.alpha == 0:
            trainer = trial.run.trainer(trial.run.parts.forget, trial.run.parts.holdout)
            if begin is not None:
                begin(trainer)
            start_folder(trial.folder, trial.settings)
        else:
            trainer = unlearn(trial.run, trial.settings, forget=None, holdout=None)
        verdict, auc = self.measure(trainer)
        entry = TrialEntry(
            name=trial.name,
            method=trainer.method.name,
            alpha=trial.run.config.alpha,
            cost=trainer.cost_entry(None),
            measured_on="search",
            membership_auc=auc,
            told=distinguished(verdict),
            utility=None,
            outcome=_finding(verdict),
        )
        trial.keep(entry)
        return entry


def dial(choice: Choice) -> tuple[UnlearningTrainer, UnlearningReport]:
    """Search for the smallest move that is enough, and train from there.

    The search measures one half of S and of H, the verdict rests on the other.

    Returns:
        The trainer of the result, not yet saved, and its report.
    """
    run, method = choice.run, APPROXIMATE
    config, parts = run.config, run.parts
    assert parts.holdout is not None
    forget, holdout = (halves_of_records(p, config.group_column, config.seed) for p in (parts.forget, parts.holdout))
    search = _search(choice, {"forget": forget[0], "holdout": holdout[0]})
    begin = choice.begin(*([EXACT] if run.lineage.base is not None else []), method)
    # Where they cannot be distinguished under the original itself, nothing has to be moved.
    with stage(f"Trial 1 of {PROBES + 1}"):
        entries = [search.entry(plan_trial(run, ORIGINAL, method, 0.0), begin)]
    if entries[0].told:
        for number in range(1, PROBES + 1):
            trial = plan_trial(run, f"probe-{number}", method, next_alpha(entries), PROBE_SHARE)
            with stage(f"Trial {number + 1} of {PROBES + 1}", [entry.cost for entry in entries]):
                entries.append(search.entry(trial, None))
    alpha = chosen_alpha(entries)
    share = 1 - PROBE_SHARE * (len(entries) - 1)
    final = with_method(run, method, alpha, share=share)
    with stage("The result", [entry.cost for entry in entries]):
        trainer = unlearn(final, choice.settings, forget=forget[1], holdout=holdout[1])
    trainer.chosen_by_forget = True
    verdict, _ = search.measure(trainer)
    report = trainer.report(
        audit=parts.audit, dataset=run.data, retrained=choice.retrained, more_retrained=choice.more_retrained
    )
    still = "still " if distinguished(verdict) else ""
    afterwards = f"On the half that the search looked at, S and H are {still}{_finding(verdict)}"
    reasons = [_reason(entries, alpha, share), afterwards]
    return trainer, with_trials(report, Road("approximate", reasons, entries), entries)


def next_alpha(entries: list[TrialEntry]) -> float:
    """Half-way between the smallest alpha that was enough and the largest below it that was not.

    The original, at 0, was not.
    """
    high = chosen_alpha(entries)
    low = max(entry.alpha for entry in entries if entry.told and entry.alpha is not None and entry.alpha < high)
    return (low + high) / 2


def chosen_alpha(entries: list[TrialEntry]) -> float:
    """The smallest alpha that was enough; 1, a start without anything of the original, where none was."""
    return min((entry.alpha for entry in entries if not entry.told and entry.alpha is not None), default=1.0)


def distinguished(verdict: Verdict) -> bool:
    """Whether S differs from what it is compared with, in either direction.

    What the tests cannot decide goes by the estimate: records too few to accuse must not pass for forgotten.
    """
    if verdict.word == "undecided":
        assert verdict.gap is not None
        return abs(verdict.gap.value) > verdict.margin
    return verdict.word in ("not_forgotten", "over_forgotten")


def check_dial(run: Preparation) -> None:
    """Raise InputError where there is nothing to search with, or nothing can be moved."""
    parts = run.parts
    if (obstacle := approximate_obstacle(run)) is not None:
        raise InputError(f"'dial' moves the original's weights, and {obstacle}; or name a method.")
    if parts.holdout is None:
        raise InputError(
            "'dial' compares the records to forget with held-out ones; name some, such as with --holdout_ids."
        )
    for name, part in (("records to forget", parts.forget), ("held-out records", parts.holdout)):
        if isinstance(part, Dataset) and len(part) < FEWEST:
            raise InputError(
                f"'dial' searches on one half of the {name} and is judged on the other; it takes {FEWEST} or more, "
                f"and there are {len(part)}."
            )


def _search(choice: Choice, halves: dict[SetName, AnyDataset]) -> Search:
    """Encode the halves to search on, and score the models that trials are compared with."""
    run = choice.run
    config, task, like = run.config, run.task, run.model_config()
    evidence = run.evidence({**halves, "retained": run.parts.retained})
    evidence.gradients = config.gradient_norm_attack
    blind = evidence.blind(config.seed)
    del evidence.sets["retained"]

    def scored(model: Model) -> dict[SetName, pa.Table]:
        return score_once(evidence, model, lambda: precision(config))[0]

    base_model = load_measurable(run.lineage.base, task, like, config.device)
    base = scored(base_model) if base_model is not None else None
    del base_model
    retrained = None
    if choice.retrained is not None:
        model = load_any(locate(choice.retrained), task, bits=quantised_bits(like))
        retrained = attack_scores(scored(to_device(model, config.device)), base)
    return Search(evidence, blind, base, retrained, config.auc_margin)


def _reason(entries: list[TrialEntry], alpha: float, share: float) -> str:
    if not entries[0].told:
        return (
            "On the half of S and H that the search looks at, even under the original the two cannot be "
            "distinguished, so alpha is 0 and the whole budget went to fine-tuning."
        )
    tried = ", ".join(f"{entry.alpha:g} ({_word(entry.told)})" for entry in entries[1:])
    found = f"so alpha is {alpha:g}, the smallest with which S and H were not distinguished"
    if all(entry.told for entry in entries):
        found = "so alpha is 1: the training begins at weights without anything of the original"
    return (
        f"The search tried alpha {tried}, each for {PROBE_SHARE:.0%} of the budget, {found}; the other {share:.0%} of "
        "the budget went to the result."
    )


def _finding(verdict: Verdict) -> str:
    by = ", by the estimate alone" if verdict.word == "undecided" else ""
    return f"{_word(distinguished(verdict))}{by}: {verdict.reasons[-1]}"


def _word(told: bool | None) -> str:
    return "distinguished" if told else "not distinguished"
