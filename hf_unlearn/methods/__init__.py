"""A method is a start, data, an objective and a step rule; the table of all of them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .forget_batches import PAIRED as PAIRED
    from .items import RULED_OUT as RULED_OUT
    from .method import Method as Method
    from .method import Objective as Objective
    from .starts import original as original
    from .step import Step as Step
    from .table import register as register

_HOMES = {
    "Method": "method",
    "Objective": "method",
    "PAIRED": "forget_batches",
    "RULED_OUT": "items",
    "Step": "step",
    "original": "starts",
    "register": "table",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    # torch takes a second to import, and the names of the methods do not need it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f".{_HOMES[name]}", __name__))[name]
