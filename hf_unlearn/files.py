"""Files that are never there by half, and dataclasses as JSON."""

import json
import math
import os
import types
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InputError, in_one_line

if TYPE_CHECKING:
    import yaml

Document = TypeVar("Document")

LARGEST_DOCUMENT = 1_000_000  # values in YAML


@contextmanager
def written_whole(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """Give a new file to write, and rename it in the end, so that a file is never there by half.

    Args:
        path: the name in the end; what is there is replaced.
        mode: who may read it, less the umask.

    Raises:
        InputError: a device, a pipe, a socket or a folder has that name.
    """
    require_plain(path)
    temporary = path.with_name(f".{path.name}.part")
    # What a kill has left may be readable by others, and a link that somebody planted there must not be followed.
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield temporary
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Give a file its name once it is on the disk, for a power cut may follow."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)


def require_plain(path: Path) -> None:
    """Raise InputError where a file cannot be written because a device, a pipe, a socket or a folder is there."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no plain file and is not replaced; name another.")


def require_file(path: Path) -> None:
    """Raise InputError where a pipe, a device or a socket would have to be read, perhaps without an end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no plain file and is not read; name a file.")


def require_ours(path: Path, flag: str, mark: str) -> None:
    """Raise InputError where a file that a user names cannot be written, or holds something that is not ours.

    Args:
        path: the file.
        flag: that names it.
        mark: words near the beginning of such a file.
    """
    try:
        if not path.parent.is_dir():
            raise InputError(f"There is no folder {path.parent} for {flag}; make it, or name another.")
        require_plain(path)
        with path.open("rb") as file:
            begins = file.read(4096).decode(errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{flag} {path} cannot be written: {error.strerror}.") from None
    if begins and mark not in begins:
        raise InputError(f"{flag} {path} holds something else, which would be lost; name another file.")


def write_text(path: Path, text: str) -> None:
    """Write a file that is never there by half."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_aliases(node: "yaml.Node | None") -> None:
    """Raise yaml.YAMLError for a document that its aliases blow up, as in a chain of ten lists of ten of the next."""
    # The help needs no other package.
    import yaml

    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if isinstance(node, tuple):
            return size(node[0]) + size(node[1])
        if id(node) not in sizes:
            # One that holds itself is met again here.
            sizes[id(node)] = 1
            sizes[id(node)] += sum(map(size, node.value)) if isinstance(node, yaml.CollectionNode) else 0
        return sizes[id(node)]

    if size(node) > LARGEST_DOCUMENT:
        raise yaml.YAMLError(f"it stands for more than {LARGEST_DOCUMENT:,} values")


@contextmanager
def written_privately(path: Path) -> Iterator[TextIO]:
    """Give a text file to write that only its owner can read, from its first byte, and that is never there by half."""
    with written_whole(path, 0o600) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def json_values(document: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values; what is not a finite number becomes null."""
    return _finite(asdict(document))


def json_text(document: Any) -> str:
    """A dataclass as the text of a JSON file."""
    return json.dumps(json_values(document), indent=2, allow_nan=False) + "\n"


def save_json(document: Any, path: Path) -> None:
    """Write a dataclass as a JSON file that is never there by half."""
    write_text(path, json_text(document))


def load_json(
    kind: type[Document],
    path: Path,
    name: str,
    version: int | None = None,
    cure: str = "",
    dropped: Collection[str] = (),
) -> Document:
    """Read a file that :func:`save_json` wrote.

    Args:
        kind: of the document.
        path: where it is.
        name: what it is, for the message.
        version: its ``schema_version``, None where it has none.
        cure: what to do where it cannot be read.
        dropped: names that a file may hold, and that are not read.

    Raises:
        InputError: it is not there, is no JSON, is of another version, or does not fit the dataclass.
    """
    require_file(path)
    try:
        return parse_json(kind, path.read_bytes(), version, dropped)
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError as error:
        why = str(error)
    raise InputError(f"There is no readable {name} at {path}: {why}{cure and f'; {cure}'}.")


def parse_json(
    kind: type[Document], content: str | bytes, version: int | None = None, dropped: Collection[str] = ()
) -> Document:
    """As :func:`load_json`, from the content of the file; raises ValueError that says why it cannot be read."""
    try:
        values = json.loads(content, object_pairs_hook=lambda pairs: {k: v for k, v in pairs if k not in dropped})
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if version is not None and not (isinstance(values, dict) and values.get("schema_version") == version):
        raise ValueError(f"it is not of version {version}")
    return typed(kind, values)


def typed(kind: Any, value: Any, where: str = "its top") -> Any:
    """A JSON value as a dataclass, or a container of them; raises ValueError where it is of another type.

    A tuple has as many items of one type as there are.
    """
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
        hints = _hints(kind)
        # What has a default was added later.
        needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        unknown = (set(value) - {f.name for f in fields(kind)}) | (needed - set(value))
        if unknown:
            raise ValueError(f"it does not fit its schema at {in_one_line(', '.join(sorted(unknown)))}")
        return kind(**{name: typed(hints[name], item, name) for name, item in value.items()})
    if get_origin(kind) is list and isinstance(value, list):
        return [typed(get_args(kind)[0], item, where) for item in value]
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(typed(get_args(kind)[0], item, where) for item in value)
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: typed(get_args(kind)[1], item, where) for key, item in value.items()}
    if kind is float and (value is None or type(value) is int):
        # What is not a finite number was written as null.
        return math.nan if value is None else float(value)
    fits = value in get_args(kind) if get_origin(kind) is Literal else kind is Any or type(value) is kind
    if not fits:
        raise ValueError(f"it does not fit its schema at {where}")
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, which a ledger of many lines asks for again and again."""
    return get_type_hints(kind)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
