"""What unlearning will cost, said before anything is spent."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import Dataset

from ..evaluation.scoring import preserved_rng
from ..machine_faults import telling_memory, training_memory
from ..methods.method import DEFAULT_BUDGET, Method
from ..methods.step import Part
from ..models.layers import blocks_until, flops_per_token, names_until
from ..models.loading import plain_model
from ..models.tasks import TASKS
from ..models.training_record import TrainingRecord
from ..training.callbacks import planned_looks

if TYPE_CHECKING:
    from ..training.trainer import UnlearningTrainer

# The first step is slower than the others and is not counted.
TIMED_STEPS = 3


@dataclass(frozen=True)
class Price:
    """What a training costs: floating point operations, padding included, and wall-clock time."""

    flops: float
    seconds: float

    def times(self, factor: float) -> "Price":
        return Price(self.flops * factor, self.seconds * factor)


@dataclass(frozen=True)
class Prices:
    """What the methods that lead from an original to a model without S cost.

    Attributes:
        one_pass: over L, as the original was trained; as this run trains where nobody recorded that.
        retraining: of the whole training on L, in the time of the machine that recorded it; None where nobody did.
        roads: by method, for what the run may spend.
        exact: those of them that begin at the base.
        measuring: of the original, the base and the result, and of usefulness on the way; it comes on top.
        earliest: the part of a training that is left where it ends at the first chance; 1 where it cannot end early.
        timed: seconds it took to time a few steps, which the times come from.
    """

    one_pass: Price
    retraining: Price | None
    roads: dict[str, Price]
    exact: list[str]
    measuring: Price
    timed: float
    earliest: float = 1.0

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
                f"{others[0]} can only be measured. --method auto takes it."
            )
        dear = ""
        if self.retraining is not None:
            dear = f" at {self.retraining.flops / self.roads[others[0]].flops:.1f} times the price"
        return (
            f"Recommended: {others[0]}, as no base model is known that it could begin at; exact would be a whole "
            f"retraining{dear}."
        )


def recorded_pass(record: TrainingRecord, rows: int) -> Price | None:
    """What a pass over the rows of L costs as the original was trained; None where its rows are not recorded."""
    if not record.dataset.rows:
        return None
    return Price(record.flops, record.seconds).times(rows / (record.epochs * record.dataset.rows))


def step_factor(step: float, forward: float, teacher: float, adapter_recorded: bool) -> float:
    """How much dearer a step of a run is than one of the original's training, by operations per token.

    A recorded adapter costs forward and back, without its own weights; all weights as much again for their gradients.
    """
    return (step + teacher) / (forward * (2 if adapter_recorded else 3))


def estimate(trainer: "UnlearningTrainer", methods: Sequence[Method]) -> Prices | None:
    """What methods cost for the budget of a trainer, before its ``train()``; changes no weight and no random state.

    None where L is streamed and nobody knows how long it is.
    """
    if not isinstance(trainer.train_dataset, Dataset) or trainer.retained_rows is None or trainer.evidence is None:
        return None
    args, record = trainer.args, trainer.record
    passes = args.num_train_epochs
    if args.max_steps > 0:
        passes = args.max_steps * _step_records(trainer) / len(trainer.mixed or trainer.train_dataset)
    step, forward = flops_per_token(trainer.model)
    # Beside a method that trains a few matrices, one over L would train all weights, or a whole adapter.
    over_retained = forward * (2 if trainer.lora is not None else 3) if trainer.method.trains_block_ends else step
    started = time.perf_counter()
    here = timed_pass(trainer)
    recorded = recorded_pass(record, trainer.retained_rows) if record is not None else None
    # The operations are the record's, and the speed that of this machine.
    one_pass = here if recorded is None else Price(recorded.flops, here.seconds * recorded.flops / here.flops)
    timed = time.perf_counter() - started

    # Beside a method that counts epochs on S, one that trains on L alone is priced for what it spends by default.
    epochs = passes if record is None or not trainer.method.uses_forget else DEFAULT_BUDGET * record.planned_epochs

    def price(method: Method) -> Price:
        teacher = forward if method.objective.needs_teacher else 0.0
        if method.uses_forget:
            trained = planned_flops(trainer, method) / one_pass.flops
        elif record is None or recorded is None:
            trained = epochs * ((over_retained + teacher) / step)
        else:
            trained = epochs * step_factor(over_retained, forward, teacher, record.peft is not None)
        return one_pass.times(trained + looking_flops(trainer, method) / one_pass.flops)

    return Prices(
        one_pass=one_pass,
        retraining=(recorded or one_pass).times(record.planned_epochs) if record is not None else None,
        roads={method.name: price(method) for method in methods},
        exact=[method.name for method in methods if method.needs_base and method.is_clean(method.resolve_alpha(None))],
        measuring=_measuring(trainer, one_pass, forward),
        earliest=1.0 if trainer.useful is None else trainer.useful.earliest,
        timed=timed,
    )


def _measuring(trainer: "UnlearningTrainer", one_pass: Price, forward: float) -> Price:
    """What a run measures by default, at the speed of training."""
    assert trainer.evidence is not None
    models = 2 if trainer.base is None else 3
    tokens = models * trainer.evidence.tokens
    if trainer.useful is not None:
        tokens += trainer.useful.looks * trainer.useful.sets.tokens
    if trainer.watching is not None:
        tokens += planned_looks(trainer.args.measure_steps, 100) * trainer.watched.tokens
    flops = forward * tokens
    return Price(flops, one_pass.seconds * flops / one_pass.flops)


def planned_flops(trainer: "UnlearningTrainer", method: Method) -> float:
    """Operations of a trainer's whole training that uses S: passes over each part, teachers, and references."""
    assert trainer.mixed is not None
    objective, plain = method.objective, plain_model(trainer.model)
    until = names_until(plain, blocks_until(plain, trainer.options[objective.depth])) if objective.depth else None
    step, forward = flops_per_token(trainer.model, until)
    tokens = planned_tokens(trainer)
    flops = sum(tokens[part] * (trained * step + told * forward) for part, (trained, told) in method.passes.items())
    if objective.start_log_p:
        compared = [examples for part, examples in trainer.mixed.sets.items() if part != "retained"]
        flops += forward * sum(len(ids) for examples in compared for ids in examples["input_ids"])
    return flops


