"""The page for an auditor: what it says, what it never holds, and how it looks in a real browser and on paper."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image

from hf_unlearn.audit_page import audit
from hf_unlearn.cli import main
from hf_unlearn.evaluation.plots import PICTURES
from hf_unlearn.evaluation.report import REPORT_FILE, ModelEntry, UnlearningReport
from hf_unlearn.plain_words import SENTENCES

from .browser import CHROMIUM, HOST, Browser, browsing
from .hub_server import HubServer
from .test_card import REPORTS, example_report

# A page says what the Hub says of the models derived from the old one.
pytestmark = pytest.mark.usefixtures("hub")

MODEL_CARDS = Path(__file__).parents[1] / "model_cards"
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
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_what_is_unknown_is_said_in_words(tmp_path: Path, report: UnlearningReport) -> None:
    text = Outline(page_of(tmp_path / "run", report)).text
    for word in ("None", "nan", "Undefined", "()", "  ,", "TODO", "{{", "[]"):
        assert word not in text, word


@pytest.mark.parametrize("word", SENTENCES)
def test_each_verdict_in_plain_words(tmp_path: Path, word: Any) -> None:
    report = example_report(word=word)
    text = Outline(page_of(tmp_path / "run", report)).text
    assert SENTENCES[word] in text
    guaranteed = text.split("6. What is guaranteed")[1].split("Measured")[0]
    assert ("Nothing." in guaranteed) == (word != "exact")
    assert ("must not be presented as one that has forgotten" in text) == word.endswith("_forgotten")


# In a browser


@needs_browser
@pytest.mark.parametrize("card", ["sms-spam-minilm-base", "tofu-forget10-tinystories-fine_tune"])
def test_a_reader_on_a_phone_and_at_a_desk(tmp_path: Path, browser: Browser, card: str) -> None:
    page = page_of(MODEL_CARDS / card, output=tmp_path / "audit.html")
    for width, found in browser.measure(page, 390, 1280).items():
        assert found["width"] <= width
        assert found["outside"] == []
        assert found["overlapping"] == []
        assert found["faint"] == [], "WCAG 2.2 asks for a contrast of 4.5"
        assert all(alt and pixels > 0 for alt, pixels in found["pictures"])
        assert len(found["pictures"]) == len(list((MODEL_CARDS / card).glob("*.png")))
        assert all(index == 0 and role == "region" and label for index, role, label in found["scrolling"])
        assert found["headings"][0] == 1
        steps = [b - a for a, b in zip(found["headings"], found["headings"][1:], strict=False)]
        assert found["headings"].count(1) == 1
        assert max(steps) == 1, "no level may be left out"
        assert found["headless"] == 0, "each row has a header"
        assert (found["language"], found["title"]) == ("en", f"Audit page: {card}")
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
    # No heading stands alone at the foot of a sheet, and no row is cut in two.
    assert not any(re.match(r"\d+\. ", sheet.strip().splitlines()[-2].strip()) for sheet in sheets)
    report = json.loads((card / REPORT_FILE).read_text())
    digest = report["audit"]["request_digest"]
    assert digest in text

    browser.show(page, "--window-size=1280,900", f"--screenshot={screen}")
    with Image.open(screen) as image:
        assert image.size == (1280, 900)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(0xFF, 0xFF, 0xFF), (0x1B, 0x1F, 0x24), (0x17, 0x49, 0x6B)} <= colours


def hostile(value: Any) -> Any:
    """A report, as JSON, with markup wherever it holds a text."""
    if isinstance(value, dict):
        return {key: item if key in WORDS else hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def hostile_report() -> dict[str, Any]:
    report = replace(
        example_report("text-generation", "not_forgotten"),
        original=ModelEntry("acme/router", "a" * 40, True),
        group_column="customer",
    )
    told = hostile(report.to_dict())
    told["software"][HOSTILE] = HOSTILE
    told["method"]["settings"] |= {"prompt_template": HOSTILE, "optim": HOSTILE}
    told["verdict"] |= {"warnings": [HOSTILE], "reasons": [HOSTILE]}
    return told


@needs_browser
def test_what_comes_from_outside_is_shown_and_does_nothing(tmp_path: Path, browser: Browser) -> None:
    folder = tmp_path / "<b onclick=owned=1>\u202e'\" run"
    folder.mkdir()
    (folder / REPORT_FILE).write_text(json.dumps(hostile_report()), encoding="utf-8")
    for picture in PICTURES:
        (folder / picture).write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='owned=1'/>")
    (folder / "model-<i>.safetensors").write_bytes(b"")
    page = page_of(folder)
    plain = page_of(tmp_path / "plain", example_report("text-generation", "not_forgotten"))
    expected = browser.measure(plain, 390)[390]
    for width, found in browser.measure(page, 390, 1280).items():
        assert found["owned"] == "undefined"
        assert "<script>window.owned = 1</script>" in found["text"]
        assert "{{ 7 * 7 }}" in found["text"]
        assert not set("\u202e\u2066\x00") & set(found["text"])
        assert all(link.startswith("https://huggingface.co/") for link in found["links"])
        assert not any("script" in link for link in found["links"])
        assert found["pictures"] == []
        assert set(found["tags"]) <= set(expected["tags"])
        assert set(found["attributes"]) <= set(expected["attributes"])
        assert found["width"] <= width
        assert found["outside"] == []
    assert set(browser.requests) == {f"{HOST}/", f"{HOST}/page"}


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


def test_a_published_run(hub: HubServer, owner: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "is not an unlearning report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "output", "message"),
    [
        ("empty", "a.html", "There is no readable report at empty/unlearning_report.json"),
        ("owner/nothing", "a.html", "The model 'owner/nothing' is neither a folder"),
        ("a//b", "a.html", "The model 'a//b' is neither a folder"),
        ("run", "empty", "--output empty is a folder"),
        ("run", "none/a.html", "--output none/a.html is a folder, or in one that does not exist"),
        ("cut", "a.html", "The report does not fit its schema at word"),
        ("odd", "a.html", "The report of odd says one thing without what belongs to it"),
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
