"""The table of all methods, and the ways to choose one."""

from collections.abc import Mapping
from importlib.metadata import entry_points

from ..errors import InputError, in_one_line
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

# Where an installed package names the methods that it brings: "name = module:METHOD".
ENTRY_POINTS = "hf_unlearn.methods"

METHODS = {method.name: method for method in (*RETAINED_METHODS, *FORGET_METHODS)}
OWN = frozenset(METHODS)

# Those whose start others can take.
STARTS = [method.name for method in RETAINED_METHODS if method.start not in (starts.original, starts.checkpoint)]

# What can be asked for, and why some of it cannot be had.
NAMES = [*METHODS, *CHOICES]
BROKEN: dict[str, str] = {}


def register(method: Method) -> Method:
    """Make a method known by its name to settings, flags and recipes of this process.

    Args:
        method: it may replace one that was registered before under the same name.

    Returns:
        The method itself.

    Raises:
        InputError: the name is no word, or belongs to hf_unlearn.
    """
    if not isinstance(method, Method):
        raise InputError(f"A {type(method).__name__} is no method; give a hf_unlearn.methods.Method.")
    if not method.name.isidentifier():
        raise InputError(
            f"{in_one_line(method.name)!r} cannot name a method; use letters, digits and underscores, as in my_method."
        )
    if method.name in OWN or method.name in CHOICES:
        raise InputError(f"hf_unlearn has {method.name!r} already; give your method another name.")
    METHODS[method.name] = method
    if method.name not in NAMES:
        NAMES.append(method.name)
    if method.start not in (starts.original, starts.checkpoint) and method.name not in STARTS:
        STARTS.append(method.name)
    return method


def register_installed() -> None:
    """Register the methods of installed packages; what cannot be had is told to those alone who ask for it."""
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            method = entry.load()
            if isinstance(method, Method) and method.name != entry.name:
                raise InputError(f"the method there is called {method.name!r}")
            register(method)
        except Exception as error:  # another's module may fail in any way
            package = entry.dist.name if entry.dist is not None else entry.value
            BROKEN[entry.name] = f"{type(error).__name__} in {package}, {in_one_line(error)}"
            if entry.name not in NAMES:
                NAMES.append(entry.name)


def find_method(name: str, start: str | None = None) -> Method:
    """The method of a name in :data:`METHODS`, from the start of another method where that is named.

    Raises InputError when there is none, or it has a start of its own.
    """
    for kind, asked, known in (("method", name, list(METHODS)), ("start", start, STARTS)):
        if asked in BROKEN and asked not in known:
            raise InputError(
                f"The {kind} {asked!r} cannot be loaded: {BROKEN[asked]}; mend its package, or name another."
            )
        if asked is not None and asked not in known:
            raise InputError(f"There is no {kind} {asked!r}; the {kind}s are {', '.join(known)}.")
    return METHODS[name] if start is None else METHODS[name].started_as(METHODS[start])


def trains_on_forget(name: str) -> bool:
    """Whether a method, or a choice of one, trains on S, so that its result is judged in other forms too."""
    return name in METHODS and METHODS[name].uses_forget


register_installed()
