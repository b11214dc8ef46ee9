"""The cells of the frontier as one file of results, tables and a picture."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats

from hf_unlearn.files import write_text, written_whole

TASKS = {"secrets": "planted numbers", "sms": "wrong labels", "tofu": "invented authors"}
UTILITY = {"secrets": "test loss", "sms": "test accuracy", "tofu": "retained loss"}
MEMORISED = {
    "secrets": "exposure of the numbers, bits",
    "sms": "wrong labels of S predicted",
    "tofu": "loss on H less loss on S, nats",
}
UTILITY_MARGIN = 0.01  # relative
RESULTS, PICTURE, TABLES = "frontier.json", "frontier.png", "tables.md"
SHOWN_AT = 0.25
# What the dots that matter are called; the others are grey.
LABELS = {
    "fine_tune": "fine_tune",
    "fine_tune_high_lr": "fine_tune_high_lr",
    "toward_base 0.6": "toward_base",
    "base": "the base, same budget",
    "retrain": "from scratch, same budget",
    "base fitted": "fitted",
    "retrain fitted": "fitted",
}
# shrink_reheat by its parts: toward a fresh initialisation, or the base.
REHEAT = {"secrets": "shrink_perturb 0.6 hot", "sms": "toward_base 0.6 hot", "tofu": "toward_base 0.6 hot"}
SAME_BUDGET = ("base", "retrain", "base fitted", "retrain fitted")

Cells = list[dict[str, Any]]


def read_cells(root: Path) -> dict[str, Cells]:
    """What has been made, by task."""
    found = {}
    for name in TASKS:
        files = sorted((root / name / "cells").glob("*.json"))
        if files:
            found[name] = [json.loads(file.read_text()) for file in files]
    return found


def column(cells: Cells, name: str) -> np.ndarray:
    return np.array([cell[name] for cell in cells if name in cell], dtype=np.float64)


def prediction_interval(values: np.ndarray) -> tuple[float, float]:
    """Where one more model like these lies with 95 %, if they are normal: mean ± t sd sqrt(1 + 1/n)."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - half), float(values.mean() + half)


