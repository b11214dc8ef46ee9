"""Membership attacks that compare a model with models that saw neither S nor H: LiRA and RMIA, both offline."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from ..files import save_json
from ..models.loading import load_any, to_device
from ..models.location import locate
from ..models.tasks import Task
from ..models.training_record import RECORD_FILE
from ..output_folder import is_finished
from .closeness.compare import FEWEST_MODELS, HISTOGRAM_FILE, Closeness, Tables, closeness
from .measured_sets import TABLES_FOLDER, EvidenceSets, attack_scores, save_tables
from .membership import AttackResult, attack_result, lira_scores, logit_confidence, rmia_scores
from .report import ReferenceEntry, SetName, Spread, UnlearningReport
from .score_cache import score_once
from .statistics import membership_auc

# One model shows no variance.
FEWEST_OUTSIDE = 2

Arm = Literal["retrained", "retrained_unlearned", "same_budget", "unlearned"]

ARMS: tuple[Arm, ...] = get_args(Arm)

REFERENCES_FILE = "references.json"

REFERENCES_VERSION = 1


def outside_attacks(
    judged: Mapping[SetName, pa.Table], outside: Sequence[Mapping[SetName, pa.Table]], *, seed: int
) -> dict[str, AttackResult]:
    """Judge a model by attacks that know other models, which saw neither S nor H, on the same records.

    Returns:
        By name in :data:`~hf_unlearn.evaluation.wording.OUTSIDE_ATTACKS`; empty without S, H or two models to compare
        with.
    """
    without = attack_scores(judged)
    if len(outside) < FEWEST_OUTSIDE or without is None:
        return {}
    split = judged["forget"].num_rows

    def losses(tables: Mapping[SetName, pa.Table]) -> np.ndarray:
        return np.concatenate([tables[name]["loss"].to_numpy() for name in ("forget", "holdout")])

    loss, others = losses(judged), np.stack([losses(tables) for tables in outside])
    scores = {
        # S and H together, because with few models all records share one variance.
        "lira": lira_scores(logit_confidence(loss), logit_confidence(others)),
        # A population that all records are compared with only numbers their ratios, when gamma is 1; the records
        # themselves do so without ties.
        "rmia": rmia_scores(loss, loss, others, others),
    }
    return {
        name: attack_result(found[:split], found[split:], without.groups, seed=seed) for name, found in scores.items()
    }


@dataclass(frozen=True)
class TrainedReference:
    """One model to compare with.

    Attributes:
        arm: ``retrained``: A(L), trained as the original's record says; ``retrained_unlearned``: that model put
            through the run's own unlearning, U(A(L), {}, L), which Sekhari et al. 2021 (arXiv:2103.03279) compare
            with, and which there is none of where the steps are on S; ``same_budget``: the base trained on L for what
            the run may spend. And ``unlearned``, which did see S and is what the others are for: the run's own
            unlearning of the original, U(A(D), S, L).
        seed: of data order, dropout and new weights.
        folder: where it is, or will be.
        settings: what makes it this reference; see :func:`~hf_unlearn.output_folder.is_finished`.
    """

    arm: Arm
    seed: int
    folder: Path
    settings: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether it has been trained; raises InputError when its folder holds something else."""
        return is_finished(self.folder, self.settings, RECORD_FILE)


@dataclass(frozen=True)
class ScoredArm:
    """The models of one arm and what they make of the records.

    Attributes:
        models: in the order of their seeds.
        tables: of each, by set; see :func:`~hf_unlearn.evaluation.scoring.score`.
    """

    models: list[TrainedReference]
    tables: list[dict[SetName, pa.Table]]


@dataclass(frozen=True)
class ReferencesReport:
    """What the models of each arm make of S and H, and how close the unlearned ones are to the others.

    ``references.json`` in the folder of the references is this object.

    Attributes:
        task: what the models do.
        arms: by arm.
        closeness: of the arm ``unlearned`` to each of the others that has enough models.
        schema_version: 1.
    """

    task: Task
    arms: dict[Arm, ReferenceEntry]
    closeness: dict[Arm, Closeness]
    schema_version: int = REFERENCES_VERSION


