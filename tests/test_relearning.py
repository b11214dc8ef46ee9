"""Attacks on copies: a model that hides what it knows gives it away, one that never knew does not."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.evaluation.evidence import EvidenceSets
from hf_unlearn.evaluation.relearning import (
    RelearningCurve,
    halfway,
    quantise,
    quantised_copy,
    relearn,
    round_to_nearest,
)
from hf_unlearn.models import Model, locate
from hf_unlearn.preparation import measured_sets, prepare_run
from hf_unlearn.record import load_any

from .test_processes import LAUNCH, launched

ATTACK: dict[str, Any] = {"steps": 12, "learning_rate": 2e-3, "batch_size": 5, "seed": 1}


@pytest.fixture(scope="module")
def retrained_folder(lm_settings: dict[str, Any], lm_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained as the original, without S."""
    folder = tmp_path_factory.mktemp("relearning")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(lm_settings))
    flags = ["--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "retrained")]
    assert main(["train", *flags, "--train_on", "retained"]) == 0
    return folder / "retrained"


@pytest.fixture(scope="module")
def evidence(lm_settings: dict[str, Any], lm_original: Path) -> EvidenceSets:
    values = {key: value for key, value in lm_settings.items() if key != "original"}
    run = prepare_run({**values, "use_cpu": True})
    return measured_sets(run.sets, [run.source], load_any(run.source, None).config, run.task, run.config)


@pytest.fixture(scope="module")
def original(lm_original: Path) -> Model:
    return load_any(locate(str(lm_original)), None)


@pytest.fixture(scope="module")
def retrained(retrained_folder: Path) -> Model:
    return load_any(locate(str(retrained_folder)), None)


@pytest.fixture(scope="module")
def hidden(original: Model, evidence: EvidenceSets) -> Model:
    """The original after gradient ascent on S: it says that it has forgotten."""
    suppressed = copy.deepcopy(original).eval()
    optimizer = torch.optim.SGD(suppressed.parameters(), 0.1)
    batch = evidence.collator(list(evidence.sets["forget"].remove_columns("row")))
    for _ in range(1000):
        loss = suppressed(**batch).loss
        if loss > 3:
            return suppressed
        (-loss).backward()
        nn.utils.clip_grad_norm_(suppressed.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError("ascent did not get anywhere")


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def losses(curve: RelearningCurve) -> list[float]:
    return [point.forget_loss.value for point in curve.points]


def test_what_is_hidden_comes_back_and_what_was_never_there_does_not(
    original: Model, hidden: Model, retrained: Model, evidence: EvidenceSets
) -> None:
    known = relearn(original, evidence, taught="forget", **ATTACK)
    for taught in ("forget", "retained"):
        back = relearn(hidden, evidence, taught=taught, **ATTACK)
        never = relearn(retrained, evidence, taught=taught, **ATTACK)
        assert [point.step for point in back.points] == list(range(13))
        assert {point.forget_loss.n for point in back.points} == {5}
        assert {point.membership_auc.n for point in back.points if point.membership_auc} == {15}
        assert back.taught_records == (5 if taught == "forget" else 40)
        threshold = halfway(losses(never)[0], losses(known)[0])
        assert known.steps_until(threshold) == 0
        assert losses(back)[0] > threshold
        assert (back.steps_until(threshold) or 99) <= 8
        assert never.steps_until(threshold) is None
    assert known.points[0].membership_auc is not None
    assert known.points[0].membership_auc.value > 0.9


def test_the_attacked_model_stays_as_it_is(original: Model, evidence: EvidenceSets) -> None:
    before, trained = bits(original), [weight.requires_grad for weight in original.parameters()]
    original.train()
    state = torch.get_rng_state()
    curve = relearn(original, evidence, taught="retained", **ATTACK)
    for few in (4, 8):
        quantise(original, evidence, few)
    assert losses(curve)[-1] != losses(curve)[0]
    assert bits(original) == before
    assert [weight.requires_grad for weight in original.parameters()] == trained
    assert all(weight.grad is None for weight in original.parameters())
    assert original.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_curve(hidden: Model, evidence: EvidenceSets) -> None:
    """Whatever is drawn in between; measuring less often changes no step."""
    first = relearn(hidden, evidence, taught="forget", **ATTACK)
    torch.rand(7)
    assert relearn(hidden, evidence, taught="forget", **ATTACK) == first
    seldom = relearn(hidden, evidence, taught="forget", measure_every=5, **ATTACK)
    assert seldom.points == tuple(first.points[step] for step in (0, 5, 10, 12))
    assert relearn(hidden, evidence, taught="forget", **{**ATTACK, "seed": 2}).points != first.points


def test_weights_of_half_precision_are_attacked_in_float32(original: Model, evidence: EvidenceSets) -> None:
    half = copy.deepcopy(original).to(torch.bfloat16)
    curve = relearn(half, evidence, taught="forget", **{**ATTACK, "steps": 3, "learning_rate": 1e-6})
    assert next(half.parameters()).dtype == torch.bfloat16
    assert len({round(loss, 9) for loss in losses(curve)}) == 4, "steps that bfloat16 would swallow"


def test_an_adapter_is_attacked_with_all_its_weights(original: Model, evidence: EvidenceSets) -> None:
    adapter = get_peft_model(copy.deepcopy(original), LoraConfig(task_type="CAUSAL_LM", r=2))
    before = bits(adapter)
    whole = relearn(original, evidence, taught="forget", **ATTACK)
    both = relearn(adapter, evidence, taught="forget", **ATTACK)
    assert losses(both)[0] == pytest.approx(losses(whole)[0], rel=1e-5)
    assert abs(losses(both)[-1] - losses(both)[0]) > 0.5 * abs(losses(whole)[-1] - losses(whole)[0])
    assert bits(adapter) == before
    # What is rounded is what the adapter makes of the weights.
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    merged = copy.deepcopy(adapter).merge_and_unload()
    assert quantise(adapter, evidence, 4) == quantise(merged, evidence, 4)


def test_what_cannot_be_attacked(original: Model, evidence: EvidenceSets) -> None:
    one = EvidenceSets(
        evidence.task, {"forget": evidence.sets["forget"].select([0])}, evidence.collator, evidence.batch_size
    )
    with pytest.raises(InputError, match="two records or more"):
        relearn(original, one, taught="forget", **ATTACK)
    alone = EvidenceSets(evidence.task, {"forget": evidence.sets["forget"]}, evidence.collator, evidence.batch_size)
    with pytest.raises(InputError, match="no retained records"):
        relearn(original, alone, taught="retained", **ATTACK)
    assert relearn(original, alone, taught="forget", **ATTACK).points[0].membership_auc is None
    assert quantise(original, alone, 8).membership_auc is None


# Rounding


def test_rounding_worked_out_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.4, 2.5], [-1.4, 0.31, 0.0, 0.7], [0.0, 0.0, 0.0, 0.0]])
    # Four bits: m = 7. The scales are 1, 0.2 and none; -3.4 -> -3, 2.5 -> 2 (even), 1.55 steps -> 2, 3.5 -> 4 (even).
    expected = torch.tensor([[7.0, -3.0, 0.0, 2.0], [-1.4, 0.4, 0.0, 0.8], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(round_to_nearest(weight, 4), expected, atol=1e-6)
    # Eight bits: m = 127. With the scale 2, 127 * 2 is the largest; 3 is 1.5 steps -> 2, -5 is -2.5 -> -2 (even).
    eight = torch.tensor([[254.0, 3.0, -5.0, 100.9]])
    assert torch.equal(round_to_nearest(eight, 8), torch.tensor([[254.0, 4.0, -4.0, 100.0]]))
    assert round_to_nearest(eight.bfloat16(), 8).dtype == torch.bfloat16


def test_linear_layers_are_rounded_and_nothing_else(original: Model) -> None:
    rounded = quantised_copy(original, 4)
    for (name, weight), new in zip(original.named_parameters(), rounded.parameters(), strict=True):
        if name.endswith("_proj.weight"):
            assert all(len(row.unique()) <= 15 for row in new), name
            step = weight.abs().amax(1, keepdim=True) / 7
            assert ((weight - new).abs() <= step / 2 * 1.001).all()
            assert not torch.equal(weight, new)
        else:
            assert torch.equal(weight, new), name


def test_gpt2_keeps_its_linear_weights_the_other_way_round() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16))
    with torch.no_grad():
        # One output is a hundred times the others, which with a scale of their own stay.
        model.transformer.h[0].mlp.c_fc.weight[:, 0] *= 100
    weight = quantised_copy(model, 8).transformer.h[0].mlp.c_fc.weight
    before = model.transformer.h[0].mlp.c_fc.weight
    for rounded, column in zip(weight.T, before.T, strict=True):
        assert (rounded - column).abs().max() <= column.abs().max() / 254 * 1.001
    assert not torch.equal(weight, before)


