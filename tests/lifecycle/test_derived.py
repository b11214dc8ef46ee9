"""Models derived from one: found on the Hub over all generations, whatever is in the way, and what owners are told."""

import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from markdown_it import MarkdownIt
from rich.console import Console

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE, ModelEntry
from hf_unlearn.files import save_json
from hf_unlearn.jobs.derived import print_derived
from hf_unlearn.lifecycle.derived_models import DerivedModel, DerivedReport, UnseenModel, derived_models, messages
from hf_unlearn.publishing.sections import BEFORE_AND_AFTER

from ..conftest import OLD_TOKEN, OTHER_TOKEN, TOKEN
from ..publishing.test_card import HOSTILE, example_report
from ..support.hub_server import HubServer

ROOT = "owner/d-root"
UNLEARNED_ON = datetime(2026, 1, 1, tzinfo=UTC)
# What their cards say of their bases, a file that says more, and whether they were there before the unlearning.
CARDS: dict[str, tuple[Any, str, bool]] = {
    ROOT: (ROOT, "config.json", True),
    "other/d-tuned": ([ROOT, "other/d-again"], "config.json", True),
    "owner/d-lora": (ROOT, "adapter_config.json", True),
    "other/d-gguf": (ROOT, "model.gguf", True),
    "other/d-self": ([ROOT, "other/d-self", "/root/models/d-root"], "config.json", False),
    "other/d-private": (ROOT, "config.json", True),
    "other/d-again": ("other/d-tuned", "config.json", False),
    "owner/d-merge": (["other/d-tuned", "owner/d-lora"], "config.json", True),
    "other/d-deep": (["owner/d-merge", "other/d-private", "owner/d-gone"], "config.json", True),
    "other/d-last": ("other/d-deep", "adapter_config.json", False),
    "owner/d-unlearned": (ROOT, "config.json", False),
    "other/d-new": ("owner/d-unlearned", "config.json", False),
    "other/d-stranger": ("owner/d-elsewhere", "config.json", False),
}
RELATIONS = {"other/d-tuned": "finetune", "other/d-self": "inspired-by"}
DOWNLOADS = {"other/d-gguf": 1200, "owner/d-merge": 7}
# By generation, the most downloaded first: relation, bases, whether the last commit is older than the unlearning.
EXPECTED: dict[str, tuple[int, str | None, list[str], bool]] = {
    "other/d-gguf": (1, "quantized", [ROOT], True),
    "other/d-self": (1, None, [ROOT], False),
    "other/d-tuned": (1, "finetune", ["other/d-again", ROOT], True),
    "owner/d-lora": (1, "adapter", [ROOT], True),
    "owner/d-unlearned": (1, "finetune", [ROOT], False),
    "owner/d-merge": (2, "merge", ["other/d-tuned", "owner/d-lora"], True),
    "other/d-again": (2, "finetune", ["other/d-tuned"], False),
    "other/d-deep": (3, "merge", ["owner/d-merge"], True),
    "other/d-last": (4, "adapter", ["other/d-deep"], False),
}


