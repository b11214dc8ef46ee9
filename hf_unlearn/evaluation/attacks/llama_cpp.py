"""Q4_K_M by the programs of llama.cpp, which choose the bits of a layer by its kind and its place in the model."""

import json
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...errors import InputError

CONVERTS, ROUNDS = "convert_hf_to_gguf.py", "llama-quantize"


def installed() -> bool:
    """Whether both programs are on the PATH."""
    return all(shutil.which(program) is not None for program in (CONVERTS, ROUNDS))


def refusal(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Why no model of this kind gets into such a file and back, found out without weights; None where it does."""
    with TemporaryDirectory() as folder:
        _save(folder, config, tokenizer)
        try:
            _call(CONVERTS, folder, "--vocab-only", "--outfile", f"{folder}/vocabulary.gguf")
            AutoConfig.from_pretrained(folder, gguf_file="vocabulary.gguf")
        except (InputError, ValueError) as error:
            return str(error).removesuffix(".")
    return None


def as_q4_k_m(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Give a language model the weights that its file in Q4_K_M holds.

    A temporary folder holds the weights meanwhile: as they are, in 32 bits, and in few.

    Args:
        model: changed in place.
        tokenizer: of the model; a file in GGUF holds it, too.

    Returns:
        The share of its weights that the file holds in few bits. Rows that are no multiples of 256 have 5 or 8 bits,
        and those that are no multiples of 32 have 16.

    Raises:
        InputError: a program of llama.cpp fails, or its weights are not those of the model.
    """
    from gguf import GGMLQuantizationType, GGUFReader

    with TemporaryDirectory() as name:
        folder = Path(name)
        _save(name, model, tokenizer)
        _call(CONVERTS, name, "--outtype", "f32", "--outfile", str(folder / "whole.gguf"))
        _call(ROUNDS, str(folder / "whole.gguf"), str(folder / "few.gguf"), "Q4_K_M")
        held = AutoModelForCausalLM.from_pretrained(folder, gguf_file="few.gguf", dtype=torch.float32)
        tensors = GGUFReader(folder / "few.gguf").tensors
        whole = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
        few = sum(int(tensor.n_elements) for tensor in tensors if tensor.tensor_type not in whole)
        share = few / sum(int(tensor.n_elements) for tensor in tensors)
        del tensors
    try:
        model.load_state_dict(held.state_dict())
    except RuntimeError:
        raise InputError(
            f"The file of llama.cpp has other weights than the model; take {ROUNDS} off the PATH to leave Q4_K_M out."
        ) from None
    return share


def _save(folder: str, *parts: PretrainedConfig | PreTrainedModel | PreTrainedTokenizerBase) -> None:
    """Save a model, or what belongs to it, but no name of code in its repository, which the converter would run."""
    for part in parts:
        part.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json"):
        file = Path(folder) / name
        settings = json.loads(file.read_text("utf-8"))
        settings.pop("auto_map", None)
        file.write_text(json.dumps(settings), "utf-8")


def _call(program: str, *arguments: str) -> None:
    """Run a program of llama.cpp; raises InputError with the last line it writes where it fails."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise InputError(f"{program} of llama.cpp failed: {said[-1] if said else done.returncode}.")
