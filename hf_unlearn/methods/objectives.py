"""What a method makes smaller on a step: the losses of :mod:`~hf_unlearn.methods.losses`, averaged and added up.

First come the sums of a term on S and one on L, then the terms on L, on S, and on more than one part. The formula of
each is in its loss. The objectives of the methods that use L alone stand at the end.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from . import losses
from .step import Objective, Part, Step, Teacher
from .step_rules import DualVariable

Term = Callable[[Step], torch.Tensor]


def own_loss(step: Step) -> torch.Tensor:
    """The model's own loss on L, which is cross-entropy."""
    return step.retained.loss


# Sums


def weighted(step: Step, *, forget: Term, retained: Term = own_loss) -> torch.Tensor:
    """forget_weight * (a term on S) + retain_weight * (a term on L, which is the model's own loss by default)."""
    loss = step.options["forget_weight"] * forget(step)
    # A pass that counts for nothing is not made.
    if step.options["retain_weight"]:
        loss = loss + step.options["retain_weight"] * retained(step)
    return loss


def parts(step: Step, *, forget: Term, retained: Term) -> torch.Tensor:
    """A term on S, or one on L, whichever is there."""
    terms = [term(step) for part, term in (("forget", forget), ("retained", retained)) if part in step.parts]
    return torch.stack(terms).sum()


# Means


def mean_of(
    step: Step,
    *,
    loss: Callable[..., torch.Tensor],
    part: Part = "forget",
    teacher: Teacher | None = None,
    options: Sequence[str] = (),
) -> torch.Tensor:
    """What a part of the batch adds to the mean of a loss over the part's items in the step.

    The loss takes the labelled items, the teacher's logits where one is named, and the named options in their order.
    """
    branch = step.parts[part]
    arguments: list[Any] = [branch.items]
    if teacher is not None:
        arguments.append(branch.teacher_logits(teacher))
    return branch.mean_of_items(loss(*arguments, *(step.options[name] for name in options)))


# On L


def own_loss_and_l1(step: Step) -> torch.Tensor:
    """The model's own loss on L + weight * ||trained weights||_1; see :func:`~hf_unlearn.methods.losses.l1_weight`."""
    return step.retained.loss + step.l1_penalty()


def taught(step: Step, *, match: losses.Match, own: float = 1.0, weight: float = 1.0) -> torch.Tensor:
    """own * (the model's own loss on L) + weight * (the mean over a step's items of the match with the original)."""
    retained = step.retained
    loss = own * retained.loss
    return loss + weight * retained.share * match(retained.rows, retained.teacher_logits()).sum()


kl_on_retained = partial(mean_of, loss=losses.kl_to_teacher, part="retained", teacher="original")

scrub_on_retained = partial(
    mean_of,
    loss=losses.scrub_retain,
    part="retained",
    teacher="original",
    options=("distil_weight", "retain_weight", "temperature"),
)


def rmu_on_retained(step: Step) -> torch.Tensor:
    """The squared distance from the original's hidden states; see :func:`~hf_unlearn.methods.losses.rmu`."""
    depth, retained = step.options["depth"], step.retained
    return retained.mean_of_records(losses.rmu(retained.hidden(depth), retained.teacher_hidden(depth)))


# On S


ascent = partial(mean_of, loss=losses.gradient_ascent)
learn = partial(mean_of, loss=losses.nll)  # S as it comes, such as with other labels
wga = partial(mean_of, loss=losses.wga, options=("beta",))
satimp = partial(mean_of, loss=losses.satimp, options=("beta1", "beta2"))
ce_u = partial(mean_of, loss=losses.ce_u)
undial = partial(mean_of, loss=losses.undial, teacher="original", options=("strength",))
scrub_on_forget = partial(mean_of, loss=losses.scrub_forget, teacher="original", options=("temperature",))
bad_teacher = partial(mean_of, loss=losses.kl_to_teacher, teacher="fresh")


def npo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.npo`."""
    forget = step.forget
    return forget.mean_of_records(losses.npo(forget.items, forget.start_log_p, step.options["beta"]))


def simnpo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.simnpo`."""
    options = step.options
    return step.forget.mean_of_records(losses.simnpo(step.forget.items, options["beta"], options["delta"]))


def rmu(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.rmu`."""
    hidden = step.forget.hidden(step.options["depth"])
    target = losses.control_vector(hidden.rows.shape[-1], step.options["steering"], step.seed)
    return step.forget.mean_of_records(losses.rmu(hidden, target.to(hidden.rows)))


# On what is to be said in S's place


def idk(step: Step) -> torch.Tensor:
    """Cross-entropy, one mean over the items of the refusals and of L."""
    instead, retained = step.instead, step.retained
    share = instead.items_in_step / (instead.items_in_step + retained.items_in_step)
    return share * instead.mean_of_items(losses.nll(instead.items)) + (1 - share) * retained.loss


def dpo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.dpo`."""
    chosen, rejected = step.instead, step.forget
    preferred = losses.dpo(
        chosen.items, rejected.items, chosen.start_log_p, rejected.start_log_p, step.options["beta"]
    )
    return rejected.mean_of_records(preferred)


# On S under a condition on L


def pdu(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.methods.losses.flatness` and :func:`~hf_unlearn.methods.losses.dual_step`."""
    forget, retained, rule = step.forget, step.retained, step.rule
    assert isinstance(rule, DualVariable)
    rule.see(retained.loss)
    over = retained.loss - step.options["limit"] * retained.share * len(retained.rows)
    return forget.mean_of_items(losses.flatness(forget.items)) + rule.multiplier * over


# Of the methods that use L alone

OWN_LOSS = Objective(own_loss)

L1_SPARSE = Objective(own_loss_and_l1, l1=True)

DISTIL = Objective(partial(taught, match=partial(losses.distillation, temperature=2.0)), teachers=("original",))

# With the factor T^2, 2 / 25 makes it twice the plain KL divergence at T = 5.
DISTIL_SOFTLY = Objective(
    partial(taught, match=partial(losses.distillation, temperature=5.0), weight=2 / 25), teachers=("original",)
)

MATCH_ENTROPY = Objective(partial(taught, match=losses.entropy_gap), teachers=("original",))

MATCH_LOGITS = Objective(partial(taught, match=losses.logit_gap, own=0.0), teachers=("original",))
