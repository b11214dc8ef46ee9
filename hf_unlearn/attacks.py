"""The attacks of :mod:`~hf_unlearn.evaluation.relearning` on a model and on what it is compared with, side by side."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .evaluation.evidence import EvidenceSets
from .evaluation.relearning import QuantisedScore, RelearningCurve, Taught, halfway, quantise, relearn
from .evaluation.report import write_text, written_whole
from .models import ModelSource, load_config, locate, peft_task, task_of, to_device
from .preparation import Preparation, measured_sets
from .record import load_any
from .tasks import TASKS, Task

ATTACKS_FILE = "attacks.json"
CURVE_FILE = "relearning_curve.png"
ATTACKS_VERSION = 1

Attacked = Literal["original", "unlearned", "retrained"]
MOST_MEASUREMENTS = 20
BITS: tuple[Literal[4, 8], ...] = (8, 4)
TAUGHT: dict[Taught, str] = {"forget": "half of S", "retained": "records of L"}
STYLES: dict[Attacked, dict[str, Any]] = {
    "original": {"label": "original", "color": "#7570b3", "linestyle": ":", "marker": "s"},
    "unlearned": {"label": "unlearned", "color": "#d95f02", "linestyle": "-", "marker": "o"},
    "retrained": {"label": "retrained without S", "color": "black", "linestyle": "--", "marker": "^"},
}


@dataclass(frozen=True)
class ModelAttacks:
    """What came of the attacks on one model.

    Attributes:
        relearning: a curve for each thing taught.
        steps_until_halfway: of each curve, the first measured step with S halfway back; None when it was not, or when
            nobody knows where halfway is.
        quantised: at 8 and 4 bits.
    """

    relearning: tuple[RelearningCurve, ...]
    steps_until_halfway: dict[Taught, int | None]
    quantised: tuple[QuantisedScore, ...]


@dataclass(frozen=True)
class AttackReport:
    """The attacks on a model and on what it is compared with; ``attacks.json`` is this object.

    Attributes:
        task: what the models do.
        steps: of relearning.
        halfway_loss: the loss of S, in nats, that counts as halfway back to the original's: from that of the retrained
            model, else from that of the unlearned one; None without the original.
        models: by ``original``, ``unlearned`` and ``retrained``.
        schema_version: 1.
    """

    task: Task
    steps: int
    halfway_loss: float | None
    models: dict[Attacked, ModelAttacks]
    schema_version: int = ATTACKS_VERSION

    def save(self, path: Path) -> None:
        """Write the report, all of it or nothing."""
        write_text(path, json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")

    def finding(self, taught: Taught) -> str:
        """What relearning from one kind of records came to, in a sentence."""
        subject = f"Taught {TAUGHT[taught]}, the unlearned model"
        if self.halfway_loss is None:
            first, last = (self._curve("unlearned", taught).points[i].forget_loss.value for i in (0, -1))
            return f"{subject} goes from a loss of {first:.2f} on the rest of S to {last:.2f} in {self.steps} steps"
        sentence = f"{subject} has the rest of S halfway back {self._when('unlearned', taught)}"
        compared = f"; the retrained one {self._when('retrained', taught)}" if "retrained" in self.models else ""
        return sentence + compared

    def _when(self, name: Attacked, taught: Taught) -> str:
        steps = self.models[name].steps_until_halfway[taught]
        if steps is None:
            return f"not in {self.steps} steps"
        return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before the first step"

    def _curve(self, name: Attacked, taught: Taught) -> RelearningCurve:
        return next(curve for curve in self.models[name].relearning if curve.taught == taught)


def attacked_models(run: Preparation, original: str | None, retrained: str | None) -> dict[Attacked, ModelSource]:
    """Find the models, without loading them.

    Args:
        run: its model is the unlearned one.
        original, retrained: what it is compared with, folders or Hub ids; None for one that there is not.

    Raises:
        InputError: one is missing or does something else.
    """
    names: dict[Attacked, str | None] = {"original": original, "unlearned": None, "retrained": retrained}
    places: dict[Attacked, ModelSource] = {}
    for arm, name in names.items():
        if name is not None:
            places[arm] = locate(name)
            task_of(name, load_config(places[arm]), run.task, peft=peft_task(places[arm]))
        elif arm == "unlearned":
            places[arm] = run.source
    return places


def attack_models(run: Preparation, places: dict[Attacked, ModelSource], steps: int) -> AttackReport:
    """Make every attack on every model, one model at a time.

    Args:
        run: the data, and the learning rate, batch size and seed of relearning.
        places: the models.
        steps: of relearning.
    """
    curves: dict[Attacked, tuple[RelearningCurve, ...]] = {}
    rounded: dict[Attacked, tuple[QuantisedScore, ...]] = {}
    evidence: EvidenceSets | None = None
    for arm, place in places.items():
        model = to_device(load_any(place, run.task, **run.loading), run.config.device)
        if evidence is None:
            sources = [run.source, *places.values()]
            evidence = measured_sets(run.sets, sources, model.config, run.task, run.config)
        curves[arm] = tuple(
            relearn(
                model,
                evidence,
                taught=taught,
                steps=steps,
                learning_rate=run.config.learning_rate,
                batch_size=run.config.per_device_train_batch_size,
                seed=run.config.seed,
                measure_every=max(1, steps // MOST_MEASUREMENTS),
            )
            for taught in get_args(Taught)
        )
        rounded[arm] = tuple(quantise(model, evidence, bits) for bits in BITS)
    loss = None
    if "original" in curves:
        forgotten, known = (
            curves[arm][0].points[0].forget_loss.value
            for arm in ("retrained" if "retrained" in curves else "unlearned", "original")
        )
        loss = halfway(forgotten, known)
    models = {
        arm: ModelAttacks(
            relearning=curves[arm],
            steps_until_halfway={
                curve.taught: None if loss is None else curve.steps_until(loss) for curve in curves[arm]
            },
            quantised=rounded[arm],
        )
        for arm in places
    }
    return AttackReport(run.task, steps, loss, models)


def plot_relearning(report: AttackReport, path: Path) -> None:
    """Draw how the loss of the part of S that is not taught falls while the models are taught something else.

    Args:
        report: the curves.
        path: where to write the PNG; it holds no data besides the drawing.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, len(TAUGHT), sharey=True)
    for axis, (number, taught) in zip(panels, enumerate(TAUGHT), strict=True):
        for arm, found in report.models.items():
            points = found.relearning[number].points
            steps, losses = [p.step for p in points], [p.forget_loss for p in points]
            style = STYLES[arm]
            axis.plot(steps, [loss.value for loss in losses], **style, markersize=4, linewidth=1.6)
            low, high = [loss.low for loss in losses], [loss.high for loss in losses]
            axis.fill_between(steps, low, high, color=style["color"], alpha=0.10, linewidth=0)
        if report.halfway_loss is not None:
            axis.axhline(report.halfway_loss, color="gray", linewidth=0.8)
            axis.annotate(
                "halfway back", (1, report.halfway_loss), xycoords=("axes fraction", "data"), fontsize=8,
                color="#404040", ha="right", va="bottom",
            )  # fmt: skip
        axis.set_title(_two_lines(report.finding(taught)), fontsize=10)
        axis.set_xlabel(f"steps on {TAUGHT[taught]}")
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"loss of the rest of S (nats{TASKS[report.task].unit}), 95 % intervals")
    panels[0].legend(fontsize=8, frameon=False)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _two_lines(text: str) -> str:
    """Broken at the blank that is nearest to the middle."""
    blanks = [i for i, letter in enumerate(text) if letter == " "]
    middle = min(blanks, key=lambda i: abs(i - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"
