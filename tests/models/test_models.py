"""Names to models: where they live, what they do, how they are loaded."""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_unlearn import InputError
from hf_unlearn.files import json_text, parse_json, save_json
from hf_unlearn.models.loading import (
    ARCHITECTURES,
    AUTO_CLASSES,
    load_any,
    load_config,
    load_model,
    load_tokenizer,
    peft_task,
    task_of,
)
from hf_unlearn.models.location import ModelSource, locate, read_card
from hf_unlearn.models.tasks import TASKS, Task
from hf_unlearn.models.training_record import DataSource, TrainingRecord, load_record
from hf_unlearn.training.lineage import find_base

from ..support.hub_server import HubServer


def record(**changes: Any) -> TrainingRecord:
    values: dict[str, Any] = {
        "task": "text-classification",
        "labels": ["a", "b", "c"],
        "base_model": None,
        "base_revision": None,
        "dataset": DataSource("rows.jsonl", rows=10),
        "settings": {"learning_rate": 0.1},
        "peft": None,
        "seed": 1,
        "epochs": 2.0,
        "steps": 4,
        "world_size": 1,
        "tokens": 100,
        "flops": 1e6,
        "seconds": 1.0,
    }
    return TrainingRecord(**{**values, **changes})


def test_a_folder_and_its_public_name(lm_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(str(lm_base))
    assert (source.revision, source.adapter, source.public_name) == (None, False, "lm_base")
    monkeypatch.chdir(lm_base)
    assert locate(".").public_name == "lm_base"


def test_what_cannot_be_found(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="neither a folder or file here nor a repository on the Hub that you may read"
    ):
        locate("nobody/nothing")
    with pytest.raises(InputError, match="neither a folder or file here nor"):
        locate("not a name at all")
    with pytest.raises(InputError, match="holds no model that transformers can load"):
        load_config(ModelSource(str(tmp_path)))
    with pytest.raises(InputError, match="has no tokenizer; save one beside the model"):
        load_tokenizer([ModelSource(str(tmp_path))])


# Tasks


@pytest.mark.parametrize(
    ("folder", "asked", "expected"),
    [
        ("lm_base", None, "text-generation"),
        ("lm_base", "text-generation", "text-generation"),
        ("encoder_base", "text-classification", "text-classification"),
        ("lm_base", "text-classification", "text-classification"),
        ("wordpiece_base", "token-classification", "token-classification"),
        ("wordpiece_base", "fill-mask", "fill-mask"),
        ("seq2seq_base", None, "text2text-generation"),
    ],
)
def test_the_task_is_read_or_asked_for(
    folder: str, asked: Task | None, expected: Task, request: pytest.FixtureRequest
) -> None:
    source = locate(str(request.getfixturevalue(folder)))
    assert task_of(source.name, load_config(source), asked) == expected


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("BertForTokenClassification", "token-classification"),
        ("BertForMaskedLM", "fill-mask"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("BartForConditionalGeneration", "text2text-generation"),
        ("GPT2LMHeadModel", "text-generation"),
    ],
)
def test_architectures_of_each_task(architecture: str, expected: Task) -> None:
    assert task_of("x", AutoConfig.for_model("bert"), None, architecture=architecture) == expected
    assert set(AUTO_CLASSES) == set(ARCHITECTURES) == set(TASKS) == set(get_args(Task))


def test_impossible_tasks(encoder_base: Path, classifier_original: Path) -> None:
    bare = load_config(locate(str(encoder_base)))
    with pytest.raises(InputError, match="'BertModel' of 'x' does not say what the model does; name its task"):
        task_of("x", bare, None)
    with pytest.raises(InputError, match="The task text-generation is not possible with 'x', which is a BertModel"):
        task_of("x", bare, "text-generation")
    classifier = load_config(locate(str(classifier_original)))
    for asked in ("text-generation", "text2text-generation"):
        with pytest.raises(InputError, match=f"The task {asked} is not possible"):
            task_of("x", classifier, asked)


