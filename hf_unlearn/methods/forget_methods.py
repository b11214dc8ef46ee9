"""The methods that use S: the rows of the table, and what each makes smaller on a step.

An epoch is one over S. Learning rates and epochs are those that were published for language models of 1 to 8 billion
weights; where a method was published for image classifiers, the rate is that of the original's training instead.
"""

from functools import partial
from types import MappingProxyType

from ..models.tasks import Task
from . import starts
from .forget_batches import FORGET_ALONE, PAIRED, TrainingData
from .method import Method
from .objectives import (
    ascent,
    bad_teacher,
    ce_u,
    dpo,
    idk,
    kl_on_retained,
    learn,
    npo,
    own_loss,
    parts,
    pdu,
    rmu,
    rmu_on_retained,
    satimp,
    scrub_on_forget,
    scrub_on_retained,
    simnpo,
    undial,
    weighted,
    wga,
)
from .resets import fisher_noise
from .step import Objective, Part
from .step_rules import DualVariable, KeepUnsalient, NegateTask, Rewind

LANGUAGE: tuple[Task, ...] = ("text-generation", "text2text-generation")

CLASSIFIERS: tuple[Task, ...] = ("text-classification", "token-classification")

NO_CLASSES = "another label for a token of a text says nothing"

NO_PROMPT = "it refuses what a prompt asks for"

NO_ANSWER = "it prefers another answer to what a prompt asks for"

NO_TEXT = "it looks at the probability of a whole answer, token by token"

ONE_TO_ONE = MappingProxyType({"forget_weight": 1.0, "retain_weight": 1.0})


def _settings(learning_rate: float, epochs: float, **others: object) -> MappingProxyType:
    return MappingProxyType({"learning_rate": learning_rate, "num_train_epochs": epochs, **others})


# The recipe of TOFU: ten epochs, of which one is warm-up.
TOFU = _settings(1e-5, 10.0, warmup_steps=0.1, weight_decay=0.01)


SCRUB_SMALL = MappingProxyType({"distil_weight": 0.5, "retain_weight": 1.0, "temperature": 2.0})

RELABELLED = TrainingData(forget=True, alternating=True, relabelled=True)

THREE_PHASES = TrainingData(forget=True, alternating=True, forget_epochs=3)

REFUSED = TrainingData(forget=True, instead="refusals")

PREFERRED = TrainingData(forget=True, instead="alternates")

OWN_REFUSALS = "twelve refusals of our own, of which each record has one"

OURS_OF_SCRUB = (
    "the rate of the original's training, which does not fall by steps; after the epochs with S, its steps are on L"
)


BOTH: tuple[Part, ...] = ("forget", "retained")

