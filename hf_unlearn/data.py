"""Records to tensors: which columns carry the text, how it is tokenised, what is trained on, how it is padded.

The columns are named as in TRL and transformers. For language models: ``prompt`` and ``completion`` (the prompt is
not trained on), ``messages`` (only the assistant's turns are), or ``text`` (all of it is). For classifiers: ``text``
with a ``label``, or ``tokens`` (a list of words) with ``ner_tags`` (one for each word). For masked language models
``text``, and for models that read one text and write another ``prompt`` and ``completion``.
"""

import logging
import string
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from datasets import Features, IterableDataset, List, Value
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .checks import check_batch
from .encodings import ENCODINGS
from .errors import InputError
from .labels import class_ids, label_ids
from .models.tasks import IGNORED, TASKS, Task
from .requests import require_columns
from .tables import AnyDataset, column_names, listed

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024  # as TRL


# Formats


@dataclass(frozen=True)
class RecordFormat:
    """Which columns of a record are read, and how.

    Attributes:
        kind: how the record is laid out.
        text: the column of the text, or of the words (all but ``messages`` and the pairs).
        label: the column of the class, or of the words' classes (``classification`` and ``tagged_words``).
        prompt, completion: templates over the columns (``prompt_completion`` and ``text_pairs``), or None for the
            columns themselves.
    """

    kind: Literal[
        "text", "messages", "prompt_completion", "classification", "tagged_words", "maskable", "text_pairs"
    ]  # fmt: skip
    text: str = "text"
    label: str = "label"
    prompt: str | None = None
    completion: str | None = None

    @property
    def text_columns(self) -> list[str]:
        """The columns that carry what a record says, without its label."""
        if self.kind == "messages":
            return ["messages"]
        if self.kind not in ("prompt_completion", "text_pairs"):
            return [self.text]
        if self.prompt is None or self.completion is None:
            return ["prompt", "completion"]
        return list(dict.fromkeys(template_fields(self.prompt) + template_fields(self.completion)))

    @property
    def label_columns(self) -> list[str]:
        """The column of the classes, none where there are no classes."""
        return [self.label] if self.kind in ("classification", "tagged_words") else []

    @property
    def columns(self) -> list[str]:
        """All the columns that are read."""
        return [*self.text_columns, *self.label_columns]


def template_fields(template: str) -> list[str]:
    """The columns that a template such as ``"Question: {question}"`` names; raises InputError on anything fancier."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"The template {template!r} is malformed: {error}.") from None
    fields = []
    for _, name, spec, conversion in parsed:
        if name is None:
            continue
        if not name.isidentifier() or spec or conversion:
            raise InputError(f"The template {template!r} may hold column names in braces only, like {{question}}.")
        fields.append(name)
    return fields


def record_format(
    available: Sequence[str],
    task: Task,
    *,
    text_field: str = "text",
    label_field: str = "label",
    prompt_template: str | None = None,
    completion_template: str | None = None,
) -> RecordFormat:
    """Find out how the records of a data set are laid out.

    Args:
        available: the columns of the data set.
        task: what the model does.
        text_field, label_field: the columns of text and class; where they are left as they are, the columns ``tokens``
            and ``ner_tags`` of words and their classes need not be named.
        prompt_template, completion_template: templates that build a prompt and a completion from other columns.

    Raises:
        InputError: the columns do not fit the task.
    """
    if task == "text-classification":
        require_columns([text_field, label_field], available)
        return RecordFormat("classification", text=text_field, label=label_field)
    if task == "token-classification":
        words = "tokens" if text_field == "text" and "tokens" in available else text_field
        tags = "ner_tags" if label_field == "label" and "ner_tags" in available else label_field
        require_columns([words, tags], available)
        return RecordFormat("tagged_words", text=words, label=tags)
    if task == "fill-mask":
        require_columns([text_field], available)
        return RecordFormat("maskable", text=text_field)
    pair: Literal["text_pairs", "prompt_completion"] = "text_pairs" if TASKS[task].two_texts else "prompt_completion"
    if (prompt_template is None) != (completion_template is None):
        raise InputError("prompt_template and completion_template go together; give both or neither.")
    if prompt_template is not None and completion_template is not None:
        fields = template_fields(prompt_template) + template_fields(completion_template)
        if not fields:
            raise InputError("prompt_template and completion_template name no column, so all records would be alike.")
        require_columns(fields, available)
        return RecordFormat(pair, prompt=prompt_template, completion=completion_template)
    if "messages" in available and not TASKS[task].two_texts:
        return RecordFormat("messages")
    if {"prompt", "completion"} <= set(available):
        return RecordFormat(pair)
    if TASKS[task].two_texts:
        raise InputError(
            "To train an encoder-decoder the data set needs the columns 'prompt', which it reads, and 'completion', "
            f"which it writes; it has {listed(available)}. Build them from other columns with prompt_template and "
            "completion_template."
        )
    if text_field not in available:
        raise InputError(
            "To train a language model the data set needs a column 'messages', the columns 'prompt' and 'completion', "
            f"or a column {text_field!r}; it has {listed(available)}. Name the text's column with "
            "dataset_text_field, or build prompts from other columns with prompt_template and completion_template."
        )
    return RecordFormat("text", text=text_field)


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
