"""Commits, refs and objects of the Hub on localhost: what its repositories have been, and how that is taken away."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from .hub_git import REVISION
from .hub_http import API, REV, Call, HubError, Reply, json_reply, route


class HistoryRoutes:
    """The part of the Hub that knows the past of its repositories."""

    url: str
    page_size: int
    keeps_unreachable: bool

    def _page(self, call: Call, items: list[dict[str, Any]]) -> Reply:
        """A part of a long answer, with the address of the next part."""
        start, size = (int(call.query.get(name, [other])[0]) for name, other in (("cursor", 0), ("limit", 1000)))
        end = start + min(size, self.page_size)
        reply = json_reply(items[start:end])
        if len(items) > end:
            query = urlencode({**call.query, "cursor": [end]}, doseq=True)
            reply.headers["Link"] = f'<{self.url}{call.path}?{query}>; rel="next"'
        return reply

    @route("GET", rf"{API}/commits/{REV}")
    def _list_commits(self, call: Call) -> Any:
        return self._page(call, call.repo.log(call.commit))

    @route("GET", rf"{API}/refs")
    def _list_refs(self, call: Call) -> Any:
        groups = {"heads": "branches", "tags": "tags", "convert": "converts", "pr": "pullRequests"}
        refs: dict[str, list[dict[str, str]]] = {name: [] for name in groups.values()}
        for ref, commit in call.repo.refs().items():
            _, group, name = ref.split("/", 2)
            described = {"name": ref if group == "pr" else name, "ref": ref, "targetCommit": commit}
            refs[groups[group]].append(described)
        if "include_prs" not in call.query:
            del refs["pullRequests"]
        return refs

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
        if call.args["name"].startswith("refs/convert/"):
            ref = call.args["name"]
        if ref == "refs/heads/main":
            raise HubError(403, "The main branch cannot be deleted")
        if ref not in call.repo.refs():
            raise HubError(404, f"{ref} does not exist", "RevisionNotFound")
        call.repo.git("update-ref", "-d", ref)
        self._collect_garbage(call)
        return {}

    @route("POST", rf"{API}/super-squash/{REV}", write=True)
    def _squash(self, call: Call) -> Any:
        ref = f"refs/heads/{call.args['rev']}"
        if ref not in call.repo.refs():
            raise HubError(400, f"{call.args['rev']!r} is not a branch")
        call.repo.squash(ref, call.json()["message"], call.user)
        self._collect_garbage(call)
        return {}

    def _collect_garbage(self, call: Call) -> None:
        if not self.keeps_unreachable:
            call.repo.collect_garbage()

    # Large objects

    @route("GET", rf"{API}/lfs-files", write=True)
    def _list_objects(self, call: Call) -> Any:
        """Every large object that is stored, also those that no commit points to any more."""
        pointers = {sha256: (oid, path) for oid, (sha256, path) in call.repo.pointers().items()}
        listed = []
        for sha256, (size, pushed) in sorted(call.repo.objects.items()):
            oid, path = pointers.get(sha256, ("0" * 40, ""))
            date = datetime.fromtimestamp(pushed, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            listed.append({"fileOid": sha256, "oid": oid, "filename": path, "size": size, "pushedAt": date})
        return self._page(call, listed)

    @route("POST", rf"{API}/lfs-files/batch", write=True)
    def _delete_objects(self, call: Call) -> Any:
        asked = call.json()["deletions"]
        for sha256 in call.repo.objects.keys() & set(asked["sha"]):
            # Xet's storage keeps the bytes, which other repositories may have too; this one no longer leads to them.
            del call.repo.objects[sha256]
            (call.repo.lfs_dir / sha256).unlink(missing_ok=True)
        if asked["rewriteHistory"]:
            call.repo.forget_pointers(set(asked["sha"]))
            self._collect_garbage(call)
        return {}
