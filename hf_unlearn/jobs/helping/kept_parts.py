"""Finished parts of a long command, in files, so that the same command goes on where it was killed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from xxhash import xxh3_128

from ...errors import InputError
from ...files import load_json, save_json, typed

Part = TypeVar("Part")

FOLDER = "finished"  # in the output folder, until the command has ended


@dataclass(frozen=True)
class _Kept:
    """A part and the digest of all that it depends on."""

    key: str
    part: Any


@dataclass(frozen=True)
class KeptParts:
    """Where the finished parts lie, and what they depend on.

    Attributes:
        folder: made with the first part.
        key: a digest of all that the parts depend on; None where nobody knows that, so that nothing is kept.
    """

    folder: Path
    key: str | None

    def of(self, *more: str | None) -> "KeptParts":
        """The parts that depend on more, given as digests; on None nothing can rest."""
        known = [self.key, *more]
        if any(one is None for one in known):
            return KeptParts(self.folder, None)
        return KeptParts(self.folder, xxh3_128(" ".join(map(str, known)).encode()).hexdigest())

    def get(self, name: str, kind: Any, make: Callable[[], Part]) -> Part:
        """A part: that of an earlier time where it is there and rests on the same, else made and kept now.

        Args:
            name: of the part, and of its file.
            kind: its type, a dataclass of :func:`~hf_unlearn.files.typed`, or that or None.
            make: makes it; every process of a launch calls it, or none does.
        """
        place = self.folder / f"{name}.json"
        found: list[Any] = []
        if PartialState().is_main_process and self.key is not None:
            try:
                kept = load_json(_Kept, place, "part")
                found = [typed(kind, kept.part)] if kept.key == self.key else []
            except (InputError, ValueError):
                # It is not there, or of another version.
                found = []
        found = broadcast_object_list([found])[0]
        if found:
            return found[0]
        part = make()
        if PartialState().is_main_process and self.key is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_json(_Kept(self.key, part), place)
        return part
