"""The data of a trainer, as examples: what it trains on, and what it measures."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..data.alternates_file import AlternatesEntry, alternates_to
from ..data.arrow_tables import AnyDataset, column_names, without_format
from ..data.checks import check_examples
from ..data.encoding import PaddingCollator, RecordEncoder, check_tokens, encode, make_encoder, padding_id
from ..data.forms import other_forms
from ..data.labels import of_classes
from ..data.masking import MaskingCollator, TokenMasking, token_masking
from ..data.replacements import by_record, encoder_of, plain_form, with_refusals
from ..errors import InputError, guarded
from ..evaluation.measured_sets import EvidenceSets, evidence_sets
from ..evaluation.report import SetName
from ..methods.forget_batches import Draws, ForgetRetainedDataset
from ..methods.method import Method
from ..methods.step import Part
from ..models.classes import class_names_of, with_classes
from ..models.limits import own_padding, vocabulary
from ..models.loading import Model, load_tokenizer, plain_model
from ..models.location import ModelSource
from ..models.tasks import IGNORED, TASKS, Task
from .config import UnlearningConfig
from .first_use_of_rows import BLIND_ORDERS, Collator, FirstUse
from .useful import held_out_rows, usefulness_sets


@dataclass(frozen=True)
class GuardedCollator:
    """A collator of the user, whose own errors may quote the records."""

    collator: Collator

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        with guarded(f"The data collator fails on a batch of {len(examples)} examples; correct it"):
            return self.collator(examples)


def guarded_collator(collator: Collator | None) -> Collator | None:
    """The collator that a user gives, unless it is this package's own."""
    return collator if collator is None or isinstance(collator, PaddingCollator) else GuardedCollator(collator)


@dataclass(frozen=True)
class TrainerData:
    """What a trainer reads.

    Attributes:
        train, test: the examples of L and of a test split, or of several by name.
        training_collator: stacks those that are trained on, None where ``collator`` does.
        evidence: what is measured, None without S.
        rows: how many records L has, None when it is streamed.
        fingerprint: of L by the ``datasets`` library, None when it is streamed.
        first_use: when each row of L was first used, None where that proves nothing.
        forget: the examples of S, None where it is not trained on.
        mixed: what comes in the batches of a method that uses S, None for another.
        alternates: what a report says of the alternates that come in S's place, None without them.
        records: the sets as they were given; a test split may be several by name.
        kept_classes: the ids of the classes that the result keeps, None for all.
        config: of the original, with all of its classes.
        useful: what usefulness is measured on, a part of it held out from ``train``; None where nothing watches it.
    """

    train: AnyDataset
    test: AnyDataset | dict[str, AnyDataset] | None
    collator: Collator
    training_collator: MaskingCollator | None
    evidence: EvidenceSets | None
    rows: int | None
    fingerprint: str | None
    first_use: FirstUse | None
    forget: Dataset | None = None
    mixed: ForgetRetainedDataset | None = None
    alternates: AlternatesEntry | None = None
    records: Mapping[SetName, Any] = field(default_factory=dict)
    kept_classes: list[int] | None = None
    config: PretrainedConfig | None = None
    useful: EvidenceSets | None = None


