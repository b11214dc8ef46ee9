"""The data of a trainer, as examples: what it trains on, and what it measures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from .config import UnlearningConfig
from .data import PaddingCollator, encode, make_encoder, padding_id
from .evaluation.evidence import EvidenceSets, evidence_sets
from .evaluation.report import SetName
from .first_use import BLIND_ORDERS, FirstUse
from .masking import MaskingCollator, token_masking
from .tables import AnyDataset
from .tasks import Task


@dataclass(frozen=True)
class TrainerData:
    """What a trainer reads.

    Attributes:
        train: the examples of L.
        test: those of a test split, None without one.
        collator: stacks examples.
        training_collator: stacks those that are trained on, None where ``collator`` does.
        evidence: what is measured, None without S.
        rows: how many records L has, None when it is streamed.
        fingerprint: of L by the ``datasets`` library, None when it is streamed.
        first_use: when each row of L was first used, None where that proves nothing.
    """

    train: AnyDataset
    test: AnyDataset | None
    collator: Callable[[list[dict]], dict[str, torch.Tensor]]
    training_collator: MaskingCollator | None
    evidence: EvidenceSets | None
    rows: int | None
    fingerprint: str | None
    first_use: FirstUse | None


def trainer_data(
    retained: AnyDataset,
    forget: AnyDataset | None,
    holdout: AnyDataset | None,
    test: AnyDataset | None,
    args: UnlearningConfig,
    task: Task,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]] | None,
) -> TrainerData:
    """Encode the sets, as records or as examples.

    Args:
        retained, forget, holdout, test: L, S, H and a test split.
        args: the settings.
        task: what the model does.
        config: the model's.
        tokenizer: the model's.
        collator: stacks examples; pads them, and masks those that are trained on, when None.

    Raises:
        InputError: a set is empty or does not fit the task.
    """
    masking = token_masking(task, tokenizer, args.mlm_probability, args.seed)
    training_collator = None
    if collator is None:
        collator = PaddingCollator(padding_id(tokenizer))
        if masking is not None:
            training_collator = MaskingCollator(masking, collator)
    encoder = make_encoder(retained, task, config, tokenizer, args.max_length, args.layout)
    rows = len(retained) if isinstance(retained, Dataset) else None
    fingerprint = retained._fingerprint if isinstance(retained, Dataset) else None
    # Of a training on all of D, S included, for those who will ask later what had been used by when.
    first_use = None
    in_blind_order = args.train_sampling_strategy in BLIND_ORDERS
    if rows is not None and forget is None and encoder is not None and in_blind_order:
        first_use = FirstUse.of(rows)
    sets: Mapping[SetName, AnyDataset | None] = {
        "forget": forget,
        "holdout": holdout,
        "retained": retained,
        "test": test,
    }
    evidence = None
    with args.main_process_first(desc="tokenising"):
        if forget is not None:
            batch_size = args.per_device_eval_batch_size
            evidence = evidence_sets(
                sets, encoder, collator, task, batch_size, args.seed, masking, tokenizer, args.group_column
            )
        if encoder is not None:
            retained = encode(retained, encoder, "retained")
            test = encode(test, encoder, "test") if test is not None else None
        if masking is not None and isinstance(test, Dataset):
            test = masking.fixed(test)
    return TrainerData(retained, test, collator, training_collator, evidence, rows, fingerprint, first_use)
