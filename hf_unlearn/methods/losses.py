"""The losses of the published methods, as pure functions of tensors.

A loss on S or L gives one value for every item (a labelled token, a labelled word, or a record of a classifier) or for
every record, and never an average. The caller adds them up and divides by the number of items, or records, of the
whole optimiser step. So padding, the cut of a step into batches and the number of processes cannot change the result.
All are in nats unless they say otherwise, and are made smaller. L's share is cross-entropy where nothing else is said,
and a published weight is that of S to that of L. What methods do to weights rather than outputs is in
:mod:`~hf_unlearn.methods.step_rules`.

Symbols: z logits, p = softmax(z), y the label, pi the model, ref the model at its start, sigma the logistic function.
"""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..models.layers import whole
from .items import RULED_OUT, Items, log_p

Match = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


# Likelihood


def nll(items: Items) -> torch.Tensor:
    """-log p_y, to learn what stands in S's place: random labels, or refusals.

    Refusals are IDK, Maini et al. 2024, arXiv:2401.06121: one mean over the tokens of the refusals and of L, learning
    rate 1e-5, 5 epochs.

    Returns:
        Shape (items,).
    """
    return -_label_log_p(items)


def gradient_ascent(items: Items) -> torch.Tensor:
    """log p_y (Jang et al. 2022, arXiv:2210.01504), which has no lower end.

    Alone; or, with cross-entropy on L, gradient difference, 1 to 1 (Liu et al. 2022, arXiv:2203.12817; TOFU: learning
    rate 1e-5, 5 epochs); or NegGrad+, 1 - a to a (Kurmanji et al. 2023, arXiv:2302.09880: a = 0.9999 in the code,
    learning rate 0.01, 5 epochs); or KL-constrained ascent, with :func:`kl_to_teacher` on L, 1 to 1 (TOFU).

    Returns:
        Shape (items,).
    """
    return _label_log_p(items)


def wga(items: Items, beta: float) -> torch.Tensor:
    """p_y^beta log p_y, the power without a gradient: weighted gradient ascent (Wang et al. 2025, arXiv:2502.19301).

    Args:
        items: of S.
        beta: 5 in the authors' code, 1 in open-unlearning. Learning rate 1e-5 (Llama 2) or 2e-5 (Phi 1.5), 5 epochs.

    Returns:
        Shape (items,).
    """
    return satimp(items, beta, 0.0)


def satimp(items: Items, beta1: float, beta2: float) -> torch.Tensor:
    """p_y^beta1 (1 - p_y)^beta2 log p_y, the powers without a gradient (SatImp, Yang et al. 2025, arXiv:2505.11953).

    Args:
        items: of S; cross-entropy on L weighs 0.1 against 1.
        beta1: of saturation, 5 published.
        beta2: of importance; 0.1 in the authors' README, 1 in open-unlearning. Learning rate 1e-5 (Llama 2) or 2e-5
            (Phi 1.5), 5 epochs.

    Returns:
        Shape (items,).
    """
    log_probs = _label_log_p(items)
    fixed = log_probs.detach()
    # In logarithms that have an end, for 0 * inf would be no number where p is 0.
    weights = (beta1 * fixed).exp() * (-fixed.expm1()) ** beta2
    return weights * log_probs


# Preferences


def record_log_p(items: Items) -> torch.Tensor:
    """log pi(answer | prompt), the sum of log p_y over each record; of the rows at the start it is log ref.

    Returns:
        Shape (records,).
    """
    return _per_record(_label_log_p(items), items.lengths)


def npo(items: Items, start_log_p: torch.Tensor, beta: float) -> torch.Tensor:
    """-2 / beta * log sigma(-beta * (log pi - log ref)): negative preferences (Zhang et al. 2024, arXiv:2404.05868).

    Where beta goes to 0, its gradient is that of gradient ascent on the sum over a record.

    Args:
        items: of S.
        start_log_p: log ref of each record, see :func:`record_log_p`; shape (records,).
        beta: 0.1 published. Weights 1 to 1, learning rate 1e-5, 10 epochs of which 1 is warm-up, weight decay 0.01.

    Returns:
        Shape (records,).
    """
    assert start_log_p.shape == items.lengths.shape
    return _preference(start_log_p - record_log_p(items), beta)


