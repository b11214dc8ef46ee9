"""What is saved is what a stranger loads: the weights, settings and tokenizer that were measured, and nothing old."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from hf_unlearn import InputError, Records, UnlearningConfig, UnlearningTrainer, publish, split_retained
from hf_unlearn.data.split import RetainedSplit
from hf_unlearn.models.loading import load_any, load_config
from hf_unlearn.models.location import locate

from ..conftest import TOKEN
from ..models.test_limits import SMALL, texts, tokenizer

# What a training may change in a configuration.
CHANGED = {"dtype", "transformers_version", "pad_token_id", "_name_or_path"}


def parts(rows: list[dict[str, Any]]) -> RetainedSplit:
    rows = [{"id": i, **row} for i, row in enumerate(rows)]
    return split_retained(
        Dataset.from_list(rows), Records.ids("id", [*range(4)]), holdout=Records.ids("id", [*range(4, 8)]),
        near_duplicates=None, duplicates=None,
    )  # fmt: skip


def trained(model: Any, out: Path, rows: list[dict[str, Any]], report: bool = False, **more: Any) -> UnlearningTrainer:
    settings: dict[str, Any] = {
        "method": "fine_tune", "max_steps": 2, "report_to": "none", "save_strategy": "no", "measure_steps": 0,
        "use_cpu": True, "learning_rate": 1e-3, **more,
    }  # fmt: skip
    split = parts(rows)
    trainer = UnlearningTrainer(
        str(model), UnlearningConfig(str(out), **settings), split.retained, split.forget, split.holdout
    )
    trainer.train()
    if report:
        trainer.report(audit=split.audit)
    trainer.save_model()
    return trainer


def words_and_model(folder: Path, **settings: Any) -> Path:
    words = tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMALL, "vocab_size": len(words), "max_position_embeddings": 8, **settings})
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_classifier_in_its_own_folder_loads_as_it_was_measured(tmp_path: Path) -> None:
    """Without a padding token, in shards, with texts that are cut: a plain loader finds the scores of the report."""
    words, folder = tokenizer(), tmp_path / "model"
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMALL, "vocab_size": len(words), "max_position_embeddings": 8})
    LlamaForSequenceClassification(config).save_pretrained(folder, max_shard_size="4KB")
    words.save_pretrained(folder)
    (folder / "adapter_config.json").unlink(missing_ok=True)
    before = {name: json.loads((folder / name).read_text()) for name in ("config.json", "tokenizer.json")}
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    trainer = trained(folder, folder, texts(24), report=True)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    after = json.loads((folder / "config.json").read_text())
    assert {
        name for name in {*before["config.json"], *after} if before["config.json"].get(name) != after.get(name)
    } <= CHANGED
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"] is None
    assert before["tokenizer.json"]["truncation"] is None
    plain, reader = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    rows = parts(texts(24)).forget
    batch = reader(rows["text"][:], padding=True, truncation=True, max_length=8, return_tensors="pt")
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            plain(**batch).logits, torch.tensor(rows["label"][:]), reduction="none"
        )
    assert trainer.tables["unlearned"]["forget"]["loss"].to_pylist() == pytest.approx(losses.tolist(), abs=1e-5)


@pytest.mark.parametrize("padding", [5, None])
def test_special_tokens_of_the_configuration_stay_as_they_were(tmp_path: Path, padding: int | None) -> None:
    folder = words_and_model(tmp_path / "model", eos_token_id=[1, 2], bos_token_id=4, pad_token_id=padding)
    trained(folder, tmp_path / "out", texts(24))
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((place / name).read_text()) for place in (folder, tmp_path / "out"))
        assert {key for key in {*before, *after} if before.get(key) != after.get(key)} <= CHANGED - {"pad_token_id"}, (
            name
        )


# The base


def test_an_untied_original_begins_at_a_tied_base(tmp_path: Path) -> None:
    base = words_and_model(tmp_path / "base", tie_word_embeddings=True)
    tied = AutoModelForCausalLM.from_pretrained(base)
    weights = {name: weight.detach().clone() for name, weight in tied.state_dict().items()}
    untied = LlamaForCausalLM(LlamaConfig(**{**tied.config.to_dict(), "tie_word_embeddings": False}))
    untied.load_state_dict(weights)
    with torch.no_grad():
        untied.lm_head.weight.add_(0.1)
    untied.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "model")
    trainer = trained(
        tmp_path / "model", tmp_path / "out", texts(24), method="base", base_model_name_or_path=str(base), max_steps=1,
        learning_rate=1e-30,
    )  # fmt: skip
    found = trainer.model.state_dict()
    assert all(torch.allclose(found[name], weight) for name, weight in weights.items())
    assert found["lm_head.weight"].data_ptr() != found["model.embed_tokens.weight"].data_ptr()


# Adapters


def adapter_on(base: Path, folder: Path, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, **settings)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("base", ["embed_tokens", "lm_head"]),
        ("fine_tune", None),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("base", None), ("fine_tune", ["lm_head"]))),
    ],
)
def test_an_adapter_on_resized_embeddings(tmp_path: Path, kept: list[str] | None, method: str) -> None:
    base = words_and_model(tmp_path / "base", vocab_size=64)
    words = AutoTokenizer.from_pretrained(base)
    words.add_tokens([f"<new {i}>" for i in range(64)])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(words))
    settings: dict[str, Any] = {"modules_to_save": kept} if kept else {}
    adapter = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, **settings))
    adapter.save_pretrained(tmp_path / "adapter")
    words.save_pretrained(tmp_path / "adapter")
    source = locate(str(tmp_path / "adapter"))
    assert load_config(source).vocab_size == len(words)
    ids = torch.arange(8)[None] + len(words) - 8
    with torch.no_grad():
        assert torch.equal(load_any(source, None).eval()(ids).logits, adapter.eval()(ids).logits)
    rows = [{"text": f"<new {i}> {row['text']}"} for i, row in enumerate(texts(24))]
    trainer = trained(tmp_path / "adapter", tmp_path / "out", rows, method=method)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, trainer.model.eval()(ids).logits)


def test_an_adapter_whose_base_has_moved_lies_on_the_one_that_is_named(tmp_path: Path) -> None:
    base = words_and_model(tmp_path / "base")
    adapter = adapter_on(base, tmp_path / "adapter")
    moved = shutil.move(base, tmp_path / "moved")
    with pytest.raises(InputError, match=r"lies on '.*base'.* name the model under it with --base_model_name_or_path"):
        trained(adapter, tmp_path / "out", texts(24))
    trained(adapter, tmp_path / "out", texts(24), base_model_name_or_path=str(moved))
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(moved)
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")


def test_an_adapter_on_a_folder_of_this_machine_is_not_published(owner: HfApi, tmp_path: Path) -> None:
    base = words_and_model(tmp_path / "base")
    trained(adapter_on(base, tmp_path / "adapter"), tmp_path / "out", texts(24), report=True)
    with pytest.raises(InputError, match=r"lies on '.*base', a folder of this machine, so nobody else could load it"):
        publish(tmp_path / "out", "owner/local-base", token=TOKEN, push_anyway=True)
    assert not owner.repo_exists("owner/local-base")


def test_an_adapter_is_not_saved_into_the_model_that_it_lies_on(tmp_path: Path) -> None:
    base = words_and_model(tmp_path / "base")
    split = parts(texts(24))
    with pytest.raises(InputError, match="the model that the adapter lies on; name another folder"):
        UnlearningTrainer(
            str(base), UnlearningConfig(str(base), method="fine_tune", use_cpu=True), split.retained, split.forget,
            split.holdout, peft_config=LoraConfig(task_type="CAUSAL_LM", r=2),
        )  # fmt: skip


# Damaged files


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")


def without_layers(path: Path) -> None:
    tensors = load_file(path)
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def smaller(path: Path) -> None:
    tensors = {name: tensor[:1].clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize(
    ("damage", "file"),
    [
        *((damage, "weights") for damage in (
            pointer, without_layers, smaller, Path.unlink, lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(path.read_bytes()[:200]), lambda path: path.write_bytes(b"\xff" * 400),
            lambda path: path.write_text("<html>"),
        )),
        (pointer, "tokenizer.json"),
        *((lambda path, text=text: path.write_bytes(text), "settings") for text in (
            b"", b"{", b"[]", b"null", b"\xff\xfe", b"3", b"{}", b'{"model_type": 3, "peft_type": 3}',
            b'{"model_type": "llama", "num_attention_heads": "x", "peft_type": "LORA", "r": "x"}',
            b'{"model_type": "llama", "hidden_size": 15, "architectures": ["LlamaForCausalLM"], "peft_type": "LORA"}',
            b"[" * 100_000,
        )),
    ],
)  # fmt: skip
def test_damaged_files_are_told_in_one_sentence(tmp_path: Path, damage: Any, file: str, adapter: bool) -> None:
    folder = words_and_model(tmp_path / "base")
    if adapter:
        folder = adapter_on(folder, tmp_path / "adapter")
    kind = "adapter_" if adapter else ""
    damage(folder / {"weights": f"{kind}model.safetensors", "settings": f"{kind}config.json"}.get(file, file))
    with pytest.raises(InputError) as told:
        load_any(locate(str(folder)), None)
    assert str(folder) in str(told.value)
    assert "\n" not in str(told.value)
