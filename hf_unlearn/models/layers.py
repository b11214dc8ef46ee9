"""The parts of a model: its blocks, how to run or train some of them, and the names and sizes of its weights."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ..errors import InputError
from .loading import Model, plain_model

# What PEFT puts into the name of a weight that it wraps.
WRAPPERS = (".base_layer", ".original_module", ".modules_to_save.default")

TRAINED_ENDS = 3  # blocks whose last matrix RMU trains


# Blocks


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks, of both stacks, in the order of the forward pass; raises InputError when unknown."""
    if model.config.is_encoder_decoder:
        stacks = (model.get_encoder(), model.get_decoder())
        found = [next((m for m in stack.modules() if isinstance(m, nn.ModuleList)), None) for stack in stacks]
    else:
        total = model.config.get_text_config().num_hidden_layers
        found = [next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == total), None)]
    blocks = [block for part in found if part is not None for block in part]
    if None in found or not blocks:
        raise InputError(f"The blocks of a {type(model).__name__} are unknown; use a method for the whole model.")
    return blocks


def blocks_until(model: PreTrainedModel, depth: float) -> int:
    """How many blocks lie before a depth between 0 and 1; at least one."""
    return max(1, round(depth * len(blocks_of(model))))


def last_blocks(model: PreTrainedModel, layers: int) -> list[nn.Module]:
    """The last so many transformer blocks; raises InputError when the model has fewer."""
    blocks = blocks_of(model)
    if layers > len(blocks):
        raise InputError(f"train_last_layers={layers} is not possible: the model has {len(blocks)} blocks.")
    return blocks[len(blocks) - layers :]


@contextmanager
def first_blocks(model: PreTrainedModel, count: int) -> Iterator[tuple[list[torch.Tensor], dict[str, Any]]]:
    """A decoder that stops after so many of its blocks, and is whole again afterwards.

    Gives a list into which a forward pass puts the hidden states, shape (records, positions, features), and what the
    pass has to be called with. What follows the blocks runs on one position alone, where the model can do so.
    """
    blocks = blocks_of(model)
    holder, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == len(blocks) and child[0] is blocks[0]
    )
    whole_stack, states = getattr(holder, name), []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hook = blocks[count - 1].register_forward_hook(keep)
    setattr(holder, name, nn.ModuleList(blocks[:count]))
    known = inspect.signature(model.forward).parameters
    try:
        yield states, {key: value for key, value in (("use_cache", False), ("logits_to_keep", 1)) if key in known}
    finally:
        setattr(holder, name, whole_stack)
        hook.remove()


# Training some of them


def freeze_all_but_last(model: PreTrainedModel, layers: int) -> None:
    """Freeze all that comes before the last so many blocks; raises InputError when that leaves nothing to train."""
    trained = names_from(model, last_blocks(model, layers)[0])
    for name, weight in model.named_parameters():
        if plain_name(name) not in trained:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError(f"train_last_layers={layers} leaves nothing to train: the adapter has no layer there.")


def freeze_all_but_ends(model: PreTrainedModel, last: int) -> None:
    """Freeze all but the last weight matrix, or the last adapter, of three blocks, as RMU does.

    ``last`` is the number of the last of these blocks, counted from 1. Raises InputError when that leaves nothing to
    train.
    """
    ends: set[int] = set()
    for block in blocks_of(model)[max(0, last - TRAINED_ENDS) : last]:
        adapters = [module for module in block.modules() if isinstance(module, LoraLayer)]
        end = adapters[-1].parameters() if adapters else [w for w in block.parameters() if w.ndim >= 2][-1:]
        ends |= {id(weight) for weight in end if weight.requires_grad}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in ends)
    if not ends:
        raise InputError("The method trains a few blocks in the middle alone, and the adapter has no layer there.")


# Names


def plain_name(name: str) -> str:
    """The name of a weight or module as in the model without PEFT's wrappers."""
    name = name.removeprefix("base_model.model.")
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def names_of(model: PreTrainedModel, block: nn.Module) -> set[str]:
    """The plain names of a block's weights."""
    own = {id(weight) for weight in block.parameters()}
    return {plain_name(name) for name, weight in model.named_parameters() if id(weight) in own}


def names_from(model: PreTrainedModel, block: nn.Module) -> set[str]:
    """The plain names of a block's weights and of all that come after them in the forward pass.

    Weights are defined in that order. What is tied to the embeddings counts as those, at the beginning.
    """
    first, named = next(iter(block.parameters())), list(model.named_parameters())
    start = next(i for i, (_, weight) in enumerate(named) if weight is first)
    return {plain_name(name) for name, _ in named[start:]}


def names_after(model: PreTrainedModel) -> set[str]:
    """The plain names of the weights after the last block: the last norm and the head, unless it is tied."""
    last = blocks_of(model)[-1]
    return names_from(model, last) - names_of(model, last)


def names_until(model: PreTrainedModel, count: int) -> set[str]:
    """The plain names of the weights that the hidden states after so many blocks rest on."""
    blocks = blocks_of(model)
    after = names_from(model, blocks[count]) if count < len(blocks) else names_after(model)
    return {plain_name(name) for name, _ in model.named_parameters()} - after


# Weights


def own_weights(model: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of the model itself with their plain names, without those of LoRA adapters."""
    for name, weight in model.named_parameters():
        if "lora_" not in name:
            yield plain_name(name), weight


def matrices(model: Model, trained_adapter: bool) -> list[tuple[str, nn.Parameter]]:
    """The weight matrices of the model, or of its trained adapter, with their names.

    Embeddings, what is tied to them, norms and biases are left out.
    """
    embeddings = {id(module.weight) for module in plain_model(model).modules() if isinstance(module, nn.Embedding)}
    named = model.named_parameters() if trained_adapter else own_weights(model)
    return [
        (name, weight)
        for name, weight in named
        if weight.ndim >= 2 and id(weight) not in embeddings and (weight.requires_grad or not trained_adapter)
    ]


def placed_like(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Whole values on the device and in the type of a weight, and sharded over the processes where it is."""
    values = values.to(weight.device, weight.dtype)
    if isinstance(weight, DTensor):
        return distribute_tensor(values, weight.device_mesh, weight.placements)
    return values


def whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight gathered from the processes that share it."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def flops_per_token(model: nn.Module, until: Collection[str] | None = None) -> tuple[float, float]:
    """Floating point operations per token of a training step and of a forward pass; embeddings are left out.

    Only the weights with the plain names ``until`` are run; all when None. Weights come in the order of the pass.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights = [
        weight
        for name, weight in model.named_parameters()
        if id(weight) not in embeddings and (until is None or plain_name(name) in until)
    ]
    # bitsandbytes packs two weights of four bits into a byte.
    sizes = [weight.numel() * (2 if type(weight).__name__ == "Params4bit" else 1) for weight in weights]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    first = next((i for i, weight in enumerate(weights) if weight.requires_grad), len(weights))
    return 2.0 * (sum(sizes) + sum(sizes[first:]) + trained), 2.0 * sum(sizes)