def score_references(
    references: Sequence[TrainedReference],
    evidence: EvidenceSets,
    *,
    loading: dict[str, Any],
    device: torch.device,
    trust_remote_code: bool = False,
    context: Callable[[], AbstractContextManager] = nullcontext,
    known: Mapping[str, dict[SetName, pa.Table]] | None = None,
) -> dict[Arm, ScoredArm]:
    """Score trained references on the very records that the evidence about a model rests on.

    What was scored once beside a reference may have been other records, so it is scored again. ``loading`` holds
    options of :func:`~hf_unlearn.models.loading.load_model`; ``known`` holds the tables of folders whose models were
    loaded for this evidence before.
    """
    found: dict[Arm, ScoredArm] = {}
    for reference in references:
        tables = (known or {}).get(str(reference.folder))
        if tables is None:
            place = locate(str(reference.folder), trust_remote_code=trust_remote_code)
            model = to_device(load_any(place, evidence.task, **loading), device)
            tables, _ = score_once(evidence, model, context)
        arm = found.setdefault(reference.arm, ScoredArm([], []))
        arm.models.append(reference)
        arm.tables.append(tables)
    return found


def summarise_references(arm: ScoredArm, base: Tables | None = None) -> ReferenceEntry:
    """What the models of one arm make of the records; ``base`` shows the attacks how difficult a record is."""
    found: dict[str, list[float]] = {}
    for tables in arm.tables:
        if (scores := attack_scores(tables, base)) is not None:
            for attack in scores.forget:
                auc = membership_auc(-scores.forget[attack], -scores.holdout[attack])
                found.setdefault(attack, []).append(auc.value)
    return ReferenceEntry(
        seeds=[model.seed for model in arm.models],
        losses={
            name: float(np.mean([tables[name]["loss"].to_numpy().mean() for tables in arm.tables]))
            for name in arm.tables[0]
        },
        aucs={
            attack: Spread(
                mean=float(np.mean(aucs)),
                deviation=float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
                lowest=min(aucs),
                highest=max(aucs),
            )
            for attack, aucs in found.items()
        },
    )


def references_report(scored: Mapping[Arm, ScoredArm], task: Task, *, delta: float, seed: int) -> ReferencesReport:
    """Sum up what references were trained for; delta is of the definition of epsilon, seed of the models' halves."""
    arms = {arm: summarise_references(found) for arm, found in scored.items()}
    enough = [arm for arm, found in scored.items() if len(found.models) >= FEWEST_MODELS]
    compared: dict[Arm, Closeness] = {
        arm: closeness(scored["unlearned"].tables, scored[arm].tables, delta=delta, seed=seed)
        for arm in enough
        if arm != "unlearned" and "unlearned" in enough
    }
    return ReferencesReport(task, arms, compared)


def save_references(report: ReferencesReport, scored: Mapping[Arm, ScoredArm], folder: Path, seed: int) -> None:
    """Write the report, its picture, and what each model makes of each record, beside the models in the folder."""
    for arm, found in scored.items():
        for model, tables in zip(found.models, found.tables, strict=True):
            save_tables({arm: tables}, model.folder / TABLES_FOLDER)
    if report.closeness:
        # matplotlib takes a second to import, and a run that draws nothing imports this file, too.
        from .closeness.picture import plot_closeness

        drawn = {str(arm): (scored[arm].tables, found) for arm, found in report.closeness.items()}
        plot_closeness(scored["unlearned"].tables, drawn, folder / HISTOGRAM_FILE, seed=seed)
    save_json(report, folder / REFERENCES_FILE)


def with_references(
    report: UnlearningReport,
    tables: Mapping[str, Tables],
    scored: Mapping[Arm, ScoredArm],
    *,
    seed: int,
    retrained: str | None,
) -> UnlearningReport:
    """A report with the references, and with the attacks on its models that need retrained ones.

    Args:
        report, scored: the report and the references.
        tables: of the report's models, by arm.
        seed: of what is drawn for the intervals.
        retrained: the place of the report's own retrained model, which is not compared with itself.
    """
    entries = {str(arm): summarise_references(found, tables.get("base")) for arm, found in scored.items()}
    arms = dict(report.arms)
    found = scored.get("retrained", ScoredArm([], []))
    for name, entry in report.arms.items():
        outside = [
            other
            for model, other in zip(found.models, found.tables, strict=True)
            if name != "retrained" or retrained is None or model.folder.resolve() != Path(retrained).resolve()
        ]
        arms[name] = replace(entry, attacks={**entry.attacks, **outside_attacks(tables[name], outside, seed=seed)})
    return replace(report, arms=arms, references=entries)
