"""What the Hub on localhost tells of its models: each by itself, and all that have a tag."""

from __future__ import annotations

from typing import Any

from .hub_files import card_metadata
from .hub_git import Entry, Repo
from .hub_http import API, REV, Call, HubError, Reply, is_true, route

RELATIONS = ("adapter", "merge", "quantized", "finetune")
EXPANDED = {
    "author", "cardData", "config", "createdAt", "disabled", "downloads", "downloadsAllTime", "evalResults", "gated",
    "gguf", "inference", "inferenceProviderMapping", "lastModified", "library_name", "likes", "mask_token",
    "model-index", "pipeline_tag", "private", "resourceGroup", "safetensors", "sha", "siblings", "spaces", "tags",
    "transformersInfo", "trendingScore", "widgetData", "xetEnabled",
}  # fmt: skip
EXPANDED_ALONE = {"baseModels", "childrenModelCount", "usedStorage"}  # of one model, not in a listing


def as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [] if value is None else [value]


def relation_to_base(card: dict[str, Any], entries: dict[str, Entry]) -> str | None:
    """What a model is to its bases: as its card says, else as its files look."""
    if "base_model_relation" in card:
        said = card["base_model_relation"]
        return said if said in RELATIONS else None
    if card.get("library_name") == "peft" or "adapter_config.json" in entries:
        return "adapter"
    if len(as_list(card.get("base_model"))) > 1 or "merge" in as_list(card.get("tags")):
        return "merge"
    return "quantized" if any(path.endswith(".gguf") for path in entries) else "finetune"


class ListingRoutes:
    """The part of the Hub that describes models."""

    downloads: dict[str, int]
    _repos: dict[tuple[str, str], Repo]
    _gated: dict[tuple[str, str], set[str]]
    _cards: dict[tuple[str, str, str], tuple[dict[str, Any], str]]  # with the commit's date, by commit

    @route("GET", rf"{API}(?:/revision/{REV})?")
    def _repo_info(self, call: Call) -> Any:
        repo, entries = call.repo, call.repo.tree(call.commit)
        asked = set(call.query.get("expand", []))
        self._check_expand(asked, EXPANDED | EXPANDED_ALONE if repo.kind == "model" else asked)
        info = self._described(repo, call.commit)
        if is_true(call.query.get("blobs")):
            for sibling in info["siblings"]:
                entry = entries[sibling["rfilename"]]
                sibling |= {"size": entry.size, "blobId": entry.oid}
                sibling |= {"lfs": entry.lfs("sha256")} if entry.sha256 else {}
        if "baseModels" in asked and (bases := as_list(info["cardData"].get("base_model"))):
            relation = relation_to_base(info["cardData"], entries)
            info["baseModels"] = {"relation": relation, "models": [{"_id": base, "id": base} for base in bases]}
        if "childrenModelCount" in asked:
            tags = [tag for child in self._models() for tag in child["tags"]]
            info["childrenModelCount"] = {name: tags.count(f"base_model:{name}:{repo.id}") for name in RELATIONS}
        return {key: info[key] for key in info if key in {"id", *(asked or info)}}

    @route("GET", "/api/models")
    def _list_models(self, call: Call) -> Reply:
        asked = set(call.query.get("expand", []))
        self._check_expand(asked, EXPANDED)
        wanted = set(call.query.get("filter", []))
        found = [
            info
            for info in self._models()
            if wanted <= set(info["tags"])
            and call.query.get("author", [info["author"]]) == [info["author"]]
            and not (info["private"] and not self._role(call, info["author"]))
        ]
        sort = call.query.get("sort", ["trendingScore"])[0]
        found.sort(key=lambda info: info.get(sort, 0), reverse=True)
        fields = {"id", *(asked or {"private", "tags", "downloads", "createdAt", "library_name", "pipeline_tag"})}
        return self._page(call, [{key: info[key] for key in info if key in fields} for info in found])

    def _check_expand(self, asked: set[str], allowed: set[str]) -> None:
        if asked - allowed:
            raise HubError(400, f"Invalid expand: {', '.join(sorted(asked - allowed))}")

    def _models(self) -> list[dict[str, Any]]:
        return [self._described(repo, repo.head()) for (kind, _), repo in self._repos.items() if kind == "model"]

    def _described(self, repo: Repo, commit: str) -> dict[str, Any]:
        entries = repo.tree(commit)
        if (key := (repo.kind, repo.id, commit)) not in self._cards:
            readme = entries.get("README.md")
            card = card_metadata(repo.blobs([readme.oid])[0].decode()) if readme else {}
            self._cards[key] = card, repo.log(commit, "-1")[0]["date"]
        card, date = self._cards[key]
        info = {key: card[key] for key in ("library_name", "pipeline_tag", "model-index") if card.get(key)}
        info |= {"id": repo.id, "author": repo.id.split("/")[0], "private": repo.private, "sha": commit}
        info |= {"gated": "manual" if (repo.kind, repo.id) in self._gated else False}
        info |= {"createdAt": repo.created, "lastModified": date}
        info |= {"downloads": self.downloads.get(repo.id, 0), "cardData": card}
        info |= {"siblings": [{"rfilename": path} for path in entries if entries[path].type == "file"]}
        return info | {"tags": as_list(card.get("tags")) + self._base_tags(card, entries)}

    def _base_tags(self, card: dict[str, Any], entries: dict[str, Entry]) -> list[str]:
        """For each base one tag with the relation and one without."""
        relation = relation_to_base(card, entries)
        middles = ["", f"{relation}:"] if relation else [""]
        return [f"base_model:{middle}{base}" for base in as_list(card.get("base_model")) for middle in middles]
