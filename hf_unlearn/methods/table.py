"""The table of all methods, and the ways to choose one."""

from collections.abc import Mapping

from ..errors import InputError
from . import starts
from .forget_methods import FORGET_METHODS
from .method import Method
from .retained_methods import RETAINED_METHODS

# What `hf-unlearn run` takes in the place of a method: ways to choose one by what it does here.
CHOICES: Mapping[str, str] = {
    "auto": "fine-tune the base model, which is exact, until more brings little; where no base is known, an "
    "approximate method",
    "dial": "search for how far to move the start toward the base model, or toward fresh weights if none is known",
}

METHODS = {method.name: method for method in (*RETAINED_METHODS, *FORGET_METHODS)}

# Those whose start others can take.
STARTS = [method.name for method in RETAINED_METHODS if method.start not in (starts.original, starts.checkpoint)]


def find_method(name: str, start: str | None = None) -> Method:
    """The method of a name in :data:`METHODS`, from the start of another method where that is named.

    Raises InputError when there is none, or it has a start of its own.
    """
    for kind, asked, known in (("method", name, list(METHODS)), ("start", start, STARTS)):
        if asked is not None and asked not in known:
            raise InputError(f"There is no {kind} {asked!r}; the {kind}s are {', '.join(known)}.")
    return METHODS[name] if start is None else METHODS[name].started_as(METHODS[start])


def trains_on_forget(name: str) -> bool:
    """Whether a method, or a choice of one, trains on S, so that its result is judged in other forms too."""
    return name in METHODS and METHODS[name].uses_forget
