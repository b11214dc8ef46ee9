"""Weights in few bits: what the formats in which people download a model bring back of S.

Unlearning may move the weights less than a format rounds them, so that the old ones come back (Zhang et al. 2024,
arXiv:2410.16454). It means little alone: a model that never saw S shows what the rounding itself does.
"""

import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ...errors import InputError
from ...models.loading import Model, plain_model, quantised_bits
from ..measured_sets import JUDGED, EvidenceSets, loss_and_auc
from ..statistics import Estimate, mean_loss, units_in
from . import llama_cpp

Form = Literal["rounded_8", "rounded_4", "int8", "nf4", "q8_0", "q4_0", "q4_k_m"]


@dataclass(frozen=True)
class LowBits:
    """A format of few bits.

    Attributes:
        shown: how the weights are held, for people.
        bits: of a weight.
        package: which holds the format; None for ours.
    """

    shown: str
    bits: int
    package: str | None = None


FORMS: dict[Form, LowBits] = {
    "rounded_8": LowBits("rounded to 8 bits", 8),
    "rounded_4": LowBits("rounded to 4 bits", 4),
    "int8": LowBits("in INT8 of bitsandbytes", 8, "bitsandbytes"),
    "nf4": LowBits("in NF4 of bitsandbytes", 4, "bitsandbytes"),
    "q8_0": LowBits("in Q8_0 of GGUF", 8, "gguf"),
    "q4_0": LowBits("in Q4_0 of GGUF", 4, "gguf"),
    "q4_k_m": LowBits("in Q4_K_M of llama.cpp", 4, "llama.cpp"),
}

# The packages of Python that hold formats; both come with an extra.
PACKAGES = ("bitsandbytes", "gguf")

BLOCK = 32  # weights of a row that share a scale in GGUF's formats


@dataclass(frozen=True)
class QuantisedScore:
    """What a model with weights in few bits makes of S.

    Attributes:
        form: a name of :data:`FORMS`.
        bits: of a weight.
        weights: the share of the model's weights that are held in these bits.
        forget_loss: mean loss of the records of S, in nats.
        membership_auc: by the loss, None without H.
        recovery: how much of the way from its own loss of S to the original's the format goes, see :func:`recovery`;
            None for the original, and where the original is not known.
    """

    form: Form
    bits: int
    weights: float
    forget_loss: Estimate
    membership_auc: Estimate | None
    recovery: Estimate | None


def available() -> tuple[tuple[Form, ...], dict[str, str]]:
    """The formats whose package is installed, and the others with the reason."""
    missing = {
        package: f"the package {package} is not installed; pip install 'hf_unlearn[quantized]'"
        for package in PACKAGES
        if importlib.util.find_spec(package) is None
    }
    if not llama_cpp.installed():
        programs = f"{llama_cpp.CONVERTS} and {llama_cpp.ROUNDS}"
        missing["llama.cpp"] = f"llama.cpp is not installed; put its programs {programs} on the PATH"
    elif "gguf" in missing:
        missing["llama.cpp"] = missing["gguf"]
    left_out = {
        " and ".join(form.upper() for form, bits in FORMS.items() if bits.package == package): why
        for package, why in missing.items()
    }
    return tuple(form for form, bits in FORMS.items() if bits.package not in missing), left_out


def only_judged(evidence: EvidenceSets) -> EvidenceSets:
    """S and H, in their own words."""
    sets = {name: part for name, part in evidence.sets.items() if name in JUDGED}
    return replace(evidence, sets=sets, forms={}, gradients=False)


