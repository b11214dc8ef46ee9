"""What a trained model is compared with: models that are held, and log-probabilities that are found out before."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from datasets import Dataset

from ..evaluation.measured_sets import EvidenceSets
from ..evaluation.score_cache import score_once
from ..machine_faults import measuring_memory, telling_memory
from ..methods.forget_batches import COLUMNS
from ..methods.method import Method
from ..methods.starts import fresh_model
from ..methods.step import Teacher
from ..models.loading import Model, frozen_copy, plain_model
from ..models.tasks import Task
from .config import UnlearningConfig


def held_teachers(
    model: Model, method: Method, alpha: float, args: UnlearningConfig, accelerator: Accelerator
) -> dict[Teacher, Model]:
    """The models that an original, which is trained now, is compared with at each step, frozen and for evaluation.

    Where its weights will be sharded over the processes (FSDP2), theirs are too.
    """
    dtype = getattr(torch, args.teacher_dtype) if args.teacher_dtype else None
    held: dict[Teacher, Model] = {}
    for name in method.objective.teachers:
        if name == "fresh":
            held[name] = frozen_copy(fresh_model(plain_model(model), args.seed), args.device, dtype)
        else:
            # Weights that neither are trained nor moved are the same in both.
            held[name] = frozen_copy(model, args.device, dtype, share_frozen=not method.moves(alpha))
        if accelerator.is_fsdp2:
            # prepare_model() leaves what is only evaluated whole on every process.
            held[name] = fsdp2_prepare_model(accelerator, held[name])
    return held


def log_probabilities(
    model: Model,
    task: Task,
    examples: Dataset,
    collator: Callable[[list[dict]], dict[str, torch.Tensor]],
    args: UnlearningConfig,
    context: Callable[[], AbstractContextManager],
) -> tuple[torch.Tensor, int]:
    """log p of each example under a model, found out now or read where an earlier run has found it.

    Returns:
        In nats, float32 of shape (examples,); and how many tokens the examples have.

    Raises:
        InputError: a batch does not fit into the memory, or a result is no number.
    """
    numbered = examples.select_columns(COLUMNS).add_column("row", list(range(len(examples))))
    sets = EvidenceSets(task, {"forget": numbered}, collator, args.per_device_eval_batch_size)
    with telling_memory(measuring_memory(args)):
        tables, _ = score_once(sets, model, context)
    nll = torch.tensor(tables["forget"]["nll"].to_numpy(), dtype=torch.float32, device=args.device)
    return -nll, sets.tokens
