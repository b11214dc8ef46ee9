"""Records to tensors: how their text is tokenised, which tokens are trained on, how examples are padded.

The columns are named as in TRL and transformers. For language models: ``prompt`` and ``completion`` (the prompt is
not trained on), ``messages`` (only the assistant's turns are), or ``text`` (all of it is). For classifiers: ``text``
with a ``label``, or ``tokens`` (a list of words) with ``ner_tags`` (one for each word). For masked language models
``text``, and for models that read one text and write another ``prompt`` and ``completion``.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, dropwhile, islice
from typing import Any, Literal

import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from torch.nn.utils.rnn import pad_sequence
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..errors import InputError, guarded
from ..models.limits import own_padding, positions, vocabulary
from ..models.tasks import IGNORED, Task
from .arrow_tables import AnyDataset, column_names, require_columns, without_format
from .checks import check_batch
from .conversations import Segments, clean_turns, rendered, template_options
from .format import RecordFormat, record_format
from .labels import class_ids, label_ids

logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 1024  # as TRL

# Their classifiers read the last position, whatever stands there.
READ_AT_THE_END = ("xlnet",)

Columns = dict[str, list[Any]]
# The tokens of a record piece by piece, and whether each piece is trained on.
Pieces = list[tuple[list[int], bool]]


# Records to examples


def generated_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts that a language model writes, long ones in pieces."""
    out = _examples()
    segments = [encoder.segments(batch, i, row) for i, row in enumerate(rows)]
    # A chat template writes the special tokens and the end of a turn itself.
    is_chat = encoder.format.kind == "messages" or not isinstance(batch.get("prompt", [""])[0], str)
    pieces = encoder.pieces(segments, not is_chat)
    if encoder.trained is not None:
        plain = replace(encoder, format=encoder.trained, trained=None)
        own = plain.pieces([plain.segments(batch, i, row) for i, row in enumerate(rows)], not is_chat)
        pieces = [_with_answers_of(*pair, encoder.tokenizer) for pair in zip(pieces, own, strict=True)]
    for row, (ids, labels) in zip(rows, map(_joined, pieces), strict=True):
        for piece, piece_labels in _chunks(ids, labels, encoder.max_length):
            if any(label != IGNORED for label in piece_labels[1:]):
                _append(out, piece, piece_labels, row, truncated=False)
    return out


def classified_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts with a class each; what is too long is cut off."""
    texts, labels = [encoder.format.before + text for text in batch[encoder.format.text]], batch[encoder.format.label]
    _check_classes(encoder, set(labels))
    out, added = _examples(), added_tokens(encoder.tokenizer)
    for text, label, row, found in zip(
        texts, labels, rows, encoder.tokenizer(texts, verbose=False)["input_ids"], strict=True
    ):
        ids = found[once(found, added)]
        long = len(ids) > encoder.max_length
        if long:
            size = encoder.max_length + len(found) - len(ids)
            found = encoder.tokenizer(text, truncation=True, max_length=size)["input_ids"]
            ids = found[once(found, added)][: encoder.max_length]
        # Without special tokens an empty text has no token, and a model cannot read an example without one.
        if ids:
            _append(out, ids, encoder.labels[label], row, truncated=long)
    return out


def text_pairs(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts to read and texts to write; of both, what is too long is cut off."""
    pairs = [[text for text, _ in encoder.segments(batch, i, row)] for i, row in enumerate(rows)]
    options: dict[str, Any] = {"truncation": True, "max_length": encoder.max_length}
    read = encoder.tokenizer([prompt for prompt, _ in pairs], **options)
    written = encoder.tokenizer(text_target=[completion for _, completion in pairs], **options)
    end = encoder.tokenizer.eos_token_id
    out, added = _examples(), added_tokens(encoder.tokenizer)
    for i, (ids, labels) in enumerate(zip(read["input_ids"], written["input_ids"], strict=True)):
        ids, labels = ids[once(ids, added)], labels[once(labels, added)]
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
    out, added = _examples(), added_tokens(encoder.tokenizer)
    names = ("input_ids", "special_tokens_mask", "overflow_to_sample_mapping")
    for ids, special, record in zip(*(encoded[name] for name in names), strict=True):
        kept = once(ids, added)
        labels = [IGNORED if is_special else token for token, is_special in zip(ids, special, strict=True)][kept]
        # The text's own stand in the place of the added ones, which are not masked.
        if kept.start:
            labels[0] = IGNORED
        if kept.stop < len(ids):
            labels[-1] = IGNORED
        ids = ids[kept]
        if any(label != IGNORED for label in labels):
            _append(out, ids, labels, rows[record], truncated=False)
    return out