def dpo(
    chosen: Items,
    rejected: Items,
    chosen_start_log_p: torch.Tensor,
    rejected_start_log_p: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """-2 / beta * log sigma(beta * (log pi/ref of the chosen - log pi/ref of the rejected)).

    Rafailov et al. 2023, arXiv:2305.18290, without the factor 2 / beta that unlearning took over from NPO. The chosen
    are refusals (IdkDPO, Maini et al. 2024, arXiv:2401.06121; Zhang et al. 2024, arXiv:2404.05868) or alternates that
    the original invents (AltPO, Mekala et al. 2024, arXiv:2409.13474).

    Args:
        chosen: what is to be said in S's place.
        rejected: S, in the same order.
        chosen_start_log_p, rejected_start_log_p: log ref of each record, shape (records,).
        beta: 0.1 published. IdkDPO: weights 1 to 1, learning rate 1e-5 (2e-5 in AltPO's code), 10 epochs. AltPO:
            weights 1 to 1, learning rate 5e-5, 2 epochs with 5 alternates of each record.

    Returns:
        Shape (records,).
    """
    assert chosen.lengths.shape == rejected.lengths.shape == chosen_start_log_p.shape == rejected_start_log_p.shape
    ratio_of_chosen = record_log_p(chosen) - chosen_start_log_p
    return _preference(ratio_of_chosen - (record_log_p(rejected) - rejected_start_log_p), beta)


def simnpo(items: Items, beta: float, delta: float) -> torch.Tensor:
    """-2 / beta * log sigma(beta * (-log pi / length - delta)): NPO without a reference (SimNPO).

    Fan et al. 2024, arXiv:2410.07163. The length is the number of tokens that are predicted. The margin delta, which
    the paper calls gamma, is multiplied by beta as in the authors' code.

    Args:
        items: of S.
        beta: 2.5 with weights 0.1375 to 1 on forget05, 4.5 with 0.125 to 1 on forget10; 0.7 with 1 to 0.1 on MUSE.
            Learning rate 1e-5, 10 epochs of which 1 is warm-up, weight decay 0.01.
        delta: 0 published.

    Returns:
        Shape (records,).
    """
    return _preference(-record_log_p(items) / items.lengths - delta, beta)


# Distributions over the vocabulary, or the classes


def kl_to_teacher(items: Items, teacher: torch.Tensor) -> torch.Tensor:
    """KL(teacher || pi) = sum over v of t_v (log t_v - log p_v) with t = softmax(teacher), at labelled items alone.

    On L it holds the model to the original (TOFU and NPO; open-unlearning's mean counts prompts and padding too). In
    the bad teacher's method (Chundawat et al. 2022, arXiv:2205.08096) the teacher is the original on L and a model
    with fresh weights on S; published: temperature 1, Adam at 1e-4, 1 epoch over S and 30 % of L. The authors' code
    divides it by the number of classes.

    Args:
        items: of L, or of S.
        teacher: logits, shape (items, vocabulary or classes).

    Returns:
        Shape (items,).
    """
    return distillation(items.rows, teacher, 1.0)


def scrub_forget(items: Items, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """-T^2 KL(softmax(teacher / T) || softmax(z / T)): SCRUB's steps on S (Kurmanji et al. 2023, arXiv:2302.09880).

    They fill an epoch over S before the one over L (:func:`scrub_retain`), in the first epochs alone: 3 of 10 (small
    scale) or 2 of 3 (large scale) in the authors' notebooks, 3 of 5 for membership attacks.

    Args:
        items: of S.
        teacher: logits of the original, shape (items, vocabulary or classes).
        temperature: T: 2 (small scale), or 4.

    Returns:
        Shape (items,).
    """
    return -distillation(items.rows, teacher, temperature)


def scrub_retain(items: Items, teacher: torch.Tensor, alpha: float, gamma: float, temperature: float) -> torch.Tensor:
    """alpha T^2 KL(softmax(teacher / T) || softmax(z / T)) - gamma log p_y: SCRUB's steps on L.

    Args:
        items: of L.
        teacher: logits of the original, shape (items, vocabulary or classes).
        alpha, gamma: 0.5 and 1 (small scale: Adam at 5e-4, a tenth of it after epochs 5, 8 and 9 each, weight decay
            0.1), or 0.001 and 0.99 (large scale: SGD at 5e-4, momentum 0.9, weight decay 5e-4).
        temperature: T, as on S.

    Returns:
        Shape (items,).
    """
    return alpha * distillation(items.rows, teacher, temperature) + gamma * nll(items)


def undial(items: Items, teacher: torch.Tensor, strength: float) -> torch.Tensor:
    """-sum over v of q_v log p_v with q = softmax(teacher - strength * [v = y]), the adjusted logits of UNDIAL.

    Dong et al. 2024, arXiv:2402.10052. The mean of the authors' and of open-unlearning's code counts padding too.

    Args:
        items: of S; L has no part in it.
        teacher: logits of the original, shape (items, vocabulary or classes).
        strength: what the label's logit is lowered by; 3, 10 or 30 in the authors' search, 10 in open-unlearning.
            Learning rate 1e-4 with LoRA of rank 8 and alpha 16, 10 epochs.

    Returns:
        Shape (items,).
    """
    label = items.labels[:, None]
    lowered = teacher.scatter_add(-1, label, torch.full_like(label, -strength, dtype=teacher.dtype))
    return -(lowered.softmax(-1) * log_p(items.rows)).sum(-1)


def ce_u(items: Items) -> torch.Tensor:
    """-sum over v of q_v log p_v with q the model's own p once y is ruled out, without a gradient (CE-U).

    Yang 2025, arXiv:2503.01224. L has no part in it; the first token of an answer is left alone (:func:`skip_first`).
    In open-unlearning learning rate 1e-5, 10 epochs.

    Args:
        items: of S.

    Returns:
        Shape (items,).
    """
    # The lowest finite number: with -inf, q would be no number where a model rules out all but y.
    lowest = torch.finfo(items.rows.dtype).min
    without = items.rows.detach().scatter(-1, items.labels[:, None], lowest)
    return -(without.softmax(-1) * log_p(items.rows)).sum(-1)


# Matches with a teacher, on L: of logits of shape (items, classes), a match of shape (items,)


def distillation(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)) in nats (Hinton et al. 2015, arXiv:1503.02531)."""
    said, wanted = log_p(student / temperature), log_p(teacher / temperature)
    return temperature**2 * nn.functional.kl_div(said, wanted, reduction="none", log_target=True).sum(-1)


def entropy_gap(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """(H(softmax(student)) - H(softmax(teacher)))^2 in squared nats, H the entropy."""
    return (_entropy(student) - _entropy(teacher)).square()


def logit_gap(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean over the classes of (student - teacher)^2."""
    return (student - teacher).square().mean(-1)


# A condition on L


def flatness(items: Items) -> torch.Tensor:
    """(max z - mean z)^2 over what is not ruled out, in squared logits: the margin that PDU flattens.

    Entesari et al. 2025, arXiv:2506.05314. It is taken where a label is predicted; open-unlearning takes it one
    position later.

    Args:
        items: of S.

    Returns:
        Shape (items,).
    """
    possible = items.rows.isfinite()
    mean = items.rows.masked_fill(~possible, 0).sum(-1) / possible.sum(-1)
    return (items.rows.amax(-1) - mean).square()


def dual_step(multiplier: float, retained_loss: float, limit: float, step: float) -> float:
    """max(0, multiplier + step * (retained loss - limit)): PDU's weight of L after an optimiser step.

    The step's own loss is flatness + multiplier * (retained loss - limit), with the multiplier of before.

    Args:
        multiplier: 100 published at the beginning; it stays for the first 5 of 10 epochs.
        retained_loss: mean cross-entropy over L's items of the whole step, in nats; of all batches and processes.
        limit: 0.3 published for TOFU; the paper advises a little above the original's own loss on L.
        step: 5 published. Learning rate 1e-5.
    """
    return max(0.0, multiplier + step * (retained_loss - limit))


# Hidden states


def control_vector(features: int, steering: float, seed: int) -> torch.Tensor:
    """steering * u / ||u|| with u uniform on [0, 1)^features: where RMU sends S.

    Args:
        features: the width of the hidden states.
        steering: the length; 6.5 for Zephyr 7B, 20 by default in the authors' code, 2 in open-unlearning.
        seed: of u.

    Returns:
        Shape (features,), float32, on the CPU.
    """
    drawn = torch.rand(features, generator=torch.Generator().manual_seed(seed))
    return steering * drawn / drawn.norm()


def rmu(items: Items, target: torch.Tensor) -> torch.Tensor:
    """The mean over a record's items of the mean over features of (h - target)^2 (Li et al. 2024, arXiv:2403.03218).

    On S the target is the control vector, on L the original's own hidden states.

    Args:
        items: their rows are the hidden states h that a block gives, where a label is predicted; the authors' code
            takes all positions, padding too.
        target: shape (features,) or (items, features). Published for Zephyr 7B: the output of the 8th of 32 blocks, of
            which the 6th to 8th train their MLP's down projection; weights 1 to 1200, learning rate 5e-5, 150 batches
            of 4.

    Returns:
        Shape (records,).
    """
    distances = (items.rows - target).square().mean(-1)
    return _per_record(distances, items.lengths) / items.lengths


# The weights themselves


def l1_weight(strength: float, progress: float) -> float:
    """strength * (1 - progress): the weight of the L1 norm, which ends at nothing (Jia et al. 2023, arXiv:2304.04934).

    Args:
        strength: at the beginning.
        progress: the part of the training that is done, from 0 to 1.
    """
    return strength * (1 - progress)


def l1_norm(weights: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of the magnitudes of all weights, sharded ones included."""
    return torch.stack([whole(weight.abs().sum()) for weight in weights]).sum()


# Shared


def _label_log_p(items: Items) -> torch.Tensor:
    found = items.rows.log_softmax(-1).gather(-1, items.labels[:, None]).squeeze(-1)
    return found.clamp(min=RULED_OUT)


def _preference(margin: torch.Tensor, beta: float) -> torch.Tensor:
    return -2 / beta * nn.functional.logsigmoid(beta * margin)


def _per_record(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    # Adding by index would be in another order each time on a GPU.
    places = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
    return values.new_zeros(places.shape).masked_scatter(places, values).sum(-1)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    log_probs = log_p(logits)
    return -(log_probs.exp() * log_probs).sum(-1)
