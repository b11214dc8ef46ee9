"""The page for an auditor: what it says, what it never holds, and how it looks in a real browser and on paper."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from hf_unlearn.cli import main
from hf_unlearn.evaluation.report import REPORT_FILE, LedgerNote, ModelEntry, UnlearningReport
from hf_unlearn.evaluation.wording import PICTURES
from hf_unlearn.jobs.finished_run import audit
from hf_unlearn.lifecycle.audit_facts import Audited, DerivedCheck, Erasure, LedgerCheck, OldWeights
from hf_unlearn.lifecycle.audit_page import render_page
from hf_unlearn.lifecycle.derived_models import DerivedModel, DerivedReport, UnseenModel
from hf_unlearn.lifecycle.erase import erase
from hf_unlearn.lifecycle.erase_plan import plan_erasure
from hf_unlearn.lifecycle.erase_report import ERASURE_FILE, Answer, ErasureReport, OldCommit, OldObject, OldRef
from hf_unlearn.lifecycle.hub_repository import HubRepo
from hf_unlearn.publishing.ledger import LEDGER_FILE, Erased, Ledger, Unlearned, digest_of
from hf_unlearn.publishing.sections import VERDICTS

from ..conftest import TOKEN
from ..publishing.test_card import REPORTS, example_report
from ..support.browser import CHROMIUM, HOST, Browser, browsing
from ..support.erasing import unlearned_event
from ..support.hub_server import HubServer

# A page says what the Hub says of the models derived from the old one.
pytestmark = pytest.mark.usefixtures("hub")

MODEL_CARDS = Path(__file__).parents[1] / "support" / "cards"
HOSTILE = (
    "</style></title></script>--><script>window.owned = 1</script>\"'>"
    "<img src=http://evil.test/x onerror=window.owned=1>"
    '<a href="javascript:window.owned=1">x</a>&lt;{{ 7 * 7 }}\u202e\u2066\x00\n`$(rm)`'
)
# What is one of a few words, and what holds names that the program looks up.
WORDS = {"task", "word", "taken", "measured_on", "compared_with", "loss_of", "duplicate_policy", "base_is_clean"}

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("pdftotext") is None,
    reason="needs a browser and a PDF reader: apt-get install chromium poppler-utils",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


def page_of(folder: Path, report: UnlearningReport | None = None, output: Path | None = None) -> str:
    if report is not None:
        folder.mkdir(parents=True, exist_ok=True)
        report.save(folder / REPORT_FILE)
    audit(str(folder), output := output or folder.parent / "audit.html")
    return output.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The text of a page; its tags must close in the order in which they opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th", "dt", "dd"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_what_is_unknown_is_said_in_words(tmp_path: Path, report: UnlearningReport) -> None:
    text = Outline(page_of(tmp_path / "run", report)).text
    for word in ("None", "nan", "Undefined", "()", "  ,", "TODO", "{{", "[]"):
        assert word not in text, word


@pytest.mark.parametrize("word", VERDICTS)
def test_each_verdict_in_plain_words(tmp_path: Path, word: Any) -> None:
    report = example_report(word=word)
    text = Outline(page_of(tmp_path / "run", report)).text
    assert VERDICTS[word] in text
    guaranteed = text.split("6. What is guaranteed")[1].split("Measured")[0]
    assert ("Nothing." in guaranteed) == (word != "exact")
    assert ("must not be presented as one that has forgotten" in text) == word.endswith("_forgotten")


# In a browser


def everything() -> Audited:
    """A run with all that a page can tell of: ledger, erasures, derived models, weights."""
    report = replace(
        example_report("text-generation", "not_forgotten"),
        original=ModelEntry("acme/router", "a" * 40, True),
        group_column="customer",
        verdict=replace(example_report(word="not_forgotten").verdict, warnings=["One copy kept teaching it."]),
    )
    report.method.settings.update({"prompt_template": "{q}", "optim": "adamw_torch"})
    ledger = Ledger()
    for event in (
        unlearned_event({}, rows=7),
        Erased("2026-11-28T12:00:00+00:00", "acme/router", "1" * 64, {"commits": 4, "still_answering": 1}),
        unlearned_event({"model.safetensors": "2" * 64}, rows=40),
    ):
        ledger = ledger.with_event(event)
    erasure = ErasureReport(
        "acme/router", "model", "exact", report.created, report.created,
        [OldRef("refs/heads/old", "a" * 40, 3, "kept")],
        [OldCommit("b" * 40, "model.safetensors")], [OldObject("3" * 64, 10**9, "model.safetensors")],
        [Answer("object", "3" * 64, "large_files")], {"hf_unlearn": "0.1.0"},
    )  # fmt: skip
    child = DerivedModel(
        "acme/router-gguf", "acme", "quantized", ["acme/router"], 1, None, report.created, True, 1200, "gated", False
    )
    found = DerivedReport(
        "acme/router", True, report.created, "acme/router-unlearned", report.created,
        [child, replace(child, name="other/merged", relation=None, before_unlearning=None, downloads=None)],
        [UnseenModel("acme/private", ["other/merged"])], 3, "The Hub answered 503.",
    )  # fmt: skip
    return Audited(
        name="acme/router-unlearned",
        revision="c" * 40,
        report=report,
        report_digest="4" * 64,
        pictures={},
        weights={"model.safetensors": "2" * 64},
        ledger=LedgerCheck(ledger),
        old_weights=OldWeights("acme/router", True, (Erasure(erasure, "1" * 64),)),
        derived=DerivedCheck("acme/router", found),
    )


@needs_browser
@pytest.mark.parametrize("card", ["sms-spam-minilm-base", "tofu-forget10-tinystories-fine_tune", None])
def test_a_reader_on_a_phone_and_at_a_desk(tmp_path: Path, browser: Browser, card: str | None) -> None:
    if card is None:
        name, pictures, page = "acme/router-unlearned", 0, render_page(everything())
    else:
        name, pictures = card, len(list((MODEL_CARDS / card).glob("*.png")))
        page = page_of(MODEL_CARDS / card, output=tmp_path / "audit.html")
    for width, found in browser.measure(page, 390, 1280).items():
        assert found["width"] <= width
        assert found["outside"] == []
        assert found["overlapping"] == []
        assert found["faint"] == [], "WCAG 2.2 asks for a contrast of 4.5"
        assert all(alt and pixels > 0 for alt, pixels in found["pictures"])
        assert len(found["pictures"]) == pictures
        assert all(index == 0 and role == "region" and label for index, role, label in found["scrolling"])
        steps = [b - a for a, b in zip(found["headings"], found["headings"][1:], strict=False)]
        assert (found["headings"][0], found["headings"].count(1), max(steps)) == (1, 1, 1), "no level is left out"
        assert found["headless"] == 0, "each row has a header"
        assert (found["language"], found["title"]) == ("en", f"Audit page: {name}")
    assert browser.requests == [f"{HOST}/", f"{HOST}/page", f"{HOST}/page"]


@needs_browser
def test_on_paper(tmp_path: Path, browser: Browser) -> None:
    card = MODEL_CARDS / "tofu-forget10-tinystories-fine_tune"
    page = page_of(card, output=tmp_path / "audit.html")
    paper, screen = tmp_path / "audit.pdf", tmp_path / "audit.png"
    browser.show(page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    about = subprocess.run(["pdfinfo", paper], capture_output=True, text=True, check=True).stdout
    assert re.search(r"Page size: +59[45](\.\d+)? x 84[12](\.\d+)? pts \(A4\)", about), about
    text = subprocess.run(["pdftotext", "-layout", paper, "-"], capture_output=True, text=True, check=True).stdout
    sheets = text.removesuffix("\f").split("\f")
    for number, sheet in enumerate(sheets, start=1):
        lines = sheet.strip().splitlines()
        assert lines[0].startswith("Audit page")
        assert lines[-1].replace(" ", "") == f"{number}/{len(sheets)}"
        assert len(lines) > 8, "no sheet is all but empty"
    assert "This model still knows the records" in sheets[0]
    assert "Delete the records themselves" in sheets[0], "the plain words fill one sheet"
    assert "1. The request" not in sheets[0]
    # No heading, of a section or of a table, stands at the foot of a sheet without what it is about.
    headings = re.findall(r"<(?:h2|h3|caption)\b[^>]*>([^<]+)<", page)
    headings += [" ".join(re.findall(r"<th[^>]*>(.+?)</th>", head)) for head in re.findall("<thead>.+?</thead>", page)]
    feet = {" ".join(line.split()) for sheet in sheets for line in sheet.strip().splitlines()[-4:]}
    assert len(headings) > 20
    assert not feet & set(headings)
    digest = json.loads((card / REPORT_FILE).read_text())["audit"]["request_digest"]
    assert re.search(f"Keyed digest of the request +{digest}", text)

    browser.show(page, "--window-size=1280,900", f"--screenshot={screen}")
    with Image.open(screen) as image:
        assert image.size == (1280, 900)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0xFF, 0xFF, 0xFF), (0x1B, 0x1F, 0x24), (0x17, 0x49, 0x6B)} <= colours


def spoiled(value: Any) -> Any:
    """The same with markup in all text that comes from outside."""
    if is_dataclass(value) and not isinstance(value, type):
        texts = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in WORDS}
        return replace(value, **{name: spoiled(text) for name, text in texts.items()})
    if isinstance(value, dict):
        return {key: spoiled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(spoiled(item) for item in value)
    return value + HOSTILE if isinstance(value, str) else value


def spoiled_everything() -> Audited:
    found = everything()
    found.report.software[HOSTILE] = found.weights[HOSTILE] = "1"
    return spoiled(found)


@needs_browser
def test_what_comes_from_outside_is_shown_and_does_nothing(browser: Browser) -> None:
    expected = browser.measure(render_page(everything()), 390)[390]
    for width, found in browser.measure(render_page(spoiled_everything()), 390, 1280).items():
        assert found["owned"] == "undefined"
        assert "<script>window.owned = 1</script>" in found["text"]
        assert "{{ 7 * 7 }}" in found["text"]
        assert not set("\u202e\u2066\x00") & set(found["text"])
        assert set(found["tags"]) <= set(expected["tags"])
        assert set(found["attributes"]) <= set(expected["attributes"])
        assert set(found["links"]) <= set(expected["links"])
        assert found["width"] <= width
        assert found["outside"] == []
    assert browser.requests == [f"{HOST}/", f"{HOST}/page", f"{HOST}/page"]
    assert all(link.startswith("https://huggingface.co/") for link in expected["links"])


def test_what_the_hub_and_the_files_fail_with_does_nothing(tmp_path: Path) -> None:
    found = spoiled_everything()
    troubles = replace(
        found,
        ledger=LedgerCheck(None, HOSTILE),
        old_weights=replace(found.old_weights, trouble=HOSTILE),
        derived=DerivedCheck("acme/router", trouble=HOSTILE),
    )
    tags = Outline(render_page(everything())).tags
    assert Outline(render_page(troubles)).tags <= tags
    folder = tmp_path / "<b onclick=owned=1>\u202e'\" run"
    for_folder = page_of(folder, example_report())
    assert Outline(for_folder).tags <= tags
    assert "\u202e" not in for_folder
    # What calls itself a picture and is none is not shown, whatever it is.
    (folder / next(iter(PICTURES))).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='owned=1'/>")
    assert "<img" not in page_of(folder)


@needs_browser
def test_the_browser_would_have_told(tmp_path: Path, browser: Browser) -> None:
    """What the tests above do not see they would see, and the page's own policy stops it."""
    thief = "<img src='http://evil.test/x'><script>window.owned = 1</script>"
    found = browser.measure(f"<!DOCTYPE html><title>t</title>{thief}<p style='width: 500px'>wide", 390)[390]
    assert "http://evil.test/x" in browser.requests
    assert found["owned"] == "1"
    assert found["width"] > 390
    assert found["outside"]
    page = page_of(tmp_path / "run", example_report())
    found = browser.measure(page.replace("<main>", f"<main>{thief}"), 390)[390]
    assert browser.requests == [f"{HOST}/", f"{HOST}/page"]
    assert found["owned"] == "undefined"