@pytest.fixture(scope="module")
def tree(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Four generations, with a cycle, a diamond, models that name themselves, and some that are not shown."""
    apis = {"owner": HfApi(token=TOKEN), "other": HfApi(token=OTHER_TOKEN)}
    report = tmp_path_factory.mktemp("report") / REPORT_FILE
    example_report().save(report)
    for name, (bases, file, is_old) in CARDS.items():
        api = apis[name.split("/")[0]]
        api.create_repo(name, private=name == "other/d-private")
        card: dict[str, Any] = {"base_model": bases}
        if name in RELATIONS:
            card["base_model_relation"] = RELATIONS[name]
        files = {"README.md": f"---\n{json.dumps(card)}\n---\nA model.\n".encode(), file: b"{}"}
        if name == "owner/d-unlearned":
            files[REPORT_FILE] = report.read_bytes()
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        api.create_commit(name, operations, commit_message="A model")
        if is_old:
            commit_in_2025(hub.git_dir(name))
    hub.gate("other/d-gguf")
    hub.downloads |= DOWNLOADS


def commit_in_2025(git_dir: Path) -> None:
    """Give the newest commit another date."""
    who = {f"GIT_{role}_{what}": "hub" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **who, "GIT_COMMITTER_DATE": "2025-06-01T12:00:00+0000", "GIT_DIR": str(git_dir)}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, env=environment)
        return done.stdout.strip()

    git("update-ref", "refs/heads/main", git("commit-tree", "main^{tree}", "-m", "A model"))


@pytest.fixture(autouse=True)
def _whole_again(tree: None, hub: HubServer) -> Iterator[None]:
    yield
    hub.faults.clear()
    hub.page_size = 1000


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited for; all go on at once."""
    told: list[float] = []
    monkeypatch.setattr(time, "sleep", told.append)
    return told


def shown(report: DerivedReport) -> dict[str, tuple[int, str | None, list[str], bool | None]]:
    return {m.name: (m.generation, m.relation, m.bases, m.before_unlearning) for m in report.models}


def found(**options: Any) -> DerivedReport:
    options = {"unlearned": "owner/d-unlearned", "unlearned_on": UNLEARNED_ON, **options}
    return derived_models(ROOT, **options)


def test_four_generations_page_by_page(hub: HubServer, owner: HfApi) -> None:
    whole = found()
    assert list(shown(whole).items()) == list(EXPECTED.items())
    assert whole.missing is None
    assert whole.is_visible
    assert [m.name for m in whole.models if m.access == "gated"] == ["other/d-gguf"]
    assert [m.name for m in whole.models if m.is_unlearned] == ["owner/d-unlearned"]
    assert {m.name: m.downloads for m in whole.models if m.downloads} == DOWNLOADS
    assert {m.owner for m in whole.models} == {"owner", "other"}
    assert {(m.last_commit or "")[:10] for m in whole.models if m.before_unlearning} == {"2025-06-01"}
    # Private and deleted ones, which may hide more.
    assert whole.unseen == [
        UnseenModel("other/d-private", ["other/d-deep"]),
        UnseenModel("owner/d-gone", ["other/d-deep"]),
    ]
    assert whole.counted == 6, "the root itself and the private one are counted and not shown"

    hub.page_size = 2
    hub.requests.clear()
    assert found(unlearned_on=UNLEARNED_ON).models == whole.models
    assert [path for _, path, _ in hub.requests].count("/api/models") == 9 + 2, (
        "nine models, and two more pages of the first"
    )


def test_private_models_are_found_with_the_right_token(hub: HubServer) -> None:
    names = [m.name for m in found(token=OTHER_TOKEN).models if m.access == "private"]
    assert names == ["other/d-private"]
    assert [base.name for base in found(token=OTHER_TOKEN).unseen] == ["owner/d-gone"]


def test_without_an_unlearning_no_commit_is_old(owner: HfApi) -> None:
    report = derived_models(ROOT)
    assert {m.before_unlearning for m in report.models} == {None}
    assert not any(m.is_unlearned for m in report.models)
    assert "other/d-new" in shown(report)


def test_a_model_that_is_gone_has_derived_ones_all_the_same(owner: HfApi) -> None:
    report = derived_models("owner/d-elsewhere")
    assert not report.is_visible
    assert list(shown(report)) == ["other/d-stranger"]
    with pytest.raises(InputError, match="shows no model 'owner/d-nowhere', and none that names it as its base"):
        derived_models("owner/d-nowhere")


def test_a_model_is_found_by_both_its_names(hub: HubServer, owner: HfApi) -> None:
    there = f"{hub.url}/api/models/{ROOT}?expand=childrenModelCount"
    hub.fail("GET /api/models/owner/d-elsewhere$", 307, headers={"Location": there})
    names = set(shown(derived_models("owner/d-elsewhere", unlearned="owner/d-unlearned")))
    assert names == {*EXPECTED, "other/d-stranger"}


def test_a_busy_hub_is_waited_for(hub: HubServer, owner: HfApi, waits: list[float]) -> None:
    hub.page_size = 1
    fault = hub.fail("GET /api/models$", 429, headers={"Retry-After": "17"}, times=0)

    def watch(looked: int, known: int) -> None:
        if looked in (1, 4):
            fault.times = 1

    assert list(shown(found(watch=watch))) == list(EXPECTED)
    assert waits == [17, 17]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"status": 429, "headers": {"Retry-After": "3600"}}, "too many requests; try again in 3600 seconds."),
        ({"status": 503}, "the Hub answered 503; try again later."),
        ({"cut_after": 0}, "the Hub cannot be reached."),
    ],
)
def test_a_hub_that_fails_on_the_way_leaves_a_part(
    hub: HubServer, owner: HfApi, waits: list[float], fault: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    hub.fail("GET /api/models$", times=-1, **fault)
    with pytest.raises(InputError, match=re.escape(sentence)):
        found()
    hub.faults.clear()
    part = found(watch=lambda looked, known: looked == 2 and hub.fail("GET /api/models", times=-1, **fault))
    assert "other/d-tuned" in shown(part)
    assert "other/d-last" not in shown(part)
    assert part.missing is not None
    assert part.missing.endswith(sentence)
    assert "This is not all:" in printed(part)
    assert "**The list is not complete.**" in messages(part, example_report())
    save_json(part, tmp_path / "derived.json")
    assert DerivedReport.load(tmp_path / "derived.json") == part


def test_no_network_and_no_right_token_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for token in ("hf_nonsense", OLD_TOKEN):
        monkeypatch.setenv("HF_TOKEN", token)
        assert main(["derived", ROOT]) == 2
        out = capsys.readouterr()
        assert "does not accept the token (401)" in out.err
        assert token not in out.err + out.out
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["derived", ROOT]) == 2
    assert re.fullmatch(r"hf-unlearn derived: .* the Hub cannot be reached\.\n", capsys.readouterr().err)