# Weights


def test_a_model_without_its_head_is_no_original(encoder_base: Path) -> None:
    with pytest.raises(InputError, match="lacks 2 of the weights that text-classification needs"):
        load_model(locate(str(encoder_base)), "text-classification")
    model = load_model(
        locate(str(encoder_base)), "text-classification", id2label={0: "x", 1: "y", 2: "z"}, new_head=True
    )
    assert model.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_only_safetensors_are_read(lm_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(lm_base, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="Cannot load the weights"):
        load_model(locate(str(folder)), "text-generation")


def test_weights_of_another_shape_than_the_configuration(lm_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(lm_base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 7}))
    with pytest.raises(InputError, match="their shapes are not those of the configuration beside them"):
        load_model(locate(str(folder)), "text-generation")


def test_damaged_files(lm_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(lm_base, folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match="holds no model that transformers can load"):
        load_config(locate(str(folder)))
    (folder / "training_record.json").write_text("{")
    with pytest.raises(InputError, match="no readable training record at .*: it is not JSON"):
        load_record(locate(str(folder)))
    (folder / "training_record.json").write_text('{"schema_version": 99}')
    with pytest.raises(InputError, match="no readable training record at .*: it is not of version 1; train again"):
        load_record(locate(str(folder)))


def test_adapters_come_back_as_adapters_with_their_classes(encoder_base: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_base, num_labels=3)
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    adapted.save_pretrained(str(tmp_path))
    save_json(record(base_model=str(encoder_base)), tmp_path / "training_record.json")
    source = locate(str(tmp_path))
    assert source.adapter
    config = load_config(source)
    assert task_of(source.name, config, None, peft=peft_task(source)) == "text-classification"
    loaded = load_any(source, None)
    assert isinstance(loaded, PeftModel)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert any(weight.requires_grad for weight in loaded.parameters())
    for (name, saved), found in zip(adapted.named_parameters(), loaded.parameters(), strict=True):
        if "lora" in name or "modules_to_save" in name:
            assert torch.equal(saved, found), name
    assert load_tokenizer([source, locate(str(encoder_base))]) is not None


# The base


def test_the_base_is_found_as_given_or_in_the_record_the_adapter_or_the_card(
    lm_base: Path, encoder_base: Path, tmp_path: Path
) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        return tmp_path / name

    plain = folder("plain")
    carded = folder("carded")
    (carded / "README.md").write_text(f"---\nbase_model: {lm_base}\n---\n")
    merged = folder("merged")
    (merged / "README.md").write_text(f"---\nbase_model:\n- {lm_base}\n- {encoder_base}\n---\n")
    adapted = folder("adapted")
    get_peft_model(AutoModelForCausalLM.from_pretrained(lm_base), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(
        str(adapted)
    )

    def found(place: Path, rec: TrainingRecord | None = None, name: str | None = None) -> str | None:
        base = find_base(locate(str(place)), rec, name, None)
        return base.name if base else None

    assert found(plain) is None
    assert found(carded) == str(lm_base)
    assert found(merged) is None
    assert found(adapted) == str(lm_base)
    assert found(carded, record(base_model=str(encoder_base))) == str(encoder_base)
    assert found(carded, record()) is None
    assert found(carded, record(), str(encoder_base)) == str(encoder_base)
    assert find_base(None, None, None, None) is None


def test_a_card_that_is_no_card_is_no_card(tmp_path: Path) -> None:
    assert read_card(ModelSource(str(tmp_path))) is None
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert read_card(ModelSource(str(tmp_path))) is None


def test_records_come_back_as_they_were() -> None:
    assert parse_json(TrainingRecord, json_text(record()), 1) == record()


def test_types_of_weights(lm_base: Path) -> None:
    half = load_model(locate(str(lm_base)), "text-generation", dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert AutoConfig.from_pretrained(lm_base).num_hidden_layers == 2
