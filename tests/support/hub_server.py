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
organizations and their members' roles; cards, commits, pull requests, branches, tags, history and its squashing,
listings by pages, models by their tags, downloads, large objects and their deletion; and whatever fails, by
:meth:`HubServer.fail`. What no ref reaches any more is gone at once, unless ``keeps_unreachable`` is set; the Hub
takes some hours. Not covered: multipart LFS, discussions and merging, .gitignore rules, search, repository settings
and renaming. Of the Hub's rules for card metadata only the plainest are checked. Bodies are held in memory: keep the
files small.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from .hub_files import card_metadata, xet_files
from .hub_git import GIT_ATTRIBUTES, LFS_SUFFIXES, Entry, Repo
from .hub_history import HistoryRoutes
from .hub_http import (
    API,
    PAGE,
    PATH,
    REPO,
    REV,
    ROUTES,
    Call,
    Fault,
    HubError,
    Listener,
    Reply,
    is_true,
    json_reply,
    route,
)
from .hub_listing import ListingRoutes

LFS_THRESHOLD = 10_000  # bytes; the Hub's is 10 MB, which test files do not reach


class HubServer(HistoryRoutes, ListingRoutes):
    """The Hub at ``url`` and its object store at ``store_url``, with its repositories under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.requests: list[tuple[str, str, bool]] = []  # method, path, whether it had an Authorization header
        self.store_requests: list[tuple[str, str, bool]] = []
        self.faults: list[Fault] = []
        self.xet_dir: Path | None = None
        self.page_size = 1000
        self.downloads: dict[str, int] = {}  # of each model in the last 30 days; 0 where nothing is said
        self.keeps_unreachable = False
        self._members: dict[str, dict[str, str]] = {}  # the role of each, by organization
        self._tokens: dict[str, tuple[str, str]] = {}
        self._gated: dict[tuple[str, str], set[str]] = {}
        self._repos: dict[tuple[str, str], Repo] = {}
        self._cards: dict[tuple[str, str, str], tuple[dict[str, Any], str]] = {}
        self._lock = threading.Lock()
        self._listeners = [Listener(answer, self.faults) for answer in (self._answer, self._answer_store)]
        self.url, self.store_url = (listener.url for listener in self._listeners)

    def add_token(self, token: str, user: str, role: str = "write") -> None:
        self._tokens[token] = (user, role)

    def add_organization(self, name: str, **members: str) -> None:
        """Make an organization whose members have a role: ``admin``, ``write``, ``contributor`` or ``read``."""
        self._members[name] = members

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

    def duplicate(self, repo_id: str, new_id: str, repo_type: str = "model") -> str:
        """Make another repository that is the same in all but its name, which is returned."""
        old = self._repos[repo_type, repo_id]
        new = self._repos[repo_type, new_id] = Repo(self.root, repo_type, new_id, old.private)
        for source, target in ((old.git_dir, new.git_dir), (old.lfs_dir, new.lfs_dir)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        new.objects, new.pull_requests = dict(old.objects), old.pull_requests
        return new_id

    def rename(self, repo_id: str, new_id: str, repo_type: str = "model") -> None:
        """Call a repository by another name; the old one leads there."""
        repo = self._repos[repo_type, new_id] = self._repos[repo_type, repo_id]
        repo.id, repo.url_path = new_id, repo.url_path.replace(repo_id, new_id)

    def git_dir(self, repo_id: str, repo_type: str = "model") -> Path:
        return self._repos[repo_type, repo_id].git_dir

    def lfs_dir(self, repo_id: str, repo_type: str = "model") -> Path:
        return self._repos[repo_type, repo_id].lfs_dir

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
        if repo is None or (repo.private and not self._role(call, repo_id.split("/")[0])):  # not to be told apart
            raise HubError(404 if call.user else 401, "Repository not found", "RepoNotFound")
        return repo

    def _authorize_write(self, call: Call, namespace: str) -> None:
        if not call.user:
            raise HubError(401, "Invalid username or password.")
        if call.role != "write" or self._role(call, namespace) not in ("admin", "write"):
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")

    def _role(self, call: Call, namespace: str) -> str:
        """What a user may do in a namespace; nothing when empty."""
        return "admin" if call.user == namespace else self._members.get(namespace, {}).get(call.user, "")

    # Accounts, repositories and cards

    @route("GET", "/api/whoami-v2")
    def _whoami(self, call: Call) -> Any:
        if not call.user:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "test token", "role": call.role}
        organizations = [
            {"type": "org", "name": name, "roleInOrg": members[call.user]}
            for name, members in self._members.items()
            if call.user in members
        ]
        auth = {"type": "access_token", "accessToken": token}
        return {"type": "user", "name": call.user, "orgs": organizations, "auth": auth}

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
        repo.commit("refs/heads/main", "initial commit\n", call.user, [(".gitattributes", GIT_ATTRIBUTES)])
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
        return self._page(call, self._describe(call, found, is_true(call.query.get("expand"))))

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
            if xet_hash := self._xet_hash(call.repo, entry.sha256):
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
        if xet_hash := self._xet_hash(call.repo, entry.sha256):
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

    @route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
    def _lfs_batch(self, call: Call) -> Any:
        objects: list[dict[str, Any]] = []
        download = call.json()["operation"] == "download"
        if not download:
            self._authorize_write(call, call.repo.id.split("/")[0])
        for asked in call.json()["objects"]:
            objects.append({"oid": asked["oid"], "size": asked["size"]})
            stored = self._lfs_object(call.repo, asked["oid"]).exists()
            if download and stored:
                objects[-1]["actions"] = {"download": {"href": self._store_link(call.repo, asked["oid"])}}
            elif download:
                objects[-1]["error"] = {"code": 404, "message": "Object does not exist"}
            elif not stored:  # else no action: there is nothing to send
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
        repo, name, lines = call.repo, call.args["rev"], [json.loads(line) for line in call.body.splitlines()]
        ref = name if name.startswith("refs/pr/") else f"refs/heads/{name}"
        if ref not in repo.refs():
            raise HubError(400, f"{name!r} is not a branch")
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", call.commit) != call.commit:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        changes = [self._change(call, line["key"], line["value"]) for line in lines if line["key"] != "header"]
        message = f"{header['summary']}\n\n{header.get('description') or ''}".strip() + "\n"
        if is_true(call.query.get("create_pr")):
            repo.pull_requests += 1
            ref = f"refs/pr/{repo.pull_requests}"
        oid = repo.commit(ref, message, call.user, changes, parent=call.commit)
        page = f"{self.url}{repo.url_path}"
        return {
            "commitOid": oid,
            "commitUrl": f"{page}/commit/{oid}",
            "pullRequestUrl": f"{page}/discussions/{repo.pull_requests}",
        }

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
            call.repo.objects[stored.name] = value["size"], time.time()
            pointer = f"oid sha256:{stored.name}\nsize {value['size']}\n"
            return path, f"version https://git-lfs.github.com/spec/v1\n{pointer}".encode()
        content = base64.b64decode(value["content"])
        if path == "README.md":
            try:
                card_metadata(content.decode())
            except ValueError as error:
                raise HubError(400, f"Invalid metadata in README.md: {error}") from error
        return path, content

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

    def _xet_hash(self, repo: Repo, sha256: str) -> str | None:
        return self._xet_hashes().get(sha256) if sha256 in repo.objects else None

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
