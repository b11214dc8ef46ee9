"""The depth score: how much of what the layers held of S is gone, from 0 as in the original to 1 as if retrained.

An output can hide what the layers under it still hold. Language models are read by patching (Lee et al. 2026,
arXiv:2605.24614): the original goes on from the hidden states of another model. What it then predicts worse is what
those states lack. Classifiers of texts are read by a probe of each layer.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from ...errors import InputError
from ...models.layers import blocks_of
from ...models.loading import Model, plain_model
from ...models.tasks import IGNORED, Task
from ..measured_sets import JUDGED, EvidenceSets, first_pieces
from ..report import SetName
from ..scoring import INPUTS, beside_logits, evaluating, forward, shared_batches
from ..statistics import Estimate, Groups, bootstrap, clustered_mean, difference_of_shares

# What a layer has to lack in the retrained model to count: nats a token, or probability of a class with a probe.
THRESHOLD = 0.05
DEPTH_RECORDS = 200  # of S at most, and of H

ReadBy = Literal["patching", "probe"]


@dataclass(frozen=True)
class LayerDepth:
    """What the states after one block lack of S, compared with the original's.

    Attributes:
        retrained: mean over the records, of the retrained model.
        unlearned: the same of the unlearned model.
        counted: share of the records for which the layer counts.
    """

    retrained: float
    unlearned: float
    counted: float


@dataclass(frozen=True)
class DepthScore:
    """How deep the unlearning goes.

    Attributes:
        read_by: ``patching``, in nats a token, or ``probe``, in probability of the record's class.
        depth: 0 where the layers hold all of S as the original's do, 1 where they lack what the retrained model's do;
            the mean over the records, or ``pooled`` with a probe.
        pooled: the same of the mean drops of all records. Chance moves each record's drop, and ``depth`` counts only
            what it lowers, so that another model that never saw S has a depth below 1 and is nearer to 1 here. None
            where no layer counts in the mean.
        records: of S that were read.
        left_out: those of them for which no layer counts, because the retrained model lacks nothing of them.
        threshold: from which on a layer counts.
        seed: of the draw.
        layers: in the order of the forward pass.
    """

    read_by: ReadBy
    depth: Estimate
    pooled: Estimate | None
    records: int
    left_out: int
    threshold: float
    seed: int
    layers: tuple[LayerDepth, ...]


# By patching


def patched_drops(original: Model, source: Model, evidence: EvidenceSets, *, seed: int) -> np.ndarray:
    """By how much the original predicts records of S worse when it goes on from another model's hidden states.

    At one block after the other, what the block hands on at the positions that predict a labelled token is replaced by
    what the same block of the other model hands on there. All labelled tokens count, not marked names alone as in the
    paper: a token that both models know adds nothing to either drop. In an encoder-decoder the decoder is patched. Of
    a long document only the first piece counts.

    Args:
        original, source: models of one shape; both stay as they are.
        evidence: S, encoded; at most :data:`DEPTH_RECORDS` records are drawn.
        seed: of the draw.

    Returns:
        The mean over the tokens of log p(token | original) - log p(token | patched), in nats, shape (records, blocks).
        Arithmetic on equal states is equal, so that the original itself as source gives zeros.

    Raises:
        InputError: the blocks of a model are unknown, or those of the two models differ in number or width.
    """
    part = _drawn(evidence, "forget", seed)
    order = np.argsort([-len(ids) for ids in part["input_ids"]], kind="stable")
    batches = [order[i : i + evidence.batch_size] for i in range(0, len(order), evidence.batch_size)]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    with torch.no_grad(), evaluating(original), evaluating(source):
        for batch, counts in shared_batches(batches, "Patching"):
            drops = _drops(original, source, list(part.select(batch).select_columns(INPUTS)), evidence)
            if counts:
                found.append((batch, drops))
    found = gather_object(found)
    places = np.concatenate([batch for batch, _ in found])
    return np.concatenate([drops for _, drops in found])[np.argsort(places)]


def patched_depth(
    retrained: np.ndarray, unlearned: np.ndarray, groups: np.ndarray | None, *, seed: int
) -> DepthScore | None:
    """The depth score from the drops of both models (arXiv:2605.24614, section 3.3).

    For each record the layers count in which the retrained model's drop d1 exceeds :data:`THRESHOLD`. Its depth is the
    sum over these of d1 * clip(d2 / d1, 0, 1), divided by the sum of d1, with the unlearned model's drop d2.

    Args:
        retrained, unlearned: of :func:`patched_drops`, shape (records, blocks).
        groups: of the records, shape (records,), None where they are independent.
        seed: of their draw, for the report.

    Returns:
        The mean over the records, with its interval over records or groups; None where no layer of no record counts.
    """
    counted = retrained > THRESHOLD
    of_means = retrained.mean(0) > THRESHOLD
    known = np.asarray(counted.any(axis=1))
    if not known.any():
        return None
    weight = np.where(counted, retrained, 0.0)[known]
    gone = np.clip(unlearned[known], 0.0, weight)
    each = gone.sum(axis=1) / weight.sum(axis=1)
    depth = _within(clustered_mean(each, None if groups is None else groups[known]))
    pooled = None
    if of_means.any():
        drops = np.stack([retrained, unlearned], axis=1)[..., of_means]
        # The bootstrap is of two sets, and here is one.
        units = None if groups is None else (groups, groups[:0])
        pooled = _within(bootstrap(lambda s, _: _depth_of(s.mean(0)), drops, drops[:0], units, seed=seed))
    means = zip(retrained.mean(0), unlearned.mean(0), counted.mean(0), strict=True)
    layers = tuple(LayerDepth(*map(float, one)) for one in means)
    left_out = int((~known).sum())
    return DepthScore("patching", depth, pooled, len(known), left_out, THRESHOLD, seed, layers)


def _drops(original: Model, source: Model, examples: list[dict[str, Any]], evidence: EvidenceSets) -> np.ndarray:
    """The drops of one batch, shape (examples, blocks)."""
    batch, task = evidence.collator(examples), evidence.task
    places = beside_logits(batch["labels"], task) != IGNORED
    with _states(source) as states:
        forward(source, batch, task)
    blocks, found = _patched_blocks(original), []
    with _states(original) as own:
        whole = _log_likelihoods(original, batch, task)
    if [state.shape for state in states] != [state.shape for state in own]:
        raise InputError(
            "The models differ in the number or the width of their layers, so no state fits in the other."
        )
    for block, state in zip(blocks, states, strict=True):
        with _replaced(block, state, places.to(state.device)):
            found.append(whole - _log_likelihoods(original, batch, task))
    return np.stack(found, axis=1)


def _log_likelihoods(model: Model, batch: dict[str, torch.Tensor], task: Task) -> np.ndarray:
    """The mean log-likelihood of the labelled tokens of each example, in nats."""
    logits, labels = forward(model, batch, task)
    labels = beside_logits(labels, task)
    # One example at a time, for the logits in float32 are large.
    losses = [
        nn.functional.cross_entropy(one.float(), wanted, ignore_index=IGNORED)
        for one, wanted in zip(logits, labels, strict=True)
    ]
    return -torch.stack(losses).cpu().double().numpy()


def _patched_blocks(model: Model) -> list[nn.Module]:
    """The blocks whose states are replaced: all, or those of the decoder where there are two stacks."""
    plain = plain_model(model)
    blocks = blocks_of(plain)
    if not plain.config.is_encoder_decoder:
        return blocks
    own = set(plain.get_decoder().modules())
    return [block for block in blocks if block in own]


@contextmanager
def _states(model: Model, every: bool = False) -> Iterator[list[torch.Tensor]]:
    """A list into which a forward pass puts what each block hands on, shape (examples, positions, features)."""
    states: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for block in blocks_of(plain_model(model)) if every else _patched_blocks(model):
            hooks.callback(block.register_forward_hook(keep).remove)
        yield states


@contextmanager
def _replaced(block: nn.Module, state: torch.Tensor, places: torch.Tensor) -> Iterator[None]:
    """A block that hands on other states at some positions, given as True in shape (examples, positions)."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
        own = output[0] if isinstance(output, tuple) else output
        patched = torch.where(places[..., None], state.to(own.device, own.dtype), own)
        return (patched, *output[1:]) if isinstance(output, tuple) else patched

    hook = block.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()


