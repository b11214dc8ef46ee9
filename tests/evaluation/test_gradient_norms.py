"""Gradient norms: against autograd by hand, whatever is trained, in pieces or under an adapter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_unlearn.cli import main
from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.measured_sets import EvidenceSets, attack_scores
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.evaluation.scoring import gradient_norms
from hf_unlearn.training.config import UnlearningConfig
from hf_unlearn.training.measuring import check_measures

from ..conftest import secrets_rows, tickets_rows


def examples_of(folder: Path, rows: list[dict[str, Any]], kind: Any, max_length: int = 128) -> Dataset:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = {"billing": 0, "delivery": 1, "other": 2}
    examples = encode(
        Dataset.from_list(rows), RecordEncoder(tokenizer, RecordFormat(kind), max_length, labels), "test"
    )
    assert isinstance(examples, Dataset)
    return examples


def by_hand(model: Any, examples: Dataset) -> list[float]:
    """For each record the norm of the gradients of its mean loss that a backward pass leaves, in float64."""
    norms = []
    for row in sorted(set(examples["row"])):
        pieces = [example for example in examples if example["row"] == row]
        model.zero_grad()
        tokens = [sum(label != IGNORED for label in piece["labels"][1:]) for piece in pieces]
        for piece, count in zip(pieces, tokens, strict=True):
            ids, labels = torch.tensor([piece["input_ids"]]), torch.tensor([piece["labels"]])
            (model(input_ids=ids, labels=labels).loss * count / sum(tokens)).backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        norms.append(float(torch.cat([g.double().flatten() for g in gradients]).norm()))
    model.zero_grad()
    return norms


@pytest.mark.parametrize("max_length", [128, 12])
def test_language_models_against_backward(lm_original: Path, max_length: int) -> None:
    """Long records whole, and in pieces, without dropout; open-unlearning leaves it on and takes one record alone."""
    rows = [{"text": row["prompt"] + row["completion"]} for row in secrets_rows(5)]
    examples = examples_of(lm_original, rows, "text", max_length)
    assert (len(examples) > 5) == (max_length == 12)
    model = AutoModelForCausalLM.from_pretrained(lm_original).eval()
    expected = by_hand(model, examples)
    model.train()
    model.model.embed_tokens.weight.requires_grad_(False)
    found = gradient_norms(model, examples, PaddingCollator(0), task="text-generation")
    assert found == pytest.approx(expected, rel=1e-4)
    assert np.std(found) > 0
    assert model.training
    assert not model.model.embed_tokens.weight.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


def test_classifiers_against_backward(classifier_original: Path) -> None:
    examples = examples_of(classifier_original, tickets_rows(4), "classification")
    model = AutoModelForSequenceClassification.from_pretrained(classifier_original).eval()
    expected = []
    for example in examples:
        model.zero_grad()
        model(input_ids=torch.tensor([example["input_ids"]]), labels=torch.tensor([example["labels"]])).loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        expected.append(float(torch.cat([g.double().flatten() for g in gradients]).norm()))
    found = gradient_norms(model, examples, PaddingCollator(0), task="text-classification")
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_adapter_and_the_same_merged(lm_original: Path) -> None:
    examples = examples_of(lm_original, secrets_rows(3), "prompt_completion")
    torch.manual_seed(0)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_original), LoraConfig("CAUSAL_LM", r=2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    found = gradient_norms(model, examples, PaddingCollator(0), task="text-generation")
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == trained
    merged = model.merge_and_unload()
    assert found == pytest.approx(
        gradient_norms(merged, examples, PaddingCollator(0), task="text-generation"), rel=1e-3
    )
    plain = AutoModelForCausalLM.from_pretrained(lm_original)
    without = gradient_norms(plain, examples, PaddingCollator(0), task="text-generation")
    assert found != pytest.approx(without, rel=1e-2), "the adapter takes part"


def test_it_is_an_attack_when_asked(lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in lm_settings.items() if key != "original"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**settings, "budget": 0.05, "output_dir": str(tmp_path / "out")}))
    assert main(["run", "--config", str(path), "--gradient_norm_attack"]) == 0
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    found = report.arms["original"].attacks["gradient_norm"].auc
    assert found.value > 0.8, "what was learned by heart is flat"
    assert "gradient_norm" in report.arms["unlearned"].attacks
    assert "| membership AUC by the norm of the loss's gradient |" in (tmp_path / "out" / "README.md").read_text()


def test_only_s_and_h_have_it_and_parts_of_them_too(lm_original: Path) -> None:
    examples = examples_of(lm_original, secrets_rows(4), "prompt_completion")
    sets: Any = {"forget": examples, "holdout": examples, "retained": examples}
    evidence = EvidenceSets("text-generation", sets, PaddingCollator(0), 4)
    model = AutoModelForCausalLM.from_pretrained(lm_original)
    assert "gradient_norm" not in evidence.score(model)["forget"].column_names
    read, evidence.gradients = evidence.tokens, True
    assert evidence.tokens == 3 * read, "S and H are read four times, L once"
    tables = evidence.halves(0)[0].at_most(1, 0).score(model)
    assert [name for name, table in tables.items() if "gradient_norm" in table.column_names] == ["forget", "holdout"]
    scores = attack_scores(tables)
    assert scores is not None
    assert scores.forget["gradient_norm"].tolist() == [-norm for norm in tables["forget"]["gradient_norm"].to_pylist()]


def test_where_it_is_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = UnlearningConfig(str(tmp_path), gradient_norm_attack=True, use_cpu=True)
    with pytest.raises(InputError, match="weights in 4 bits have none"):
        check_measures("text-generation", asked, 4)
    check_measures("text-generation", asked, None)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    with pytest.raises(InputError, match="gradient_norm_attack is not possible while the weights are sharded"):
        UnlearningConfig(str(tmp_path), gradient_norm_attack=True, use_cpu=True)
