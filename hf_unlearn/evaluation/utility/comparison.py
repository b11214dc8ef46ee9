"""The utility that unlearning cost, on records that have nothing to do with S."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from scipy import stats

from ...models.tasks import TASKS, Task
from ..statistics import Estimate, by_group, mean_loss, units_in
from .metrics import STATISTICS, Truth, predictions, tally

# In this order.
MeasuredOn = Literal["test", "holdout", "retained"]
LossOf = Literal["accuracy", "macro_f1", "entity_f1", "rouge_l", "gain", "loss"]

CONFIDENCE = 0.90

WHERE = {"test": "the test split", "holdout": "held-out records", "retained": "retained records"}
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "entity_f1": "the F1 of entities", "rouge_l": "ROUGE-L"}
FINDINGS = {
    "kept": "within the margin of",
    "lost": "more than the margin of",
    "undecided": "too few records to say whether that is within the margin of",
}


@dataclass(frozen=True)
class Utility:
    """How much worse a model is than another one on the same records.

    Attributes:
        measured_on: ``test``; ``holdout`` where there is no test split, since neither model saw H; ``retained`` where
            there is neither.
        compared_with: ``retrained``, or ``original`` where there is no retrained model.
        loss_of: the metric of the task. ``macro_f1``, ``entity_f1``, ``rouge_l`` and, in older reports, ``accuracy``:
            the other model's less this one's. ``gain``: which part this one has lost of what the fine-tuning of the
            other had gained in loss over the base; ``loss``: by what fraction this one's mean loss is the higher one.
        decrease: that number with its 90 % interval; below zero where this model is better.
        margin: fixed before the run.
        word: ``kept`` where the interval lies below the margin (a one-sided test at 5 %), ``lost`` where it lies above
            it, else ``undecided``.
        gain: the base's mean loss less the other model's in nats, with its 95 % interval; None where the base was not
            measured, or the loss does not count.
    """

    measured_on: MeasuredOn
    compared_with: Literal["retrained", "original"]
    loss_of: LossOf
    decrease: Estimate
    margin: float
    word: Literal["kept", "lost", "undecided"]
    gain: Estimate | None = None

    @property
    def sentence(self) -> str:
        """The finding in a sentence or two."""
        found, part = self.decrease, self.loss_of in ("gain", "loss")
        ends, better = (found.low, found.high), found.value < 0 and self.loss_of != "gain"
        if better:
            ends = (-found.high, -found.low)
        value, low, high, margin = (
            f"{100 * number:z.1f} %" if part else f"{number:z.2f}"
            for number in (abs(found.value) if better else found.value, *ends, self.margin)
        )
        interval = f"90 % interval {low.removesuffix(' %')} to {high}"
        finding = f"{FINDINGS[self.word]} {margin}."
        where, model = WHERE[self.measured_on], f"the {self.compared_with} model"
        if self.loss_of == "gain":
            return (
                f"On {where} {value} of what the fine-tuning had gained in loss is lost ({interval}), compared with "
                f"{model}, {finding}"
            )
        name, directions = NAMES.get(self.loss_of, "the loss"), ("lower", "higher")
        worse = f"{name} is {directions[better != (self.loss_of == 'loss')]} by"
        sentence = f"On {where} {worse} {value} ({interval}) than {model}'s, {finding}"
        if self.loss_of == "loss" and self.gain is not None:
            sentence += " The fine-tuning had gained nothing here that shows, so this is a part of the whole loss."
        return sentence


def utility(
    tables: Mapping[str, Mapping[Any, pa.Table]],
    task: Task,
    margin: float,
    *,
    truth: Mapping[Any, Truth] | None = None,
    written: Mapping[str, Mapping[Any, pa.Table]] | None = None,
    seed: int = 0,
) -> Utility | None:
    """Compare the unlearned model with the retrained one, else with the original, record by record.

    Classifiers are compared by the F1 of entities where the classes mark these, else by macro-F1. Models that read one
    text and write another are compared by ROUGE-L where they wrote. All others are compared by what is left of the
    gain in loss over the base, or by the loss itself where the base is unknown or nothing was gained.

    Args:
        tables: by model and set, as scored.
        task: what the models do.
        margin: how much worse it may be: in F1 or ROUGE-L, or as a fraction of the gain or of the loss.
        truth: the true classes by set, for classifiers.
        written: by model and set, what the models wrote, as measured.
        seed: of the bootstrap that the interval of an F1 needs.

    Returns:
        The comparison, None where there is nothing to compare.
    """
    compared_with: Literal["retrained", "original"] = "retrained" if "retrained" in tables else "original"
    if compared_with not in tables:
        return None
    measured_on = next((name for name in get_args(MeasuredOn) if name in tables["unlearned"]), None)
    if measured_on is None:
        return None
    own, other = tables["unlearned"][measured_on], tables[compared_with][measured_on]
    texts = [(written or {}).get(arm, {}).get(measured_on) for arm in ("unlearned", compared_with)]
    gain = None
    loss_of: LossOf
    if TASKS[task].classes:
        loss_of, decrease = _less_f1(own, other, (truth or {})[measured_on], seed)
    elif TASKS[task].two_texts and texts[0] is not None and texts[1] is not None:
        loss_of, decrease = "rouge_l", _less_rouge(texts[0], texts[1])
    else:
        loss_of, decrease, gain = _more_loss(own, other, tables.get("base", {}).get(measured_on))
    word: Literal["kept", "lost", "undecided"] = "undecided"
    # One record or group shows no variance.
    if decrease.n > 1 and decrease.high < margin:
        word = "kept"
    elif decrease.n > 1 and decrease.low > margin:
        word = "lost"
    return Utility(measured_on, compared_with, loss_of, decrease, margin, word, gain)


def _less_f1(own: pa.Table, other: pa.Table, truth: Truth, seed: int) -> tuple[LossOf, Estimate]:
    kind = truth.f1
    counts = tally(truth, [predictions(other), predictions(own)], units_in(own), kind)

    def less(totals: np.ndarray) -> np.ndarray:
        scores = STATISTICS[kind](totals)
        return scores[..., 0] - scores[..., 1]

    return kind, counts.estimate(less, CONFIDENCE, seed)


def _less_rouge(own: pa.Table, other: pa.Table) -> Estimate:
    """How much lower the ROUGE-L of a model's texts is; each line is one text under both models."""
    less = _column(other, "rougeL") - _column(own, "rougeL")
    # After the fewest tokens given, which for these models is none.
    lines = (_column(own, "prefix") == 0) & ~np.isnan(less)
    groups = units_in(own)
    return mean_loss(less[lines], np.ones(lines.sum()), CONFIDENCE, None if groups is None else groups[lines])


