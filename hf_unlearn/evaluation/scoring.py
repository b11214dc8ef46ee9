"""One teacher-forced forward pass over a set of records: what the model makes of each."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from transformers.utils.logging import tqdm

from ..errors import InputError
from ..models.tasks import IGNORED, TASKS, Task

Batch = TypeVar("Batch")
# Stacks examples to a batch.
Collator = Callable[[list[dict]], dict[str, torch.Tensor]]
# Makes what is entered around forward passes, such as ``accelerator.autocast``.
Context = Callable[[], AbstractContextManager]

MIN_K = 0.4  # the share of a record's tokens that Min-K% reads, as in MUSE

# In tokens: what is known by heart may be a name, a number or a sentence.
WINDOWS = (5, 20)

# At most so many logits are held in float32 at a time, or one part in PART of a batch where that is more.
CHUNK = 2**18
PART = 256

# The columns that add up over the pieces of a document; the others are averaged.
COUNTS = ("tokens", "correct", "zlib")
INPUTS = ["input_ids", "attention_mask", "labels"]


@torch.no_grad()
def score(
    model: nn.Module,
    examples: Dataset,
    collator: Collator,
    *,
    task: Task,
    batch_size: int,
    context: Context = nullcontext,
    name: str = "scored",
) -> pa.Table:
    """Score every record of a set.

    Args:
        model: the model; its training mode is restored afterwards, and no random number is drawn.
        examples: as made by ``encode``; the pieces of a long document are put together again.
            Two more columns are read where they are there: ``tail`` (labelled tokens at the end that carry no text)
            and ``zlib`` (bytes of the compressed text).
        collator: stacks examples.
        task: what the model does.
        batch_size: examples in a forward pass; the processes of a launch share the batches.
        context: makes what is entered around the forward passes, such as ``accelerator.autocast``.
        name: of the set, for the message.

    Returns:
        A table with one line a record, in their order: ``row`` (its position in the set), ``tokens`` (predictions
        made: labelled tokens, or 1 for a classifier of texts), ``nll`` (the sum of their negative log-likelihoods in
        nats), ``loss`` (``nll / tokens``) and ``correct`` (predictions that are the most likely one). Of a classifier
        also ``margin`` (logit of the label less the logsumexp of the others) and ``entropy`` (in nats), means over
        the predictions, and ``predicted`` (the most likely class of each prediction, a list). Of a language model also
        ``min_k`` (mean log-likelihood of the 40 % least likely tokens, Shi
        et al. 2024, arXiv:2310.16789), ``min_k_plus`` (the same in standard deviations from the mean over the
        vocabulary, Zhang et al. 2024, arXiv:2404.02936), ``exact`` and ``extraction``
        (:func:`exact_memorization` and :func:`extraction_strength` of the text, 0 where there is none). For a
        document in pieces these are means weighted by tokens. And ``zlib``. And ``log_p``, the log-likelihood of each
        labelled token, a list a record, with ``window_5`` and its like, :func:`best_windows` of it.

    Raises:
        InputError: the loss of a record is no finite number.
    """
    lengths = np.array([len(ids) for ids in examples["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    found: list[dict[str, np.ndarray]] = []
    with evaluating(model), context():
        for batch, counts in shared_batches(batches, "Measuring"):
            picked = examples.select(batch)
            logits, labels = forward(model, collator(list(picked.select_columns(INPUTS))), task)
            if counts:
                columns = {name: np.array(picked[name]) for name in ("row", "zlib") if name in picked.column_names}
                tail = np.array(picked["tail"]) if "tail" in picked.column_names else np.zeros(len(picked), int)
                found.append(columns | {"place": batch} | _statistics(logits, labels, tail, task))
            # Freed before the next forward pass, which would otherwise hold two batches of logits.
            del logits
    found = gather_object(found)
    columns = {column: np.concatenate([part[column] for part in found]) for column in found[0]}
    _require_numbers(columns, name)
    return _by_record(columns)


def _require_numbers(columns: dict[str, np.ndarray], name: str) -> None:
    """Raise InputError where a loss is no number, which a sorted or a largest value of its record could hide."""
    bad = len(np.unique(columns["row"][~np.isfinite(columns["nll"])]))
    if bad:
        raise InputError(
            f"The loss of {bad:,} of {len(np.unique(columns['row'])):,} {name} records is no number: the model's "
            "weights are damaged or too large for their type. If they came from this training, lower the learning "
            "rate or use bf16 instead of fp16."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode of every module as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in modes:
        # In evaluation mode on a CPU its layers of 4 bits are repacked for good and pass on no gradient any more;
        # https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/nn/modules.py
        if type(module).__module__.startswith("bitsandbytes."):
            module.training = True
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every random number generator as it was, so that measuring does not change the training."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def shared_batches(batches: Sequence[Batch], desc: str) -> Iterator[tuple[Batch, bool]]:
    """The batches of this process, each with whether it counts, under a progress bar.

    The processes of a sharded model meet in every forward pass, so one that runs out of batches repeats the first.
    """
    state = PartialState()
    rounds = range(math.ceil(len(batches) / state.num_processes))
    for i in tqdm(rounds, desc=desc, leave=False, disable=None if state.is_main_process else True):
        mine = state.process_index + i * state.num_processes
        yield (batches[mine], True) if mine < len(batches) else (batches[0], False)


def forward(model: nn.Module, batch: dict[str, torch.Tensor], task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a batch and its labels, which only a model of two texts is given."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels = inputs["labels"] if TASKS[task].two_texts else inputs.pop("labels")
    return model(**inputs).logits, labels


def beside_logits(labels: torch.Tensor, task: Task) -> torch.Tensor:
    """The labels at the places of their logits; they are moved, because the logits would be copied."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) if TASKS[task].next_token else labels


