"""One repository on the Hub, whose past is read and deleted: every request of an erasure goes through here."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, cast
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import DatasetInfo, GitRefInfo, LFSFileInfo, ModelInfo, RepoFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..hub_access import Patience, Result

RepoType = Literal["model", "dataset"]
MAIN = "refs/heads/main"

LONGEST_WAIT = 3600  # seconds in all; a history of a thousand commits takes more requests than five minutes allow
BATCH_OBJECTS = 500  # large files that one request deletes or asks for
GONE = (404, 410)


@dataclass(frozen=True)
class HubFile:
    """A file of a commit.

    Attributes:
        oid: git's id of its content.
        size: bytes.
        sha256: of its content when it is stored as a large file (LFS or Xet), else None.
    """

    oid: str
    size: int
    sha256: str | None


class HubRepo:
    """A repository on the Hub; it can do nothing to another one."""

    def __init__(self, repo_id: str, repo_type: RepoType, token: str | None = None) -> None:
        """Name it; the token is that of ``hf auth login`` or ``HF_TOKEN`` when None."""
        self.id, self.type = repo_id, repo_type
        self._api = HfApi(token=token)
        self._patiently = Patience(LONGEST_WAIT)
        self.page = f"{self._api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"

    # Who, and what there is

    def whoami(self) -> dict:
        """Whose the token is."""
        return self._patiently(self._api.whoami)

    def identity(self) -> tuple[str, datetime | None]:
        """The name under which the Hub knows it, another one after a renaming, and when it was created."""
        info = cast(ModelInfo | DatasetInfo, self._ask(self._api.repo_info))
        return info.id, info.created_at

    def require_writable(self) -> None:
        """Let the Hub refuse if the token may not write."""
        self._ask(self._api.auth_check, write=True)

    def targets(self) -> dict[str, str]:
        """The commits of all refs, by the full names of these."""
        return {ref.ref: ref.target_commit for ref in self.refs()}

    def refs(self) -> list[GitRefInfo]:
        """Every branch, tag, conversion and pull request."""
        refs = self._ask(self._api.list_repo_refs, include_pull_requests=True)
        return [*refs.branches, *refs.tags, *refs.converts, *(refs.pull_requests or [])]

    def commits(self, revision: str) -> dict[str, datetime]:
        """The commits that a revision reaches and their times, newest first."""
        commits = self._ask(self._api.list_repo_commits, revision=revision)
        return {commit.commit_id: commit.created_at for commit in commits}

    def tree(self, revision: str) -> dict[str, HubFile]:
        """The files of a revision, by path."""
        entries = self._patiently(
            lambda: list(self._api.list_repo_tree(self.id, repo_type=self.type, revision=revision, recursive=True))
        )
        return {
            entry.path: HubFile(entry.blob_id, entry.size, entry.lfs.sha256 if entry.lfs else None)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def tree_if_any(self, revision: str) -> dict[str, HubFile] | None:
        """The files of a revision, None when there is no such revision."""
        try:
            return self.tree(revision)
        except HfHubHTTPError as error:
            if error.response.status_code not in GONE:
                raise
            return None

    def objects(self) -> list[LFSFileInfo]:
        """Every large file that is stored for it, whether a commit points to it or not."""
        return self._patiently(lambda: list(self._api.list_lfs_files(self.id, repo_type=self.type)))

    def read(self, revision: str, path: str) -> bytes:
        """The content of a small file."""

        def get() -> bytes:
            response = get_session().get(self._url(revision, path), headers=self._headers())
            hf_raise_for_status(response)
            return response.content

        return self._patiently(get)

    # Taking away

    def head(self) -> str:
        """The commit of main."""
        return self.targets()[MAIN]

    def commit(self, files: dict[str, str], message: str, parent: str) -> None:
        """Add texts to main in one commit, unless something has come after the parent."""
        operations = [CommitOperationAdd(path, text.encode()) for path, text in files.items()]
        self._ask(self._api.create_commit, operations, commit_message=message, parent_commit=parent)

    def squash(self, branch: str, message: str) -> None:
        """Let a branch have no past."""
        self._ask(self._api.super_squash_history, branch=branch, commit_message=message)

    def delete_ref(self, ref: str) -> bool:
        """Delete a branch, a tag or a conversion, by its full name; returns whether the Hub agreed."""
        name = short_name(ref)
        try:
            if ref.startswith("refs/tags/"):
                self._ask(self._api.delete_tag, tag=name)
            else:
                self._ask(self._api.delete_branch, branch=name)
        except HfHubHTTPError as error:
            status = error.response.status_code
            # The conversions are the Hub's own, and it may keep them to itself.
            if ref.startswith("refs/convert/") and status in (400, 401, 403, *GONE):
                return False
            if status not in GONE:
                raise
        return True

    def delete_objects(self, files: list[LFSFileInfo]) -> None:
        """Delete large files for good, and what points to them in any commit."""
        for start in range(0, len(files), BATCH_OBJECTS):
            self._ask(self._api.permanently_delete_lfs_files, files[start : start + BATCH_OBJECTS])

    # Trying what is left

    def can_be_downloaded(self, revision: str, path: str) -> bool:
        """Whether a file's first byte comes, wherever the Hub keeps it."""
        return self._gives(self._url(revision, path), self._headers())

    def downloadable_objects(self, sizes: dict[str, int]) -> set[str]:
        """Which large files the Hub gives to a client of Git LFS that asks by SHA-256, with sizes in bytes, alone."""
        found, objects = set(), [{"oid": sha256, "size": size} for sha256, size in sizes.items()]
        for start in range(0, len(objects), BATCH_OBJECTS):
            for answer in self._ask_for(objects[start : start + BATCH_OBJECTS]):
                link = answer.get("actions", {}).get("download")
                if link is not None and self._gives(link["href"], link.get("header", {})):
                    found.add(answer["oid"])
        return found

    def _ask_for(self, objects: list[dict]) -> list[dict]:
        """What the Hub answers to Git LFS, https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md."""
        asked = {"operation": "download", "transfers": ["basic"], "hash_algo": "sha256", "objects": objects}
        kind = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}

        def ask() -> list[dict]:
            url = f"{self.page}.git/info/lfs/objects/batch"
            response = get_session().post(url, json=asked, headers=self._headers() | kind)
            hf_raise_for_status(response)
            return response.json()["objects"]

        return self._patiently(ask)

    def _gives(self, url: str, headers: dict[str, str]) -> bool:
        """Whether a request is answered with bytes; raises what the Hub says unless that is that there are none."""

        def first_byte() -> bool:
            with get_session().stream("GET", url, headers=headers | {"Range": "bytes=0-0"}) as response:
                if response.status_code in GONE:
                    return False
                if response.is_error:
                    response.read()
                    hf_raise_for_status(response)
                return any(response.iter_bytes(1))

        return self._patiently(first_byte)

    def _ask(self, method: Callable[..., Result], *values: Any, **options: Any) -> Result:
        """What a method of the API answers about this repository."""
        return self._patiently(partial(method, self.id, *values, repo_type=self.type, **options))

    def _url(self, revision: str, path: str) -> str:
        return f"{self.page}/resolve/{quote(revision, safe='')}/{quote(path)}"

    def _headers(self) -> dict[str, str]:
        return build_hf_headers(token=self._api.token)


def short_name(ref: str) -> str:
    """What a client calls a ref: ``v1`` for ``refs/tags/v1``, and conversions and pull requests in full."""
    for group in ("refs/heads/", "refs/tags/"):
        if ref.startswith(group):
            return ref.removeprefix(group)
    return ref
