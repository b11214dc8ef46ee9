"""What methods that use S do between the steps."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from .errors import InputError
from .forget_objectives import dual_step, nll
from .forget_weights import negate_task, saliency_mask
from .models.layers import placed_like, whole
from .models.loading import Model
from .rules import PreparedRule, without
from .starts import StartInputs, shrink_adapter

REWIND_FOLDER = "rewind"


class DualVariable(TrainerCallback, ExportableState):
    """Keeps PDU's weight of L, which grows while the loss on L is above its limit; it travels in the checkpoints.

    Args:
        inputs: the options ``multiplier``, ``limit``, ``step`` and ``warmup``, the part of the training in which the
            weight stays as it is.

    Attributes:
        multiplier: the weight.
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


class KeepUnsalient(PreparedRule):
    """Keeps all weights but those whose gradient on S is large as they are, bit for bit, under every optimiser.

    Their gradients are taken away before they can count in the gradient's norm, and after each step they are put back,
    for a weight decay moves them too.

    Args:
        inputs: the option ``share``, and S.
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
        weights = _trained(model)
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        self._masks = saliency_mask(gradients, self.inputs.options["share"])
        model.zero_grad(set_to_none=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        weights = _trained(kwargs["model"])
        self._kept = [weight.detach()[~mask] for weight, mask in zip(weights, self._masks, strict=True)]
        self._hooks = [
            weight.register_post_accumulate_grad_hook(without(mask))
            for weight, mask in zip(weights, self._masks, strict=True)
        ]

    @torch.no_grad()
    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for weight, mask, kept in zip(_trained(kwargs["model"]), self._masks, self._kept, strict=True):
            weight.masked_scatter_(~mask, kept)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._kept = []


class NegateTask(PreparedRule):
    """In the end takes as large a step away from S as the training went toward it.

    Args:
        inputs: the option ``scale``.

    Raises:
        InputError: the original is an adapter, whose update the one that was trained on S cannot be told from.
    """

    def __init__(self, inputs: StartInputs):
        if inputs.trained_adapter:
            raise InputError(
                "A task vector of an adapter that is the original cannot be told from the original's own; merge the "
                "adapter first, and train a new one or all weights."
            )
        self.scale, self.seed = inputs.options["scale"], inputs.seed
        self._base: dict[str, torch.Tensor] = {}

    def prepare(self, model: Model) -> None:
        if not _has_adapter(model):
            self._base = {
                name: weight.detach().cpu().clone()
                for name, weight in model.named_parameters()
                if weight.requires_grad
            }

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


class Rewind(TrainerCallback, ExportableState):
    """In the end goes back to the epoch after which S was as hard as records never seen are now (SCRUB+R).

    Kurmanji et al. 2023, arXiv:2302.09880. The weights of each epoch lie in the output folder meanwhile. S and H are
    read by halves: these ones choose, and the others judge.

    Args:
        inputs: how wrong a model is on S and H, and the folder.

    Attributes:
        errors: by epoch, the share of S's items that were told wrong after it.
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
        model = kwargs["model"]
        last = max([0, *map(int, self.errors)]) + 1
        self.errors[str(last)] = self._error("forget")
        wanted = self._error("holdout")
        best = min(self.errors, key=lambda epoch: (abs(self.errors[epoch] - wanted), -int(epoch)))
        if best != str(last):
            weights = dict(model.named_parameters())
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
            weights = {
                name: weight.detach().cpu().contiguous()
                for name, weight in model.named_parameters()
                if weight.requires_grad
            }
            part = self._place(epoch).with_suffix(".part")
            save_file(weights, part)
            part.replace(self._place(epoch))
        PartialState().wait_for_everyone()


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _has_adapter(model: nn.Module) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())
