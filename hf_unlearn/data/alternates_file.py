"""The private file of alternates: other answers to the questions of S, which the method altpo teaches instead.

The first line holds the settings, and each other line the answers to one record of S. The file is written batch by
batch, so that an interrupted command can go on.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..errors import InputError
from ..files import require_file, written_privately
from .arrow_tables import AnyDataset
from .format import RecordFormat
from .replacements import asked_and_answered, with_completions

ABOUT = (
    "Answers that a model invented to the questions of the records to forget. This file shows what those records are "
    "about. Keep it to yourself, and delete it when no run needs it any more."
)


@dataclass(frozen=True)
class AlternatesSettings:
    """What the answers of a file depend on.

    Attributes:
        forget: digest of S, see :func:`forget_digest`.
        records: in S.
        wanted: answers to each of them.
        generator: the public name of the model that writes them.
        weights: digests of its weights by file.
        original: whether it is the original model.
        prompt: the template of what it reads.
        batch_size: sequences written at a time.
        loading: how its weights were loaded, and with what precision it computed.
    """

    forget: str
    records: int
    wanted: int
    generator: str
    weights: dict[str, str]
    original: bool
    prompt: str
    seed: int
    batch_size: int
    loading: dict[str, Any]

    def in_run(self) -> dict[str, Any]:
        """What a run keeps of them in its settings, which hold the digest of S already."""
        return {name: value for name, value in asdict(self).items() if name != "forget"}


@dataclass(frozen=True)
class AlternatesEntry:
    """What a report says of alternates: how many texts to how many records, and which model wrote them."""

    texts: int
    records: int
    generator: str
    original: bool


@dataclass(frozen=True)
class Alternates:
    """The answers of a file: some texts for each record of S."""

    settings: AlternatesSettings
    texts: list[list[str]]

    @property
    def entry(self) -> AlternatesEntry:
        settings = self.settings
        return AlternatesEntry(sum(map(len, self.texts)), settings.records, settings.generator, settings.original)

    def in_place_of(self, forget: Dataset, form: RecordFormat) -> Dataset:
        """S with each answer instead of its own: record i of n with its k-th answer is the record k n + i.

        Where a record has fewer answers than another, its answers begin again.
        """
        most = max(map(len, self.texts))
        turns = [[texts[turn % len(texts)] for texts in self.texts] for turn in range(most)]
        return concatenate_datasets([with_completions(forget, form, turn) for turn in turns])


def forget_digest(forget: Dataset, form: RecordFormat) -> str:
    """SHA-256 of the questions and answers of S in their order, which stays in the private file."""
    digest = hashlib.sha256()
    for pair in asked_and_answered(forget, form):
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def alternates_to(forget: AnyDataset, form: RecordFormat, path: Path) -> Alternates:
    """Read the answers to S; raises InputError when they are for other records, or a record has none."""
    if not isinstance(forget, Dataset):
        raise InputError("Alternates are not possible for a stream; leave out dataset_streaming.")
    found = read_alternates(path)
    if found.settings.forget != forget_digest(forget, form):
        raise InputError(
            f"{path} was written for other records to forget; write it again with `hf-unlearn alternates`."
        )
    if without := sum(not texts for texts in found.texts):
        raise InputError(
            f"{without} of the {len(found.texts)} records to forget have no alternate in {path}; write it again with "
            "`hf-unlearn alternates` and another --seed, --generator or --alternates_prompt."
        )
    return found


def read_alternates(path: Path) -> Alternates:
    """Read a finished file; raises InputError when it cannot be read, or is not finished."""
    settings, lines = _read(path)
    if len(lines) < settings.records:
        raise InputError(
            f"{path} has alternates to {len(lines)} of {settings.records} records; run the same "
            "`hf-unlearn alternates` again to write the others."
        )
    texts = []
    for number, line in enumerate(lines):
        try:
            found = json.loads(line)
            if found["record"] != number or not all(isinstance(text, str) for text in found["alternates"]):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise _unreadable(path) from None
        texts.append(list(found["alternates"]))
    return Alternates(settings, texts)


def begin(path: Path, settings: AlternatesSettings) -> int:
    """Make the file, readable by its owner only, or cut an interrupted one back to its last whole batch.

    Returns how many records it has answers to. Raises InputError when it was written with other settings, or cannot be
    written.
    """
    try:
        if not path.exists():
            with written_privately(path) as file:
                file.write(json.dumps({"about": ABOUT, "settings": asdict(settings)}) + "\n")
        found, lines = _read(path)
        written, asked = asdict(found), asdict(settings)
        if changed := sorted(name for name in asked if written[name] != asked[name]):
            raise InputError(
                f"{path} holds alternates that were written with other settings ({', '.join(changed)}); name another "
                "--alternates_file or delete it."
            )
        # A batch is drawn with one seed, so it is written as a whole.
        done = len(lines) if len(lines) == found.records else len(lines) // found.batch_size * found.batch_size
        with path.open("rb+") as opened:
            for _ in range(1 + done):
                opened.readline()
            opened.truncate(opened.tell())
    except OSError as error:
        raise InputError(f"Alternates cannot be written to {path}: {error.strerror}.") from None
    return done


def append(path: Path, first: int, texts: list[list[str]]) -> None:
    """Add the answers to some records, the first of which has the number ``first``."""
    lines = [{"record": first + i, "alternates": found} for i, found in enumerate(texts)]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _read(path: Path) -> tuple[AlternatesSettings, list[bytes]]:
    """The settings, and the complete lines of records."""
    require_file(path)
    try:
        first, *lines = path.read_bytes().split(b"\n")[:-1]
        return AlternatesSettings(**json.loads(first)["settings"]), lines
    except OSError as error:
        raise InputError(f"Cannot read the alternates {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise _unreadable(path) from None


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path} is no file of alternates; name one that `hf-unlearn alternates` wrote.")
