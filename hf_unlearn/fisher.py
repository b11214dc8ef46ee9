"""Fisher forgetting: a start with noise where L leaves a weight free."""

import torch

from .forget_weights import fisher_noise_scale
from .models.layers import names_after, plain_name
from .models.loading import Model, plain_model
from .starts import StartInputs


def fisher_noise(model: Model, inputs: StartInputs) -> None:
    """Begin at the original with noise of the size that the Fisher information of L allows, in place.

    Golatkar et al. 2019, arXiv:1911.04933; see :func:`~hf_unlearn.forget_weights.fisher_noise_scale`. The information
    is exact: for each record of L a pass back for each class.

    Args:
        model: a classifier of texts, in the place of the original.
        inputs: alpha, the seed of the noise, and L.
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
