"""What each command does, from its settings to its files; the only place that prints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attacking import attack as attack
    from .evaluating import evaluate as evaluate
    from .helping.guarding import guard as guard
    from .preparation import split as split
    from .reference_models import references as references
    from .training_runs import train as train
    from .unlearning import run as run

_HOMES = {
    "attack": "attacking",
    "evaluate": "evaluating",
    "guard": "helping.guarding",
    "references": "reference_models",
    "run": "unlearning",
    "split": "preparation",
    "train": "training_runs",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    # Each job imports what it needs when it is asked for.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f".{_HOMES[name]}", __name__))[name]
