"""What the model card and the page for an auditor both say of a report."""

from collections.abc import Mapping
from typing import Any

from ..evaluation.report import UnlearningReport
from ..evaluation.statistics import Estimate
from ..evaluation.verdict import ATTACKS
from ..evaluation.verdict.sentences import confirmed
from ..evaluation.wording import (
    ARM_NAMES,
    MEASURES,
    OUTSIDE_ATTACKS,
    REFERENCE_NAMES,
    SET_NAMES,
    VERDICTS,
    attempt_words,
    beside_verdict,
    show,
)
from ..methods.method import ADAPTER_RATE, Method
from ..methods.table import METHODS, find_method
from ..models.tasks import TASKS
from .command import repeating_command

SHOWN_SETTINGS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "optim",
    "weight_decay",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "train_sampling_strategy",
    "train_last_layers",
    "max_length",
    "bf16",
    "fp16",
)

TEMPLATES = ("prompt_template", "completion_template")


# Chen et al., CCS 2021, attack both versions of a model that was retrained; Du et al., ICML 2025, both versions of a
# language model (TULA), and there recover texts as well.
BEFORE_AND_AFTER = (
    "Anyone who has both the original and the unlearned model can compare them and find out what was removed, even "
    "where the unlearning is exact (Chen et al. 2021, arXiv:2005.02205; for language models Du et al. 2024, "
    "arXiv:2406.13348)."
)

MOST_CLASSES = 10

Rows = list[tuple[str, dict[str, Estimate | None]]]