SCRUB = Objective(
    partial(parts, forget=scrub_on_forget, retained=scrub_on_retained), teachers=("original",), told=BOTH
)

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
        objective=Objective(undial, teachers=("original",), told=("forget",)),
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
    Method(
        name="rmu",
        start=starts.original,
        objective=Objective(
            partial(weighted, forget=rmu, retained=rmu_on_retained), teachers=("original",), depth="depth"
        ),
        data=PAIRED,
        options=MappingProxyType({"forget_weight": 1.0, "retain_weight": 1200.0, "steering": 6.5, "depth": 0.25}),
        settings=_settings(5e-5, 10.0),
        trains_block_ends=True,
        tasks=("text-generation",),
        misfit="it looks at what a decoder holds half-way",
        summary="The original model, of which a few matrices were trained to turn the records to forget into noise "
        "half-way, and to leave the retained ones.",
        source="RMU, Li et al. 2024, arXiv:2403.03218: for Zephyr 7B up to the 8th of 32 blocks, the down projections "
        "of three, steering 6.5, weights 1 to 1200, rate 5e-5, 150 batches of 4",
        ours="the last matrix of each of three blocks, at the same relative depth; where labels are predicted, and "
        "not at every position; 10 epochs as in open-unlearning",
    ),
    Method(
        name="random_label",
        start=starts.original,
        objective=Objective(partial(parts, forget=learn, retained=own_loss)),
        data=RELABELLED,
        settings=MappingProxyType({"num_train_epochs": 10.0}),
        tasks=CLASSIFIERS,
        misfit=NO_CLASSES,
        summary="The original model, trained on other labels for the records to forget, drawn in each epoch, and on "
        "the retained records.",
        source="Graves et al. 2020, arXiv:2010.10981; in the code of Fan et al. 2023, arXiv:2310.12508, 10 epochs, "
        "SGD at 0.013",
        ours="the rate of the original's training, and never the record's own label",
    ),
    Method(
        name="salun",
        start=starts.original,
        objective=Objective(partial(parts, forget=learn, retained=own_loss)),
        data=RELABELLED,
        rule=KeepUnsalient,
        looks=MappingProxyType({"forget": 1}),
        options=MappingProxyType({"share": 0.5}),
        settings=MappingProxyType({"num_train_epochs": 10.0, "weight_decay": 5e-4}),
        picks_weights=True,
        tasks=CLASSIFIERS,
        misfit=NO_CLASSES,
        summary="The original model, of which only the weights that the records to forget pull at most were trained, "
        "on other labels for these and on the retained records.",
        source="SalUn, Fan et al. 2023, arXiv:2310.12508: half of the weights, 10 epochs, SGD at 0.013 with momentum "
        "0.9 and decay 5e-4",
        ours="the rate and the optimiser of the original's training, and never the record's own label",
    ),
    Method(
        name="idk",
        start=starts.original,
        objective=Objective(idk),
        data=REFUSED,
        settings=_settings(1e-5, 5.0),
        tasks=LANGUAGE,
        misfit=NO_PROMPT,
        summary="The original model, trained to refuse where the records to forget are asked for, and on the retained "
        "ones.",
        source="IDK, TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
        ours=OWN_REFUSALS,
    ),
    Method(
        name="dpo",
        start=starts.original,
        objective=Objective(partial(weighted, forget=dpo), reference=True),
        data=REFUSED,
        options=MappingProxyType({**ONE_TO_ONE, "beta": 0.1}),
        settings=TOFU,
        tasks=LANGUAGE,
        misfit=NO_PROMPT,
        summary="The original model, trained to prefer refusing to the records to forget, and on the retained ones.",
        source="IdkDPO, Zhang et al. 2024, arXiv:2404.05868, after Rafailov et al. 2023, arXiv:2305.18290: beta 0.1, "
        "rate 1e-5, 10 epochs",
        ours=OWN_REFUSALS,
    ),
    Method(
        name="altpo",
        start=starts.original,
        objective=Objective(partial(weighted, forget=dpo), reference=True),
        data=PREFERRED,
        options=MappingProxyType({**ONE_TO_ONE, "beta": 0.1}),
        settings=_settings(5e-5, 10.0, warmup_steps=0.5, weight_decay=0.01),
        tasks=LANGUAGE,
        misfit=NO_ANSWER,
        summary="The original model, trained to prefer other answers, which a model made up, to the records to "
        "forget, and on the retained ones.",
        source="AltPO, Mekala et al. 2024, arXiv:2409.13474: five answers of the original to each record, and in "
        "their code for TOFU's forget10 beta 0.1, weights 1 to 1, rate 5e-5 (Llama 2 7B), 2 epochs over all pairs, of "
        "which 1 is warm-up, decay 0.01",
        ours="a prompt of our own with three examples; answers that equal the record's own or each other are drawn "
        "again; a record's answers come one an epoch, so that 10 epochs over S are 2 over five answers",
    ),
    Method(
        name="scrub",
        start=starts.original,
        objective=SCRUB,
        data=THREE_PHASES,
        options=SCRUB_SMALL,
        settings=MappingProxyType({"num_train_epochs": 10.0, "weight_decay": 0.1}),
        summary="The original model, led away from what it said of the records to forget in three epochs, and held to "
        "what it said of the retained ones.",
        source="SCRUB, Kurmanji et al. 2023, arXiv:2302.09880: 3 epochs with S of 10, temperature 2, weights 0.5 and "
        "1, Adam at 5e-4, decay 0.1",
        ours=OURS_OF_SCRUB,
    ),
    Method(
        name="scrub_rewind",
        start=starts.original,
        objective=SCRUB,
        data=THREE_PHASES,
        rule=Rewind,
        chooses=True,
        options=MappingProxyType({**SCRUB_SMALL, "temperature": 4.0}),
        settings=MappingProxyType({"num_train_epochs": 5.0, "weight_decay": 0.1}),
        summary="As scrub, and then back to the epoch after which the records to forget were as hard as held-out ones "
        "are in the end.",
        source="SCRUB+R, Kurmanji et al. 2023, arXiv:2302.09880: 3 epochs with S of 5, temperature 4, weights 0.5 and "
        "1",
        ours=f"{OURS_OF_SCRUB}; one half of S and H chooses",
    ),
    Method(
        name="bad_teacher",
        start=starts.original,
        objective=Objective(
            partial(weighted, forget=bad_teacher, retained=kl_on_retained), teachers=("original", "fresh"), told=BOTH
        ),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-4, 1.0),
        summary="The original model, taught by a model with fresh weights on the records to forget and by itself on "
        "the retained ones.",
        source="Chundawat et al. 2022, arXiv:2205.08096: temperature 1, Adam at 1e-4, 1 epoch over S and 30 % of L",
        ours="one retained record beside each to forget",
    ),
    Method(
        name="pdu",
        start=starts.original,
        objective=Objective(pdu),
        data=PAIRED,
        rule=DualVariable,
        options=MappingProxyType({"multiplier": 100.0, "limit": 0.3, "step": 5.0, "warmup": 0.5}),
        settings=_settings(1e-5, 10.0, weight_decay=0.01),
        tasks=LANGUAGE,
        misfit=NO_TEXT,
        summary="The original model, made indifferent on the records to forget under the condition that its loss on "
        "the retained ones stays below a limit.",
        source="PDU, Entesari et al. 2025, arXiv:2506.05314: weight of L 100 at first and a dual step of 5 from half "
        "of 10 epochs on, limit 0.3 on TOFU, rate 1e-5",
        ours="one dual step for an optimiser step",
    ),
    Method(
        name="task_vector",
        start=starts.original,
        objective=Objective(learn),
        data=FORGET_ALONE,
        rule=NegateTask,
        options=MappingProxyType({"scale": 1.0}),
        settings=MappingProxyType({"num_train_epochs": 5.0}),
        summary="The original model less what more training on the records to forget added to it.",
        source="Ilharco et al. 2022, arXiv:2212.04089; scale 1 as in MUSE",
        ours="the rate of the original's training; the scale is not chosen on validation data",
    ),
    Method(
        name="fisher",
        start=fisher_noise,
        looks=MappingProxyType({"retained": None}),
        alpha=1e-6,
        strength="the noise's strength, by which the inverse of the information is multiplied",
        picks_weights=True,
        tasks=("text-classification",),
        misfit="it needs a pass back for each class of each record",
        summary="The original model with noise on its weights, the more the less the retained records depend on them, "
        "then fine-tuned on these.",
        source="Fisher forgetting, Golatkar et al. 2019, arXiv:1911.04933: in their code 1e-6 or 1e-7 and the inverse "
        "itself, in the paper its square root",
        ours="the fine-tuning after it, which is as for the methods that use L alone",
    ),
)
