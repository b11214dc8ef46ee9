"""The Hub on localhost forgets as the Hub does: squashing, refs, large objects and who may do what."""

import secrets
import subprocess
from collections.abc import Iterator

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from ..conftest import OTHER_TOKEN, READ_TOKEN, TOKEN
from .hub_server import HubServer


@pytest.fixture
def api(owner: HfApi, hub: HubServer) -> Iterator[HfApi]:
    yield owner
    hub.page_size, hub.keeps_unreachable = 1000, False


@pytest.fixture
def repo(api: HfApi) -> str:
    """A repository with three commits of weights, the first of which has a tag, a branch and a pull request."""
    name = f"owner/server-{secrets.token_hex(4)}"
    api.create_repo(name)
    for version in range(3):
        upload(api, name, version)
        if version == 0:
            api.create_tag(name, tag="v0")
            api.create_branch(name, branch="old")
            api.create_commit(
                name, [CommitOperationAdd("notes.txt", b"notes")], commit_message="Notes", create_pr=True
            )
    return name


def upload(api: HfApi, name: str, version: int) -> None:
    files = {"model.safetensors": b"weights %d" % version, "config.json": b'{"version": %d}' % version}
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.create_commit(name, operations, commit_message=f"Version {version}")


def test_commits_and_objects_come_by_pages(hub: HubServer, api: HfApi, repo: str) -> None:
    hub.page_size = 2
    assert len(api.list_repo_commits(repo)) == 4
    assert len({file.file_oid for file in api.list_lfs_files(repo)}) == 3
    assert {file.filename for file in api.list_lfs_files(repo)} == {"model.safetensors"}
    assert {entry.path for entry in api.list_repo_tree(repo)} == {".gitattributes", "config.json", "model.safetensors"}


def test_a_pull_request_is_a_ref(hub: HubServer, api: HfApi, repo: str) -> None:
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
    assert "notes.txt" in api.list_repo_files(repo, revision="refs/pr/1")
    assert "notes.txt" not in api.list_repo_files(repo)
    assert api.list_repo_refs(repo).pull_requests is None
    api.create_commit(repo, [CommitOperationAdd("more.txt", b"")], commit_message="More", revision="refs/pr/1")
    assert [commit.title for commit in api.list_repo_commits(repo, revision="refs/pr/1")][:2] == ["More", "Notes"]


def test_what_nothing_reaches_after_a_squash_is_gone(hub: HubServer, api: HfApi, repo: str) -> None:
    first, second, head = [commit.commit_id for commit in api.list_repo_commits(repo)][-2::-1]
    tree = list(api.list_repo_tree(repo))
    with pytest.raises(BadRequestError):
        api.super_squash_history(repo, branch="v0")
    api.super_squash_history(repo, commit_message="All of it")
    assert [commit.title for commit in api.list_repo_commits(repo)] == ["All of it"]
    assert list(api.list_repo_tree(repo)) == tree
    for commit in (second, head):
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download(repo, "config.json", revision=commit)
    assert hf_hub_download(repo, "config.json", revision=first), "a tag, a branch and a pull request reach it"
    api.delete_tag(repo, tag="v0")
    api.delete_branch(repo, branch="old")
    assert hf_hub_download(repo, "config.json", revision="refs/pr/1")
    assert len(list(api.list_lfs_files(repo))) == 3, "the storage keeps them"


def test_a_hub_that_keeps_what_nothing_reaches(hub: HubServer, api: HfApi, repo: str) -> None:
    hub.keeps_unreachable = True
    second = api.list_repo_commits(repo)[1].commit_id
    api.super_squash_history(repo)
    assert hf_hub_download(repo, "model.safetensors", revision=second)


@pytest.mark.parametrize("rewrite_history", [True, False])
def test_large_objects_are_deleted(hub: HubServer, api: HfApi, repo: str, rewrite_history: bool) -> None:
    head = {file.lfs.sha256 for file in api.model_info(repo, files_metadata=True).siblings or [] if file.lfs}
    files = list(api.list_lfs_files(repo))
    old = [file for file in files if file.file_oid not in head]
    assert (len(files), len(old)) == (3, 2)
    api.permanently_delete_lfs_files(repo, old, rewrite_history=rewrite_history)
    assert {file.file_oid for file in api.list_lfs_files(repo)} == head
    assert {path.name for path in hub.lfs_dir(repo).iterdir()} == head
    with pytest.raises(HfHubHTTPError, match="404"):
        hf_hub_download(repo, "model.safetensors", revision="v0", force_download=True)
    assert hf_hub_download(repo, "model.safetensors")
    # With its history rewritten, no commit points to what is not there.
    assert ("model.safetensors" in api.list_repo_files(repo, revision="v0")) != rewrite_history
    assert ("model.safetensors" in api.list_repo_files(repo, revision="refs/pr/1")) != rewrite_history
    git = ["git", "--git-dir", str(hub.git_dir(repo))]
    assert subprocess.run([*git, "fsck", "--strict"], capture_output=True).returncode == 0


def test_members_of_an_organization(hub: HubServer, api: HfApi) -> None:
    hub.add_organization("acme", owner="admin", other="read")
    assert {"type": "org", "name": "acme", "roleInOrg": "admin"} in api.whoami()["orgs"]
    api.create_repo("acme/model", private=True)
    api.auth_check("acme/model", write=True)
    for token, code in ((OTHER_TOKEN, 403), (READ_TOKEN, 403)):
        HfApi(token=token).auth_check("acme/model")
        with pytest.raises(HfHubHTTPError) as raised:
            HfApi(token=token).auth_check("acme/model", write=True)
        assert raised.value.response.status_code == code
    hub.add_organization("acme", owner="admin")
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=OTHER_TOKEN).auth_check("acme/model")
    assert TOKEN not in str(raised.value)
