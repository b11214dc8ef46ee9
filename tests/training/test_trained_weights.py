"""Which weights are trained, at which rate, and whether they moved."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from hf_unlearn import InputError, UnlearningConfig, UnlearningReport, UnlearningTrainer, publish
from hf_unlearn.cli import main
from hf_unlearn.methods.table import METHODS
from hf_unlearn.publishing.card import render_card
from hf_unlearn.training.trained_weights import fit_rate, movement_digest

from .test_trainer import trainer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

RATES = {
    name: method.settings["learning_rate"] for name, method in METHODS.items() if "learning_rate" in method.settings
}


def run(settings: dict[str, Any], folder: Path, **more: Any) -> UnlearningReport:
    path = folder.parent / f"{folder.name}.yaml"
    values = {key: value for key, value in settings.items() if key != "original"} | more
    path.write_text(json.dumps(values | {"output_dir": str(folder)}), encoding="utf-8")
    assert main(["run", "--config", str(path)]) == 0
    return UnlearningReport.load(folder / "unlearning_report.json")


def test_a_digest_is_of_the_weights_alone(lm_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    before = movement_digest(model)
    assert before == movement_digest(model.train().requires_grad_(False))
    assert before == movement_digest(AutoModelForCausalLM.from_pretrained(lm_base))
    with torch.no_grad():
        next(model.parameters()).view(-1)[3] += 1e-6
    assert movement_digest(model) != before
    elsewhere = model.to("meta")
    assert movement_digest(elsewhere.requires_grad_(True)) is None


def test_a_model_that_did_not_move_is_not_published(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path
) -> None:
    adapter = {"use_peft": True, "lora_r": 2, "merge_adapter": True}
    report = run(lm_settings, tmp_path / "out", learning_rate=0, max_steps=1, **adapter)
    assert report.weights_moved is False
    # What the tests say, they say of the original.
    unseen = replace(report, verdict=replace(report.verdict, word="undecided"), utility=None)
    unseen.save(tmp_path / "out" / "unlearning_report.json")
    with pytest.raises(InputError, match="All weights are those of the original"):
        publish(tmp_path / "out", "owner/same")
    assert "> **All weights of this model are those of the original" in render_card(report, "x").split("# x")[0]
    assert "those of the original, so nothing" not in render_card(replace(report, weights_moved=True), "x")


@pytest.mark.parametrize("adapter", [False, True])
def test_the_trainer_knows_whether_the_weights_moved(lm_base: Path, tmp_path: Path, adapter: bool) -> None:
    for rate in (0.0, 1e-3):
        new = LoraConfig(task_type="CAUSAL_LM", r=2) if adapter else None
        one = trainer(tmp_path / str(rate), str(lm_base), learning_rate=rate, max_steps=1, peft_config=new)
        assert one.weights_moved is None
        one.train()
        assert one.weights_moved is (rate > 0)


def test_evaluate_sees_that_a_model_is_the_original(
    lm_settings: dict[str, Any], lm_original: Path, lm_base: Path, tmp_path: Path
) -> None:
    values = {key: value for key, value in lm_settings.items() if key not in ("original", "method")}
    path = tmp_path / "recipe.yaml"
    for model, expected in ((lm_original, False), (lm_base, True)):
        path.write_text(json.dumps(values | {"model_name_or_path": str(model)}))
        out = tmp_path / model.name
        flags = ["--original_model", str(lm_original), "--output_dir", str(out)]
        assert main(["evaluate", "--config", str(path), *flags]) == 0
        assert UnlearningReport.load(out / "unlearning_report.json").weights_moved is expected


@pytest.mark.parametrize("method", RATES)
def test_an_adapter_gets_a_rate_that_moves_it(method: str) -> None:
    for adapter, given, expected in (
        (False, {}, RATES[method]),
        (True, {}, RATES[method] * (1 if method == "undial" else 10)),
        (True, {"learning_rate": RATES[method]}, RATES[method]),
    ):
        files = {"alternates_file": __file__} if method == "altpo" else {}
        args = UnlearningConfig(method=method, **files, **given)
        for _ in range(2):
            fit_rate(args, METHODS[method], adapter=adapter)
            assert args.learning_rate == pytest.approx(expected)
    own = UnlearningConfig(method="fine_tune")
    fit_rate(own, METHODS["fine_tune"], adapter=True)
    assert own.learning_rate == 5e-5, "nothing was published that could be replaced"


def test_the_rate_is_told_with_its_reason(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"method": "npo", "num_train_epochs": 1, "use_peft": True, "lora_r": 2}
    report = run(lm_settings, tmp_path / "published", **common)
    assert report.method.settings["learning_rate"] == pytest.approx(1e-4)
    out = " ".join(capsys.readouterr().out.split())
    assert "the learning rate is 0.0001. npo was published with 1e-05 for all weights" in out
    assert (
        "10 times the published rate, which is for all weights" in (tmp_path / "published" / "README.md").read_text()
    )
    own = replace(report.method, settings={**report.method.settings, "learning_rate": 1e-5})
    assert "10 times the published" not in render_card(replace(report, method=own), "x")
    args = UnlearningConfig(output_dir=str(tmp_path / "api"), method="npo")
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "a b", "completion": " c d"}] * 4)
    UnlearningTrainer(str(lm_original), args, rows, rows, peft_config=LoraConfig(task_type="CAUSAL_LM", r=2))
    assert args.learning_rate == pytest.approx(1e-4)
