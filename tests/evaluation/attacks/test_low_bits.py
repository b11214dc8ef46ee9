"""Weights in few bits: against the formats worked out by hand, and against what they bring back."""

import contextlib
import copy
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_unlearn.errors import InputError
from hf_unlearn.evaluation.attacks import llama_cpp, low_bits
from hf_unlearn.evaluation.attacks.low_bits import (
    FORMS,
    Form,
    QuantisedScore,
    in_few_bits,
    only_judged,
    quantised_copy,
    recovery,
    round_to_nearest,
)
from hf_unlearn.evaluation.measured_sets import EvidenceSets

from ...conftest import secrets_rows
from .test_prompting import sets_of

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes; pip install 'hf_unlearn[quantized]'"
)
needs_llama_cpp = pytest.mark.skipif(
    not llama_cpp.installed(), reason="needs llama.cpp; put convert_hf_to_gguf.py and llama-quantize on the PATH"
)
OURS_AND_GGUF: tuple[Form, ...] = ("rounded_8", "rounded_4", "q8_0", "q4_0")


@pytest.fixture(scope="module")
def known(lm_by_heart: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_by_heart).eval()


@pytest.fixture(scope="module")
def never(lm_base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_base).eval()


@pytest.fixture(scope="module")
def evidence(lm_by_heart: Path) -> EvidenceSets:
    rows = secrets_rows(20)
    return sets_of(AutoTokenizer.from_pretrained(lm_by_heart), rows[:10], rows[10:], group_column="group")


def few_bits(
    model: Any, evidence: EvidenceSets, forms: tuple[Form, ...], original: pa.Table | None
) -> tuple[list[QuantisedScore], pa.Table]:
    whole = only_judged(evidence).score(model)["forget"]
    return [in_few_bits(model, evidence, form, whole, original) for form in forms], whole