def trainer_data(
    retained: AnyDataset,
    forget: AnyDataset | None,
    holdout: AnyDataset | None,
    test: AnyDataset | dict[str, AnyDataset] | None,
    args: UnlearningConfig,
    task: Task,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    collator: Collator | None,
    method: Method,
    kept_classes: list[int] | None = None,
) -> TrainerData:
    """Encode L, S, H and a test split; raises InputError where one is empty or does not fit the task or method.

    What is measured is numbered by all classes, what is trained on and tested by those that are kept.
    """
    retained, forget, holdout, test = map(without_format, (retained, forget, holdout, test))
    # Cutting texts leaves marks in a tokenizer, and the given one is saved.
    tokenizer = copy.deepcopy(tokenizer)
    masking = token_masking(task, tokenizer, args.mlm_probability, args.seed, vocabulary(config))
    training_collator = None
    if collator is None:
        collator = PaddingCollator(padding_id(tokenizer, config)).of(config)
        if masking is not None:
            training_collator = MaskingCollator(masking, collator)
    trained = config if kept_classes is None else with_classes(config, kept_classes)
    encoder = make_encoder(retained, task, trained, tokenizer, args.max_length, args.layout)
    rows = len(retained) if isinstance(retained, Dataset) else None
    fingerprint = retained._fingerprint if isinstance(retained, Dataset) else None
    # Of a training on all of D, S included, for those who will ask later what had been used by when.
    first_use, in_blind_order = None, args.train_sampling_strategy in BLIND_ORDERS
    if rows is not None and forget is None and encoder is not None and in_blind_order:
        first_use = FirstUse.of(rows)
    sets: dict[SetName, AnyDataset | None] = {
        "forget": forget,
        "holdout": holdout,
        "retained": retained,
        "test": None if isinstance(test, dict) else test,
    }
    _check_sets(sets, method, task, config, padded=isinstance(collator, PaddingCollator))
    given: dict[SetName, Any] = {**sets, "test": test}
    evidence = None
    if forget is not None:
        evidence = _encoded_sets(sets, tokenizer, config, task, args, collator, in_forms=method.uses_forget)
    with args.main_process_first(desc="tokenising"):
        retained = _as_examples(retained, encoder, "retained")
        if isinstance(test, dict):
            test = {name: _as_test(part, encoder, masking, kept_classes) for name, part in test.items()}
        elif test is not None:
            test = _as_test(test, encoder, masking, kept_classes)
        told: AnyDataset | None = None
        if method.uses_forget and evidence is not None and forget is not None:
            # What is measured of a masked language model has its masks already.
            told = evidence.sets["forget"] if masking is None else _as_examples(forget, encoder, "forget")
        replacing, alternates = None, None
        if method.data.instead is not None and isinstance(forget, Dataset) and isinstance(told, Dataset):
            reader = encoder_of(encoder, method.name)
            if method.data.instead == "refusals":
                texts = with_refusals(forget, reader.format, args.seed)
            else:
                found = alternates_to(forget, reader.format, Path(str(args.alternates_file)))
                texts, alternates = found.in_place_of(forget, reader.format), found.entry
            instead = encode(texts, replace(reader, format=plain_form(reader.format)), method.data.instead)
            assert isinstance(instead, Dataset)
            replacing = instead, by_record(told, instead, len(forget))
    useful = None
    if args.stop_when_useful and isinstance(retained, Dataset):
        held_out = held_out_rows(retained, args.seed)
        names = class_names_of(trained) if TASKS[task].classes else ()
        measured = EvidenceSets(task, {}, collator, args.per_device_eval_batch_size, classes=names)
        useful = usefulness_sets(retained, held_out, measured, masking, args.seed)
        if useful is not None:
            retained = retained.select(np.flatnonzero(~held_out))
    assert told is None or isinstance(told, Dataset)
    mixed = None if told is None else _mixed(told, retained, replacing, args, task, config, method)
    return TrainerData(
        retained, test, collator, training_collator, evidence, rows, fingerprint, first_use, told, mixed, alternates,
        given, kept_classes, copy.deepcopy(config), useful,
    )  # fmt: skip


def _as_examples(dataset: AnyDataset, encoder: RecordEncoder | None, name: str) -> AnyDataset:
    return dataset if encoder is None else encode(dataset, encoder, name)


def _as_test(
    dataset: AnyDataset, encoder: RecordEncoder | None, masking: TokenMasking | None, kept_classes: list[int] | None
) -> AnyDataset:
    if kept_classes is not None and encoder is not None and isinstance(dataset, Dataset):
        dataset = of_classes(dataset, encoder.format.label, encoder.label2id)
    examples = _as_examples(dataset, encoder, "test")
    return masking.fixed(examples) if masking is not None and isinstance(examples, Dataset) else examples


def _check_sets(
    sets: Mapping[SetName, AnyDataset | None], method: Method, task: Task, config: PretrainedConfig, *, padded: bool
) -> None:
    """Raise InputError where a method that uses S cannot have it, or not with this L, or a tokenised set is none.

    ``padded`` says whether a set is read as usual, and not by a collator of the user.
    """
    retained = sets["retained"]
    for part in sets.values():
        if padded and part is not None and "input_ids" in column_names(part):
            check_examples(part, task, vocabulary(config))
    if method.uses_forget and sets["forget"] is None:
        raise InputError(f"The method {method.name!r} trains on the records to forget; give them as forget_dataset.")
    if method.uses_forget and not isinstance(retained, Dataset):
        raise InputError(
            f"The method {method.name!r} draws records of the retained set at random, which a streamed one does not "
            "allow; leave dataset_streaming out."
        )


