"""Relearning: what a few steps of training bring back of S.

A model may hide what it still holds. The attack works on a copy. It means little alone: the same attack on a model
that never saw S shows how much is learnt and not remembered.
"""

import copy
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.utils.logging import tqdm

from ...errors import InputError
from ...models.loading import Model
from ..measured_sets import EvidenceSets, first_half, loss_and_auc
from ..report import SetName
from ..scoring import preserved_rng
from ..statistics import Estimate

Taught = Literal["forget", "retained", "public"]

FIELD_RATE = 2e-5  # of OpenUnlearning's relearning, Dorna et al. 2025, arXiv:2506.12618


@dataclass(frozen=True)
class RelearningPoint:
    """The model after some steps of relearning.

    Attributes:
        step: optimiser steps taken; 0 is the model as it was given.
        forget_loss: mean loss of the records of S that it was not taught, in nats.
        membership_auc: of these records against H, by the loss; None without H.
    """

    step: int
    forget_loss: Estimate
    membership_auc: Estimate | None


@dataclass(frozen=True)
class RelearningCurve:
    """How a model recovers records of S that it is not taught.

    Attributes:
        taught: what it was trained on: the other records of S, records of L, or texts unrelated to S.
        learning_rate: of AdamW, constant.
        batch_size: examples a step.
        seed: of the parts of S, the order of the records, and dropout.
        points: the measurements.
        lora_r: rank of the adapter that was trained; None when all weights were.
    """

    taught: Taught
    learning_rate: float
    batch_size: int
    seed: int
    points: tuple[RelearningPoint, ...]
    lora_r: int | None = None

    def steps_until(self, loss: float) -> int | None:
        """The first measured step at which the mean loss is no higher than this, None when there is none."""
        return next((point.step for point in self.points if point.forget_loss.value <= loss), None)


def halfway(forgotten: float, known: float) -> float:
    """The loss halfway from that of a model without S to that of the original, in nats: S then counts as recovered.

    Args:
        forgotten: mean loss of S under the reference, or under the unlearned model before the attack.
        known: mean loss of S under the original.
    """
    return (forgotten + known) / 2


def relearn(
    model: Model,
    evidence: EvidenceSets,
    *,
    taught: Taught,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    measure_every: int = 1,
    public: Dataset | None = None,
    lora: LoraConfig | None = None,
) -> RelearningCurve:
    """Train a copy of a model on half of S, on L or on other texts, and measure whether the other half comes back.

    All weights of the copy are trained, or a fresh adapter on them, in float32, with AdamW at a constant rate and
    gradients of norm 1 at most. Every process of a launch takes the same steps and scores its share. (Hu et al. 2024,
    arXiv:2406.13356; Łucki et al. 2024, arXiv:2409.18025.)

    Args:
        model: the model; it stays as it is, and so do the random number generators.
        evidence: S, H where there is one, and L when it is taught, encoded.
        taught: ``forget``: the half of S that is not measured; ``retained``: the part of L in the evidence;
            ``public``: the argument ``public``.
        steps, learning_rate, batch_size: of the training; AdamW, examples a step.
        seed: of the halves of S, the order of what is taught, and dropout.
        measure_every: steps from one measurement to the next; the last step is measured too.
        public: texts that have nothing to do with S, encoded.
        lora: the adapter to train; an adapter that the model has is merged into the copy. None trains all weights.

    Raises:
        InputError: S has fewer than two records, there is nothing to teach, or the loss is no finite number.
    """
    lesson, watched = _parts(evidence, taught, seed, public)
    pupil = copy.deepcopy(model)
    # Half precision would swallow small steps. What has fewer bits is not floating and stays.
    nn.Module.float(pupil)
    for weight in pupil.parameters():
        weight.requires_grad_(weight.is_floating_point())
    if lora is not None:
        with preserved_rng():
            torch.manual_seed(seed)
            plain = pupil.merge_and_unload() if isinstance(pupil, PeftModel) else pupil
            # PEFT writes the model's name into it.
            pupil = get_peft_model(plain, copy.deepcopy(lora))
    optimizer = torch.optim.AdamW((w for w in pupil.parameters() if w.requires_grad), learning_rate, weight_decay=0)
    device = next(pupil.parameters()).device
    order = _order(len(lesson), steps * batch_size, seed)
    points = [RelearningPoint(0, *loss_and_auc(watched.score(pupil)))]
    with preserved_rng():
        torch.manual_seed(seed)
        pupil.train()
        hidden = None if PartialState().is_main_process else True
        for step in tqdm(range(1, steps + 1), desc="Relearning", leave=False, disable=hidden):
            picked = lesson.select(order[(step - 1) * batch_size : step * batch_size])
            batch = evidence.collator(list(picked.remove_columns("row")))
            pupil(**{name: tensor.to(device) for name, tensor in batch.items()}).loss.backward()
            nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % measure_every == 0 or step == steps:
                points.append(RelearningPoint(step, *loss_and_auc(watched.score(pupil))))
    return RelearningCurve(taught, learning_rate, batch_size, seed, tuple(points), lora.r if lora else None)