def test_the_command(owner: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("derived.json", "texts.md")}
    command = ["derived", ROOT, "--unlearned", "owner/d-unlearned"]
    assert main([*command, "--output", str(files["derived.json"]), "--message", str(files["texts.md"])]) == 0
    out = capsys.readouterr().out
    report = DerivedReport.load(files["derived.json"])
    assert shown(report) == EXPECTED
    assert report.unlearned_on == "2026-01-01T00:00:00+00:00"
    for name in EXPECTED:
        assert name in out
    assert "5 of 8 had no commit since the unlearning of 2026-01-01." in out
    assert "other/d-private cannot be looked into; other/d-deep name it as a base too." in out
    assert "By the Hub's count 6 name it, and 5 are shown" in out
    assert BEFORE_AND_AFTER in out
    assert "new_version: owner/d-unlearned" in out
    assert "This is not all" not in out

    texts = files["texts.md"].read_text()
    assert re.findall("^## (.*)$", texts, re.MULTILINE) == ["To other", "To owner"]
    assert (
        "40 of the 960 records that owner/d-root was trained on had to be forgotten. It was unlearned on 2026-01-01"
        in texts
    )
    assert "The new weights: [owner/d-unlearned](https://huggingface.co/owner/d-unlearned)." in texts
    for_owner = texts.split("## To owner")[1]
    assert "Merge again, with the new weights" in for_owner
    assert "Train the adapter again" in for_owner
    assert "Quantise" not in for_owner
    assert "(merge), made from other/d-tuned, owner/d-lora; last commit 2025-06-01, before the unlearning" in for_owner
    assert "- [owner/d-unlearned]" not in texts

    assert main([*command, "--max_models", "3"]) == 0
    out = capsys.readouterr().out
    assert "This is not all: There are more than 3 models; look for more with --max_models." in out
    assert "other/d-gguf" in out, "the most downloaded are kept"


def test_unlearned_in_place_or_in_a_folder(owner: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["derived", "owner/d-unlearned", "--message", str(tmp_path / "texts.md")]) == 0
    assert "0 of 1 had no commit since the unlearning" in capsys.readouterr().out
    assert "The new weights are in the same repository" in (tmp_path / "texts.md").read_text()
    example_report().save(tmp_path / REPORT_FILE)
    assert main(["derived", ROOT, "--unlearned", str(tmp_path), "--message", str(tmp_path / "texts.md")]) == 0
    texts = (tmp_path / "texts.md").read_text()
    assert "Its owner can tell you where the new weights are." in texts
    assert str(tmp_path) not in texts


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--unlearned", "other/d-tuned"], "other/d-tuned has no unlearning_report.json"),
        (["--unlearned", "owner/d-nowhere"], "nor a repository on the Hub that you may read"),
        (["--message", "texts.md"], "name the unlearned model with --unlearned"),
        (["--output", "nowhere/derived.json"], "There is no folder nowhere for --output"),
        (["--output", "."], ". is no plain file and is not replaced"),
        (["--output", "o" * 300], "cannot be looked for: File name too long."),
        (["--unlearned", "u" * 300], "cannot be looked for: File name too long."),
        (["--unlearned", ""], "check its name"),
        (["--max_models", "0"], "--max_models 0 is not possible"),
        (["--max_models", "many"], "argument --max_models: the value is no whole number"),
    ],
)
def test_what_cannot_be_used(
    owner: HfApi,
    flags: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["derived", ROOT, *flags]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_none(owner: HfApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["derived", "a b\x1b[31m"]) == 2
    err = capsys.readouterr().err
    assert "check its name" in err
    assert "\x1b" not in err


def test_only_a_list_of_this_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "derived.json"
    for text in ("", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 1}'):
        path.write_text(text)
        with pytest.raises(InputError, match="no readable list of derived models"):
            DerivedReport.load(path)


def printed(report: DerivedReport) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    print_derived(console, report)
    return console.export_text()


def test_hostile_names_do_nothing() -> None:
    name = f"{HOSTILE}[red]x[/red]"
    model = DerivedModel(name, name, name, [name], 1, "2025-01-01", "2025-01-01", True, 5, "public", False)
    report = DerivedReport(
        name, False, "2026-01-01", name, "2026-01-01", [model], [UnseenModel(name, [name])], 3, name
    )
    told = printed(report)
    assert "[red]x[/red]" in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    source = replace(example_report(), original=ModelEntry(name, None, False))
    source = replace(source, verdict=replace(source.verdict, word=name))
    tokens = (
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(messages(report, source))
    )
    parts = [part for token in tokens for part in [token, *(token.children or [])]]
    assert not {part.type for part in parts} & {"html_block", "html_inline", "em_open", "s_open", "code_block"}
    links = {str(part.attrGet("href")) for part in parts if part.type == "link_open"}
    assert all(link.startswith("https://huggingface.co/") for link in links)
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2"]
