"""From tables and facts to the report."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState

from ..data.split import SplitAudit
from ..models.location import ModelSource, read_card
from ..models.tasks import TASKS, Task
from ..models.training_record import DataSource, software_versions
from .attacks.pair import changed_losses
from .measured_sets import TABLES_FOLDER, EvidenceSets, attack_scores, save_tables
from .membership import attack_result
from .report import (
    REPORT_FILE,
    ArmEntry,
    CostEntry,
    CurvePoint,
    GenerationScores,
    MethodEntry,
    ModelEntry,
    SetName,
    SetScores,
    UnlearningReport,
)
from .statistics import Estimate, clustered_mean, clustered_rate, mean_loss, share
from .utility.comparison import utility
from .utility.metrics import Truth, corrected_share, f1_score, predictions, recalls, tally
from .utility.movement import moved
from .verdict import Provenance, Scores, check_base, decide


@dataclass(frozen=True)
class Judging:
    """By what a model is judged, all of it fixed before the run.

    Attributes:
        margin: on the AUC.
        utility_margin: on the metric of the task, or as a fraction of what was gained in loss.
        group_column: the column that says whose record it is, None where records count as independent.
        seed: of what is drawn for the intervals.
        on_part: whether S and H are the halves that neither the training nor a search looked at.
    """

    margin: float
    utility_margin: float
    group_column: str | None
    seed: int
    on_part: bool = False


def assemble_report(
    tables: dict[str, dict[SetName, pa.Table]],
    evidence: EvidenceSets,
    judging: Judging,
    *,
    generated: dict[str, dict[SetName, pa.Table]],
    others: Sequence[Mapping[SetName, pa.Table]] = (),
    provenance: Provenance,
    original: ModelSource | None,
    base: ModelSource | None = None,
    dataset: DataSource,
    audit: SplitAudit | None,
    method: MethodEntry,
    cost: CostEntry | None = None,
    curve: Sequence[CurvePoint] = (),
    weights_moved: bool | None = None,
) -> UnlearningReport:
    """Summarise the tables, reach the verdict and put everything into one report.

    Args:
        tables: by model (``original``, ``unlearned``, ``retrained``, ``base``) and set, as scored.
        evidence: the sets that were scored.
        judging: by what.
        generated: by model and set, what was written, as measured; empty when nobody asked.
        others: tables of more retrained models; with them their spread over seeds counts in the verdict.
        provenance: what is known about the unlearned model without measuring it.
        original, base: where the models came from; None when unknown.

    The other arguments become the fields of the report that have their names.
    """
    task, seed, margin = evidence.task, judging.seed, judging.margin
    difficulty = tables.get("base")
    arms = {arm: sets for arm, sets in tables.items() if arm != "base"}
    judged = {arm: attack_scores(sets, difficulty) for arm, sets in arms.items()}
    blind, truth = evidence.blind(seed), evidence.truth()
    provenance = check_base(
        provenance,
        attack_scores(difficulty) if difficulty is not None else None,
        measurable=difficulty is not None,
        blind=blind,
        margin=margin,
    )
    unmoved = weights_moved is False or _unmoved(judged.get("original"), judged["unlearned"])
    provenance = replace(provenance, unmoved=unmoved)
    every = [judged.get("retrained"), *(attack_scores(other, difficulty) for other in others)]
    verdict = decide(
        provenance,
        judged["unlearned"],
        original=judged.get("original"),
        retrained=[scores for scores in every if scores is not None],
        margin=margin,
        blind=blind,
    )
    return UnlearningReport(
        task=task,
        original=model_entry(original),
        base=model_entry(base),
        dataset=dataset,
        audit=audit,
        method=method,
        cost=cost,
        arms={
            arm: summarise_arm(
                sets, task, evidence.sampled, judged[arm], seed, generated.get(arm), truth, arms.get("original")
            )
            for arm, sets in arms.items()
        },
        curve=list(curve),
        verdict=verdict,
        judged_on_part=judging.on_part,
        licence=_licence(original, base),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=software_versions(),
        hardware={"device": _device(), "processes": str(PartialState().num_processes)},
        utility=utility(tables, task, judging.utility_margin, truth=truth, written=generated, seed=seed),
        group_column=judging.group_column,
        base_is_clean=provenance.base_is_clean,
        weights_moved=weights_moved,
    )


def _unmoved(original: Scores | None, unlearned: Scores | None) -> bool:
    """Whether the losses of S lie where they lay in the original, within noise."""
    if original is None or unlearned is None:
        return False
    groups = unlearned.groups[0] if unlearned.groups is not None else None
    return moved(original.forget["loss"], unlearned.forget["loss"], groups).moved is False


def model_entry(source: ModelSource | None) -> ModelEntry | None:
    """A model as the report names it: without the folders of this machine."""
    return ModelEntry(source.public_name, source.revision, not source.is_local) if source else None


def _licence(*sources: ModelSource | None) -> str | None:
    """The licence on the card of the first of these models that states one."""
    for source in sources:
        card = read_card(source) if source else None
        licence = card.data.to_dict().get("license") if card is not None else None
        if isinstance(licence, str):
            return licence
    return None


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def summarise(
    table: pa.Table, task: Task, sampled: bool, truth: Truth | None = None, seed: int = 0, *, named: bool = True
) -> SetScores:
    """The scores of a set from its table of records, and of a classifier from the true classes.

    ``seed`` is of the bootstrap, and ``named`` says whether the names of the classes in this set may be told.
    """
    columns = {name: table[name].to_numpy() for name in table.column_names}
    tokens, groups = columns["tokens"], columns.get("group")
    loss = mean_loss(columns["nll"], tokens, groups=groups)
    if TASKS[task].quality == "accuracy":
        correct = columns["correct"]
        one_each = (tokens == 1).all()
        accuracy = share(correct, groups) if one_each else clustered_rate(correct, tokens, groups)
        found = SetScores(table.num_rows, loss, accuracy, None, sampled)
        return found if truth is None else _with_f1(found, predictions(table), truth, groups, seed, named)
    perplexity = Estimate(_exp(loss.value), _exp(loss.low), _exp(loss.high), loss.n)
    probability = clustered_mean(np.exp(-columns["loss"]), groups)
    exact = clustered_mean(columns["exact"], groups)
    strength = None if task == "fill-mask" else clustered_mean(columns["extraction"], groups)
    return SetScores(table.num_rows, loss, None, perplexity, sampled, probability, exact, strength)


def _with_f1(
    scores: SetScores,
    predicted: list[np.ndarray],
    truth: Truth,
    groups: np.ndarray | None,
    seed: int,
    named: bool,
) -> SetScores:
    counts = {kind: tally(truth, [predicted], groups, kind) for kind in dict.fromkeys(("macro_f1", truth.f1))}
    one_each = groups is None and all(len(one) == 1 for one in truth.classes)
    return replace(
        scores,
        macro_f1=f1_score(counts["macro_f1"], "macro_f1", seed),
        entity_f1=f1_score(counts["entity_f1"], "entity_f1", seed) if "entity_f1" in counts else None,
        recall=recalls(counts[truth.f1], one_each) if named else {},
        corrected=corrected_share(truth, predicted, groups),
    )


def summarise_generation(table: pa.Table) -> GenerationScores:
    """The scores of a set from its table of :func:`~hf_unlearn.evaluation.generation.measure`, a line or more."""
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    unit = columns.get("group", columns["row"])
    # Of each passage the line with the fewest tokens given.
    first = np.unique(np.stack([columns["row"], columns["passage"]]), axis=1, return_index=True)[1]
    worded = first[~np.isnan(columns["rougeL_recall"][first])]

    def share_of(lines: np.ndarray, column: str) -> Estimate:
        units = unit[lines]
        return share(columns[column][lines], units if len(np.unique(units)) < len(units) else None)

    return GenerationScores(
        records=len(np.unique(columns["row"])),
        rouge_l_recall=clustered_mean(columns["rougeL_recall"][worded], unit[worded]) if len(worded) else None,
        rouge_l=clustered_mean(columns["rougeL"][worded], unit[worded]) if len(worded) else None,
        exact_match=share_of(first, "equal"),
        refusal_rate=share_of(first, "refused"),
        extracted={
            str(prefix): share_of(np.flatnonzero(columns["prefix"] == prefix), "extracted")
            for prefix in np.unique(columns["prefix"])
        },
    )


def summarise_arm(
    tables: dict[SetName, pa.Table],
    task: Task,
    sampled: set[SetName],
    scores: Scores | None,
    seed: int,
    generated: dict[SetName, pa.Table] | None = None,
    truth: Mapping[SetName, Truth] | None = None,
    before: Mapping[SetName, pa.Table] | None = None,
) -> ArmEntry:
    """The scores of a model from its tables, one a set, from what the attacks make of S and H, and what it wrote.

    ``truth`` are the true classes of each set, for classifiers, and ``before`` are the original's tables.
    """
    attacks = {}
    if scores is not None:
        attacks = {
            name: attack_result(scores.forget[name], scores.holdout[name], scores.groups, seed=seed)
            for name in scores.forget
        }
    sets: dict[str, SetScores] = {
        # A class that only S has is told to nobody.
        name: summarise(table, task, name in sampled, (truth or {}).get(name), seed, named=name != "forget")
        for name, table in tables.items()
    }
    written: dict[str, GenerationScores] = {
        name: summarise_generation(table) for name, table in (generated or {}).items() if table.num_rows
    }
    pair = changed_losses(before, tables) if before is not None and before is not tables else None
    return ArmEntry(sets, attacks["loss"].auc if attacks else None, attacks, written, pair)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def save_evidence(report: UnlearningReport, tables: dict[str, dict[SetName, pa.Table]], folder: Path) -> None:
    """Write the report, its pictures, and what each model makes of each record, by model and set."""
    # matplotlib takes a second to import, which nobody should wait for before the training begins.
    from .plots import draw_pictures

    save_tables(tables, folder / TABLES_FOLDER)
    draw_pictures(report, tables, folder)
    report.save(folder / REPORT_FILE)
