"""What methods make of L: the model's own loss on it, and terms that may be added to that."""

from collections.abc import Callable
from functools import partial

import torch

from . import losses
from .losses import Match, distillation, entropy_gap, logit_gap
from .step import Branch, Objective, Step
from .step_rules import DualVariable

TERM = Callable[[Step], torch.Tensor]


def own_loss(step: Step) -> torch.Tensor:
    """The model's own loss on L, which is cross-entropy."""
    return step.retained.loss


def own_loss_and_l1(step: Step) -> torch.Tensor:
    """The model's own loss on L + weight * ||trained weights||_1 (see ``l1_weight``)."""
    return step.retained.loss + step.l1_penalty()


def taught(step: Step, *, match: Match, own: float = 1.0, weight: float = 1.0) -> torch.Tensor:
    """own * (the model's own loss on L) + weight * (the mean of match over all items of a step).

    Args:
        step: with L.
        match: compares with the original, item by item.
        own, weight: of the terms.
    """
    loss = own * step.retained.loss
    return loss + weight * step.retained.share * match(step.retained.rows, step.retained.told()).sum()


OWN_LOSS = Objective(own_loss)

L1_SPARSE = Objective(own_loss_and_l1, l1=True)

DISTIL = Objective(partial(taught, match=partial(distillation, temperature=2.0)), teachers=("original",))

# With the factor T^2, 2 / 25 makes it twice the plain KL divergence at T = 5.
DISTIL_SOFTLY = Objective(
    partial(taught, match=partial(distillation, temperature=5.0), weight=2 / 25), teachers=("original",)
)

MATCH_ENTROPY = Objective(partial(taught, match=entropy_gap), teachers=("original",))

MATCH_LOGITS = Objective(partial(taught, match=logit_gap, own=0.0), teachers=("original",))


def weighted(step: Step, *, forget: TERM, retained: TERM = own_loss) -> torch.Tensor:
    """forget_weight * (a term on S) + retain_weight * (a term on L, which is the model's own loss by default)."""
    loss = step.options["forget_weight"] * forget(step)
    # A pass that counts for nothing is not made.
    if step.options["retain_weight"]:
        loss = loss + step.options["retain_weight"] * retained(step)
    return loss


def ascent(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.gradient_ascent`."""
    return step.forget.mean_of_items(losses.gradient_ascent(step.forget.items))


def kl_on_retained(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.kl_to_reference`."""
    return _kl(step.retained)


def npo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.npo`."""
    forget = step.forget
    return forget.mean_of_records(losses.npo(forget.items, forget.reference, step.options["beta"]))


def simnpo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.simnpo`."""
    options = step.options
    return step.forget.mean_of_records(losses.simnpo(step.forget.items, options["beta"], options["delta"]))


def wga(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.wga`."""
    return step.forget.mean_of_items(losses.wga(step.forget.items, step.options["beta"]))


def satimp(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.satimp`."""
    options = step.options
    return step.forget.mean_of_items(losses.satimp(step.forget.items, options["beta1"], options["beta2"]))


def ce_u(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.ce_u`."""
    return step.forget.mean_of_items(losses.ce_u(step.forget.items))


def undial(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.undial`."""
    forget = step.forget
    return forget.mean_of_items(losses.undial(forget.items, forget.told(), step.options["strength"]))


def rmu(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.rmu`."""
    hidden = step.forget.hidden(step.options["depth"])
    target = losses.control_vector(hidden.rows.shape[-1], step.options["steering"], step.seed)
    return step.forget.mean_of_records(losses.rmu(hidden, target.to(hidden.rows)))


def rmu_on_retained(step: Step) -> torch.Tensor:
    """The squared distance from the original's hidden states; see :func:`~hf_unlearn.methods.losses.rmu`."""
    depth, retained = step.options["depth"], step.retained
    return retained.mean_of_records(losses.rmu(retained.hidden(depth), retained.told_hidden(depth)))


def parts(step: Step, *, forget: TERM, retained: TERM) -> torch.Tensor:
    """A term on S, or one on L, whichever is there."""
    terms = [term(step) for part, term in (("forget", forget), ("retained", retained)) if part in step.parts]
    return torch.stack(terms).sum()


def learn(step: Step) -> torch.Tensor:
    """Cross-entropy on S as it comes, such as with other labels."""
    return step.forget.mean_of_items(losses.nll(step.forget.items))


def idk(step: Step) -> torch.Tensor:
    """Cross-entropy, one mean over the items of the refusals and of L."""
    instead, retained = step.instead, step.retained
    of_instead, of_retained = instead.in_step.items, retained.in_step.items
    assert of_instead is not None
    assert of_retained is not None
    share = of_instead / (of_instead + of_retained)
    return share * instead.mean_of_items(losses.nll(instead.items)) + (1 - share) * retained.loss


def dpo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.dpo`."""
    chosen, rejected = step.instead, step.forget
    preferred = losses.dpo(chosen.items, rejected.items, chosen.reference, rejected.reference, step.options["beta"])
    return rejected.mean_of_records(preferred)


def scrub_on_forget(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.scrub_forget`."""
    forget = step.forget
    return forget.mean_of_items(losses.scrub_forget(forget.items, forget.told(), step.options["temperature"]))


def scrub_on_retained(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.scrub_retain`."""
    retained, options = step.retained, step.options
    values = losses.scrub_retain(
        retained.items, retained.told(), options["distil_weight"], options["retain_weight"], options["temperature"]
    )
    return retained.mean_of_items(values)


def bad_teacher(step: Step) -> torch.Tensor:
    """KL to a model that knows nothing; see :func:`~hf_unlearn.methods.losses.kl_to_reference`."""
    forget = step.forget
    return forget.mean_of_items(losses.kl_to_reference(forget.items, forget.told("fresh")))


def pdu(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.flatness` and :func:`~hf_unlearn.methods.losses.dual_step`."""
    forget, retained, rule = step.forget, step.retained, step.rule
    assert isinstance(rule, DualVariable)
    rule.see(retained.loss)
    over = retained.loss - step.options["limit"] * retained.share * len(retained.rows)
    return forget.mean_of_items(losses.flatness(forget.items)) + rule.multiplier * over


def _kl(branch: Branch) -> torch.Tensor:
    return branch.mean_of_items(losses.kl_to_reference(branch.items, branch.told()))
