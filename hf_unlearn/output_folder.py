"""Output folders: whose run is in one, whether it is finished, and that one process at a time works in it."""

import json
import os
import secrets
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from .errors import InputError
from .files import write_text

SETTINGS_FILE = "run.json"
IDENTITY_FILE = "run_id"
LOCK_FILE = ".lock"
REFERENCES_FOLDER = "references"
TRIALS_FOLDER = "trials"
PRIVATE_SETTINGS = (
    "forget_values", "forget_rows", "holdout_values", "holdout_rows", "hub_token", "near_duplicates_review",
)  # fmt: skip
# What may change between a run and its repetition: where it is published, and whether.
PUBLISHING_SETTINGS = (
    "push",
    "push_anyway",
    "push_to_existing",
    "tell_users_to_move",
    "hub_model_id",
    "hub_private_repo",
    "hub_token",
)
# How the work is dealt over the machine, which changes no bit.
MACHINE_SETTINGS = ("shard_processes",)


def is_finished(folder: Path, settings: dict[str, Any], last_file: str, ignored: Collection[str] = ()) -> bool:
    """Whether a folder holds the finished run of these settings, without those that are ignored.

    Raises InputError where it holds something else.
    """
    require_folder(folder)
    path = folder / SETTINGS_FILE
    if not path.is_file():
        # A kill may have come before the settings had their name, and references and trials of a run before the run.
        ours = {f".{SETTINGS_FILE}.part", REFERENCES_FOLDER, TRIALS_FOLDER, LOCK_FILE}
        if folder.is_dir() and {file.name for file in folder.iterdir()} - ours:
            raise InputError(f"{folder} is not empty and holds no run; name another --output_dir.")
        return False
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{path} cannot be read; name another --output_dir or delete this one.")
    names = (before.keys() | settings.keys()) - set(ignored)
    changed = sorted(name for name in names if before.get(name) != settings.get(name))
    if changed:
        raise InputError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); name another --output_dir or delete it."
        )
    return (folder / last_file).is_file()


@contextmanager
def own_folder(
    folder: Path, settings: dict[str, Any], last_file: str, ignored: Collection[str] = ()
) -> Iterator[bool]:
    """Keep others out of the folder of a run; gives whether the run is finished there (see :func:`is_finished`)."""
    # Nothing is written into a folder of another run.
    is_finished(folder, settings, last_file, ignored)
    with alone_in(folder):
        yield is_finished(folder, settings, last_file, ignored)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of an output folder, which is made, as long as all of them ask.

    Raises:
        InputError: another one works there.
    """
    main, made = PartialState().is_main_process, not folder.exists()
    if main:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK_FILE, str(folder)):
            yield
    finally:
        if main and made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, which a process that dies lets go; raises InputError with its holder where another has it."""
    lock, holder = FileLock(path), [""]
    if PartialState().is_main_process:
        try:
            lock.acquire(blocking=False)
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        except Timeout:
            holder = ["another process"]
            with suppress(OSError):
                holder = [path.read_text(encoding="utf-8") or holder[0]]
    if (found := broadcast_object_list(holder)[0]) != "":
        raise InputError(f"{what} is in use by {found}; wait until it has ended, or name another.")
    try:
        yield
    finally:
        if PartialState().is_main_process:
            # Whoever waits for it sees that it is another file then.
            path.unlink(missing_ok=True)
            lock.release()


def require_folder(folder: Path) -> None:
    """Raise InputError where a folder cannot be made because a file is in its way."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise InputError(f"--output_dir {folder} cannot be made, because {nearest} is a file; name another.")


def require_apart(folder: Path, data: str | None) -> None:
    """Raise InputError where an output folder lies in the folder of the data set D, or D in it: one would be lost."""
    if data is None or not Path(data).exists():
        return
    place, out = Path(data).resolve(), folder.resolve()
    if place.is_dir() and out.is_relative_to(place):
        raise InputError(f"--output_dir {folder} lies in the folder of the data set, {data}; name one elsewhere.")
    if place.is_relative_to(out):
        raise InputError(f"The data set {data} lies in --output_dir {folder}; name another --output_dir.")


def run_settings(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What makes a run this run, without ids: what of request and data in memory matters is in the audit."""
    ignored = (*PRIVATE_SETTINGS, *PUBLISHING_SETTINGS, *MACHINE_SETTINGS, "output_dir")
    given = {name: value for name, value in values.items() if name not in ignored}
    return {name: value for name, value in given.items() if is_written(value)} | more


def is_written(value: Any) -> bool:
    """Whether a setting is one that a file can hold, and no object in memory."""
    # A DatasetDict is a dictionary too.
    return isinstance(value, str | int | float | list | tuple | Path | None) or type(value) is dict


def known_settings(folder: Path) -> dict[str, Any]:
    """The settings that :func:`start_folder` noted; empty where a folder has none that can be read."""
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def start_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Make the output folder and note what run it belongs to."""
    # Until all have looked into the folder, nobody changes it.
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    PartialState().wait_for_everyone()


def run_identity(folder: Path) -> str:
    """What identifies the run in a started folder, through interruptions; another one after the folder is deleted."""
    path = folder / IDENTITY_FILE
    if not path.is_file() and PartialState().is_main_process:
        write_text(path, secrets.token_hex(16))
    PartialState().wait_for_everyone()
    return path.read_text(encoding="utf-8")