def test_eight_bits_keep_what_four_lose(original: Model, evidence: EvidenceSets) -> None:
    table = evidence.score(original)["forget"]
    whole = table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum()
    eight, four = (quantise(original, evidence, few) for few in (8, 4))
    assert (eight.forget_loss.n, eight.bits) == (10, 8)
    assert eight.membership_auc is not None
    assert eight.membership_auc.n == 20
    assert abs(eight.forget_loss.value - whole) < abs(four.forget_loss.value - whole)


# The command


def test_the_attacks_on_an_unlearned_model_and_on_its_reference(
    lm_settings: dict[str, Any],
    lm_original: Path,
    retrained_folder: Path,
    hidden: Model,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    unlearned, out = tmp_path / "unlearned", tmp_path / "attacks"
    hidden.save_pretrained(unlearned)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lm_original / name, unlearned)
    shutil.copy(lm_original / "training_record.json", unlearned)
    settings = {**lm_settings, "num_train_epochs": 3, "learning_rate": 2e-3, "use_cpu": True}
    flags = ["--config", str(recipe(**settings)), "--output_dir", str(out), "--model_name_or_path", str(unlearned)]
    compared = ["--original_model", str(lm_original), "--retrained_model", str(retrained_folder)]
    before = (unlearned / "model.safetensors").read_bytes()
    assert main(["attack", *flags, *compared, "--attack_steps", "12"]) == 0
    assert (unlearned / "model.safetensors").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"attacks.json", "relearning_curve.png", "leak_curve.png"}
    report = json.loads((out / "attacks.json").read_text())
    until = {arm: found["steps_until_halfway"] for arm, found in report["models"].items()}
    said = capsys.readouterr().out
    for taught, words in (("forget", "half of S"), ("retained", "records of L")):
        steps = {arm: found[taught] for arm, found in until.items()}
        assert steps["original"] == 0
        assert 0 < steps["unlearned"] <= 8
        assert steps["retrained"] is None
        finding = f"halfway back after {steps['unlearned']} steps; the retrained one not in 12 steps."
        assert f"Taught {words}, the unlearned model has the rest of S {finding}" in said
    first = {arm: found["relearning"][0]["points"][0]["forget_loss"] for arm, found in report["models"].items()}
    assert report["halfway_loss"] == (first["retrained"]["value"] + first["original"]["value"]) / 2
    assert [score["bits"] for score in report["models"]["unlearned"]["quantised"]] == [8, 4]
    assert "per_device_train_batch_size=10" in said, "from the training record"
    assert "budget" not in said, "the price of an unlearning is not that of an attack"
    assert report["models"]["unlearned"]["relearning"][0]["batch_size"] == 10
    assert not re.search(r"p-0\d\d|The code of", said + json.dumps(report))
    # alone it has no yardstick
    assert main(["attack", *flags, "--attack_steps", "2", "--output_dir", str(tmp_path / "alone")]) == 0
    alone = json.loads((tmp_path / "alone" / "attacks.json").read_text())
    assert (alone["halfway_loss"], list(alone["models"])) == (None, ["unlearned"])
    assert "goes from a loss of" in capsys.readouterr().out