def tagged_words(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Lists of words with a class for each word, which its first token carries; what is too long is cut off."""
    if not encoder.tokenizer.is_fast:
        raise InputError("This model's tokenizer does not say which word a token belongs to; use a fast tokenizer.")
    words, tags = batch[encoder.format.text], batch[encoder.format.label]
    _check_classes(encoder, {tag for record in tags for tag in record})
    # With the blank byte-level BPE gives each word the tokens that it has in running text.
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
    "text": generated_texts,
    "messages": generated_texts,
    "prompt_completion": generated_texts,
    "classification": classified_texts,
    "tagged_words": tagged_words,
    "maskable": maskable_texts,
    "text_pairs": text_pairs,
}


def _check_classes(encoder: "RecordEncoder", found: set[Any]) -> None:
    if unknown := found - set(encoder.labels):
        raise InputError(
            f"{len(unknown)} labels of the stream are none of the model's classes; rename or remove them."
        )


def _is_cut(encoded: Any, i: int) -> bool:
    return bool(encoded.encodings and encoded.encodings[i].overflowing)


def _examples() -> Columns:
    return {name: [] for name in ("input_ids", "attention_mask", "labels", "row", "truncated")}


def _append(out: Columns, ids: list[int], labels: list[int] | int, row: int, truncated: bool) -> None:
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": row, "truncated": truncated}
    for name, value in values.items():
        out[name].append(value)


def _with_answers_of(pieces: Pieces, own: Pieces, tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """A record in another form with the very tokens that are trained on in its own."""
    answers = [ids for ids, trained in own if trained]
    if own[0][1]:
        # Where nothing stands before a text, it begins with BOS.
        special = set(tokenizer.all_special_ids)
        answers[0] = list(dropwhile(special.__contains__, answers[0]))
    left = iter(answers)
    return [(next(left) if trained else ids, trained) for ids, trained in pieces]


def _joined(pieces: Pieces) -> tuple[list[int], list[int]]:
    """Token ids and labels of a record."""
    ids = [token for part, _ in pieces for token in part]
    labels = [token if trained else IGNORED for part, trained in pieces for token in part]
    return ids, labels


def _chunks(ids: list[int], labels: list[int], size: int) -> list[tuple[list[int], list[int]]]:
    """Pieces of at most ``size`` tokens; they share one token, so that all tokens but the first are predicted once."""
    starts = range(0, max(len(ids) - 1, 1), size - 1)
    return [(ids[i : i + size], labels[i : i + size]) for i in starts]


# Lengths


def resolve_max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, asked: int | None) -> int:
    """The tokens in a training example: what was asked for, else the model's limit up to 1024.

    Raises InputError when the model cannot read so many.
    """
    limit = positions(config)
    if asked is None:
        return int(min(limit, tokenizer.model_max_length or limit, DEFAULT_MAX_LENGTH))
    if not 2 <= asked <= limit:
        most = "2 tokens or more" if limit == math.inf else f"2 to {limit} tokens"
        raise InputError(f"max_length={asked} is not possible: this model reads {most}.")
    return asked


# Tokenising


@dataclass
class RecordEncoder:
    """Turns batches of records into examples; a long document becomes several examples of one record.

    ``label2id`` are the model's classes. ``trained`` is the format that the records were trained in, where ``format``
    is another form of them: what is labelled then has the same tokens in both. :func:`encode` sets the class of each
    label of the data set (``labels``), the types of its columns (``features``) and its ``name`` in messages.
    ``foreign`` are the tokenizer's ids that the model does not have.
    """

    tokenizer: PreTrainedTokenizerBase
    format: RecordFormat
    max_length: int
    label2id: dict[str, int] = field(default_factory=dict)
    labels: dict[Any, int] = field(default_factory=dict)
    trained: RecordFormat | None = None
    features: dict[str, Any] = field(default_factory=dict)
    name: str = "given"
    foreign: frozenset[int] = frozenset()

    @property
    def columns(self) -> list[str]:
        """All the columns that are read."""
        return list(dict.fromkeys([*self.format.columns, *(self.trained.columns if self.trained else [])]))

    def __call__(self, batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        """Encode a batch of columns whose records stand at these rows of their data set.

        Returns:
            ``input_ids``, ``attention_mask``, ``labels`` (token ids, -100 where not trained on; the class, or those of
            the words; the tokens that can be masked; or the text to write), ``row`` (the record's position) and
            ``truncated`` (whether tokens were cut off), all of shape (examples,).

        Raises:
            InputError: a record without text or label, a conversation that cannot be trained on, or a token that the
                model does not have.
        """
        check_batch(batch, self.format)
        with guarded(lambda: f"The tokenizer cannot read {self._unreadable(batch, rows)}; correct either"):
            examples = ENCODINGS[self.format.kind](self, batch, rows)
        if self.foreign:
            texts = [*examples["input_ids"], *(examples["labels"] if self.format.kind == "text_pairs" else [])]
            if strange := sum(not self.foreign.isdisjoint(ids) for ids in texts):
                raise InputError(
                    f"{strange} of {len(texts)} texts have tokens that the tokenizer knows and the model does not: "
                    f"{len(self.foreign)} were added to the tokenizer alone. Resize the model's embeddings and train "
                    "it on them, or save the model's own tokenizer beside it."
                )
        return examples

    def _unreadable(self, batch: Columns, rows: list[int]) -> str:
        """The first record that cannot be encoded, by its number."""
        for i, row in enumerate(rows):
            try:
                ENCODINGS[self.format.kind](self, {name: [values[i]] for name, values in batch.items()}, [row])
            except Exception:  # what a tokenizer of other people raises
                return f"record {row} of the {self.name} set"
        return f"records {rows[0]} to {rows[-1]} of the {self.name} set"

    def segments(self, batch: dict[str, list[Any]], i: int, row: int) -> Segments:
        """The text of record ``i``, which stands at this row, in pieces, and whether each is trained on."""
        kind = self.format.kind
        if kind == "text":
            text, before = batch[self.format.text][i], self.format.before
            return [(before, False), (text, True)] if before else [(text, True)]
        record = {name: values[i] for name, values in batch.items()}
        for name in ("messages", "prompt", "completion"):
            if isinstance(record.get(name), list):
                record[name] = clean_turns(record[name], self.features.get(name))
        asked, told = self.format.pair(record)
        if isinstance(told, str):
            return [(asked, False), (told, True)]
        options = template_options(record, self.features)
        where = f"record {row} of the {self.name} set"
        return rendered(self.tokenizer, asked + told, len(asked), options, where)

    def pieces(self, records: list[list[tuple[str, bool]]], special_tokens: bool) -> list[Pieces]:
        """The token ids of each record piece by piece, as its text comes in pieces.

        The text is tokenised as a whole, as the model will read it. A piece begins where these tokens first differ
        from those of the text before it. A token across a boundary belongs to the piece that is trained on. So an
        answer's first token is trained on even where byte-level BPE joins it to the blank before it.
        """
        texts = ["".join(text for text, _ in segments) for segments in records]
        prefixes = [list(accumulate(text for text, _ in segments))[:-1] for segments in records]
        joined = [prefix for of_record in prefixes for prefix in of_record]
        fast = self.tokenizer.is_fast
        # Nothing is cut off yet, so a warning that texts are too long for the model would be false.
        quiet = {"add_special_tokens": special_tokens, "verbose": False}
        found = self.tokenizer(texts, return_offsets_mapping=fast, **quiet)
        encoded, offsets = found["input_ids"], found["offset_mapping"] if fast else [None] * len(texts)
        # A tokenizer does not take an empty list.
        before = iter(self.tokenizer(joined, **quiet)["input_ids"] if joined else [])
        eos, added = self.tokenizer.eos_token_id, added_tokens(self.tokenizer) if special_tokens else (None, None)
        out = []
        for ids, places, segments in zip(encoded, offsets, records, strict=True):
            kept = once(ids, added)
            ids, places = ids[kept], places and places[kept]
            if eos is not None and special_tokens and (not ids or ids[-1] != eos):
                ids = [*ids, eos]
            bounds, length = [0], 0
            for (text, trained), prefix in zip(segments[:-1], islice(before, len(segments) - 1), strict=True):
                length += len(text)
                prefix = prefix[once(prefix, added)]
                same = _common_prefix(ids, prefix)
                if trained and same < len(prefix):
                    # What a token has of the answer is trained on, though it has something of the next turn, too.
                    same = sum(start < length for start, _ in places) if places else same + 1
                bounds.append(max(bounds[-1], same))
            bounds.append(len(ids))
            out.append(
                [
                    (ids[left:right], trained)
                    for (_, trained), left, right in zip(segments, bounds[:-1], bounds[1:], strict=True)
                ]
            )
        return out


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, int | None]:
    """The special tokens that a tokenizer puts before and after a text, None where it puts none."""
    with_them, plain = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    if len(with_them) == len(plain):
        return None, None
    before, after = with_them[0], with_them[-1]
    return None if plain[:1] == [before] else before, None if plain[-1:] == [after] else after


def once(ids: list[int], added: tuple[int | None, int | None]) -> slice:
    """The tokens of a text without those that a tokenizer added although the text has them, as a rendered one has."""
    before, after = added
    many = len(ids) > 2
    first = int(many and before is not None and ids[0] == ids[1] == before)
    return slice(first, len(ids) - int(many and after is not None and ids[-1] == ids[-2] == after))


def _common_prefix(left: list[int], right: list[int]) -> int:
    length = min(len(left), len(right))
    return next((i for i in range(length) if left[i] != right[i]), length)


def make_encoder(
    dataset: AnyDataset,
    task: Task,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    layout: dict[str, Any],
) -> "RecordEncoder | None":
    """How to read the records of a data set, None when they are tokenised already.

    ``layout`` are the options of :func:`record_format`. Raises InputError when the columns do not fit the task, the
    length does not fit the model, or the model lacks token ids.
    """
    ids = config.to_dict()
    if config.model_type == "encoder-decoder" and None in (ids.get("decoder_start_token_id"), ids.get("pad_token_id")):
        raise InputError(
            "The configuration of this encoder-decoder lacks decoder_start_token_id or pad_token_id; set both in its "
            "config.json."
        )
    columns = column_names(dataset)
    if "input_ids" in columns:
        return None
    length, known = resolve_max_length(config, tokenizer, max_length), vocabulary(config)
    foreign = frozenset(token for token in tokenizer.get_vocab().values() if token >= known)
    form = record_format(columns, task, **layout)
    return RecordEncoder(tokenizer, form, length, class_ids(config), foreign=foreign)


def check_tokens(sets: Sequence[AnyDataset | None], encoder: RecordEncoder | None) -> None:
    """Raise InputError where a record has a token that the model does not; a stream is checked when it is read."""
    if encoder is None or not encoder.foreign:
        return
    for part in sets:
        if isinstance(part, Dataset):
            encode(part, encoder, "given")


def encode(dataset: AnyDataset, encoder: RecordEncoder, name: str) -> AnyDataset:
    """Tokenise a data set into examples (see :meth:`RecordEncoder.__call__`), in the order of the records.

    Progress bars and messages show the name. Raises InputError when a column is missing, or a record has no text or
    label.
    """
    dataset = without_format(dataset)
    names = column_names(dataset)
    # A set without tools was asked without tools.
    context = tuple(column for column in encoder.format.context if column in names)
    encoder = replace(encoder, format=replace(encoder.format, context=context))
    if encoder.trained is not None:
        encoder = replace(encoder, trained=replace(encoder.trained, context=context))
    columns = encoder.columns
    require_columns(columns, names)
    encoder = replace(encoder, features=dict(dataset.features or {}), name=name)
    if encoder.format.label_columns:
        encoder = replace(encoder, labels=label_ids(dataset, encoder.format.label, encoder.label2id))
    if isinstance(dataset, IterableDataset):
        return dataset.map(encoder, with_indices=True, batched=True, remove_columns=column_names(dataset))
    # The types are given because they cannot be inferred from a batch of records without tokens.
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
        raise InputError(f"None of the {len(dataset)} {name} records has a token {wanted}; give records with text.")
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
    """Stacks examples into tensors, padded to the longest on one side.

    Padding is known by the attention mask, not by the token's id, so EOS is trained even where it is also the padding
    token.
    """

    pad_token_id: int
    side: Literal["right", "left"] = "right"

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return int64 tensors ``input_ids``, ``attention_mask`` of shape (batch, tokens) and ``labels``."""
        fill = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        batch = {}
        for name, value in fill.items():
            values = [torch.as_tensor(example[name], dtype=torch.int64) for example in examples]
            if values[0].ndim == 0:
                batch[name] = torch.stack(values)
            else:
                batch[name] = pad_sequence(values, batch_first=True, padding_value=value, padding_side=self.side)
        return batch

    def of(self, config: PretrainedConfig) -> "PaddingCollator":
        """The one that pads as a model expects, by which a classifier on a decoder finds the end of a text."""
        own = own_padding(config)
        side: Literal["right", "left"] = "left" if config.model_type in READ_AT_THE_END else "right"
        return replace(self, pad_token_id=self.pad_token_id if own is None else own, side=side)


def padding_id(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """The padding token's id of a model, else of its tokenizer, else another that no text ends with."""
    if (own := own_padding(config)) is not None:
        return own
    last, others = tokenizer("a")["input_ids"][-1:], (tokenizer.eos_token_id, tokenizer.unk_token_id)
    ids = [tokenizer.pad_token_id, *(token for token in others if token not in last)]
    return next((token for token in ids if token is not None and token < vocabulary(config)), 0)
