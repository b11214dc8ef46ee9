"""One step of every method that uses S: however it is cut, padded and shared, the loss and the gradient are the same.

The losses alone are in test_losses.py. Here they are as the trainer takes them: on a model, with its teachers,
log-probabilities under the start and rules, divided by what the whole step holds.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from hf_unlearn import InputError, UnlearningTrainer
from hf_unlearn.methods.forget_batches import PAIRED
from hf_unlearn.methods.forget_methods import FORGET_METHODS
from hf_unlearn.methods.table import METHODS

from ..support.two_processes import load_without_dropout
from ..training.test_trainer import secrets, tickets, trainer
from .test_losses import Record, adjusted, by_hand, each, kl, minus_log_sigma, without

ON_STEPS = [method.name for method in FORGET_METHODS if method.uses_forget]
CASES = [
    *((name, False) for name in ON_STEPS if "text-generation" in METHODS[name].fits.tasks),
    *((name, True) for name in ON_STEPS if "text-classification" in METHODS[name].fits.tasks),
]
# With weights of their own outputs that count as fixed numbers, of which a difference is not taken.
WITH_FIXED_WEIGHTS = {"wga", "satimp", "ce_u"}
SIZE = 5e-4  # of a step whose difference is taken, in units of all weights together
Batch = dict[str, dict[str, torch.Tensor]]


class Steps:
    """A method's steps on one batch of eight places, without an optimiser.

    Args:
        folder: of the trainer.
        name: of the method.
        model: the original.
        classifier: whether it is one.
    """

    def __init__(self, folder: Path, name: str, model: Path, classifier: bool):
        self.name = name
        split = tickets() if classifier else secrets()
        self.run: UnlearningTrainer = trainer(
            folder, load_without_dropout(str(model)), split, method=name, per_device_train_batch_size=8
        )
        self.run._hold_teachers()
        self.run._find_start_log_p()
        # A step at which the model is not its own teacher any more.
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in [weight for weight in self.run.model.parameters() if weight.requires_grad]:
                weight.add_(0.02 * torch.randn_like(weight))
        # Of a method with passes in turn, one of S and one of L.
        self.batches: list[Batch] = []
        parts: set[str] = set()
        for batch in self.run.get_train_dataloader():
            if not set(batch) <= parts:
                parts |= set(batch)
                self.batches.append({part: dict(values) for part, values in batch.items()})

    def losses(self, cut: Callable[[Batch], list[Batch]]) -> tuple[float, torch.Tensor]:
        """The loss of all batches and its gradient, a batch being what a function makes of it."""
        run, model = self.run, self.run.model
        model.zero_grad()
        model.train()
        total = 0.0
        for batch in self.batches:
            pieces = cut(batch)
            items = run._get_num_items_in_batch(pieces, run.args.device)
            run.current_gradient_accumulation_steps = len(pieces)
            for piece in pieces:
                loss = run.compute_loss(model, {part: dict(v) for part, v in piece.items()}, num_items_in_batch=items)
                assert isinstance(loss, torch.Tensor)
                loss.backward()
                total += loss.item()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        return total, torch.cat(gradients)


def in_pieces(*sizes: int) -> Callable[[Batch], list[Batch]]:
    """Cut a batch in pieces of so many places."""

    def cut(batch: Batch) -> list[Batch]:
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [
            {part: {name: v[end - size : end] for name, v in values.items()} for part, values in batch.items()}
            for size, end in zip(sizes, ends, strict=True)
        ]

    return cut


def whole(batch: Batch) -> list[Batch]:
    return [batch]


def padded(batch: Batch) -> list[Batch]:
    """Texts with more padding, of tokens that are not the padding's."""

    def pad(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        wider = dict(values)
        for name, fill in (("input_ids", 7), ("attention_mask", 0), ("labels", -100)):
            if values[name].ndim == 2:
                wider[name] = torch.nn.functional.pad(values[name], (0, 5), value=fill)
        return wider

    return [{part: pad(values) for part, values in batch.items()}]


def near(found: tuple[float, torch.Tensor], expected: tuple[float, torch.Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
    assert float((found[1] - expected[1]).norm()) <= 2e-4 * float(expected[1].norm())


@pytest.fixture(scope="module")
def made(
    lm_original: Path, classifier_original: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, bool]], Steps]:
    """Makes the steps of a case, once; whoever changes them puts them back."""

    @cache
    def make(case: tuple[str, bool]) -> Steps:
        return Steps(tmp_path_factory.mktemp(case[0]), case[0], (lm_original, classifier_original)[case[1]], case[1])

    return make


@pytest.fixture
def steps(case: tuple[str, bool], made: Callable[[tuple[str, bool]], Steps]) -> Steps:
    return made(case)


def of(cases: list[tuple[str, bool]]) -> pytest.MarkDecorator:
    names = [f"{name}-{'classifier' if classifier else 'text'}" for name, classifier in cases]
    return pytest.mark.parametrize("case", cases, ids=names)


@of(CASES)
def test_a_step_is_the_same_however_it_is_cut_padded_and_shared(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [values for batch in steps.batches for values in batch.values()]
    assert any((values["attention_mask"] == 0).any() for values in texts), "texts of unequal length"
    expected = steps.losses(whole)
    assert float(expected[1].norm()) > 0
    near(steps.losses(padded), expected)
    near(steps.losses(in_pieces(1, 4, 3)), expected)
    # A gradient is averaged over the processes, each of which has a half.
    monkeypatch.setattr(type(steps.run.accelerator), "num_processes", 2)
    loss, gradient = steps.losses(in_pieces(4, 4))
    near((loss / 2, gradient / 2), expected)


# The formulas of whole steps, by hand


CE = each(lambda z, t, f, y: -log_softmax(z)[y])
ASCENT = each(lambda z, t, f, y: log_softmax(z)[y])
KL = each(lambda z, t, f, y: kl(t, z))
WARM_KL = each(lambda z, t, f, y: 4 * kl(t, z, 2.0))


def mean(formula: Callable[[Record], list[float]], records: list[Record]) -> float:
    return float(np.mean([value for record in records for value in formula(record)]))


def npo(record: Record) -> list[float]:
    return [20 * minus_log_sigma(-0.1 * (record.log_p() - record.log_ref()))]


def simnpo(record: Record) -> list[float]:
    return [2 / 4.5 * minus_log_sigma(4.5 * -record.log_p() / len(record.labels))]


def satimp(by_saturation: float, by_importance: float) -> Callable[[Record], list[float]]:
    return each(
        lambda z, t, f, y: softmax(f)[y] ** by_saturation * (1 - softmax(f)[y]) ** by_importance * log_softmax(z)[y]
    )


def preferred(chosen: list[Record], rejected: list[Record]) -> float:
    gaps = [(a.log_p() - a.log_ref()) - (b.log_p() - b.log_ref()) for a, b in zip(chosen, rejected, strict=True)]
    return float(np.mean([20 * minus_log_sigma(0.1 * gap) for gap in gaps]))


# On records of S (s), of L (r) and in the place of S (i); with the published weights.
FORMULAS: dict[str, Callable[[Any, Any, Any], float]] = {
    "gradient_ascent": lambda s, r, i: mean(ASCENT, s),
    "gradient_difference": lambda s, r, i: mean(ASCENT, s) + mean(CE, r),
    "neg_grad_plus": lambda s, r, i: 0.0001 * mean(ASCENT, s) + 0.9999 * mean(CE, r),
    "kl_ascent": lambda s, r, i: mean(ASCENT, s) + mean(KL, r),
    "npo": lambda s, r, i: mean(npo, s) + mean(CE, r),
    "simnpo": lambda s, r, i: 0.125 * mean(simnpo, s) + mean(CE, r),
    "wga": lambda s, r, i: mean(satimp(5, 0), s) + mean(CE, r),
    "satimp": lambda s, r, i: mean(satimp(5, 0.1), s) + 0.1 * mean(CE, r),
    "ce_u": lambda s, r, i: mean(each(lambda z, t, f, y: -float(without(f, y) @ log_softmax(z))), s),
    "undial": lambda s, r, i: mean(each(lambda z, t, f, y: -float(adjusted(t, y, 10.0) @ log_softmax(z))), s),
    "random_label": lambda s, r, i: mean(CE, s) + mean(CE, r),
    "salun": lambda s, r, i: mean(CE, s) + mean(CE, r),
    "idk": lambda s, r, i: mean(CE, i + r),
    "dpo": lambda s, r, i: preferred(i, s) + mean(CE, r),
    "altpo": lambda s, r, i: preferred(i, s) + mean(CE, r),
    "scrub": lambda s, r, i: -mean(WARM_KL, s) + 0.5 * mean(WARM_KL, r) + mean(CE, r),
    "bad_teacher": lambda s, r, i: mean(KL, s) + mean(KL, r),
    "pdu": lambda s, r, i: mean(each(lambda z, t, f, y: (max(z) - np.mean(z)) ** 2), s) + 100 * (mean(CE, r) - 0.3),
    "task_vector": lambda s, r, i: mean(CE, s),
}


@of([case for case in CASES if case[0] in FORMULAS])
def test_a_step_is_its_formula(steps: Steps) -> None:
    """Where labels are predicted, and over the labelled items of the step; open-unlearning's PDU is one place late."""
    run, model = steps.run, steps.run.model
    original, fresh = load_without_dropout(str(model.name_or_path)), run.passes.teachers.get("fresh")
    records: dict[str, list[Record]] = {}
    for batch in steps.batches:
        for part, values in batch.items():
            read = {name: values[name] for name in ("input_ids", "attention_mask")}
            told = fresh if steps.name == "bad_teacher" and part == "forget" else original
            with torch.no_grad():
                said, reference = (m(**read).logits.double() for m in (model, told))
            labels, next_token = values["labels"], run.task == "text-generation"
            if labels.ndim == 1:
                said, reference, labels = said[:, None], reference[:, None], labels[:, None]
            records[part] = by_hand(said, reference, labels, next_token, said)
    expected = FORMULAS[steps.name](records.get("forget"), records.get("retained"), records.get("instead"))
    assert steps.losses(whole)[0] == pytest.approx(expected, rel=2e-4)


@of([("rmu", False)])
def test_rmu_is_its_formula_on_the_hidden_states(steps: Steps) -> None:
    """Of the first of two blocks: a mean over the labelled places of each record, then one over the records."""
    model = steps.run.model
    original = load_without_dropout(str(model.name_or_path))
    (batch,) = steps.batches
    distances: dict[str, list[float]] = {"forget": [], "retained": []}
    for part, values in batch.items():
        read = {name: values[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            said, told = (
                m(**read, output_hidden_states=True).hidden_states[1].double().numpy() for m in (model, original)
            )
        drawn = torch.rand(said.shape[-1], generator=torch.Generator().manual_seed(steps.run.args.seed)).numpy()
        noise = np.tile(6.5 * drawn / np.linalg.norm(drawn), (said.shape[1], 1))
        for record, labels in enumerate(values["labels"].tolist()):
            places = [i - 1 for i, label in enumerate(labels) if label != -100 and i]
            wanted = told[record] if part == "retained" else noise
            distances[part].append(float(np.mean([np.mean((said[record][i] - wanted[i]) ** 2) for i in places])))
    expected = np.mean(distances["forget"]) + 1200 * np.mean(distances["retained"])
    assert steps.losses(whole)[0] == pytest.approx(expected, rel=2e-4)


@of([case for case in CASES if case[0] not in WITH_FIXED_WEIGHTS])
def test_the_gradient_of_a_step_against_finite_differences(steps: Steps) -> None:
    """Of the whole model of two layers, along its gradient; those of the losses alone are taken in each direction."""
    _, gradient = steps.losses(whole)
    trained = [weight for weight in steps.run.model.parameters() if weight.grad is not None]
    before = [weight.detach().clone() for weight in trained]
    directions = [weight.grad.clone() / gradient.norm() for weight in trained if weight.grad is not None]
    ends = []
    for size in (SIZE, -SIZE):
        with torch.no_grad():
            for weight, kept, direction in zip(trained, before, directions, strict=True):
                weight.copy_(kept + size * direction)
        ends.append(steps.losses(whole)[0])
    with torch.no_grad():
        for weight, kept in zip(trained, before, strict=True):
            weight.copy_(kept)
    assert (ends[0] - ends[1]) / (2 * SIZE) == pytest.approx(float(gradient.norm()), rel=0.02)


@of(CASES)
def test_each_place_passes_as_often_as_the_price_says(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open-unlearning runs the model three times with KL on L, and on L for UNDIAL with a weight of nothing."""
    method, ran = METHODS[steps.name], []

    def watch(module: torch.nn.Module, *_: Any) -> None:
        if type(module) is type(steps.run.model):
            ran.append(module.training)

    hook = torch.nn.modules.module.register_module_forward_hook(watch)
    try:
        steps.losses(whole)
        trained, told = map(sum, zip(*method.passes.values(), strict=True))
        assert (ran.count(True), ran.count(False)) == (trained, told)
        if "retain_weight" in method.options and method.data == PAIRED:
            ran.clear()
            monkeypatch.setitem(steps.run.options, "retain_weight", 0.0)
            steps.losses(whole)
            assert ran.count(True) == trained - 1
    finally:
        hook.remove()


@of(CASES)
def test_a_record_without_a_label_stops_a_step(steps: Steps) -> None:
    for batch in steps.batches:
        for part in set(batch) - {"retained"}:
            spoiled = {name: dict(values) for name, values in batch.items()}
            labels = batch[part]["labels"].clone()
            labels[2] = -100
            spoiled[part]["labels"] = labels
            if part == "forget" and steps.name == "idk":
                continue
            with pytest.raises(InputError, match="1 of the 8 records of a batch have no label to forget"):
                steps.losses(lambda _, spoiled=spoiled: [spoiled])
