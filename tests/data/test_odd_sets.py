"""Sets that hold nothing, examples that lack something, and classifiers of another kind: one sentence each."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, LlamaConfig

from hf_unlearn import InputError, UnlearningConfig, UnlearningTrainer
from hf_unlearn.data.loading import load_data, pick_split
from hf_unlearn.models.loading import task_of


@pytest.mark.parametrize("lacking", ["labels", "attention_mask"])
@pytest.mark.parametrize("which", ["train", "forget", "holdout", "eval"])
def test_examples_that_lack_a_column(lm_base: Path, tmp_path: Path, which: str, lacking: str) -> None:
    whole = Dataset.from_list([{name: [5, 6, 7] for name in ("input_ids", "attention_mask", "labels")}] * 4)
    sets = {f"{name}_dataset": whole for name in ("train", "forget", "holdout", "eval")}
    sets[f"{which}_dataset"] = whole.remove_columns(lacking)
    model: Any = AutoModelForCausalLM.from_pretrained(lm_base)
    config = UnlearningConfig(str(tmp_path), method="fine_tune", report_to="none", use_cpu=True)
    with pytest.raises(InputError, match=f"no column '{lacking}'"):
        UnlearningTrainer(model, config, processing_class=AutoTokenizer.from_pretrained(lm_base), **sets)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.jsonl", ""),
        ("d.jsonl", "\n\n"),
        ("d.json", "[]"),
        ("d.csv", "id,text\n"),
        ("d.tsv", "id\ttext"),
        ("d.txt", ""),
    ],
)
def test_a_file_without_rows_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}'?(: its files are empty| has no rows)"):
        load_data(str(tmp_path / name))


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,text\n1,a\n")
    (tmp_path / "test.csv").write_text("id,text\n")
    with pytest.raises(InputError, match="test.csv has no rows"):
        load_data(str(tmp_path))
    splits = DatasetDict({"train": Dataset.from_dict({"a": [1]}), "test": Dataset.from_dict({"a": []})})
    with pytest.raises(InputError, match="--dataset_test_split test: this split has no rows"):
        pick_split(splits, "test", "dataset_test_split")


@pytest.mark.parametrize(
    ("config", "architecture", "kind"),
    [
        (BertConfig(problem_type="regression"), "BertForSequenceClassification", "regression"),
        (BertConfig(problem_type="multi_label_classification"), "BertForSequenceClassification", "multi_label"),
        (BertConfig(num_labels=1), "BertForSequenceClassification", "regression"),
        (LlamaConfig(num_labels=1), "LlamaForSequenceClassification", "regression"),
    ],
)
@pytest.mark.parametrize("asked", [None, "text-classification"])
def test_classifiers_of_another_kind(config: Any, architecture: str, kind: str, asked: Any) -> None:
    with pytest.raises(InputError, match=f"problem_type of 'acme/router' is '{kind}"):
        task_of("acme/router", config, asked, architecture=architecture)


def test_classifiers_of_one_class_for_each_record() -> None:
    config = BertConfig(problem_type="single_label_classification")
    assert task_of("a", config, None, architecture="BertForSequenceClassification") == "text-classification"
    # The number of outputs of another head says nothing.
    assert task_of("a", BertConfig(num_labels=1), "text-classification", architecture="BertForMaskedLM")
    assert task_of("a", BertConfig(problem_type="regression"), None, architecture="BertForMaskedLM") == "fill-mask"
