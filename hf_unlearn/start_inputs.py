"""What the start and the rule of a method may draw on, from the trainer that they are used in."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from .evaluation.scoring import evaluating
from .forget_data import COLUMNS
from .forget_objectives import Items, labelled_items
from .models import Model, load_anchor, load_like, locate, plain_model
from .starts import StartInputs
from .tasks import TASKS

if TYPE_CHECKING:
    from .method_trainer import MethodTrainer


def start_inputs(trainer: "MethodTrainer") -> StartInputs:
    """What a trainer has for its start and its rule; nothing is loaded or run before it is asked for."""
    args = trainer.args
    return StartInputs(
        alpha=trainer.alpha,
        seed=args.seed,
        trained_adapter=trainer.trained_adapter,
        load_base=None if trainer.base is None else partial(_load_base, trainer),
        load_checkpoint=None if args.rewind_checkpoint is None else partial(_load_checkpoint, trainer),
        last_layers=args.train_last_layers,
        options=trainer.options,
        items=partial(_items, trainer),
        error=partial(_error, trainer) if trainer.half_to_choose_by is not None else None,
        folder=args.folder,
    )


def _load_base(trainer: "MethodTrainer") -> PreTrainedModel:
    assert trainer.base is not None
    plain = plain_model(trainer.model)
    return load_anchor(trainer.base, trainer.task, plain.config, dtype=plain.dtype, seed=trainer.args.seed)


def _load_checkpoint(trainer: "MethodTrainer") -> Model:
    rewind, source = trainer.args.rewind_checkpoint, trainer.source
    assert rewind is not None
    plain = plain_model(trainer.model)
    place = locate(rewind, trust_remote_code=source is not None and source.trust_remote_code)
    return load_like(place, trainer.task, plain.config, dtype=plain.dtype, seed=trainer.args.seed)


def _items(trainer: "MethodTrainer", model: Model, part: str, size: int | None, gradients: int) -> Iterator[Items]:
    examples = trainer.train_dataset if part == "retained" else trainer.forget_examples
    assert isinstance(examples, Dataset)
    loader = DataLoader(
        cast(Any, examples.select_columns(COLUMNS)),
        batch_size=size or trainer.args.per_device_eval_batch_size,
        collate_fn=trainer.training_collator or trainer.data_collator,
    )
    with evaluating(model):
        for batch in loader:
            inputs = {name: values.to(trainer.args.device) for name, values in batch.items()}
            with trainer.accelerator.autocast():
                logits = trainer.passes.run(inputs, gradients).logits
            yield labelled_items(logits, inputs["labels"], TASKS[trainer.task].next_token)


def _error(trainer: "MethodTrainer", name: str) -> float:
    half = trainer.half_to_choose_by
    assert half is not None
    only = replace(half, sets={name: half.sets[name]})  # type: ignore[index, dict-item]
    table = only.score(trainer.model, trainer.accelerator.autocast)[name]  # type: ignore[index]
    trainer.cost.measured(0.0, trainer.flops_per_token[1] * only.tokens)
    return 1 - sum(table["correct"].to_pylist()) / sum(table["tokens"].to_pylist())
