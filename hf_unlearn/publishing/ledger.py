"""``unlearning_ledger.jsonl``: what a model has been made to forget so far, one line an event, chained by digests.

Each line is a JSON object with sorted keys whose ``previous`` is the SHA-256 of the line before, as in a hash chain
(Haber and Stornetta 1991, doi:10.1007/BF00196791). It holds counts, names, and digests keyed with the owner's key: no
id, no text, no key. What a chain cannot show by itself, that its last lines were dropped or its last line rewritten,
the report and the weights beside it show; see :func:`~hf_unlearn.publishing.ledger_of_model.ledger_of`. Whoever writes
the whole chain anew lacks the owner's key, and so the seals of its lines (HMAC, RFC 2104).
"""

import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from ..data.request.attempts import AttemptCount
from ..data.request.digests import ForgottenDigests
from ..errors import InputError
from ..files import typed, write_text

LEDGER_FILE = "unlearning_ledger.jsonl"
ADDED = ("margin", "attack", "attacks", "attempts", "seal", "files")
ADDED_TO_DIGESTS = ("types", "form", "found")
HEXADECIMAL = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class LedgerData:
    """The data set that was split; the attributes are those of ``DataSource``."""

    name: str | None
    config: str | None
    split: str | None
    revision: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class LedgerModel:
    """The model that a run started from.

    Attributes:
        name: its Hub id, or the name of its folder.
        commit: on the Hub; None for a folder. It is the commit that the line before led to.
        weights: SHA-256 of each of its safetensors files, by name.
    """

    name: str
    commit: str | None
    weights: dict[str, str]


@dataclass(frozen=True)
class Unlearned:
    """One run.

    Attributes:
        time: UTC, ISO 8601; when its report was made.
        method, road: how; see :class:`~hf_unlearn.evaluation.report.MethodEntry` and ``Road``.
        verdict: the word.
        rows: how many were forgotten.
        ids, ids_found: how many ids, values, positions or rows the request named, and how many the data set had.
        forgotten: what was asked for, as digests, with ids that the data set did not have: they may not come in later.
        requests: a digest of each file of ids that the request came from, sorted.
        dataset: that was split.
        parent: the model it started from.
        weights: SHA-256 of each safetensors file of the result, by name.
        report: SHA-256 of ``unlearning_report.json``.
        key_check: distinguishes a wrong key from an id that was not forgotten.
        software: version of this package.
        previous: SHA-256 of the line before, None on the first.
        margin, attack, attacks: of the verdict; None in lines from before this was noted.
        attempts: which attempt on the same records it was; None where nobody counted.
        files: SHA-256 of each other file that is loaded with the weights, by name; None in lines from before this was
            noted.
        seal: HMAC-SHA256 of the line without it under the owner's key; None in lines from before there were seals.
    """

    event: ClassVar[str] = "unlearned"

    time: str
    method: str
    road: str
    verdict: str
    rows: int
    ids: int
    ids_found: int
    forgotten: list[ForgottenDigests]
    requests: list[str]
    dataset: LedgerData
    parent: LedgerModel | None
    weights: dict[str, str]
    report: str
    key_check: str
    software: str
    previous: str | None = None
    margin: float | None = None
    attack: str | None = None
    attacks: list[str] | None = None
    attempts: AttemptCount | None = None
    files: dict[str, str] | None = None
    seal: str | None = None

    @property
    def checked(self) -> list[str | None]:
        """All in it that has to be a digest."""
        weights = [*self.weights.values(), *(self.parent.weights if self.parent else {}).values()]
        weights += (self.files or {}).values()
        forgotten = [digest for part in self.forgotten for digest in part.digests]
        return [*forgotten, *self.requests, *weights, self.report, self.key_check, self.previous, self.seal]

    @property
    def statement(self) -> str:
        """A digest of all that the line says but what the weights, their files and the report are, by which the report
        names it."""
        later = ("weights", "files", "report", "seal")
        values = {name: value for name, value in _values(self).items() if name not in later}
        # That they were noted is said, so that nobody takes them away.
        noted = {} if self.files is None else {"files": "noted"}
        return digest_of(json.dumps(values | noted, sort_keys=True))

    def sealed(self, key: bytes) -> "Unlearned":
        """The line with its seal."""
        message = f"line of {LEDGER_FILE}\n{line_of(replace(self, seal=None))}"
        return replace(self, seal=hmac.digest(key, message.encode(), "sha256").hex())


