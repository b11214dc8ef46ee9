"""``hf-unlearn attack``: attack a model, and the models it is compared with, side by side.

The attacks themselves are in :mod:`~hf_unlearn.evaluation.attacks`.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..data.arrow_tables import AnyDataset, column_names, require_columns
from ..data.encoding import RecordEncoder, encode, resolve_max_length
from ..data.format import RecordFormat, record_format
from ..data.forms import paraphrased, plain_prompts
from ..data.loading import load_data
from ..errors import InputError
from ..evaluation.attacks.low_bits import Form, available, in_few_bits
from ..evaluation.attacks.prompting import in_context
from ..evaluation.attacks.relearning import (
    RelearningCurve,
    Taught,
    halfway,
    relearn,
    relearn_one_epoch,
    steps_of_one_epoch,
    way_back,
)  # fmt: skip
from ..evaluation.attacks.report import (
    ATTACKS_FILE,
    CURVE_FILE,
    DEPTH_FILE,
    LEAKS_FILE,
    Attacked,
    AttackReport,
    ModelAttacks,
    plot_depth,
    plot_leaks,
    plot_relearning,
)
from ..evaluation.attacks.sampling import SAMPLED_TOKENS, Judge, LeakCurve, entailment_class, sample_leaks
from ..evaluation.attacks.wordings import AS_TRAINED, WORDINGS, Wording, other_words
from ..evaluation.measured_sets import JUDGED, SAMPLE_ROWS, EvidenceSets, evidence_sets
from ..evaluation.report import SetName
from ..evaluation.score_cache import data_digest, model_digest
from ..files import save_json
from ..methods.method import ADAPTER_RATE
from ..models.loading import Model, load_any, load_tokenizer, source_task, to_device
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS
from ..models.training_record import software_versions
from ..output_folder import PRIVATE_SETTINGS, require_folder
from ..training.retrained_model import Retraining
from ..training.trainer_data import measured_sets
from .console import console, plain, print_attacks
from .helping.kept_parts import FOLDER, KeptParts
from .helping.two_models import compare_models, price_of_two
from .preparation import Preparation, lora_config, prepare_run, without_method
from .settings import AttackArguments, EvaluateArguments, ModelArguments, build

MOST_MEASUREMENTS = 20

# Records of S, and of H, that the models are prompted with.
RECORDS = 50


def attack(values: dict[str, Any]) -> AttackReport:
    """Try to bring S back in a copy of a model, and in copies of the models that it is compared with.

    Args:
        values: the settings by the names of their flags.

    Returns:
        What the attacks found, as written to ``attacks.json``.

    Raises:
        InputError: a setting is not possible, or something does not fit together.
    """
    asked, compare = build(AttackArguments, values), build(EvaluateArguments, values)
    if asked.attack_steps < 1:
        raise InputError(f"--attack_steps {asked.attack_steps} is not possible; it must be 1 or more.")
    if asked.attack_samples < 1:
        raise InputError(f"--attack_samples {asked.attack_samples} is not possible; it must be 1 or more.")
    if not 0.01 <= asked.attack_temperature <= 100:
        raise InputError(f"--attack_temperature {asked.attack_temperature} is not possible; it is from 0.01 to 100.")
    model_args = build(ModelArguments, values)
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise InputError("Weights in few bits cannot be attacked; set --load_in_4bit and --load_in_8bit to false.")
    # A recipe also says how to unlearn, which an attack does not need.
    settings = {"output_dir": "attacks", **without_method(values), "max_steps": asked.attack_steps}
    run = prepare_run(settings, ask_again=True, find_base=False)
    folder = run.config.folder
    require_folder(folder)
    plan = _plan(run, asked, model_args)
    places = _places(run, compare)
    report = _attack_all(run, places, plan)
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        save_json(report, folder / ATTACKS_FILE)
        plot_relearning(report, folder / CURVE_FILE)
        if report.models["unlearned"].sampling is not None:
            plot_leaks(report, folder / LEAKS_FILE)
        if report.depth is not None:
            plot_depth(report, folder / DEPTH_FILE)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    out = console(run.config)
    print_attacks(out, report)
    out.print(f"{ATTACKS_FILE} and its plots are in {plain(run.config.output_dir)}.")
    return report


# Which attacks apply, found out before a model is loaded


@dataclass(frozen=True)
class _Plan:
    """Which attacks to make.

    Attributes:
        own: how to read prompt and completion; None where prompts are no plain text.
        paraphrased: how to read them with the column of paraphrases in the prompt's place; None without one.
        worded: the records of S and H that are asked for in other words.
        public: texts to train the adapter ``lora`` on; None leaves this attack out.
        forms: the formats of few bits that can be tried.
        samples, temperature: of each record that a model writes texts for.
        judge: the model that says what follows from a text; None to compare words only.
        skipped: the attacks that are left out, each with the reason.
    """

    own: RecordFormat | None
    paraphrased: RecordFormat | None
    worded: dict[SetName, Dataset]
    public: Dataset | None
    lora: LoraConfig | None
    forms: tuple[Form, ...]
    samples: int
    temperature: float
    judge: ModelSource | None
    skipped: dict[str, str]


def _plan(run: Preparation, asked: AttackArguments, model_args: ModelArguments) -> _Plan:
    facts, skipped = TASKS[run.task], {}
    if not (facts.next_token or facts.two_texts):
        skipped["sampling"] = f"a model for {run.task} writes no text"
    if not facts.next_token:
        skipped["in_context"] = f"a model for {run.task} does not go on from other records"
    own, paraphrases = _readings(run, run.config.paraphrase_column)
    worded: dict[SetName, Dataset] = {}
    if own is not None:
        parts: dict[SetName, AnyDataset | None] = {"forget": run.parts.forget, "holdout": run.parts.holdout}
        for name, part in parts.items():
            if part is not None and (drawn := _drawn(part, run.config.paraphrase_column, run.config.seed)) is not None:
                worded[name] = drawn
        if "forget" not in worded:
            raise InputError(f"No record to forget has a value in the column {run.config.paraphrase_column!r}.")
    elif run.config.paraphrase_column is not None:
        raise InputError("--paraphrase_column needs records with a prompt of plain text, for a model that writes.")
    else:
        skipped["wordings"] = "the records have no prompt of plain text"
    public = lora = None
    if asked.public_dataset is not None:
        public = _public_texts(asked.public_dataset, run)
        lora = lora_config(replace(model_args, use_peft=True), run.task)
    else:
        skipped["public"] = "no --public_dataset was named"
    judge = None
    if asked.entailment_model is not None:
        judge = locate(asked.entailment_model)
        entailment_class(judge)
    forms, missing = available()
    return _Plan(
        own=own,
        paraphrased=paraphrases,
        worded=worded,
        public=public,
        lora=lora,
        forms=forms,
        samples=asked.attack_samples,
        temperature=asked.attack_temperature,
        judge=judge,
        skipped=skipped | missing,
    )


def _readings(run: Preparation, paraphrases: str | None) -> tuple[RecordFormat | None, RecordFormat | None]:
    """How to read prompt and completion, as trained and with paraphrases; None where there are none."""
    names, records = column_names(run.parts.forget), run.parts.forget
    if "input_ids" in names:
        return None, None
    own = plain_prompts(records, record_format(names, run.task, **run.config.layout))
    if own is None or paraphrases is None:
        return own, None
    require_columns([paraphrases], names)
    return own, paraphrased(records, own, paraphrases)


def _in_words(part: Dataset, own: RecordFormat, change: Wording, group_column: str | None) -> Dataset:
    """Records with their prompts in other words."""
    lines = []
    for record in part:
        prompt, completion = change(*own.pair(record))
        line = {"prompt": prompt, "completion": completion}
        lines.append(line if group_column is None else line | {group_column: record[group_column]})
    return Dataset.from_list(lines)


def _drawn(part: AnyDataset, paraphrases: str | None, seed: int) -> Dataset | None:
    """Some records of a set, of those with a paraphrase where a column of them is named; None where there is none."""
    if not isinstance(part, Dataset):
        part = Dataset.from_list(list(part), features=part.features)
    rows = np.arange(len(part))
    if paraphrases is not None:
        if paraphrases not in part.column_names:
            return None
        rows = np.flatnonzero([text is not None for text in part[paraphrases]])
    return _some(part, rows, RECORDS, seed) if len(rows) else None


def _public_texts(name: str, run: Preparation) -> Dataset:
    """Some texts of a data set of which the first split has a column ``text``."""
    if not TASKS[run.task].next_token:
        raise InputError(f"--public_dataset is for models that go on writing a text, and this one is for {run.task}.")
    splits, _ = load_data(name)
    texts = next(iter(splits.values()))
    assert isinstance(texts, Dataset)
    if "text" not in texts.column_names:
        raise InputError(f"The data set {name!r} of --public_dataset needs a column 'text'.")
    return _some(texts, np.arange(len(texts)), SAMPLE_ROWS, run.config.seed)


def _some(dataset: Dataset, rows: np.ndarray, most: int, seed: int) -> Dataset:
    return dataset.select(np.sort(np.random.default_rng(seed).permutation(rows)[:most]))


def _places(run: Preparation, compare: EvaluateArguments) -> dict[Attacked, ModelSource]:
    """Find the models without loading them; raises InputError where one is missing or has another task."""
    names: dict[Attacked, str | None] = {"original": compare.original_model, "retrained": compare.retrained_model}
    found = {arm: locate(name) for arm, name in names.items() if name is not None}
    for place in found.values():
        source_task(place, run.task)
    if "retrained" in found:
        Retraining.on(run.parts, run.data, found.get("original")).check(found["retrained"])
    order: tuple[Attacked, ...] = ("original", "unlearned", "retrained")
    places = found | {"unlearned": run.source}
    return {arm: places[arm] for arm in order if arm in places}


# The attacks, on one model at a time


def _attack_all(run: Preparation, places: dict[Attacked, ModelSource], plan: _Plan) -> AttackReport:
    models: dict[Attacked, ModelAttacks] = {}
    digests: list[str | None] = []
    parts = _parts(run)
    material: _Material | None = None
    original: pa.Table | None = None
    for arm, place in places.items():
        model = to_device(load_any(place, run.task, **run.loading), run.config.device)
        if material is None:
            material = _material(run, plan, [run.source, *places.values()], model.config)
            parts = parts.of(*material.digests())
            _print_price(run, plan, places, material, model)
        digests.append(model_digest(model))
        models[arm], whole = _attack_one(model, run, plan, material, arm, parts.of(digests[-1]), original)
        if arm == "original":
            original = whole
    # Two more will be loaded together.
    del model
    loss = None
    if "original" in models:
        forgotten, known = (
            models[arm].relearning[0].points[0].forget_loss.value
            for arm in ("retrained" if "retrained" in models else "unlearned", "original")
        )
        loss = halfway(forgotten, known)
    for arm, found in models.items():
        steps = {curve.taught: None if loss is None else curve.steps_until(loss) for curve in found.relearning}
        back: dict[Taught, float | None] = {}
        if "original" in models and arm != "original":
            known = models["original"].relearning[0].points[0].forget_loss.value
            back = {curve.taught: way_back(curve, known) for curve in found.one_epoch}
        models[arm] = replace(found, steps_until_halfway=steps, way_back=back)
    assert material is not None
    compared = compare_models(run, places, material.evidence, material.tokenizer, parts.of(*digests))
    skipped = plan.skipped | compared.skipped
    if models["unlearned"].sampling is None:
        skipped.setdefault("sampling", "the texts of S are too short")
    return AttackReport(
        run.task, run.config.max_steps, loss, models, skipped=skipped, depth=compared.depth, pair=compared.pair
    )


def _parts(run: Preparation) -> KeptParts:
    """What is finished of the same attacks, before anything is known of data and models."""
    names = sorted(run.values.keys() - {"output_dir", *PRIVATE_SETTINGS})
    settings = {name: str(run.values[name]) for name in names}
    return KeptParts(run.config.folder / FOLDER, "").of(json.dumps([settings, software_versions()]))


def _print_price(
    run: Preparation, plan: _Plan, places: dict[Attacked, ModelSource], material: "_Material", model: Model
) -> None:
    """Say what the attacks take before they start."""
    out, sets, config = console(run.config), material.evidence.sets, run.config
    lessons = 2 + (material.public is not None)
    steps, measured = lessons * config.max_steps, lessons * (1 + min(config.max_steps, MOST_MEASUREMENTS))
    records = len(sets["forget"]) // 2 + len(sets.get("holdout", ()))
    out.print(
        f"Relearning, for each of {len(places)} models: {steps:,} training steps of "
        f"{config.per_device_train_batch_size:,} records, and {measured * records:,} forward passes of a record."
    )
    epoch = steps_of_one_epoch(material.evidence, config.per_device_train_batch_size, config.seed)
    judged = sum(len(sets[name]) for name in JUDGED if name in sets)
    worded = sum(len(part) for wording in material.wordings.values() for part in wording.sets.values())
    passes = 2 * lessons * records + (1 + len(plan.forms)) * judged + worded
    out.print(
        f"One epoch, few bits and other wordings, for each of them: {lessons * epoch:,} training steps, and "
        f"{passes:,} forward passes of a record."
    )
    if "sampling" not in plan.skipped:
        asked = sum(min(RECORDS, len(set(sets[name]["row"]))) for name in JUDGED if name in sets)
        out.print(f"Sampling, for each of them: {plan.samples * asked:,} texts of {SAMPLED_TOKENS} tokens at most.")
    for line in price_of_two(places, material.evidence, model):
        out.print(line)
    out.print(f"What is finished is kept in {plain(config.folder / FOLDER)}; the same command goes on from there.")


@dataclass(frozen=True)
class _Material:
    """The data of the attacks, encoded."""

    evidence: EvidenceSets
    tokenizer: PreTrainedTokenizerBase
    wordings: dict[str, EvidenceSets]
    public: Dataset | None
    judge: Judge | None

    def digests(self) -> list[str]:
        """Of the records, and of the public texts."""
        texts = [] if self.public is None else [data_digest(self.public)]
        return [f"{name} {data_digest(part)}" for name, part in self.evidence.sets.items()] + texts


def _material(run: Preparation, plan: _Plan, sources: list[ModelSource], model_config: PretrainedConfig) -> _Material:
    config, tokenizer = run.config, load_tokenizer(sources)
    evidence = measured_sets(run.sets, sources, model_config, run.task, config)
    length = resolve_max_length(model_config, tokenizer, config.max_length)
    wordings: dict[str, EvidenceSets] = {}
    public = None
    with config.main_process_first(desc="tokenising"):
        for name, (layout, records) in _readings_by_name(run, plan).items():
            wordings[name] = evidence_sets(
                records,
                RecordEncoder(tokenizer, layout, length),
                evidence.collator,
                run.task,
                evidence.batch_size,
                config.seed,
                tokenizer=tokenizer,
                group_column=config.group_column,
            )
        if plan.public is not None:
            encoded = encode(plan.public, RecordEncoder(tokenizer, RecordFormat("text"), length), "public")
            assert isinstance(encoded, Dataset)
            public = encoded
    judge = None
    if plan.judge is not None and "sampling" not in plan.skipped:
        judge = Judge.load(plan.judge, config.device)
    return _Material(evidence, tokenizer, wordings, public, judge)


def _readings_by_name(run: Preparation, plan: _Plan) -> dict[str, tuple[RecordFormat, Mapping[SetName, Dataset]]]:
    """By the name of each wording, the records and how to read them."""
    if plan.own is None:
        return {}
    found: dict[str, tuple[RecordFormat, Mapping[SetName, Dataset]]] = {AS_TRAINED: (plan.own, plan.worded)}
    for name, change in WORDINGS.items():
        records = {
            part: _in_words(rows, plan.own, change, run.config.group_column) for part, rows in plan.worded.items()
        }
        found[name] = RecordFormat(plan.own.kind), records
    if plan.paraphrased is not None:
        found[f"{run.config.paraphrase_column}"] = plan.paraphrased, plan.worded
    return found


def _attack_one(
    model: Model,
    run: Preparation,
    plan: _Plan,
    material: _Material,
    arm: Attacked,
    parts: KeptParts,
    original: pa.Table | None,
) -> tuple[ModelAttacks, pa.Table]:
    """The attacks on one model, and the scores of S under it; ``original`` are those under the original."""
    evidence, seed = material.evidence, run.config.seed
    lessons: list[Taught] = ["forget", "retained"]
    if material.public is not None:
        lessons.append("public")

    def curve(taught: Taught) -> RelearningCurve:
        return relearn(
            model,
            evidence,
            taught=taught,
            steps=run.config.max_steps,
            learning_rate=run.config.learning_rate * (ADAPTER_RATE if taught == "public" else 1),
            batch_size=run.config.per_device_train_batch_size,
            seed=seed,
            measure_every=max(1, run.config.max_steps // MOST_MEASUREMENTS),
            public=material.public,
            lora=plan.lora if taught == "public" else None,
        )

    curves = tuple(parts.get(f"{arm}_taught_{taught}", RelearningCurve, partial(curve, taught)) for taught in lessons)
    epochs = tuple(
        relearn_one_epoch(
            model,
            evidence,
            taught=taught,
            batch_size=run.config.per_device_train_batch_size,
            seed=seed,
            public=material.public,
        )
        for taught in lessons
    )
    leaks = reminder = None
    if "sampling" not in plan.skipped:
        leaks = parts.get(
            f"{arm}_sampling",
            LeakCurve | None,
            lambda: sample_leaks(
                model,
                evidence,
                material.tokenizer,
                records=RECORDS,
                samples=plan.samples,
                seed=seed,
                temperature=plan.temperature,
                judge=material.judge,
            ),
        )
    if "in_context" not in plan.skipped:
        reminder = in_context(model, evidence, records=RECORDS, seed=seed)
    quantised, whole = in_few_bits(model, evidence, plan.forms, original)
    worded, worst = other_words(model, material.wordings)
    found = ModelAttacks(
        relearning=curves,
        steps_until_halfway={},
        quantised=quantised,
        one_epoch=epochs,
        sampling=leaks,
        in_context=reminder,
        wordings=worded,
        worst_wording=worst,
    )
    return found, whole
