"""From tables and facts to the report."""

import os
import platform
from datetime import UTC, datetime

import pyarrow as pa
import torch

from ..data.split import SplitAudit
from ..models.location import ModelSource, read_card
from ..models.tasks import Task
from ..models.training_record import DataSource, software_versions
from .base_check import check_base
from .blind import BlindBaseline
from .evidence import attack_scores
from .report import CostEntry, CurvePoint, MethodEntry, ModelEntry, SetName, UnlearningReport
from .summaries import summarise_arm
from .utility import utility
from .verdict import Provenance, decide


def assemble_report(
    tables: dict[str, dict[SetName, pa.Table]],
    *,
    generated: dict[str, dict[SetName, pa.Table]],
    task: Task,
    sampled: set[SetName],
    blind: BlindBaseline | None,
    seed: int,
    provenance: Provenance,
    margin: float,
    utility_margin: float,
    group_column: str | None,
    judged_on_part: bool,
    original: ModelSource | None,
    base: ModelSource | None,
    dataset: DataSource,
    audit: SplitAudit | None,
    method: MethodEntry,
    cost: CostEntry | None,
    curve: list[CurvePoint],
    processes: int,
) -> UnlearningReport:
    """Summarise the tables, reach the verdict and put everything into one report.

    Args:
        tables: by model (``original``, ``unlearned``, ``retrained``, ``base``) and set, as scored.
        generated: by model and set, what was written, as measured; empty when nobody asked.
        sampled: the sets of which only a part was scored.
        blind: how S and H differ before any model is asked.
        seed: of what is drawn for the intervals.
        provenance: what is known about the unlearned model without measuring it.
        margin: on the AUC, fixed before the run.
        utility_margin: on the accuracy or the relative loss, fixed before the run.
        original, base: where the models came from; None when unknown.
        processes: of the launch.

    The other arguments become the fields of the report that have their names.
    """
    difficulty = tables.get("base")
    arms = {arm: sets for arm, sets in tables.items() if arm != "base"}
    judged = {arm: attack_scores(sets, difficulty) for arm, sets in arms.items()}
    provenance = check_base(
        provenance,
        attack_scores(difficulty) if difficulty is not None else None,
        measurable=difficulty is not None,
        blind=blind,
        margin=margin,
    )
    verdict = decide(
        provenance,
        judged["unlearned"],
        original=judged.get("original"),
        retrained=judged.get("retrained"),
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
            arm: summarise_arm(sets, task, sampled, judged[arm], seed, generated.get(arm))
            for arm, sets in arms.items()
        },
        curve=curve,
        verdict=verdict,
        judged_on_part=judged_on_part,
        licence=_licence(original, base),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=software_versions(),
        hardware={"device": _device(), "processes": str(processes)},
        utility=utility(arms, task, utility_margin),
        group_column=group_column,
        base_is_clean=provenance.base_is_clean,
    )


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
