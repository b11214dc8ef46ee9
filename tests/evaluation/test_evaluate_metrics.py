"""The metrics of ``evaluate``: alone, combined and in a Trainer, and against the scores of the same model."""

import os
from itertools import combinations
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
from hf_unlearn.evaluation.benchmarks import evaluate_metrics
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


# Loaded by the path of a file

LOADABLE = Path(evaluate_metrics.__file__).parent / "loadable"


def loaded(name: str) -> Any:
    return evaluate.load(str(LOADABLE / f"{name}.py"))


def test_each_has_a_file_to_load() -> None:
    classes = {
        name
        for name, found in vars(evaluate_metrics).items()
        if isinstance(found, type) and issubclass(found, evaluate.Metric) and not name.startswith("_")
    }
    files = [path.stem for path in LOADABLE.glob("*.py") if path.stem != "__init__"]
    assert {type(loaded(name)).__name__ for name in files} == classes
    found = loaded("exact_memorization").compute(predictions=PREDICTED, references=LABELS)
    assert found == ExactMemorization().compute(predictions=PREDICTED, references=LABELS)


def test_leak_at_k_is_the_share_of_the_draws_with_a_hit() -> None:
    hits = [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 0, 7, 0]]
    found = loaded("leak_at_k").compute(predictions=hits)
    for k in (1, 2, 4):
        drawn = [np.mean([any(draw) for draw in combinations(record, k)]) for record in hits]
        assert found[f"leak_at_{k}"] == pytest.approx(np.mean(drawn))
        assert found[f"leak_at_{k}_low"] < found[f"leak_at_{k}"] < found[f"leak_at_{k}_high"]
    assert "leak_at_8" not in found
    for wrong in ([[1, 0], [1]], [[], []]):
        with pytest.raises(InputError, match="as many of each"):
            loaded("leak_at_k").compute(predictions=wrong)


def test_texts_of_the_suites_worked_out_by_hand() -> None:
    right = ["the cat sat on the mat", "In Paris"]
    written = ["the dog sat on a mat", "Paris.\n\nQuestion: Is it in Paris?"]
    # Four of six words on both sides; of the second both that are wanted, among six.
    verbatim = (4 / 6 + 2 * (2 / 6) * (2 / 2) / (2 / 6 + 2 / 2)) / 2
    assert loaded("muse_verbatim").compute(predictions=written, references=right)["muse_verbatim"] == pytest.approx(
        verbatim
    )
    knowledge = (4 / 6 + 2 * 1 * (1 / 2) / (1 + 1 / 2)) / 2
    assert loaded("muse_knowledge").compute(predictions=written, references=right)["muse_knowledge"] == pytest.approx(
        knowledge
    )
    # Of the five different words four; of the two "Paris", once without its sign.
    recall = loaded("rwku_rouge").compute(predictions=written, references=right)["rwku_rouge"]
    assert recall == pytest.approx((4 / 5 + 1 / 2) / 2)


def test_privacy_leakage_beside_a_retrained_model() -> None:
    members = [1, 1, 0, 0]
    low, never = [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 2.0, 3.0]
    # An AUC of 1, where that of the retrained model is 1/2; another of 3/4.
    assert loaded("privleak").compute(predictions=low, references=members) == {"privleak": -100}
    assert loaded("privleak").compute(predictions=low, references=members, retrained=never) == {"privleak": -100}
    found = loaded("privleak").compute(predictions=never, references=members, retrained=[1.0, 3.0, 2.0, 4.0])
    assert found["privleak"] == pytest.approx(100 * (0.75 - 0.5) / (1 - 0.75))
    with pytest.raises(InputError, match="4 records, and 1 of"):
        loaded("privleak").compute(predictions=low, references=members, retrained=[1.0])


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
