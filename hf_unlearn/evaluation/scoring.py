"""One teacher-forced forward pass over a set of records: what the model makes of each."""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm

from ..tasks import IGNORED, TASKS, Task


@torch.no_grad()
def score(
    model: nn.Module,
    examples: Dataset,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    *,
    task: Task,
    batch_size: int,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> pa.Table:
    """Score every record of a set.

    Args:
        model: the model; its training mode is restored afterwards, and no random number is drawn.
        examples: as made by :func:`~hf_unlearn.data.encode`; the pieces of a long document are put together again.
        collator: stacks examples.
        task: what the model does.
        batch_size: examples in a forward pass; the processes of a launch share the batches.
        context: makes what is entered around the forward passes, such as ``accelerator.autocast``.

    Returns:
        A table with one line a record, in their order: ``row`` (its position in the set), ``tokens`` (predictions
        made: labelled tokens, or 1 for a classifier of texts), ``nll`` (the sum of their negative log-likelihoods in
        nats), ``loss`` (``nll / tokens``) and ``correct`` (predictions that are the most likely one).
    """
    device = next(model.parameters()).device
    lengths = np.array([len(ids) for ids in examples["input_ids"]])
    order = np.argsort(-lengths, kind="stable")
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    state = PartialState()
    found: list[tuple[np.ndarray, ...]] = []
    training = model.training
    model.eval()
    for module in model.modules():
        # In evaluation mode on a CPU its layers of 4 bits are repacked for good and pass on no gradient any more;
        # https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/nn/modules.py
        if type(module).__module__.startswith("bitsandbytes."):
            module.training = True
    # The processes of a sharded model meet in every forward pass, so one that runs out of batches repeats the first.
    rounds = math.ceil(len(batches) / state.num_processes)
    mine = [state.process_index + i * state.num_processes for i in range(rounds)]
    with context():
        for i in tqdm(mine, desc="Scoring", leave=False, disable=None if state.is_main_process else True):
            picked = examples.select(batches[i] if i < len(batches) else batches[0])
            stacked = collator(list(picked.remove_columns("row")))
            inputs = {name: tensor.to(device) for name, tensor in stacked.items()}
            labels = inputs["labels"] if TASKS[task].two_texts else inputs.pop("labels")
            logits = model(**inputs).logits
            if TASKS[task].next_token:
                logits, labels = logits[:, :-1], labels[:, 1:]
            elif labels.ndim == 1:
                logits, labels = logits[:, None], labels[:, None]
            if i < len(batches):
                found.append((np.array(picked["row"]), *(t.cpu().numpy() for t in _predictions(logits, labels))))
    model.train(training)
    found = gather_object(found)
    rows, tokens, nll, correct = (np.concatenate(column) for column in zip(*found, strict=True))
    unique, which = np.unique(rows, return_inverse=True)
    total = np.bincount(which, tokens)
    summed = np.bincount(which, nll.astype(np.float64))
    return pa.table(
        {
            "row": unique,
            "tokens": total.astype(np.int64),
            "nll": summed,
            "loss": summed / total,
            "correct": np.bincount(which, correct).astype(np.int64),
        }
    )


def _predictions(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Predictions, summed NLL and hits of each example; only labelled positions are taken to float32.

    Args:
        logits: shape (examples, positions, classes or vocabulary).
        labels: shape (examples, positions).
    """
    labelled = labels != IGNORED
    example = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)[labelled]
    kept, wanted = logits[labelled], labels[labelled]
    nll = F.cross_entropy(kept.float(), wanted, reduction="none")
    hits = (kept.argmax(-1) == wanted).float()
    zeros = torch.zeros(len(labels), device=labels.device)
    return labelled.sum(1), zeros.index_add(0, example, nll), zeros.index_add(0, example, hits)


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Leave every random number generator as it was, so that measuring does not change the training."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
