"""The pictures of the result: losses of S and H under each model, ROC curves, and the way there."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..files import written_whole
from ..models.tasks import TASKS
from .measured_sets import attack_scores
from .report import CurvePoint, SetName, UnlearningReport
from .statistics import Estimate, clustered_mean
from .verdict import ATTACKS
from .wording import ARM_NAMES, ARM_STYLES, FORGETTING_FILE, PLOT_FILE, ROC_FILE

STYLES: dict[SetName, dict[str, Any]] = {
    "forget": {"label": "records to forget (S)", "histtype": "stepfilled", "color": "#d95f02", "alpha": 0.55},
    "holdout": {"label": "never seen (H)", "histtype": "step", "color": "black", "linewidth": 1.6},
    "retained": {
        "label": "retained (L)", "histtype": "step", "color": "#7570b3", "linewidth": 1.0, "linestyle": (0, (2, 1.5))
    },
}  # fmt: skip
LINES: dict[SetName, dict[str, Any]] = {
    "forget": {"label": "records to forget (S)", "color": "#d95f02", "linestyle": "-", "marker": "o"},
    "holdout": {"label": "never seen (H)", "color": "black", "linestyle": "--", "marker": "^"},
    "retained": {"label": "retained (L)", "color": "#7570b3", "linestyle": ":", "marker": "s"},
}
BAND: dict[str, Any] = {"facecolor": "none", "edgecolor": "gray", "hatch": "////", "linewidth": 0.5, "alpha": 0.6}

Tables = dict[str, dict[SetName, pa.Table]]


def draw_pictures(report: UnlearningReport, tables: Tables, folder: Path) -> None:
    """Draw all that there is to see, and remove what another run may have left of the rest."""
    plot_losses(report, tables, folder / PLOT_FILE)
    if report.curve:
        plot_forgetting(report, tables, folder / FORGETTING_FILE)
    else:
        (folder / FORGETTING_FILE).unlink(missing_ok=True)
    if report.verdict.attack is not None:
        plot_roc(report, tables, folder / ROC_FILE)
    else:
        (folder / ROC_FILE).unlink(missing_ok=True)


def plot_losses(report: UnlearningReport, tables: Tables, path: Path) -> None:
    """Draw one histogram a model of the losses of S, H and L, so that one sees whether S and H still lie apart."""
    arms = [arm for arm in ARM_NAMES if arm in tables]
    figure = Figure(figsize=(4 * len(arms), 3.6), layout="constrained")
    axes = figure.subplots(1, len(arms), squeeze=False, sharex=True, sharey=True)[0]
    losses = {
        arm: {name: tables[arm][name]["loss"].to_numpy() for name in STYLES if name in tables[arm]} for arm in arms
    }
    shown = [values for sets in losses.values() for values in sets.values()]
    edges = np.linspace(0, float(np.quantile(np.concatenate(shown), 0.99)) or 1.0, 31)
    for axis, arm in zip(axes, arms, strict=True):
        for name, values in losses[arm].items():
            values = np.clip(values, edges[0], edges[-1])
            axis.hist(values, bins=edges, weights=np.full(len(values), 100 / len(values)), **STYLES[name])
        auc = report.arms[arm].membership_auc
        caption = f"\nmembership AUC {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" if auc else ""
        axis.set_title(ARM_NAMES[arm] + caption, fontsize=10)
        axis.set_xlabel(f"loss of a record (nats{TASKS[report.task].unit})")
    axes[0].set_ylabel("% of records")
    axes[0].legend(fontsize=8, frameon=False)
    _write(figure, report, path)


def plot_roc(report: UnlearningReport, tables: Tables, path: Path) -> None:
    """Draw the ROC of the attack that decided, and of the loss, on log axes, where single records can be seen.

    The false positive rate begins at one record of H, below which so many show nothing. The tables of the base are
    needed where the report used them.
    """
    found = {arm: attack_scores(tables[arm], tables.get("base")) for arm in ARM_NAMES if arm in tables}
    assert report.verdict.attack is not None
    attacks = list(dict.fromkeys([report.verdict.attack, "loss"]))
    figure = Figure(figsize=(5.2 * len(attacks), 5.6), layout="constrained")
    for axis, attack in zip(figure.subplots(1, len(attacks), squeeze=False)[0], attacks, strict=True):
        hits: dict[str, str] = {}
        for number, (arm, scores) in enumerate(found.items()):
            assert scores is not None
            forget, holdout = scores.forget[attack], scores.holdout[attack]
            rates = _roc(forget, holdout)
            auc = report.arms[arm].attacks[attack].auc
            label = f"{ARM_NAMES[arm]}: AUC {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]"
            m, n = len(forget), len(holdout)
            allowed = max(1, n // 100)
            hits[arm] = f"{100 * rates[allowed - 1]:.0f} % {ARM_NAMES[arm].split()[0]}"
            # No hit has no place on a log axis; its line is drawn below that of one hit. Markers lie side by side, so
            # that a line under another can be seen.
            heights = np.maximum(rates, 0.6 / m)
            axis.plot(
                np.arange(1, n + 1) / n, heights, drawstyle="steps-post", label=label, markersize=5,
                markevery=(0.04 * number, 0.12), linewidth=1.6, **ARM_STYLES[arm],
            )  # fmt: skip
        axis.plot([1 / n, 1], [1 / n, 1], color="gray", linewidth=1.0, linestyle="-.", label="chance")
        axis.set(xscale="log", yscale="log", xlim=(1 / n, 1), ylim=(0.5 / m, 1.1))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(f"share of H taken for S: {n:,} records resolve {1 / n:.2g} to 1")
        axis.set_ylabel(f"share of S found: {m:,} records")
        axis.set_title(
            f"S found by {ATTACKS[attack]}\nat {100 * allowed / n:.2g} % false positives: {', '.join(hits.values())}",
            fontsize=10,
        )
        axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    _write(figure, report, path)


def plot_forgetting(report: UnlearningReport, tables: Tables, path: Path) -> None:
    """Draw the losses of S, H and L and the membership AUC over the steps of the training.

    Large open points are the original, at step 0, and the finished model, both on the records of the verdict.
    """
    end = report.method.steps or report.curve[-1].step
    aucs = {arm: found.membership_auc for arm, found in report.arms.items()}
    rows = 1 if aucs["unlearned"] is None else 2
    figure = Figure(figsize=(9, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    losses = {arm: _mean(sets, "forget") for arm, sets in tables.items()}
    _losses_over_steps(axes[0], report.curve, tables, end)
    axes[0].set_title(_finding(losses, "Mean loss of S:"), fontsize=10)
    axes[0].set_ylabel(f"mean loss of a record (nats{TASKS[report.task].unit})")
    if rows == 2:
        _auc_over_steps(axes[1], report.curve, aucs, end, report.verdict.margin)
        axes[1].set_title(_finding(aucs, "Membership AUC of the loss:"), fontsize=10)
        axes[1].set_ylabel("membership AUC")
    axes[-1].set_xlabel("training step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes:
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _write(figure, report, path)


def _losses_over_steps(axis: Axes, curve: list[CurvePoint], tables: Tables, end: int) -> None:
    for name, style in LINES.items():
        losses = [vars(point)[f"{name}_loss"] for point in curve]
        if None in losses:
            continue
        axis.plot([point.step for point in curve], losses, **style, markersize=5, linewidth=1.6)
        ends = [(step, _mean(tables.get(arm, {}), name)) for step, arm in ((0, "original"), (end, "unlearned"))]
        known = [(step, found.value) for step, found in ends if found is not None]
        axis.plot(*zip(*known, strict=True), label=f"{style['label']}, before and after", **_open(style))
    if (target := _mean(tables.get("retrained", {}), "forget")) is not None:
        axis.axhspan(target.low, target.high, label="S, retrained without S (95 %)", **BAND)
    axis.set_ylim(bottom=-0.03 * axis.get_ylim()[1])


def _auc_over_steps(
    axis: Axes, curve: list[CurvePoint], aucs: dict[str, Estimate | None], end: int, margin: float
) -> None:
    style = LINES["forget"]
    points = [
        (p.step, Estimate(p.membership_auc, p.membership_auc_low, p.membership_auc_high, 0))
        for p in curve
        if p.membership_auc is not None and p.membership_auc_low is not None and p.membership_auc_high is not None
    ]
    during = {**style, "label": "membership AUC (90 %)", "markersize": 5, "linewidth": 1.6}
    ends = [(step, aucs.get(arm)) for step, arm in ((0, "original"), (end, "unlearned"))]
    known = [(step, found) for step, found in ends if found is not None]
    _whiskers(axis, points, **during)
    _whiskers(axis, known, label="before and after (95 %)", **_open(style))
    center = 0.5
    if (target := aucs.get("retrained")) is not None:
        center = target.value
        axis.axhspan(target.low, target.high, label="retrained without S (95 %)", **BAND)
    for sign in (-1, 1):
        label = f"margin of ±{margin:.2f}" if sign == 1 else None
        axis.axhline(center + sign * margin, color="black", linewidth=0.8, linestyle="-.", label=label)
    axis.set_ylim(-0.03, 1.03)


def _open(style: dict[str, Any]) -> dict[str, Any]:
    """The marker of a line, large and open, without the line."""
    return {key: style[key] for key in ("color", "marker")} | {"linestyle": "", "markersize": 9, "fillstyle": "none"}


def _whiskers(axis: Axes, points: list[tuple[int, Estimate]], **style: Any) -> None:
    steps, values = [step for step, _ in points], [found.value for _, found in points]
    ends = [[found.value - found.low for _, found in points], [found.high - found.value for _, found in points]]
    axis.errorbar(steps, values, yerr=ends, capsize=3, elinewidth=1.0, **style)


def _roc(forget: np.ndarray, holdout: np.ndarray) -> np.ndarray:
    """The share of S above the lowest threshold that at most 1, 2, ... n records of H lie above, shape (n,)."""
    thresholds = np.append(np.sort(holdout)[::-1][1:], -np.inf)
    return 1 - np.searchsorted(np.sort(forget), thresholds, side="right") / len(forget)


def _mean(tables: dict[SetName, pa.Table], name: SetName) -> Estimate | None:
    """The mean over records, as in the curve."""
    return clustered_mean(tables[name]["loss"].to_numpy(), None) if name in tables else None


def _finding(found: dict[str, Estimate | None], what: str) -> str:
    values = [f"{value.value:.2f} {ARM_NAMES[arm]}" for arm in ARM_NAMES if (value := found.get(arm)) is not None]
    return f"{what} {', '.join(values)}"


def _write(figure: Figure, report: UnlearningReport, path: Path) -> None:
    figure.suptitle(f"{report.method.name}: {report.verdict.word.replace('_', ' ')}", fontweight="bold")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, which holds no data besides the drawing."""
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
