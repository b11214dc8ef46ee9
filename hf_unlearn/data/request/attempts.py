"""How often one has tried on the same records, noted beside the owner's key.

Whoever tries until a test passes has a result that says less. So each run notes when it begins to measure, also one
that is thrown away. The file is the owner's alone; only counts leave it.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub.utils import WeakFileLock

from ...errors import InputError
from ...files import typed


@dataclass(frozen=True)
class Attempt:
    """One run that measured some records to forget.

    Attributes:
        run: what identifies it, through interruptions.
        records: keyed digest of the records, however the request names them.
        method, seed, margin: what may differ from one attempt to the next; the margin is on the AUC.
    """

    run: str
    records: str
    method: str
    seed: int
    margin: float


@dataclass(frozen=True)
class AttemptCount:
    """Which attempt on the same records a run is.

    Attributes:
        number: counted from 1.
        others: of those before it, how many had another method, seed or margin.
    """

    number: int
    others: int


def attempts_path(key: Path) -> Path:
    """Where attempts are noted: beside the owner's key, in a file named after it."""
    return key.with_name(f"{key.name}.attempts")


def check_attempts(path: Path) -> None:
    """Raise InputError where attempts cannot be noted in this file."""
    with _locked(path):
        _read(path)


def note_attempt(path: Path, attempt: Attempt) -> AttemptCount:
    """Note an attempt, unless its run is noted already, and count those before it.

    Raises:
        InputError: the file is damaged, or cannot be read or written.
    """
    with _locked(path):
        noted = [one for one in _read(path) if one.records == attempt.records]
        runs = [one.run for one in noted]
        if attempt.run not in runs:
            _append(path, attempt)
            noted, runs = [*noted, attempt], [*runs, attempt.run]
    place = runs.index(attempt.run)
    others = sum(_settings(one) != _settings(attempt) for one in noted[:place])
    return AttemptCount(place + 1, others)


def _settings(attempt: Attempt) -> tuple[str, int, float]:
    return attempt.method, attempt.seed, attempt.margin


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold off all others that would note something; raises InputError where the file cannot be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise InputError(
            f"Attempts are noted in {path}, which cannot be read or written ({error.strerror}); name a key in a "
            "folder of your own with --digest_key_file."
        ) from None


def _read(path: Path) -> list[Attempt]:
    """All attempts in the file, none where it is not there."""
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate([*lines, *([rest] if rest else [])], start=1):
        try:
            # A last line without its end was broken off.
            attempt = typed(Attempt, json.loads(line)) if number <= len(lines) else None
        except (ValueError, RecursionError):
            attempt = None
        if attempt is None:
            raise InputError(
                f"Line {number} of {path}, which counts the attempts on the same records, cannot be read; restore the "
                "file, or move it away and the count begins anew."
            )
        found.append(attempt)
    return found


def _append(path: Path, attempt: Attempt) -> None:
    line = json.dumps(asdict(attempt), sort_keys=True) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        os.chmod(path, 0o600)
        try:
            if os.write(descriptor, line.encode("ascii")) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            # Half a line would damage the file.
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)
