"""Weights of few bits under an adapter; bitsandbytes is an extra, and most of these tests need it."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn import InputError, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.models.layers import flops_per_token
from hf_unlearn.models.loading import load_model, plain_model, quantised_bits
from hf_unlearn.models.location import locate

from ..training.test_trainer import trainer

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(
    not INSTALLED, reason="needs bitsandbytes; pip install 'hf_unlearn[quantized]'"
)


def lora() -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: PreTrainedTokenizerFast) -> Path:
    """An untrained Llama whose matrices have multiples of 32 rows, which bitsandbytes needs on a CPU."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_level_tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        eos_token_id=byte_level_tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(lm_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(command: str, *flags: str, **more: Any) -> tuple[int, str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**lm_settings, "max_steps": 3, **more}), encoding="utf-8")
        code = main([command, "--config", str(path), *flags])
        return code, capsys.readouterr().err

    return run


# Without the package


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_missing_package_is_named_with_its_pip_line(run: Any, lm_original: Path, tmp_path: Path, bits: int) -> None:
    flags = ("--use_peft", f"--load_in_{bits}bit", "--output_dir", str(tmp_path / "out"))
    code, err = run("run", *flags)
    assert code == 2
    assert f"To load weights in {bits} bits run `pip install 'bitsandbytes>=0.50'` first." in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--load_in_4bit"], "--load_in_4bit is for the weights under an adapter; add --use_peft, or name an adapter"),
        (["--load_in_8bit"], "--load_in_8bit is for the weights under an adapter"),
        (["--load_in_4bit", "--load_in_8bit", "--use_peft"], "exclude each other"),
    ],
)
def test_flags_that_do_not_go_together(
    run: Any, lm_original: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    code, err = run("run", *flags, "--output_dir", str(tmp_path / "out"))
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


# With it


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_an_adapter_on_few_bits_is_trained_and_unlearned(run: Any, base: Path, tmp_path: Path, bits: int) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    flag = f"--load_in_{bits}bit"
    original = {"model_name_or_path": str(base), "learning_rate": 2e-2, "max_steps": 20}
    code, err = run("train", "--use_peft", flag, "--output_dir", str(adapter), original=original)
    assert code == 0, err
    assert (adapter / "adapter_model.safetensors").is_file()
    loaded = load_model(locate(str(adapter)), "text-generation", bits=bits)  # type: ignore[arg-type]
    assert quantised_bits(plain_model(loaded).config) == bits
    frozen = [name for name, weight in loaded.named_parameters() if not weight.dtype.is_floating_point]
    assert len(frozen) == 14, "all projections of two blocks"
    flags = ("--model_name_or_path", str(adapter), flag, "--output_dir", str(out), "--method", "toward_base")
    code, err = run("run", *flags, "--with_retrained")
    assert code == 0, err
    report = UnlearningReport.load(out / "unlearning_report.json")
    assert list(report.arms) == ["original", "unlearned", "retrained"]
    assert report.method.lora is not None
    assert report.arms["original"].sets["retained"].loss.value < 6.3 < math.log(600), "of so many tokens"


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_what_few_bits_cannot_do(base: Path, lm_base: Path, tmp_path: Path, bits: Any) -> None:
    def loaded() -> Any:
        return load_model(locate(str(base)), "text-generation", bits=bits)

    with pytest.raises(InputError, match=f"Weights in {bits} bits cannot be trained; train an adapter"):
        trainer(tmp_path, loaded())
    for method in ("base", "toward_base", "shrink_perturb"):
        with pytest.raises(InputError, match=f"weights in {bits} bits cannot be moved"):
            trainer(tmp_path, loaded(), method=method, peft_config=lora(), base_model_name_or_path=str(lm_base))
    with pytest.raises(InputError, match=f"would round the result to {bits} bits"):
        trainer(tmp_path, loaded(), merge_adapter=True, peft_config=lora())


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_of_few_bits_do_not_move(base: Path, tmp_path: Path, bits: Any) -> None:
    model = load_model(locate(str(base)), "text-generation", bits=bits)
    ours = trainer(tmp_path, model, peft_config=lora())
    assert ours.evidence is not None, "the original is measured before it is trained"
    tokens = torch.arange(40)[None]

    def outputs() -> torch.Tensor:
        with torch.no_grad():
            return ours.model(input_ids=tokens).logits

    ours.model.train()
    expected = outputs()
    before = {name: weight.clone() for name, weight in ours.model.named_parameters() if weight.is_floating_point()}
    ours.train()
    moved = {
        name
        for name, weight in ours.model.named_parameters()
        if name in before and not torch.equal(weight, before[name])
    }
    assert moved == {name for name in before if "lora_" in name}
    ours.model.train()
    with torch.no_grad():
        for name, weight in ours.model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    torch.testing.assert_close(outputs(), expected, rtol=1e-5, atol=1e-6)


@needs_bitsandbytes
def test_operations_do_not_depend_on_how_weights_are_stored(base: Path) -> None:
    whole, four, eight = (load_model(locate(str(base)), "text-generation", bits=b) for b in (None, 4, 8))  # type: ignore[arg-type]
    assert flops_per_token(four)[1] == flops_per_token(eight)[1] == flops_per_token(whole)[1]
