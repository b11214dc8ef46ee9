"""Other records of S in the context of a record of S.

It means little alone: the same for a model that never saw S, and after records of H, shows what reading gives.
"""

from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from ...errors import InputError
from ...models.limits import positions
from ...models.loading import Model, plain_model
from ...models.tasks import IGNORED
from ..measured_sets import EvidenceSets, first_pieces
from ..report import SetName
from ..scoring import score
from ..statistics import Estimate, by_group, mean_loss

SHOTS = 4  # records before the one that is scored
CONTEXT_TOKENS = 1024  # at most, with the record that is scored


@dataclass(frozen=True)
class ContextScore:
    """How other records in the context change the loss of the records of S, in nats per token.

    Attributes:
        shots: records in a context.
        others: the records for comparison: of H, or of L where there is no H.
        seed: of the records and the contexts.
        alone: mean loss with no other record before.
        after_forget: after others of S, of the same group where groups are known.
        after_others: after records of H or L.
        gain: after_others - after_forget of the same records: what S brings back beyond any text of its kind.
    """

    shots: int
    others: SetName
    seed: int
    alone: Estimate
    after_forget: Estimate
    after_others: Estimate
    gain: Estimate


def in_context(model: Model, evidence: EvidenceSets, *, records: int, seed: int) -> ContextScore:
    """Measure whether other records of S remind a model of a record of S.

    Contexts lose their beginning where they are longer than the model reads, and the record has half of that at most.

    Args:
        model: a causal language model; it stays as it is.
        evidence: S, and H or L, encoded.
        records: of S at most, drawn at random.
        seed: of the records and the contexts.

    Raises:
        InputError: S has fewer than two records, or none short enough, or there is neither H nor L.
    """
    forget = first_pieces(evidence.sets["forget"])
    others: SetName = "holdout" if "holdout" in evidence.sets else "retained"
    if len(forget) < 2 or others not in evidence.sets:
        raise InputError("The attack in context needs two records to forget or more, and held-out or retained ones.")
    shown = first_pieces(evidence.sets[others])
    limit = int(min(positions(plain_model(model).config), CONTEXT_TOKENS))
    draw = np.random.default_rng(seed)
    groups, other_groups = _group_array(forget), _group_array(shown)
    known, other = forget["input_ids"][:], shown["input_ids"][:]
    lines: dict[str, list[dict]] = {"alone": [], "after_forget": [], "after_others": []}
    for target in np.sort(draw.choice(len(forget), min(records, len(forget)), replace=False)):
        ids = known[target][-(limit // 2) :]
        # With nothing before it the first token is not predicted.
        labels = [IGNORED, *forget[int(target)]["labels"][-len(ids) :][1:]]
        if all(label == IGNORED for label in labels):
            continue
        near = _shots(draw.permutation(np.delete(np.arange(len(forget)), target)), groups, groups[target])
        drawn = draw.permutation(len(other))
        far = _shots(drawn, other_groups, other_groups[drawn[0]])
        contexts: tuple[list[list[int]], ...] = ([], [known[i] for i in near], [other[i] for i in far])
        for name, context in zip(lines, contexts, strict=True):
            before = [token for text in context for token in text]
            before = before[max(0, len(before) + len(ids) - limit) :]
            line = {"input_ids": before + ids, "labels": [IGNORED] * len(before) + labels}
            lines[name].append({**line, "attention_mask": [1] * len(line["labels"]), "row": int(target)})
    if not lines["alone"]:
        raise InputError("No record to forget is short enough to stand after another one.")
    tables = {
        name: score(
            model, Dataset.from_list(part), evidence.collator, task=evidence.task, batch_size=evidence.batch_size
        )
        for name, part in lines.items()
    }
    rows = tables["alone"]["row"].to_numpy()
    units = groups[rows] if "group" in forget.column_names else rows
    of_tables = (table["nll"].to_numpy() for table in tables.values())
    tokens, *sums = by_group(units, tables["alone"]["tokens"].to_numpy(), *of_tables)
    nll = dict(zip(tables, sums, strict=True))
    losses = {name: mean_loss(values, tokens) for name, values in nll.items()}
    gain = mean_loss(nll["after_others"] - nll["after_forget"], tokens)
    return ContextScore(min(SHOTS, len(forget) - 1), others, seed, **losses, gain=gain)


def _group_array(examples: Dataset) -> np.ndarray:
    """The group of each example; all are of one where groups are not known."""
    return np.array(examples["group"]) if "group" in examples.column_names else np.zeros(len(examples), int)


def _shots(drawn: np.ndarray, groups: np.ndarray, group: int) -> np.ndarray:
    """The records to show: those of the group first, else in the order drawn."""
    return drawn[np.argsort(groups[drawn] != group, kind="stable")][:SHOTS]