def _more_loss(own: pa.Table, other: pa.Table, base: pa.Table | None) -> tuple[LossOf, Estimate, Estimate | None]:
    """How much of the gain over the base is lost, or by what fraction the loss is higher; and that gain."""
    groups, nll = units_in(own), _column(other, "nll")
    more = _column(own, "nll") - nll
    if base is None:
        return "loss", mean_loss(more, nll, CONFIDENCE, groups), None
    gained = _column(base, "nll") - nll
    gain = mean_loss(gained, _column(other, "tokens"), groups=groups)
    if gain.n > 1 and gain.low > 0:
        return "gain", ratio(more, gained, CONFIDENCE, groups), gain
    # A ratio of two sums over records, for which mean_loss has the interval.
    return "loss", mean_loss(more, nll, CONFIDENCE, groups), gain


def ratio(part: np.ndarray, whole: np.ndarray, confidence: float, groups: np.ndarray | None = None) -> Estimate:
    """The ratio of two sums over records, with the interval of Fieller (1954), for sums that belong together.

    Args:
        part, whole: of each record, shape (n,); the sum of ``whole`` must differ from zero at this confidence.
        confidence: of the interval (Student's t with one degree of freedom less than there are units).
        groups: label of each record's group, shape (n,); None when records are independent.
    """
    if groups is not None:
        part, whole = by_group(groups, part, whole)
    n = len(part)
    (of_part, both), (_, of_whole) = np.cov(part, whole) / n
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1)) ** 2
    up, down = part.mean(), whole.mean()
    # The ratios r for which the mean of part - r * whole is not told from zero lie between the roots of a parabola.
    a, b, c = down**2 - quantile * of_whole, up * down - quantile * both, up**2 - quantile * of_part
    half = float(np.sqrt(max(b**2 - a * c, 0.0)))
    return Estimate(float(up / down), float((b - half) / a), float((b + half) / a), n)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
