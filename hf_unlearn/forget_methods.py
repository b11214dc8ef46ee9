"""The methods that use S: the rows of the table, and what each makes smaller on a step.

An epoch is one over S. Learning rates and epochs are those that were published for language models of 1 to 8 billion
weights; where a method was published for image classifiers, the rate is that of the original's training instead.
"""

from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import torch

from . import forget_objectives as losses
from . import starts
from .forget_data import FORGET_ALONE, PAIRED, TrainingData
from .method import Method
from .retained_objectives import own_loss
from .steps import Branch, Objective, Step
from .tasks import Task

LANGUAGE: tuple[Task, ...] = ("text-generation", "text2text-generation")
NO_TEXT = "it looks at the probability of a whole answer, token by token"
TERM = Callable[[Step], torch.Tensor]
ONE_TO_ONE = MappingProxyType({"forget_weight": 1.0, "retain_weight": 1.0})


def _settings(learning_rate: float, epochs: float, **others: object) -> MappingProxyType:
    return MappingProxyType({"learning_rate": learning_rate, "num_train_epochs": epochs, **others})


# The recipe of TOFU: ten epochs, of which one is warm-up.
TOFU = _settings(1e-5, 10.0, warmup_steps=0.1, weight_decay=0.01)


# What is made smaller


def weighted(step: Step, *, forget: TERM, retained: TERM = own_loss) -> torch.Tensor:
    """forget_weight * (a term on S) + retain_weight * (a term on L, which is the model's own loss by default)."""
    loss = step.options["forget_weight"] * forget(step)
    # A pass that counts for nothing is not made.
    if step.options["retain_weight"]:
        loss = loss + step.options["retain_weight"] * retained(step)
    return loss


