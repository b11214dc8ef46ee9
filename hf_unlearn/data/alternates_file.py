"""The file of alternates: other answers to what S asks, which the method altpo prefers to those of S.

It is private: the first line says what the answers follow from, and each other line holds those to one record of S. It
is written a batch at a time, so that what was finished before a kill need not be written again.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from ..errors import InputError
from ..files import written_privately
from .arrow_tables import AnyDataset
from .format import RecordFormat
from .replacements import asked_and_answered, with_completions

ABOUT = (
    "Answers that a model made up to what the records to forget ask. This file tells what those are about: keep it to "
    "yourself, and delete it once no run needs it."
)


@dataclass(frozen=True)
class AlternatesSettings:
    """What the answers of a file follow from.

    Attributes:
        forget: digest of S, see :func:`forget_digest`.
        records: in S.
        wanted: answers to each of them.
        generator: the public name of the model that writes them.
        weights: digests of its weights by file.
        original: whether it is the original.
        prompt: the template of what it reads.
        seed: of the answers.
        batch_size: sequences written at a time, which the answers depend on.
        loading: how its weights were loaded and computed with.
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
        """What a run notes about them in its settings; S is in the digest of its split."""
        return {name: value for name, value in asdict(self).items() if name != "forget"}


@dataclass(frozen=True)
class AlternatesEntry:
    """Answers that a model made up to what S asks.

    Attributes:
        texts: how many.
        records: to how many records.
        generator: the model.
        original: whether that was the original.
    """

    texts: int
    records: int
    generator: str
    original: bool


@dataclass(frozen=True)
class Alternates:
    """The answers of a file.

    Attributes:
        settings: what they follow from.
        texts: the answers to each record of S.
    """

    settings: AlternatesSettings
    texts: list[list[str]]

    @property
    def entry(self) -> AlternatesEntry:
        """What a report says of them."""
        settings = self.settings
        return AlternatesEntry(sum(map(len, self.texts)), settings.records, settings.generator, settings.original)

    def in_place_of(self, forget: Dataset, form: RecordFormat) -> Dataset:
        """S with each answer in the place of its own: record i with the k-th is the record k n + i of n.

        Where a record has fewer answers than another they begin again, so that each comes as often.

        Args:
            forget: S.
            form: how it is laid out.
        """
        most = max(map(len, self.texts))
        turns = [[texts[turn % len(texts)] for texts in self.texts] for turn in range(most)]
        return concatenate_datasets([with_completions(forget, form, turn) for turn in turns])


def forget_digest(forget: Dataset, form: RecordFormat) -> str:
    """SHA-256 of what the records of S ask and answer, in their order; it stays in the private file."""
    digest = hashlib.sha256()
    for pair in asked_and_answered(forget, form):
        digest.update(json.dumps(pair).encode() + b"\n")
    return digest.hexdigest()


def alternates_to(forget: AnyDataset, form: RecordFormat, path: Path) -> Alternates:
    """Read the answers to the records of S.

    Args:
        forget: S.
        form: how it is laid out.
        path: the file.

    Raises:
        InputError: they are not finished, were written for other records, or a record has none.
    """
    if not isinstance(forget, Dataset):
        raise InputError("Alternates are for records that can be counted; leave dataset_streaming out.")
    found = read_alternates(path)
    if found.settings.forget != forget_digest(forget, form):
        raise InputError(
            f"{path} was written for other records to forget than these; write it anew with `hf-unlearn alternates`."
        )
    if without := sum(not texts for texts in found.texts):
        raise InputError(
            f"{without} of the {len(found.texts)} records to forget have no alternate in {path}; write it anew with "
            "`hf-unlearn alternates` and another --seed, --generator or --alternates_prompt."
        )
    return found


def read_alternates(path: Path) -> Alternates:
    """Read a finished file; raises InputError when it cannot be read, or is not finished."""
    settings, lines = _read(path)
    if len(lines) < settings.records:
        raise InputError(
            f"{path} has alternates to {len(lines)} of {settings.records} records; the same `hf-unlearn alternates` "
            "goes on from there."
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
    """Make a file readable by its owner only, or find how far one is, and cut off what a kill left by half.

    Args:
        path: of the file.
        settings: what its answers follow from.

    Returns:
        How many records it has answers to.

    Raises:
        InputError: it holds something else, or cannot be written.
    """
    try:
        if not path.exists():
            _make(path, settings)
        found, lines = _read(path)
        told, asked = asdict(found), asdict(settings)
        if changed := sorted(name for name in asked if told[name] != asked[name]):
            raise InputError(
                f"{path} holds alternates that were written otherwise ({', '.join(changed)}); name another "
                "--alternates_file or delete it."
            )
        # Those of a batch follow from one seed.
        done = len(lines) if len(lines) == found.records else len(lines) // found.batch_size * found.batch_size
        with path.open("rb+") as file:
            for _ in range(1 + done):
                file.readline()
            file.truncate(file.tell())
    except OSError as error:
        raise InputError(f"Alternates cannot be written to {path}: {error.strerror}.") from None
    return done


def append(path: Path, first: int, texts: list[list[str]]) -> None:
    """Add the answers to some records, of which the first has this number."""
    lines = [{"record": first + i, "alternates": found} for i, found in enumerate(texts)]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _make(path: Path, settings: AlternatesSettings) -> None:
    with written_privately(path) as file:
        file.write(json.dumps({"about": ABOUT, "settings": asdict(settings)}) + "\n")


def _read(path: Path) -> tuple[AlternatesSettings, list[bytes]]:
    """The settings, and the lines of the records that are there as a whole."""
    try:
        first, *lines = path.read_bytes().split(b"\n")[:-1]
        return AlternatesSettings(**json.loads(first)["settings"]), lines
    except OSError as error:
        raise InputError(f"Cannot read the alternates {path}: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise _unreadable(path) from None


def _unreadable(path: Path) -> InputError:
    return InputError(f"{path} is no file of alternates; name one that `hf-unlearn alternates` wrote.")
