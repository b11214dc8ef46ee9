"""What was erased and what still answers, as one plain object; ``erasure_report.json`` is this object as JSON."""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from ..errors import InputError
from ..files import json_text, parse_json
from .hub_repository import RepoType

ERASURE_FILE = "erasure_report.json"

ERASURE_VERSION = 1

COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")

SHA256 = re.compile("[0-9a-f]{64}")

Fate = Literal["squashed", "deleted", "kept", "out_of_reach"]

Gives = Literal["large_files", "small_files", "listed", "unknown"]

# What nobody can delete through the Hub's API, whatever is done to the repository itself.
OUT_OF_REACH = (
    "forks, duplicated repositories and models that were derived from it; `hf-unlearn derived` lists some",
    "copies that others downloaded: their caches, clones, mirrors and proxies",
    "links to files that the Hub handed out before, and what its network of caches (CDN) holds, until they expire",
    "chunks of Xet storage that other repositories share with it",
    "backups of the Hub; what nothing points to any more is collected within some 36 hours",
)

GIVES = {
    "large_files": "its large files can still be downloaded",
    "small_files": "its small files can still be read",
    "listed": "the Hub still lists it",
    "unknown": "the Hub did not say",
}


@dataclass(frozen=True)
class OldRef:
    """A branch, tag, conversion or pull request as it was before.

    Attributes:
        name: in full, such as ``refs/heads/main``.
        commit: which it named.
        commits: how many it reached.
        fate: ``squashed``: it keeps its files and loses its past; ``deleted``; ``kept``: it reaches nothing old;
            ``out_of_reach``: a pull request, whose ref only its page on the Hub can delete.
    """

    name: str
    commit: str
    commits: int
    fate: Fate


@dataclass(frozen=True)
class OldCommit:
    """A commit that is to be gone.

    Attributes:
        id: git's.
        file: a path under which it had an old large file, None where it had none.
    """

    id: str
    file: str | None


@dataclass(frozen=True)
class OldObject:
    """A large file (LFS or Xet) that is to be gone.

    Attributes:
        sha256: of its content.
        size: bytes.
        file: a path that it had; empty when nothing points to it.
    """

    sha256: str
    size: int
    file: str


@dataclass(frozen=True)
class Answer:
    """Something old that the Hub still gives.

    Attributes:
        kind: what was asked for.
        name: the ref, the commit or the SHA-256.
        gives: ``large_files``: old weights or data; ``small_files``: only what git itself holds; ``listed``: nothing,
            but the Hub says that it is there; ``unknown``: the Hub neither gave nor denied it.
    """

    kind: Literal["ref", "commit", "object"]
    name: str
    gives: Gives


@dataclass(frozen=True)
class ErasureReport:
    """What an erasure deletes, and, once it is finished, what still answers.

    It is committed to the repository before anything is deleted, so that an interrupted erasure still knows what to
    look for, and again in the end.

    Attributes:
        repo: ``owner/name``.
        repo_type: what it holds.
        verdict: the word of the report beside the weights; None for a data set, or where there is no report.
        started, finished: UTC, ISO 8601; ``finished`` is None until all was tried.
        refs: all that there were.
        commits, objects: what goes.
        still_answers: what was still given when all was tried in the end.
        out_of_reach: what cannot be deleted through the Hub's API, in words.
        software: versions.
        schema_version: 1.
        beside_verdict: the margin and the attacks that the word rests on, in words; empty where nobody says.
    """

    repo: str
    repo_type: RepoType
    verdict: str | None
    started: str
    finished: str | None
    refs: list[OldRef]
    commits: list[OldCommit]
    objects: list[OldObject]
    still_answers: list[Answer]
    software: dict[str, str]
    out_of_reach: list[str] = field(default_factory=lambda: list(OUT_OF_REACH))
    schema_version: int = ERASURE_VERSION
    beside_verdict: str = ""

    @property
    def text(self) -> str:
        """The file's content."""
        return json_text(self)

    @property
    def counts(self) -> dict[str, int]:
        """What went and what remains, in numbers."""
        return {
            "refs_deleted": sum(ref.fate == "deleted" for ref in self.refs),
            "refs_out_of_reach": sum(ref.fate == "out_of_reach" for ref in self.refs),
            "commits": len(self.commits),
            "objects": len(self.objects),
            "bytes": sum(stored.size for stored in self.objects),
            "still_answering": len(self.still_answers),
        }

    @classmethod
    def read(cls, text: str | bytes) -> "ErasureReport":
        """Read the file's content; raises InputError when it is not one."""
        try:
            report = parse_json(cls, text, ERASURE_VERSION)
            report._require_sound()
        except ValueError:
            raise InputError(f"{ERASURE_FILE} cannot be read; delete it and try again.") from None
        return report

    def _require_sound(self) -> None:
        """Raise ValueError for what this package does not write: names from it become part of requests."""
        for time in (self.started, self.finished or self.started):
            datetime.fromisoformat(time)
        paths = [commit.file for commit in self.commits if commit.file is not None]
        sound = (
            all(ref.name.startswith("refs/") for ref in self.refs)
            and all(COMMIT.fullmatch(commit.id) for commit in self.commits)
            and all(SHA256.fullmatch(stored.sha256) and stored.size >= 0 for stored in self.objects)
            and not any({"", ".", ".."} & set(path.split("/")) for path in (*paths, *(ref.name for ref in self.refs)))
        )
        if not sound:
            raise ValueError

    def with_earlier(self, earlier: "ErasureReport") -> "ErasureReport":
        """This report, with what an earlier erasure of the same repository has yet to look for."""
        refs = {ref.name: ref for ref in self.refs}
        for ref in earlier.refs:
            # Some are as they were to be; of others the fate may have changed.
            settled = ref.fate == "squashed" or ref.name not in refs
            refs[ref.name] = ref if settled else replace(ref, fate=refs[ref.name].fate)
        commits = {commit.id: commit for commit in (*self.commits, *earlier.commits)}
        objects = {stored.sha256: stored for stored in (*self.objects, *earlier.objects)}
        return replace(
            self,
            started=earlier.started,
            refs=[refs[name] for name in sorted(refs)],
            commits=[commits[commit] for commit in sorted(commits)],
            objects=[objects[sha256] for sha256 in sorted(objects)],
        )
