"""Every measure of one model on S, as a number from 0 to 1 that is high where the model knows S."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel
from worlds import World

from hf_unlearn.evaluation.attacks.depth import patched_depth, patched_drops, probed_depth, probed_layers
from hf_unlearn.evaluation.attacks.pair import changed_losses
from hf_unlearn.evaluation.attacks.sampling import sample_leaks
from hf_unlearn.evaluation.benchmarks.tofu import answer_probability, closer_to_one, truth_probability, truth_ratios
from hf_unlearn.evaluation.generation import generate, measure
from hf_unlearn.evaluation.measured_sets import EvidenceSets, attack_scores
from hf_unlearn.evaluation.scoring import score
from hf_unlearn.evaluation.statistics import membership_auc
from hf_unlearn.evaluation.verdict import Provenance, Scores, decide

SEED = 0
MARGIN = 0.1
WRITTEN = 64  # tokens of an answer
SAMPLES = 8  # of each record, for leak@k
GROUPS = ("loss", "answers", "attacks", "texts", "leaks", "depth", "verdict")

Tables = Mapping[Any, pa.Table]


@dataclass(frozen=True)
class Yardsticks:
    """What every model is compared with, on the same records.

    Attributes:
        evidence: those records.
        original: a model that knows S, of a seed of its own.
        tables: of the ``base`` (None for a classifier), the ``original`` and the ``retrained`` models.
        held: what the layers hold: of patching the drops of the first retrained model, or of a probe those of the
            original and of the first retrained model.
    """

    evidence: EvidenceSets
    original: PreTrainedModel
    base: Tables | None
    before: Tables
    retrained: Sequence[Tables]
    held: Any

    @classmethod
    def of(
        cls, world: World, evidence: EvidenceSets, original: PreTrainedModel, retrained: Sequence[PreTrainedModel]
    ) -> "Yardsticks":
        """Score the models that all others are compared with."""
        writes = evidence.task == "text-generation"
        base = evidence.score(world.base(SEED)) if writes else None
        tables = [evidence.score(model) for model in (original, *retrained)]
        held: Any
        if writes:
            held = patched_drops(original, retrained[0], evidence, seed=SEED)
        else:
            held = [probed_layers(model, evidence, seed=SEED) for model in (original, retrained[0])]
        return cls(evidence, original, base, tables[0], tables[1:], held)


def measured(
    world: World, yardsticks: Yardsticks, model: PreTrainedModel, groups: Sequence[str] = GROUPS
) -> dict[str, Any]:
    """The measures of some groups; ``utility``, the mean probability of the records of L, comes with all of them.

    Args:
        world: of the model.
        yardsticks: with the records to measure.
        model: it stays as it is.
        groups: names of :data:`GROUPS`.

    Returns:
        Numbers by name, and words by the way to judge in ``verdict``.
    """
    evidence = yardsticks.evidence
    tables = evidence.score(model)
    writes = evidence.task == "text-generation"
    found: dict[str, Any] = {"utility": float(np.exp(-tables["retained"]["loss"].to_numpy()).mean())}
    if "loss" in groups:
        found |= _losses(tables["forget"], writes)
    if "answers" in groups and world.answers:
        found |= _answers(world, evidence, model)
    scores = attack_scores(tables, yardsticks.base)
    assert scores is not None
    if "attacks" in groups:
        found |= {f"AUC, {name}": _auc(scores.forget[name], scores.holdout[name]) for name in scores.forget}
        pair = changed_losses(yardsticks.before, tables)
        assert pair is not None
        # It is high where the model lost S.
        found["AUC, pair"] = 1 - pair.value
    if "texts" in groups and writes:
        found["ROUGE"] = _rouge(world, evidence, evidence.sets["forget"], model)
        asked_otherwise = evidence.forms.get("loss_paraphrase", {}).get("forget")
        if asked_otherwise is not None:
            found["ROUGE, paraphrased question"] = _rouge(world, evidence, asked_otherwise, model)
    if "leaks" in groups and writes:
        found |= _leaks(world, evidence, model)
    if "depth" in groups:
        found |= _depth(yardsticks, model)
    if "verdict" in groups:
        found["verdict"] = _verdicts(yardsticks, scores)
    return found


def _losses(forget: pa.Table, writes: bool) -> dict[str, float]:
    columns = {name: forget[name].to_numpy() for name in forget.column_names if name not in ("log_p", "predicted")}
    found = {
        "loss": math.exp(-float(columns["nll"].sum() / columns["tokens"].sum())),
        "probability": float(answer_probability(columns["loss"]).mean()),
    }
    if writes:
        return found | {
            "extraction strength": float(columns["extraction"].mean()),
            "exact memorisation": float(columns["exact"].mean()),
        }
    return found | {"accuracy": float(columns["correct"].mean())}


def _answers(world: World, evidence: EvidenceSets, model: PreTrainedModel) -> dict[str, float]:
    """How likely a paraphrase of the answer is, and the truth ratio."""
    rows = np.unique(evidence.sets["forget"]["row"])
    losses = {}
    for name, part in world.answers.items():
        own = part.select(np.flatnonzero(np.isin(part["row"], rows)))
        table = score(model, own, evidence.collator, task=evidence.task, batch_size=evidence.batch_size)
        losses[name] = table["loss"].to_numpy()
    paraphrased = losses.pop("paraphrased")
    ratios = truth_ratios(paraphrased, np.stack(list(losses.values()), axis=1), "geometric")
    return {
        "paraphrased probability": float(answer_probability(paraphrased).mean()),
        # TOFU's mean is high where right and wrong are equally likely.
        "truth ratio": 1 - float(closer_to_one(ratios).mean()),
        "truth ratio, right part": float(truth_probability(ratios).mean()),
    }


def _auc(forget: np.ndarray, holdout: np.ndarray) -> float:
    return membership_auc(-forget, -holdout).value


def _rouge(world: World, evidence: EvidenceSets, examples: Any, model: PreTrainedModel) -> float:
    """The mean ROUGE-L recall of what the model writes after the prompts, greedily."""
    settings: dict[str, Any] = {"task": evidence.task, "batch_size": evidence.batch_size}
    written = generate(model, examples, world.tokenizer, prefixes=(0,), new_tokens=WRITTEN, **settings)
    # More than that it could not write.
    table = measure([replace(one, wanted=one.wanted[:WRITTEN]) for one in written], world.tokenizer)
    return float(np.nanmean(table["rougeL_recall"].to_numpy(zero_copy_only=False)))


def _leaks(world: World, evidence: EvidenceSets, model: PreTrainedModel) -> dict[str, float]:
    alone = replace(evidence, sets={"forget": evidence.sets["forget"]}, forms={})
    curve = sample_leaks(model, alone, world.tokenizer, records=100, samples=SAMPLES, seed=SEED)
    assert curve is not None
    last = curve.forget[-1]
    found = {f"leak@{last.samples}, verbatim": last.verbatim.value}
    if last.similar is not None:
        found[f"leak@{last.samples}, similar"] = last.similar.value
    return found


def _depth(yardsticks: Yardsticks, model: PreTrainedModel) -> dict[str, float]:
    """What is left in the layers, 1 less the depth score; nothing where no layer counts."""
    evidence, held = yardsticks.evidence, yardsticks.held
    if evidence.task == "text-generation":
        drops = patched_drops(yardsticks.original, model, evidence, seed=SEED)
        depth = patched_depth(held, drops, None, seed=SEED)
    else:
        depth = probed_depth(*held, probed_layers(model, evidence, seed=SEED), None, seed=SEED)
    found = {} if depth is None else {"depth": 1 - depth.depth.value}
    if depth is not None and depth.pooled is not None and depth.read_by == "patching":
        found["depth, pooled"] = 1 - depth.pooled.value
    return found


def _verdicts(yardsticks: Yardsticks, scores: Scores) -> dict[str, str]:
    """The verdict's word, without and with retrained models, with records or their authors as the units."""
    provenance = Provenance(start_saw_forget=True, stage="the training", duplicates_retained=0)
    before = attack_scores(yardsticks.before, yardsticks.base)
    retrained = [attack_scores(tables, yardsticks.base) for tables in yardsticks.retrained]
    ungrouped = replace(yardsticks.evidence, sets={
        name: part.remove_columns("group") if "group" in part.column_names else part
        for name, part in yardsticks.evidence.sets.items()
    })  # fmt: skip
    blind = {True: yardsticks.evidence.blind(SEED), False: ungrouped.blind(SEED)}

    def word(grouped: bool, references: Sequence[Scores | None]) -> str:
        kept = [scores, before, *references]
        own, original, *others = (one if grouped or one is None else replace(one, groups=None) for one in kept)
        known = [one for one in others if one is not None]
        return decide(provenance, own, original=original, retrained=known, margin=MARGIN, blind=blind[grouped]).word

    found = {"chance": word(False, []), "retrained": word(False, retrained)}
    if scores.groups is not None:
        found["retrained, authors as units"] = word(True, retrained)
    return found
