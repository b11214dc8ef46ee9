"""The attacks of :mod:`~hf_unlearn.evaluation.relearning` and :mod:`~hf_unlearn.evaluation.prompting`, on a model and
on what it is compared with, side by side."""

from dataclasses import dataclass, replace
from typing import Literal

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .attack_plan import AttackPlan
from .data.encoding import RecordEncoder, encode, resolve_max_length
from .data.format import RecordFormat
from .evaluation.attack_report import Attacked, AttackReport, ModelAttacks
from .evaluation.measured_sets import EvidenceSets, evidence_sets
from .evaluation.prompting import in_context, other_words, sample_leaks
from .evaluation.relearning import Taught, halfway, quantise, relearn
from .models.loading import Model, load_any, load_config, load_tokenizer, peft_task, task_of, to_device
from .models.location import ModelSource, locate
from .preparation import Preparation
from .training.trainer_data import measured_sets

# At the rate of all weights a fresh adapter moves a model little; its best rate is about ten times that
# (Schulman et al. 2025, LoRA Without Regret).
LORA_RATE = 10

MOST_MEASUREMENTS = 20

BITS: tuple[Literal[4, 8], ...] = (8, 4)


def attacked_models(run: Preparation, original: str | None, retrained: str | None) -> dict[Attacked, ModelSource]:
    """Find the models, without loading them.

    Args:
        run: its model is the unlearned one.
        original, retrained: what it is compared with, folders or Hub ids; None for one that there is not.

    Raises:
        InputError: one is missing or does something else.
    """
    names: dict[Attacked, str | None] = {"original": original, "unlearned": None, "retrained": retrained}
    places: dict[Attacked, ModelSource] = {}
    for arm, name in names.items():
        if name is not None:
            places[arm] = locate(name)
            task_of(name, load_config(places[arm]), run.task, peft=peft_task(places[arm]))
        elif arm == "unlearned":
            places[arm] = run.source
    return places


@dataclass(frozen=True)
class _Material:
    """The data of the attacks, encoded."""

    evidence: EvidenceSets
    tokenizer: PreTrainedTokenizerBase
    wordings: dict[str, EvidenceSets]
    public: Dataset | None


def _material(
    run: Preparation, plan: AttackPlan, sources: list[ModelSource], model_config: PretrainedConfig
) -> _Material:
    config, tokenizer = run.config, load_tokenizer(sources)
    evidence = measured_sets(run.sets, sources, model_config, run.task, config)
    length = resolve_max_length(model_config, tokenizer, config.max_length)
    wordings: dict[str, EvidenceSets] = {}
    public = None
    with config.main_process_first(desc="tokenising"):
        for name, layout in plan.wordings.items():
            wordings[name] = evidence_sets(
                plan.worded,
                RecordEncoder(tokenizer, layout, length),
                evidence.collator,
                run.task,
                evidence.batch_size,
                config.seed,
                group_column=config.group_column,
            )
        if plan.public is not None:
            encoded = encode(plan.public, RecordEncoder(tokenizer, RecordFormat("text"), length), "public")
            assert isinstance(encoded, Dataset)
            public = encoded
    return _Material(evidence, tokenizer, wordings, public)


def attack_models(run: Preparation, places: dict[Attacked, ModelSource], plan: AttackPlan) -> AttackReport:
    """Make every attack on every model, one model at a time.

    Args:
        run: the data, and the learning rate, batch size and seed of relearning.
        places: the models.
        plan: what to do.
    """
    models: dict[Attacked, ModelAttacks] = {}
    material: _Material | None = None
    for arm, place in places.items():
        model = to_device(load_any(place, run.task, **run.loading), run.config.device)
        if material is None:
            material = _material(run, plan, [run.source, *places.values()], model.config)
        models[arm] = _attack_model(model, run, plan, material)
    loss = None
    if "original" in models:
        forgotten, known = (
            models[arm].relearning[0].points[0].forget_loss.value
            for arm in ("retrained" if "retrained" in models else "unlearned", "original")
        )
        loss = halfway(forgotten, known)
    skipped = dict(plan.skipped)
    if models["unlearned"].sampling is None:
        skipped.setdefault("sampling", "the texts of S are too short")
    models = {
        arm: replace(
            found,
            steps_until_halfway={
                curve.taught: None if loss is None else curve.steps_until(loss) for curve in found.relearning
            },
        )
        for arm, found in models.items()
    }
    return AttackReport(run.task, plan.steps, loss, models, skipped=skipped)


def _attack_model(model: Model, run: Preparation, plan: AttackPlan, material: _Material) -> ModelAttacks:
    evidence, seed = material.evidence, run.config.seed
    lessons: list[Taught] = ["forget", "retained"]
    if material.public is not None:
        lessons.append("public")
    curves = tuple(
        relearn(
            model,
            evidence,
            taught=taught,
            steps=plan.steps,
            learning_rate=run.config.learning_rate * (LORA_RATE if taught == "public" else 1),
            batch_size=run.config.per_device_train_batch_size,
            seed=seed,
            measure_every=max(1, plan.steps // MOST_MEASUREMENTS),
            public=material.public,
            lora=plan.lora if taught == "public" else None,
        )
        for taught in lessons
    )
    leaks = reminder = None
    if "sampling" not in plan.skipped:
        leaks = sample_leaks(
            model, evidence, material.tokenizer, records=plan.records, samples=plan.samples, seed=seed
        )
    if "in_context" not in plan.skipped:
        reminder = in_context(model, evidence, records=plan.records, seed=seed)
    return ModelAttacks(
        relearning=curves,
        steps_until_halfway={},
        quantised=tuple(quantise(model, evidence, bits) for bits in BITS),
        sampling=leaks,
        in_context=reminder,
        wordings=other_words(model, material.wordings),
    )
