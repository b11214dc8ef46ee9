"""Records to tensors: which columns carry the text, how it is tokenised, what is trained on, how it is padded.

The columns are named as in TRL and transformers. For language models: ``prompt`` and ``completion`` (the prompt is
not trained on), ``messages`` (only the assistant's turns are), or ``text`` (all of it is). For classifiers: ``text``
with a ``label``, or ``tokens`` (a list of words) with ``ner_tags`` (one for each word). For masked language models
``text``, and for models that read one text and write another ``prompt`` and ``completion``.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from datasets import Features, IterableDataset, List, Value
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError
from ..models.tasks import IGNORED, Task
from .arrow_tables import AnyDataset, column_names, require_columns
from .checks import check_batch
from .format import RecordFormat, record_format
from .labels import class_ids, label_ids

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024  # as TRL

Columns = dict[str, list[Any]]


def classified_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts with a class each; what is too long is cut off."""
    _check_classes(encoder, set(batch[encoder.format.label]))
    texts = batch[encoder.format.text]
    encoded = encoder.tokenizer(texts)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    long = {i for i, tokens in enumerate(ids) if len(tokens) > encoder.max_length}
    for i in long:
        cut = encoder.tokenizer(texts[i], truncation=True, max_length=encoder.max_length)
        ids[i], mask[i] = cut["input_ids"], cut["attention_mask"]
    # Without special tokens an empty text has no token, and a model cannot read an example without one.
    kept = [i for i, tokens in enumerate(ids) if tokens]
    return {
        "input_ids": [ids[i] for i in kept],
        "attention_mask": [mask[i] for i in kept],
        "labels": [encoder.labels[batch[encoder.format.label][i]] for i in kept],
        "row": [rows[i] for i in kept],
        "truncated": [i in long for i in kept],
    }


