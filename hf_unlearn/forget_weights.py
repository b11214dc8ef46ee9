"""What methods that use S do to weights: a mask, noise, and a step away, as pure functions of tensors."""

from collections.abc import Sequence

import numpy as np
import torch


def saliency_mask(gradients: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Which weights SalUn trains: those whose gradient on S is among the largest of all in magnitude.

    Fan et al. 2023, arXiv:2310.12508. As in the authors' code one limit holds for all weights of the model, and
    the gradient is that of the loss over the whole of S, of the original in evaluation mode. A weight without a
    gradient is never chosen; their code fills up with such weights, in the order of its sort.

    Args:
        gradients: of each weight tensor, of any shape.
        share: how much of the model; 0.5 published (with 10 epochs on S with random labels and on L, SGD at 0.013,
            momentum 0.9, weight decay 5e-4).

    Returns:
        For each tensor a mask of its shape.
    """
    sizes = torch.cat([gradient.abs().flatten().float().cpu() for gradient in gradients]).numpy()
    limit = np.inf
    if count := round(share * len(sizes)):
        sizes.partition(len(sizes) - count)
        limit = float(sizes[len(sizes) - count])
    return [(gradient.abs().float() >= limit) & (gradient != 0) for gradient in gradients]


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


def negate_task(base: torch.Tensor, tuned: torch.Tensor, scale: float) -> torch.Tensor:
    """base - scale * (tuned - base): away from S (Ilharco et al. 2022, arXiv:2212.04089).

    The base is the original, and tuned is the original after more training on S. Of a LoRA adapter that was trained on
    S the update is the product B A: scaling its B by -scale is the same.

    Args:
        base, tuned: one weight tensor of each.
        scale: chosen on validation data in the paper, 1 in MUSE's code.
    """
    return base.lerp(tuned, -scale)
