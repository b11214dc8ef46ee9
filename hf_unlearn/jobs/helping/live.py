"""One live line for long work: the stage, the step, the loss, the time left and the price so far."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, nullcontext, redirect_stderr
from contextvars import ContextVar
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text
from transformers import TrainerCallback, TrainerState
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.utils import logging as transformers_logging
from transformers.utils.logging import EmptyTqdm, tqdm

from ...evaluation.report import CostEntry
from ...training.callbacks import show_nothing
from ...training.trainer import UnlearningTrainer
from ..console import Terminal, above_live_line, silent, terminal

REFRESHED = 0.1  # seconds between two states of the live line
TOLD = 60.0  # seconds between two lines where there is no terminal


class Bar(EmptyTqdm):
    """One stage of the work, with what the libraries use of tqdm's bars."""

    def __init__(
        self, display: "Display", *args: Any, desc: str | None = None, total: int | None = None, **kwargs: Any
    ):
        super().__init__(*args)
        self.display, self.desc = display, desc or "Working"
        self.total = len(args[0]) if total is None and args and isinstance(args[0], Sized) else total
        self.done, self.note, self.spent, self.tenths = 0, "", 0.0, 0
        self.begun: tuple[float, int] | None = None
        display.bars.append(self)
        display.refresh()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self._iterator:
                yield item
                self.update()

    def __exit__(self, *raised: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        self.done += n
        # What came before the first update may be a checkpoint's, or a compilation.
        self.begun = self.begun or (time.monotonic(), self.done)
        self.display.moved(self)

    def set_postfix_str(self, text: str) -> None:
        self.note = text

    def close(self) -> None:
        if self in self.display.bars:
            self.display.bars.remove(self)
            self.display.refresh()

    def __str__(self) -> str:
        if not self.total:
            return self.desc
        told = [f"{self.desc} {self.done:,} of {self.total:,}", *([self.note] if self.note else [])]
        if self.begun is not None and self.done > self.begun[1]:
            since, first = self.begun
            left = round((time.monotonic() - since) / (self.done - first) * (self.total - self.done))
            told.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
        return ", ".join(told)


class Display:
    """The stages that are under way, the outermost first, shown in a live line or told in lines now and then."""

    def __init__(self, lines: Console, live: Live | None) -> None:
        self.lines, self.live = lines, live
        self.bars: list[Bar] = []
        self.price: float | None = None
        self.shown = time.monotonic()

    def __str__(self) -> str:
        price = [] if self.price is None else [f"{self.price:.0%} of retraining's price"]
        return " | ".join([*(map(str, self.bars) if self.bars else ["Working"]), *price])

    def refresh(self) -> None:
        if self.live is not None:
            self.shown = time.monotonic()
            self.live.update(Text(str(self), no_wrap=True, overflow="ellipsis"), refresh=True)

    def moved(self, bar: Bar) -> None:
        """Show that a stage has gone on, unless something was shown a moment ago."""
        waited = time.monotonic() - self.shown
        if self.live is not None:
            if waited >= REFRESHED:
                self.refresh()
        elif bar.total and waited >= TOLD and (tenths := 10 * bar.done // bar.total) > bar.tenths:
            bar.tenths, self.shown = tenths, time.monotonic()
            self.lines.print(str(self), markup=False, highlight=False, soft_wrap=True)


current: ContextVar[Display | None] = ContextVar("current", default=None)


class WithoutBars:
    """A stream to which the bars of other libraries, whose states begin with a carriage return, do not go."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.dropped = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        dropped, self.dropped = self.dropped, text.startswith("\r")
        if self.dropped or (dropped and text == "\n"):
            return len(text)
        return self.stream.write(text)


@contextmanager
def live() -> Iterator[None]:
    """Show the work inside in one live line in place of all bars, or in a few plain lines where there is no terminal.

    A notebook has the bars that it has anyway. Of several processes the first one shows it all.
    """
    results, errors = terminal(), Terminal(stderr=True, soft_wrap=True)
    if results.is_jupyter:
        yield
        return
    line = None
    shown = next((one for one in (results, errors) if one.file.isatty() and one.is_interactive), None)
    if os.environ.get("RANK", "0") != "0":
        errors.quiet = True
    elif shown is not None:
        line = Live(
            console=shown,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
    display, stream = Display(errors, line), sys.stderr

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> EmptyTqdm:
        return EmptyTqdm(*args) if given.get("disable") else Bar(display, *args, **given)

    before = transformers_logging.set_tqdm_hook(hook)
    tokens = current.set(display), above_live_line.set(shown if line is not None and shown is results else None)
    try:
        with line or nullcontext(), _errors_without_bars(stream):
            display.refresh()
            yield
    finally:
        transformers_logging.set_tqdm_hook(before)
        current.reset(tokens[0])
        above_live_line.reset(tokens[1])


@contextmanager
def _errors_without_bars(stream: Any) -> Iterator[None]:
    """Let what loggers write to the stream itself take the way of all errors."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [one for logger in loggers if isinstance(logger, logging.Logger) for one in logger.handlers]
    held = [one for one in handlers if isinstance(one, logging.StreamHandler) and vars(one).get("stream") is stream]
    errors: Any = WithoutBars(sys.stderr)
    with redirect_stderr(errors):
        for handler in held:
            handler.setStream(errors)
        try:
            yield
        finally:
            for handler in held:
                handler.setStream(stream)


@contextmanager
def stage(name: str, before: list[CostEntry] | None = None) -> Iterator[None]:
    """Show of which part of the job the work inside is; ``before`` is what its price counts of earlier parts."""
    if (display := current.get()) is None:
        yield
        return
    with Bar(display, desc=name) as bar:
        bar.spent = sum(cost.flops + cost.measuring_flops for cost in before or [])
        yield


class ShowTraining(TrainerCallback):
    """Shows how far a training is, its loss and, where ``priced``, what unlearning has cost so far."""

    def __init__(self, trainer: UnlearningTrainer, *, priced: bool):
        self.trainer, self.priced, self.bar = trainer, priced, EmptyTqdm()
        self.step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._show_price()
        if state.is_world_process_zero:
            self.bar, self.step = tqdm(total=state.max_steps, desc="Training", leave=False), 0

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._show_price()
        self.bar.update(state.global_step - self.step)
        self.step = state.global_step

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs is not None and "loss" in logs:
            self.bar.set_postfix_str(f"loss {float(logs['loss']):.3g}")

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.bar.close()

    def _show_price(self) -> None:
        if (display := current.get()) is None:
            return
        display.price = None
        if self.priced:
            cost = self.trainer.cost_entry(None)
            spent = cost.flops + self.trainer.current_flos * self.trainer.args.world_size + cost.measuring_flops
            spent += sum(bar.spent for bar in display.bars)
            display.price = spent / cost.retraining_flops if cost.retraining_flops else None


def show_training(trainer: UnlearningTrainer, *, priced: bool = False) -> None:
    """Let a trainer show how far it is; ``disable_tqdm`` means lines with all that is logged, ``silence`` nothing."""
    if silent.get():
        show_nothing(trainer)
    elif not trainer.args.disable_tqdm:
        trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)
        trainer.add_callback(ShowTraining(trainer, priced=priced))
