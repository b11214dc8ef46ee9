"""The metrics of ``evaluate``: alone, combined and in a Trainer, and against the scores of the same model."""

import os
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, EvalPrediction, Trainer, TrainingArguments

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.benchmarks.evaluate_metrics import (
    ExactMemorization,
    ExtractionStrength,
    MembershipAUC,
    Perplexity,
    Probability,
    TruthRatio,
    greedy_and_nll,
)
from hf_unlearn.evaluation.scoring import score
from hf_unlearn.evaluation.statistics import membership_auc

from ..conftest import secrets_rows

# Three records: all right, only the end right, the end wrong.
PREDICTED = [[-100, 5, 6, 7], [9, 9, 7], [5, 6, 9]]
LABELS = [[-100, 5, 6, 7], [5, 6, 7], [5, 6, 7]]
NLL = [[-100.0, 0.5, 1.0, 1.5], [2.0, 2.0, 2.0], [1.0, 3.0]]


def test_each_alone() -> None:
    exact = ExactMemorization().compute(predictions=PREDICTED, references=LABELS)
    assert exact == {"exact_memorization": pytest.approx((1 + 1 / 3 + 2 / 3) / 3)}
    strength = ExtractionStrength().compute(predictions=PREDICTED, references=LABELS)
    assert strength == {"extraction_strength": pytest.approx((1 + 1 / 3 + 0) / 3)}
    assert Perplexity().compute(nll=NLL) == {"perplexity": pytest.approx(np.exp(13 / 8))}
    expected = (np.exp(-1) + np.exp(-2) + np.exp(-2)) / 3
    assert Probability().compute(nll=NLL) == {"probability": pytest.approx(expected)}


def test_membership() -> None:
    found = MembershipAUC().compute(predictions=[1.0, 2.0, 3.0, 2.5, 4.0], references=[1, 1, 0, 1, 0])
    expected = membership_auc(np.array([1, 2, 2.5]), np.array([3.0, 4.0]))
    assert found == {
        "membership_auc": 1.0,
        "membership_auc_low": pytest.approx(expected.low),
        "membership_auc_high": 1.0,
    }
    assert MembershipAUC().compute(predictions=[1.0, 0.0], references=[1, 0])["membership_auc"] == 0


def test_truth_ratio() -> None:
    found = TruthRatio().compute(predictions=[[1.0, 3.0], [0.0, 0.0]], references=[2.0, 1.0])
    arithmetic = [(np.exp(-1) + np.exp(-3)) / 2 / np.exp(-2), np.e]
    geometric = [1.0, np.e]
    for name, ratios in (("arithmetic", arithmetic), ("geometric", geometric)):
        assert found[f"truth_ratio_{name}"] == pytest.approx(np.mean([min(r, 1 / r) for r in ratios]))
        assert found[f"true_better_{name}"] == pytest.approx(np.mean([max(0, 1 - r) for r in ratios]), abs=1e-12)
    with pytest.raises(InputError, match="no number"):
        TruthRatio().compute(predictions=[[float("nan")]], references=[1.0])


def test_added_batch_by_batch_and_combined() -> None:
    combined = evaluate.combine([ExactMemorization(), ExtractionStrength(), Perplexity(), Probability()])
    whole = combined.compute(predictions=PREDICTED, references=LABELS, nll=NLL)
    assert set(whole) == {"exact_memorization", "extraction_strength", "perplexity", "probability"}
    for i in range(3):
        combined.add_batch(predictions=PREDICTED[i : i + 1], references=LABELS[i : i + 1], nll=NLL[i : i + 1])
    assert combined.compute() == whole


def test_what_is_measured_is_not_written_to_disk(tmp_path: Path) -> None:
    for keep, files in ((True, 0), (False, 1)):
        folder = tmp_path / str(keep)
        metric = (
            ExactMemorization(cache_dir=str(folder))
            if keep
            else ExactMemorization(cache_dir=str(folder), keep_in_memory=False)
        )
        metric.add_batch(predictions=PREDICTED, references=LABELS)
        written = [name for _, _, names in os.walk(folder) for name in names if name.endswith(".arrow")]
        assert len(written) == files
        assert metric.compute()["exact_memorization"] == pytest.approx(2 / 3)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    greedy, nll = prediction.predictions
    combined = evaluate.combine([ExactMemorization(), ExtractionStrength(), Perplexity(), Probability()])
    found: dict[str, float] = combined.compute(predictions=greedy, references=prediction.label_ids, nll=nll)
    return found


def test_in_a_trainer_they_agree_with_the_scores(lm_original: Path, tmp_path: Path) -> None:
    rows = [{**row, "prompt": "Tell me. " * (i % 3) + row["prompt"]} for i, row in enumerate(secrets_rows(9))]
    tokenizer = AutoTokenizer.from_pretrained(lm_original)
    encoder = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)
    examples: Any = encode(Dataset.from_list(rows), encoder, "test")
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    trainer = Trainer(
        model,
        TrainingArguments(str(tmp_path), per_device_eval_batch_size=4, use_cpu=True, report_to="none"),
        PaddingCollator(0),
        eval_dataset=examples,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=greedy_and_nll,
    )
    found = trainer.evaluate()
    table = score(model, examples, PaddingCollator(0), task="text-generation", batch_size=4)
    tokens, nll, correct = (table[name].to_numpy() for name in ("tokens", "nll", "correct"))
    assert found["eval_perplexity"] == pytest.approx(np.exp(nll.sum() / tokens.sum()), rel=1e-5)
    assert found["eval_probability"] == pytest.approx(np.exp(-nll / tokens).mean(), rel=1e-5)
    assert found["eval_exact_memorization"] == pytest.approx((correct / tokens).mean())
    strengths = []
    for example in examples:
        with torch.no_grad():
            guesses = model(torch.tensor([example["input_ids"]])).logits[0, :-1].argmax(-1).tolist()
        pairs = [(g, w) for g, w in zip(guesses, example["labels"][1:], strict=True) if w != -100]
        right = 0
        while right < len(pairs) and pairs[-1 - right][0] == pairs[-1 - right][1]:
            right += 1
        strengths.append(right / len(pairs))
    assert found["eval_extraction_strength"] == pytest.approx(np.mean(strengths))
    assert 0 < found["eval_extraction_strength"] < 1


def test_all_of_a_text_is_labelled_but_its_first_token_is_not_predicted() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 11).bfloat16(), torch.tensor([[1, 2, 3, 4], [5, 6, -100, -100]])
    greedy, nll = greedy_and_nll(logits, labels)
    assert greedy.tolist() == [
        [-100, *logits[0, :3].argmax(-1).tolist()],
        [-100, int(logits[1, 0].argmax()), -100, -100],
    ]
    expected = -logits[1, 0].double().log_softmax(-1)[6]
    assert nll[1].tolist() == pytest.approx([-100, float(expected), -100, -100])
    assert nll.dtype == torch.float32
