"""Where the fine-tuning begins: functions from weights to weights.

Every start is a point between the original model and an anchor that never saw S: the model it was fine-tuned from, or
a fresh initialisation. At ``alpha`` 0 it is the original, at 1 the anchor, both bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from .errors import InputError
from .models import Model, plain_model


@dataclass(frozen=True)
class StartInputs:
    """What a start may draw on.

    Attributes:
        alpha: the way from the original (0) to the anchor (1).
        seed: of fresh weights.
        trained_adapter: whether the model is an adapter that saw S; otherwise its full weights did.
        load_base: loads the model that the original was fine-tuned from.
    """

    alpha: float
    seed: int
    trained_adapter: bool
    load_base: Callable[[], PreTrainedModel]


Start = Callable[[Model, StartInputs], None]


def original(model: Model, inputs: StartInputs) -> None:
    """Begin at the original model (the plain fine-tuning on L)."""


def toward_base(model: Model, inputs: StartInputs) -> None:
    """Begin at (1 - alpha) * original + alpha * base, in place.

    For an adapter this scales its update of the weights by 1 - alpha, which is the same point.

    Args:
        model: the original; it becomes the start.
        inputs: alpha, and the base.

    Raises:
        InputError: the base has other weights than the model.
    """
    if inputs.trained_adapter:
        shrink_adapter(model, inputs.alpha, inputs.seed)
    else:
        interpolate(model, inputs.load_base(), inputs.alpha)


def shrink_perturb(model: Model, inputs: StartInputs) -> None:
    """Begin at (1 - alpha) * original + alpha * fresh initialisation, in place (Ash and Adams 2020, arXiv:1910.08475).

    Args:
        model: the original; it becomes the start.
        inputs: alpha, and the seed of the fresh initialisation.
    """
    if inputs.trained_adapter:
        shrink_adapter(model, inputs.alpha, inputs.seed)
    else:
        interpolate(model, fresh_model(plain_model(model), inputs.seed), inputs.alpha)


def fresh_model(like: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with newly drawn weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(like)(like.config)
        nn.Module.to(fresh, like.dtype)
        return fresh


@torch.no_grad()
def interpolate(model: Model, anchor: PreTrainedModel, alpha: float) -> None:
    """Move every weight of a model by alpha toward the anchor's, in place.

    Args:
        model: a full model, or one under a new adapter, whose own weights then stay.
        anchor: a model of the same shape.
        alpha: 0 leaves the model as it is, 1 copies the anchor; both are exact, not rounded.

    Raises:
        InputError: the anchor lacks a weight or has it in another shape.
    """
    anchor_weights = dict(anchor.named_parameters())
    for name, weight in model.named_parameters():
        if "lora_" in name:
            continue
        target = anchor_weights.get(_plain_name(name))
        if target is None or target.shape != weight.shape:
            found = "has no such weight" if target is None else f"has the shape {tuple(target.shape)}"
            raise InputError(
                f"The base is not what this model was fine-tuned from: for {_plain_name(name)} of shape "
                f"{tuple(weight.shape)} it {found}."
            )
        _mix(weight, target.to(weight.device, weight.dtype), alpha)


@torch.no_grad()
def shrink_adapter(model: nn.Module, alpha: float, seed: int) -> None:
    """Scale the update of a LoRA adapter by 1 - alpha, in place; at 1 the adapter is drawn afresh.

    Args:
        model: a model with LoRA layers.
        alpha: how much of the update to take away.
        seed: of a fresh adapter.

    Raises:
        InputError: the adapter is not LoRA.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers:
        raise InputError("Only LoRA adapters can be moved toward their base; merge this adapter first.")
    if alpha == 1:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in layers:
                for adapter in layer.active_adapters:
                    layer.reset_lora_parameters(adapter, init_lora_weights=True)
    else:
        for name, weight in model.named_parameters():
            if ".lora_B." in name or ".lora_embedding_B." in name:
                weight.mul_(1 - alpha)
    for wrapper in model.modules():
        if isinstance(wrapper, ModulesToSaveWrapper):
            for adapter in wrapper.active_adapters:
                originals = wrapper.original_module.parameters()
                for weight, target in zip(wrapper.modules_to_save[adapter].parameters(), originals, strict=True):
                    _mix(weight, target, alpha)


def _mix(weight: torch.Tensor, target: torch.Tensor, alpha: float) -> None:
    if alpha == 1:
        weight.copy_(target)
    elif alpha != 0:
        weight.lerp_(target, alpha)


def _plain_name(name: str) -> str:
    """The name of a weight as in the model without PEFT's wrappers."""
    name = name.removeprefix("base_model.model.")
    for wrapper in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(wrapper, "")
    return name
