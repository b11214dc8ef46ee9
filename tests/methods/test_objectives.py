"""Objectives against their formulas in numpy, gradients against finite differences, and how batches add up."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_unlearn.methods.items import labelled_rows
from hf_unlearn.methods.losses import Match, distillation, entropy_gap, l1_norm, l1_weight, logit_gap
from hf_unlearn.methods.objectives import L1_SPARSE, MATCH_LOGITS, taught
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import flops_per_token

from ..training.test_trainer import same, secrets, tickets, trainer, weights

IGNORED = -100
# Padding at the end, texts of unequal length, ignored positions in the middle and at the first place.
LABELS = torch.tensor([[IGNORED, 3, 1, 4, 0], [2, IGNORED, 4, IGNORED, IGNORED], [1, 0, IGNORED, IGNORED, IGNORED]])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def picked(logits: torch.Tensor, labels: torch.Tensor, next_token: bool) -> list[np.ndarray]:
    """What is taught, by hand."""
    if labels.ndim == 1:
        return [row for row, label in zip(logits.numpy(), labels.tolist(), strict=True) if label != IGNORED]
    found = []
    for record in range(labels.shape[0]):
        for position in range(labels.shape[1]):
            if labels[record, position] == IGNORED or (next_token and position == 0):
                continue
            found.append(logits[record, position - int(next_token)].numpy())
    return found


def kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    log_p, log_q = log_softmax(teacher / temperature), log_softmax(student / temperature)
    return float(temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum())


def entropies(student: np.ndarray, teacher: np.ndarray) -> float:
    def entropy(row: np.ndarray) -> float:
        p = np.exp(log_softmax(row))
        return float(-(p * np.log(p)).sum())

    return (entropy(student) - entropy(teacher)) ** 2


MATCHES: dict[str, tuple[Match, Callable[[np.ndarray, np.ndarray], float]]] = {
    "kl at 1": (lambda s, t: distillation(s, t, 1.0), lambda s, t: kl(s, t, 1.0)),
    "kl at 5": (lambda s, t: distillation(s, t, 5.0), lambda s, t: kl(s, t, 5.0)),
    "entropy": (entropy_gap, entropies),
    "logits": (logit_gap, lambda s, t: float(np.mean((s - t) ** 2))),
}


@pytest.mark.parametrize("name", MATCHES)
@pytest.mark.parametrize("next_token", [True, False])
def test_terms_against_their_formulas(name: str, next_token: bool) -> None:
    match, formula = MATCHES[name]
    student, teacher = draw(3, 5, 6), draw(3, 5, 6, seed=1)
    rows = [labelled_rows(logits, LABELS, next_token) for logits in (student, teacher)]
    expected = [
        formula(s, t)
        for s, t in zip(picked(student, LABELS, next_token), picked(teacher, LABELS, next_token), strict=True)
    ]
    assert len(expected) == (6 if next_token else 8)
    np.testing.assert_allclose(match(*rows).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MATCHES)
def test_terms_of_a_text_classifier(name: str) -> None:
    match, formula = MATCHES[name]
    student, teacher, labels = draw(4, 3), draw(4, 3, seed=1), torch.tensor([0, IGNORED, 2, 1])
    rows = [labelled_rows(logits, labels, False) for logits in (student, teacher)]
    expected = [
        formula(s, t) for s, t in zip(picked(student, labels, False), picked(teacher, labels, False), strict=True)
    ]
    np.testing.assert_allclose(match(*rows).numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MATCHES)
def test_gradients_against_finite_differences(name: str) -> None:
    match, _ = MATCHES[name]
    teacher = draw(3, 4, seed=1)
    torch.autograd.gradcheck(lambda s: match(s, teacher), (draw(3, 4).requires_grad_(),), atol=1e-7)
    assert match(teacher, teacher).abs().max() < 1e-20, "a student that says the same as the teacher is right"


@pytest.mark.parametrize("name", ["kl at 1", "kl at 5", "entropy"])
def test_a_class_that_is_ruled_out_is_no_trouble(name: str) -> None:
    logits = draw(2, 4)
    logits[0, 1] = -torch.inf
    student = logits.clone().requires_grad_()
    value = MATCHES[name][0](student, logits)
    value.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()


def test_half_precision_is_compared_in_single() -> None:
    rows = labelled_rows(draw(3, 5, 6).bfloat16(), LABELS, False)
    assert rows.dtype == torch.float32


def test_the_l1_norm_and_its_fading_weight() -> None:
    parts = [draw(3, 4).requires_grad_(), draw(5, seed=1).requires_grad_()]
    assert l1_norm(parts).item() == pytest.approx(sum(np.abs(p.detach().numpy()).sum() for p in parts), abs=1e-10)
    torch.autograd.gradcheck(lambda *p: l1_norm(p), parts)
    assert [l1_weight(0.5, progress) for progress in (0.0, 0.25, 1.0)] == [0.5, 0.375, 0.0]


def test_the_objective_adds_up() -> None:
    student, teacher = draw(7, 4), draw(7, 4, seed=1)
    own = torch.tensor(1.25, dtype=torch.float64)

    def loss(told: torch.Tensor) -> float:
        branch = SimpleNamespace(loss=own, rows=student, teacher_logits=lambda: told, share=1 / 7)
        return float(taught(SimpleNamespace(retained=branch), match=logit_gap, own=0.5, weight=3.0))  # type: ignore[arg-type]

    expected = 0.5 * 1.25 + 3.0 * float(((student - teacher) ** 2).mean(-1).sum()) / 7
    assert loss(teacher) == pytest.approx(expected, abs=1e-10)
    assert loss(student) == pytest.approx(0.5 * 1.25, abs=1e-10)


# In the trainer

OFF: dict[str, Any] = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "classifier_dropout": 0.0}
WITH_OBJECTIVE = ["l1_sparse", "reset_smallest", "distill", "cyclic_resets"]


def without_dropout(task: str, lm: Path, classifier: Path) -> tuple[Any, Any]:
    if task == "text-generation":
        return AutoModelForCausalLM.from_pretrained(lm, attention_dropout=0.0), secrets()
    return AutoModelForSequenceClassification.from_pretrained(classifier, **OFF), tickets()


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
@pytest.mark.parametrize("method", WITH_OBJECTIVE)
def test_accumulated_batches_add_up_to_one_large_batch(
    lm_original: Path, classifier_original: Path, tmp_path: Path, task: str, method: str
) -> None:
    results = []
    for batch, accumulation in ((16, 1), (4, 4)):
        loaded, split = without_dropout(task, lm_original, classifier_original)
        run = trainer(
            tmp_path,
            loaded,
            split,
            method=method,
            # Strong enough to be seen.
            alpha=0.01 if method == "l1_sparse" else None,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            max_steps=3,
            optim="sgd",
            learning_rate=0.1,
            logging_steps=1,
        )
        run.train()
        results.append((weights(run.model), [entry["loss"] for entry in run.state.log_history if "loss" in entry]))
    for name, weight in results[0][0].items():
        torch.testing.assert_close(weight, results[1][0][name], rtol=1e-4, atol=2e-6, msg=name)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_the_logged_loss_is_the_formula(lm_original: Path, tmp_path: Path) -> None:
    """The first step of an entropy-matching run, by hand."""
    loaded, split = without_dropout("text-generation", lm_original, lm_original)
    run = trainer(tmp_path, loaded, split, method="reset_smallest", max_steps=1, logging_steps=1)
    batch = next(iter(run.get_train_dataloader()))
    teacher = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
    run._move_to_start()
    with torch.no_grad():
        found = run.model(**batch)
        told = teacher(**batch).logits
    rows = [labelled_rows(x.double(), batch["labels"], True).numpy() for x in (found.logits, told)]
    expected = float(found.loss) + np.mean([entropies(s, t) for s, t in zip(*rows, strict=True)])
    loaded, split = without_dropout("text-generation", lm_original, lm_original)
    again = trainer(tmp_path, loaded, split, method="reset_smallest", max_steps=1, logging_steps=1)
    again.train()
    assert again.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_the_penalty_counts_trained_weights_once_and_fades(lm_original: Path, tmp_path: Path) -> None:
    loaded, split = without_dropout("text-generation", lm_original, lm_original)
    norm = l1_norm(loaded.parameters()).item()
    losses = {}
    for alpha in (0.0, 0.01):
        loaded, split = without_dropout("text-generation", lm_original, lm_original)
        run = trainer(
            tmp_path, loaded, split, method="l1_sparse", alpha=alpha, learning_rate=0.0, max_steps=4, logging_steps=1,
            gradient_accumulation_steps=2,
        )  # fmt: skip
        run.train()
        losses[alpha] = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    added = [a - b for a, b in zip(losses[0.01], losses[0.0], strict=True)]
    assert added == pytest.approx([0.01 * norm * (1 - step / 4) for step in range(4)], rel=1e-3)


def test_without_an_objective_the_training_is_the_plain_one(lm_original: Path, tmp_path: Path) -> None:
    runs = [
        trainer(tmp_path, str(lm_original), method=m, **o)
        for m, o in (("fine_tune", {}), ("l1_sparse", {"alpha": 0.0}))
    ]
    for run in runs:
        run.train()
        assert run.passes.teachers == {}
    assert same(weights(runs[0].model), weights(runs[1].model))


def test_the_teacher_is_the_original_and_its_price_counts(lm_original: Path, tmp_path: Path) -> None:
    plain = trainer(tmp_path, str(lm_original), method="shrink_perturb")
    taught = trainer(tmp_path, str(lm_original), method="distill")
    teachers: list[Any] = []
    moved = taught._move_to_start

    def move() -> None:
        teachers.append(taught.passes.teachers["original"])
        moved()

    taught._move_to_start = move  # type: ignore[method-assign]
    taught.model.train()
    plain.train()
    taught.train()
    assert same(weights(teachers[0]), weights(AutoModelForCausalLM.from_pretrained(lm_original)))
    assert not teachers[0].training
    assert not any(weight.requires_grad for weight in teachers[0].parameters())
    step, forward = flops_per_token(plain.model)
    assert taught.state.total_flos == pytest.approx(plain.state.total_flos * (step + forward) / step)
    assert taught.passes.teachers == {}, "what is not needed any more must not hold memory"
    assert taught.evaluate(plain.evidence.sets["retained"])["eval_loss"] > 0  # type: ignore[union-attr]


def test_objectives_of_the_table() -> None:
    teachers = {name for name, method in METHODS.items() if method.objective.needs_teacher and not method.uses_forget}
    assert teachers == {"reset_smallest", "reset_ends", "cyclic_resets", "distill"}
    assert METHODS["l1_sparse"].objective is L1_SPARSE
    assert METHODS["cyclic_resets"].objective is MATCH_LOGITS