def _statistics(logits: torch.Tensor, labels: torch.Tensor, tail: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """The columns of :func:`score` for each example of a batch; ``tail`` counts the last labels without text."""
    labels = beside_logits(labels, task)
    if labels.ndim == 1:
        logits, labels = logits[:, None], labels[:, None]
    example, position = torch.nonzero(labels != IGNORED, as_tuple=True)
    wanted = labels[example, position]
    size = max(1, max(CHUNK, logits.numel() // PART) // logits.shape[-1])
    # Small results that stay between the large temporaries would keep the C library from using their memory again.
    found = torch.empty(6, len(wanted), device=logits.device)
    for i in range(0, len(wanted), size):
        part = slice(i, i + size)
        found[:, part] = _predictions(logits[example[part], position[part]].float(), wanted[part])
    nll, hits, mean, deviation, margin, likeliest = found.cpu().double().numpy()
    which, tokens = example.cpu().numpy(), (labels != IGNORED).sum(1).cpu().numpy()
    columns = {"tokens": tokens, "nll": np.bincount(which, nll), "correct": np.bincount(which, hits).astype(int)}
    if TASKS[task].quality == "accuracy":
        means = {"margin": np.bincount(which, margin) / tokens, "entropy": np.bincount(which, -mean) / tokens}
        return columns | means | {"predicted": _lists(likeliest, tokens)}
    each = {"log_p": _lists(-nll, tokens)}
    return columns | each | _language_statistics(-nll, (-nll - mean) / deviation, hits > 0, which, tokens, tail)


def _predictions(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What the model makes of single predictions.

    Args:
        logits: float32, shape (predictions, vocabulary or classes).
        wanted: the label, shape (predictions,).

    Returns:
        Of shape (6, predictions): the negative log-likelihood, 1.0 where the label is the most likely one, mean and
        standard deviation of the log-likelihood over the model's own distribution, the margin
        logit(label) - logsumexp(other logits), and the most likely label.
    """
    likeliest = logits.argmax(-1)
    hits = (likeliest == wanted).float()
    log_p = logits.log_softmax(-1)
    own = log_p.gather(1, wanted[:, None])[:, 0]
    margin = logits.gather(1, wanted[:, None])[:, 0] - logits.scatter(1, wanted[:, None], -torch.inf).logsumexp(-1)
    # A token that a model rules out has no part in the mean, and zero times infinity would be no number.
    log_p = log_p.clamp_(min=-1e15)
    p = log_p.exp()
    mean = (p * log_p).sum(-1)
    variance = (p * log_p.sub_(mean[:, None]).square_()).sum(-1)
    return torch.stack([-own, hits, mean, variance.clamp(min=1e-6).sqrt(), margin, likeliest.float()])


def _language_statistics(
    log_p: np.ndarray, z: np.ndarray, hits: np.ndarray, which: np.ndarray, tokens: np.ndarray, tail: np.ndarray
) -> dict[str, np.ndarray]:
    """How well a language model knows each example by heart.

    Args:
        log_p, z, hits: log-likelihood of each labelled token in nats, the same in standard deviations from the mean
            over the vocabulary, and whether it is the most likely one, shape (predictions,), example after example.
        which: the example of each prediction.
        tokens, tail: predictions of each example, and how many at its end carry no text, shape (examples,).
    """
    place = np.arange(len(which)) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    shape = (len(tokens), int(tokens.max()))
    lowest = np.maximum(1, (tokens * MIN_K).astype(int))
    chosen = np.arange(shape[1]) < lowest[:, None]
    found = {}
    for name, values in (("min_k", log_p), ("min_k_plus", z)):
        table = np.full(shape, np.inf)
        table[which, place] = values
        found[name] = np.where(chosen, np.sort(table, axis=1), 0.0).sum(1) / lowest
    # 1 stands for the true token and 0 for another.
    guessed, wanted = np.zeros(shape, int), np.full(shape, IGNORED)
    guessed[which, place] = hits
    wanted[np.arange(shape[1]) < (tokens - tail)[:, None]] = 1
    return (
        found
        | {
            "exact": np.nan_to_num(exact_memorization(guessed, wanted)),
            "extraction": np.nan_to_num(extraction_strength(guessed, wanted)),
        }
        | best_windows(log_p, tokens)
    )


def best_windows(values: np.ndarray, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The largest mean of each record's values in a row of so many tokens, so that one known passage shows.

    Args:
        values: of each token, such as its log-likelihood in nats, shape (predictions,), record after record.
        tokens: of each record, shape (records,).

    Returns:
        By name (``window_5`` for 5 tokens), shape (records,). Of a shorter record it is the mean of all its tokens.
    """
    ends = np.cumsum(tokens)
    sums, left = np.concatenate([[0.0], np.cumsum(values)]), np.repeat(ends, tokens) - np.arange(len(values))
    found = {}
    for length in WINDOWS:
        size = np.repeat(np.minimum(tokens, length), tokens)
        # Near the end of a record the last window that fits counts again.
        start = np.arange(len(values)) + np.minimum(0, left - size)
        means = (sums[start + size] - sums[start]) / size
        found[f"window_{length}"] = np.maximum.reduceat(means, ends - tokens)
    return found


def _lists(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Values in a row as one array of so many for each record, shape (records,) of objects."""
    found = np.empty(len(counts), dtype=object)
    for i, part in enumerate(np.split(values.astype(np.float32), np.cumsum(counts)[:-1])):
        found[i] = part
    return found


def exact_memorization(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of a text's tokens that greedy decoding gives when it has seen the true ones before.

    Tirumala et al. 2022, arXiv:2205.10770.

    Args:
        predicted: the most likely token at the place of each label, -100 where there is none, shape (records, tokens).
        labels: token ids, -100 where there is none or where the token carries no text, such as EOS; same shape.

    Returns:
        Shape (records,), NaN for a record without a token.
    """
    counted = (labels != IGNORED) & (predicted != IGNORED)
    hits = ((predicted == labels) & counted).sum(1)
    return _share(hits, counted.sum(1))


def extraction_strength(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The largest share at the end of a text that greedy decoding gives when it has seen the true tokens before.

    1 - k/N for the shortest prefix of k of N tokens after which all are right (after Carlini et al. 2021,
    arXiv:2012.07805, with the true tokens given instead of those that the model wrote). A text whose last token is
    missed has k = N and strength 0; open-unlearning stops at k = N - 1 and gives it 1/N.

    Args:
        predicted, labels: as in :func:`exact_memorization`.

    Returns:
        Shape (records,), NaN for a record without a token.
    """
    counted = (labels != IGNORED) & (predicted != IGNORED)
    missed = (predicted != labels) & counted
    missed_from_here = np.cumsum(missed[:, ::-1], axis=1)[:, ::-1]
    return _share((counted & (missed_from_here == 0)).sum(1), counted.sum(1))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _by_record(columns: dict[str, np.ndarray]) -> pa.Table:
    """Put the pieces of each record together."""
    order = np.argsort(columns.pop("place"), kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    rows, which = np.unique(columns.pop("row"), return_inverse=True)
    tokens = np.bincount(which, columns["tokens"])
    found: dict[str, Any] = {"row": rows}
    for name, values in columns.items():
        if name in COUNTS:
            found[name] = np.bincount(which, values).astype(np.int64)
        elif name == "nll":
            found["nll"] = np.bincount(which, values.astype(np.float64))
            found["loss"] = found["nll"] / tokens
        elif name in ("log_p", "predicted"):
            inside = np.argsort(which, kind="stable")
            flat = np.concatenate(list(values[inside]))
            ends = np.concatenate([[0], np.cumsum(tokens)]).astype(np.int32)
            kind = pa.float32() if name == "log_p" else pa.int32()
            # Parquet calls the elements so, and what is read again has to be the same.
            lists = pa.list_(pa.field("element", kind))
            found[name] = pa.ListArray.from_arrays(ends, pa.array(flat.astype(kind.to_pandas_dtype())), type=lists)
        elif name.startswith("window_"):
            best = np.full(len(rows), -np.inf)
            np.maximum.at(best, which, values)
            found[name] = best
        else:
            found[name] = np.bincount(which, values.astype(np.float64) * columns["tokens"]) / tokens
    return pa.table(found)


@torch.enable_grad()
def gradient_norms(
    model: nn.Module,
    examples: Dataset,
    collator: Collator,
    *,
    task: Task,
    context: Context = nullcontext,
) -> np.ndarray:
    """The 2-norm of the gradient of each record's mean loss (Nasr et al. 2019, arXiv:1812.00910, section III).

    The gradient is that for all weights of the model, whichever are trained, and for those under a LoRA adapter
    instead of the adapter's own, so that a merged adapter gives the same number and all models are compared by the
    same weights. It takes one backward pass a record, and the memory of one gradient of all weights, of two for a
    document in pieces.

    Args:
        model: the model, whole and not quantised; its training mode, and which weights are trained, are restored.
        examples, collator, task, context: as for :func:`score`.

    Returns:
        Nats per unit of weight, shape (records,), in the order of the rows.
    """
    rows, which = np.unique(examples["row"], return_inverse=True)
    records = [np.flatnonzero(which == i) for i in range(len(rows))]
    weights = [weight for name, weight in model.named_parameters() if "lora_" not in name]
    inputs = examples.select_columns(INPUTS)
    norms: list[tuple[int, float]] = []
    with evaluating(model), _trained(weights):
        for i, counts in shared_batches(range(len(records)), "Gradients"):
            if not counts:
                continue
            total: list[torch.Tensor] = []
            tokens = 0
            for place in records[i]:
                with context():
                    nll, labelled = _nll(model, collator([inputs[int(place)]]), task)
                # What is not used, such as the original under a copy that PEFT trains, has no gradient.
                found = [g for g in torch.autograd.grad(nll, weights, allow_unused=True) if g is not None]
                total = [a + b for a, b in zip(total, found, strict=True)] if total else found
                tokens += labelled
            squares = sum(float(gradient.float().square().sum()) for gradient in total)
            norms.append((i, squares**0.5 / tokens))
    return np.array([norm for _, norm in sorted(gather_object(norms))])


def _nll(model: nn.Module, batch: dict[str, torch.Tensor], task: Task) -> tuple[torch.Tensor, int]:
    """The summed negative log-likelihood of the labels, and how many there are."""
    logits, labels = forward(model, batch, task)
    labels = beside_logits(labels, task)
    kept = labels != IGNORED
    return nn.functional.cross_entropy(logits[kept].float(), labels[kept], reduction="sum"), int(kept.sum())


@contextmanager
def _trained(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """With a gradient for all these weights, and as it was afterwards."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, trained in zip(weights, before, strict=True):
            weight.requires_grad_(trained)