def test_two_processes_attack_as_one_does(
    lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path, recipe: Callable[..., Path]
) -> None:
    flags = ["attack", "--config", str(recipe(**lm_settings)), "--use_cpu", "true", "--attack_steps", "3"]
    assert main([*flags, "--output_dir", str(tmp_path / "one")]) == 0
    done = launched(*LAUNCH, "-m", "hf_unlearn.cli", *flags, "--output_dir", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("The attacks, on copies") == 1
    one, two = (json.loads((tmp_path / name / "attacks.json").read_text()) for name in ("one", "two"))
    for a, b in zip(*(found["models"]["unlearned"]["relearning"] for found in (one, two)), strict=True):
        assert [point["step"] for point in b["points"]] == [0, 1, 2, 3]
        for p, q in zip(a["points"], b["points"], strict=True):
            assert q["forget_loss"]["n"] == p["forget_loss"]["n"] == 5
            assert q["forget_loss"]["value"] == pytest.approx(p["forget_loss"]["value"], rel=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--attack_steps", "0"], "--attack_steps 0 is not possible"),
        (["--original_model", "nowhere/at-all-"], "nowhere/at-all-"),
        (["--load_in_8bit", "true", "--use_peft", "true"], "cannot be attacked"),
    ],
)
def test_what_the_attacks_refuse(
    lm_settings: dict[str, Any],
    lm_original: Path,
    tmp_path: Path,
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    config = str(recipe(**{**lm_settings, "output_dir": str(tmp_path / "out")}))
    assert main(["attack", "--config", config, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
