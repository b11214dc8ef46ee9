"""A small Hugging Face Hub on localhost, against which the real clients load and push in tests.

The unmodified ``huggingface_hub``, ``transformers``, ``peft`` and ``datasets`` talk to it over HTTP. A repository is
a bare git repository and a push is one commit in it, with LFS pointers for large files, so git itself can tell what
a client did. LFS objects come from a second port, as the Hub keeps them on another host: clients must drop their
token on the way there, and the store refuses a request that carries one.

The clients read ``HF_ENDPOINT`` once, at import: set it (and ``HF_HOME``, ``HF_TOKEN``) before the first import of
any of them, or run them in a subprocess. ``HF_HUB_DISABLE_XET=1`` is needed too: with ``hf_xet`` installed, a client
uploads to Xet storage only and never asks for LFS. ``HF_UPDATE_DOWNLOAD_COUNTS=0`` keeps ``datasets`` from announcing
each load to another host; it also looks for the host ``datasets-server.127.0.0.1`` and does well without it.

Without that switch the server must have a ``xet_dir``: clients then keep the contents of large files in that folder,
with the released ``hf_xet`` in its own test mode, one process at a time.

Covered: model and dataset repositories, public, private and gated; tokens that may write or only read or are expired;
cards, commits, branches, tags, history, listings, downloads; and whatever fails, by :meth:`HubServer.fail`. Not
covered: multipart LFS, pull requests, organizations, .gitignore rules, paging (a listing is one page), search,
repository settings and renaming. Of the Hub's rules for card metadata only the plainest are checked. Bodies are held
in memory: keep the files small.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import yaml

from .hub_http import Call, Fault, HubError, Listener, Reply, json_reply

LFS_THRESHOLD = 10_000  # bytes; the Hub's is 10 MB, which test files do not reach
LFS_SUFFIXES = (".bin", ".gguf", ".npz", ".parquet", ".pt", ".pth", ".safetensors")
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
REVISION = re.compile(r"\w[\w.+/-]*")  # without git's operators (~ ^ : @), which are no business of a client


# --- Repositories on disk -------------------------------------------------------------------------------------------


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
        self._trees: dict[str, dict[str, Entry]] = {}
        for folder in (self.git_dir, self.lfs_dir):
            folder.mkdir(parents=True)
        self.git("init", "--bare", "--quiet", "--template=", "--initial-branch=main")

    def git(self, *args: str, stdin: bytes = b"", user: str = "hub") -> bytes:
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC", "GIT_DIR": str(self.git_dir)}
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

    def refs(self) -> dict[str, str]:
        """The commit of every branch and tag, by full name (refs/heads/main)."""
        form = "--format=%(refname) %(objectname) %(*objectname)"  # the second id: of what a tag object points to
        lines = self.git("for-each-ref", form, "refs/heads", "refs/tags").decode().splitlines()
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

    def commit(self, branch: str, message: str, user: str, changes: Iterable[tuple[str, bytes | None]]) -> str:
        """Add one commit to a branch; a change without content deletes the file or folder."""

        def data(content: bytes) -> bytes:
            return b"data %d\n%s\n" % (len(content), content)

        ref, signature = f"refs/heads/{branch}", f"{user} <{user}@hub.invalid> {int(time.time())} +0000"
        stream = f"commit {ref}\nauthor {signature}\ncommitter {signature}\n".encode() + data(message.encode())
        if ref in self.refs():
            stream += f"from {ref}^0\n".encode()
        for path, content in changes:
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            if content is None:
                stream += f"D {quoted}\n".encode()
            else:
                stream += f"M 100644 inline {quoted}\n".encode() + data(content)
        self.git("fast-import", "--quiet", stdin=stream)
        return self.resolve(ref)


def xet_files(shard: bytes) -> Iterator[tuple[str, str]]:
    """The SHA-256 and the Xet hash of every file that a shard describes, in records of 48 bytes."""

    def hexadecimal(record: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", record[:32]))

    at = 48  # behind the header
    while not (record := shard[at : at + 48]).startswith(b"\xff" * 32):
        flags, segments = struct.unpack("<II", record[32:40])
        # The segments, as many records that verify them if the first bit is set, and that of the SHA-256.
        at += 48 * (1 + segments * (2 if flags >> 31 else 1))
        yield hexadecimal(shard[at : at + 48]), hexadecimal(record)
        at += 48


def card_metadata(readme: str) -> dict[str, Any]:
    """The YAML at the top of a card; ValueError if the Hub would refuse it."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    try:
        card = (yaml.safe_load(block[1]) if block else None) or {}
        for key in ("base_model", "datasets", "language", "library_name", "license", "pipeline_tag", "tags"):
            values = card.get(key)
            values = values if isinstance(values, list) else [] if values is None else [values]
            if not all(isinstance(value, str) for value in values):  # `language: no` is a boolean in YAML
                raise ValueError(f'"{key}" must be a string or a list of strings')
        for result in [result for model in card.get("model-index") or [] for result in model["results"]]:
            _ = result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
            _ = [(metric["type"], metric["value"]) for metric in result["metrics"]]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Invalid or incomplete YAML: {error!r}") from error
    return card