def shared_values(report: UnlearningReport, places: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The values that the templates of the card and of the page both use.

    ``places`` are the settings of the run with the folders of this machine, for its owner.
    """
    return {
        "report": report,
        "says": VERDICTS[report.verdict.word],
        "facts": TASKS[report.task],
        "ours": ours(report),
        "arms": {arm: title for arm, title in ARM_NAMES.items() if arm in report.arms},
        "reference_names": REFERENCE_NAMES,
        "settings": settings_rows(report),
        "command": repeating_command(report, places),
        "stopped": stopped(report),
        "evidence": evidence_rows(report),
        "attacks": attack_rows(report),
        "recalls": recall_rows(report),
        "notes": notes(report),
        "margin": margin(report),
        "beside": beside_verdict(report.verdict),
        "attempts": attempt_words(report.attempts),
        "before_and_after": before_and_after(report),
    }


def before_and_after(report: UnlearningReport) -> str:
    """What whoever has both models can find out, with what that was worth here where it was measured."""
    found = {arm: entry.pair_auc for arm, entry in report.arms.items() if entry.pair_auc is not None}
    if "unlearned" not in found:
        return BEFORE_AND_AFTER
    right = {arm: f"{100 * auc.value:.0f} of 100 pairs (AUC {show(auc, 2)})" for arm, auc in found.items()}
    text = (
        f"{BEFORE_AND_AFTER} Here is what the change of each record's loss tells. Of a forgotten and a held-out "
        f"record it picks the forgotten one in {right['unlearned']}; guessing gives 50."
    )
    if "retrained" in right:
        text += f" With a model that was retrained without these records it does so in {right['retrained']}."
    return text


def method_of(report: UnlearningReport) -> Method | None:
    """The method, with the start that it was given; None when another tool made the model."""
    return find_method(report.method.name, report.method.start) if report.method.name in METHODS else None


def ours(report: UnlearningReport) -> str:
    """How the method differs from what was published; empty where it does not."""
    row, rate = method_of(report), report.method.settings.get("learning_rate")
    if row is None:
        return ""
    differences = [row.ours] if row.ours else []
    if report.method.lora and rate == row.adapter_rate != row.settings.get("learning_rate"):
        differences.append(f"{ADAPTER_RATE} times the published rate, which is for all weights, for an adapter")
    return "; ".join(differences)


def settings_rows(report: UnlearningReport) -> dict[str, Any]:
    """The settings worth a reader's time, None where unknown; all of them are in the report."""
    method, row = report.method, method_of(report)
    rows: dict[str, Any] = {f"alpha, {row.strength}": method.alpha} if row and row.strength else {}
    if method.checkpoint:
        rows["checkpoint"] = method.checkpoint
    if method.budget is not None:
        rows["budget"] = f"{method.budget} of the epochs of the original training"
    rows["epochs, steps"] = None if method.epochs is None else f"{method.epochs:.3g}, {method.steps:,}"
    if method.start:
        rows["start"] = f"that of {method.start}"
    rows |= {name: f"{value:g}" for name, value in method.options.items()}
    names = (*SHOWN_SETTINGS, *TASKS[report.task].settings, *TEMPLATES)
    found = {name: method.settings.get(name) for name in names}
    rows |= {name: str(value) for name, value in found.items() if value not in (None, False, "")}
    if method.lora:
        merged = "" if method.adapter_of else ", merged"
        dropout = method.lora["lora_dropout"]
        rows["LoRA"] = f"r={method.lora['r']}, alpha={method.lora['lora_alpha']}, dropout={dropout}{merged}"
    if method.repeated:
        rows["records of S that an epoch has twice"] = f"{method.repeated:,}, so that all processes take equally many"
    streamed = report.audit is not None and report.audit.dataset_fingerprint is None
    if streamed and report.hardware.get("processes", "1") != "1":
        # Accelerate fills up the last batch, and nobody knows a stream's length.
        rows["streamed by several processes"] = "the last step of each pass may count some records twice"
    return rows | {"seed": method.seed}


def stopped(report: UnlearningReport) -> str | None:
    """Why the training stopped early, None where it did not."""
    if report.method.stop_reason:
        return f"Stopped early: {report.method.stop_reason}"
    if report.method.stopped_early:
        return "Stopped early, when the tests could no longer distinguish S from H."
    return None


def evidence_rows(report: UnlearningReport) -> Rows:
    """What the models make of each set of records: the name of a number, and its value by model."""
    rows: Rows = []
    for name, title in SET_NAMES.items():
        scored = {arm: entry.sets[name] for arm, entry in report.arms.items() if name in entry.sets}
        if "unlearned" not in scored:
            continue
        part = ", a random part" if scored["unlearned"].sampled else ""
        label = f"loss on {title}, n={scored['unlearned'].records:,}{part}"
        rows.append((label, {arm: scores.loss for arm, scores in scored.items()}))
        for measure, label in MEASURES.items():
            found = {arm: vars(scores)[measure] for arm, scores in scored.items()}
            if found["unlearned"] is not None:
                rows.append((f"{label} {title}", found))
    for label, written in generation_rows(report):
        rows.append((label, dict(written)))
    return rows


def generation_rows(report: UnlearningReport) -> list[tuple[str, dict[str, Estimate]]]:
    """What the models write, a row for each number: what it is, and by model how much."""
    rows: dict[str, dict[str, Estimate]] = {}
    for name, letter in (("forget", "S"), ("holdout", "H"), ("retained", "L"), ("test", "the test split")):
        for arm, entry in report.arms.items():
            if (scores := entry.generation.get(name)) is None:
                continue
            of = f"of {scores.records:,} records of {letter}"
            if scores.rouge_l_recall is not None:
                rows.setdefault(f"ROUGE-L recall {of}", {})[arm] = scores.rouge_l_recall
            if TASKS[report.task].two_texts and scores.rouge_l is not None and scores.exact_match is not None:
                rows.setdefault(f"ROUGE-L {of}", {})[arm] = scores.rouge_l
                rows.setdefault(f"exact matches {of}", {})[arm] = scores.exact_match
            rows.setdefault(f"refusals {of}", {})[arm] = scores.refusal_rate
            for given, share in scores.extracted.items():
                rows.setdefault(f"written out after {given} tokens, {of}", {})[arm] = share
    return list(rows.items())


def recall_rows(report: UnlearningReport) -> tuple[str, Rows]:
    """What is found of each class where utility was measured, of many classes those that lost most; and a heading."""
    if report.utility is None:
        return "", []
    name = report.utility.measured_on
    scored = {arm: entry.sets[name].recall for arm, entry in report.arms.items() if name in entry.sets}
    own, other = scored["unlearned"], scored[report.utility.compared_with]
    most_lost = sorted(own, key=lambda label: own[label].value - other[label].value if label in other else 0.0)
    heading = f"Recall of each class on {SET_NAMES[name]}"
    if len(own) > MOST_CLASSES:
        heading += f"; of {len(own):,} classes the {MOST_CLASSES} that lost most"
    return heading, [
        (label, {arm: found.get(label) for arm, found in scored.items()}) for label in most_lost[:MOST_CLASSES]
    ]


def attack_rows(report: UnlearningReport) -> Rows:
    """The membership AUC of each attack, by model; empty without held-out records."""
    arms = report.arms
    if arms["unlearned"].membership_auc is None:
        return []
    rows: Rows = [(ATTACKS["loss"], {arm: entry.membership_auc for arm, entry in arms.items()})]
    for attack in (name for name in arms["unlearned"].attacks if name != "loss"):
        found = {arm: entry.attacks[attack].auc for arm, entry in arms.items() if attack in entry.attacks}
        rows.append(((ATTACKS | OUTSIDE_ATTACKS).get(attack, attack), dict(found)))
    return rows


def notes(report: UnlearningReport) -> list[str]:
    """How to read the evidence, a sentence each."""
    facts, groups = TASKS[report.task], report.verdict.groups
    accuracies = f", {facts.interval} for accuracies" if facts.interval else ""
    found = [
        f"Brackets show 95 % intervals over records (Student's t for losses{accuracies}, DeLong for the AUC).",
    ]
    if groups:
        column = f" (column {report.group_column})" if report.group_column else ""
        found.append(
            f"S comes from {groups[0]:,} groups and H from {groups[1]:,}{column}. Their intervals, and those of the "
            "AUCs, take whole groups as units, not single records."
        )
    if facts.note:
        found.append(facts.note)
    if any(entry.generation for entry in report.arms.values()):
        found.append(
            "Texts are decoded greedily, after the prompt and the stated number of tokens. Written out means that the "
            "next 50 tokens, or all that are left, are correct."
        )
    if report.judged_on_part:
        unused = "search did not use" if report.road.trials else "stopping rule did not use"
        found.append(f"S and H are here the halves that the {unused}.")
    return found


def margin(report: UnlearningReport) -> str | None:
    """The margin of the verdict, None where there was nothing to test."""
    verdict = report.verdict
    if verdict.smallest_margin is None:
        return None
    tests = "Each test has a level of 5 %"
    if len(verdict.attacks) > 1:
        tests += f"; where {len(verdict.attacks)} attacks can accuse the model, they share it"
    return (
        f"Margin, fixed before the run: ±{verdict.margin:.2f} in AUC. This sample can confirm "
        f"{confirmed(verdict.smallest_margin)}. {tests}."
    )
