"""What ``hf-unlearn attack`` is made with: which attacks apply, found out before a model is loaded, and their data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from datasets import Dataset
from peft import LoraConfig
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ...data.arrow_tables import AnyDataset, column_names, require_columns
from ...data.encoding import RecordEncoder, encode, resolve_max_length
from ...data.format import RecordFormat, record_format
from ...data.forms import paraphrased, plain_prompts
from ...data.loading import load_data
from ...errors import InputError
from ...evaluation.attacks.llama_cpp import refusal
from ...evaluation.attacks.low_bits import Form, available
from ...evaluation.attacks.sampling import Judge, entailment_class
from ...evaluation.attacks.translating import TRANSLATES, Translator
from ...evaluation.attacks.wordings import AS_TRAINED, WORDINGS, Wording
from ...evaluation.measured_sets import SAMPLE_ROWS, EvidenceSets, evidence_sets
from ...evaluation.report import SetName
from ...evaluation.score_cache import data_digest
from ...models.loading import load_config, load_tokenizer, source_task
from ...models.location import ModelSource, locate
from ...models.tasks import TASKS
from ...training.trainer_data import measured_sets
from ..preparation import Preparation, lora_config
from ..settings import AttackArguments, ModelArguments

RECORDS = 50  # of S, and of H, that the models are prompted with


@dataclass(frozen=True)
class Plan:
    """Which attacks to make.

    Attributes:
        own: how to read prompt and completion; None where prompts are no plain text.
        paraphrased: how to read them with the column of paraphrases in the prompt's place; None without one.
        worded: the records of S and H that are asked for in other words.
        public: texts to train the adapter ``lora`` on; None leaves this attack out.
        forms: the formats of few bits that can be tried.
        samples, temperature: of each record that a model writes texts for.
        judge: the model that says what follows from a text; None to compare words only.
        translation: the model that translates prompts; None leaves this wording out.
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
    translation: ModelSource | None
    skipped: dict[str, str]


def plan_attacks(run: Preparation, asked: AttackArguments, model_args: ModelArguments) -> Plan:
    """Find out which attacks apply, and what they need besides the records of the run.

    Args:
        run: the settings and the records.
        asked: how hard to try.
        model_args: of the adapter that is trained on public texts.

    Raises:
        InputError: something that was asked for is not possible, or not there.
    """
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
    elif asked.translation_model is not None:
        raise InputError("--translation_model needs records with a prompt of plain text, for a model that writes.")
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
    translation = None
    if asked.translation_model is not None:
        translation = locate(asked.translation_model)
        source_task(translation, TRANSLATES)
    forms, missing = available()
    if "q4_k_m" in forms and (why := _no_q4_k_m(run)) is not None:
        forms, missing = tuple(form for form in forms if form != "q4_k_m"), missing | {"Q4_K_M": why}
    return Plan(
        own=own,
        paraphrased=paraphrases,
        worded=worded,
        public=public,
        lora=lora,
        forms=forms,
        samples=asked.attack_samples,
        temperature=asked.attack_temperature,
        judge=judge,
        translation=translation,
        skipped=skipped | missing,
    )


def _no_q4_k_m(run: Preparation) -> str | None:
    """Why llama.cpp does not hold the model that is attacked; None where it does."""
    if run.task != "text-generation":
        return f"llama.cpp holds no model for {run.task}"
    return refusal(load_config(run.source), load_tokenizer([run.source]))


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


@dataclass(frozen=True)
class Material:
    """The data of the attacks, encoded.

    Attributes:
        evidence: S, H and L.
        tokenizer: of all models.
        wordings: some records of S and H, by the name of the wording.
        public: texts that have nothing to do with S; None without them.
        judge: says what follows from a text; None to compare words only.
        translator: of the prompts; None leaves this wording out.
        translated: makes the records with their prompts in another language, once, and counts the tokens for that.
    """

    evidence: EvidenceSets
    tokenizer: PreTrainedTokenizerBase
    wordings: dict[str, EvidenceSets]
    public: Dataset | None
    judge: Judge | None
    translator: Translator | None
    translated: Callable[[], tuple[EvidenceSets, int]]

    def digests(self) -> list[str]:
        """Of the records, and of the public texts."""
        texts = [] if self.public is None else [data_digest(self.public)]
        return [f"{name} {data_digest(part)}" for name, part in self.evidence.sets.items()] + texts

    def worded_digests(self) -> list[str]:
        """Of the records in all wordings."""
        found = {name: wording.sets for name, wording in self.wordings.items()}
        return [f"{name} {part} {data_digest(rows)}" for name, sets in found.items() for part, rows in sets.items()]


def encode_material(
    run: Preparation, plan: Plan, sources: list[ModelSource], model_config: PretrainedConfig
) -> Material:
    """Encode the records and texts, and load the model that judges them.

    Args:
        run: the settings and the records.
        plan: which attacks to make.
        sources: of the models, which have one tokenizer.
        model_config: of one of them.

    Raises:
        InputError: a set has no record that can be measured.
    """
    config, tokenizer = run.config, load_tokenizer(sources)
    evidence = measured_sets(run.sets, sources, model_config, run.task, config)
    length = resolve_max_length(model_config, tokenizer, config.max_length)
    public = None

    def encoded(layout: RecordFormat, records: Mapping[SetName, Dataset]) -> EvidenceSets:
        return evidence_sets(
            records,
            RecordEncoder(tokenizer, layout, length),
            evidence.collator,
            run.task,
            evidence.batch_size,
            config.seed,
            tokenizer=tokenizer,
            group_column=config.group_column,
        )

    with config.main_process_first(desc="tokenising"):
        wordings = {name: encoded(*read) for name, read in _readings_by_name(run, plan).items()}
        if plan.public is not None:
            texts = encode(plan.public, RecordEncoder(tokenizer, RecordFormat("text"), length), "public")
            assert isinstance(texts, Dataset)
            public = texts
    judge = translator = None
    if plan.judge is not None and "sampling" not in plan.skipped:
        judge = Judge.load(plan.judge, config.device)
    if plan.translation is not None:
        translator = Translator.load(plan.translation, config.device)

    @cache
    def translated() -> tuple[EvidenceSets, int]:
        assert translator is not None
        layout, records, tokens = _translated(run, plan, translator)
        return encoded(layout, records), tokens

    return Material(evidence, tokenizer, wordings, public, judge, translator, translated)


def _readings_by_name(run: Preparation, plan: Plan) -> dict[str, tuple[RecordFormat, Mapping[SetName, Dataset]]]:
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


def _translated(
    run: Preparation, plan: Plan, translator: Translator
) -> tuple[RecordFormat, dict[SetName, Dataset], int]:
    """How to read the records with their prompts translated, these records, and the tokens for that."""
    assert plan.own is not None
    own = plan.own
    asked = [own.pair(record)[0].rstrip() for rows in plan.worded.values() for record in rows]
    said, tokens = translator.translate(asked, run.config.per_device_eval_batch_size)
    words = dict(zip(asked, said, strict=True))

    def change(prompt: str, answer: str) -> tuple[str, str]:
        question = prompt.rstrip()
        # What stands between prompt and answer stays there.
        return words[question] + prompt[len(question) :], answer

    records = {part: _in_words(rows, own, change, run.config.group_column) for part, rows in plan.worded.items()}
    return RecordFormat(own.kind), records, tokens
