"""Poisoned records, whose labels should have been others."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import AutoTokenizer

from hf_unlearn import InputError, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets

from ..conftest import tagged_rows, tickets_rows, write_rows

NAMES = ("billing", "delivery", "repair")


def evidence_of(rows: Dataset, folder: Path, kind: Any = "classification", names: tuple[str, ...] = NAMES) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = {"text": "tokens", "label": "ner_tags"} if kind == "tagged_words" else {}
    encoder = RecordEncoder(tokenizer, RecordFormat(kind, **words), 32, {name: i for i, name in enumerate(names)})
    task: Any = "token-classification" if words else "text-classification"
    sets: Any = {"forget": rows, "retained": rows.remove_columns("right")}
    found = evidence_sets(sets, encoder, PaddingCollator(0), task, 4, 0, classes=names, corrected_column="right")
    assert isinstance(found, EvidenceSets)
    return found.truth()


@pytest.mark.parametrize("form", ["names", "class labels", "numbers beside class labels"])
def test_corrected_labels_are_read_as_labels_are(encoder_base: Path, form: str) -> None:
    # The data set numbers its classes in another order than the model.
    ordered = ClassLabel(names=["repair", "billing", "delivery"])
    texts, own, right = ["a b", "b c", "c d"], ["billing", "repair", "repair"], ["delivery", None, "billing"]
    features = {"text": Value("string"), "label": Value("string"), "right": Value("string")}
    columns: dict[str, Any] = {"text": texts, "label": own, "right": right}
    if form != "names":
        number = {None: None} | {name: ordered.str2int(name) for name in ordered.names}
        columns |= {name: [number[label] for label in columns[name]] for name in ("label", "right")}
        features |= {"label": ordered, "right": ordered if form == "class labels" else Value("int64")}
    truth = evidence_of(Dataset.from_dict(columns, Features(features)), encoder_base)
    assert [one.tolist() for one in truth["forget"].classes] == [[0], [2], [2]]
    assert [one.tolist() for one in truth["forget"].corrected] == [[1], [-100], [0]]
    assert truth["retained"].corrected is None


def test_corrected_words(wordpiece_base: Path) -> None:
    rows = tagged_rows(3)
    names = ("B-NAME", "B-PLACE", "O")
    right: list[Any] = [list(row["ner_tags"]) for row in rows]
    right[0][0], right[2] = "O" if right[0][0] != "O" else "B-NAME", None
    columns = {
        "tokens": [row["tokens"] for row in rows],
        "ner_tags": [row["ner_tags"] for row in rows],
        "right": right,
    }
    words = List(Value("string"))
    data = Dataset.from_dict(columns, Features(dict.fromkeys(columns, words)))
    truth = evidence_of(data, wordpiece_base, "tagged_words", names)["forget"]
    assert truth.corrected is not None
    changed = [(own != given).tolist() for own, given in zip(truth.classes, truth.corrected, strict=True)]
    assert changed[0] == [True, *[False] * (len(changed[0]) - 1)]
    assert not any(changed[1])
    assert set(truth.corrected[2].tolist()) == {-100}


def test_a_run_tells_how_many_wrong_labels_were_put_right(
    classifier_settings: dict[str, Any], classifier_original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tickets_rows()
    classes = sorted({row["label"] for row in rows})
    for row in rows:
        row["right"] = classes[(classes.index(row["label"]) + 1) % len(classes)]
    settings = {key: value for key, value in classifier_settings.items() if key != "original"}
    settings |= {
        "dataset_name": str(write_rows(tmp_path / "rows.jsonl", rows)), "method": "fine_tune", "max_steps": 1,
        "corrected_label_column": "right", "output_dir": str(tmp_path / "out"),
    }  # fmt: skip
    settings.pop("budget", None)
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["run", "--config", str(path)]) == 0
    report = UnlearningReport.load(tmp_path / "out" / "unlearning_report.json")
    scores = report.arms["original"].sets
    found = scores["forget"].corrected
    assert found is not None
    assert scores["forget"].accuracy is not None
    assert found.n == scores["forget"].records
    assert found.value <= 1 - scores["forget"].accuracy.value
    assert scores["retained"].corrected is None
    assert scores["forget"].recall == {}
    assert set(scores["retained"].recall) == set(classes)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| corrected labels of the forgotten records (S) |" in card
    assert "Recall of each class on" in card
    capsys.readouterr()
    path.write_text(json.dumps(settings | {"corrected_label_column": "wrong"}), encoding="utf-8")
    assert main(["run", "--config", str(path)]) == 2
    assert "wrong" in capsys.readouterr().err


def test_only_classifiers_have_labels_to_correct(lm_settings: dict[str, Any], lm_original: Path) -> None:
    from hf_unlearn.training.config import UnlearningConfig
    from hf_unlearn.training.measuring import check_measures

    with pytest.raises(InputError, match="corrected_label_column is for classifiers"):
        check_measures("text-generation", UnlearningConfig(corrected_label_column="right"), None)
