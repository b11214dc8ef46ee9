"""A repository in which a model was trained and unlearned, for the tests of erasing, and looks at what is left."""

import subprocess
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session

from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.erase_report import ErasureReport
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.publishing.ledger import LedgerData, LedgerModel, Unlearned, digest_of

from ..conftest import TOKEN
from .hub_server import HubServer

REPORTS = Path(__file__).parent / "cards"
EXACT = (REPORTS / "sms-spam-minilm-base" / "unlearning_report.json").read_bytes()
NOT_FORGOTTEN = (REPORTS / "tofu-forget10-tinystories-fine_tune" / "unlearning_report.json").read_bytes()


def weights(version: str) -> bytes:
    return f"the weights of {version}".encode()


ORIGINAL = {
    "model.safetensors": weights("the original"),
    "optimizer.pt": weights("the optimizer"),
    "checkpoint-5/model.safetensors": weights("a checkpoint"),
    "checkpoint-5/trainer_state.json": b"{}",
    "eval_results.json": b'{"eval_loss": 1.5}',
    "config.json": b"{}",
    "README.md": b"---\nlicense: mit\n---\n# The original\n",
}
UNLEARNED = {
    "model.safetensors": weights("the unlearned model"),
    "unlearning_report.json": EXACT,
    "README.md": b"---\nlicense: mit\n---\n# The unlearned model\n",
}


def push(api: HfApi, repo: str, files: dict[str, bytes], *deleted: str, message: str = "Push", **options: str) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in deleted]
    commit = api.create_commit(repo, operations, commit_message=message, **options)
    return commit.pr_revision if options.get("create_pr") else commit.oid


def make_history(hub: HubServer, repo: str) -> str:
    """Train, train on and unlearn a model in one repository with refs of all kinds; returns its name."""
    api = HfApi(token=TOKEN)
    api.create_repo(repo)
    first = push(api, repo, ORIGINAL)
    api.create_tag(repo, tag="v1")
    api.create_branch(repo, branch="old")
    push(api, repo, {"notes.txt": b"on the original", "model.gguf": weights("a pull request")}, create_pr=True)
    push(api, repo, {"model.safetensors": weights("a later one")})
    push(api, repo, UNLEARNED, "optimizer.pt", "checkpoint-5/", "eval_results.json")
    api.create_branch(repo, branch="stable")
    git = ["git", "--git-dir", str(hub.git_dir(repo))]
    subprocess.run([*git, "update-ref", "refs/convert/parquet", first], check=True)
    return repo


def downloads(revision: str, path: str, repo: str, repo_type: str = "model") -> bool:
    """Whether somebody with a token gets the file, by a request of their own."""
    url = hf_hub_url(repo, path, revision=revision, repo_type=repo_type)
    response = get_session().get(url, headers=build_hf_headers(token=TOKEN))
    assert response.status_code in (200, 404), response.text
    return response.status_code == 200


def history(api: HfApi, repo: str) -> list[str]:
    return [commit.commit_id for commit in api.list_repo_commits(repo)]


def all_refs(api: HfApi, repo: str) -> set[str]:
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    return {ref.ref for ref in (*refs.branches, *refs.tags, *refs.converts, *(refs.pull_requests or []))}


def erased(repo: str, **options: bool) -> ErasureReport:
    hub_repo = HubRepo(repo, "model", TOKEN)
    return erase(hub_repo, plan_erasure(hub_repo, **options))


def unlearned_event(weights: dict[str, str], rows: int = 1) -> Unlearned:
    return Unlearned(
        time="2026-11-28T12:00:00+00:00",
        method="base",
        road="exact",
        verdict="exact",
        rows=rows,
        ids=1,
        ids_found=1,
        forgotten=[],
        requests=["5" * 64],
        dataset=LedgerData("owner/data", None, "train", None, None),
        parent=LedgerModel("owner/original", None, {}),
        weights=weights,
        report=digest_of(EXACT),
        key_check="0" * 64,
        software="0.1.0",
    )