# --- Routes ---------------------------------------------------------------------------------------------------------


ROUTES: list[tuple[str, re.Pattern[str], bool, Callable[[HubServer, Call], Any]]] = []
NAME = r"[A-Za-z0-9][\w.-]*"  # of a user or a repository; both become folder names
REPO = rf"(?P<repo>{NAME}/{NAME})"
API = rf"/api/(?P<kind>model|dataset)s/{REPO}"
PAGE = rf"/(?:(?P<kind>dataset)s/)?{REPO}"
REV = r"(?P<rev>[^/]+)"  # a slash in a revision is sent quoted, one in a file's path not always
PATH = r"(?P<path>.+)"


def route(method: str, path: str, write: bool = False) -> Callable[[Callable], Callable]:
    """Let the decorated method answer: with a Reply, or with what is to be sent as JSON.

    By then the repository and the revision exist, and the user may see them (with ``write``: push to them).
    """

    def register(handler: Callable) -> Callable:
        ROUTES.append((method, re.compile(path), write, handler))
        return handler

    return register


def is_true(values: list[str] | None) -> bool:
    return values is not None and values[0].lower() in ("1", "true")


class HubServer:
    """The Hub at ``url`` and its object store at ``store_url``, with its repositories under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.requests: list[tuple[str, str, bool]] = []  # method, path, whether it had an Authorization header
        self.store_requests: list[tuple[str, str, bool]] = []
        self.faults: list[Fault] = []
        self.xet_dir: Path | None = None
        self._tokens: dict[str, tuple[str, str]] = {}
        self._gated: dict[tuple[str, str], set[str]] = {}
        self._repos: dict[tuple[str, str], Repo] = {}
        self._lock = threading.Lock()
        self._listeners = [Listener(answer, self.faults) for answer in (self._answer, self._answer_store)]
        self.url, self.store_url = (listener.url for listener in self._listeners)

    def add_token(self, token: str, user: str, role: str = "write") -> None:
        self._tokens[token] = (user, role)

    def gate(self, repo_id: str, *users: str, repo_type: str = "model") -> None:
        """Let everybody see that a repository is there, but only its owner and these users read its files."""
        self._gated[repo_type, repo_id] = {repo_id.split("/")[0], *users}

    def fail(
        self,
        pattern: str,
        status: int | None = None,
        *,
        code: str = "",
        headers: dict[str, str] | None = None,
        times: int = 1,
        **more: Any,
    ) -> Fault:
        """Let the next requests fail whose "METHOD /path" the pattern is found in, on the Hub or at its store.

        Args:
            pattern: a regular expression.
            status: what to answer; None for a fault that is none of the answer.
            code: the X-Error-Code, from which most clients take what is wrong.
            headers: of the answer.
            times: how often; -1 for ever.
            more: other fields of :class:`~.hub_http.Fault`.
        """
        reply = None if status is None else HubError(status, "it was asked to fail", code).reply
        if reply is not None:
            reply.headers |= headers or {}
        self.faults.append(Fault(re.compile(pattern), times, reply, **more))
        return self.faults[-1]

    def git_dir(self, repo_id: str, repo_type: str = "model") -> Path:
        return self._repos[repo_type, repo_id].git_dir

    def start(self) -> HubServer:
        for listener in self._listeners:
            listener.start()
        return self

    def stop(self) -> None:
        for listener in self._listeners:
            listener.stop()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # Who may do what

    def _answer(self, call: Call) -> Reply:
        self.requests.append((call.method, call.path, "Authorization" in call.headers))
        token = call.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self._tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        if self._tokens.get(token, ("", ""))[1] == "expired":
            # Over https the clients take this for a repository that is not there; over http only with that code.
            raise HubError(401, 'User Access Token "test token" is expired', "RepoNotFound")
        call.user, call.role = self._tokens.get(token, ("", ""))
        method = "GET" if call.method == "HEAD" else call.method
        for route_method, pattern, write, handler in ROUTES:
            if route_method == method and (match := pattern.fullmatch(call.path)):
                call.args = {name: unquote(value) for name, value in match.groupdict().items() if value}
                with self._lock:  # one at a time: a commit must not move the branch on which another one builds
                    self._authorize(call, write)
                    answer = handler(self, call)
                return answer if isinstance(answer, Reply) else json_reply(answer)
        raise HubError(404, f"Not part of this test server: {call.method} {call.path}")

    def _authorize(self, call: Call, write: bool) -> None:
        if "repo" in call.args:
            call.repo = self._visible_repo(call, call.args.get("kind", "model"), call.args["repo"])
            call.commit = call.repo.resolve(call.args.get("rev", "main"))
            reads = "path" in call.args or "auth-check" in call.path
            if reads and call.user not in self._gated.get((call.repo.kind, call.repo.id), {call.user}):
                raise HubError(403 if call.user else 401, f"Access to {call.repo.id} is restricted", "GatedRepo")
        if write:
            self._authorize_write(call, call.repo.id.split("/")[0] if "repo" in call.args else call.user)

    def _visible_repo(self, call: Call, kind: str, repo_id: str) -> Repo:
        repo = self._repos.get((kind, repo_id))
        if repo is None or (repo.private and call.user != repo_id.split("/")[0]):  # not to be told apart
            raise HubError(404 if call.user else 401, "Repository not found", "RepoNotFound")
        return repo

    def _authorize_write(self, call: Call, namespace: str) -> None:
        if not call.user:
            raise HubError(401, "Invalid username or password.")
        if call.role != "write" or call.user != namespace:
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")

    # Accounts, repositories and cards

    @route("GET", "/api/whoami-v2")
    def _whoami(self, call: Call) -> Any:
        if not call.user:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "test token", "role": call.role}
        return {"type": "user", "name": call.user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    @route("POST", "/api/repos/create", write=True)
    def _create_repo(self, call: Call) -> Any:
        asked = call.json()
        kind, namespace = asked.get("type") or "model", asked.get("organization") or call.user
        repo_id = f"{namespace}/{asked['name']}"
        self._authorize_write(call, namespace)
        if kind not in ("model", "dataset") or not re.fullmatch(REPO, repo_id):
            raise HubError(400, f"Cannot create a {kind} named {repo_id!r}")
        if repo := self._repos.get((kind, repo_id)):
            raise HubError(409, f"You already created this {kind} repo", url=self.url + repo.url_path)
        private = asked.get("visibility", "private" if asked.get("private") else "public") != "public"
        repo = self._repos[kind, repo_id] = Repo(self.root, kind, repo_id, private)
        repo.commit("main", "initial commit\n", call.user, [(".gitattributes", GIT_ATTRIBUTES)])
        return {"url": self.url + repo.url_path}

    @route("DELETE", "/api/repos/delete", write=True)
    def _delete_repo(self, call: Call) -> Any:
        asked = call.json()
        namespace = asked.get("organization") or call.user
        repo = self._visible_repo(call, asked.get("type") or "model", f"{namespace}/{asked['name']}")
        self._authorize_write(call, namespace)
        del self._repos[repo.kind, repo.id]
        for folder in (repo.git_dir, repo.lfs_dir):
            shutil.rmtree(folder)
        return {}

    @route("POST", "/api/validate-yaml")
    def _validate_card(self, call: Call) -> Any:
        try:
            card = card_metadata(call.json()["content"])
        except ValueError as error:
            return json_reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return {"errors": [], "warnings": [] if card else [{"message": "empty or missing yaml metadata in repo card"}]}

    @route("GET", rf"{API}(?:/revision/{REV})?")
    def _repo_info(self, call: Call) -> Any:
        repo, entries = call.repo, call.repo.tree(call.commit)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in entries if entries[path].type == "file"]
        if is_true(call.query.get("blobs")):
            for sibling in siblings:
                entry = entries[sibling["rfilename"]]
                sibling |= {"size": entry.size, "blobId": entry.oid}
                sibling |= {"lfs": entry.lfs("sha256")} if entry.sha256 else {}
        readme = entries.get("README.md")
        card = card_metadata(repo.blobs([readme.oid])[0].decode()) if readme else {}
        info = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if card.get(key)}
        info |= {"id": repo.id, "author": repo.id.split("/")[0], "private": repo.private, "gated": False}
        info |= {"sha": call.commit, "lastModified": repo.log(call.commit, "-1")[0]["date"]}
        info |= {"tags": card.get("tags") or [], "cardData": card, "siblings": siblings}
        return {key: info[key] for key in info if key in {"id", *call.query.get("expand", info)}}

    @route("GET", rf"{API}/auth-check")
    @route("GET", rf"{API}/auth-check/write", write=True)
    def _auth_check(self, call: Call) -> Any:
        return {}

    # Files

    @route("GET", rf"{API}/tree/{REV}(?:/{PATH})?")
    def _list_tree(self, call: Call) -> Any:
        entries, top = call.repo.tree(call.commit), call.args.get("path", "")
        if top and top not in entries:
            raise HubError(404, f"{top} does not exist", "EntryNotFound", commit=call.commit)
        found = [entry for path, entry in entries.items() if not top or path.startswith(f"{top}/")]
        if not is_true(call.query.get("recursive")):
            found = [entry for entry in found if "/" not in entry.path.removeprefix(f"{top}/")]
        return self._describe(call, found, is_true(call.query.get("expand")))

    @route("POST", rf"{API}/paths-info/{REV}")
    def _paths_info(self, call: Call) -> Any:
        form, entries = parse_qs(call.body.decode()), call.repo.tree(call.commit)
        found = [entries[path] for path in form.get("paths", []) if path in entries]
        return self._describe(call, found, is_true(form.get("expand")))

    def _describe(self, call: Call, entries: list[Entry], expand: bool) -> list[dict[str, Any]]:
        described = []
        for entry in entries:
            described.append({"type": entry.type, "path": entry.path, "oid": entry.oid, "size": entry.size})
            if entry.sha256:
                described[-1]["lfs"] = entry.lfs("oid")
            if xet_hash := self._xet_hashes().get(entry.sha256):
                described[-1]["xetHash"] = xet_hash
            if expand:
                described[-1]["lastCommit"] = call.repo.log(call.commit, "-1", path=entry.path)[0]
        return described

    @route("GET", rf"{PAGE}/resolve/{REV}/{PATH}")
    def _resolve(self, call: Call) -> Any:
        entry = call.repo.tree(call.commit).get(call.args["path"])
        if entry is None or entry.type != "file":
            raise HubError(404, "Entry not found", "EntryNotFound", commit=call.commit)
        headers = {"X-Repo-Commit": call.commit}
        if not entry.sha256:
            return Reply(200, call.repo.blobs([entry.oid])[0], headers | {"ETag": f'"{entry.oid}"'})
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if xet_hash := self._xet_hashes().get(entry.sha256):
            token_url = f"{self.url}/api/{call.repo.kind}s/{call.repo.id}/xet-read-token/{call.commit}"
            headers |= {"X-Xet-Hash": xet_hash, "Link": f'<{token_url}>; rel="xet-auth"'}
        return Reply(302, headers=headers | {"Location": self._store_link(call.repo, entry.sha256)})

    # Pushing

    @route("POST", rf"{API}/preupload/{REV}", write=True)
    def _preupload(self, call: Call) -> Any:
        entries, files = call.repo.tree(call.commit), []
        for asked in call.json()["files"]:
            path = asked["path"]
            # A card stays in git, whatever its size: the Hub reads it, and refuses the commit if it is not valid.
            large = asked["size"] >= LFS_THRESHOLD and path != "README.md"
            lfs = large or path.endswith(LFS_SUFFIXES) or b"\0" in base64.b64decode(asked["sample"])
            files.append({"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False})
            if path in entries:  # lets the client skip a file that has not changed
                files[-1]["oid"] = entries[path].sha256 or entries[path].oid
        return {"files": files}

    @route("POST", rf"{PAGE}\.git/info/lfs/objects/batch", write=True)
    def _lfs_batch(self, call: Call) -> Any:
        objects = []
        for asked in call.json()["objects"]:
            objects.append({"oid": asked["oid"], "size": asked["size"]})
            if not self._lfs_object(call.repo, asked["oid"]).exists():  # else no action: there is nothing to send
                upload = {"href": self._store_link(call.repo, asked["oid"])}
                verify = {"href": f"{self.url}{call.repo.url_path}.git/info/lfs/verify"}
                objects[-1]["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @route("POST", rf"{PAGE}\.git/info/lfs/verify", write=True)
    def _lfs_verify(self, call: Call) -> Any:
        stored = self._lfs_object(call.repo, call.json()["oid"])
        if not stored.exists() or stored.stat().st_size != call.json()["size"]:
            raise HubError(422, f"LFS object {stored.name} was not received")
        return {}

    @route("POST", rf"{API}/commit/{REV}", write=True)
    def _commit(self, call: Call) -> Any:
        repo, branch, lines = call.repo, call.args["rev"], [json.loads(line) for line in call.body.splitlines()]
        if f"refs/heads/{branch}" not in repo.refs() or "create_pr" in call.query:
            raise HubError(400, f"{branch!r} is not a branch, or a pull request is asked for")
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", call.commit) != call.commit:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        changes = [self._change(call, line["key"], line["value"]) for line in lines if line["key"] != "header"]
        message = f"{header['summary']}\n\n{header.get('description') or ''}".strip() + "\n"
        oid = repo.commit(branch, message, call.user, changes)
        return {"commitOid": oid, "commitUrl": f"{self.url}{repo.url_path}/commit/{oid}"}

    def _change(self, call: Call, key: str, value: dict[str, Any]) -> tuple[str, bytes | None]:
        """One line of a commit request: the path and its new content, None to delete it."""
        path = value["path"].removesuffix("/")
        if not {"", ".", "..", ".git"}.isdisjoint(path.lower().split("/")):
            raise HubError(400, f"Invalid path: {path!r}")
        if key in ("deletedFile", "deletedFolder"):
            entry = call.repo.tree(call.commit).get(path)
            if entry is None or entry.type != ("file" if key == "deletedFile" else "directory"):
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            return path, None
        if key == "lfsFile":
            stored = self._lfs_object(call.repo, value["oid"])
            if not stored.exists() and stored.name not in self._xet_hashes():
                raise HubError(400, f"LFS object {stored.name} of {path} was not uploaded")
            pointer = f"oid sha256:{stored.name}\nsize {value['size']}\n"
            return path, f"version https://git-lfs.github.com/spec/v1\n{pointer}".encode()
        content = base64.b64decode(value["content"])
        if path == "README.md":
            try:
                card_metadata(content.decode())
            except ValueError as error:
                raise HubError(400, f"Invalid metadata in README.md: {error}") from error
        return path, content

    # History

    @route("GET", rf"{API}/commits/{REV}")
    def _list_commits(self, call: Call) -> Any:
        return call.repo.log(call.commit)

    @route("GET", rf"{API}/refs")
    def _list_refs(self, call: Call) -> Any:
        refs: dict[str, list[dict[str, str]]] = {"heads": [], "tags": []}
        for ref, commit in call.repo.refs().items():
            _, group, name = ref.split("/", 2)
            refs[group].append({"name": name, "ref": ref, "targetCommit": commit})
        return {"branches": refs["heads"], "tags": refs["tags"], "converts": [], "pullRequests": []}

    @route("POST", rf"{API}/branch/(?P<branch>[^/]+)", write=True)
    @route("POST", rf"{API}/tag/{REV}", write=True)
    def _create_ref(self, call: Call) -> Any:
        asked, repo = call.json(), call.repo
        if "branch" in call.args:
            name, commit = call.args["branch"], repo.resolve(asked.get("startingPoint") or "main")
        else:
            name, commit = asked["tag"], call.commit
        ref = f"refs/{'heads' if 'branch' in call.args else 'tags'}/{name}"
        if ref in repo.refs():
            raise HubError(409, f"Reference already exists: {ref}")
        try:
            if not REVISION.fullmatch(name) or name.startswith("refs/"):
                raise ValueError(name)
            if asked.get("message"):
                repo.git("tag", "--annotate", "--message", asked["message"], name, commit, user=call.user)
            else:
                repo.git("update-ref", ref, commit)
        except (RuntimeError, ValueError) as error:
            raise HubError(400, f"Invalid reference name: {name!r}") from error
        return {}

    @route("DELETE", rf"{API}/(?P<group>branch|tag)/(?P<name>[^/]+)", write=True)
    def _delete_ref(self, call: Call) -> Any:
        ref = f"refs/{'heads' if call.args['group'] == 'branch' else 'tags'}/{call.args['name']}"
        if ref == "refs/heads/main":
            raise HubError(403, "The main branch cannot be deleted")
        if ref not in call.repo.refs():
            raise HubError(404, f"{ref} does not exist", "RevisionNotFound")
        call.repo.git("update-ref", "-d", ref)
        return {}

    # Xet

    @route("GET", rf"{API}/xet-read-token/{REV}")
    @route("GET", rf"{API}/xet-write-token/{REV}", write=True)
    def _xet_token(self, call: Call) -> Any:
        if self.xet_dir is None:
            raise HubError(404, "This server has no xet_dir")
        reply = json_reply({"casUrl": f"local://{self.xet_dir}", "accessToken": "xet", "exp": int(time.time()) + 3600})
        names = {"casUrl": "X-Xet-Cas-Url", "accessToken": "X-Xet-Access-Token", "exp": "X-Xet-Token-Expiration"}
        reply.headers |= {names[name]: str(value) for name, value in json.loads(reply.body).items()}
        return reply

    def _xet_hashes(self) -> dict[str, str]:
        """The Xet hash of every content in the folder, by its SHA-256."""
        shards = self.xet_dir.glob("xet/xorbs/shards/*.mdb") if self.xet_dir is not None else ()
        return {sha256: xet_hash for shard in shards for sha256, xet_hash in xet_files(shard.read_bytes())}

    # The object store

    def _lfs_object(self, repo: Repo, oid: str) -> Path:
        if not re.fullmatch("[0-9a-f]{64}", oid):
            raise HubError(422, f"Not a SHA-256: {oid!r}")
        return repo.lfs_dir / oid

    def _store_link(self, repo: Repo, oid: str) -> str:
        return f"{self.store_url}/{repo.kind}s/{repo.id}/{oid}"

    def _answer_store(self, call: Call) -> Reply:
        self.store_requests.append((call.method, call.path, "Authorization" in call.headers))
        if "Authorization" in call.headers:
            raise HubError(400, "A token was sent to the object store, which is another host than the Hub")
        match = re.fullmatch(rf"/(?P<kind>model|dataset)s/{REPO}/(?P<oid>[0-9a-f]+)", call.path)
        if match is None or (repo := self._repos.get((match["kind"], match["repo"]))) is None:
            raise HubError(404, "No such object")
        stored = self._lfs_object(repo, match["oid"])
        if call.method == "PUT":
            if hashlib.sha256(call.body).hexdigest() != stored.name:
                raise HubError(400, "The content does not have the SHA-256 under which it was announced")
            partial = stored.with_suffix(f".{secrets.token_hex(4)}")
            partial.write_bytes(call.body)
            partial.replace(stored)
            return Reply()
        if not stored.exists():
            raise HubError(404, "No such object")
        return Reply(200, stored.read_bytes(), {"ETag": f'"{stored.name}"'})
