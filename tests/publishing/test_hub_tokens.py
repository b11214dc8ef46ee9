"""The token for the Hub appears nowhere: not in output, logs, exceptions or files, whatever goes wrong."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants

from hf_unlearn import InputError, publish
from hf_unlearn.cli import main
from hf_unlearn.models.loading import load_config, load_model
from hf_unlearn.models.location import locate

from ..support.hub_server import HubServer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

SECRET = "hf_TheTokenThatNobodyMaySee0123456789"
STATUSES = (401, 403, 500)


@pytest.fixture(autouse=True)
def _whole_again(hub: HubServer) -> Iterator[None]:
    hub.add_token(SECRET, "owner")
    yield
    hub.faults.clear()


@pytest.fixture
def everything_said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All that was printed and logged since the last call, down to the libraries' debug messages."""
    caplog.set_level(logging.DEBUG)

    def said() -> str:
        out = capfd.readouterr()
        text = out.out + out.err + caplog.text
        caplog.clear()
        return text

    return said


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_nowhere(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path


def chained(error: BaseException) -> Iterator[BaseException]:
    """An exception, and all that it was raised from or while handling, also what a traceback would not show."""
    pending: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while pending:
        link = pending.pop()
        if link is not None and not any(link is other for other in seen):
            seen.append(link)
            yield link
            pending += [link.__cause__, link.__context__]


@pytest.mark.parametrize("given", ["environment", pytest.param("flag", marks=pytest.mark.slow)])
def test_run_push_and_evaluate(
    hub: HubServer,
    hub_settings: dict[str, Any],
    lm_settings: dict[str, Any],
    lm_original: Path,
    recipe: Callable[..., Path],
    given: str,
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    everything_said: Callable[[], str],
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    settings = hub_settings
    flags = []
    if given == "environment":
        monkeypatch.setenv("HF_TOKEN", SECRET)
    else:
        # Loading uses the login only, so here everything lies on this machine.
        settings = {key: value for key, value in lm_settings.items() if key != "original"}
        settings |= {"method": "base", "budget": 0.05}
        flags = ["--hub_token", SECRET]
    out = tmp_path / "out"
    settings = {**settings, "output_dir": str(out), "save_strategy": "steps", "save_steps": 2}
    repo_id = f"owner/{given}"
    command = [
        "run",
        "--push",
        "--hub_model_id",
        repo_id,
        "--config",
        str(recipe(**settings)),
        "--push_anyway",
        *flags,
    ]
    hub.fail(f"POST .*/{given}/commit/", 500)
    assert main(command) == 2
    assert SECRET not in everything_said()
    assert_nowhere(tmp_path)
    assert main(command) == 0
    text = everything_said()
    assert "Published: " in text
    assert SECRET not in text
    assert_nowhere(tmp_path)
    assert_nowhere(hub.git_dir(repo_id))
    if given == "environment":
        assert main(["push", str(out), "--hub_model_id", "owner/again-by-token"]) == 0
        assert main(["audit", repo_id, "--output", str(tmp_path / "audit.html")]) == 0
        evaluated = {**hub_settings, "model_name_or_path": repo_id, "output_dir": str(tmp_path / "evaluation")}
        for name in ("method", "budget"):
            del evaluated[name]
        assert main(["evaluate", "--config", str(recipe(**evaluated)), "--original_model", "owner/original"]) == 0
        text = everything_said()
        assert "unlearning_report.json and" in text
        assert SECRET not in text
        assert_nowhere(tmp_path)


def test_what_is_raised_while_publishing(
    hub: HubServer, finished: Path, monkeypatch: pytest.MonkeyPatch, everything_said: Callable[[], str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    places = ("create", "/api/models/owner/silent$", "preupload", "objects/batch", "PUT ", "lfs/verify", "commit/")
    faults: list[dict[str, Any]] = [{"status": status} for status in STATUSES]
    faults += [{"cut_after": 0}, {"status": 401, "code": "RepoNotFound"}]
    for place in places:
        for fault in faults:
            hub.fail(place, times=-1, **fault)
            with pytest.raises(InputError) as raised:
                publish(finished, "owner/silent", token=SECRET)
            hub.faults.clear()
            HfApi(token=SECRET).delete_repo("owner/silent", missing_ok=True)
            for error in chained(raised.value):
                assert SECRET not in f"{error} {error!r} {error.args} {error.__dict__}"
    assert SECRET not in everything_said()
    assert_nowhere(finished)


def test_what_is_raised_while_loading(
    hub: HubServer,
    hub_settings: dict[str, Any],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    everything_said: Callable[[], str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("time.sleep", lambda _: None)
    for place in ("GET /api/models/owner/original$", "/resolve/.*/config.json", "GET /models/owner/original/"):
        for status in STATUSES:
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / f"{status}{len(place)}"))
            hub.fail(place, status, times=-1)
            with pytest.raises(InputError) as raised:
                load_model(locate("owner/original"), "text-generation")
            hub.faults.clear()
            for error in chained(raised.value):
                assert SECRET not in f"{error} {error!r} {error.args} {error.__dict__}"
    assert load_config(locate("owner/original"))
    assert SECRET not in everything_said()
    assert_nowhere(cache)