@dataclass(frozen=True)
class Erased:
    """The old weights were erased.

    Attributes:
        time: UTC, ISO 8601.
        repo: ``owner/name`` on the Hub.
        report: SHA-256 of ``erasure_report.json``.
        counts: what was erased and what remains, by name.
        previous: SHA-256 of the line before.
    """

    event: ClassVar[str] = "erased"

    time: str
    repo: str
    report: str
    counts: dict[str, int]
    previous: str | None = None

    @property
    def checked(self) -> list[str | None]:
        """All in it that has to be a digest."""
        return [self.report, self.previous]


Event: TypeAlias = Unlearned | Erased
EVENTS: dict[str, type[Unlearned] | type[Erased]] = {kind.event: kind for kind in (Unlearned, Erased)}


@dataclass(frozen=True)
class Ledger:
    """The events of a model and of those it was made from, oldest first."""

    events: tuple[Event, ...] = ()

    @classmethod
    def read(cls, text: str, place: str) -> "Ledger":
        """Read a ledger; raises InputError, which names its place, where the chain does not hold."""
        events: list[Event] = []
        previous = None
        *lines, rest = text.split("\n")
        for number, line in enumerate([*lines, *([rest] if rest else [])], start=1):
            event = _event(line) if number <= len(lines) else None
            if event is None or event.previous != previous:
                raise InputError(
                    f"Line {number} of {LEDGER_FILE} {place} was changed, or lines before it are missing; restore the "
                    "file from its history."
                )
            events.append(event)
            previous = digest_of(line)
        if not events:
            raise InputError(f"{LEDGER_FILE} {place} is empty; restore the file from its history.")
        return cls(tuple(events))

    @property
    def text(self) -> str:
        """The file's content."""
        return "".join(f"{line_of(event)}\n" for event in self.events)

    @property
    def last_line(self) -> str | None:
        """The SHA-256 of the last line, None where there is none."""
        return digest_of(line_of(self.events[-1])) if self.events else None

    @property
    def runs(self) -> list[Unlearned]:
        """The events that made it forget something."""
        return [event for event in self.events if isinstance(event, Unlearned)]

    def with_event(self, event: Event, key: bytes | None = None) -> "Ledger":
        """The ledger with one more line; its ``previous`` is set here, and with the owner's key the seal of a run."""
        event = replace(event, previous=self.last_line)
        return Ledger((*self.events, event.sealed(key) if key is not None and isinstance(event, Unlearned) else event))

    @property
    def unsealed(self) -> int:
        """How many runs have no seal, as those from before there were seals."""
        return sum(run.seal is None for run in self.runs)

    def check_seals(self, key: bytes) -> None:
        """Raise InputError where a seal is not of the owner's key, or is missing after a line that has one."""
        begun = False
        for number, event in enumerate(self.events, start=1):
            if not isinstance(event, Unlearned) or (event.seal is None and not begun):
                continue
            begun = True
            if event.seal is None or not hmac.compare_digest(event.seal, event.sealed(key).seal or ""):
                raise InputError(
                    f"Line {number} of {LEDGER_FILE} was not written with the owner's key: its seal is missing or "
                    "wrong. Restore the file from its history."
                )

    def save(self, folder: Path) -> None:
        """Write it into a folder, all of it or nothing."""
        write_text(folder / LEDGER_FILE, self.text)


def load_ledger(folder: Path) -> Ledger | None:
    """The ledger in a folder, None where there is none; raises InputError when its chain does not hold."""
    path = folder / LEDGER_FILE
    if not path.is_file():
        return None
    return Ledger.read(ledger_text(path), f"in {folder}")


def ledger_text(path: Path) -> str:
    """The content of a ledger, with its line ends as they are; raises InputError when it is no text."""
    try:
        return path.read_bytes().decode("ascii")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a ledger of this package; restore the file from its history.") from None


def line_of(event: Event) -> str:
    """An event as a line of the file: JSON with sorted keys, no blanks, and nothing but ASCII."""
    return json.dumps(_values(event) | {"event": event.event}, sort_keys=True, separators=(",", ":"))


def _values(event: "Event") -> dict[str, Any]:
    """What a line says; what was added later has no place in a line from before."""
    values = {name: value for name, value in asdict(event).items() if value is not None or name not in ADDED}
    for part in values.get("forgotten", []):
        for name in ADDED_TO_DIGESTS:
            if part[name] is None:
                del part[name]
    return values


def digest_of(content: str | bytes) -> str:
    """SHA-256 as 64 hexadecimal characters."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Reading


def _event(line: str) -> Event | None:
    """The event of a line, None where it is not one, written as this package writes it."""
    try:
        values = json.loads(line)
        kind = EVENTS[values.pop("event")]
        event = typed(kind, values)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None
    digests = [text for text in event.checked if text is not None]
    return event if line_of(event) == line and all(HEXADECIMAL.fullmatch(text) for text in digests) else None
