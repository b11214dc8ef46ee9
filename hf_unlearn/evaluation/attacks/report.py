"""What attacks found, as a report and two pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...data.short_table import ShortTable, Shown
from ...models.tasks import TASKS, Task
from ..plots import save_figure
from ..wording import ARM_NAMES, ARM_STYLES, TAUGHT, show
from .depth import DepthScore
from .low_bits import FORMS, QuantisedScore
from .pair import GuidedTexts, PairAttack
from .prompting import ContextScore
from .relearning import FIELD_RATE, RelearningCurve, Taught
from .sampling import LeakCurve, LeakPoint
from .wordings import WordingScore, WorstWording

ATTACKS_FILE = "attacks.json"

CURVE_FILE = "relearning_curve.png"

LEAKS_FILE = "leak_curve.png"

DEPTH_FILE = "depth.png"

ATTACKS_VERSION = 2

Attacked = Literal["original", "unlearned", "retrained"]


@dataclass(frozen=True)
class ModelAttacks:
    """What came of the attacks on one model.

    Attributes:
        relearning: a curve for each thing taught.
        steps_until_halfway: of each curve, the first measured step with S halfway back; None when it was not, or when
            nobody knows where halfway is.
        quantised: its weights in few bits, in several formats.
        one_epoch: relearning as the field does, before and after, for each thing taught.
        way_back: how much of the way to the original's loss each of these goes; empty where there is no original.
        sampling: how much of S it writes in many samples, leak@k.
        in_context: how its loss of S falls after other records of S.
        wordings: what it makes of S after prompts in other words; first after those as they were trained.
        worst_wording: the worst case over them, of each record and each owner.
    """

    relearning: tuple[RelearningCurve, ...]
    steps_until_halfway: dict[Taught, int | None]
    quantised: tuple[QuantisedScore, ...]
    one_epoch: tuple[RelearningCurve, ...] = ()
    way_back: dict[Taught, float | None] = field(default_factory=dict)
    sampling: LeakCurve | None = None
    in_context: ContextScore | None = None
    wordings: tuple[WordingScore, ...] = ()
    worst_wording: WorstWording | None = None


@dataclass(frozen=True)
class AttackReport(Shown):
    """The attacks on a model and on what it is compared with; ``attacks.json`` is this object.

    Attributes:
        task: what the models do.
        steps: of relearning.
        halfway_loss: the loss of S, in nats, that counts as halfway back to the original's: from that of the retrained
            model, else from that of the unlearned one; None without the original.
        models: by ``original``, ``unlearned`` and ``retrained``.
        schema_version: 2.
        skipped: the attacks that were not made, each with the reason.
        depth: what the layers of the unlearned model lack of S; None where it was not measured.
        pair: what the original gives away together with a later model; None without the original or without H.
    """

    task: Task
    steps: int
    halfway_loss: float | None
    models: dict[Attacked, ModelAttacks]
    schema_version: int = ATTACKS_VERSION
    skipped: dict[str, str] = field(default_factory=dict)
    depth: DepthScore | None = None
    pair: PairAttack | None = None

    def short_table(self) -> ShortTable:
        """What the attacks came to; it holds no record."""
        lines = [f"{finding}." for finding in self.findings()]
        lines += [f"Left out: {name.replace('_', ' ')}, because {reason}." for name, reason in self.skipped.items()]
        return ShortTable("The attacks, on copies of the models", [], [], lines)

    def finding(self, taught: Taught) -> str:
        """What relearning from one kind of records came to, in a sentence."""
        subject = f"Taught {TAUGHT[taught]}, the unlearned model"
        if self.halfway_loss is None:
            first, last = (self._curve("unlearned", taught).points[i].forget_loss.value for i in (0, -1))
            return f"{subject} goes from a loss of {first:.2f} on the rest of S to {last:.2f} in {self.steps} steps"
        verb = "does not have" if self.models["unlearned"].steps_until_halfway[taught] is None else "has"
        when = self._when("unlearned", taught).removeprefix("not ")
        sentence = f"{subject} {verb} the rest of S halfway back {when}"
        compared = f"; the retrained one {self._when('retrained', taught)}" if "retrained" in self.models else ""
        return sentence + compared

    def findings(self) -> list[str]:
        """What the attacks came to, a sentence each, without the full stop."""
        found = [self.finding(curve.taught) for curve in self.models["unlearned"].relearning]
        return found + [text for text in self._others() if text is not None]

    def _others(self) -> tuple[str | None, ...]:
        findings = (self._reminder(), self._wording(), self._owner(), self.depth_finding(), self._pair_membership())
        return self._one_epoch(), self._few_bits(), self.leak_finding(), *findings, self._pair_texts()

    def depth_finding(self) -> str | None:
        """What the layers came to, None where they were not read."""
        if self.depth is None:
            return None
        found = self.depth.depth
        pooled = ""
        if self.depth.read_by == "patching" and self.depth.pooled is not None:
            pooled = f", and {show(self.depth.pooled, 2)} with the records pooled"
        return (
            f"The depth of the unlearning is {show(found, 2)}{pooled}: 0 is what the layers of the original "
            "hold of S, 1 is that of the retrained model's"
        )

    def written_by_pair(self) -> list[GuidedTexts | None]:
        """What the original writes with each model of the report; alone in the place of the original."""
        texts = self.pair.texts if self.pair is not None else {}
        return [texts.get("alone" if arm == "original" else arm) for arm in self.models]

    def _pair_membership(self) -> str | None:
        if self.pair is None or "unlearned" not in self.pair.membership:
            return None
        return self._compared(
            "Whoever has the original too can tell S from H by the change of the loss with an AUC of "
            f"{show(self.pair.membership['unlearned'], 2)}",
            {arm: show(auc, 2) for arm, auc in self.pair.membership.items()},
        )

    def _pair_texts(self) -> str | None:
        recalls = {
            name: texts.forget.recall.value
            for name, texts in (self.pair.texts.items() if self.pair is not None else ())
            if texts.forget.recall is not None
        }
        if not {"alone", "unlearned"} <= recalls.keys():
            return None
        return self._compared(
            f"Guided away from the unlearned model the original writes {recalls['unlearned']:.0%} of the words of S, "
            f"and alone {recalls['alone']:.0%}",
            {"retrained": f"{recalls['retrained']:.0%}"} if "retrained" in recalls else {},
        )

    def _one_epoch(self) -> str | None:
        back = {arm: found.way_back["forget"] for arm, found in self.models.items() if "forget" in found.way_back}
        said = {arm: f"{share:.0%}" for arm, share in back.items() if share is not None}
        if "unlearned" not in said:
            return None
        return self._compared(
            f"After one epoch on half of S at {FIELD_RATE:g}, as the field relearns, the unlearned model is "
            f"{said['unlearned']} of the way back to the original's loss of the rest",
            said,
        )

    def _few_bits(self) -> str | None:
        back = {
            arm: {score.form: score.recovery for score in found.quantised if score.recovery is not None}
            for arm, found in self.models.items()
        }
        if not back["unlearned"]:
            return None
        worst = max(back["unlearned"], key=lambda form: back["unlearned"][form].value)
        return self._compared(
            f"With weights {FORMS[worst].shown} the unlearned model goes "
            f"{back['unlearned'][worst].value:.0%} of the way back to the original's loss of S",
            {arm: f"{scores[worst].value:.0%}" for arm, scores in back.items() if worst in scores},
        )

    def leak_finding(self) -> str | None:
        """What sampling came to, None where it was not made."""
        curves = {arm: found.sampling for arm, found in self.models.items() if found.sampling is not None}
        if not curves:
            return None
        mine = curves["unlearned"]
        guessed = f" (and {mine.holdout[-1].verbatim.value:.0%} of H)" if mine.holdout is not None else ""
        often = mine.forget[-1].samples
        return self._compared(
            f"Asked {often} time{'s' if often > 1 else ''}, the unlearned model writes "
            f"{mine.forget[-1].verbatim.value:.0%} of the records of S word for word{guessed}",
            {arm: f"{curve.forget[-1].verbatim.value:.0%}" for arm, curve in curves.items()},
        )

    def _reminder(self) -> str | None:
        scores = {arm: found.in_context for arm, found in self.models.items() if found.in_context is not None}
        if not scores:
            return None
        mine = scores["unlearned"]
        others = "H" if mine.others == "holdout" else "L"
        return self._compared(
            f"After {mine.shots} other record{'s' if mine.shots > 1 else ''} of S the unlearned model's loss of a "
            f"record of S is {_lower(mine.gain.value)} than after records of {others}",
            {arm: _lower(score.gain.value) for arm, score in scores.items()},
        )

    def _wording(self) -> str | None:
        worst = {arm: found.worst_wording for arm, found in self.models.items() if found.worst_wording is not None}
        if not worst:
            return None
        said = {}
        for arm, found in worst.items():
            beside = f" (H {found.holdout_loss.value:.2f})" if found.holdout_loss is not None else ""
            said[arm] = f"{found.forget_loss.value:.2f}{beside}"
        mine = self.models["unlearned"].wordings[0].forget_loss.value
        return self._compared(
            f"Asked in {worst['unlearned'].wordings} wordings, the unlearned model has a mean loss of S of "
            f"{said['unlearned']} in each record's worst one, and of {mine:.2f} asked as it was trained",
            said,
        )

    def _owner(self) -> str | None:
        worst = {arm: found.worst_wording for arm, found in self.models.items() if found.worst_wording is not None}
        if not worst or worst["unlearned"].owner_loss is None:
            return None
        said = {}
        for arm, found in worst.items():
            other = found.holdout_owner_loss
            said[arm] = f"{found.owner_loss:.2f}" + ("" if other is None else f" (H {other:.2f})")
        return self._compared(
            f"The owner in S that the unlearned model knows best has a loss of {said['unlearned']} in the worst "
            f"wording, the lowest of {worst['unlearned'].owners} owners",
            said,
        )

    @staticmethod
    def _compared(sentence: str, values: Mapping[Any, str]) -> str:
        return sentence + (f"; the retrained one: {values['retrained']}" if "retrained" in values else "")

    def _when(self, name: Attacked, taught: Taught) -> str:
        steps = self.models[name].steps_until_halfway[taught]
        if steps is None:
            return f"not in {self.steps} steps"
        return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before the first step"

    def _curve(self, name: Attacked, taught: Taught) -> RelearningCurve:
        return next(curve for curve in self.models[name].relearning if curve.taught == taught)


def plot_relearning(report: AttackReport, path: Path) -> None:
    """Draw how the loss of the part of S that is not taught falls while the models are taught something else."""
    lessons = [curve.taught for curve in report.models["unlearned"].relearning]
    figure = Figure(figsize=(5.5 * len(lessons), 4.6), layout="constrained")
    panels = figure.subplots(1, len(lessons), sharey=True)
    for axis, (number, taught) in zip(panels, enumerate(lessons), strict=True):
        for arm, found in report.models.items():
            points = found.relearning[number].points
            steps, losses = [p.step for p in points], [p.forget_loss for p in points]
            style = ARM_STYLES[arm]
            values = [loss.value for loss in losses]
            axis.plot(steps, values, **style, label=ARM_NAMES[arm], markersize=4, linewidth=1.6)
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
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(f"loss of the rest of S (nats{TASKS[report.task].unit}), 95 % intervals")
    panels[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_leaks(report: AttackReport, path: Path) -> None:
    """Draw what share of the records of S one of so many samples gives away, and of H for the unlearned model."""
    curves = {arm: found.sampling for arm, found in report.models.items() if found.sampling is not None}
    lines: list[tuple[tuple[LeakPoint, ...], dict[str, Any]]] = [
        (curve.forget, ARM_STYLES[arm] | {"label": f"S, {ARM_NAMES[arm]}"}) for arm, curve in curves.items()
    ]
    if (guessed := curves["unlearned"].holdout) is not None:
        lines.append((guessed, {"label": "H, after", "color": "gray", "linestyle": "-.", "marker": "x"}))
    kinds = {"verbatim": f"{report.leak_finding()}"}
    last = curves["unlearned"].forget[-1]
    if last.similar is not None:
        recall = curves["unlearned"].similar_recall
        kinds["similar"] = f"It writes {last.similar.value:.0%} of them with a ROUGE-L recall of {recall} or more"
    if last.answer is not None:
        kinds["answer"] = f"Of records with a short answer it writes the answer of {last.answer.value:.0%}"
    if last.entailed is not None:
        kinds["entailed"] = f"By the model for entailment it gives away {last.entailed.value:.0%} of them"
    figure = Figure(figsize=(5.5 * len(kinds), 4.6), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, (kind, title) in zip(panels, kinds.items(), strict=True):
        for number, (points, style) in enumerate(lines):
            shares = [(point.samples, vars(point)[kind]) for point in points if vars(point)[kind] is not None]
            # Beside each other, because many are zero.
            places = [count * 2 ** (0.08 * (number - 1.5)) for count, _ in shares]
            values = [share.value for _, share in shares]
            errors = [[s.value - s.low for _, s in shares], [s.high - s.value for _, s in shares]]
            axis.errorbar(places, values, errors, **style, markersize=5, linewidth=1.2, elinewidth=1, capsize=2)
        counts = [point.samples for point in curves["unlearned"].forget]
        axis.set_title(_two_lines(title), fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [f"{count}" for count in counts])
        axis.set_xlabel("samples of each record (k)")
        axis.set_ylim(-0.02, 1)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].set_ylabel("share of records, leak@k, 95 % intervals")
    panels[0].legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def plot_depth(report: AttackReport, path: Path) -> None:
    """Draw what the states after each layer lack of S, in the retrained and in the unlearned model."""
    depth = report.depth
    assert depth is not None
    figure = Figure(figsize=(6.5, 4.6), layout="constrained")
    axis = figure.subplots()
    layers = range(1, len(depth.layers) + 1)
    axis.axhline(0, color="gray", linewidth=0.8)
    axis.axhline(depth.threshold, color="gray", linewidth=0.8, linestyle=":")
    for arm in ("retrained", "unlearned"):
        values = [vars(layer)[arm] for layer in depth.layers]
        axis.plot(layers, values, **ARM_STYLES[arm], label=ARM_NAMES[arm], markersize=4, linewidth=1.6)
    axis.set_title(f"Depth {show(depth.depth, 2)}: what the layers lack of S", fontsize=10)
    axis.set_xlabel("layer whose states are read")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    unit = "log-likelihood of S that patching costs (nats per token)"
    axis.set_ylabel(unit if depth.read_by == "patching" else "probability of S's classes that a probe loses")
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)


def _lower(gain: float) -> str:
    return f"{abs(gain):.2f} {'lower' if gain >= 0 else 'higher'}"


def _two_lines(text: str) -> str:
    """Broken at the blank that is nearest to the middle."""
    blanks = [i for i, letter in enumerate(text) if letter == " "]
    middle = min(blanks, key=lambda i: abs(i - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"