def ascent(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.gradient_ascent`."""
    return step.forget.mean_of_items(losses.gradient_ascent(step.forget.items))


def kl_on_retained(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.kl_to_reference`."""
    return _kl(step.retained)


def npo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.npo`."""
    forget = step.forget
    return forget.mean_of_records(losses.npo(forget.items, forget.reference, step.options["beta"]))


def simnpo(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.simnpo`."""
    options = step.options
    return step.forget.mean_of_records(losses.simnpo(step.forget.items, options["beta"], options["delta"]))


def wga(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.wga`."""
    return step.forget.mean_of_items(losses.wga(step.forget.items, step.options["beta"]))


def satimp(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.satimp`."""
    options = step.options
    return step.forget.mean_of_items(losses.satimp(step.forget.items, options["beta1"], options["beta2"]))


def ce_u(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.ce_u`."""
    return step.forget.mean_of_items(losses.ce_u(step.forget.items))


def undial(step: Step) -> torch.Tensor:
    """See :func:`~hf_unlearn.forget_objectives.undial`."""
    forget = step.forget
    return forget.mean_of_items(losses.undial(forget.items, forget.told(), step.options["strength"]))


def _kl(branch: Branch) -> torch.Tensor:
    return branch.mean_of_items(losses.kl_to_reference(branch.items, branch.told()))


FORGET_METHODS = (
    Method(
        name="gradient_ascent",
        start=starts.original,
        objective=Objective(ascent),
        data=FORGET_ALONE,
        settings=_settings(1e-5, 5.0),
        summary="The original model, trained to be wrong on the records to forget.",
        source="Jang et al. 2022, arXiv:2210.01504; TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
    ),
    Method(
        name="gradient_difference",
        start=starts.original,
        objective=Objective(partial(weighted, forget=ascent)),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-5, 5.0),
        summary="The original model, trained to be wrong on the records to forget and right on the retained ones.",
        source="Liu et al. 2022, arXiv:2203.12817; TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
    ),
    Method(
        name="neg_grad_plus",
        start=starts.original,
        objective=Objective(partial(weighted, forget=ascent)),
        data=PAIRED,
        options=MappingProxyType({"forget_weight": 0.0001, "retain_weight": 0.9999}),
        settings=MappingProxyType({"num_train_epochs": 5.0}),
        summary="The original model, trained to be right on the retained records and, with a small weight, wrong on "
        "those to forget.",
        source="NegGrad+, Kurmanji et al. 2023, arXiv:2302.09880: in their code a weight of 0.9999 on L, SGD at 0.01, "
        "5 epochs",
        ours="the rate of the original's training; an epoch is one over S",
    ),
    Method(
        name="kl_ascent",
        start=starts.original,
        objective=Objective(partial(weighted, forget=ascent, retained=kl_on_retained), teachers=("original",)),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-5, 5.0),
        summary="The original model, trained to be wrong on the records to forget and to say on the retained ones "
        "what it said before.",
        source="TOFU, Maini et al. 2024, arXiv:2401.06121 (KL minimization): rate 1e-5, 5 epochs",
    ),
    Method(
        name="npo",
        start=starts.original,
        objective=Objective(partial(weighted, forget=npo), reference=True),
        data=PAIRED,
        options=MappingProxyType({**ONE_TO_ONE, "beta": 0.1}),
        settings=TOFU,
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, trained to prefer anything to the records to forget, and on the retained ones.",
        source="NPO, Zhang et al. 2024, arXiv:2404.05868: beta 0.1, rate 1e-5, 10 epochs",
    ),
    Method(
        name="simnpo",
        start=starts.original,
        objective=Objective(partial(weighted, forget=simnpo)),
        data=PAIRED,
        options=MappingProxyType({"forget_weight": 0.125, "retain_weight": 1.0, "beta": 4.5, "delta": 0.0}),
        settings=TOFU,
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, trained to prefer anything to the records to forget, by their mean loss, and on "
        "the retained ones.",
        source="SimNPO, Fan et al. 2024, arXiv:2410.07163: on TOFU's forget10 beta 4.5 and weights 0.125 to 1, on "
        "forget05 2.5 and 0.1375 to 1; rate 1e-5, 10 epochs",
    ),
    Method(
        name="wga",
        start=starts.original,
        objective=Objective(partial(weighted, forget=wga)),
        data=PAIRED,
        options=MappingProxyType({**ONE_TO_ONE, "beta": 5.0}),
        settings=_settings(1e-5, 5.0),
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, trained to be wrong on the records to forget, most where it is most certain, and "
        "on the retained ones.",
        source="WGA, Wang et al. 2025, arXiv:2502.19301: in their code beta 5, rate 1e-5 (Llama 2), 5 epochs",
    ),
    Method(
        name="satimp",
        start=starts.original,
        objective=Objective(partial(weighted, forget=satimp)),
        data=PAIRED,
        options=MappingProxyType({"forget_weight": 1.0, "retain_weight": 0.1, "beta1": 5.0, "beta2": 0.1}),
        settings=_settings(1e-5, 5.0),
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, trained to be wrong on the tokens to forget that it knows and that matter, and "
        "on the retained ones.",
        source="SatImp, Yang et al. 2025, arXiv:2505.11953: beta1 5, beta2 0.1, weights 1 to 0.1, rate 1e-5 (Llama "
        "2), 5 epochs",
    ),
    Method(
        name="ce_u",
        start=starts.original,
        objective=Objective(ce_u),
        data=TrainingData(forget=True, retained=False, skipped=1),
        settings=_settings(1e-5, 10.0),
        tasks=("text-generation",),
        misfit="it leaves the first token of an answer alone and changes the others",
        summary="The original model, taught on the records to forget what it would say if the right token were ruled "
        "out.",
        source="CE-U, Yang 2025, arXiv:2503.01224; rate 1e-5 and 10 epochs as in open-unlearning",
    ),
    Method(
        name="undial",
        start=starts.original,
        objective=Objective(undial, teachers=("original",)),
        data=FORGET_ALONE,
        options=MappingProxyType({"strength": 10.0}),
        settings=_settings(1e-4, 10.0),
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, taught on the records to forget what it said before with the right token made "
        "less likely.",
        source="UNDIAL, Dong et al. 2024, arXiv:2402.10052: 3, 10 or 30 off the logit; rate 1e-4 with LoRA of rank 8, "
        "10 epochs",
    ),
)