# By a probe of each layer


def probed_layers(model: Model, evidence: EvidenceSets, *, seed: int) -> dict[SetName, np.ndarray]:
    """How likely a linear probe of each layer finds the classes of the records of S and H.

    The features of a record are the mean over its positions of what a block hands on. A logistic regression with an L2
    penalty (C = 1) on standardised features learns the classes of the records of L from them.

    Args:
        model: a classifier of texts; it stays as it is.
        evidence: S, H and L, encoded; of S and H at most :data:`DEPTH_RECORDS` records are drawn.
        seed: of the draw.

    Returns:
        By set the probability of each record's class, 0 where L has no such class, shape (records, blocks).

    Raises:
        InputError: the blocks of the model are unknown.
    """
    names: tuple[SetName, ...] = ("retained", *JUDGED)
    parts = {name: _drawn(evidence, name, seed) if name in JUDGED else evidence.sets[name] for name in names}
    features = {name: _features(model, part, evidence) for name, part in parts.items()}
    labels = {name: np.array(part["labels"]) for name, part in parts.items()}
    found: dict[SetName, list[np.ndarray]] = {name: [] for name in JUDGED}
    for layer in range(features["retained"].shape[1]):
        scaler = StandardScaler().fit(features["retained"][:, layer])
        probe = LogisticRegression(max_iter=1000).fit(
            scaler.transform(features["retained"][:, layer]), labels["retained"]
        )
        for name in JUDGED:
            likely = probe.predict_proba(scaler.transform(features[name][:, layer]))
            found[name].append((likely * (labels[name][:, None] == probe.classes_)).sum(1))
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def probed_depth(
    original: Mapping[SetName, np.ndarray],
    retrained: Mapping[SetName, np.ndarray],
    unlearned: Mapping[SetName, np.ndarray],
    groups: Groups | None,
    *,
    seed: int,
) -> DepthScore | None:
    """The depth score of a classifier from what the probes of the three models make of S and H.

    A layer's drop is by how much less likely the probe finds the classes of S than on the original's features, less
    the same of H, which the models do not differ in. The layers count in which the retrained model's drop d1 exceeds
    :data:`THRESHOLD` and is no accident (its 95 % interval lies above 0). The depth is the sum over these of
    d1 * clip(d2 / d1, 0, 1), divided by the sum of d1: the drops are means over the records, because a probe says
    little of a single one.

    Args:
        original, retrained, unlearned: of :func:`probed_layers`.
        groups: of the records of S and H, None where they are independent.
        seed: of the draws of records and of the bootstrap.

    Returns:
        The score with its bootstrap interval; None where no layer counts.

    Raises:
        InputError: the models differ in the number of their layers.
    """
    if len({scores["forget"].shape for scores in (original, retrained, unlearned)}) > 1:
        raise InputError("The models differ in the number of their layers, which are compared one by one.")
    stacked = {
        name: np.stack([original[name] - retrained[name], original[name] - unlearned[name]], axis=1) for name in JUDGED
    }
    forget, holdout = stacked["forget"], stacked["holdout"]
    layers = forget.shape[-1]

    def drops(of_forget: np.ndarray, of_holdout: np.ndarray) -> np.ndarray:
        return of_forget.mean(0) - of_holdout.mean(0)

    retrained_drops, unlearned_drops = drops(forget, holdout)
    m, n = len(forget), len(holdout)
    units = groups or (np.arange(m), np.arange(m, m + n))
    sure = [difference_of_shares(forget[:, 0, i], holdout[:, 0, i], units).interval().low > 0 for i in range(layers)]
    counted = (retrained_drops > THRESHOLD) & np.array(sure)
    if not counted.any():
        return None

    found = _within(
        bootstrap(lambda s, h: _depth_of(drops(s, h)), forget[..., counted], holdout[..., counted], groups, seed=seed)
    )
    means = zip(retrained_drops, unlearned_drops, counted, strict=True)
    read = tuple(LayerDepth(*map(float, one)) for one in means)
    return DepthScore("probe", found, found, m, 0, THRESHOLD, seed, read)