def looking_flops(trainer: "UnlearningTrainer", method: Method) -> float:
    """Operations of what a method looks at before its first step, without padding."""
    step, forward = flops_per_token(trainer.model)
    sets = {"forget": trainer.forget_examples, "retained": trainer.train_dataset}
    flops = 0.0
    for part, times in method.looks.items():
        examples = sets[part]
        assert isinstance(examples, Dataset)
        back = times or int(plain_model(trainer.model).config.num_labels or 0)
        flops += sum(len(ids) for ids in examples["input_ids"]) * (forward + back * (step - forward))
    return flops


def planned_tokens(trainer: "UnlearningTrainer") -> dict[Part, float]:
    """How many tokens of each part come in the batches of a whole training that uses S, padding included."""
    mixed, args = trainer.mixed, trainer.args
    assert mixed is not None
    # Each text of an encoder-decoder passes through half of the model.
    texts = ("input_ids", "labels") if TASKS[trainer.task].two_texts else ("input_ids",)
    lengths = {
        part: np.array([[len(values) for values in examples[name]] for name in texts])
        for part, examples in mixed.sets.items()
    }
    size, of_step = args.train_batch_size, args.gradient_accumulation_steps * args.world_size
    steps_of_epoch = -(-len(mixed) // _step_records(trainer))
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_of_epoch)
    tokens = dict.fromkeys(lengths, 0.0)
    for epoch in range(-(-steps // steps_of_epoch)):
        mixed.draws.set_epoch(epoch)
        draws = list(mixed.draws)[: (steps - epoch * steps_of_epoch) * of_step * size]
        for start in range(0, len(draws), size):
            rows = [mixed.rows(draw) for draw in draws[start : start + size]]
            for part, known in lengths.items():
                if own := [row[part] for row in rows if part in row]:
                    tokens[part] += len(own) * float(known[:, own].max(1).mean())
    mixed.draws.set_epoch(0)
    return tokens


def _step_records(trainer: "UnlearningTrainer") -> int:
    args = trainer.args
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def timed_pass(trainer: "UnlearningTrainer") -> Price:
    """What one pass over L costs by a few timed steps, forward and back, on records drawn from it.

    The optimiser's own work, which would change the weights, is left out.
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
            with telling_memory(training_memory(trainer.args)):
                stacked = collator(list(drawn.select_columns(["input_ids", "attention_mask", "labels"])))
                inputs = {name: tensor.to(trainer.args.device) for name, tensor in stacked.items()}
                started = _now()
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
