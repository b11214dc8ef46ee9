"""The classes of a classifier: fewer of them, or as another classifier numbers them."""

import copy
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from .layers import plain_name
from .loading import Model, plain_model

# The smallest share that float32 tells from none: the probability of a class that a model lacks.
LEAST = torch.finfo(torch.float32).eps


def class_names_of(config: PretrainedConfig) -> tuple[str, ...]:
    """The names of a model's classes in the order of their ids."""
    names = {int(i): name for i, name in (config.id2label or {}).items()}
    return tuple(names.get(i, str(i)) for i in range(max(names, default=-1) + 1))


def with_classes(config: PretrainedConfig, kept: Sequence[int]) -> PretrainedConfig:
    """A copy of a configuration with some of its classes, given by their ids, numbered anew."""
    names, fewer = class_names_of(config), copy.deepcopy(config)
    fewer.id2label = {new: names[old] for new, old in enumerate(kept)}
    fewer.label2id = {name: i for i, name in fewer.id2label.items()}
    return fewer


@torch.no_grad()
def keep_classes(model: Model, kept: Sequence[int]) -> None:
    """Drop all but some classes of a classifier, in place: their names, and their columns of the head."""
    plain = plain_model(model)
    fewer = with_classes(plain.config, kept)
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in type(plain)(fewer).named_parameters()}
    for name, module in model.named_modules():
        for own, weight in list(module.named_parameters(recurse=False)):
            shape = shapes.get(plain_name(f"{name}.{own}"), weight.shape)
            if shape != weight.shape:
                axis = next(i for i, (old, new) in enumerate(zip(weight.shape, shape, strict=True)) if old != new)
                rows = weight.index_select(axis, torch.tensor(kept, device=weight.device))
                setattr(module, own, nn.Parameter(rows, requires_grad=weight.requires_grad))
        if isinstance(module, nn.Linear):
            module.out_features = module.weight.shape[0]
        if "num_labels" in vars(module):
            cast(Any, module).num_labels = len(kept)
    plain.config.id2label, plain.config.label2id = fewer.id2label, fewer.label2id


class _InClasses(nn.Module):
    """A classifier whose logits stand in the order of other classes than its own."""

    def __init__(self, model: nn.Module, places: list[int], number: int):
        super().__init__()
        self.model, self.places, self.number = model, places, number

    def forward(self, **inputs: torch.Tensor) -> Any:
        output = self.model(**inputs)
        output.logits = _placed(output.logits, self.places, self.number)
        return output


def _placed(own: torch.Tensor, places: Sequence[int], number: int) -> torch.Tensor:
    least = own.float().logsumexp(-1, keepdim=True) + math.log(LEAST)
    logits = least.to(own.dtype).repeat(*[1] * (own.ndim - 1), number)
    logits[..., list(places)] = own
    return logits


def in_places(logits: torch.Tensor, own: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """The logits of a classifier's ``own`` classes among ``names``; a class that it lacks gets the least probability.

    The logits themselves where no names are given, or these are its own.
    """
    if not names or tuple(own) == tuple(names):
        return logits
    return _placed(logits, [list(names).index(name) for name in own], len(names))


def in_classes(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """A classifier to be scored by the classes of another one, of which it may lack some.

    A class that it lacks gets the probability 1.2e-7. The model itself where its classes are these, or no names are
    given, or it has classes of its own besides.
    """
    if not names or not isinstance(model, PreTrainedModel | PeftModel):
        return model
    own = class_names_of(plain_model(model).config)
    if own == tuple(names) or not set(own) <= set(names):
        return model
    return _InClasses(model, [list(names).index(name) for name in own], len(names))
