"""What some methods do to the weights between the steps: callbacks without a state of their own.

A checkpoint needs nothing of them: what they do follows from the step, the seed and the weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .models.layers import matrices
from .models.loading import Model
from .resets import add_noise
from .starts import StartInputs, move_to_anchor

Rule = Callable[[StartInputs], TrainerCallback]

SHARE = 0.3  # of the weight matrices, disturbed at a time
# When, as fractions of the training: after each of the first four of nine epochs; before the first, second and fourth
# of five.
NOISE_TIMES = (1 / 9, 2 / 9, 3 / 9, 4 / 9)
RESET_TIMES = (0.0, 1 / 5, 3 / 5)


class PreparedRule(TrainerCallback):
    """A rule that looks at the model first, at its start; before a checkpoint is loaded, so it need not be in one."""

    def prepare(self, model: Model) -> None:
        """Look at the model.

        Args:
            model: at its start.
        """
        raise NotImplementedError


class KeepZeros(TrainerCallback):
    """Keeps the entries of weight matrices at zero that are zero when the training begins, or goes on.

    Their gradients are taken away before they can count in the gradient's norm; a weight of zero without a gradient
    stays zero under every optimiser, decay included.
    """

    def __init__(self) -> None:
        self._hooks: list[Any] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for _, weight in matrices(kwargs["model"], False):
            if weight.requires_grad:
                self._hooks.append(weight.register_post_accumulate_grad_hook(without(weight.detach() != 0)))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()


class Disturb(TrainerCallback):
    """Disturbs the weights at given times of the training.

    Args:
        disturb: changes a model in place; told for the how-manieth time it is.
        times: fractions of the training, each before the step that begins there.
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


def keep_zeros(inputs: StartInputs) -> TrainerCallback:
    """Keep what was pruned at zero."""
    return KeepZeros()


def noisy_matrices(inputs: StartInputs) -> TrainerCallback:
    """Add noise to weight matrices chosen at random, again and again in the first half of the training."""

    def disturb(model: Model, turn: int) -> None:
        chosen = _chosen(matrices(model, inputs.trained_adapter), inputs.seed + turn)
        add_noise((weight for _, weight in chosen), inputs.alpha, inputs.seed + turn + 1)

    return Disturb(disturb, NOISE_TIMES)


def cyclic_resets(inputs: StartInputs) -> TrainerCallback:
    """Draw weight matrices chosen at random afresh, in cycles."""

    def disturb(model: Model, turn: int) -> None:
        # The names of the matrices under an adapter stand for its updates of them.
        chosen = _chosen(matrices(model, False), inputs.seed + turn)
        move_to_anchor(model, inputs, 1, {name for name, _ in chosen})

    return Disturb(disturb, RESET_TIMES)


def _chosen(weights: list[tuple[str, nn.Parameter]], seed: int) -> list[tuple[str, nn.Parameter]]:
    order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(seed)).tolist()
    return [weights[i] for i in sorted(order[: max(1, round(SHARE * len(weights)))])]


def without(kept: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """A hook that takes the gradient away from all but some entries of a weight.

    Args:
        kept: whose gradient stays, bool of the weight's shape.
    """

    def mask(weight: torch.Tensor) -> None:
        if weight.grad is not None:
            weight.grad.mul_(kept)

    return mask
