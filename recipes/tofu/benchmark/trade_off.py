"""The trade-off as a picture: how far S is forgotten against what the model is still good for, and at which price."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from label_places import place
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hf_unlearn.files import written_whole

ORIGINAL, RETRAINED = "original", "retrained"
GROUPS: dict[str, dict[str, Any]] = {
    "retained": {"label": "trained without S", "color": "#7570b3", "marker": "o"},
    "forget": {"label": "trained on S too", "color": "#d95f02", "marker": "^"},
}
YARDSTICKS: dict[str, dict[str, Any]] = {
    ORIGINAL: {"label": "original", "color": "black", "marker": "s"},
    RETRAINED: {"label": "retrained, grey: its spread", "color": "black", "marker": "*"},
}
SMALLEST, LARGEST, PLAIN = 16.0, 330.0, 50.0  # areas of markers in square points
NAME_LENGTH = 40  # letters shown


class Span(NamedTuple):
    """A number with the ends of its spread."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Point:
    """A row of the benchmark.

    Attributes:
        name, group: of the row.
        forgetting: 0 for the original, 1 for the retrained model.
        utility: from 0 to 1.
        price: as a share of retraining's, None when unknown.
    """

    name: str
    group: str
    forgetting: Span
    utility: Span
    price: float | None


def draw(points: list[Point], title: str, utility: str, path: Path) -> None:
    """Draw the points, each with its name.

    Args:
        points: the original and the retrained model among them.
        title: over the picture.
        utility: what the points have of it, in words.
        path: where to write the PNG.
    """
    figure = make(points, title, utility)
    with written_whole(path) as part:
        figure.savefig(part, format="png")


