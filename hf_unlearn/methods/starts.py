"""Where the fine-tuning begins: functions that turn the original model, in place, into a start.

These move it toward an anchor that never saw S: the base model, or a fresh initialisation. At ``alpha`` 0 such a start
is the original, at 1 the anchor, both bit for bit. Starts that change a part of the weights are in
:mod:`~hf_unlearn.methods.resets`.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError
from ..models.layers import own_weights, placed_like, plain_name
from ..models.loading import Model, plain_model, quantised_bits
from .items import Items


@dataclass(frozen=True)
class StartInputs:
    """What a start may draw on.

    Attributes:
        alpha: the strength of the method; 0 leaves the original as it is.
        seed: of whatever is drawn.
        trained_adapter: whether the model is an adapter that saw S; otherwise its full weights did.
        load_base: loads the base model; None when that is unknown.
        load_checkpoint: loads a checkpoint of the original's training; None when none was named.
        last_layers: how many blocks at the end are to be trained; None for all.
        options: the method's settings besides alpha.
        items: runs a model in evaluation mode on the examples of "forget" or "retained", so many at a time (as many
            as are measured at a time when None), and gives the labelled items of each batch, for so many gradients
            each, which it counts.
        error: the share of its items that the model gets wrong, on the half of "forget" or "holdout" that does not
            judge; None without both.
        folder: the output folder.
    """

    alpha: float
    seed: int
    trained_adapter: bool
    load_base: Callable[[], PreTrainedModel] | None = None
    load_checkpoint: Callable[[], Model] | None = None
    last_layers: int | None = None
    options: Mapping[str, float] = field(default_factory=dict)
    items: Callable[[Model, str, int | None, int], Iterator[Items]] | None = None
    error: Callable[[str], float] | None = None
    folder: Path | None = None


Start = Callable[[Model, StartInputs], None]


def original(model: Model, inputs: StartInputs) -> None:
    """Begin at the original model (the plain fine-tuning on L)."""


def toward_base(model: Model, inputs: StartInputs) -> None:
    """Begin at (1 - alpha) * original + alpha * base, in place; raises InputError when the base has other weights.

    For an adapter this scales its update of the weights by 1 - alpha, which is the same point.
    """
    assert inputs.trained_adapter or inputs.load_base is not None
    move_to_anchor(model, inputs, inputs.alpha)


def shrink_perturb(model: Model, inputs: StartInputs) -> None:
    """Begin at (1 - alpha) * original + alpha * fresh initialisation, in place (Ash and Adams 2020, arXiv:1910.08475).

    The fresh initialisation is the noise: it has the scale that the architecture gives each of its weights. One alpha
    stands for both of their parameters, what the weights are shrunk by and what the noise is scaled by.
    """
    move_to_anchor(model, replace(inputs, load_base=None), inputs.alpha)


def toward_anchor(model: Model, inputs: StartInputs) -> None:
    """Begin at (1 - alpha) * original + alpha * anchor: the base where it is known, else a fresh initialisation."""
    move_to_anchor(model, inputs, inputs.alpha)


def checkpoint(model: Model, inputs: StartInputs) -> None:
    """Begin at a checkpoint of the original's own training (rewind-to-delete, Mu and Klabjan 2024, arXiv:2409.09778).

    The checkpoint counts as shaped by S, unless it holds the proof that no row of S had been used by then (see
    :mod:`~hf_unlearn.training.first_use_of_rows`). Raises InputError when the checkpoint has other weights.
    """
    assert inputs.load_checkpoint is not None
    interpolate(model, inputs.load_checkpoint(), 1, adapter=inputs.trained_adapter)


def move_to_anchor(model: Model, inputs: StartInputs, alpha: float, chosen: Collection[str] | None = None) -> None:
    """Move weights by alpha toward the base where it is known, else toward a fresh initialisation, in place.

    Of an adapter that saw S the anchor is an adapter drawn afresh, which changes nothing in the model under it.
    ``chosen`` are the plain names of the weights to move, None for all.
    """
    if inputs.trained_adapter:
        _move_adapter(model, inputs, alpha, chosen)
        return
    anchor = inputs.load_base() if inputs.load_base else fresh_model(plain_model(model), inputs.seed)
    interpolate(model, anchor, alpha, chosen)


def fresh_model(like: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with newly drawn weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(like)(like.config)
        nn.Module.to(fresh, like.dtype)
        return fresh


@torch.no_grad()
def interpolate(
    model: Model, anchor: Model, alpha: float, chosen: Collection[str] | None = None, *, adapter: bool = False
) -> None:
    """Move every weight of a model, or the chosen ones by their plain names, by alpha toward the anchor's, in place.

    At alpha 0 the model stays as it is, at 1 the anchor is copied; both are exact, not rounded. Under a new adapter
    the model's own weights are moved; with ``adapter`` those of an adapter that the anchor has too. Raises InputError
    when the anchor lacks a weight or has it in another shape.
    """
    weights = model.named_parameters() if adapter else own_weights(model)
    anchor_weights = dict(anchor.named_parameters())
    for name, weight in weights:
        if (weight.requires_grad or not adapter) and (chosen is None or name in chosen):
            _mix(weight, counterpart(anchor_weights, name, weight), alpha)
    if chosen is None and not adapter:
        buffers = dict(plain_model(anchor).named_buffers())
        for name, buffer in plain_model(model).named_buffers():
            if buffer.is_floating_point() and name in buffers and buffers[name].shape == buffer.shape:
                _mix(buffer, buffers[name], alpha)


def counterpart(anchor: Mapping[str, torch.Tensor], name: str, weight: torch.Tensor) -> torch.Tensor:
    """The weight of an anchor that stands for one of the model; raises InputError when there is none of its shape."""
    target = anchor.get(name)
    if target is None or target.shape != weight.shape:
        found = "has no such weight" if target is None else f"has the shape {tuple(target.shape)}"
        raise InputError(
            "The base model or checkpoint is not what this model was fine-tuned from: for "
            f"{name} of shape {tuple(weight.shape)} it {found}."
        )
    return target


def _move_adapter(model: Model, inputs: StartInputs, alpha: float, chosen: Collection[str] | None = None) -> None:
    """Move an adapter by alpha toward its base; all the way, what lies under it is read from the base again."""
    quantised = quantised_bits(plain_model(model).config) is not None
    all_the_way = alpha == 1 and chosen is None and not quantised
    base = inputs.load_base() if all_the_way and inputs.load_base is not None else None
    if base is not None:
        wrap_anew(model, base, inputs.seed)
    else:
        shrink_adapter(model, alpha, inputs.seed, chosen)


@torch.no_grad()
def wrap_anew(model: Model, base: PreTrainedModel, seed: int) -> None:
    """Copy all that a base has under a fresh adapter of the same kind: weights, biases, magnitudes, buffers."""
    assert isinstance(model, PeftModel)
    config = model.active_peft_config
    # What draws its first matrices from the base's weights would change those of the base, also when it is loaded.
    config.init_lora_weights = True
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = get_peft_model(base, copy.deepcopy(config), adapter_name=model.active_adapter)
    targets = dict([*fresh.named_parameters(), *fresh.named_buffers()])
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        _mix(weight, counterpart(targets, name, weight), 1)


@torch.no_grad()
def shrink_adapter(model: nn.Module, alpha: float, seed: int, chosen: Collection[str] | None = None) -> None:
    """Scale the update of a LoRA adapter by 1 - alpha, in place; at 1 the adapter is drawn afresh.

    ``chosen`` are the plain names of the weights whose update is meant, None for all. Raises InputError when the
    adapter is not LoRA, or trains what this does not reach.
    """
    layers = [(plain_name(name), module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise InputError("Only a LoRA adapter can be moved toward its base model; merge this adapter first.")
    _refuse_other_trained(model)
    meant = [module for name, module in layers if chosen is None or f"{name}.weight" in chosen]
    if alpha == 1:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in meant:
                for adapter in layer.active_adapters:
                    layer.reset_lora_parameters(adapter, init_lora_weights=True)
    else:
        for layer in meant:
            for weight in (*layer.lora_B.parameters(), *layer.lora_embedding_B.values()):
                weight.mul_(1 - alpha)
    for name, wrapper in model.named_modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for adapter in wrapper.active_adapters:
                originals = wrapper.original_module.parameters()
                saved = wrapper.modules_to_save[adapter].named_parameters(plain_name(name))
                for (own, weight), target in zip(saved, originals, strict=True):
                    if chosen is None or own in chosen:
                        _mix(weight, target, alpha)


def _refuse_other_trained(model: nn.Module) -> None:
    """Raise InputError where an adapter trains weights besides LoRA's matrices and modules that are saved whole."""
    reached: set[int] = set()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            parts = (module.lora_A, module.lora_B, module.lora_embedding_A, module.lora_embedding_B)
            reached |= {id(weight) for part in parts for weight in part.parameters()}
        elif isinstance(module, ModulesToSaveWrapper):
            reached |= {id(weight) for weight in module.modules_to_save.parameters()}
    others = sum(weight.requires_grad and id(weight) not in reached for weight in model.parameters())
    if others:
        raise InputError(
            f"The adapter trains {others} weights besides its LoRA matrices, such as biases or DoRA's magnitudes, and "
            "they cannot be moved toward the base model; merge the adapter, and unlearn all weights."
        )


def _mix(weight: torch.Tensor, target: torch.Tensor, alpha: float) -> None:
    if alpha == 1:
        weight.copy_(placed_like(target, weight))
    elif alpha != 0:
        weight.lerp_(placed_like(target, weight), alpha)
