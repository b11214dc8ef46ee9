"""Starts: exact at both ends, the formula between them, adapters included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_unlearn import InputError
from hf_unlearn.methods.starts import (
    StartInputs,
    fresh_model,
    interpolate,
    original,
    shrink_adapter,
    shrink_perturb,
    toward_base,
)
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.layers import freeze_all_but_last
from hf_unlearn.models.loading import load_anchor
from hf_unlearn.models.location import locate

ALPHAS = [0.0, 0.3, 0.6, 1.0]


def trained(folder: Path, scale: float = 0.05) -> Any:
    """A model some way from the base."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * scale)
    return model


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def inputs(alpha: float, base: Any = None, adapter: bool = False) -> StartInputs:
    return StartInputs(alpha, seed=5, trained_adapter=adapter, load_base=lambda: base)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_toward_base_is_the_interpolation_and_exact_at_its_ends(lm_base: Path, alpha: float) -> None:
    base, model = AutoModelForCausalLM.from_pretrained(lm_base), trained(lm_base)
    before, anchor = weights(model), weights(base)
    before["model.norm.weight"][0] = -0.0
    model.model.norm.weight.data[0] = -0.0
    toward_base(model, inputs(alpha, base))
    after = weights(model)
    if alpha == 0:
        assert same(after, before)
        assert torch.signbit(after["model.norm.weight"][0]), "bit for bit, the sign of zero too"
    elif alpha == 1:
        assert same(after, anchor)
    else:
        for name, weight in after.items():
            expected = (1 - alpha) * before[name].double() + alpha * anchor[name].double()
            torch.testing.assert_close(weight.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_shrink_perturb_goes_to_a_fresh_model_of_its_own_seed(lm_base: Path, alpha: float) -> None:
    model, fresh = trained(lm_base), weights(fresh_model(trained(lm_base), seed=5))
    before = weights(model)
    torch.manual_seed(123)
    expected_draw = torch.rand(1)
    torch.manual_seed(123)
    shrink_perturb(model, inputs(alpha))
    assert torch.equal(torch.rand(1), expected_draw), "the random numbers of the training must not depend on the start"
    after = weights(model)
    assert same(after, before) == (alpha == 0)
    assert same(after, fresh) == (alpha == 1)
    other = weights(fresh_model(trained(lm_base), seed=6))
    assert not same(other, fresh)


def test_fine_tune_starts_at_the_original(lm_base: Path) -> None:
    model = trained(lm_base)
    before = weights(model)
    original(model, inputs(0))
    assert same(weights(model), before)


def test_a_base_of_another_shape_is_refused(lm_base: Path, encoder_base: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = trained(lm_base)
    wider = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), "intermediate_size": 64}))
    with pytest.raises(InputError, match=r"is not what this model was fine-tuned from: for .* it has the shape"):
        interpolate(model, wider, 0.5)
    with pytest.raises(InputError, match="it has no such weight"):
        interpolate(model, AutoModelForSequenceClassification.from_pretrained(encoder_base), 0.5)


# The base in the shape of the model


def test_the_anchor_of_a_classifier_has_its_classes_and_the_seeds_head(encoder_base: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_base, num_labels=5)
    anchors = [
        load_anchor(locate(str(encoder_base)), "text-classification", model.config, dtype=torch.float32, seed=s)
        for s in (1, 1, 2)
    ]
    heads = [anchor.get_parameter("classifier.weight") for anchor in anchors]
    assert heads[0].shape == (5, 48)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    toward_base(model, inputs(1, anchors[0]))
    assert same(weights(model), weights(anchors[0]))


def test_the_anchor_has_the_models_vocabulary(lm_base: Path) -> None:
    model = trained(lm_base)
    model.resize_token_embeddings(610)
    anchor = load_anchor(locate(str(lm_base)), "text-generation", model.config, dtype=torch.float32, seed=0)
    toward_base(model, inputs(1, anchor))
    assert model.get_input_embeddings().weight.shape[0] == 610
    assert same(weights(model), weights(anchor))


# Adapters


def adapter(folder: Path) -> PeftModel:
    torch.manual_seed(2)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(task_type="CAUSAL_LM", r=4, modules_to_save=["lm_head"]),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1 * (2 if "lora_B" in name else 1))
    assert isinstance(model, PeftModel)
    return model


@pytest.mark.parametrize("alpha", ALPHAS)
def test_a_trained_adapter_moves_as_the_merged_weights_would(lm_base: Path, alpha: float) -> None:
    base = AutoModelForCausalLM.from_pretrained(lm_base)
    merged = adapter(lm_base).merge_and_unload()
    interpolate(merged, base, alpha)  # type: ignore[arg-type]
    model = adapter(lm_base)
    toward_base(model, inputs(alpha, adapter=True))
    moved = model.merge_and_unload()
    for (name, expected), found in zip(merged.named_parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=name)


def test_at_the_base_nothing_of_a_trained_adapter_is_left(lm_base: Path) -> None:
    models = [adapter(lm_base), adapter(lm_base)]
    with torch.no_grad():
        for weight in models[1].parameters():
            if weight.requires_grad:
                weight.add_(1.0)
    for model in models:
        shrink_adapter(model, 1, seed=7)
    assert same(weights(models[0]), weights(models[1]))
    assert all((w == 0).all() for name, w in models[0].named_parameters() if "lora_B" in name)


def test_a_new_adapter_stays_while_the_weights_under_it_move(lm_base: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(lm_base)
    model = get_peft_model(trained(lm_base), LoraConfig(task_type="CAUSAL_LM", r=4, modules_to_save=["lm_head"]))
    lora = {name: w.clone() for name, w in model.named_parameters() if "lora_" in name}
    toward_base(model, inputs(1, base))  # type: ignore[arg-type]
    assert all(torch.equal(weight, lora[name]) for name, weight in model.named_parameters() if name in lora)
    merged = model.merge_and_unload()
    assert all(torch.equal(a, b) for a, b in zip(merged.parameters(), base.parameters(), strict=True))


def test_only_lora_can_be_moved(lm_base: Path) -> None:
    with pytest.raises(InputError, match="Only a LoRA adapter"):
        shrink_adapter(AutoModelForCausalLM.from_pretrained(lm_base), 0.5, 0)


# Frozen layers and the table of methods


def test_all_but_the_last_layers_are_frozen(lm_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    freeze_all_but_last(model, 1)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(name.startswith(("model.layers.1.", "model.norm", "lm_head")) for name in trainable)
    assert {"model.norm.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"} <= trainable
    with pytest.raises(InputError, match="the model has 2 blocks"):
        freeze_all_but_last(model, 3)


def test_what_comes_before_the_blocks_of_an_encoder_is_frozen_too(encoder_base: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(encoder_base)
    freeze_all_but_last(model, 1)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".")[1] for name in trainable if name.startswith("bert.")} == {"encoder", "pooler"}
    assert all(".layer.0." not in name for name in trainable)
    assert "classifier.weight" in trainable


def test_alphas_of_the_methods() -> None:
    assert METHODS["fine_tune"].resolve_alpha(None) == 0
    assert METHODS["base"].resolve_alpha(None) == 1
    assert METHODS["toward_base"].resolve_alpha(None) == 0.6
    assert METHODS["toward_base"].resolve_alpha(0.0) == 0
    assert METHODS["retrain"].resolve_alpha(None) == 1
    for name in ("fine_tune", "base", "eu_k", "rewind"):
        with pytest.raises(InputError, match="has no alpha; leave it out, or name a start that has one"):
            METHODS[name].resolve_alpha(0.5)
    assert {method.name for method in METHODS.values()} == set(METHODS)