def text_pairs(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts to read and texts to write; of both, what is too long is cut off."""
    pairs = [[text for text, _ in encoder.segments(batch, i)] for i in range(len(rows))]
    options: dict[str, Any] = {"truncation": True, "max_length": encoder.max_length}
    read = encoder.tokenizer([prompt for prompt, _ in pairs], **options)
    written = encoder.tokenizer(text_target=[completion for _, completion in pairs], **options)
    end = encoder.tokenizer.eos_token_id
    out = _examples()
    for i, (ids, labels) in enumerate(zip(read["input_ids"], written["input_ids"], strict=True)):
        if end is not None:
            ids = ids or [end]
            if not labels or labels[-1] != end:
                labels = [*labels[: encoder.max_length - 1], end]
        if ids and labels:
            _append(out, ids, labels, rows[i], truncated=_is_cut(read, i) or _is_cut(written, i))
    return out


def maskable_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts for a masked language model, long ones in pieces; every token but the special ones can be masked."""
    encoded = encoder.tokenizer(
        batch[encoder.format.text],
        truncation=True,
        max_length=encoder.max_length,
        return_overflowing_tokens=True,
        return_special_tokens_mask=True,
    )
    out = _examples()
    names = ("input_ids", "special_tokens_mask", "overflow_to_sample_mapping")
    for ids, special, record in zip(*(encoded[name] for name in names), strict=True):
        labels = [IGNORED if is_special else token for token, is_special in zip(ids, special, strict=True)]
        if any(label != IGNORED for label in labels):
            _append(out, ids, labels, rows[record], truncated=False)
    return out


def tagged_words(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Lists of words with a class for each word, which its first token carries; what is too long is cut off."""
    if not encoder.tokenizer.is_fast:
        raise InputError("This model's tokenizer cannot tell which word a token belongs to; it needs a fast one.")
    words, tags = batch[encoder.format.text], batch[encoder.format.label]
    _check_classes(encoder, {tag for record in tags for tag in record})
    # The blank makes of each word the tokens that it has in running text, which byte-level BPE would not otherwise.
    spaced = [[f" {word}" if i else word for i, word in enumerate(record)] for record in words]
    encoded = encoder.tokenizer(spaced, is_split_into_words=True, truncation=True, max_length=encoder.max_length)
    out = _examples()
    for i, (row, ids) in enumerate(zip(rows, encoded["input_ids"], strict=True)):
        labels = [IGNORED] * len(ids)
        labelled: set[int] = set()
        for position, word in enumerate(encoded.word_ids(i)):
            if word is not None and word not in labelled:
                labels[position] = encoder.labels[tags[i][word]]
                labelled.add(word)
        if labelled:
            _append(out, ids, labels, row, truncated=len(labelled) < len(words[i]))
    return out


ENCODINGS: dict[str, Callable[["RecordEncoder", Columns, list[int]], Columns]] = {
    "classification": classified_texts,
    "tagged_words": tagged_words,
    "maskable": maskable_texts,
    "text_pairs": text_pairs,
}


# Lengths


def resolve_max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, asked: int | None) -> int:
    """The number of tokens in a training example: what was asked for, else the model's limit up to 1024.

    Raises:
        InputError: more tokens than the model can attend to.
    """
    parts = (config.get_text_config().to_dict(), config.to_dict().get("encoder") or {})
    limits = [tokenizer.model_max_length, *(part.get("max_position_embeddings") for part in parts)]
    limit = min(limit for limit in limits if limit)
    if asked is None:
        return min(limit, DEFAULT_MAX_LENGTH)
    if not 2 <= asked <= limit:
        raise InputError(f"max_length={asked} is not possible: this model reads 2 to {limit} tokens.")
    return asked


# Tokenising


@dataclass
class RecordEncoder:
    """Turns batches of records into examples; a long document becomes several examples of one record.

    Attributes:
        tokenizer: the model's.
        format: the records' layout.
        max_length: tokens in an example at most.
        label2id: the model's classes (classification).
        labels: class of each label value of the data set at hand; :func:`encode` sets it.
    """

    tokenizer: PreTrainedTokenizerBase
    format: RecordFormat
    max_length: int
    label2id: dict[str, int] = field(default_factory=dict)
    labels: dict[Any, int] = field(default_factory=dict)

    def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        """Encode a batch.

        Args:
            batch: the columns.
            rows: the position of each record in its data set.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels`` (token ids, -100 where not trained on; the class, or those of
            the words; the tokens that can be masked; or the text to write), ``row`` (the record's position) and
            ``truncated`` (whether tokens were cut off), all of shape (examples,).

        Raises:
            InputError: a record without text or label, or a conversation that cannot be trained on.
        """
        check_batch(batch, self.format)
        if self.format.kind in ENCODINGS:
            return ENCODINGS[self.format.kind](self, batch, rows)
        out: dict[str, list[Any]] = {
            name: [] for name in ("input_ids", "attention_mask", "labels", "row", "truncated")
        }
        segments = [self.segments(batch, i) for i in range(len(rows))]
        # A chat template writes the special tokens and the end of a turn itself.
        own_special_tokens = self.format.kind == "messages" or not isinstance(batch.get("prompt", [""])[0], str)
        for row, (ids, labels) in zip(rows, self._tokenize(segments, not own_special_tokens), strict=True):
            for piece, piece_labels in _chunks(ids, labels, self.max_length):
                if any(label != IGNORED for label in piece_labels[1:]):
                    out["input_ids"].append(piece)
                    out["attention_mask"].append([1] * len(piece))
                    out["labels"].append(piece_labels)
                    out["row"].append(row)
                    out["truncated"].append(False)
        return out

    def segments(self, batch: dict[str, list[Any]], i: int) -> list[tuple[str, bool]]:
        """The record's text in pieces, each with whether it is trained on."""
        kind = self.format.kind
        if kind == "text":
            return [(batch[self.format.text][i], True)]
        if kind == "messages":
            return self._turns(batch["messages"][i], first=0)
        if self.format.prompt is not None and self.format.completion is not None:
            record = {name: values[i] for name, values in batch.items()}
            return [(self.format.prompt.format_map(record), False), (self.format.completion.format_map(record), True)]
        prompt, completion = batch["prompt"][i], batch["completion"][i]
        if isinstance(prompt, str):
            return [(prompt, False), (completion, True)]
        return self._turns(prompt + completion, first=len(prompt))

    def _turns(self, messages: list[dict[str, str]], first: int) -> list[tuple[str, bool]]:
        """A rendered conversation in pieces; the assistant's turns from number ``first`` on are trained on."""
        segments: list[tuple[str, bool]] = []
        done = ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i < first:
                continue
            asked = self._render(messages[:i], add_generation_prompt=True)
            answered = self._render(messages[: i + 1], add_generation_prompt=False)
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise InputError(
                    "This tokenizer's chat template rewrites earlier turns, so a turn's tokens cannot be told apart; "
                    "render the conversations yourself into the columns 'prompt' and 'completion'."
                )
            segments += [(asked[len(done) :], False), (answered[len(asked) :], True)]
            done = answered
        return segments

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        if self.tokenizer.chat_template is None:
            raise InputError(
                "The records are conversations and the tokenizer has no chat template; render them yourself into the "
                "columns 'prompt' and 'completion'."
            )
        if not messages:
            return ""
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return cast(str, text)

    def _tokenize(
        self, records: list[list[tuple[str, bool]]], special_tokens: bool
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids and labels of each record.

        The text is tokenised in one piece, as the model will meet it. A piece begins where those tokens first differ
        from the tokens of what comes before it: a token that reaches over the boundary belongs to the later piece, so
        the answer's first token is trained on also where byte-level BPE joins it to the blank before it.
        """
        texts = ["".join(text for text, _ in segments) for segments in records]
        starts: list[int] = []
        prefixes: list[str] = []
        for segments in records:
            starts.append(len(prefixes))
            before = ""
            for text, _ in segments[:-1]:
                before += text
                prefixes.append(before)
        encoded = self.tokenizer(texts, add_special_tokens=special_tokens)["input_ids"]
        encoded_prefixes = self.tokenizer(prefixes, add_special_tokens=special_tokens)["input_ids"] if prefixes else []
        eos = self.tokenizer.eos_token_id
        out = []
        for ids, segments, start in zip(encoded, records, starts, strict=True):
            if eos is not None and special_tokens and (not ids or ids[-1] != eos):
                ids = [*ids, eos]
            bounds = [0]
            for prefix in encoded_prefixes[start : start + len(segments) - 1]:
                bounds.append(max(bounds[-1], _common_prefix(ids, prefix)))
            bounds.append(len(ids))
            labels = [IGNORED] * len(ids)
            for (_, trained), left, right in zip(segments, bounds[:-1], bounds[1:], strict=True):
                if trained:
                    labels[left:right] = ids[left:right]
            out.append((ids, labels))
        return out


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length


def _chunks(ids: list[int], labels: list[int], size: int) -> list[tuple[list[int], list[int]]]:
    """Pieces of at most ``size`` tokens; they share one token, so that all tokens but the first are predicted once."""
    starts = range(0, max(len(ids) - 1, 1), size - 1)
    return [(ids[i : i + size], labels[i : i + size]) for i in starts]


def make_encoder(
    dataset: AnyDataset,
    task: Task,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    layout: dict[str, Any],
) -> "RecordEncoder | None":
    """How to read the records of a data set, None when they are tokenised already.

    Args:
        dataset: records or examples.
        task: what the model does.
        config: the model's configuration.
        tokenizer: the model's tokenizer.
        max_length: tokens in an example; see :func:`resolve_max_length`.
        layout: options of :func:`record_format`.

    Raises:
        InputError: the columns do not fit the task, the length not the model, or the model lacks what it needs.
    """
    ids = config.to_dict()
    if config.model_type == "encoder-decoder" and None in (ids.get("decoder_start_token_id"), ids.get("pad_token_id")):
        raise InputError(
            "The configuration of this encoder-decoder lacks decoder_start_token_id or pad_token_id, so it cannot "
            "make its decoder's inputs; set both in its config.json."
        )
    columns = column_names(dataset)
    if "input_ids" in columns:
        return None
    length = resolve_max_length(config, tokenizer, max_length)
    return RecordEncoder(tokenizer, record_format(columns, task, **layout), length, class_ids(config))


def encode(dataset: AnyDataset, encoder: RecordEncoder, name: str) -> AnyDataset:
    """Tokenise a data set.

    Args:
        dataset: records in the encoder's format.
        encoder: how to read them.
        name: what to call the data set in progress bars and messages.

    Returns:
        A data set of examples (see :meth:`RecordEncoder.__call__`), in the order of the records.

    Raises:
        InputError: a missing column, or a record without text or label.
    """
    columns = encoder.format.columns
    require_columns(columns, column_names(dataset))
    if encoder.format.label_columns:
        encoder = replace(encoder, labels=label_ids(dataset, encoder.format.label, encoder.label2id))
    if isinstance(dataset, IterableDataset):
        return dataset.map(encoder, with_indices=True, batched=True, remove_columns=column_names(dataset))
    # The types are given, because a batch of records without a token tells none.
    tokens, number = List(Value("int32")), Value("int64")
    features = Features(
        {
            "input_ids": tokens,
            "attention_mask": List(Value("int8")),
            "labels": number if encoder.format.kind == "classification" else tokens,
            "row": number,
            "truncated": Value("bool"),
        }
    )
    examples = dataset.select_columns(columns).map(
        encoder,
        with_indices=True,
        batched=True,
        remove_columns=columns,
        features=features,
        desc=f"Tokenising the {name} set",
    )
    wanted = "to read" if encoder.format.kind == "classification" else "to predict"
    if len(examples) == 0:
        raise InputError(f"None of the {len(dataset)} {name} records has a token {wanted}; their texts are empty.")
    if truncated := sum(examples["truncated"]):
        logger.warning(
            "%d of the %d %s texts are longer than %d tokens; what the model cannot read is cut off.",
            truncated, len(dataset), name, encoder.max_length,
        )  # fmt: skip
    if skipped := len(dataset) - len(set(examples["row"])):
        logger.warning(
            "%d of the %d %s records have no token %s and are left out.", skipped, len(dataset), name, wanted
        )
    return examples.remove_columns("truncated")


# Padding


@dataclass
class PaddingCollator:
    """Stacks examples into tensors, padded on the right to the longest.

    The attention mask says what padding is, never the token's id, so a tokenizer whose padding token is its EOS token
    still trains EOS.

    Attributes:
        pad_token_id: the id to fill up with; it is masked and has no label.
    """

    pad_token_id: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return int64 tensors ``input_ids``, ``attention_mask`` of shape (batch, tokens) and ``labels``."""
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        batch = {}
        for name, value in fill.items():
            values = [torch.as_tensor(example[name], dtype=torch.int64) for example in examples]
            if values[0].ndim == 0:
                batch[name] = torch.stack(values)
            else:
                batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=value)
        return batch


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id to fill up with; which one does not matter, the attention mask hides it."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in ids if token is not None)


def _check_classes(encoder: "RecordEncoder", found: set[Any]) -> None:
    if unknown := found - set(encoder.labels):
        raise InputError(f"{len(unknown)} of the labels in a stream are none of the model's classes.")


def _is_cut(encoded: Any, i: int) -> bool:
    return bool(encoded.encodings and encoded.encodings[i].overflowing)


def _examples() -> Columns:
    return {name: [] for name in ("input_ids", "attention_mask", "labels", "row", "truncated")}


def _append(out: Columns, ids: list[int], labels: list[int], row: int, truncated: bool) -> None:
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": row, "truncated": truncated}
    for name, value in values.items():
        out[name].append(value)