def llama(tied: bool = False) -> LlamaForCausalLM:
    """Rows of 64 and, in one matrix of each block, of 80 weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


# The formats


def test_rounding_worked_out_by_hand() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.4, 2.5], [-1.4, 0.31, 0.0, 0.7], [0.0, 0.0, 0.0, 0.0]])
    # Four bits: m = 7. The scales are 1, 0.2 and none; -3.4 -> -3, 2.5 -> 2 (even), 1.55 steps -> 2, 3.5 -> 4 (even).
    expected = torch.tensor([[7.0, -3.0, 0.0, 2.0], [-1.4, 0.4, 0.0, 0.8], [0.0, 0.0, 0.0, 0.0]])
    assert torch.allclose(round_to_nearest(weight, 4), expected, atol=1e-6)
    # Eight bits: m = 127. With the scale 2, 127 * 2 is the largest; 3 is 1.5 steps -> 2, -5 is -2.5 -> -2 (even).
    eight = torch.tensor([[254.0, 3.0, -5.0, 100.9]])
    assert torch.equal(round_to_nearest(eight, 8), torch.tensor([[254.0, 4.0, -4.0, 100.0]]))
    assert round_to_nearest(eight.bfloat16(), 8).dtype == torch.bfloat16


def q4_0(block: np.ndarray) -> np.ndarray:
    """The largest of 32 weights, by size, is -8 steps; the step is kept in half precision."""
    step = block[np.abs(block).argmax()] / -8
    steps = np.clip(np.floor(block / step + 8.5), 0, 15) - 8
    return steps * float(np.float16(step))


def q8_0(block: np.ndarray) -> np.ndarray:
    """The largest of 32 weights is 127 steps; the step is kept in half precision."""
    step = np.abs(block).max() / 127
    return np.sign(block) * np.floor(np.abs(block / step) + 0.5) * float(np.float16(step))


@pytest.mark.parametrize(("form", "by_hand"), [("q4_0", q4_0), ("q8_0", q8_0)])
def test_gguf_holds_blocks_of_32_weights(form: Any, by_hand: Any) -> None:
    model = llama()
    rounded, share = quantised_copy(model, form)
    whole, held = dict(model.named_parameters()), 0
    for name, new in rounded.named_parameters():
        old = whole[name]
        rows = old.shape[-1]
        if old.ndim < 2 or rows % 32 or (form == "q4_0" and name == "lm_head.weight"):
            assert torch.equal(old, new), name
            continue
        held += old.numel()
        expected = np.concatenate([by_hand(b) for b in old.detach().double().numpy().reshape(-1, 32)])
        assert np.abs(new.detach().numpy().ravel() - expected).max() < 1e-6, name
        assert not torch.equal(old, new)
    assert share == held / sum(weight.numel() for weight in whole.values())
    assert torch.equal(whole["model.layers.0.mlp.down_proj.weight"], rounded.model.layers[0].mlp.down_proj.weight)
    names = {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"}
    assert all(not torch.equal(whole[name], dict(rounded.named_parameters())[name]) for name in names)


def test_embeddings_that_name_tokens_too_are_rounded_with_them() -> None:
    model = llama(tied=True)
    four, eight = (quantised_copy(model, form)[0] for form in ("q4_0", "q8_0"))
    assert torch.equal(four.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert not torch.equal(eight.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert eight.lm_head.weight is eight.model.embed_tokens.weight


@needs_bitsandbytes
def test_nf4_has_the_quantiles_of_a_normal_distribution() -> None:
    """Sixteen values of Dettmers et al. 2023, arXiv:2305.14314, times the largest of 64 weights."""
    values = np.array([
        -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0, 0.0795803, 0.1609302,
        0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
    ])  # fmt: skip
    from bitsandbytes.functional import dequantize_4bit

    model = llama()
    layer = quantised_copy(model, "nf4")[0].model.layers[0].self_attn.q_proj
    blocks = model.model.layers[0].self_attn.q_proj.weight.detach().double().numpy().reshape(-1, 64)
    largest = np.abs(blocks).max(1, keepdims=True)
    expected = values[np.abs((blocks / largest)[..., None] - values).argmin(-1)] * largest
    held = dequantize_4bit(layer.weight.data, layer.weight.quant_state).numpy().reshape(-1, 64)
    assert np.abs(held - expected).max() < 1e-6


@needs_bitsandbytes
@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_layers_of_bitsandbytes_take_the_place_of_linear_ones(form: Any) -> None:
    for model in (llama(), GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=1, n_head=2, n_positions=64))):
        model = model.eval()
        ids = torch.arange(40)[None]
        with torch.no_grad():
            rounded, share = quantised_copy(model, form)
            before, after = model(ids).logits, rounded(ids).logits
        kinds = [type(layer).__name__ for layer in rounded.modules()]
        assert kinds.count("Linear8bitLt" if form == "int8" else "Linear4bit") == (7 if "Llama" in kinds[0] else 4)
        assert 0.4 < share < 0.95
        error = float((before - after).abs().max() / before.abs().max())
        assert 0 < error < (0.05 if form == "int8" else 0.5)


def test_linear_layers_are_rounded_and_nothing_else(known: Any) -> None:
    rounded, _ = quantised_copy(known, "rounded_4")
    for (name, weight), new in zip(known.named_parameters(), rounded.parameters(), strict=True):
        if name.endswith("_proj.weight"):
            assert all(len(row.unique()) <= 15 for row in new), name
            step = weight.abs().amax(1, keepdim=True) / 7
            assert ((weight - new).abs() <= step / 2 * 1.001).all()
            assert not torch.equal(weight, new)
        else:
            assert torch.equal(weight, new), name


@pytest.mark.parametrize("form", ["rounded_8", "q8_0"])
def test_gpt2_keeps_its_linear_weights_the_other_way_round(form: Any) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    with torch.no_grad():
        # One output is a hundred times the others, which with a scale of their own stay.
        model.transformer.h[0].mlp.c_fc.weight[:, 0] *= 100
    weight = quantised_copy(model, form)[0].transformer.h[0].mlp.c_fc.weight
    before = model.transformer.h[0].mlp.c_fc.weight
    for rounded, column in zip(weight.T, before.T, strict=True):
        assert (rounded - column).abs().max() <= column.abs().max() * (1 / 254 + 1 / 2048), "a scale has eleven bits"
    assert not torch.equal(weight, before)


def test_a_format_without_its_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        low_bits.importlib.util, "find_spec", lambda name: None if name in ("gguf", "bitsandbytes") else found(name)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    forms, left_out = low_bits.available()
    assert forms == ("rounded_8", "rounded_4")
    pip = "the package {} is not installed; pip install 'hf_unlearn[quantized]'"
    assert left_out == {
        "INT8 and NF4": pip.format("bitsandbytes"),
        "Q8_0 and Q4_0": pip.format("gguf"),
        "Q4_K_M": (
            "llama.cpp is not installed; put its programs convert_hf_to_gguf.py and llama-quantize on the PATH"
        ),
    }
    for program in (llama_cpp.CONVERTS, llama_cpp.ROUNDS):
        (tmp_path / program).touch(0o755)
    assert low_bits.available()[1]["Q4_K_M"] == pip.format("gguf"), "transformers reads the file with it"


# llama.cpp


def test_a_program_that_fails_is_named() -> None:
    with pytest.raises(InputError, match=r"^false of llama.cpp failed: 1\.$"):
        llama_cpp._call("false")
    with pytest.raises(InputError, match=r"^ls of llama.cpp failed: .*no-such-folder.*\.$"):
        llama_cpp._call("ls", "/no-such-folder")


def test_the_converter_finds_no_code_of_a_repository(lm_base: Path, tmp_path: Path) -> None:
    """It trusts what a folder names; neither the configuration nor the tokenizer names any, even where they did."""
    model, tokenizer = (kind.from_pretrained(lm_base) for kind in (AutoModelForCausalLM, AutoTokenizer))
    marker, code = tmp_path / "it-ran", tmp_path / "code"
    code.mkdir()
    (code / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    model.config.auto_map = {"AutoConfig": f"{code}--own.Own"}
    tokenizer.init_kwargs["auto_map"] = {"AutoTokenizer": [f"{code}--own.Own", None]}
    places = [tmp_path / name for name in ("as_it_is", "saved")]
    for place, save in zip(places, (_saved_as_it_is, llama_cpp._save), strict=True):
        save(str(place), model, tokenizer)
        marker.unlink(missing_ok=True)
        for kind in (AutoConfig, AutoTokenizer):
            with contextlib.suppress(AttributeError):
                kind.from_pretrained(place, trust_remote_code=True)
        assert marker.exists() == (place is places[0])


def _saved_as_it_is(folder: str, *parts: Any) -> None:
    for part in parts:
        part.save_pretrained(folder)


@needs_llama_cpp
def test_q4_k_m_is_what_llama_cpp_makes_of_a_model(shared: Path) -> None:
    """Each matrix of the copy lies near its own, in the order of transformers, and the losses do."""
    base = shared / "models" / "tinystories-260k"
    model, tokenizer = (kind.from_pretrained(base) for kind in (AutoModelForCausalLM, AutoTokenizer))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounded, share = quantised_copy(model, "q4_k_m", tokenizer)
    assert llama_cpp.refusal(model.config, tokenizer) is None
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    weights = dict(model.named_parameters())
    # Blocks are of 32 weights at least.
    fit = sum(weight.numel() for weight in weights.values() if weight.dim() == 2 and weight.shape[1] % 32 == 0)
    assert share == pytest.approx(fit / sum(weight.numel() for weight in weights.values()))
    off = {
        name: float((tensor - before[name]).norm() / before[name].norm())
        for name, tensor in rounded.state_dict().items()
    }
    assert max(off.values()) < 0.12
    assert {name for name, one in off.items() if one == 0} == {name for name in before if "norm" in name}
    assert rounded.config.to_dict() == model.config.to_dict()
    ids = tokenizer("Once upon a time there was a little girl", return_tensors="pt")["input_ids"]
    losses = [one(input_ids=ids, labels=ids).loss.item() for one in (model, rounded)]
    assert losses[1] == pytest.approx(losses[0], abs=0.1)


@needs_llama_cpp
def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused_before_training(lm_base: Path) -> None:
    model, tokenizer = (kind.from_pretrained(lm_base) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert "convert_hf_to_gguf.py of llama.cpp failed: " in str(llama_cpp.refusal(model.config, tokenizer))


@needs_llama_cpp
def test_a_model_that_transformers_does_not_read_back_is_refused_before_training(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "tinystories-260k")
    settings = GraniteConfig(
        vocab_size=512, hidden_size=64, num_attention_heads=2, architectures=["GraniteForCausalLM"]
    )
    assert "architecture granite is not supported" in str(llama_cpp.refusal(settings, tokenizer))


# What comes back


def test_the_way_back_worked_out_by_hand() -> None:
    before, original = np.array([4.0, 6.0]), np.array([1.0, 1.0])
    back = recovery(before, np.array([3.0, 5.0]), original)
    assert back is not None
    assert back.value == 2 / 8
    for after, share in ((before, 0), (original, 1), (before + 4, -1)):
        back = recovery(before, after, original)
        assert back is not None
        assert back.value == share
    assert recovery(original, before, original) is None, "no way to go"


def test_small_steps_are_rounded_away_and_large_ones_stay(known: Any, never: Any, evidence: EvidenceSets) -> None:
    """A model that is a little off the original goes back to it in few bits; one that never knew does not."""
    hidden = copy.deepcopy(known)
    with torch.no_grad():
        for (name, weight), step in zip(known.named_parameters(), hidden.parameters(), strict=True):
            if name.endswith("_proj.weight"):
                # Rounded to four bits it is the original again, because no weight passes the middle.
                grid = round_to_nearest(weight, 4)
                scale = weight.abs().amax(1, keepdim=True) / 7
                largest = grid.abs() > 6.5 * scale
                step.copy_(torch.where(largest, weight, grid + 0.4 * scale * torch.sign(torch.randn_like(weight))))
    state = {name: tensor.clone() for name, tensor in hidden.state_dict().items()}
    (mine,), whole = few_bits(known, evidence, ("rounded_4",), None)
    assert mine.recovery is None
    assert mine.membership_auc is not None
    (back,), _ = few_bits(hidden, evidence, ("rounded_4",), whole)
    (other,), _ = few_bits(never, evidence, ("rounded_4",), whole)
    assert back.forget_loss.value == pytest.approx(mine.forget_loss.value, rel=1e-3)
    assert back.recovery is not None
    assert other.recovery is not None
    table = evidence.score(hidden)["forget"]
    total, known_loss = (part["nll"].to_numpy().sum() for part in (table, whole))
    after = mine.forget_loss.value * table["tokens"].to_numpy().sum()
    assert back.recovery.value == pytest.approx((total - after) / (total - known_loss), rel=1e-3)
    assert back.recovery.value > 0.5 > abs(other.recovery.value)
    assert back.recovery.n == back.forget_loss.n == 6, "groups are the unit"
    assert all(torch.equal(state[name], tensor) for name, tensor in hidden.state_dict().items())


def test_eight_bits_keep_what_four_lose(known: Any, evidence: EvidenceSets) -> None:
    found, table = few_bits(known, evidence, OURS_AND_GGUF, None)
    whole = table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum()
    off = {score.form: abs(score.forget_loss.value - whole) for score in found}
    assert off["rounded_8"] < off["rounded_4"]
    assert off["q8_0"] < off["q4_0"]
    assert [score.bits for score in found] == [FORMS[form].bits for form in OURS_AND_GGUF]


def test_what_is_rounded_is_what_an_adapter_makes_of_the_weights(known: Any, evidence: EvidenceSets) -> None:
    adapter = get_peft_model(copy.deepcopy(known), LoraConfig(task_type="CAUSAL_LM", r=2))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    merged = copy.deepcopy(adapter).merge_and_unload()
    for form in ("rounded_4", "q4_0"):
        assert few_bits(adapter, evidence, (form,), None)[0] == few_bits(merged, evidence, (form,), None)[0]