# From a folder and from the Hub


def test_a_published_run(owner: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    example_report().save(run / REPORT_FILE)
    shutil.copy(MODEL_CARDS / "sms-spam-minilm-base" / "loss_histograms.png", run)
    (run / "model.safetensors").write_bytes(b"\0" * 20_000)
    owner.create_repo("owner/audited")
    first = owner.upload_folder(repo_id="owner/audited", folder_path=run).oid
    owner.upload_file(repo_id="owner/audited", path_or_fileobj=b"{}", path_in_repo=REPORT_FILE)
    output = tmp_path / "page.html"
    assert main(["audit", "owner/audited", "--revision", first, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"Wrote {output}.\n"
    online = output.read_text(encoding="utf-8")
    assert f'<a href="https://huggingface.co/owner/audited/tree/{first}">' in online
    assert "data:image/png;base64," in online
    # The weights are named by what they are, and were not downloaded for it.
    digests = [
        re.findall(r"<code>model.safetensors</code>.*?<code>(\w{64})<", page) for page in (online, page_of(run))
    ]
    assert len(digests[0]) == 1
    assert digests[0] == digests[1]
    fetched = {path.name for path in Path(HF_HUB_CACHE).glob("models--owner--audited/snapshots/*/*")}
    assert fetched == {REPORT_FILE, "loss_histograms.png"}
    assert main(["audit", "owner/audited", "--output", str(output)]) == 2
    assert "There is no readable report at" in capsys.readouterr().err


def push(api: HfApi, repo: str, files: dict[str, bytes]) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(repo, operations, commit_message="Push").oid


def unlearned_in_place(api: HfApi, repo: str) -> None:
    """A model on the Hub and one made from it, then the first one unlearned, with a ledger of two requests."""
    api.create_repo(repo)
    first = push(api, repo, {"model.safetensors": b"the old weights"})
    api.create_repo(f"{repo}-child")
    card = f"---\nbase_model: {repo}\nbase_model_relation: finetune\n---\n".encode()
    push(api, f"{repo}-child", {"README.md": card, "config.json": b"{}"})
    ledger = Ledger().with_event(unlearned_event({}, rows=7))
    line = ledger.with_event(unlearned_event({"model.safetensors": digest_of("the new weights")}, rows=40)).events[-1]
    assert isinstance(line, Unlearned)
    report = replace(
        example_report(word="exact"),
        original=ModelEntry(repo, first, True),
        created="2100-01-01T00:00:00+00:00",
        ledger=LedgerNote(1, line.statement),
    )
    content = json.dumps(report.to_dict())
    ledger = ledger.with_event(replace(line, report=digest_of(content)))
    files = {"model.safetensors": b"the new weights", REPORT_FILE: content.encode(), LEDGER_FILE: ledger.text.encode()}
    push(api, repo, files)


def test_the_life_of_a_deletion(owner: HfApi, tmp_path: Path) -> None:
    repo, output = "owner/life", tmp_path / "audit.html"
    unlearned_in_place(owner, repo)

    def audited() -> str:
        assert main(["audit", repo, "--output", str(output)]) == 0
        return " ".join(Outline(output.read_text(encoding="utf-8")).text.split())

    before = audited()
    assert "Before that, 1 earlier run had made it forget 7 records" in before
    assert "The chain holds" in before
    assert Ledger.read(Path(hf_hub_download(repo, LEDGER_FILE)).read_text(), "here").last_line in before
    assert "the Hub still shows that commit" in before
    assert "No record of an erasure was found beside this model, so" in before
    assert "Erase the old weights." in before
    assert "Ask the owners of 1 model made from the old one" in before
    assert f"{repo}-child 1 finetune" in before

    hub_repo = HubRepo(repo, "model", TOKEN)
    erase(hub_repo, plan_erasure(hub_repo))
    after = audited()
    assert "the Hub shows no such commit" in after
    assert "each of them, and none answered" in after
    assert "a line names this very record" in after
    assert f"old weights of {repo} erased" in after
    assert "Erase the old weights." not in after

    erasure = ErasureReport.read(hub_repo.read("main", ERASURE_FILE))
    answers = [Answer("object", "0" * 64, "large_files")]
    push(owner, repo, {ERASURE_FILE: replace(erasure, still_answers=answers).text.encode()})
    changed = audited()
    assert f"1 of them still answered: object {'0' * 64}, its large files can still be downloaded." in changed
    assert "no line names this record" in changed
    assert "Erase the old weights." in changed

    push(owner, repo, {LEDGER_FILE: hub_repo.read("main", LEDGER_FILE).replace(b'"rows":7', b'"rows":6')})
    assert "The ledger does not hold. Line 2 of unlearning_ledger.jsonl" in audited()
    assert "Find out why the ledger of requests does not hold." in audited()


def test_a_record_of_an_erasure_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ERASURE_FILE).write_text("{}")
    text = Outline(page_of(tmp_path / "run", example_report())).text
    assert "Not all of this could be looked at. erasure_report.json cannot be read" in text
    assert "Erase the old weights." in text


def test_a_hub_that_does_not_answer(hub: HubServer, owner: HfApi, tmp_path: Path) -> None:
    owner.create_repo("owner/untold")
    report = replace(example_report(), original=ModelEntry("owner/untold", "a" * 40, True))
    hub.fail("GET /api/models", status=503, times=-1)
    try:
        text = Outline(page_of(tmp_path / "run", report)).text
    finally:
        hub.faults.clear()
    assert "Not all of this could be looked at." in text
    assert "Nobody could look." in text
    assert "the Hub answered 503" in text
    assert "Find out which models were made from the old one." in text


@pytest.mark.parametrize(
    ("place", "output", "message"),
    [
        ("empty", "a.html", "There is no readable report at empty/unlearning_report.json"),
        ("owner/nothing", "a.html", "The model 'owner/nothing' is neither a folder"),
        ("a//b", "a.html", "The model 'a//b' is neither a folder"),
        ("run", "empty", "empty is no plain file and is not replaced; name another"),
        ("run", "none/a.html", "There is no folder none for --output; make it, or name another"),
        ("cut", "a.html", "it does not fit its schema at word"),
        ("odd", "a.html", "The report of odd is incomplete"),
    ],
)
def test_what_cannot_be_audited(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    output: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    page_of(Path("run"), example_report(), Path("a.html"))
    page_of(Path("odd"), example_report(), Path("a.html"))
    page_of(Path("cut"), example_report(), Path("a.html"))
    Path("a.html").unlink()
    report = example_report().to_dict()
    Path("cut", REPORT_FILE).write_text(json.dumps(report | {"verdict": report["verdict"] | {"word": "<b>"}}))
    Path("odd", REPORT_FILE).write_text(json.dumps(report | {"method": report["method"] | {"lora": {"r": 8}}}))
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert main(["audit", place, "--output", output]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before, "nothing may have been written"