def ratio_of_means(values: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """The ratio of two means and its lower 95 % limit by the bootstrap (BCa; percentile where all are the same)."""

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        return x.mean(axis) / y.mean(axis)

    with warnings.catch_warnings():
        # Of values that are all the same the interval is one point.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap((values, others), ratio, confidence_level=0.9, method="percentile", rng=0)
    return float(ratio(values, others)), float(found.confidence_interval.low)


def row(name: str, cells: Cells, retrained: Cells, again: Cells) -> dict[str, Any]:
    """The figures of one variant at one price, beside those of the retrained models."""
    memorised = column(cells, "memorised")
    low, high = prediction_interval(column(retrained, "memorised"))
    utility, theirs = column(cells, UTILITY[name]), column(retrained, UTILITY[name])
    sign = 1 if UTILITY[name].endswith("accuracy") else -1
    gap = stats.ttest_ind(theirs, utility, equal_var=False).confidence_interval(0.9) if len(utility) > 1 else None
    found: dict[str, Any] = {
        "models": len(cells),
        "memorised": [memorised.mean(), memorised.min(), memorised.max()],
        "inside": int(((memorised >= low) & (memorised <= high)).sum()),
        # Below zero: better than retraining.
        "utility lost": sign * (theirs.mean() - utility.mean()) / theirs.mean(),
        "auc": [column(cells, "auc").mean(), column(cells, "auc").min(), column(cells, "auc").max()],
        "test loss": column(cells, "test loss").mean(),
    }
    if gap is not None:
        found["utility interval"] = sorted(sign * np.array([gap.low, gap.high]) / theirs.mean())
    for reference, models in (("R0", retrained), ("R1", again)):
        steps, others = column(cells, "relearning steps"), column(models, "relearning steps")
        if len(steps) > 1 and len(others) > 1:
            found[f"relearning {reference}"] = ratio_of_means(steps, others)
    return json.loads(json.dumps(found, default=float), parse_float=lambda x: round(float(x), 4))


def rows_of(name: str, cells: Cells) -> dict[str, Any]:
    """All figures of one task."""
    retrained = [c for c in cells if c["of"] == "retrained" and c["variant"] is None]
    originals = [c for c in cells if c["of"] == "original" and c["variant"] is None]
    low, high = prediction_interval(column(retrained, "memorised"))
    variants: dict[str, dict[str, Any]] = {}
    for cell in cells:
        variant, cost = cell["variant"], cell["cost"]
        if variant is None or cell["of"] != "original" or str(cost) in variants.get(variant, {}):
            continue
        same = [c for c in cells if (c["variant"], c["cost"]) == (variant, cost)]
        mine, again = ([c for c in same if c["of"] == of] for of in ("original", "retrained"))
        variants.setdefault(variant, {})[str(cost)] = row(name, mine, retrained, again)
    return {
        "retrained": {**row(name, retrained, retrained, []), "prediction interval": [round(low, 4), round(high, 4)]},
        "original": row(name, originals, retrained, []),
        "variants": variants,
    }


def costs_of(found: dict[str, Any]) -> list[float]:
    """The prices at which something was made, rising."""
    return sorted({float(cost) for rows in found["variants"].values() for cost in rows})


def as_table(name: str, found: dict[str, Any], cost: float) -> str:
    """The figures at one price, the least memorised first."""
    low, high = found["retrained"]["prediction interval"]
    lines = [
        f"| {TASKS[name]}, at {cost:.0%} | {MEMORISED[name]} | models inside [{low:.2f}, {high:.2f}] | "
        f"{UTILITY[name]} lost | membership AUC | relearning, times retrained |",
        "|---|---|---|---|---|---|",
    ]
    shown = [(variant, rows[str(cost)]) for variant, rows in found["variants"].items() if str(cost) in rows]
    shown.sort(key=lambda pair: pair[1]["memorised"][0])
    for variant, figures in [("before", found["original"]), ("retrained", found["retrained"]), *shown]:
        lost = f"{100 * figures['utility lost']:.1f} %"
        if "utility interval" in figures:
            lost += " [{:.1f}, {:.1f}]".format(*(100 * x for x in figures["utility interval"]))
        steps = figures.get("relearning R0")
        told = [
            variant,
            "{:.2f} [{:.2f}, {:.2f}]".format(*figures["memorised"]),
            f"{figures['inside']} of {figures['models']}",
            lost,
            f"{figures['auc'][0]:.2f}",
            f"{steps[0]:.2f} (≥ {steps[1]:.2f})" if steps else "",
        ]
        lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """What is kept against what is forgotten, a panel a task; a dot is a variant, the box is where retraining ends."""
    figure = Figure(figsize=(4.6 * len(results), 4.8), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for axis, (name, found) in zip(axes, results.items(), strict=True):
        low, high = found["retrained"]["prediction interval"]
        axis.plot(100 * found["original"]["utility lost"], found["original"]["memorised"][0], "ks", markersize=7)
        axis.annotate("before", _place(found["original"]), xytext=(5, 4), textcoords="offset points", fontsize=8)
        for variant, rows in found["variants"].items():
            if (figures := rows.get(str(SHOWN_AT))) is None:
                continue
            label = "shrink_reheat" if variant == REHEAT[name] else LABELS.get(variant)
            named = label is not None
            color = "#7570b3" if variant in SAME_BUDGET else "#d95f02" if named else "0.6"
            axis.plot(*_place(figures), "o", color=color, markersize=7 if named else 5, zorder=3 if named else 2)
            if named:
                below = variant in SAME_BUDGET
                axis.annotate(
                    label, _place(figures), xytext=(5, -11 if below else 4), textcoords="offset points", fontsize=8
                )
        places = [_place(rows[str(SHOWN_AT)]) for rows in found["variants"].values() if str(SHOWN_AT) in rows]
        right = max([x for x, _ in places] + [2])
        left = min([x for x, _ in places] + [-1])
        # Ten models that are all alike make an interval without a height, and still want to be seen.
        least = 0.02 * found["original"]["memorised"][0]
        corner = (-100, min(low, (low + high - least) / 2))
        box = Rectangle(corner, 101, max(high - low, least), color="#1b9e77", alpha=0.25, linewidth=0)
        axis.add_patch(box)
        axis.set_xlim(left - 0.08 * (right - left), right + 0.25 * (right - left))
        axis.set_title(TASKS[name], fontsize=11)
        axis.set_xlabel(f"{UTILITY[name]} lost against retraining, %", fontsize=9)
        axis.set_ylabel(MEMORISED[name], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"At {SHOWN_AT:.0%} of retraining's price. Green: forgotten as by retraining, and as good to 1 %", fontsize=12
    )
    with written_whole(path) as part:
        figure.savefig(part, dpi=120, format="png")


def _place(figures: dict[str, Any]) -> tuple[float, float]:
    return 100 * figures["utility lost"], figures["memorised"][0]


def summarise(root: Path, published: Path | None = None) -> None:
    """Write the results, the tables and the picture of all cells that there are, and print the tables.

    Where there are published results, only their missing rows are taken from the cells.
    """
    cells = {name: made for name, made in read_cells(root).items() if _enough(made)}
    if not cells:
        return
    results = {name: rows_of(name, made) for name, made in cells.items()}
    if published is not None:
        results = added(json.loads(published.read_text(encoding="utf-8")), results)
    write_text(root / RESULTS, json.dumps(results, indent=1) + "\n")
    tables = [as_table(name, found, cost) for name, found in results.items() for cost in costs_of(found)]
    write_text(root / TABLES, "\n\n".join(tables) + "\n")
    draw(results, root / PICTURE)
    print("\n\n".join(tables))


def added(published: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Published results with the rows that they lack."""
    for name, found in made.items():
        theirs = published.setdefault(name, found)["variants"]
        for variant, rows in found["variants"].items():
            theirs[variant] = rows | theirs.get(variant, {})
    return published


def _enough(cells: Cells) -> bool:
    plain = [cell["of"] for cell in cells if cell["variant"] is None]
    return plain.count("retrained") > 1 and "original" in plain