def _mixed(
    forget: Dataset,
    retained: AnyDataset,
    replacing: tuple[Dataset, list[list[int]]] | None,
    args: UnlearningConfig,
    task: Task,
    config: PretrainedConfig,
    method: Method,
) -> ForgetRetainedDataset:
    """What comes in the batches of a method that uses S; ``replacing`` comes in its place, by example of S."""
    assert isinstance(retained, Dataset)
    data, facts = method.data, TASKS[task]
    labels = [[label] if isinstance(label, int) else label for label in forget["labels"]]
    # A first token is predicted by nothing.
    predicted = [sum(label != IGNORED for label in record[int(facts.next_token) :]) for record in labels]
    if empty := sum(number <= data.skipped for number in predicted):
        raise InputError(
            f"{empty} of the {len(labels)} examples to forget have no label that {method.name!r} could work on; leave "
            "them out, or use another method."
        )
    step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    draws = Draws(data, len(forget), len(retained), step, args.seed)
    sets: dict[Part, Dataset] = {"forget": forget, "retained": retained}
    replacements = None
    if replacing is not None:
        sets["instead"], replacements = replacing
    return ForgetRetainedDataset(data, sets, replacements, int(config.num_labels or 0) if facts.classes else 0, draws)


def measured_sets(
    sets: Mapping[SetName, AnyDataset | None],
    sources: Sequence[ModelSource],
    model_config: PretrainedConfig,
    task: Task,
    config: UnlearningConfig,
    *,
    in_forms: bool = False,
) -> EvidenceSets:
    """Encode the sets to measure models on, with the tokenizer of the first model that has one.

    ``in_forms`` adds S and H in other forms, for a model that may have been trained on S.
    """
    tokenizer = load_tokenizer(sources)
    collator = PaddingCollator(padding_id(tokenizer, model_config)).of(model_config)
    return _encoded_sets(sets, tokenizer, model_config, task, config, collator, in_forms=in_forms)


def with_one_padding(model: Model, tokenizer: PreTrainedTokenizerBase, task: Task) -> PreTrainedTokenizerBase:
    """A tokenizer that pads as the model expects, so that a classifier on a decoder finds the end of each text.

    The model's own padding token counts; one without gets the tokenizer's, in place. It is the tokenizer itself where
    it pads so already, or where the mask alone hides what is padded.
    """
    config = plain_model(model).config
    if task != "text-classification":
        return tokenizer
    token = padding_id(tokenizer, config)
    if own_padding(config) is None:
        config.get_text_config().pad_token_id = token
    name = tokenizer.convert_ids_to_tokens(token)
    if token == tokenizer.pad_token_id or not isinstance(name, str):
        return tokenizer
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = name
    return padding


def check_tokens_of(
    sets: Sequence[AnyDataset | None],
    tokenizer: PreTrainedTokenizerBase,
    model_config: PretrainedConfig,
    task: Task,
    config: UnlearningConfig,
) -> None:
    """Raise InputError where a record has a token that a model, which need not be loaded, does not."""
    given = [part for part in sets if part is not None]
    check_tokens(given, make_encoder(given[0], task, model_config, tokenizer, config.max_length, config.layout))


def _encoded_sets(
    sets: Mapping[SetName, AnyDataset | None],
    tokenizer: PreTrainedTokenizerBase,
    model_config: PretrainedConfig,
    task: Task,
    args: UnlearningConfig,
    collator: Collator,
    *,
    in_forms: bool,
) -> EvidenceSets:
    retained = sets["retained"]
    assert retained is not None
    forms = {}
    if in_forms:
        forms = other_forms([sets["forget"], sets["holdout"]], task, args.layout, args.paraphrase_column)
    encoder = make_encoder(retained, task, model_config, tokenizer, args.max_length, args.layout)
    masking = token_masking(task, tokenizer, args.mlm_probability, args.seed, vocabulary(model_config))
    with args.main_process_first(desc="tokenising"):
        return evidence_sets(
            sets,
            encoder,
            collator,
            task,
            args.per_device_eval_batch_size,
            args.seed,
            masking,
            tokenizer,
            args.group_column,
            class_names_of(model_config) if TASKS[task].classes else (),
            args.corrected_label_column,
            whole=args.measure == "full",
            forms=forms,
        )
