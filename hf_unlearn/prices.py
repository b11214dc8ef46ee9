"""What unlearning will cost, said before anything is spent."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset

from .cost import flops_per_token
from .evaluation.scoring import preserved_rng
from .faults import telling_memory, training_memory
from .method import DEFAULT_BUDGET, Method
from .record import TrainingRecord

if TYPE_CHECKING:
    from .trainer import UnlearningTrainer

# The first step is slower than the others and is not counted.
TIMED_STEPS = 3


@dataclass(frozen=True)
class Price:
    """What a training costs.

    Attributes:
        flops: floating point operations, padding included.
        seconds: wall-clock time.
    """

    flops: float
    seconds: float

    def times(self, factor: float) -> "Price":
        return Price(self.flops * factor, self.seconds * factor)


@dataclass(frozen=True)
class Prices:
    """What the roads from an original to a model without S cost.

    Attributes:
        one_pass: over L, as the original was trained; as this run trains where nobody recorded that.
        retraining: of the whole training on L; None where nobody recorded how long it was.
        roads: by method, for what the run may spend.
        exact: those of them that begin at the base.
        scoring: operations of measuring one model on all the records once, which comes on top.
        timed: seconds it took to find out by a few steps; None where the training record says it.
    """

    one_pass: Price
    retraining: Price | None
    roads: dict[str, Price]
    exact: list[str]
    scoring: float
    timed: float | None = None

    def share(self, price: Price) -> float | None:
        """A price as a fraction of retraining's operations."""
        return price.flops / self.retraining.flops if self.retraining else None

    @property
    def recommendation(self) -> str:
        """What to do, in a sentence."""
        others = [name for name in self.roads if name not in self.exact]
        if self.exact and not others:
            return f"Recommended: {self.exact[0]}, which is exact for the stage of training that it repeats."
        if self.exact:
            return (
                f"Recommended: {self.exact[0]}, which is exact for the stage of training that it repeats where "
                f"{others[0]} can only be measured; --method auto takes it where its utility is within the margin."
            )
        dear = ""
        if self.retraining is not None:
            dear = f" at {self.retraining.flops / self.roads[others[0]].flops:.1f} times the price"
        return (
            f"Recommended: {others[0]}, as no base is known that it could begin at; exact would be a whole "
            f"retraining{dear}."
        )


def recorded_pass(record: TrainingRecord, rows: int) -> Price | None:
    """What one pass over L costs when the model is trained as the original was.

    Args:
        record: of the original's training.
        rows: of L.

    Returns:
        The price, None where the record does not say how many rows it was over.
    """
    if not record.dataset.rows:
        return None
    return Price(record.flops, record.seconds).times(rows / (record.epochs * record.dataset.rows))


def step_factor(step: float, forward: float, teacher: float, adapter_recorded: bool) -> float:
    """How much dearer a step of a run is than one of the original's training.

    Args:
        step: operations per token of a training step of the run.
        forward: of a forward pass.
        teacher: of a teacher's forward pass, 0 without one.
        adapter_recorded: whether the original's training trained an adapter, whose own weights are left out of
            account: forward and back. Otherwise it trained all weights: as much again for their gradients.
    """
    return (step + teacher) / (forward * (2 if adapter_recorded else 3))


def estimate(trainer: "UnlearningTrainer", methods: Sequence[Method]) -> Prices | None:
    """What roads cost from where a trainer is.

    Args:
        trainer: before ``train()``; neither its weights nor any random state is changed.
        methods: those that the budget of the trainer could go to.

    Returns:
        The prices, None where L is streamed and nobody knows how long it is.
    """
    if not isinstance(trainer.train_dataset, Dataset) or trainer.retained_rows is None or trainer.evidence is None:
        return None
    args, record = trainer.args, trainer.record
    passes = args.num_train_epochs
    if args.max_steps > 0:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        passes = args.max_steps * batch / len(trainer.mixed or trainer.train_dataset)
    step, forward = flops_per_token(trainer.model)
    one_pass = recorded_pass(record, trainer.retained_rows) if record is not None else None
    timed = None
    if one_pass is None:
        started = time.perf_counter()
        one_pass = timed_pass(trainer)
        timed = time.perf_counter() - started

    def factor(method: Method) -> float:
        if method.uses_forget:
            assert trainer.mixed is not None
            assert isinstance(trainer.train_dataset, Dataset)
            # In an epoch over S, and relative to one over L: how many examples pass forward and back, and a teacher.
            epoch = len(trainer.mixed) / len(trainer.train_dataset)
            trained, told = method.passes
            teacher = told * forward
            if record is None or timed is not None:
                return epoch * (trained * step + teacher) / step
            return epoch * step_factor(trained * step, forward, teacher, record.peft is not None)
        teacher = forward if method.objective.needs_teacher else 0.0
        if record is None or timed is not None:
            return (step + teacher) / step
        return step_factor(step, forward, teacher, record.peft is not None)

    def epochs(method: Method) -> float:
        # Beside a method that counts epochs on S, a road over L is priced for what it would spend by default.
        if trainer.method.uses_forget and not method.uses_forget and record is not None:
            return DEFAULT_BUDGET * record.epochs
        return passes

    return Prices(
        one_pass=one_pass,
        retraining=one_pass.times(record.epochs) if record is not None else None,
        roads={method.name: one_pass.times(epochs(method) * factor(method)) for method in methods},
        exact=[method.name for method in methods if method.needs_base and method.is_clean(method.resolve_alpha(None))],
        scoring=forward * trainer.evidence.tokens,
        timed=timed,
    )


def timed_pass(trainer: "UnlearningTrainer") -> Price:
    """What one pass over L costs by a few timed steps, forward and back, on records drawn from it.

    The optimiser's own work, which would change the weights, is left out.

    Args:
        trainer: as for :func:`estimate`.

    Raises:
        InputError: a step does not fit into the memory.
    """
    examples, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    assert isinstance(examples, Dataset)
    collator = trainer.training_collator or trainer.data_collator
    rng = np.random.default_rng(trainer.args.seed)
    model, seconds, flops = trainer.model, 0.0, 0
    mode = model.training
    with preserved_rng():
        model.train()
        for number in range(TIMED_STEPS + 1):
            drawn = examples.select(np.sort(rng.choice(len(examples), min(size, len(examples)), replace=False)))
            stacked = collator(list(drawn.select_columns(["input_ids", "attention_mask", "labels"])))
            inputs = {name: tensor.to(trainer.args.device) for name, tensor in stacked.items()}
            started = _now()
            with telling_memory(training_memory(trainer.args)):
                with trainer.accelerator.autocast():
                    loss = model(**inputs).loss
                loss.backward()
            if number > 0:
                seconds += _now() - started
                trainer.passes.trained(inputs)
                flops += trainer.floating_point_ops(inputs)
        model.zero_grad(set_to_none=True)
        model.train(mode)
    steps = len(examples) / min(size, len(examples)) / TIMED_STEPS
    return Price(flops * steps, seconds * steps / trainer.args.world_size)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
