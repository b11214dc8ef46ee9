"""What ``hf-unlearn attack`` finds out from two models at a time: how deep the unlearning goes.

Two models are in memory together, the original and one of the others. They are loaded again, because relearning and
sampling need the memory of one model alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import InputError
from ...evaluation.attacks.depth import (
    DepthScore,
    groups_of,
    patched_depth,
    patched_drops,
    probed_depth,
    probed_layers,
)
from ...evaluation.attacks.report import Attacked
from ...evaluation.measured_sets import EvidenceSets
from ...models.loading import Model, load_any, to_device
from ...models.location import ModelSource
from ..preparation import Preparation

# What a probe of the layers needs besides S: classes to learn from, and records for comparison.
BESIDE = ("retained", "holdout")


@dataclass(frozen=True)
class Compared:
    """What came of comparing models.

    Attributes:
        depth: None where it was not measured.
        skipped: what was not done, each with the reason.
    """

    depth: DepthScore | None
    skipped: dict[str, str]


def compare_models(run: Preparation, places: Mapping[Attacked, ModelSource], evidence: EvidenceSets) -> Compared:
    """Find out what two models at a time tell.

    Args:
        run: the settings.
        places: of the models; the unlearned one is among them.
        evidence: the encoded records.
    """
    skipped = {}
    depth = None
    if why := _no_depth(places, evidence):
        skipped["depth"] = why
    else:
        try:
            depth = _depth(run, places, evidence)
        except InputError as error:
            skipped["depth"] = str(error).removesuffix(".")
        else:
            if depth is None:
                skipped["depth"] = "the layers of the retrained model lack nothing of S that shows"
    return Compared(depth, skipped)


def _no_depth(places: Mapping[Attacked, ModelSource], evidence: EvidenceSets) -> str | None:
    """Why the depth cannot be measured, as far as is known without a model; None where it can."""
    if not {"original", "retrained"} <= places.keys():
        return "it needs --original_model and --retrained_model"
    if evidence.task != "text-classification":
        return None
    if not set(BESIDE) <= evidence.sets.keys():
        return "the layers of a classifier are read with held-out and retained records, and some are missing"
    if len(set(evidence.sets["retained"]["labels"])) < 2:
        return "the retained records are all of one class"
    return None


def _depth(run: Preparation, places: Mapping[Attacked, ModelSource], evidence: EvidenceSets) -> DepthScore | None:
    seed = run.config.seed
    of_forget = groups_of(evidence, "forget", seed)
    if evidence.task == "text-classification":
        of_holdout = groups_of(evidence, "holdout", seed)
        groups = None if of_forget is None or of_holdout is None else (of_forget, of_holdout)
        original, retrained, unlearned = (
            probed_layers(_loaded(run, places[arm]), evidence, seed=seed)
            for arm in ("original", "retrained", "unlearned")
        )
        return probed_depth(original, retrained, unlearned, groups, seed=seed)
    whole = _loaded(run, places["original"])
    drops = {
        arm: patched_drops(whole, _loaded(run, places[arm]), evidence, seed=seed) for arm in ("retrained", "unlearned")
    }
    return patched_depth(drops["retrained"], drops["unlearned"], of_forget, seed=seed)


def _loaded(run: Preparation, place: ModelSource) -> Model:
    return to_device(load_any(place, run.task, **run.loading), run.config.device)
