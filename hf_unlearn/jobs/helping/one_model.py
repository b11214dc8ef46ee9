"""What ``hf-unlearn attack`` does to one model at a time; each finished attack is kept."""

from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version

import pyarrow as pa

from ...evaluation.attacks.low_bits import FORMS, PACKAGES, Form, QuantisedScore, in_few_bits, only_judged
from ...evaluation.attacks.prompting import CONTEXT_TOKENS, ContextScore, in_context
from ...evaluation.attacks.relearning import RelearningCurve, Taught, relearn, relearn_one_epoch, steps_of_one_epoch
from ...evaluation.attacks.report import Attacked, ModelAttacks
from ...evaluation.attacks.sampling import SAMPLED_TOKENS, LeakCurve, sample_leaks
from ...evaluation.attacks.translating import TRANSLATED_TOKENS
from ...evaluation.attacks.wordings import TRANSLATED, WordingScore, WorstWording, other_words
from ...evaluation.measured_sets import JUDGED
from ...evaluation.score_cache import model_digest, score_once
from ...methods.method import ADAPTER_RATE
from ...models.loading import Model
from ..preparation import Preparation
from .attack_material import RECORDS, Material, Plan
from .kept_parts import KeptParts

MOST_MEASUREMENTS = 20  # of a curve of relearning, after the first one


@dataclass(frozen=True)
class AttackedModel:
    """One of the models, and what it is compared with.

    Attributes:
        model: it stays as it is.
        arm: which one it is.
        digest: of its weights; None where that does not identify them.
        original: the scores of S under the original; None for the original itself, or without one.
        original_digest: of the original's weights, as for ``digest``.
    """

    model: Model
    arm: Attacked
    digest: str | None
    original: pa.Table | None
    original_digest: str | None


@dataclass(frozen=True)
class _Worded:
    """What came of other wordings."""

    scores: tuple[WordingScore, ...] = ()
    worst: WorstWording | None = None


def price_of_one(run: Preparation, plan: Plan, models: int, material: Material) -> list[str]:
    """What the attacks on each model cost, before they start, a sentence each.

    Args:
        run: the settings.
        plan: which attacks to make.
        models: how many there are.
        material: the encoded data.
    """
    config, sets = run.config, material.evidence.sets
    judged = {name: sets[name] for name in JUDGED if name in sets}
    lessons = len(_lessons(material))
    steps, measured = lessons * config.max_steps, lessons * (1 + min(config.max_steps, MOST_MEASUREMENTS))
    records = len(sets["forget"]) // 2 + len(sets.get("holdout", ()))
    found = [
        f"Relearning, for each of {models} models: {steps:,} training steps of "
        f"{config.per_device_train_batch_size:,} records, and {measured * records:,} forward passes of a record."
    ]
    epoch = steps_of_one_epoch(material.evidence, config.per_device_train_batch_size, config.seed)
    worded = sum(len(part) for wording in material.wordings.values() for part in wording.sets.values())
    prompts = 0 if material.translator is None else sum(map(len, plan.worded.values()))
    passes = 2 * lessons * records + (1 + len(plan.forms)) * sum(map(len, judged.values())) + worded + prompts
    found.append(
        f"One epoch, few bits and other wordings, for each of them: {lessons * epoch:,} training steps, and "
        f"{passes:,} forward passes of a record."
    )
    if prompts:
        found.append(f"Translation, once: {prompts:,} prompts of {TRANSLATED_TOKENS} tokens at most.")
    asked = {name: min(RECORDS, len(set(part["row"]))) for name, part in judged.items()}
    if "sampling" not in plan.skipped:
        texts = plan.samples * sum(asked.values())
        sentence = f"Sampling, for each of them: {texts:,} texts of {SAMPLED_TOKENS} tokens at most"
        if material.judge is not None:
            sentence += f", and {texts:,} pairs of texts at most for the model of --entailment_model"
        found.append(f"{sentence}.")
    if "in_context" not in plan.skipped:
        found.append(
            f"Other records in the context, for each of them: {3 * asked['forget']:,} forward passes of "
            f"{CONTEXT_TOKENS:,} tokens at most."
        )
    return found


