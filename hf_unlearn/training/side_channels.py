"""What else of a result from a clean start may depend on S: test splits, classes, tokens and settings."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from datasets import Dataset, Value
from peft import PeftModel
from transformers import (
    EarlyStoppingCallback,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    SchedulerType,
)

from ..data.arrow_tables import AnyDataset
from ..data.copies.exact import texts_of
from ..data.copies.other_split import shared_rows
from ..data.encoding import encode, make_encoder
from ..data.labels import class_ids
from ..data.split import SplitAudit
from ..errors import InputError
from ..evaluation.measured_sets import EvidenceSets
from ..models.classes import class_names_of
from ..models.loading import load_config, load_tokenizer, plain_model
from ..models.tasks import IGNORED, TASKS
from .method_trainer import MethodTrainer

# Callbacks from elsewhere may do anything with what they see.
KNOWN_CALLBACKS = ("transformers.", "hf_unlearn.")
# What a task, the libraries and the special tokens settle, whatever the data are.
SETTLED = (
    "architectures", "dtype", "transformers_version", "id2label", "label2id", "num_labels", "problem_type",
    "use_cache", "vocab_size", "quantization_config", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
# Longer than any text, so that none is cut.
WHOLE = 10**9


def other_ways(trainer: MethodTrainer, evidence: EvidenceSets, audit: SplitAudit | None) -> Iterator[str]:
    """One sentence for each way, besides start and training data, in which S may have shaped the result."""
    yield from _choosing(trainer, audit)
    yield from _classes(trainer, evidence)
    yield from _tokens(trainer)
    yield from _settings(trainer)
    yield from _words(trainer, audit)


# What chose


def _choosing(trainer: MethodTrainer, audit: SplitAudit | None) -> Iterator[str]:
    args, callbacks = trainer.args, trainer.callback_handler.callbacks
    unknown = any(not type(one).__module__.startswith(KNOWN_CALLBACKS) for one in callbacks)
    if unknown and args.measure_steps:
        yield "A callback from outside saw what was measured of S during the training, and may have acted on it."
    stops = any(isinstance(one, EarlyStoppingCallback) for one in callbacks)
    adapts = args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU
    if trainer.eval_dataset is None or not (args.load_best_model_at_end or stops or adapts or unknown):
        return
    chose = "A test split chose the checkpoint, the learning rate or the last step, and"
    if trainer.eval_dataset is not trainer.data.test:
        yield f"{chose} it is not the one that the trainer was made with, so nothing shows that it is free of S."
        return
    given, forget = trainer.data.records["test"], trainer.data.records["forget"]
    ids = [] if audit is None else list(audit.id_columns)
    group = args.group_column or (audit and audit.group_column)
    ids += [group] if group else []
    for split in given.values() if isinstance(given, Mapping) else [given]:
        found = None
        if audit is not None and forget is not None:
            near = audit.near_duplicate_policy is not None
            found = shared_rows(split, forget, audit.duplicate_columns, ids, near=near)
        if found is None:
            yield f"{chose} it lacks the columns of text and ids that would show that it is free of S."
        elif found:
            yield (
                f"{chose} {found.copies} of its rows are copies of records to forget, {found.near_copies} are near "
                f"copies, and {found.same_ids} have an id or a group of theirs."
            )


# Classes


def _classes(trainer: MethodTrainer, evidence: EvidenceSets) -> Iterator[str]:
    if not TASKS[trainer.task].classes:
        return
    if not isinstance(trainer.train_dataset, Dataset):
        yield "The retained records are streamed, so nothing shows that each class of the head has one of them."
        return
    names = class_names_of(plain_model(trainer.model).config)
    own = {names[i] for i in _found(trainer.train_dataset)}
    told = {(evidence.classes or names)[i] for i in _found(evidence.sets["forget"])}
    if extra := (told & set(names)) - own:
        asked = " keep_labels kept them." if trainer.args.keep_labels else ""
        yield (
            f"{len(extra)} classes of the head have records to forget and no retained ones, so S gave them to it."
            + asked
        )


def _found(examples: Any) -> set[int]:
    """The ids of the classes in examples."""
    return {one for label in examples["labels"] for one in ([label] if isinstance(label, int) else label)} - {IGNORED}


# Tokens


def _tokens(trainer: MethodTrainer) -> Iterator[str]:
    tokenizer, base = trainer.processing_class, trainer.base
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    if base is not None:
        # A base without a tokenizer has none to compare with.
        with suppress(InputError):
            if _pieces(load_tokenizer([base])) != _pieces(tokenizer):
                yield "The tokenizer has other tokens than that of the base model, and S may have shaped them."
                return
            if not base.is_local or trainer.args.base_is_clean:
                return
    if number := len(_tokens_of_s_alone(trainer, tokenizer)):
        cure = "" if base is None else "; name the base by its Hub id, or state base_is_clean"
        yield (
            f"The tokenizer has {number} tokens that occur in records to forget and in no others, and nothing "
            f"shows that it was not trained on S{cure}."
        )


def _pieces(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The tokens of a tokenizer and, of a fast one, how they are put together."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"] if tokenizer.is_fast else None
    return tokenizer.get_vocab(), model


def _tokens_of_s_alone(trainer: MethodTrainer, tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The tokens of several characters that S has, and whose characters stand in no record of L or H."""
    given = trainer.data.records
    forget, others = given["forget"], [given[name] for name in ("holdout", "retained") if given[name] is not None]
    own = {token for ids in _read(trainer, forget, tokenizer) for token in ids} - set(tokenizer.all_special_ids)
    texts = {tokenizer.convert_tokens_to_string([str(tokenizer.convert_ids_to_tokens(token))]) for token in own}
    texts = {text.strip().removeprefix("##") for text in texts}
    alone = {text for text in texts if len(text) > 1}
    for part in others:
        for ids in _read(trainer, part, tokenizer) if alone else ():
            text = str(tokenizer.decode(ids))
            alone = {token for token in alone if token not in text}
    return alone