def make(points: list[Point], title: str, utility: str) -> Figure:
    """The picture of :func:`draw`."""
    figure = Figure(figsize=(9, 7.8), dpi=120)
    FigureCanvasAgg(figure)
    axis = figure.add_axes((0.075, 0.175, 0.905, 0.775))
    axis.set_title(title, fontsize=10, parse_math=False)
    axis.set_xlabel(
        "forgetting: mean probability of the answers of S, 0: as the original's, 1: as the retrained model's, "
        "above: over-forgotten",
        fontsize=9,
    )
    axis.set_ylabel(utility, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    dearest = max([point.price for point in points if point.price is not None], default=0.0)
    sizes = [_area(point.price, dearest) for point in points]
    for point in points:
        if point.name == RETRAINED:
            _aim(axis, point)
    for point, size in sorted(zip(points, sizes, strict=True), key=lambda pair: -pair[1]):
        _mark(axis, point, size)
    _limits(axis, points)
    _legends(figure, points, dearest)
    _name(axis, points, sizes)
    return figure


def _area(price: float | None, dearest: float) -> float:
    """Of a marker in square points, in proportion to the price."""
    return PLAIN if price is None or dearest <= 0 else max(SMALLEST, LARGEST * price / dearest)


def _style(point: Point) -> dict[str, Any]:
    return YARDSTICKS[point.name] if point.name in YARDSTICKS else GROUPS[point.group]


def _aim(axis: Axes, point: Point) -> None:
    """Where the retrained model lies, and the spread of its seeds."""
    grey: dict[str, Any] = {"color": "0.5", "alpha": 0.16, "linewidth": 0, "zorder": 0}
    axis.axvspan(point.forgetting.low, point.forgetting.high, **grey)
    axis.axhspan(point.utility.low, point.utility.high, **grey)
    axis.axvline(point.forgetting.value, color="0.6", linewidth=0.7, linestyle=":", zorder=0)
    axis.axhline(point.utility.value, color="0.6", linewidth=0.7, linestyle=":", zorder=0)


def _mark(axis: Axes, point: Point, size: float) -> None:
    style, (x, left, right), (y, low, high) = _style(point), point.forgetting, point.utility
    bars = {"color": style["color"], "linewidth": 0.8, "alpha": 0.55, "zorder": 2}
    axis.plot([left, right], [y, y], **bars)
    axis.plot([x, x], [low, high], **bars)
    unknown = point.price is None and point.name not in YARDSTICKS
    face, edge = ("white", style["color"]) if unknown else (style["color"], "white")
    axis.scatter(
        [x], [y], s=size, marker=style["marker"], facecolor=face, edgecolor=edge, linewidth=0.7, alpha=0.85, zorder=3
    )


def _limits(axis: Axes, points: list[Point]) -> None:
    """Room for all bars, and at the sides for names."""
    for spans, limit, room in (
        ([p.forgetting for p in points], axis.set_xlim, 0.12),
        ([p.utility for p in points], axis.set_ylim, 0.07),
    ):
        low, high = min(span.low for span in spans), max(span.high for span in spans)
        least = room * (high - low) or 0.1
        limit(low - least, high + least)


def _legends(figure: Figure, points: list[Point], dearest: float) -> None:
    """What the markers and their sizes mean, below the axes."""
    groups = {point.group for point in points}
    styles = [*YARDSTICKS.values(), *(style for group, style in GROUPS.items() if group in groups)]
    shown = [Line2D([], [], linestyle="", markersize=7, **style) for style in styles]
    below: dict[str, Any] = {"fontsize": 8, "frameon": False, "handletextpad": 0.6, "columnspacing": 1.6}
    figure.legend(handles=shown, loc="lower left", bbox_to_anchor=(0.06, 0.06), ncols=len(shown), **below)
    prices = [point.price for point in points if point.price]
    if not prices:
        return
    steps = [k * 10.0**power for power in range(-5, 4) for k in (1, 2, 5)]
    inside = [step for step in steps if min(prices) <= step <= dearest] or [dearest]
    sizes = [
        Line2D([], [], linestyle="", marker="o", color="0.6", markersize=math.sqrt(_area(price, dearest)),
               label=f"{100 * price:.2g} %" if price < 1 else f"{100 * price:.0f} %")
        for price in sorted({inside[0], inside[len(inside) // 2], inside[-1]})
    ]  # fmt: skip
    if any(point.price is None and point.name not in YARDSTICKS for point in points):
        sizes.append(Line2D([], [], linestyle="", marker="o", color="0.6", fillstyle="none", label="unknown"))
    figure.text(0.075, 0.03, "area: operations of the training, as a share of retraining's", fontsize=8, va="center")
    below["handletextpad"] = 1.0  # room for a large marker
    figure.legend(handles=sizes, loc="center left", bbox_to_anchor=(0.43, 0.03), ncols=len(sizes), **below)


def _name(axis: Axes, points: list[Point], sizes: list[float]) -> None:
    """Write the names beside the points so that none lies on another, with a line to the point where it is far."""
    canvas = axis.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    texts = [
        axis.text(
            0, 0, point.name if len(point.name) <= NAME_LENGTH else point.name[: NAME_LENGTH - 1] + "…",
            fontsize=8, ha="center", va="center", color=_style(point)["color"], transform=None, zorder=5,
            parse_math=False,
        )
        for point in points
    ]  # fmt: skip
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in texts]
    extents = np.array([[box.width, box.height] for box in boxes])
    to_pixels = axis.transData.transform
    centers = to_pixels([(p.forgetting.value, p.utility.value) for p in points])
    radii = np.sqrt(sizes) / 2 * axis.figure.dpi / 72
    bars = np.array([
        to_pixels([ends, others])
        for p in points
        for ends, others in (
            ((p.forgetting.low, p.utility.value), (p.forgetting.high, p.utility.value)),
            ((p.forgetting.value, p.utility.low), (p.forgetting.value, p.utility.high)),
        )
    ])  # fmt: skip
    window = axis.get_window_extent(canvas.get_renderer())
    places = place(centers, radii, extents, bars, np.array([window.x0, window.y0, window.x1, window.y1]))
    to_data = axis.transData.inverted().transform
    for text, center, spot, extent, radius in zip(texts, centers, places, extents, radii, strict=True):
        if spot is None:
            text.remove()
            continue
        text.set_transform(axis.transData)
        text.set_position(to_data(spot))
        end = np.clip(center, spot - extent / 2, spot + extent / 2)
        if np.hypot(*(end - center)) > radius + 5:
            line = to_data([center, end])
            axis.plot(line[:, 0], line[:, 1], color="0.55", linewidth=0.6, zorder=1)
    if left_out := sum(spot is None for spot in places):
        axis.text(0.5, 1.0, f"no room for {left_out} names", fontsize=8, ha="center", transform=axis.transAxes)
