"""What methods that use S do to weights, against numpy."""

import numpy as np
import pytest
import torch

from hf_unlearn.methods.resets import fisher_noise_scale
from hf_unlearn.methods.step_rules import negate_task, saliency_mask

from .test_losses import draw

# The zero is of a weight that no record of L would move.
FISHER = np.array([[1e-9, 0.0, 3e-2], [0.2, 5.0, 1e-5]])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_salient_weights_are_the_largest_of_all(share: float) -> None:
    gradients = [draw(4, 5), 10 * draw(6, seed=1), draw(2, 3, 3, seed=2)]
    sizes = np.concatenate([np.abs(g.numpy()).ravel() for g in gradients])
    chosen = np.argsort(-sizes)[: round(share * len(sizes))]
    found = saliency_mask(gradients, share)
    assert [mask.shape for mask in found] == [g.shape for g in gradients]
    assert np.flatnonzero(np.concatenate([mask.numpy().ravel() for mask in found])).tolist() == sorted(chosen.tolist())


def test_weights_without_a_gradient_are_not_salient() -> None:
    gradients = [torch.zeros(3, 4), torch.tensor([0.5, -2.0])]
    theirs = torch.cat([g.flatten() for g in gradients]).abs().argsort(descending=True, stable=True)[:7]
    assert (theirs < 12).sum() == 5, "their sort fills up with embeddings that S does not use"
    assert [mask.sum().item() for mask in saliency_mask(gradients, 0.5)] == [0, 2]
    half = [gradient.bfloat16() for gradient in gradients]
    assert [mask.sum().item() for mask in saliency_mask(half, 0.1)] == [0, 1]


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_fisher_noise_against_its_formula(power: float, head: bool, flat: bool) -> None:
    fisher = FISHER[0] if flat else FISHER
    limit = 100 if head else 1000
    variance = np.array([min(limit, 1 / (f + 1e-8) ** power) for f in fisher.ravel()]).reshape(fisher.shape) * 1e-6
    if not flat:
        variance = np.repeat(variance.sum(1, keepdims=True) / 3, 3, axis=1)
    if head or flat:
        variance = 10 * variance
    found = fisher_noise_scale(torch.from_numpy(fisher), 1e-6, power, head)
    np.testing.assert_allclose(found.numpy(), np.sqrt(variance), rtol=1e-12)


def test_a_task_is_negated_not_its_weights() -> None:
    base, tuned = draw(4, 5), draw(4, 5, seed=1)
    found = negate_task(base, tuned, 0.7).numpy()
    np.testing.assert_allclose(found, base.numpy() - 0.7 * (tuned.numpy() - base.numpy()), rtol=0, atol=1e-10)
    theirs = base - 0.7 * tuned
    assert float((theirs - base).abs().max()) > 1, "a model whose tuning changed nothing would be changed"
    assert torch.equal(negate_task(base, base, 0.7), base)
    assert torch.equal(negate_task(base, tuned, 0.0), base)


def test_a_negated_adapter_is_its_b_scaled() -> None:
    base, a, b = draw(4, 5), draw(2, 5, seed=1), draw(4, 2, seed=2)
    torch.testing.assert_close(negate_task(base, base + b @ a, 0.5), base + (-0.5 * b) @ a)


def test_in_half_precision_a_task_is_negated_as_in_single() -> None:
    base, tuned = draw(64, 64).bfloat16(), draw(64, 64, seed=1).bfloat16()
    exact = negate_task(base.float(), tuned.float(), 0.7).bfloat16()
    found = negate_task(base, tuned, 0.7)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, exact)
