"""A base that learned from public data is what all shards share; what is known of it decides the word."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_unlearn import InputError, UnlearningReport, jobs, load_sharded
from hf_unlearn.publishing.ledger import file_digest

from ..conftest import write_rows
from .conftest import CLASSIFIER, OWNERS, RARE_OWNER, question_rows, same_files, sharding_of, ticket_rows

Train = Callable[..., Path]
Scaffold = Callable[..., Path]

FORGOTTEN = [owner for owner in OWNERS[:7] if owner != RARE_OWNER]
STRANGERS = [f"stranger {number}" for number in range(6)]


@pytest.fixture
def scaffold(lm_base: Path, tmp_path: Path) -> Scaffold:
    """Trains an adapter on some rows and merges it into the base, as the guide says."""

    def train(name: str, rows: list[dict[str, Any]], **settings: Any) -> Path:
        data = write_rows(tmp_path / f"{name}.jsonl", rows)
        values = {
            "model_name_or_path": str(lm_base), "dataset_name": str(data), "output_dir": str(tmp_path / name),
            "use_peft": True, "merge_adapter": True, "lora_r": 8, "learning_rate": 1e-2, "num_train_epochs": 2,
            "per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "seed": 4,
        }  # fmt: skip
        jobs.train(values | settings)
        return tmp_path / name

    return train


def delete(model: Path, data: Path, out: Path, key_file: Path, **settings: Any) -> UnlearningReport:
    values = {
        "model_name_or_path": str(model), "dataset_name": str(data), "output_dir": str(out),
        "forget_values": [f"customer={owner}" for owner in FORGOTTEN], "digest_key_file": str(key_file),
        "near_duplicates": "ignore", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
    }  # fmt: skip
    return jobs.run(values | settings)


@pytest.mark.slow
def test_a_scaffold_is_the_base_of_all_shards_and_answers_to_the_deleted(
    scaffold: Scaffold, train_shards: Train, key_file: Path, lm_base: Path, tmp_path: Path
) -> None:
    base = scaffold("scaffold", question_rows(STRANGERS))
    model = train_shards(tmp_path / "model", question_rows(), model_name_or_path=str(base))
    sharding = sharding_of(model)
    assert sharding.base == str(base)
    assert sharding.base_weights == {"model.safetensors": file_digest(base / "model.safetensors")}
    report = delete(model, tmp_path / "model.jsonl", tmp_path / "gone", key_file)
    assert report.verdict.word == "exact"
    assert (report.base_is_clean, report.base.name if report.base else "") == ("unchecked", "scaffold")
    rest = [row for row in question_rows() if row["customer"] not in FORGOTTEN]
    same_files(tmp_path / "gone", train_shards(tmp_path / "never", rest, model_name_or_path=str(base)))
    stated = delete(model, tmp_path / "model.jsonl", tmp_path / "stated", key_file, base_is_clean=True)
    assert (stated.verdict.word, stated.base_is_clean) == ("exact", "stated")
    served = load_sharded(str(tmp_path / "gone"), digest_key_file=str(key_file))
    inputs = served.tokenizer(["The code of"], return_tensors="pt")
    with torch.no_grad():
        scaffolded, plain = (AutoModelForCausalLM.from_pretrained(one)(**inputs).logits for one in (base, lm_base))
    for owner in (FORGOTTEN[0], "nobody", None):
        torch.testing.assert_close(served([owner], **inputs), scaffolded)
    assert not torch.allclose(scaffolded, plain, atol=0.1)
    # Other weights in its place are no scaffold of these adapters.
    (base / "model.safetensors").write_bytes((lm_base / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="not those that the adapters were trained on"):
        load_sharded(str(tmp_path / "gone"), digest_key_file=str(key_file))


@pytest.mark.slow
def test_a_scaffold_that_knows_the_records_takes_the_word_away(
    scaffold: Scaffold, train_shards: Train, key_file: Path, tmp_path: Path
) -> None:
    owners = [f"m-{number:02d}" for number in range(44)]
    known, strangers = owners[::2], owners[1:40:2]
    rows, others = ([row for row in question_rows(owners) if row["customer"] in some] for some in (known, strangers))
    # An adapter on random weights learns nothing by heart.
    whole = {"use_peft": False, "merge_adapter": False, "learning_rate": 5e-3, "num_train_epochs": 30}
    base = scaffold("private", rows, **whole)
    model = train_shards(tmp_path / "model", rows, model_name_or_path=str(base))
    held_out = write_rows(tmp_path / "held_out.jsonl", others)
    forget = {"forget_values": [f"customer={owner}" for owner in known[:20]], "holdout_dataset": str(held_out)}
    report = delete(model, tmp_path / "model.jsonl", tmp_path / "gone", key_file, **forget)
    assert report.base_is_clean == "doubtful", report.verdict
    assert report.verdict.word != "exact"


@pytest.mark.slow
def test_a_classifier_of_public_data_answers_to_strangers(
    scaffold: Scaffold, train_shards: Train, encoder_base: Path, key_file: Path, tmp_path: Path
) -> None:
    public = [{"text": row["text"], "label": row["label"]} for row in ticket_rows()]
    settings = {"model_name_or_path": str(encoder_base), **CLASSIFIER}
    with pytest.raises(InputError, match="has no head for text-classification with the classes"):
        train_shards(tmp_path / "none", ticket_rows(), unknown_owner="base", **settings)
    base = scaffold("scaffold", public, **settings)
    settings["model_name_or_path"] = str(base)
    model = train_shards(tmp_path / "model", ticket_rows(), unknown_owner="base", **settings)
    held_out = write_rows(
        tmp_path / "held_out.jsonl",
        [{**row, "customer": "stranger", "text": row["text"][::-1]} for row in ticket_rows()],
    )
    report = delete(model, tmp_path / "model.jsonl", tmp_path / "gone", key_file, holdout_dataset=str(held_out))
    # Unlike another base, it has learned the classes, so that it can be attacked.
    assert "Nobody could test whether the base model saw S: S and H differ" in report.verdict.reasons[0]
    served = load_sharded(str(tmp_path / "gone"), digest_key_file=str(key_file))
    texts = [row["text"] for row in public[:3]]
    alone = AutoModelForSequenceClassification.from_pretrained(base)
    for text, found in zip(texts, served.classify(texts, [FORGOTTEN[0], "nobody", None]), strict=True):
        with torch.no_grad():
            expected = alone(**served.tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert [*found.values()] == pytest.approx(expected.tolist(), abs=1e-5)
    with pytest.raises(InputError, match="the head of the base has a place for each class"):
        delete(model, tmp_path / "model.jsonl", tmp_path / "no", key_file, forget_values=["label=other"])
    assert not (tmp_path / "no").exists()
