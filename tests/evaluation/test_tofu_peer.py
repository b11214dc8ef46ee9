"""TOFU's evaluation value by value against open-unlearning's own where that is right, and by how much it is not.

``open_unlearning/numbers.json`` holds what its evaluation makes of a tiny model that knows some of TOFU by heart; how
they were made is written there. No code of it is here.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import PaddingCollator
from hf_unlearn.evaluation.benchmarks.tofu import closer_to_one, truth_ratios
from hf_unlearn.evaluation.benchmarks.tofu_suite import (
    ASKED,
    TofuScores,
    TofuSuite,
    recall_tofu,
    score_tofu,
    tofu_metrics,
    tofu_suite,
)
from hf_unlearn.evaluation.measured_sets import attack_scores
from hf_unlearn.evaluation.scoring import extraction_strength, gradient_norms, score
from hf_unlearn.evaluation.statistics import membership_auc

FOLDER = Path(__file__).parents[1] / "open_unlearning"
FILES = {
    "forget": "forget01_perturbed",
    "holdout": "holdout01",
    "retain": "retain_perturbed",
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
}


def suite_of(peer: dict[str, Any], shared: Path, prompt: str) -> TofuSuite:
    """The rows that open-unlearning was given."""
    records: dict[Any, Dataset] = {}
    for name, (first, last) in peer["rows"].items():
        lines = (shared / "data" / "tofu" / f"{FILES[name]}.json").read_text(encoding="utf-8").splitlines()
        records[name] = Dataset.from_list([json.loads(line) for line in lines[first:last]])
    base = shared / "models" / "tinystories-260k"
    config = AutoModelForCausalLM.from_pretrained(base).config
    return tofu_suite(
        records, AutoTokenizer.from_pretrained(base), config,
        prompt_template=prompt, completion_template="{answer}", batch_size=32,
    )  # fmt: skip


@pytest.fixture(scope="module")
def peer() -> dict[str, Any]:
    return json.loads((FOLDER / "numbers.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ours(peer: dict[str, Any], shared: Path) -> SimpleNamespace:
    """What this package makes of the same model, reference and rows."""
    base = shared / "models" / "tinystories-260k"
    tokenizer, reference = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), FOLDER)
    model = adapted.merge_and_unload()
    suite = suite_of(peer, shared, "Question: {question}\nAnswer:\n")
    scores, others = score_tofu(suite, model), score_tofu(suite, reference)
    recall = recall_tofu(suite, model, tokenizer)
    metrics = tofu_metrics(scores, recall, others)
    return SimpleNamespace(
        suite=suite, model=model, tokenizer=tokenizer, scores=scores, others=others, recall=recall, metrics=metrics
    )


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6)


def test_losses_ratios_and_texts_of_each_record(peer: dict[str, Any], ours: SimpleNamespace) -> None:
    scores: TofuScores = ours.scores
    for name in ASKED:
        theirs = peer["values"][name]
        for answer in ("answer", "paraphrased_answer", "perturbed_answer"):
            if answer in theirs:
                losses = scores.losses(name, answer)  # type: ignore[arg-type]
                close(losses, np.array(theirs[answer]).reshape(losses.shape))
        close(scores.truth_ratios(name, "geometric"), theirs["truth_ratio"])
        np.testing.assert_allclose(ours.recall[name], theirs["rougeL_recall"], atol=1e-6)
    close(ours.others.truth_ratios("forget", "geometric"), peer["reference_truth_ratio"])
    close(scores.tables["forget"]["exact"].to_numpy(), peer["values"]["forget"]["exact_memorization"])


def test_the_summary(peer: dict[str, Any], ours: SimpleNamespace) -> None:
    # Its Min-K% leaves the end of the text out, and so PrivLeak does; its gradient norm is another one.
    elsewhere = {"forget_extraction_strength", "mia_min_k", "mia_min_k_plus_plus", "mia_gradnorm", "privleak"}
    for name, value in peer["summary"].items():
        if name not in elsewhere:
            assert ours.metrics[name].value == pytest.approx(value, rel=2e-4), name
    spread = ours.metrics["forget_truth_ratio_geometric_closer_to_one"]
    assert spread.low < peer["summary"]["forget_truth_ratio_geometric_closer_to_one"] < spread.high


def test_attacks_that_take_the_whole_answer(peer: dict[str, Any], ours: SimpleNamespace) -> None:
    found = attack_scores(ours.scores.tables, ours.others.tables)
    assert found is not None
    for name in ("loss", "zlib", "reference"):
        for side in ("forget", "holdout"):
            close(-getattr(found, side)[name], peer["attacks"][name][side])


def without_the_end(examples: Dataset) -> Dataset:
    def shorten(example: dict[str, Any]) -> dict[str, Any]:
        return {"labels": [*example["labels"][:-1], -100]}

    return examples.map(shorten)


def test_min_k_differs_by_the_end_of_the_text_alone(peer: dict[str, Any], ours: SimpleNamespace) -> None:
    low = {}
    for side in ("forget", "holdout"):
        examples = without_the_end(ours.suite.evidence.sets[side])
        table = score(ours.model, examples, PaddingCollator(0), task="text-generation", batch_size=8)
        for column, name in (("min_k", "min_k"), ("min_k_plus", "min_k_plus_plus")):
            close(-table[column].to_numpy(), peer["attacks"][name][side])
        low[side] = -table["min_k"].to_numpy()
        assert not np.allclose(table["min_k"].to_numpy(), ours.scores.tables[side]["min_k"].to_numpy(), rtol=1e-3)
    auc = membership_auc(low["forget"], low["holdout"]).value
    assert auc == pytest.approx(peer["summary"]["mia_min_k"])
    expected = 1 - peer["reference_mia_min_k"]
    assert 100 * (1 - auc - expected) / expected == pytest.approx(peer["summary"]["privleak"], rel=1e-5)


def test_the_gradient_norm_is_that_of_all_weights_and_not_the_mean_over_matrices(
    peer: dict[str, Any], ours: SimpleNamespace
) -> None:
    few = without_the_end(ours.suite.evidence.sets["forget"]).select(range(8, 12))
    norms = gradient_norms(ours.model, few, PaddingCollator(0), task="text-generation")
    for i, example in enumerate(few):
        ids, labels = (torch.tensor([example[column]]) for column in ("input_ids", "labels"))
        loss = ours.model.requires_grad_(True)(ids, labels=labels).loss
        parts = [float(g.norm()) for g in torch.autograd.grad(loss, list(ours.model.parameters()))]
        close(np.mean(parts), peer["attacks"]["gradnorm"]["forget"][8 + i])
        assert norms[i] == pytest.approx(np.sqrt(np.sum(np.square(parts))), rel=1e-4)


def test_extraction_strength_has_its_floor_and_no_other_difference(
    peer: dict[str, Any], ours: SimpleNamespace
) -> None:
    found = ours.scores.tables["forget"]["extraction"].to_numpy()
    tokens = ours.scores.tables["forget"]["tokens"].to_numpy() - 1
    theirs = np.array(peer["values"]["forget"]["extraction_strength"])
    close(np.where(found == 0, 1 / tokens, found), theirs)
    assert (found == 0).any()
    assert extraction_strength(np.zeros((1, 6), int), np.ones((1, 6), int)).tolist() == [0]


def test_the_first_token_of_an_answer_is_not_lost_where_it_takes_in_the_blank(
    peer: dict[str, Any], ours: SimpleNamespace, shared: Path
) -> None:
    """Before an answer, ``Answer: `` with its blank is all prompt to open-unlearning, and what the blank joins too."""
    suite = suite_of(peer, shared, "Question: {question}\nAnswer: ")
    joined = 0
    for name, theirs in peer["boundary"].items():
        shortened = []
        for example, tokens in zip(suite.examples(name), theirs["tokens"], strict=True):
            answer = [i for i, label in enumerate(example["labels"]) if label != -100]
            lost = answer[: len(answer) - tokens]
            assert len(lost) <= 1
            joined += len(lost)
            for i in lost:
                assert ours.tokenizer.convert_ids_to_tokens(example["labels"][i]).startswith("\u2581")
                example["labels"][i] = -100
            shortened.append(example)
        table = score(
            ours.model, Dataset.from_list(shortened), PaddingCollator(0), task="text-generation", batch_size=8
        )
        close(table["loss"].to_numpy(), theirs["loss"])
    assert joined > 0


@pytest.mark.parametrize(
    ("name", "lost", "empty"),
    [
        ("tinystories", (163, 30, 38), (0, 0, 0)),
        pytest.param("smollm2", (400, 100, 105), (0, 4, 48), marks=pytest.mark.slow),
    ],
)
def test_how_many_answers_lose_their_first_token_where_prompts_are_tokenised_apart(
    shared: Path, request: pytest.FixtureRequest, name: str, lost: tuple[int, ...], empty: tuple[int, ...]
) -> None:
    if name == "tinystories":
        tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "tinystories-260k")
    else:
        folder = request.getfixturevalue("smollm2")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    for file, losing, nothing in zip(
        ("forget10", FILES["real_authors"], FILES["world_facts"]), lost, empty, strict=True
    ):
        lines = (shared / "data" / "tofu" / f"{file}.json").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        prompts = tokenizer([f"Question: {row['question']}\nAnswer: " for row in rows])["input_ids"]
        texts = tokenizer([f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows])["input_ids"]
        assert sum(text[: len(ids)] != ids for text, ids in zip(texts, prompts, strict=True)) == losing
        assert sum(len(text) <= len(ids) for text, ids in zip(texts, prompts, strict=True)) == nothing


def test_a_model_that_finds_all_answers_unlikely_does_not_seem_to_prefer_the_right_one(peer: dict[str, Any]) -> None:
    """Its 1e-10 in the denominator outweighs a probability of exp(-25), so a ruined model's ratios tend to zero."""
    given = peer["collapsed"]
    correct, wrong = np.array(given["correct"]), np.array(given["wrong"])
    ratios = truth_ratios(correct, wrong, "geometric")
    np.testing.assert_allclose(ratios * np.exp(-correct) / (np.exp(-correct) + 1e-10), given["ratios"], rtol=1e-4)
    assert given["ratios"][-1] < 1e-7
    assert closer_to_one(ratios).min() > 0.3
