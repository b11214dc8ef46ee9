"""What methods do between the steps, as callbacks of the trainer: rules that keep, disturb, set back or weigh.

A rule is made from the :class:`~hf_unlearn.methods.starts.StartInputs` of its run. First come the rules that keep some
weights as they are and those that disturb weights, then the rules of methods that use S.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..errors import InputError
from ..files import written_whole
from ..models.layers import matrices, placed_like, whole
from ..models.loading import Model
from .losses import dual_step, nll
from .resets import add_noise
from .starts import StartInputs, move_to_anchor, shrink_adapter

Rule = Callable[[StartInputs], TrainerCallback]

# When weights are disturbed, as fractions of the training: noise after each of the first four of nine epochs, resets
# before the first, second and fourth of five.
NOISE_TIMES = (1 / 9, 2 / 9, 3 / 9, 4 / 9)
RESET_TIMES = (0.0, 1 / 5, 3 / 5)
SHARE = 0.3  # of the weight matrices, disturbed at a time

REWIND_FOLDER = "rewind"


class PreparedRule(TrainerCallback):
    """A rule that looks at the model first, at its start; before a checkpoint is loaded, so it need not be in one."""

    def prepare(self, model: Model) -> None:
        """Look at the model, which is at its start."""
        raise NotImplementedError


# Keeping weights


class KeepZeros(TrainerCallback):
    """Keeps the entries of weight matrices at zero that are zero when the training begins, or goes on.

    Their gradients are taken away before they can count in the gradient's norm; a weight of zero without a gradient
    stays zero under every optimiser, decay included.
    """

    def __init__(self, inputs: StartInputs) -> None:
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for _, weight in matrices(kwargs["model"], False):
            if weight.requires_grad:
                self._hooks.append(_train_only(weight, weight.detach() != 0))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()


class KeepUnsalient(PreparedRule):
    """Keeps all weights but those whose gradient on S is large as they are, bit for bit, under every optimiser.

    Their gradients are taken away before they can count in the gradient's norm, and after each step they are put back,
    for a weight decay moves them too. The option is ``share``, see :func:`saliency_mask`.
    """

    def __init__(self, inputs: StartInputs):
        self.inputs = inputs
        self._masks: list[torch.Tensor] = []
        self._kept: list[torch.Tensor] = []
        self._hooks: list[Any] = []

    def prepare(self, model: Model) -> None:
        assert self.inputs.items is not None
        model.zero_grad(set_to_none=True)
        for items in self.inputs.items(model, "forget", None, 1):
            nll(items).sum().backward()
        weights = _trained(model).values()
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        self._masks = saliency_mask(gradients, self.inputs.options["share"])
        model.zero_grad(set_to_none=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for weight, mask in zip(_trained(kwargs["model"]).values(), self._masks, strict=True):
            self._kept.append(weight.detach()[~mask])
            self._hooks.append(_train_only(weight, mask))

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for weight, mask, kept in zip(_trained(kwargs["model"]).values(), self._masks, self._kept, strict=True):
            weight.masked_scatter_(~mask, kept)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._kept = []


def saliency_mask(gradients: Sequence[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Which weights SalUn trains: those whose gradient on S is among the largest of all in magnitude.

    Fan et al. 2023, arXiv:2310.12508. As in the authors' code one limit holds for all weights of the model, and
    the gradient is that of the loss over the whole of S, of the original in evaluation mode. A weight without a
    gradient is never chosen; their code fills up with such weights, in the order of its sort.

    Args:
        gradients: of each weight tensor, of any shape.
        share: how much of the model; 0.5 published (with 10 epochs on S with random labels and on L, SGD at 0.013,
            momentum 0.9, weight decay 5e-4).

    Returns:
        For each tensor a mask of its shape.
    """
    sizes = torch.cat([gradient.abs().flatten().float().cpu() for gradient in gradients]).numpy()
    limit = np.inf
    if count := round(share * len(sizes)):
        sizes.partition(len(sizes) - count)
        limit = float(sizes[len(sizes) - count])
    return [(gradient.abs().float() >= limit) & (gradient != 0) for gradient in gradients]


def _train_only(weight: nn.Parameter, kept: torch.Tensor) -> Any:
    """Take the gradient away from all but some entries of a weight, until the hook that is returned is removed."""

    def mask(weight: torch.Tensor) -> None:
        if weight.grad is not None:
            weight.grad.mul_(kept)

    return weight.register_post_accumulate_grad_hook(mask)


# Disturbing weights


class Disturb(TrainerCallback):
    """Disturbs the weights at given times of the training, fractions of it, each before the step that begins there.

    ``disturb`` changes a model in place, given how often it did so before.
    """

    def __init__(self, disturb: Callable[[Model, int], None], times: tuple[float, ...]):
        self.disturb, self.times = disturb, times

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for turn, time in enumerate(self.times):
            # A checkpoint is saved before the next step begins, so going on from it disturbs nothing twice.
            if state.global_step == int(time * state.max_steps):
                self.disturb(kwargs["model"], turn)


def noisy_matrices(inputs: StartInputs) -> TrainerCallback:
    """Add noise to weight matrices chosen at random, again and again in the first half of the training."""

    def disturb(model: Model, turn: int) -> None:
        chosen = _chosen(matrices(model, inputs.trained_adapter), inputs.seed + turn)
        add_noise((weight for _, weight in chosen), inputs.alpha, inputs.seed + turn + 1)

    return Disturb(disturb, NOISE_TIMES)