def _features(model: Model, part: Dataset, evidence: EvidenceSets) -> np.ndarray:
    """The mean over a record's positions of what each block hands on, shape (records, blocks, features)."""
    found: list[tuple[int, np.ndarray]] = []
    batches = [range(i, min(i + evidence.batch_size, len(part))) for i in range(0, len(part), evidence.batch_size)]
    with torch.no_grad(), evaluating(model):
        for rows, counts in shared_batches(batches, "Reading layers"):
            batch = evidence.collator(list(part.select(rows).select_columns(INPUTS)))
            with _states(model, every=True) as states:
                forward(model, batch, evidence.task)
            mask = batch["attention_mask"].to(states[0].device)[..., None]
            means = [((state.float() * mask).sum(1) / mask.sum(1)).cpu().numpy() for state in states]
            if counts:
                found.append((rows[0], np.stack(means, axis=1)))
    return np.concatenate([means for _, means in sorted(gather_object(found), key=lambda one: one[0])])


# Both


def groups_of(evidence: EvidenceSets, name: SetName, seed: int) -> np.ndarray | None:
    """The groups of the records that are drawn of a set, shape (records,); None where they are independent."""
    part = _drawn(evidence, name, seed)
    return np.array(part["group"]) if "group" in part.column_names else None


def _drawn(evidence: EvidenceSets, name: SetName, seed: int) -> Dataset:
    """The first pieces of the records to read."""
    return first_pieces(evidence.at_most(DEPTH_RECORDS, seed).sets[name])


def _depth_of(drops: np.ndarray) -> float:
    """The depth from the drops of the retrained and of the unlearned model, shape (2, layers)."""
    weight = np.maximum(drops[0], np.finfo(float).tiny)
    return float(np.clip(drops[1], 0.0, weight).sum() / weight.sum())


def _within(found: Estimate) -> Estimate:
    """An estimate whose interval ends at 0 and 1."""
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0), found.n)
