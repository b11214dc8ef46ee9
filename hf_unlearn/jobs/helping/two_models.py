"""What ``hf-unlearn attack`` finds out from two models at a time: the depth, and what a pair of models gives away.

Two models are in memory together, the original and one of the others. They are loaded again, because relearning and
sampling need the memory of one model alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ...errors import InputError
from ...evaluation.attacks.depth import (
    DEPTH_RECORDS,
    DepthScore,
    groups_of,
    patched_depth,
    patched_drops,
    probed_depth,
    probed_layers,
)
from ...evaluation.attacks.pair import CUT, WEIGHT, PairAttack, changed_losses, guided_texts
from ...evaluation.attacks.report import Attacked
from ...evaluation.attacks.sampling import SAMPLED_TOKENS
from ...evaluation.measured_sets import JUDGED, EvidenceSets
from ...evaluation.score_cache import score_once
from ...models.layers import blocks_of
from ...models.loading import Model, load_any, plain_model, to_device
from ...models.location import ModelSource
from ...models.tasks import TASKS
from ..preparation import Preparation
from .kept_parts import KeptParts

PAIR_RECORDS = 50  # of S, and of H, that a pair of models is asked for

# What a probe of the layers needs besides S: classes to learn from, and records for comparison.
BESIDE = ("retained", "holdout")


@dataclass(frozen=True)
class Compared:
    """What came of comparing models.

    Attributes:
        depth, pair: None where it was not measured.
        skipped: what was not done, each with the reason.
    """

    depth: DepthScore | None
    pair: PairAttack | None
    skipped: dict[str, str]


def compare_models(
    run: Preparation,
    places: Mapping[Attacked, ModelSource],
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
    parts: KeptParts,
) -> Compared:
    """Find out what two models at a time tell.

    Args:
        run: the settings.
        places: of the models; the unlearned one is among them.
        evidence: the encoded records.
        tokenizer: of all models.
        parts: what is finished already.
    """
    depth: DepthScore | None = None
    pair: PairAttack | None = None
    skipped = {name: why for name, why in impossible(places, evidence).items() if why is not None}
    if "depth" not in skipped:
        try:
            depth = parts.get("depth", DepthScore | None, lambda: _depth(run, places, evidence))
        except InputError as error:
            skipped["depth"] = str(error).removesuffix(".")
        else:
            if depth is None:
                skipped["depth"] = "the layers of the retrained model lack nothing of S that shows"
    if "pair" not in skipped:
        try:
            pair = parts.get("pair", PairAttack, lambda: _pair(run, places, evidence, tokenizer))
        except InputError as error:
            skipped["pair"] = str(error).removesuffix(".")
    return Compared(depth, pair, skipped)


def impossible(places: Mapping[Attacked, ModelSource], evidence: EvidenceSets) -> dict[str, str | None]:
    """Why depth and pair cannot be measured, as far as is known without a model; None where they can."""
    pair = None if "original" in places else "it needs --original_model"
    writes = TASKS[evidence.task].next_token
    if pair is None and "holdout" not in evidence.sets and not writes:
        pair = "there are no held-out records"
    depth = None
    if not {"original", "retrained"} <= places.keys():
        depth = "it needs --original_model and --retrained_model"
    elif evidence.task == "text-classification":
        if not set(BESIDE) <= evidence.sets.keys():
            depth = "the layers of a classifier are read with held-out and retained records, and some are missing"
        elif len(set(evidence.sets["retained"]["labels"])) < 2:
            depth = "the retained records are all of one class"
    return {"depth": depth, "pair": pair}


def price_of_two(places: Mapping[Attacked, ModelSource], evidence: EvidenceSets, model: Model) -> list[str]:
    """What depth and pair cost, before they start, a sentence each.

    Args:
        places: of the models.
        evidence: the encoded records.
        model: one of them.
    """
    skipped, sizes = impossible(places, evidence), {name: len(part) for name, part in evidence.sets.items()}
    found = []
    try:
        blocks = len(blocks_of(plain_model(model)))
    except InputError as error:
        skipped["depth"] = str(error)
    if skipped["depth"] is None:
        if evidence.task == "text-classification":
            read = sum(min(sizes[name], DEPTH_RECORDS) for name in JUDGED) + sizes["retained"]
            found.append(f"Depth: {3 * read:,} forward passes of a record, and {3 * blocks:,} linear probes.")
        else:
            passes = 2 * (blocks + 2) * min(sizes["forget"], DEPTH_RECORDS)
            found.append(f"Depth: {passes:,} forward passes of a record.")
    if skipped["pair"] is None:
        judged = [sizes[name] for name in JUDGED if name in sizes]
        scored = len(places) * sum(judged)
        sentence = f"The pair: {scored:,} forward passes of a record"
        if TASKS[evidence.task].next_token:
            texts = len(places) * sum(min(size, PAIR_RECORDS) for size in judged)
            sentence += f", and {texts:,} texts of up to {SAMPLED_TOKENS} tokens"
        found.append(f"{sentence}.")
    return found


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


def _pair(
    run: Preparation,
    places: Mapping[Attacked, ModelSource],
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
) -> PairAttack:
    seed, writes = run.config.seed, TASKS[evidence.task].next_token
    judged = evidence.with_sets({name: part for name, part in evidence.sets.items() if name in JUDGED})
    original = _loaded(run, places["original"])
    before, _ = score_once(judged, original)
    membership, texts = {}, {}

    def written(name: str, other: Model | None) -> None:
        found = guided_texts(original, other, judged, tokenizer, records=PAIR_RECORDS, seed=seed) if writes else None
        if found is not None:
            texts[name] = found

    written("alone", None)
    for arm in ("unlearned", "retrained"):
        if arm in places:
            later = _loaded(run, places[arm])
            auc = changed_losses(before, score_once(judged, later)[0])
            if auc is not None:
                membership[arm] = auc
            written(arm, later)
    return PairAttack(WEIGHT, CUT, seed, membership, texts)


def _loaded(run: Preparation, place: ModelSource) -> Model:
    return to_device(load_any(place, run.task, **run.loading), run.config.device)