def cyclic_resets(inputs: StartInputs) -> TrainerCallback:
    """Reset weight matrices chosen at random, in cycles."""

    def disturb(model: Model, turn: int) -> None:
        # The names of the matrices under an adapter stand for its updates of them.
        chosen = _chosen(matrices(model, False), inputs.seed + turn)
        move_to_anchor(model, inputs, 1, {name for name, _ in chosen})

    return Disturb(disturb, RESET_TIMES)


def _chosen(weights: list[tuple[str, nn.Parameter]], seed: int) -> list[tuple[str, nn.Parameter]]:
    order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(seed)).tolist()
    return [weights[i] for i in sorted(order[: max(1, round(SHARE * len(weights)))])]


# Weighing L, setting back, and stepping away from S


class DualVariable(TrainerCallback, ExportableState):
    """Keeps PDU's weight of L, which grows while the loss on L is above its limit; it travels in the checkpoints.

    Of the options, ``multiplier`` is the weight at first, ``limit`` and ``step`` are those of
    :func:`~hf_unlearn.methods.losses.dual_step`, and ``warmup`` is the part of the training in which it stays.
    """

    def __init__(self, inputs: StartInputs):
        self.options = inputs.options
        self.multiplier = inputs.options["multiplier"]
        self._seen: torch.Tensor | None = None

    def see(self, loss: torch.Tensor) -> None:
        """Take note of the loss on L of one micro-batch, as it adds up."""
        self._seen = loss.detach() if self._seen is None else self._seen + loss.detach()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self._seen is not None
        # Each process has its part times their number, as for a gradient that is averaged.
        seen, self._seen = float(reduce(self._seen, "mean")), None
        if state.global_step > self.options["warmup"] * state.max_steps:
            self.multiplier = dual_step(self.multiplier, seen, self.options["limit"], self.options["step"])

    def state(self) -> dict[str, dict[str, Any]]:
        return {"args": {}, "attributes": {"multiplier": self.multiplier}}

    def restore(self, attributes: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.multiplier = attributes["multiplier"]


class Rewind(TrainerCallback, ExportableState):
    """In the end goes back to the epoch after which S was as hard as records never seen are now (SCRUB+R).

    Kurmanji et al. 2023, arXiv:2302.09880. The weights of each epoch lie in the output folder meanwhile. S and H are
    read by halves: these ones choose, and the others judge.

    Attributes:
        errors: by epoch, the share of S's items that the model got wrong after it.
    """

    def __init__(self, inputs: StartInputs):
        assert inputs.error is not None
        assert inputs.folder is not None
        self._error: Callable[[str], float] = inputs.error
        self._folder = inputs.folder / REWIND_FOLDER
        self.errors: dict[str, float] = {}

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After an interruption an epoch may begin in the middle.
        epoch = state.epoch or 0.0
        if epoch >= 1 and epoch == int(epoch):
            self._note(kwargs["model"], int(epoch))

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step < state.max_steps:
            return
        last = max([0, *map(int, self.errors)]) + 1
        self.errors[str(last)] = self._error("forget")
        wanted = self._error("holdout")
        best = min(self.errors, key=lambda epoch: (abs(self.errors[epoch] - wanted), -int(epoch)))
        if best != str(last):
            weights = dict(kwargs["model"].named_parameters())
            for name, values in load_file(self._place(int(best))).items():
                weights[name].copy_(values)
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)

    def state(self) -> dict[str, dict[str, Any]]:
        return {"args": {}, "attributes": {"errors": self.errors}}

    def restore(self, attributes: dict[str, Any]) -> None:
        """Continue from the state in a checkpoint."""
        self.errors = dict(attributes["errors"])

    def _place(self, epoch: int) -> Path:
        return self._folder / f"epoch-{epoch}.safetensors"

    def _note(self, model: nn.Module, epoch: int) -> None:
        self.errors[str(epoch)] = self._error("forget")
        if PartialState().is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            weights = {name: weight.detach().cpu().contiguous() for name, weight in _trained(model).items()}
            with written_whole(self._place(epoch)) as part:
                save_file(weights, part)
        PartialState().wait_for_everyone()


class NegateTask(PreparedRule):
    """In the end takes ``scale`` times as large a step away from S as the training went toward it.

    Raises InputError when the original is an adapter, whose own update and that of the training on S are one.
    """

    def __init__(self, inputs: StartInputs):
        if inputs.trained_adapter:
            raise InputError(
                "The method 'task_vector' needs an original that is no adapter; merge the adapter first, and train a "
                "new one or all weights."
            )
        self.scale, self.seed = inputs.options["scale"], inputs.seed
        self._base: dict[str, torch.Tensor] = {}

    def prepare(self, model: Model) -> None:
        if not _has_adapter(model):
            self._base = {name: weight.detach().cpu().clone() for name, weight in _trained(model).items()}

    @torch.no_grad()
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step < state.max_steps:
            return
        model = kwargs["model"]
        if _has_adapter(model):
            # A new adapter begins at nothing, so its update is all of the task vector.
            shrink_adapter(model, 1 + self.scale, self.seed)
        weights = dict(model.named_parameters())
        for name, base in self._base.items():
            weight = weights[name]
            moved = negate_task(base.to(weight.device), whole(weight), self.scale)
            weight.copy_(placed_like(moved, weight))
        self._base = {}


def negate_task(base: torch.Tensor, tuned: torch.Tensor, scale: float) -> torch.Tensor:
    """base - scale * (tuned - base), of one weight tensor: away from S (Ilharco et al. 2022, arXiv:2212.04089).

    The base is the original, and tuned is the original after more training on S. The scale was chosen on validation
    data in the paper; it is 1 in MUSE's code. Of a LoRA adapter that was trained on S the update is the product B A:
    scaling its B by -scale is the same.
    """
    return base.lerp(tuned, -scale)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _has_adapter(model: nn.Module) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())
