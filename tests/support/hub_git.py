"""The repositories of the Hub on localhost: git keeps the history, so that git can tell what a client did to it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .hub_http import HubError

LFS_SUFFIXES = (".bin", ".gguf", ".npz", ".parquet", ".pt", ".pth", ".safetensors")
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
REVISION = re.compile(r"\w[\w.+/-]*")  # without git's operators (~ ^ : @), which are no business of a client


class Entry(NamedTuple):
    """A file or a folder of a commit."""

    type: str  # "file" or "directory"
    path: str
    oid: str  # git's object id
    size: int  # of the content, even where git holds only a pointer to it
    sha256: str = ""  # if the content is an LFS object
    pointer_size: int = 0

    def lfs(self, hash_name: str) -> dict[str, Any]:
        return {hash_name: self.sha256, "size": self.size, "pointerSize": self.pointer_size}


class Repo:
    """A bare git repository and the LFS objects that its pointers name."""

    def __init__(self, root: Path, kind: str, repo_id: str, private: bool) -> None:
        self.kind, self.id, self.private = kind, repo_id, private
        self.url_path = f"/{repo_id}" if kind == "model" else f"/{kind}s/{repo_id}"
        self.git_dir, self.lfs_dir = root / "git" / f"{kind}s" / f"{repo_id}.git", root / "lfs" / f"{kind}s" / repo_id
        self.objects: dict[str, tuple[int, float]] = {}  # bytes and time of the push of each, by SHA-256
        self.pull_requests = 0  # opened so far
        self.created = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self._trees: dict[str, dict[str, Entry]] = {}
        for folder in (self.git_dir, self.lfs_dir):
            folder.mkdir(parents=True)
        self.git("init", "--bare", "--quiet", "--template=", "--initial-branch=main")

    def git(self, *args: str, stdin: bytes = b"", user: str = "hub", **environment: str) -> bytes:
        env = environment | {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC", "GIT_DIR": str(self.git_dir)}
        env |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        env |= {"GIT_COMMITTER_NAME": user, "GIT_COMMITTER_EMAIL": f"{user}@hub.invalid"}
        done = subprocess.run(["git", *args], input=stdin, capture_output=True, env=env)
        if done.returncode:
            raise RuntimeError(f"git {args[0]}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def resolve(self, revision: str) -> str:
        """The commit that a branch, a tag or a commit id stands for."""
        try:
            if REVISION.fullmatch(revision):
                return self.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").decode().strip()
        except RuntimeError:
            pass
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def head(self) -> str:
        """The commit of main, without a process for it: a listing asks every repository."""
        return (self.git_dir / "refs" / "heads" / "main").read_text().strip()

    def refs(self) -> dict[str, str]:
        """The commit of every branch, tag, conversion and pull request, by full name (refs/heads/main)."""
        form = "--format=%(refname) %(objectname) %(*objectname)"  # the second id: of what a tag object points to
        lines = self.git("for-each-ref", form).decode().splitlines()
        return {name: oids[-1] for name, *oids in map(str.split, lines)}

    def log(self, commit: str, *options: str, path: str = "") -> list[dict[str, Any]]:
        """The history of a commit (or of one path in it), newest first, as the Hub describes it."""
        options += ("-z", "--format=%H%x1f%an%x1f%cd%x1f%s%x1f%b", "--date=format-local:%Y-%m-%dT%H:%M:%S.000Z")
        output = self.git("--literal-pathspecs", "log", *options, commit, *(["--", path] if path else [])).decode()
        commits = []
        for record in filter(None, output.split("\0")):
            oid, author, date, title, message = record.split("\x1f")
            described = {"id": oid, "title": title, "message": message.strip(), "date": date}
            commits.append({**described, "authors": [{"user": author}]})
        return commits

    def tree(self, commit: str) -> dict[str, Entry]:
        """Every file and folder of a commit, by path."""
        if commit not in self._trees:
            entries = {}
            for line in self.git("ls-tree", "-r", "-t", "-l", "-z", commit).decode().split("\0")[:-1]:
                meta, path = line.split("\t", 1)
                _, kind, oid, size = meta.split()
                folder = kind == "tree"
                entries[path] = Entry("directory" if folder else "file", path, oid, 0 if folder else int(size))
            # A pointer has about 130 bytes.
            small = [entry for entry in entries.values() if entry.type == "file" and entry.size < 200]
            for entry, content in zip(small, self.blobs([entry.oid for entry in small]), strict=True):
                if pointer := LFS_POINTER.fullmatch(content):
                    sha256, real_size = pointer[1].decode(), int(pointer[2])
                    entries[entry.path] = entry._replace(size=real_size, sha256=sha256, pointer_size=len(content))
            self._trees[commit] = entries
        return self._trees[commit]

    def blobs(self, oids: list[str]) -> list[bytes]:
        output = io.BytesIO(self.git("cat-file", "--batch", stdin="".join(f"{oid}\n" for oid in oids).encode()))
        contents = []
        for _ in oids:  # each is answered with "<oid> blob <size>\n<content>\n"
            size = int(output.readline().split()[2])
            contents.append(output.read(size + 1)[:-1])
        return contents

    def commit(
        self, ref: str, message: str, user: str, changes: Iterable[tuple[str, bytes | None]], parent: str | None = None
    ) -> str:
        """Let a ref name a new commit; a change without content deletes the file or folder.

        The commit comes after that which the ref names already, or else after the parent.
        """

        def data(content: bytes) -> bytes:
            return b"data %d\n%s\n" % (len(content), content)

        signature = f"{user} <{user}@hub.invalid> {int(time.time())} +0000"
        stream = f"commit {ref}\nauthor {signature}\ncommitter {signature}\n".encode() + data(message.encode())
        if parent := self.refs().get(ref, parent):
            stream += f"from {parent}\n".encode()
        for path, content in changes:
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            if content is None:
                stream += f"D {quoted}\n".encode()
            else:
                stream += f"M 100644 inline {quoted}\n".encode() + data(content)
        self.git("fast-import", "--quiet", stdin=stream)
        return self.resolve(ref)

    # Taking away

    def squash(self, ref: str, message: str, user: str) -> None:
        """Let a branch name one commit without a past that has the files of its head."""
        author = {"GIT_AUTHOR_NAME": user, "GIT_AUTHOR_EMAIL": f"{user}@hub.invalid"}
        commit = self.git("commit-tree", f"{ref}^{{tree}}", "-m", message, user=user, **author).decode().strip()
        self.git("update-ref", ref, commit)

    def collect_garbage(self) -> None:
        """Lose what no ref reaches, as the Hub does some time after a squash."""
        self.git("repack", "-a", "-d", "-q")
        self.git("prune", "--expire=now")

    def pointers(self) -> dict[str, tuple[str, str]]:
        """The SHA-256 and a path of every LFS object in the history of any ref, by the git object that names it."""
        listed = self.git("rev-list", "--objects", "--all", "--filter=blob:limit=200").decode().splitlines()
        paths = dict(line.split(" ", 1) for line in listed if " " in line)
        described = self.git("cat-file", "--batch-check", stdin="".join(f"{oid}\n" for oid in paths).encode())
        blobs = [oid for oid, kind, _ in map(str.split, described.decode().splitlines()) if kind == "blob"]
        found = {oid: LFS_POINTER.fullmatch(content) for oid, content in zip(blobs, self.blobs(blobs), strict=True)}
        return {oid: (pointer[1].decode(), paths[oid]) for oid, pointer in found.items() if pointer}

    def forget_pointers(self, sha256s: set[str]) -> None:
        """Write the history of every ref anew, without the files that point to these LFS objects."""
        gone = {oid.encode() for oid, (sha256, _) in self.pointers().items() if sha256 in sha256s}
        if not gone:
            return
        lines = io.BytesIO(self.git("fast-export", "--all", "--no-data", "--reencode=no"))
        stream = b""
        for line in lines:
            if line.startswith(b"data "):  # a message, which may look like anything
                line += lines.read(int(line.split()[1]))
            elif line.startswith(b"M ") and line.split(b" ", 3)[2] in gone:
                line = b"D " + line.split(b" ", 3)[3]
            stream += line
        self.git("fast-import", "--quiet", "--force", stdin=stream)
