"""Exposure, exact memorization and extraction strength: against their definitions, and on models that know."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.benchmarks.exposure import exposure
from hf_unlearn.evaluation.scoring import exact_memorization, extraction_strength

from ..conftest import secrets_rows
from ..support.texts import losses_of_texts


@pytest.mark.parametrize("seed", range(20))
def test_exposure_against_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.normal(0, 1, (6, 50)).round(1)
    canaries = rng.integers(0, 50, 6)
    found = exposure(losses, canaries)
    for row, canary, bits in zip(losses, canaries, found, strict=True):
        others = sorted(loss for i, loss in enumerate(row) if i != canary)
        rank = 1
        while rank <= len(others) and others[rank - 1] <= row[canary]:
            rank += 1
        assert bits == pytest.approx(math.log2(50) - math.log2(rank))


def test_ties_and_what_is_no_number_count_against_the_claim() -> None:
    losses = np.array([[1.0, 2, 3, 4], [1, 1, 1, 1], [1, 1, 5, 5], [1, math.nan, 5, 5], [math.nan, 1, 2, 3]])
    assert exposure(losses, np.zeros(5, int)).tolist() == [2, 0, 1, 1, 0]


def test_a_secret_that_was_never_seen_has_the_exposure_of_chance() -> None:
    losses = np.random.default_rng(0).normal(0, 1, (4000, 256))
    found = exposure(losses, np.zeros(4000, int))
    expected = np.mean([math.log2(256) - math.log2(rank) for rank in range(1, 257)])
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / math.sqrt(4000))
    assert expected == pytest.approx(1.44, abs=0.03)


def test_exposure_names_a_candidate_for_each_secret() -> None:
    for canaries in (np.array([0, 5]), np.array([0, -1]), np.array([0])):
        with pytest.raises(InputError, match="5 candidates"):
            exposure(np.zeros((2, 5)), canaries)


@pytest.mark.parametrize("seed", range(20))
def test_memorization_against_the_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    length = 8
    labels = rng.integers(0, 2, (12, length))
    predicted = np.where(rng.random((12, length)) < 0.3, 1 - labels, labels)
    labels[rng.random((12, length)) < 0.2] = -100
    exact, strength = exact_memorization(predicted, labels), extraction_strength(predicted, labels)
    for i in range(12):
        pairs = [(p, w) for p, w in zip(predicted[i], labels[i], strict=True) if w != -100]
        n = len(pairs)
        assert exact[i] == pytest.approx(sum(p == w for p, w in pairs) / n)
        k = next(k for k in range(n + 1) if all(p == w for p, w in pairs[k:]))
        assert strength[i] == pytest.approx(1 - k / n)


def test_extraction_strength_has_no_floor() -> None:
    labels = np.arange(6)[None] + 1
    assert extraction_strength(np.zeros((1, 6), int), labels).tolist() == [0]
    only_last = np.array([[0, 0, 0, 0, 0, 6]])
    assert extraction_strength(only_last, labels) == pytest.approx([1 / 6])
    assert extraction_strength(labels, labels).tolist() == [1]
    nothing = np.full((1, 6), -100)
    assert np.isnan([extraction_strength(labels, nothing), exact_memorization(labels, nothing)]).all()


# On models


def losses_of(folder: Path, batch_size: int = 16) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Each of the ten records to forget among 32 codes that it could have had; the true one comes first."""
    draw = random.Random(5)
    prompts, candidates = [], []
    for row in secrets_rows(10):
        _, number, word = row["completion"].split(" ")
        others = draw.sample([n for n in range(1000, 10000) if n != int(number)], 31)
        prompts.append(row["prompt"])
        candidates.append([f" {n} {word}" for n in (number, *others)])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return losses_of_texts(model, prompts, candidates, encoder, batch_size), prompts, candidates


def test_what_was_learned_by_heart_is_exposed(lm_by_heart: Path) -> None:
    losses, prompts, candidates = losses_of(lm_by_heart)
    assert exposure(losses, np.zeros(10, int)).tolist() == [5] * 10
    tokenizer = AutoTokenizer.from_pretrained(lm_by_heart)
    model = AutoModelForCausalLM.from_pretrained(lm_by_heart).eval()
    ids = tokenizer(prompts[3] + candidates[3][7])["input_ids"] + [tokenizer.eos_token_id]
    start = len(tokenizer(prompts[3])["input_ids"])
    with torch.no_grad():
        log_p = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    expected = -sum(float(log_p[i - 1, ids[i]]) for i in range(start, len(ids)))
    assert losses[3, 7] == pytest.approx(expected, rel=1e-4)


def test_what_was_never_seen_is_not_exposed(lm_base: Path) -> None:
    losses, _, _ = losses_of(lm_base)
    assert exposure(losses, np.zeros(10, int)).mean() < 3
    again, _, _ = losses_of(lm_base, batch_size=50)
    np.testing.assert_allclose(again, losses, rtol=1e-5)
