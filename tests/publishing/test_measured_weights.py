"""What is published is what was measured: the weights of the folder, and those under an adapter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import InputError, UnlearningTrainer, publish
from hf_unlearn.models.weights_digest import weights_digest

from ..conftest import TOKEN
from ..training.test_trainer import secrets, trainer


@pytest.fixture(scope="module")
def made(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> UnlearningTrainer:
    """A finished run on an adapter, measured and saved."""
    folder = tmp_path_factory.mktemp("measured")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lm_base), LoraConfig(task_type="CAUSAL_LM", r=2))
    model.save_pretrained(folder / "original")
    AutoTokenizer.from_pretrained(lm_base).save_pretrained(folder / "original")
    made = trainer(folder / "out", str(folder / "original"), method="base", max_steps=1)
    made.train()
    made.report(audit=secrets().audit)
    made.save_model()
    return made


@pytest.fixture
def copied(made: UnlearningTrainer, lm_base: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of its folder, and of the base that its adapter lies on."""
    out, base = shutil.copytree(made.args.folder, tmp_path / "out"), shutil.copytree(lm_base, tmp_path / "base")
    set_in_config(out, base_model_name_or_path=str(base))
    return out, base


def set_in_config(folder: Path, **settings: Any) -> None:
    place = folder / "adapter_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **settings}))


def changed(folder: Path, file: str = "model.safetensors") -> None:
    """Move one number of one weight."""
    tensors = load_file(folder / file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, folder / file, metadata={"format": "pt"})


def base_is_another(out: Path, base: Path) -> None:
    changed(shutil.copytree(base, base.with_name("other")))
    set_in_config(out, base_model_name_or_path=str(base.with_name("other")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out, base: changed(base), "the adapter in .* lies on, are not those that were measured under it"),
        (base_is_another, "the adapter in .* lies on, are not those that were measured under it"),
        (lambda out, base: changed(out, "adapter_model.safetensors"), "has other weights than the one that was"),
        (lambda out, base: set_in_config(out, lora_alpha=99), "has other weights than the one that was measured"),
    ],
)
def test_other_files_than_those_measured_are_not_published(
    owner: HfApi, copied: tuple[Path, Path], change: Callable[[Path, Path], None], said: str
) -> None:
    change(*copied)
    with pytest.raises(InputError, match=said):
        publish(copied[0], "owner/others", token=TOKEN, push_anyway=True)
    assert not owner.repo_exists("owner/others")


def test_the_weights_that_were_measured_are_published(owner: HfApi, copied: tuple[Path, Path]) -> None:
    owner.create_repo("owner/base-of-measured")
    owner.upload_folder(repo_id="owner/base-of-measured", folder_path=copied[1])
    set_in_config(copied[0], base_model_name_or_path="owner/base-of-measured")
    publish(copied[0], "owner/measured", token=TOKEN, push_anyway=True)
    assert owner.repo_exists("owner/measured")


def test_what_was_under_the_adapter_in_memory_is_what_counts(
    owner: HfApi, made: UnlearningTrainer, copied: tuple[Path, Path]
) -> None:
    """Neither a model that nobody else has, nor one that was trained on after the report, is published."""
    assert isinstance(made.model, PeftModel)
    weight = made.model.base_model.model.model.norm.weight
    with torch.no_grad():
        weight.add_(1)
    report = made.report(audit=secrets().audit)
    with torch.no_grad():
        weight.sub_(1)
    report.save(copied[0] / "unlearning_report.json")
    with pytest.raises(InputError, match="has other weights than the one that was measured"):
        publish(copied[0], "owner/in-memory", token=TOKEN, push_anyway=True)


def test_a_report_that_does_not_say_what_was_measured(owner: HfApi, copied: tuple[Path, Path]) -> None:
    place = copied[0] / "unlearning_report.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "measured": None}))
    with pytest.raises(InputError, match="does not say which weights were measured"):
        publish(copied[0], "owner/unsaid", token=TOKEN, push_anyway=True)


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_a_digest_is_of_all_weights_and_of_no_name(lm_base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(lm_base), LoraConfig(task_type="CAUSAL_LM", r=2, **kind), "mine"
    )
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_base), tmp_path / "mine")
    expected = weights_digest(model)
    assert weights_digest(loaded) == expected
    for name, weight in loaded.named_parameters():
        if "original_module" not in name:
            kept = weight.detach().clone()
            with torch.no_grad():
                weight.view(-1)[-1] += 1
                assert weights_digest(loaded) != expected, name
                weight.copy_(kept)
    assert weights_digest(loaded) == expected
