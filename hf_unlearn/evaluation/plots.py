"""The picture of the result: losses of S and H under each model."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from ..tasks import TASKS
from .report import SetName, UnlearningReport, written_whole

PLOT_FILE = "loss_histograms.png"
STYLES: dict[SetName, dict[str, Any]] = {
    "forget": {"label": "records to forget (S)", "histtype": "stepfilled", "color": "#d95f02", "alpha": 0.55},
    "holdout": {"label": "never seen (H)", "histtype": "step", "color": "black", "linewidth": 1.6},
}
TITLES = {"original": "before", "unlearned": "after", "retrained": "retrained without S"}


def plot_losses(report: UnlearningReport, tables: dict[str, dict[SetName, pa.Table]], path: Path) -> None:
    """Draw one histogram a model of the losses of S and H, so that one sees whether they still lie apart.

    Args:
        report: for the verdict and the numbers in the titles.
        tables: by model and set, as scored.
        path: where to write the PNG; it holds no data besides the drawing.
    """
    arms = [arm for arm in TITLES if arm in tables]
    figure = Figure(figsize=(4 * len(arms), 3.6), layout="constrained")
    axes = figure.subplots(1, len(arms), squeeze=False, sharex=True, sharey=True)[0]
    drawn: tuple[SetName, ...] = ("forget", "holdout")
    losses = {
        arm: {name: tables[arm][name]["loss"].to_numpy() for name in drawn if name in tables[arm]} for arm in arms
    }
    shown = [values for sets in losses.values() for values in sets.values()]
    edges = np.linspace(0, float(np.quantile(np.concatenate(shown), 0.99)) or 1.0, 31)
    for axis, arm in zip(axes, arms, strict=True):
        for name, values in losses[arm].items():
            values = np.clip(values, edges[0], edges[-1])
            axis.hist(values, bins=edges, weights=np.full(len(values), 100 / len(values)), **STYLES[name])
        auc = report.arms[arm].membership_auc
        told = f"\nS told from H: AUC {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" if auc else ""
        axis.set_title(TITLES[arm] + told, fontsize=10)
        axis.set_xlabel(f"loss of a record (nats{TASKS[report.task].unit})")
    axes[0].set_ylabel("% of records")
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{report.method.name}: {report.verdict.word.replace('_', ' ')}", fontweight="bold")
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
