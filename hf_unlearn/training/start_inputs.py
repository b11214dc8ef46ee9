"""What the start and the rule of a method may draw on, from what a trainer was made with."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..evaluation.scoring import evaluating
from ..methods.forget_batches import COLUMNS
from ..methods.items import Items, labelled_items
from ..methods.starts import StartInputs
from ..methods.step import Passes
from ..models.loading import Model, load_anchor, load_like, plain_model
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from .config import UnlearningConfig
from .lineage import Lineage
from .trainer_data import TrainerData


def start_inputs(
    model: Model,
    args: UnlearningConfig,
    data: TrainerData,
    passes: Passes,
    source: ModelSource | None,
    lineage: Lineage,
    *,
    alpha: float,
    options: Mapping[str, float],
    error: Callable[[str], float] | None,
) -> StartInputs:
    """See :class:`~hf_unlearn.methods.starts.StartInputs`; nothing is loaded or run before it is asked for."""
    plain, task = plain_model(model), passes.task
    base, rewind = lineage.base, args.rewind_checkpoint
    return StartInputs(
        alpha=alpha,
        seed=args.seed,
        trained_adapter=lineage.adapter,
        load_base=None if base is None else partial(_load_base, base, plain, task, args.seed),
        load_checkpoint=None if rewind is None else partial(_load_checkpoint, rewind, source, plain, task, args.seed),
        last_layers=args.train_last_layers,
        options=options,
        items=partial(_items, args, data, passes),
        error=error,
        folder=args.folder,
    )


def _load_base(base: ModelSource, plain: PreTrainedModel, task: Task, seed: int) -> PreTrainedModel:
    return load_anchor(base, task, plain.config, dtype=plain.dtype, seed=seed)


def _load_checkpoint(rewind: str, source: ModelSource | None, plain: PreTrainedModel, task: Task, seed: int) -> Model:
    place = locate(rewind, trust_remote_code=source is not None and source.trust_remote_code)
    return load_like(place, task, plain.config, dtype=plain.dtype, seed=seed)


def _items(
    args: UnlearningConfig,
    data: TrainerData,
    passes: Passes,
    model: Model,
    part: str,
    size: int | None,
    gradients: int,
) -> Iterator[Items]:
    examples = data.train if part == "retained" else data.forget
    assert isinstance(examples, Dataset)
    loader = DataLoader(
        cast(Any, examples.select_columns(COLUMNS)),
        batch_size=size or args.per_device_eval_batch_size,
        collate_fn=data.training_collator or data.collator,
    )
    with evaluating(model):
        for batch in loader:
            inputs = {name: values.to(args.device) for name, values in batch.items()}
            with passes.autocast():
                logits = passes.run(inputs, gradients).logits
            yield labelled_items(logits, inputs["labels"], TASKS[passes.task].next_token)
