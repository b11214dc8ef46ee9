"""What was derived from a model on the Hub, over all generations, and what to tell its owners: ``hf-unlearn derived``.

A model is derived from another when its card names that as ``base_model``. For each base the Hub gives it two tags,
``base_model:owner/name`` and one with the relation, ``base_model:adapter:owner/name``, so one listing by the first
finds those of all relations. What names no base, or names one by a name that it no longer has, is not found.
"""

import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, ModelInfo, hf_hub_download
from huggingface_hub.errors import (
    DisabledRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ExpandModelProperty_T

from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..files import load_json
from ..hub_access import Patience, hub_errors, is_repository_name
from ..publishing.card import new_version
from ..publishing.templating import environment

DERIVED_VERSION = 1

MAX_MODELS = 1000  # each takes a request, and the Hub allows so many in five minutes

LONGEST_WAIT = 600  # seconds in all that a search waits because of rate limits

FIELDS: list[ExpandModelProperty_T] = ["author", "createdAt", "downloads", "gated", "lastModified", "private", "tags"]

ADVICE = {
    "finetune": "Fine-tune the new weights on your data, as you did the old ones.",
    "adapter": "Train the adapter again, on top of the new weights. It was fitted to the old ones and always runs on "
    "top of them.",
    "merge": "Merge again, with the new weights in place of the old ones.",
    "quantized": "Quantise the new weights, and replace the old ones with them.",
}

OUTCOMES = {
    "exact": "The new weights never depended on them, for the stage of training that their card names.",
    "not_distinguished": "The attacks that were tried cannot distinguish them from records that the model never saw.",
    "undecided": "The tests could not decide whether the new weights have forgotten them.",
    "not_forgotten": "The measurements show that the new weights still know them.",
    "over_forgotten": "The new weights treat them worse than records never seen, which gives them away.",
}

BASE_TAG = re.compile(r"base_model:(?:(adapter|finetune|merge|quantized):)?([^:]+)")

SHOWN_MODELS = 50  # rows of a table that a person still reads


@dataclass(frozen=True)
class DerivedModel:
    """A model that was made from another.

    Attributes:
        name: its repository.
        owner: the user or organization.
        relation: to its bases: ``adapter``, ``finetune``, ``merge`` or ``quantized``; None where the Hub does not say.
        bases: those of them that are the model that was asked about, or derived from it.
        generation: 1 when it names the model that was asked about, and one more for each model between them.
        created, last_commit: UTC, ISO 8601; None where the Hub does not say.
        before_unlearning: whether its last commit is older than the unlearning; None when one of the dates is unknown.
        downloads: in the last 30 days; None where the Hub does not say.
        access: who may read its files.
        is_unlearned: whether it is the unlearned model itself; what was derived from that is not looked for.
    """

    name: str
    owner: str
    relation: str | None
    bases: list[str]
    generation: int
    created: str | None
    last_commit: str | None
    before_unlearning: bool | None
    downloads: int | None
    access: Literal["public", "gated", "private"]
    is_unlearned: bool


@dataclass(frozen=True)
class UnseenModel:
    """A base that cannot be looked into, because it is private, disabled, deleted or was never there.

    Attributes:
        name: as the cards say.
        named_by: the derived models that name it beside a base through which they were found.
    """

    name: str
    named_by: list[str]


@dataclass(frozen=True)
class DerivedReport:
    """What was derived from a model; ``hf-unlearn derived --output`` writes this object as JSON.

    Attributes:
        model: which model.
        is_visible: whether it can be looked into itself.
        looked_on: when, UTC, ISO 8601.
        unlearned: the repository of the unlearned model, which is ``model`` itself when it was unlearned in place;
            None when unknown.
        unlearned_on: when it was unlearned, UTC, ISO 8601; None when unknown.
        models: what was found, by generation, the most downloaded first.
        unseen: what may be derived from it too, and have more derived from it.
        counted: how many models name this one by the Hub's own count, None when unknown.
        missing: why there may be more, in a sentence; None when nothing is missing.
        schema_version: 1.
    """

    model: str
    is_visible: bool
    looked_on: str
    unlearned: str | None
    unlearned_on: str | None
    models: list[DerivedModel]
    unseen: list[UnseenModel]
    counted: int | None
    missing: str | None
    schema_version: int = DERIVED_VERSION

    @classmethod
    def load(cls, path: Path) -> "DerivedReport":
        """Read a report; raises InputError when there is none or it is of another version."""
        return load_json(cls, path, "list of derived models", DERIVED_VERSION, "make it again")


# The search


def derived_models(
    model: str,
    *,
    unlearned: str | None = None,
    unlearned_on: datetime | None = None,
    token: str | None = None,
    max_models: int = MAX_MODELS,
    watch: Callable[[int, int], None] = lambda looked, found: None,
) -> DerivedReport:
    """Find what was derived from a model on the Hub, breadth first and each model once.

    The model need not be there any more. Private models are found that the token may read. ``watch`` gets after each
    request how many models were visited, and how many are known. When the Hub fails on the way, the report holds what
    was found before. Raises InputError when the Hub failed at once, or knows nothing of such a model.
    """
    api, patiently = HfApi(token=token), Patience(LONGEST_WAIT)
    subject = f"The list of models derived from {model!r}"
    with hub_errors(subject):
        root = _shown(api, patiently, model)
    # Cards may name it as it was called before it was renamed.
    walk = _Walk(api, {model, root.id if root else model}, unlearned, max_models)
    unseen: list[UnseenModel] = []
    missing = None
    try:
        with hub_errors(subject):
            while walk.waiting and not walk.is_full:
                patiently(walk.step)
                watch(walk.looked, len(walk.found))
            unseen = walk.unseen(patiently)
    except InputError as error:
        if not walk.looked:
            raise
        missing = str(error)
    if walk.is_full:
        missing = f"There are more than {max_models:,} models; look for more with --max_models."
    if root is None and not walk.found and missing is None:
        raise InputError(
            f"The Hub shows no model {model!r}, and none that names it as its base; check the name, or log in with "
            "`hf auth login`."
        )
    models = [walk.described(info, unlearned_on) for info in walk.found.values()]
    counts = root.children_model_count if root else None
    return DerivedReport(
        model=model,
        is_visible=root is not None,
        looked_on=datetime.now(UTC).isoformat(timespec="seconds"),
        unlearned=unlearned,
        unlearned_on=_iso(unlearned_on),
        models=sorted(models, key=lambda found: (found.generation, -(found.downloads or 0), found.name)),
        unseen=unseen,
        counted=sum(counts.values()) if isinstance(counts, dict) else None,
        missing=missing,
    )


class _Walk:
    """A search under way: what was found so far, and what has not been looked at."""

    def __init__(self, api: HfApi, roots: set[str], unlearned: str | None, max_models: int) -> None:
        self.api, self.unlearned, self.max_models = api, unlearned, max_models
        self.found: dict[str, ModelInfo] = {}
        self.generations = dict.fromkeys(roots, 0)
        self.waiting = deque(sorted(roots))
        self.looked = 0
        self.is_full = False

    def step(self) -> None:
        """Find the models that name the next one; called again after an error, it goes on."""
        base = self.waiting[0]
        for info in self.api.list_models(filter=f"base_model:{base}", expand=FIELDS, sort="downloads"):
            if info.id in self.generations:
                continue
            if len(self.found) == self.max_models:
                self.is_full = True
                return
            self.found[info.id] = info
            self.generations[info.id] = self.generations[base] + 1
            if info.id != self.unlearned:
                self.waiting.append(info.id)
        self.waiting.popleft()
        self.looked += 1

    def unseen(self, patiently: Patience) -> list[UnseenModel]:
        """The other bases that the models found name, as far as they cannot be looked into."""
        named: dict[str, list[str]] = {}
        for info in self.found.values():
            for base in _bases(info).keys() - self.generations.keys():
                named.setdefault(base, []).append(info.id)
        return [
            UnseenModel(base, sorted(named[base]))
            for base in sorted(named)
            if is_repository_name(base) and _shown(self.api, patiently, base) is None
        ]

    def described(self, info: ModelInfo, unlearned_on: datetime | None) -> DerivedModel:
        bases = {base: relation for base, relation in _bases(info).items() if base in self.generations}
        changed = info.last_modified
        return DerivedModel(
            name=info.id,
            owner=info.author or info.id.split("/")[0],
            relation=next((relation for relation in bases.values() if relation), None),
            bases=sorted(bases.keys() - {info.id}),
            generation=self.generations[info.id],
            created=_iso(info.created_at),
            last_commit=_iso(changed),
            before_unlearning=changed < unlearned_on if changed and unlearned_on else None,
            downloads=info.downloads,
            access="private" if info.private else "gated" if info.gated else "public",
            is_unlearned=info.id == self.unlearned,
        )


def _bases(info: ModelInfo) -> dict[str, str | None]:
    """The bases that a model names, and its relation to each where the Hub says it."""
    bases: dict[str, str | None] = {}
    for tag in info.tags or []:
        if (named := BASE_TAG.fullmatch(tag)) is not None:
            bases[named[2]] = named[1] or bases.get(named[2])
    return bases


def _shown(api: HfApi, patiently: Patience, name: str) -> ModelInfo | None:
    """What the Hub says of a model; None when it shows none of that name."""
    try:
        return patiently(lambda: api.model_info(name, expand=["childrenModelCount"]))
    except (RepositoryNotFoundError, DisabledRepoError):
        return None


def _iso(date: datetime | None) -> str | None:
    return None if date is None else date.astimezone(UTC).isoformat(timespec="seconds")


def messages(found: DerivedReport, report: UnlearningReport) -> str:
    """A text for each owner of a derived model, in Markdown, with no word of what was forgotten."""
    owners: dict[str, list[DerivedModel]] = {}
    for model in found.models:
        if not model.is_unlearned:
            owners.setdefault(model.owner, []).append(model)
    template = environment().get_template("derived_message.md")
    outcome = OUTCOMES.get(report.verdict.word, "")
    return template.render(
        found=found, report=report, outcome=outcome, owners=owners, advice=ADVICE, new_version=new_version
    )


def _unlearning(model: str, unlearned: str | None) -> tuple[str | None, UnlearningReport | None]:
    """The repository of the unlearned model and its report, each None when unknown."""
    place = model if unlearned is None else unlearned
    if unlearned is not None and os.path.isdir(unlearned):
        return None, UnlearningReport.load(Path(unlearned) / REPORT_FILE)
    with hub_errors(f"The model {place!r}"):
        try:
            path = Patience()(lambda: hf_hub_download(place, REPORT_FILE))
        except RemoteEntryNotFoundError:
            if unlearned is not None:
                raise InputError(f"{unlearned} has no {REPORT_FILE}; name the model that was unlearned.") from None
            return None, None
        except RepositoryNotFoundError:
            if unlearned is not None:
                raise
            return None, None
    return place, UnlearningReport.load(Path(path))


def unlearning_date(report: UnlearningReport) -> datetime:
    """When a report was made; raises InputError when it does not say."""
    try:
        date = datetime.fromisoformat(report.created)
    except ValueError:
        raise InputError(f"The report of the unlearning has no date but {report.created[:40]!r}.") from None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
