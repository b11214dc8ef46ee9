"""Records to examples, a function a layout, for all but causal language models."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .tasks import IGNORED

if TYPE_CHECKING:
    from .data import RecordEncoder

Columns = dict[str, list[Any]]


def classified_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts with a class each; what is too long is cut off."""
    texts = batch[encoder.format.text]
    encoded = encoder.tokenizer(texts)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    long = [i for i, tokens in enumerate(ids) if len(tokens) > encoder.max_length]
    for i in long:
        cut = encoder.tokenizer(texts[i], truncation=True, max_length=encoder.max_length)
        ids[i], mask[i] = cut["input_ids"], cut["attention_mask"]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": [encoder.labels[label] for label in batch[encoder.format.label]],
        "row": rows,
        "truncated": [i in long for i in range(len(rows))],
    }


def tagged_words(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Lists of words with a class for each word, which its first token carries; what is too long is cut off."""
    words, tags = batch[encoder.format.text], batch[encoder.format.label]
    _check_words(encoder, words, tags)
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


def _check_words(encoder: "RecordEncoder", words: list[Any], tags: list[Any]) -> None:
    """Raise InputError unless each record is a list of strings with as many tags."""
    column, label = encoder.format.text, encoder.format.label
    if not encoder.tokenizer.is_fast:
        raise InputError("This model's tokenizer cannot tell which word a token belongs to; it needs a fast one.")
    for record, its_tags in zip(words, tags, strict=True):
        if not isinstance(record, list) or not all(isinstance(word, str) for word in record):
            raise InputError(
                f"Column {column!r} must hold a list of words in each record, and some hold other things."
            )
        if not isinstance(its_tags, list) or None in its_tags:
            raise InputError(f"Column {label!r} must hold a list of tags in each record, one for each word.")
        if len(record) != len(its_tags):
            raise InputError(f"Some records have more or fewer tags in {label!r} than words in {column!r}.")


def maskable_texts(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts for a masked language model, long ones in pieces; every token but the special ones can be masked."""
    texts = batch[encoder.format.text]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"Column {encoder.format.text!r} must hold a text in each record, and some hold other things."
        )
    encoded = encoder.tokenizer(
        texts,
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


def text_pairs(encoder: "RecordEncoder", batch: Columns, rows: list[int]) -> Columns:
    """Texts to read and texts to write; of both, what is too long is cut off."""
    plain = encoder.format.prompt is None
    if plain and not all(isinstance(text, str) for column in ("prompt", "completion") for text in batch[column]):
        raise InputError("An encoder-decoder reads text, not conversations; give 'prompt' and 'completion' as text.")
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


def _is_cut(encoded: Any, i: int) -> bool:
    return bool(encoded.encodings and encoded.encodings[i].overflowing)


def _examples() -> Columns:
    return {name: [] for name in ("input_ids", "attention_mask", "labels", "row", "truncated")}


def _append(out: Columns, ids: list[int], labels: list[int], row: int, truncated: bool) -> None:
    values = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": row, "truncated": truncated}
    for name, value in values.items():
        out[name].append(value)


ENCODINGS: dict[str, Callable[["RecordEncoder", Columns, list[int]], Columns]] = {
    "classification": classified_texts,
    "tagged_words": tagged_words,
    "maskable": maskable_texts,
    "text_pairs": text_pairs,
}
