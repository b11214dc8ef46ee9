"""The picture of how close unlearned models are to others: the challenge's epsilon of each record."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..plots import save_figure
from .challenge import BIN_WIDTH, LARGEST_EPSILON, challenge_epsilons, dealt_epsilons
from .compare import LETTERS, Closeness, Tables, model_scores

STYLES: tuple[dict[str, Any], ...] = (
    {"histtype": "stepfilled", "color": "#d95f02", "alpha": 0.55},
    {"histtype": "step", "color": "black", "linewidth": 1.6},
)


def plot_closeness(
    unlearned: Sequence[Tables], arms: Mapping[str, tuple[Sequence[Tables], Closeness]], path: Path, *, seed: int = 0
) -> None:
    """Draw the challenge's epsilon of each record, and that of the same models divided at random, an arm a row."""
    columns = max(len(found.sets) for _, found in arms.values())
    figure = Figure(figsize=(5.6 * columns, 3.9 * len(arms)), layout="constrained")
    panels = figure.subplots(len(arms), columns, squeeze=False)
    for row, (arm, (reference, found)) in zip(panels, arms.items(), strict=True):
        # An attack with a mistake in both arms shows log(n - 1) at most; those without a mistake come after a gap.
        n = found.n_quality
        top = max(math.ceil(math.log(n - 1) / BIN_WIDTH), 1) * BIN_WIDTH
        edges = np.arange(0, top + 2.5 * BIN_WIDTH, BIN_WIDTH)
        perfect = top + 1.5 * BIN_WIDTH
        ticks = {0: "0", top / 2: f"{top / 2:g}", top: f"{top:g}", perfect: "no mistake"}
        for axis, (name, numbers), sentence in zip(row, found.sets.items(), found.findings, strict=True):
            u, r = model_scores(unlearned[:n], name), model_scores(reference[:n], name)
            drawn = {f"unlearned against {arm}": challenge_epsilons(u, r, found.delta)}
            drawn["the same models divided at random"] = dealt_epsilons(u, r, delta=found.delta, seed=seed)
            for (label, values), style in zip(drawn.items(), STYLES, strict=True):
                shown = np.where(values >= LARGEST_EPSILON, perfect, np.minimum(values, top - 1e-9))
                axis.hist(shown, bins=edges, weights=np.full(len(shown), 100 / len(shown)), label=label, **style)
            title = f"{sentence}; F = {numbers.quality:.3f}, of models alike {numbers.quality_null:.3f}"
            axis.set_title(textwrap.fill(title, 66), fontsize=9)
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.set_ylim(top=1.35 * axis.get_ylim()[1])
            axis.legend(loc="upper left", fontsize=8, frameon=False)
            axis.set_xlabel(f"epsilon of a record as the challenge estimates it ({n} models a side)")
            axis.set_ylabel(f"% of the {numbers.records:,} records of {LETTERS[name]}")
    save_figure(figure, path)