def relearn_one_epoch(
    model: Model,
    evidence: EvidenceSets,
    *,
    taught: Taught,
    batch_size: int,
    seed: int,
    public: Dataset | None = None,
) -> RelearningCurve:
    """Relearn as the field does, at :data:`FIELD_RATE` for one epoch, so that figures compare.

    OpenUnlearning teaches S for one epoch and measures S; here one half of S is taught and the other one measured, as
    in :func:`relearn`, which has the other arguments. Of data that is not of S as many steps are taken.

    Returns:
        A curve of two points, before and after.
    """
    steps = steps_of_one_epoch(evidence, batch_size, seed)
    return relearn(
        model,
        evidence,
        taught=taught,
        steps=steps,
        learning_rate=FIELD_RATE,
        batch_size=batch_size,
        seed=seed,
        measure_every=steps,
        public=public,
    )


def steps_of_one_epoch(evidence: EvidenceSets, batch_size: int, seed: int) -> int:
    """How many steps :func:`relearn_one_epoch` takes."""
    lesson, _ = _parts(evidence, "forget", seed, None)
    return -(-len(lesson) // batch_size)


def way_back(curve: RelearningCurve, known: float) -> float | None:
    """How much of the way to the original's loss a model has gone at the end of a curve: 0 none, 1 all.

    Args:
        curve: of the model.
        known: mean loss of the same records under the original, in nats.

    Returns:
        The share; None where the original does not know the records better.
    """
    first, last = (curve.points[i].forget_loss.value for i in (0, -1))
    return None if first <= known else (first - last) / (first - known)


def _parts(evidence: EvidenceSets, taught: Taught, seed: int, public: Dataset | None) -> tuple[Dataset, EvidenceSets]:
    """What is taught, and the sets to measure, which are the same whatever is taught."""
    forget = evidence.sets["forget"]
    rows = np.array(forget["row"])
    if len(np.unique(rows)) < 2:
        raise InputError("Relearning teaches a part of S and measures the rest, so S needs two records or more.")
    first = first_half(rows, seed)
    if taught == "forget":
        lesson = forget.select(np.flatnonzero(first))
    elif taught == "retained" and "retained" in evidence.sets:
        lesson = evidence.sets["retained"]
    elif taught == "public" and public is not None:
        lesson = public
    else:
        raise InputError(f"There are no {taught} records to teach.")
    return lesson, _only(evidence, forget.select(np.flatnonzero(~first)))


def _only(evidence: EvidenceSets, forget: Dataset) -> EvidenceSets:
    """These records of S, and H."""
    sets: dict[SetName, Dataset] = {"forget": forget}
    if "holdout" in evidence.sets:
        sets["holdout"] = evidence.sets["holdout"]
    return replace(evidence, sets=sets, forms={})


def _order(examples: int, needed: int, seed: int) -> np.ndarray:
    """Positions of examples, pass after pass in another order."""
    draw = np.random.default_rng(seed)
    passes = [draw.permutation(examples) for _ in range(-(-needed // examples))]
    return np.concatenate(passes)[:needed]