def in_few_bits(
    model: Model,
    evidence: EvidenceSets,
    form: Form,
    whole: pa.Table,
    original: pa.Table | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> QuantisedScore:
    """Score S and H with the weights of a copy of a model in few bits.

    Args:
        model: the model; it stays as it is.
        evidence: S, and H where there is one, encoded.
        form: the format.
        whole: the scores of S under the model as it is.
        original: those under the original; None for the original itself, or where there is none.
        tokenizer: of the model, for ``q4_k_m`` alone.

    Raises:
        InputError: the weights have few bits already, or llama.cpp fails.
    """
    rounded, share = quantised_copy(model, form, tokenizer)
    tables = only_judged(evidence).score(rounded)
    back = None
    if original is not None:
        before, after, known = (table["nll"].to_numpy() for table in (whole, tables["forget"], original))
        back = recovery(before, after, known, units_in(whole))
    return QuantisedScore(form, FORMS[form].bits, share, *loss_and_auc(tables), back)


def recovery(
    before: np.ndarray, after: np.ndarray, original: np.ndarray, groups: np.ndarray | None = None
) -> Estimate | None:
    """How much of the way from a model's loss of S to the original's an attack goes: 0 none, 1 all, and below 0 away.

    Args:
        before, after, original: summed loss of each record in nats, under the model before and after the attack and
            under the original, shape (n,).
        groups: label of each record's group, shape (n,).

    Returns:
        sum(before - after) / sum(before - original), with the interval of a ratio estimator
        (:func:`~hf_unlearn.evaluation.statistics.mean_loss`); None where the original does not know S better.
    """
    if before.sum() <= original.sum():
        return None
    return mean_loss(before - after, before - original, groups=groups)


@torch.no_grad()
def quantised_copy(model: Model, form: Form, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[Model, float]:
    """A copy of a model with weights as a format holds them, and the share of its weights that are.

    These are the linear layers, but neither embeddings nor the layer that names tokens. GGUF's formats hold those too
    where their rows are multiples of :data:`BLOCK`: Q4_0 but for the layer that names tokens, which llama.cpp keeps in
    6 bits and this copy whole. bitsandbytes' own layers take the place of the others; of GGUF the weights are rounded
    and read back by its package, so that the arithmetic is that of the model. An adapter is merged into the copy
    first. Matrices of many experts in one are left whole. For Q4_K_M see
    :func:`~hf_unlearn.evaluation.attacks.llama_cpp.as_q4_k_m`, which alone needs the tokenizer.

    Raises:
        InputError: the weights have few bits already, or llama.cpp fails.
    """
    if quantised_bits(plain_model(model).config) is not None:
        raise InputError("The model's weights have few bits already; load them whole to see what rounding does.")
    rounded = copy.deepcopy(model)
    if isinstance(rounded, PeftModel):
        rounded = rounded.merge_and_unload()
    if form == "q4_k_m":
        assert tokenizer is not None
        return rounded, llama_cpp.as_q4_k_m(rounded, tokenizer)
    total = sum(weight.numel() for weight in rounded.parameters())
    held = 0
    for name, layer in list(_layers(rounded, form)):
        held += layer.weight.numel()
        if FORMS[form].package == "bitsandbytes":
            rounded.set_submodule(name, _bitsandbytes_layer(layer, form))
            continue
        # The rows of Conv1D are inputs.
        matrix = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        as_held = round_to_nearest(matrix, FORMS[form].bits) if FORMS[form].package is None else _gguf(matrix, form)
        matrix.copy_(as_held)
    return rounded, held / total


def _layers(model: Any, form: Form) -> Iterator[tuple[str, Any]]:
    """The layers of which a format holds the weights, by name; a weight that two share comes once."""
    naming, reading = model.get_output_embeddings(), model.get_input_embeddings()
    kept = set() if naming is None or form == "q8_0" else {id(naming.weight)}
    for name, layer in model.named_modules():
        matrix = isinstance(layer, nn.Linear | Conv1D)
        if FORMS[form].package == "gguf":
            matrix = matrix or layer is reading
        if not matrix or id(layer.weight) in kept:
            continue
        inputs = layer.weight.shape[0 if isinstance(layer, Conv1D) else 1]
        if FORMS[form].package == "gguf" and inputs % BLOCK:
            continue
        kept.add(id(layer.weight))
        yield name, layer


def round_to_nearest(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Round each row to whole multiples, from -m to m with m = 2^(bits - 1) - 1, of a scale of its own, max|w| / m.

    Args:
        weight: shape (outputs, inputs).
        bits: of a weight.

    Returns:
        The rounded weights, of the same shape and dtype; a half goes to the even neighbour.
    """
    largest = 2 ** (bits - 1) - 1
    scale = weight.float().abs().amax(dim=1, keepdim=True) / largest
    # A row of zeros has no scale.
    steps = torch.round(weight.float() / torch.where(scale > 0, scale, 1.0))
    return (steps * scale).to(weight.dtype)


def _gguf(weight: torch.Tensor, form: Form) -> torch.Tensor:
    """A matrix, shape (outputs, inputs), as a GGUF file holds it."""
    from gguf import GGMLQuantizationType, quants

    kind = GGMLQuantizationType[form.upper()]
    held = quants.quantize(np.ascontiguousarray(weight.float().cpu().numpy()), kind)
    return torch.from_numpy(quants.dequantize(held, kind)).to(weight.device, weight.dtype)


def _bitsandbytes_layer(layer: Any, form: Form) -> nn.Module:
    """The layer of bitsandbytes that takes the place of a linear one; its weights are rounded on their way there."""
    import bitsandbytes

    weight = layer.weight.T.contiguous() if isinstance(layer, Conv1D) else layer.weight
    outputs, inputs = weight.shape
    kind = bitsandbytes.nn
    new: Any
    if form == "nf4":
        # As transformers does by default, the scales keep all their bits.
        kept: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
        new = kind.Linear4bit(inputs, outputs, bias=False, compute_dtype=weight.dtype, **kept)
        new.weight = kind.Params4bit(weight.detach().cpu(), requires_grad=False, **kept)
    else:
        new = kind.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, threshold=6.0)
        new.weight = kind.Int8Params(weight.detach().cpu(), requires_grad=False, has_fp16_weights=False)
    new = new.to(weight.device)
    new.bias = layer.bias
    return new
