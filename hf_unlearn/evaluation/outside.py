"""Membership attacks that compare a model with models that saw neither S nor H: LiRA and RMIA, both offline."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from .evidence import attack_scores
from .membership import AttackResult, attack_result, lira_scores, logit_confidence, rmia_scores
from .report import SetName

# One model shows no variance.
FEWEST_OUTSIDE = 2


def outside_attacks(
    judged: Mapping[SetName, pa.Table], outside: Sequence[Mapping[SetName, pa.Table]], *, seed: int
) -> dict[str, AttackResult]:
    """Judge a model by attacks that know models which saw neither S nor H.

    Args:
        judged: its tables, by set.
        outside: those of the other models, on the same records.
        seed: of the halves and of the draws.

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