def attack_model(
    attacked: AttackedModel, run: Preparation, plan: Plan, material: Material, parts: KeptParts
) -> tuple[ModelAttacks, pa.Table]:
    """Make the attacks on one model, but for those that are finished already.

    Args:
        attacked: the model.
        run: the settings.
        plan: which attacks to make.
        material: the encoded data.
        parts: what is finished of these attacks with this data, of any model.

    Returns:
        What came of them, and the scores of S under the model as it is.
    """
    model, evidence, seed, arm = attacked.model, material.evidence, run.config.seed, attacked.arm
    lessons, batch_size, own = _lessons(material), run.config.per_device_train_batch_size, parts.of(attacked.digest)

    def curve(taught: Taught) -> RelearningCurve:
        return relearn(
            model,
            evidence,
            taught=taught,
            steps=run.config.max_steps,
            learning_rate=run.config.learning_rate * (ADAPTER_RATE if taught == "public" else 1),
            batch_size=batch_size,
            seed=seed,
            measure_every=max(1, run.config.max_steps // MOST_MEASUREMENTS),
            public=material.public,
            lora=plan.lora if taught == "public" else None,
        )

    def epoch(taught: Taught) -> RelearningCurve:
        return relearn_one_epoch(
            model, evidence, taught=taught, batch_size=batch_size, seed=seed, public=material.public
        )

    curves = tuple(own.get(f"{arm}_taught_{taught}", RelearningCurve, partial(curve, taught)) for taught in lessons)
    epochs = tuple(own.get(f"{arm}_one_epoch_{taught}", RelearningCurve, partial(epoch, taught)) for taught in lessons)
    leaks = reminder = None
    if "sampling" not in plan.skipped:
        leaks = _sampled(attacked, run, plan, material, own)
    if "in_context" not in plan.skipped:
        reminder = own.get(
            f"{arm}_in_context", ContextScore, lambda: in_context(model, evidence, records=RECORDS, seed=seed)
        )
    # The tables of scores are kept between commands.
    whole = score_once(only_judged(evidence), model)[0]["forget"]
    words = _Worded() if "wordings" in plan.skipped else _in_other_words(attacked, material, own)
    found = ModelAttacks(
        relearning=curves,
        steps_until_halfway={},
        quantised=tuple(_in_form(attacked, form, material, whole, own) for form in plan.forms),
        one_epoch=epochs,
        sampling=leaks,
        in_context=reminder,
        wordings=words.scores,
        worst_wording=words.worst,
    )
    return found, whole


def _lessons(material: Material) -> list[Taught]:
    return ["forget", "retained"] if material.public is None else ["forget", "retained", "public"]


def _sampled(
    attacked: AttackedModel, run: Preparation, plan: Plan, material: Material, parts: KeptParts
) -> LeakCurve | None:
    judge = material.judge
    if judge is not None:
        parts = parts.of(model_digest(judge.model))
    return parts.get(
        f"{attacked.arm}_sampling",
        LeakCurve | None,
        lambda: sample_leaks(
            attacked.model,
            material.evidence,
            material.tokenizer,
            records=RECORDS,
            samples=plan.samples,
            seed=run.config.seed,
            temperature=plan.temperature,
            judge=judge,
        ),
    )


def _in_other_words(attacked: AttackedModel, material: Material, parts: KeptParts) -> _Worded:
    parts = parts.of(*material.worded_digests())
    if material.translator is not None:
        parts = parts.of(model_digest(material.translator.model))

    def asked() -> _Worded:
        if material.translator is None:
            return _Worded(*other_words(attacked.model, material.wordings))
        sets, tokens = material.translated()
        (*scores, last), worst = other_words(attacked.model, {**material.wordings, TRANSLATED: sets})
        return _Worded((*scores, replace(last, translation_tokens=tokens)), worst)

    return parts.get(f"{attacked.arm}_wordings", _Worded, asked)


def _in_form(
    attacked: AttackedModel, form: Form, material: Material, whole: pa.Table, parts: KeptParts
) -> QuantisedScore:
    """The score of a format, which depends on the original's scores and on the package of the format, too."""
    original, package = attacked.original, FORMS[form].package
    if original is not None:
        parts = parts.of("from the original", attacked.original_digest)
    if package in PACKAGES:
        parts = parts.of(version(package))
    return parts.get(
        f"{attacked.arm}_{form}",
        QuantisedScore,
        lambda: in_few_bits(attacked.model, material.evidence, form, whole, original, material.tokenizer),
    )
