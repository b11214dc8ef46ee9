"""Commands in forked children, which begin with all modules loaded; for killed.py and racing.py."""

import gc
import importlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_unlearn import jobs  # noqa: F401
from hf_unlearn.cli import main


def dot(figure: Figure, place: Any, **_: Any) -> None:
    """What is saved in place of a picture, whose drawing is a third of the time of so small a run."""
    Image.new("RGB", (1, 1)).save(place, format="png")


def get_ready() -> None:
    """Set up the process that children are forked from."""
    torch.set_num_threads(1)
    Figure.savefig = dot
    # Each training begins with a collection of garbage, which need not go through all modules.
    gc.freeze()


def start(
    argv: list[str], prepare: Callable[[], None] | None = None, after: Callable[[], object] | None = None
) -> int:
    """Fork a child that runs a command; its process id."""
    child = os.fork()
    if child == 0:
        if prepare is not None:
            prepare()
        code = main(argv)
        if after is not None:
            after()
        os._exit(code)
    return child


def start_first(argv: list[str], listed: Path) -> int:
    """As :func:`start`; the child writes which modules it has loaded in the end, for :func:`load`."""
    return start(argv, after=lambda: listed.write_text("\n".join(sys.modules)))


def load(listed: Path) -> None:
    """Load what the first child has loaded, which each child would load anew: it is half of the time of a run."""
    for name in listed.read_text().split("\n"):
        with suppress(Exception):
            importlib.import_module(name)
    listed.unlink()
    gc.freeze()
