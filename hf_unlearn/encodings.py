"""Records to examples, a function a layout, for all but causal language models."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .models.tasks import IGNORED

if TYPE_CHECKING:
    from .data import RecordEncoder

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


ENCODINGS: dict[str, Callable[["RecordEncoder", Columns, list[int]], Columns]] = {
    "classification": classified_texts,
    "tagged_words": tagged_words,
    "maskable": maskable_texts,
    "text_pairs": text_pairs,
}