def _read(trainer: MethodTrainer, records: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The tokens of each record, of which nothing is cut off."""
    args, config = trainer.args, trainer.data.config
    assert config is not None
    encoder = make_encoder(records, trainer.task, config, tokenizer, args.max_length, args.layout)
    columns = ["input_ids", "labels"] if TASKS[trainer.task].two_texts else ["input_ids"]
    if encoder is not None:
        records = encode(records, replace(encoder, max_length=WHOLE), "examined")
    for example in records.select_columns(columns):
        yield from (example[name] for name in columns)


# Settings and words


def _settings(trainer: MethodTrainer) -> Iterator[str]:
    model, base = trainer.accelerator.unwrap_model(trainer.model), trainer.base
    if isinstance(model, PeftModel):
        # It brings none of its own.
        return
    config = load_config(base) if base is not None else model.config
    other = _other(model.config.to_dict(), config.to_dict()) if base is not None else set()
    own = model.generation_config.to_dict() if model.can_generate() else {}
    if own:
        other |= _other(own, _generation(trainer, config).to_dict())
    if other:
        yield (
            f"{len(other)} settings of the model or of what it generates are others than those of the base model, and "
            "S may have shaped them."
        )


def _generation(trainer: MethodTrainer, config: PretrainedConfig) -> GenerationConfig:
    """The generation settings of the base, or those that follow from a configuration alone."""
    if trainer.base is not None:
        with suppress(OSError):
            return GenerationConfig.from_pretrained(trainer.base.name, revision=trainer.base.revision or "main")
    return GenerationConfig.from_model_config(config)


def _other(own: dict[str, Any], others: dict[str, Any]) -> set[str]:
    own, others = _unsettled(own), _unsettled(others)
    return {name for name in own.keys() | others.keys() if own.get(name) != others.get(name)}


def _unsettled(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that nobody else settles, also those of the parts of a model."""
    return {
        name: _unsettled(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name not in SETTLED and not str(name).startswith("_")
    }


def _words(trainer: MethodTrainer, audit: SplitAudit | None) -> Iterator[str]:
    """Chat templates, and names of classes that the labels of L do not name, may quote S."""
    forget, retained = trainer.data.records["forget"], trainer.data.records["retained"]
    if audit is None or not audit.duplicate_columns or forget is None or retained is None:
        return
    written = [_chat_template(trainer.processing_class)]
    feature = (retained.features or {}).get(trainer.args.dataset_label_field)
    if TASKS[trainer.task].classes and isinstance(feature, Value) and feature.dtype.startswith("int"):
        written.extend(class_ids(plain_model(trainer.model).config))
    known = set()
    if trainer.base is not None:
        with suppress(InputError):
            known = _words_in([_chat_template(load_tokenizer([trainer.base]))])
    quoted = _words_in(written) - known
    if quoted and (quoted := quoted & _words_of(forget, audit.duplicate_columns)):
        quoted -= _words_of(retained, audit.duplicate_columns)
    if quoted:
        yield (
            f"{len(quoted)} words of the chat template, or of the names of classes, occur in records to forget and in "
            "no retained one."
        )


def _chat_template(tokenizer: Any) -> str:
    return str(tokenizer.chat_template or "") if isinstance(tokenizer, PreTrainedTokenizerBase) else ""


def _words_of(records: AnyDataset, columns: list[str]) -> set[str]:
    return _words_in(texts_of(records, columns).drop_null().to_pylist())


def _words_in(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.findall(r"\w{2,}", text.lower())}
