"""Starts that reset a part of the weights: layers, single weights, or all of them a little, by noise.

Layers that are reset go back to what the original's training began at: the base where it is known, else a fresh
initialisation. Single weights are always reset to a fresh initialisation, for the base's own value of a weight that
hardly moved is the original's.
"""

from collections.abc import Iterable

import torch
from torch import nn

from ..models.layers import (
    blocks_of,
    last_blocks,
    matrices,
    names_after,
    names_from,
    names_of,
    placed_like,
    plain_name,
    whole,
)
from ..models.loading import Model, plain_model
from .starts import StartInputs, counterpart, fresh_model, move_to_anchor


def reset_last(model: Model, inputs: StartInputs) -> None:
    """Begin with the last blocks and what follows them reset (EU-k, Goel et al. 2022, arXiv:2201.06640)."""
    plain = plain_model(model)
    move_to_anchor(model, inputs, 1, names_from(plain, last_blocks(plain, inputs.last_layers or 1)[0]))


def reset_ends(model: Model, inputs: StartInputs) -> None:
    """Begin with the first block and what follows the last one reset; a head that is tied to the embeddings stays."""
    plain = plain_model(model)
    move_to_anchor(model, inputs, 1, names_of(plain, blocks_of(plain)[0]) | names_after(plain))


def reset_head(model: Model, inputs: StartInputs) -> None:
    """Begin with what follows the last block reset; a head that is tied to the embeddings stays."""
    move_to_anchor(model, inputs, 1, names_after(plain_model(model)))


def noise(model: Model, inputs: StartInputs) -> None:
    """Begin with normal noise on every weight matrix, or on those of an adapter; alpha is its deviation."""
    add_noise((weight for _, weight in matrices(model, inputs.trained_adapter)), inputs.alpha, inputs.seed)


@torch.no_grad()
def add_noise(weights: Iterable[nn.Parameter], scale: float, seed: int) -> None:
    """Add normal noise to matrices, in place; it is the same on every device and however they are sharded.

    ``scale`` is its standard deviation, in units of the standard deviation of each matrix's entries.
    """
    if scale == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        spread = whole(weight).float().std(correction=0).cpu()
        drawn = torch.randn(weight.shape, generator=generator) * (scale * spread)
        weight.add_(placed_like(drawn, weight))


@torch.no_grad()
def prune(model: Model, inputs: StartInputs) -> None:
    """Begin with the smallest entries of the weight matrices at zero (magnitude pruning, all matrices as one)."""
    for _, weight, small in _smallest(model, inputs.alpha):
        weight.masked_fill_(small, 0)


@torch.no_grad()
def reset_smallest(model: Model, inputs: StartInputs) -> None:
    """Begin with the smallest entries of the weight matrices reset, all matrices taken as one."""
    fresh = dict(matrices(fresh_model(plain_model(model), inputs.seed), False))
    for name, weight, small in _smallest(model, inputs.alpha):
        weight.copy_(torch.where(small, fresh[name].to(weight.device), weight))


@torch.no_grad()
def reset_least_changed(model: Model, inputs: StartInputs) -> None:
    """Begin with those entries of each weight matrix reset that the fine-tuning changed least.

    The challenge's third solution resets those whose gradients on L and on S differ least, for which it needs S. This
    start must do without S and takes the change since the base for a sign of what the fine-tuning needs; it is not the
    same choice. Raises InputError when the base has other weights.
    """
    assert inputs.load_base is not None
    base = dict(matrices(inputs.load_base(), False))
    fresh = dict(matrices(fresh_model(plain_model(model), inputs.seed), False))
    for name, weight in matrices(model, False):
        before = counterpart(base, name, weight).to(weight.device)
        change = (weight.float() - before.float()).abs().flatten()
        # Sorted and not cut at a value, for what a frozen layer has is all unchanged.
        least = change.argsort(stable=True)[: round(inputs.alpha * len(change))]
        weight.view(-1)[least] = fresh[name].to(weight.device).flatten()[least]


def _smallest(model: Model, share: float) -> list[tuple[str, nn.Parameter, torch.Tensor]]:
    """Each weight matrix with its name and a mask of its entries that are among the smallest of all in magnitude."""
    weights = matrices(model, False)
    sizes = torch.cat([weight.detach().abs().flatten().float().cpu() for _, weight in weights])
    count = round(share * len(sizes))
    limit = float(sizes.kthvalue(count).values) if count else -1.0
    return [(name, weight, weight.abs().float() <= limit) for name, weight in weights]


def fisher_noise(model: Model, inputs: StartInputs) -> None:
    """Begin at the original with noise of the size that the Fisher information of L allows, in place.

    Golatkar et al. 2019, arXiv:1911.04933; see :func:`fisher_noise_scale`. The information is exact: for each record
    of L a pass back for each class, so the model is a classifier of texts.
    """
    if inputs.alpha == 0:
        return
    assert inputs.items is not None
    named = [(plain_name(name), weight) for name, weight in model.named_parameters() if weight.requires_grad]
    weights, records = [weight for _, weight in named], 0
    information = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    plain = plain_model(model)
    classes = int(plain.config.num_labels or 0)
    for items in inputs.items(model, "retained", 1, classes):
        log_p = items.rows[0].log_softmax(-1)
        records += 1
        for label, probability in enumerate(log_p.detach().exp()):
            gradients = torch.autograd.grad(log_p[label], weights, retain_graph=True, allow_unused=True)
            for total, gradient in zip(information, gradients, strict=True):
                if gradient is not None:
                    total.addcmul_(gradient.float(), gradient.float(), value=float(probability))
    after = names_after(plain)
    draw = torch.Generator().manual_seed(inputs.seed)
    with torch.no_grad():
        for (name, weight), total in zip(named, information, strict=True):
            head = name in after and len(weight) == classes
            scale = fisher_noise_scale(total / records, inputs.alpha, 1.0, head)
            noise = torch.randn(weight.shape, generator=draw).to(weight.device)
            weight.add_((scale * noise).to(weight.dtype))


def fisher_noise_scale(fisher: torch.Tensor, alpha: float, power: float, head: bool) -> torch.Tensor:
    """sqrt(alpha * F^-power): the standard deviation of the noise of Fisher forgetting.

    Golatkar et al. 2019, arXiv:1911.04933. As in the authors' code, 1e-8 is added to F, F^-power is at most 1e3 or, in
    the head, 1e2, the variance of a matrix is averaged over the inputs of each output, and it is ten times as large in
    the head, in biases and in norms. F is the mean over L of the sum over y of p_y (d log p_y / d weight)^2.

    Args:
        fisher: the diagonal F for one weight tensor, of any shape.
        alpha: with power 1 published 1e-6 (small scale) and 1e-7 (large scale).
        power: 1 in the authors' code; 1/2 in the paper, where alpha is the root of lambda sigma_h^2.
        head: whether the tensor belongs to the layer that gives the classes; their code asks whether its length is the
            number of classes.

    Returns:
        Shape of fisher.
    """
    variance = alpha * ((fisher + 1e-8) ** -power).clamp(max=1e2 if head else 1e3)
    if fisher.ndim > 1:
        variance = variance.mean(1, keepdim=True).expand_as(fisher)
    return (10 * variance if head or fisher.ndim == 1 else variance).sqrt()
