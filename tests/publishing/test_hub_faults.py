"""A Hub that misbehaves: what the user is told, what stays, and that the same command finishes the job."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets.config
import pytest
from huggingface_hub import HfApi, constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn import InputError, publish
from hf_unlearn.cli import main
from hf_unlearn.models.loading import load_config, load_model, load_tokenizer
from hf_unlearn.models.location import file_beside, locate
from hf_unlearn.models.training_record import load_record

from ..conftest import OLD_TOKEN, OTHER_TOKEN, READ_TOKEN, TOKEN
from ..support.hub_server import HubServer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

CLI = "import sys; from hf_unlearn.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def _whole_again(hub: HubServer) -> Iterator[None]:
    yield
    hub.faults.clear()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clients would have waited; they go on at once."""
    told: list[float] = []
    monkeypatch.setattr(time, "sleep", told.append)
    return told


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what was downloaded, each time it is called."""
    count = iter(range(1000))

    def forget() -> None:
        folder = tmp_path / f"cache_{next(count)}"
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")

    forget()
    return forget


def content(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def visible_files(repo_id: str) -> set[str]:
    """What somebody with every right sees in a repository, beside what the Hub put there itself."""
    api = HfApi(token=TOKEN)
    return set(api.list_repo_files(repo_id)) - {".gitattributes"} if api.repo_exists(repo_id) else set()


def most_often_and_the_rest(names: Iterable[str], first: set[str]) -> list[Any]:
    """All of them for the long tests, these for the short ones."""
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


# Publishing

REQUESTS = {
    "create": "POST /api/repos/create",
    "look": "GET /api/models/owner/{name}$",
    "validate": "POST /api/validate-yaml",
    "preupload": "POST /api/models/owner/{name}/preupload",
    "batch": "POST /owner/{name}.git/info/lfs/objects/batch",
    "put": "PUT /models/owner/{name}/",
    "verify": "POST /owner/{name}.git/info/lfs/verify",
    "commit": "POST /api/models/owner/{name}/commit",
}
CURES = {
    400: "metadata on top of README.md",
    401: "log in again with `hf auth login`",
    403: "use a token with the role write",
    404: "check the name",
    409: "choose another name",
    412: "somebody else pushed to it meanwhile",
    429: "too many requests; try again in 3600 seconds",
    500: "try again later",
}


@pytest.mark.parametrize("request_name", most_often_and_the_rest(REQUESTS, {"create", "put", "commit"}))
def test_each_refusal_of_each_request_of_publishing(
    hub: HubServer, finished: Path, request_name: str, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"refused-{request_name}"
    command = ["push", str(finished), "--hub_model_id", f"owner/{name}"]
    before = content(finished)
    for status, cure in CURES.items():
        headers = {"Retry-After": "3600"} if status == 429 else {}
        fault = hub.fail(REQUESTS[request_name].format(name=name), status, headers=headers, times=-1)
        assert main(command) == 2, status
        assert fault.times < -1, "the fault was met"
        hub.faults.clear()
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("hf-unlearn push: ")
        assert cure in told, status
        assert f"owner/{name}" in told
        assert str(status) in told
        assert f"The result is kept in {finished}" in told
        assert content(finished) == before
        assert visible_files(f"owner/{name}") == set()
        # What this attempt made is gone, unless the very question of what is in there is not answered.
        assert HfApi(token=TOKEN).repo_exists(f"owner/{name}") == (request_name == "look")
        HfApi(token=TOKEN).delete_repo(f"owner/{name}", missing_ok=True)
    assert max(waits, default=0) <= 8, "an hour is not waited for, in the client neither"
    assert main(command) == 0
    assert {"model.safetensors", "README.md", "unlearning_report.json"} <= visible_files(f"owner/{name}")


@pytest.mark.parametrize("request_name", most_often_and_the_rest(REQUESTS, {"create", "put", "commit"}))
def test_a_connection_cut_at_each_request_of_publishing(
    hub: HubServer, finished: Path, request_name: str, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"cut-{request_name}"
    command = ["push", str(finished), "--hub_model_id", f"owner/{name}"]
    before = content(finished)
    pattern = REQUESTS[request_name].format(name=name)
    fault = hub.fail(pattern, cut_after=20_000 if request_name == "put" else 0, times=-1)
    assert main(command) == 2
    assert fault.times < -1
    hub.faults.clear()
    assert f"not possible to publish to owner/{name}: the Hub cannot be reached" in capsys.readouterr().err
    assert content(finished) == before
    assert visible_files(f"owner/{name}") == set()
    # The request is carried out, but its answer is lost: the client asks again, or the same command does.
    hub.fail(pattern, lose_reply=True)
    if main(command) == 2:
        assert "the Hub cannot be reached" in capsys.readouterr().err
        assert main(command) == 0
    assert {"model.safetensors", "README.md"} <= visible_files(f"owner/{name}")
    titles = [commit.title for commit in HfApi(token=TOKEN).list_repo_commits(f"owner/{name}")]
    assert titles == ["Unlearn 10 records with base: exact", "initial commit"], "published once"


def test_a_rate_limit_is_waited_for_as_told(
    hub: HubServer, finished: Path, caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    hub.fail("POST /api/repos/create", 429, headers={"Retry-After": "20"})
    hub.fail("PUT /models/owner/patient/", 429, headers={"Retry-After": "7"})
    hub.fail("POST .*/commit/", 429, headers={"ratelimit": '"api";r=0;t=30'})
    publish(finished, "owner/patient", token=TOKEN)
    assert waits == [20, 7, 30]
    assert caplog.text.count("The Hub has too many requests; going on in") == 3
    # a minute in all, also when the Hub does not say for how long
    waits.clear()
    hub.fail("POST .*/commit/", 429, times=-1)
    with pytest.raises(InputError, match=r"\(429\): too many requests; try again later"):
        publish(finished, "owner/impatient", token=TOKEN)
    assert waits == [10] * 6


def test_a_rate_limit_in_real_time(hub: HubServer, finished: Path) -> None:
    hub.fail("POST .*/preupload/", 429, headers={"Retry-After": "1"})
    started = time.monotonic()
    publish(finished, "owner/real-time", token=TOKEN)
    assert 1 <= time.monotonic() - started < 5


@pytest.mark.parametrize(("token", "status"), [(READ_TOKEN, 403), (OTHER_TOKEN, 403), (OLD_TOKEN, 401), (None, 401)])
@pytest.mark.parametrize("exists", [False, True])
def test_tokens_that_may_not_write(
    owner: HfApi, finished: Path, token: str | None, status: int, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo_id = f"owner/forbidden-{exists}"
    if exists:
        owner.create_repo(repo_id, exist_ok=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=rf"refused to publish to {repo_id} \({status}\)"):
        publish(finished, repo_id, token=token)
    assert owner.repo_exists(repo_id) == exists, "what was there before is not removed"
    assert visible_files(repo_id) == set()


def test_a_name_alone_needs_a_token(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="needs a token; log in with `hf auth login`"):
        publish(finished, "alone")


def test_somebody_else_pushes_meanwhile(hub: HubServer, owner: HfApi, finished: Path) -> None:
    owner.create_repo("owner/busy")
    slow = hub.fail("POST .*/busy/preupload/", delay=2)

    def push() -> None:
        while slow.times:
            time.sleep(0.01)
        owner.upload_file(repo_id="owner/busy", path_in_repo="notes.txt", path_or_fileobj=b"theirs")

    other = threading.Thread(target=push)
    other.start()
    with pytest.raises(InputError, match=r"\(412\): somebody else pushed to it meanwhile"):
        publish(finished, "owner/busy", token=TOKEN)
    other.join()
    assert visible_files("owner/busy") == {"notes.txt"}, "theirs, and nothing of ours"
    publish(finished, "owner/busy", token=TOKEN, push_to_existing=True)
    assert {"notes.txt", "model.safetensors"} <= visible_files("owner/busy")


def test_what_is_private_stays_so(owner: HfApi, finished: Path) -> None:
    owner.create_repo("owner/made-public")
    with pytest.raises(InputError, match="owner/made-public is there already and public"):
        publish(finished, "owner/made-public", token=TOKEN, private=True)
    owner.create_repo("owner/made-private", private=True)
    publish(finished, "owner/made-private", token=TOKEN)
    assert owner.model_info("owner/made-private").private


def test_no_such_branch(owner: HfApi, finished: Path) -> None:
    with pytest.raises(InputError, match="owner/branchless has no such branch"):
        publish(finished, "owner/branchless", token=TOKEN, revision="nope")
    assert not owner.repo_exists("owner/branchless")


@pytest.mark.slow
def test_killed_in_the_middle_of_an_upload(hub: HubServer, owner: HfApi, finished: Path) -> None:
    command = [sys.executable, "-c", CLI, "push", str(finished), "--hub_model_id", "owner/killed"]
    before = content(finished)
    fault = hub.fail("PUT /models/owner/killed/", delay=20, times=1)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while fault.times and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    hub.faults.clear()
    assert content(finished) == before
    assert owner.repo_exists("owner/killed")
    assert visible_files("owner/killed") == set()
    assert main(command[3:]) == 0
    assert "model.safetensors" in visible_files("owner/killed")


def test_a_hub_that_is_gone_when_the_run_is_done(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(finished)
    command = ["push", str(finished), "--hub_model_id", "owner/afterwards"]
    with monkeypatch.context() as gone:
        gone.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert main(command) == 2
    assert (
        "not possible to publish to owner/afterwards: the Hub cannot be reached (ConnectError)"
        in capsys.readouterr().err
    )
    assert content(finished) == before
    assert main(command) == 0
    assert "model.safetensors" in visible_files("owner/afterwards")


def test_the_run_finishes_its_push_with_the_same_command(
    hub: HubServer,
    owner: HfApi,
    finished: Path,
    hub_settings: dict[str, Any],
    recipe: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**hub_settings, "output_dir": str(finished), "hub_model_id": "owner/second-try"}
    command = ["run", "--push", "--config", str(recipe(**settings))]
    hub.fail("POST .*/second-try/commit/", 500)
    assert main(command) == 2
    out = capsys.readouterr()
    assert "Verdict: exact" in out.out, "the report is shown all the same"
    assert "The Hub refused to publish to owner/second-try (500)" in out.err
    assert main(command) == 0
    assert "Published: " in capsys.readouterr().out


# Loading

LOADS = {
    "model info": ("GET /api/models/owner/original$", "The model 'owner/original'"),
    "model listing": ("GET /api/models/owner/original/tree/[0-9a-f]+$", "The model 'owner/original'"),
    "card": ("HEAD /owner/original/resolve/.*/README.md", "The model 'owner/original'"),
    "training record": ("HEAD /owner/original/resolve/.*/training_record.json", "The model 'owner/original'"),
    "tokenizer": ("HEAD /owner/original/resolve/.*/tokenizer_config.json", "The model 'owner/original'"),
    "weights": ("HEAD /owner/original/resolve/.*/model.safetensors", "The model 'owner/original'"),
    "store": ("GET /models/owner/original/", "The model 'owner/original'"),
    "base": ("HEAD /owner/base/resolve/.*/model.safetensors", "The model 'owner/base'"),
    "data info": ("GET /api/datasets/owner/secrets$", "The data set 'owner/secrets'"),
    "data card": ("HEAD /datasets/owner/secrets/resolve/.*/README.md", "The data set 'owner/secrets'"),
    "data": ("HEAD /datasets/owner/secrets/resolve/.*parquet", "The data set 'owner/secrets'"),
    "data store": ("GET /datasets/owner/secrets/[0-9a-f]+$", "The data set 'owner/secrets'"),
}
LOADING_CURES: dict[str, tuple[dict[str, Any], str]] = {
    "400": ({"status": 400}, "the Hub answered 400; try again later"),
    "401": ({"status": 401}, "log in again with `hf auth login`"),
    "403": ({"status": 403}, "the token may not read it"),
    "404": ({"status": 404}, "is neither a folder or file here nor a repository on the Hub"),
    "429": ({"status": 429, "headers": {"Retry-After": "30"}}, "too many requests; try again in 30 seconds"),
    "500": ({"status": 500}, "the Hub answered 500; try again later"),
    "cut": ({"cut_after": 0}, "is not on this machine and the Hub cannot be reached"),
}


@pytest.mark.parametrize(
    "load", most_often_and_the_rest(LOADS, {"model info", "tokenizer", "weights", "data card", "data"})
)
def test_each_refusal_of_each_request_of_loading(
    hub: HubServer,
    owner: HfApi,
    hub_settings: dict[str, Any],
    recipe: Callable[..., Path],
    load: str,
    waits: list[float],
    empty_cache: Callable[[], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pattern, subject = LOADS[load]
    command = ["run", "--config", str(recipe(**hub_settings, output_dir=str(tmp_path / "out")))]
    for kind, cure in LOADING_CURES.values():
        empty_cache()
        fault = hub.fail(pattern, times=-1, **kind)
        assert main(command) == 2, kind
        assert fault.times < -1, "the fault was met"
        hub.faults.clear()
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"hf-unlearn run: {subject}"), kind
        assert cure in told
    assert not list(tmp_path.glob("out/*.safetensors"))


@pytest.mark.parametrize("kind", ["403", "500"])
def test_a_refusal_in_the_middle_of_a_stream(
    hub: HubServer,
    owner: HfApi,
    hub_settings: dict[str, Any],
    recipe: Callable[..., Path],
    kind: str,
    waits: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault, cure = LOADING_CURES[kind]
    met = hub.fail(LOADS["data store"][0], times=-1, **fault)
    assert main(["split", "--config", str(recipe(**hub_settings)), "--dataset_streaming", "true"]) == 2
    assert met.times < -1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("hf-unlearn split: The data set 'owner/secrets'")
    assert cure in told


def test_a_rate_limit_of_an_hour_while_loading_is_told(hub: HubServer, owner: HfApi, empty_cache: Any) -> None:
    hub.fail("GET /api/models/owner/", 429, headers={"Retry-After": "3600"}, times=-1)
    with pytest.raises(InputError, match="try again in 3600 seconds"):
        locate("owner/original")


TOKENS = {
    "right": (TOKEN, None),
    "allowed": (OTHER_TOKEN, None),
    "wrong": ("hf_nonsense", "does not accept the token"),
    "expired": (OLD_TOKEN, "does not accept the token"),
    "none": (None, "is gated: ask for access on its page"),
}


@pytest.mark.parametrize("which", TOKENS)
def test_gated_models_and_data(
    hub: HubServer,
    hub_settings: dict[str, Any],
    recipe: Callable[..., Path],
    which: str,
    empty_cache: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lm_base: Path,
    hub_result: Path,
) -> None:
    token, refusal = TOKENS[which]
    _gated_repositories(hub, lm_base)
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    settings = {key: value for key, value in hub_settings.items() if key != "model_name_or_path"}
    command = ["split", "--config", str(recipe(**{**settings, "dataset_name": "owner/gated-data"}))]
    if refusal is None:
        assert load_config(locate("owner/gated")).model_type == "llama"
        assert main(command) == 0
        return
    with pytest.raises(InputError, match=refusal):
        locate("owner/gated")
    assert main(command) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "The data set 'owner/gated-data'" in told
    assert refusal in told


def test_gated_to_somebody_else(hub: HubServer, lm_base: Path, empty_cache: Any, monkeypatch: Any) -> None:
    _gated_repositories(hub, lm_base)
    hub.add_token("hf_stranger", "stranger")
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(InputError, match="'owner/gated' is gated: ask for access on its page"):
        locate("owner/gated")


@pytest.mark.parametrize("token", [OTHER_TOKEN, None, OLD_TOKEN])
def test_private_models(token: str | None, hub_settings: dict[str, Any], empty_cache: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match="hf auth login"):
        locate("owner/original")
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert load_config(locate("owner/original")).model_type == "llama"


def _gated_repositories(hub: HubServer, lm_base: Path) -> None:
    api = HfApi(token=TOKEN)
    if api.repo_exists("owner/gated"):
        return
    api.create_repo("owner/gated")
    api.upload_folder(repo_id="owner/gated", folder_path=lm_base)
    hub.gate("owner/gated", "other")
    rows = api.snapshot_download("owner/secrets", repo_type="dataset")
    api.create_repo("owner/gated-data", repo_type="dataset")
    api.upload_folder(repo_id="owner/gated-data", repo_type="dataset", folder_path=rows)
    hub.gate("owner/gated-data", "other", repo_type="dataset")


# Without a Hub


def test_what_was_loaded_before_is_enough_when_the_hub_is_switched_off(
    hub: HubServer, owner: HfApi, hub_settings: dict[str, Any], empty_cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> tuple[Any, ...]:
        source = locate("owner/original")
        model, tokenizer = load_model(source, "text-generation"), load_tokenizer([source])
        adapter = file_beside(source, "adapter_config.json")
        return source, model.num_parameters(), len(tokenizer), load_record(source), adapter

    online = load()
    empty_cache()
    # Somebody else's program loaded it, and asked for what it needed only.
    AutoModelForCausalLM.from_pretrained("owner/original")
    AutoTokenizer.from_pretrained("owner/original")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    source, *offline, record, adapter = load()
    assert (source, *offline, adapter) == (*online[:3], None)
    assert record is None
