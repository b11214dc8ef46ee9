"""What an erasure will delete from a repository on the Hub, found out without changing anything."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub.hf_api import GitRefInfo, LFSFileInfo

from ..errors import InputError
from ..evaluation.report import REPORT_FILE
from ..evaluation.wording import beside_word
from ..models.training_record import software_versions
from ..publishing.ledger import LEDGER_FILE, Ledger
from .erase_report import ERASURE_FILE, ErasureReport, Fate, OldCommit, OldObject, OldRef
from .hub_repository import MAIN, HubFile, HubRepo

ERASABLE = ("exact", "certified", "not_distinguished")
OWN_FILES = (ERASURE_FILE, LEDGER_FILE)
WRITERS = ("admin", "write")
SHARDING_FILE = "sharding.json"  # of a model that is dealt into adapters by owner

WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx", ".pkl", ".pt", ".pth", ".safetensors")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
CHECKPOINTS = ("checkpoint-*", "global_step*")
# Files that say much about the old model or the records beside its weights: an attacker who has them needs no weights.
TRAINING_STATE = ("optimizer*", "scheduler.pt", "rng_state*", "scaler.pt", "trainer_state.json", "training_args.bin")
EVALUATION = (
    "*eval_results*",
    "all_results.json",
    "train_results.json",
    "*predictions*",
    "*generations*",
    "events.out.*",
)


@dataclass(frozen=True)
class ErasurePlan:
    """What is to be done, and what was found on the way.

    Attributes:
        report: what goes, as it will be recorded, together with what an interrupted erasure had found before.
        identity: the name of the repository on the Hub, and when it was created.
        targets: the commits of its refs, by their full names.
        head: the commit of main.
        files: of that commit, without those that an erasure writes.
        fates: of the refs that there are, by their full names.
        staying: the large files that stay: main's, and those of pull requests that were opened on the present model.
        older_commits: how many commits have large files that main no longer has.
        old_files: training states, checkpoints and evaluation files of the old model, by path.
        refusals: why it may not be done, in whole sentences; empty when it may.
        begun: whether the repository records this very plan already.
        finished: the erasure that came before, when there is nothing left to do but to try again what answers.
        ledger: of the repository, None where it has none.
    """

    report: ErasureReport
    identity: tuple[str, datetime | None]
    targets: dict[str, str]
    head: str
    files: dict[str, HubFile]
    fates: dict[str, Fate]
    staying: list[OldObject]
    older_commits: int
    old_files: list[str]
    refusals: list[str]
    begun: bool
    finished: bool
    ledger: Ledger | None


def plan_erasure(repo: HubRepo, *, whatever_the_verdict: bool = False) -> ErasurePlan:
    """Find out what must go from a repository so that only its main branch is left, unlearned or whatever the verdict.

    Raises InputError when it is not the token owner's, or not what its name says.
    """
    identity = _require_owner(repo)
    return _Survey(repo, identity).plan(whatever_the_verdict)


def _require_owner(repo: HubRepo) -> tuple[str, datetime | None]:
    """The repository's identity; raises InputError unless the token's owner may write to it by their own right."""
    me = repo.whoami()
    namespace = repo.id.partition("/")[0]
    roles = {org["name"]: org.get("roleInOrg") for org in me.get("orgs", [])} | {me["name"]: "admin"}
    if namespace not in roles:
        raise InputError(
            f"{repo.id} is not yours: the token belongs to {me['name']}. Log in as an owner with `hf auth login`."
        )
    if roles[namespace] not in WRITERS:
        raise InputError(
            f"{repo.id} belongs to {namespace}, where your role is {roles[namespace]}; it needs the role write."
        )
    name, created = repo.identity()
    if name != repo.id:
        raise InputError(f"{repo.id} is called {name} on the Hub; give it that name.")
    repo.require_writable()
    return name, created


def stated_verdict(report: Any) -> tuple[str, str]:
    """The word of a report of any version, and what stands beside it.

    Raises:
        KeyError, TypeError, ValueError: the JSON values are no report.
    """
    verdict = report["verdict"]
    word = str(verdict["word"])
    return word, beside_word(word, verdict.get("margin"), verdict.get("attacks") or [], verdict.get("attack"))


class _Survey:
    """All that a repository has and had."""

    def __init__(self, repo: HubRepo, identity: tuple[str, datetime | None]) -> None:
        self.repo, self.identity = repo, identity
        self.refs = repo.refs()
        self.head = next(ref.target_commit for ref in self.refs if ref.ref == MAIN)
        self.reached = {ref.ref: repo.commits(ref.target_commit) for ref in self.refs}
        ids = {commit for commits in self.reached.values() for commit in commits}
        self.trees = {commit: repo.tree(commit) for commit in sorted(ids)}
        self.stored = repo.objects()
        self.files = self.trees[self.head]
        self.earlier = ErasureReport.read(repo.read(self.head, ERASURE_FILE)) if ERASURE_FILE in self.files else None
        if self.earlier is not None and (self.earlier.repo, self.earlier.repo_type) != (repo.id, repo.type):
            self.earlier = None  # it came along with a copy of another repository
        self.main = list(self.reached[MAIN])
        self.before, self.fresh = self._past_of_main()

    def plan(self, whatever_the_verdict: bool) -> ErasurePlan:
        (verdict, beside), ledger = self._verdict(), self._ledger()
        fates = {ref.ref: self._fate(ref) for ref in self.refs}
        kept = {commit for ref in self.refs if fates[ref.ref] == "kept" for commit in self.reached[ref.ref]}
        fresh = self.fresh | kept
        staying = {file.sha256 for commit in fresh for file in self.trees[commit].values() if file.sha256}
        self._require_known()
        going = {info.file_oid: info for info in self.stored if info.file_oid not in staying}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        reach = {commit for ref in self.refs if not ref.ref.startswith("refs/pr/") for commit in self.reached[ref.ref]}
        old = sorted(reach - fresh)
        commits = [OldCommit(commit, self._old_file(commit, going)) for commit in old]
        report = ErasureReport(
            repo=self.repo.id,
            repo_type=self.repo.type,
            verdict=verdict,
            beside_verdict=beside,
            started=now,
            finished=None,
            refs=[
                OldRef(ref.ref, ref.target_commit, len(self.reached[ref.ref]), fates[ref.ref])
                for ref in sorted(self.refs, key=lambda ref: ref.ref)
            ],
            commits=commits,
            objects=[self._object(info) for _, info in sorted(going.items())],
            still_answers=[],
            software={"hf_unlearn": software_versions()["hf_unlearn"], "huggingface_hub": huggingface_hub.__version__},
        )
        finished = begun = False
        if self.earlier is not None:
            left_to_do = bool(going) or not {"squashed", "deleted"}.isdisjoint(fates.values())
            finished = self.earlier.finished is not None and not left_to_do
            if finished:
                report = self.earlier
            elif self.earlier.finished is None or self.earlier.still_answers:
                report = report.with_earlier(self.earlier)
                # What main has come back to since is not old any more.
                report = replace(report, objects=[old for old in report.objects if old.sha256 not in staying])
                begun = report == self.earlier
        return ErasurePlan(
            report=report,
            identity=self.identity,
            targets={ref.ref: ref.target_commit for ref in self.refs},
            head=self.head,
            files=present_files(self.files),
            fates=fates,
            staying=[self._object(info) for info in self.stored if info.file_oid in staying],
            older_commits=sum(commit.file is not None for commit in commits),
            old_files=self._old_files(old),
            refusals=self._refusals(verdict, beside, ledger, whatever_the_verdict),
            begun=begun,
            finished=finished,
            ledger=ledger,
        )

    # What becomes of what

    def _past_of_main(self) -> tuple[set[str], set[str]]:
        """The commits of main before it had the present model, and all commits in which nothing is old.

        These have main's files; or they have the report on the present model, no other large files than main, and no
        file of before that main has no more.
        """
        same = {commit for commit in self.trees if self._same_files(commit)}
        report = self.files.get(REPORT_FILE)
        with_report = {commit for commit, files in self.trees.items() if report and files.get(REPORT_FILE) == report}
        since = set(takewhile(lambda commit: commit in with_report, self.main))
        before = set(self.main) - since - same
        here = {file.oid for file in self.files.values()}
        gone = {file.oid for commit in before for file in self.trees[commit].values()} - here

        def has_nothing_old(commit: str) -> bool:
            files = self.trees[commit].values()
            return not any(file.oid in gone or (file.sha256 and file.oid not in here) for file in files)

        return before, same | set(filter(has_nothing_old, with_report))

    def _fate(self, ref: GitRefInfo) -> Fate:
        reached = set(self.reached[ref.ref])
        past = reached & set(self.main)
        if reached <= self.fresh or (past and past <= self.fresh):
            return "kept"
        if ref.ref.startswith("refs/heads/") and self._same_files(ref.target_commit):
            return "squashed"
        if ref.ref.startswith("refs/pr/"):
            return "out_of_reach"
        if ref.ref.startswith("refs/convert/") and self.earlier is not None and self.earlier.finished is not None:
            # The Hub makes it again, from what is left.
            finished = datetime.fromisoformat(self.earlier.finished)
            return "kept" if all(time > finished for time in self.reached[ref.ref].values()) else "deleted"
        return "deleted"

    def _same_files(self, commit: str) -> bool:
        return present_files(self.trees[commit]) == present_files(self.files)

    def _old_file(self, commit: str, going: Collection[str]) -> str | None:
        return next((path for path, file in self.trees[commit].items() if file.sha256 in going), None)

    def _object(self, info: LFSFileInfo) -> OldObject:
        return OldObject(info.file_oid, info.size, info.filename)

    def _require_known(self) -> None:
        """Raise InputError where what main uses is not among what the Hub lists, by whose names it deletes."""
        unknown = {file.sha256 for file in self.files.values() if file.sha256}
        unknown -= {info.file_oid for info in self.stored}
        if unknown:
            raise InputError(
                f"The Hub does not list {len(unknown)} of the large files that {self.repo.id} uses, so it is "
                "unknown what must stay. Nothing is erased; try again later."
            )

    # What to know before

    def _verdict(self) -> tuple[str | None, str]:
        """The word, and what stands beside it."""
        if self.repo.type == "dataset" or REPORT_FILE not in self.files:
            return None, ""
        try:
            return stated_verdict(json.loads(self.repo.read(self.head, REPORT_FILE)))
        except (ValueError, KeyError, TypeError):
            raise InputError(f"The {REPORT_FILE} on the main branch of {self.repo.id} cannot be read.") from None

    def _ledger(self) -> Ledger | None:
        if LEDGER_FILE not in self.files:
            return None
        return Ledger.read(self.repo.read(self.head, LEDGER_FILE).decode(errors="replace"), f"in {self.repo.id}")

    def _refusals(
        self, verdict: str | None, beside: str, ledger: Ledger | None, whatever_the_verdict: bool
    ) -> list[str]:
        refusals = []
        if self.repo.type == "model" and not whatever_the_verdict:
            if verdict is None:
                refusals.append(
                    f"There is no {REPORT_FILE} on the main branch of {self.repo.id}, so nothing says that its model "
                    "has forgotten; push the unlearned model there first, or add --whatever_the_verdict."
                )
            elif verdict not in ERASABLE:
                refusals.append(
                    f"The verdict on the model in {self.repo.id} is {verdict}{beside}, and the old weights would be "
                    "gone; unlearn it by another method first, or add --whatever_the_verdict."
                )
            if ledger is not None and ledger.runs and not self._has_weights(ledger.runs[-1].weights):
                refusals.append(
                    f"The weights on the main branch of {self.repo.id} are not those that its ledger names last; push "
                    "the unlearned model again, or add --whatever_the_verdict."
                )
        if left := self._left_at_head():
            refusals.append(
                f"The main branch of {self.repo.id} still has files of the old model ({_some(left)}), which "
                "would stay; delete them there first (`hf repos delete-files`)."
            )
        return refusals

    def _has_weights(self, digests: Mapping[str, str]) -> bool:
        found = {name: self.files[name].sha256 for name in digests if name in self.files}
        return found.keys() == digests.keys() and all(found[name] in (None, digests[name]) for name in digests)

    def _left_at_head(self) -> list[str]:
        """Weights and training states on main that were there before the unlearned model was."""
        if self.repo.type == "dataset" or REPORT_FILE not in self.files:
            return []
        before = {file.oid for commit in self.before for file in self.trees[commit].values()}
        whole, adapters = "model.safetensors" in self.files, self._adapters()
        return [
            path
            for path, file in self.files.items()
            if file.oid in before and _holds_model(path) and (whole or not SHARD.fullmatch(path))
            if path not in adapters or file.sha256 not in (None, adapters[path])
        ]

    def _adapters(self) -> dict[str, str]:
        """The digests of a sharded model's adapters and checkpoints by path; a deletion leaves most as they were."""
        if SHARDING_FILE not in self.files:
            return {}
        try:
            parts = json.loads(self.repo.read(self.head, SHARDING_FILE))["parts"]
            found = {f"shards/{part['number']:04d}": part["weights"] for part in parts}
            for part in parts:
                for number, one in enumerate(part.get("slices", ()), 1):
                    found[f"shards/{part['number']:04d}/slices/{number:02d}"] = one["weights"]
            return {f"{folder}/adapter_model.safetensors": weights for folder, weights in found.items()}
        except (ValueError, KeyError, TypeError):
            raise InputError(f"The {SHARDING_FILE} on the main branch of {self.repo.id} cannot be read.") from None

    def _old_files(self, old: list[str]) -> list[str]:
        """Training states, checkpoints and evaluation files that go, whole checkpoints by their folder."""
        kept = {file.oid for file in self.files.values()}
        names = set()
        for commit in old:
            for path, file in self.trees[commit].items():
                if file.oid in kept:
                    continue
                folders = PurePosixPath(path).parents
                checkpoint = next((str(f) for f in folders if _matches(f.name, CHECKPOINTS)), None)
                if checkpoint is not None:
                    names.add(f"{checkpoint}/")
                elif _matches(PurePosixPath(path).name, (*TRAINING_STATE, *EVALUATION)):
                    names.add(path)
        return sorted(names)


def present_files(files: Mapping[str, HubFile]) -> dict[str, HubFile]:
    """The files of a commit without those that an erasure itself writes."""
    return {path: file for path, file in files.items() if path not in OWN_FILES}


def _holds_model(path: str) -> bool:
    parts = PurePosixPath(path)
    in_checkpoint = any(_matches(folder.name, CHECKPOINTS) for folder in parts.parents)
    return in_checkpoint or (parts.suffix in WEIGHTS and parts.name != "training_args.bin")


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
