"""The methods that use S: the rows of the table.

An epoch is one over S. Learning rates and epochs are those that were published for language models of 1 to 8 billion
weights; where a method was published for image classifiers, the rate is that of the original's training instead.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..models.tasks import Task
from . import objectives, resets, step_rules
from .forget_batches import FORGET_ALONE, PAIRED, TrainingData
from .method import Fit, Method
from .step import Objective

LANGUAGE: tuple[Task, ...] = ("text-generation", "text2text-generation")

ANSWERS = Fit(LANGUAGE, "it looks at the probability of a whole answer, token by token")

REFUSALS = Fit(LANGUAGE, "it teaches a model to refuse a prompt")

OTHER_ANSWERS = Fit(LANGUAGE, "it teaches a model another answer to a prompt")

CLASSES = Fit(("text-classification", "token-classification"), "it needs classes to draw another label from")

RELABELLED = TrainingData(forget=True, alternating=True, relabelled=True)

THREE_PHASES = TrainingData(forget=True, alternating=True, forget_epochs=3)

REFUSED = TrainingData(forget=True, instead="refusals")

PREFERRED = TrainingData(forget=True, instead="alternates")

LABELS_AND_OWN = Objective(partial(objectives.parts, forget=objectives.learn, retained=objectives.own_loss))

PREFERENCE = Objective(partial(objectives.weighted, forget=objectives.dpo), start_log_p=True)

SCRUB = Objective(
    partial(objectives.parts, forget=objectives.scrub_on_forget, retained=objectives.scrub_on_retained),
    teachers=("original",),
    taught=("forget", "retained"),
)

ONE_TO_ONE: Mapping[str, float] = {"forget_weight": 1.0, "retain_weight": 1.0}

SCRUB_SMALL: Mapping[str, float] = {"distil_weight": 0.5, "retain_weight": 1.0, "temperature": 2.0}


def _settings(learning_rate: float, epochs: float, **others: float) -> dict[str, Any]:
    return {"learning_rate": learning_rate, "num_train_epochs": epochs, **others}


# The recipe of TOFU: ten epochs, of which one is warm-up.
TOFU = _settings(1e-5, 10.0, warmup_steps=0.1, weight_decay=0.01)

OWN_REFUSALS = "twelve refusals of our own, of which each record has one"

OURS_OF_SCRUB = (
    "the rate of the original's training, which does not fall by steps; after the epochs with S, its steps are on L"
)

FORGET_METHODS = (
    Method(
        name="gradient_ascent",
        summary="The original model, trained to raise its loss on the records to forget.",
        objective=Objective(objectives.ascent),
        data=FORGET_ALONE,
        settings=_settings(1e-5, 5.0),
        source="Jang et al. 2022, arXiv:2210.01504; TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
    ),
    Method(
        name="gradient_difference",
        summary="The original model, trained to raise its loss on the records to forget and to lower it on the "
        "retained records.",
        objective=Objective(partial(objectives.weighted, forget=objectives.ascent)),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-5, 5.0),
        source="Liu et al. 2022, arXiv:2203.12817; TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
    ),
    Method(
        name="neg_grad_plus",
        summary="The original model, trained to lower its loss on the retained records and, with a small weight, to "
        "raise it on the records to forget.",
        objective=Objective(partial(objectives.weighted, forget=objectives.ascent)),
        data=PAIRED,
        options={"forget_weight": 0.0001, "retain_weight": 0.9999},
        settings={"num_train_epochs": 5.0},
        source="NegGrad+, Kurmanji et al. 2023, arXiv:2302.09880: in their code a weight of 0.9999 on L, SGD at 0.01, "
        "5 epochs",
        ours="the rate of the original's training; an epoch is one over S",
    ),
    Method(
        name="kl_ascent",
        summary="The original model, trained to raise its loss on the records to forget and to repeat its earlier "
        "predictions for the retained records.",
        objective=Objective(
            partial(objectives.weighted, forget=objectives.ascent, retained=objectives.kl_on_retained),
            teachers=("original",),
        ),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-5, 5.0),
        source="TOFU, Maini et al. 2024, arXiv:2401.06121 (KL minimization): rate 1e-5, 5 epochs",
    ),
    Method(
        name="npo",
        summary="The original model, trained to make the records to forget less likely than before, while it trains "
        "on the retained records.",
        objective=Objective(partial(objectives.weighted, forget=objectives.npo), start_log_p=True),
        data=PAIRED,
        options={**ONE_TO_ONE, "beta": 0.1},
        settings=TOFU,
        fits=ANSWERS,
        source="NPO, Zhang et al. 2024, arXiv:2404.05868: beta 0.1, rate 1e-5, 10 epochs",
    ),
    Method(
        name="simnpo",
        summary="The original model, trained to make the records to forget less likely per token, while it trains on "
        "the retained records.",
        objective=Objective(partial(objectives.weighted, forget=objectives.simnpo)),
        data=PAIRED,
        options={"forget_weight": 0.125, "retain_weight": 1.0, "beta": 4.5, "delta": 0.0},
        settings=TOFU,
        fits=ANSWERS,
        source="SimNPO, Fan et al. 2024, arXiv:2410.07163: on TOFU's forget10 beta 4.5 and weights 0.125 to 1, on "
        "forget05 2.5 and 0.1375 to 1; rate 1e-5, 10 epochs",
    ),
    Method(
        name="wga",
        summary="The original model, trained to raise its loss on the records to forget, most where it is most "
        "certain, while it trains on the retained records.",
        objective=Objective(partial(objectives.weighted, forget=objectives.wga)),
        data=PAIRED,
        options={**ONE_TO_ONE, "beta": 5.0},
        settings=_settings(1e-5, 5.0),
        fits=ANSWERS,
        source="WGA, Wang et al. 2025, arXiv:2502.19301: in their code beta 5, rate 1e-5 (Llama 2), 5 epochs",
    ),
    Method(
        name="satimp",
        summary="The original model, trained to raise its loss on the tokens to forget that it knows and that matter, "
        "while it trains on the retained records.",
        objective=Objective(partial(objectives.weighted, forget=objectives.satimp)),
        data=PAIRED,
        options={"forget_weight": 1.0, "retain_weight": 0.1, "beta1": 5.0, "beta2": 0.1},
        settings=_settings(1e-5, 5.0),
        fits=ANSWERS,
        source="SatImp, Yang et al. 2025, arXiv:2505.11953: beta1 5, beta2 0.1, weights 1 to 0.1, rate 1e-5 (Llama "
        "2), 5 epochs",
    ),
    Method(
        name="ce_u",
        summary="The original model, trained on the records to forget toward its own predictions with the right token "
        "ruled out.",
        objective=Objective(objectives.ce_u),
        data=TrainingData(forget=True, retained=False, skipped=1),
        settings=_settings(1e-5, 10.0),
        fits=Fit(("text-generation",), "it leaves the first token of an answer alone and changes the others"),
        source="CE-U, Yang 2025, arXiv:2503.01224; rate 1e-5 and 10 epochs as in open-unlearning",
    ),
    Method(
        name="undial",
        summary="The original model, trained on the records to forget toward its earlier predictions with the right "
        "token made less likely.",
        objective=Objective(objectives.undial, teachers=("original",), taught=("forget",)),
        data=FORGET_ALONE,
        options={"strength": 10.0},
        settings=_settings(1e-4, 10.0),
        rate_is_for_adapters=True,
        fits=ANSWERS,
        source="UNDIAL, Dong et al. 2024, arXiv:2402.10052: 3, 10 or 30 off the logit; rate 1e-4 with LoRA of rank 8, "
        "10 epochs",
    ),
    Method(
        name="rmu",
        summary="The original model, of which a few matrices are trained to turn the records to forget into noise in "
        "its middle, and to leave the retained records as they were.",
        objective=Objective(
            partial(objectives.weighted, forget=objectives.rmu, retained=objectives.rmu_on_retained),
            teachers=("original",),
            depth="depth",
        ),
        data=PAIRED,
        options={"forget_weight": 1.0, "retain_weight": 1200.0, "steering": 6.5, "depth": 0.25},
        settings=_settings(5e-5, 10.0),
        trains_block_ends=True,
        fits=Fit(("text-generation",), "it needs the hidden states of a decoder"),
        source="RMU, Li et al. 2024, arXiv:2403.03218: for Zephyr 7B up to the 8th of 32 blocks, the down projections "
        "of three, steering 6.5, weights 1 to 1200, rate 5e-5, 150 batches of 4",
        ours="the last matrix of each of three blocks, at the same relative depth; where labels are predicted, and "
        "not at every position; 10 epochs as in open-unlearning",
    ),
    Method(
        name="random_label",
        summary="The original model, trained on wrong labels for the records to forget, drawn anew in each epoch, and "
        "on the retained records.",
        objective=LABELS_AND_OWN,
        data=RELABELLED,
        settings={"num_train_epochs": 10.0},
        fits=CLASSES,
        source="Graves et al. 2020, arXiv:2010.10981; in the code of Fan et al. 2023, arXiv:2310.12508, 10 epochs, "
        "SGD at 0.013",
        ours="the rate of the original's training, and never the record's own label",
    ),
    Method(
        name="salun",
        summary="The original model, of which only the weights that the records to forget affect most are trained, on "
        "wrong labels for these records and on the retained records.",
        objective=LABELS_AND_OWN,
        data=RELABELLED,
        rule=step_rules.KeepUnsalient,
        looks={"forget": 1},
        options={"share": 0.5},
        settings={"num_train_epochs": 10.0, "weight_decay": 5e-4},
        picks_weights=True,
        fits=CLASSES,
        source="SalUn, Fan et al. 2023, arXiv:2310.12508: half of the weights, 10 epochs, SGD at 0.013 with momentum "
        "0.9 and decay 5e-4",
        ours="the rate and the optimiser of the original's training, and never the record's own label",
    ),
    Method(
        name="idk",
        summary="The original model, trained to refuse when it is asked for the records to forget, while it trains on "
        "the retained records.",
        objective=Objective(objectives.idk),
        data=REFUSED,
        settings=_settings(1e-5, 5.0),
        fits=REFUSALS,
        source="IDK, TOFU, Maini et al. 2024, arXiv:2401.06121: rate 1e-5, 5 epochs",
        ours=OWN_REFUSALS,
    ),
    Method(
        name="dpo",
        summary="The original model, trained to prefer a refusal to the records to forget, while it trains on the "
        "retained records.",
        objective=PREFERENCE,
        data=REFUSED,
        options={**ONE_TO_ONE, "beta": 0.1},
        settings=TOFU,
        fits=REFUSALS,
        source="IdkDPO, Zhang et al. 2024, arXiv:2404.05868, after Rafailov et al. 2023, arXiv:2305.18290: beta 0.1, "
        "rate 1e-5, 10 epochs",
        ours=OWN_REFUSALS,
    ),
    Method(
        name="altpo",
        summary="The original model, trained to prefer answers that a model invented to the records to forget, while "
        "it trains on the retained records.",
        objective=PREFERENCE,
        data=PREFERRED,
        options={**ONE_TO_ONE, "beta": 0.1},
        settings=_settings(5e-5, 10.0, warmup_steps=0.5, weight_decay=0.01),
        fits=OTHER_ANSWERS,
        source="AltPO, Mekala et al. 2024, arXiv:2409.13474: five answers of the original to each record, and in "
        "their code for TOFU's forget10 beta 0.1, weights 1 to 1, rate 5e-5 (Llama 2 7B), 2 epochs over all pairs, of "
        "which 1 is warm-up, decay 0.01",
        ours="a prompt of our own with three examples; answers that equal the record's own or each other are drawn "
        "again; a record's answers come one an epoch, so that 10 epochs over S are 2 over five answers",
    ),
    Method(
        name="scrub",
        summary="The original model, trained in three epochs to depart from its earlier predictions for the records "
        "to forget, and to keep those for the retained records.",
        objective=SCRUB,
        data=THREE_PHASES,
        options=SCRUB_SMALL,
        settings={"num_train_epochs": 10.0, "weight_decay": 0.1},
        source="SCRUB, Kurmanji et al. 2023, arXiv:2302.09880: 3 epochs with S of 10, temperature 2, weights 0.5 and "
        "1, Adam at 5e-4, decay 0.1",
        ours=OURS_OF_SCRUB,
    ),
    Method(
        name="scrub_rewind",
        summary="As scrub, then set back to the epoch after which the records to forget were as hard as held-out "
        "records are at the end.",
        objective=SCRUB,
        data=THREE_PHASES,
        rule=step_rules.Rewind,
        chooses=True,
        options={**SCRUB_SMALL, "temperature": 4.0},
        settings={"num_train_epochs": 5.0, "weight_decay": 0.1},
        source="SCRUB+R, Kurmanji et al. 2023, arXiv:2302.09880: 3 epochs with S of 5, temperature 4, weights 0.5 and "
        "1",
        ours=f"{OURS_OF_SCRUB}; one half of S and H chooses",
    ),
    Method(
        name="bad_teacher",
        summary="The original model, taught by a model with random weights on the records to forget, and by the "
        "original on the retained records.",
        objective=Objective(
            partial(objectives.weighted, forget=objectives.bad_teacher, retained=objectives.kl_on_retained),
            teachers=("original", "fresh"),
            taught=("forget", "retained"),
        ),
        data=PAIRED,
        options=ONE_TO_ONE,
        settings=_settings(1e-4, 1.0),
        source="Chundawat et al. 2022, arXiv:2205.08096: temperature 1, Adam at 1e-4, 1 epoch over S and 30 % of L",
        ours="one retained record beside each to forget",
    ),
    Method(
        name="pdu",
        summary="The original model, trained to be indifferent on the records to forget while its loss on the "
        "retained records stays below a limit.",
        objective=Objective(objectives.pdu),
        data=PAIRED,
        rule=step_rules.DualVariable,
        options={"multiplier": 100.0, "limit": 0.3, "step": 5.0, "warmup": 0.5},
        settings=_settings(1e-5, 10.0, weight_decay=0.01),
        fits=ANSWERS,
        source="PDU, Entesari et al. 2025, arXiv:2506.05314: weight of L 100 at first and a dual step of 5 from half "
        "of 10 epochs on, limit 0.3 on TOFU, rate 1e-5",
        ours="one dual step for an optimiser step",
    ),
    Method(
        name="task_vector",
        summary="The original model minus what further training on the records to forget adds to it.",
        objective=Objective(objectives.learn),
        data=FORGET_ALONE,
        rule=step_rules.NegateTask,
        options={"scale": 1.0},
        settings={"num_train_epochs": 5.0},
        source="Ilharco et al. 2022, arXiv:2212.04089; scale 1 as in MUSE",
        ours="the rate of the original's training; the scale is not chosen on validation data",
    ),
    Method(
        name="fisher",
        summary="The original model with noise on its weights, the less the more the retained records depend on them, "
        "then fine-tuned on the retained records.",
        start=resets.fisher_noise,
        looks={"retained": None},
        alpha=1e-6,
        strength="the noise's strength, by which the inverse of the information is multiplied",
        picks_weights=True,
        fits=Fit(("text-classification",), "it needs a pass back for each class of each record"),
        source="Fisher forgetting, Golatkar et al. 2019, arXiv:1911.04933: in their code 1e-6 or 1e-7 and the inverse "
        "itself, in the paper its square root",
        ours="the fine-tuning after it, which is as for the methods that use L alone",
    ),
)
