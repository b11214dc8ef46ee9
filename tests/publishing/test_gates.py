"""What a verdict's word rests on stands beside it wherever the word opens or shuts something."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from hf_unlearn import InputError, publish
from hf_unlearn.evaluation.report import REPORT_FILE, UnlearningReport
from hf_unlearn.jobs.console import print_report
from hf_unlearn.jobs.finished_run import audit
from hf_unlearn.lifecycle.erase_plan import stated_verdict
from hf_unlearn.publishing.card import render_card
from hf_unlearn.publishing.ledger import Ledger, digest_of, line_of

from ..support.hub_server import HubServer
from .test_card import example_report
from .test_ledger import a_run

BESIDE = "(margin ±0.10 in AUC; attacks: loss, zlib; zlib decided)"


def judged(word: str) -> UnlearningReport:
    report = example_report("text-generation", word)  # type: ignore[arg-type]
    return replace(report, verdict=replace(report.verdict, attack="zlib", attacks=["loss", "zlib"]))


@pytest.mark.parametrize("word", ["not_distinguished", "not_forgotten", "over_forgotten", "undecided"])
def test_margin_and_attacks_stand_beside_the_word(word: str) -> None:
    report, shown = judged(word), io.StringIO()
    top = render_card(report, "unlearned").split("## What was asked")[0]
    assert f"**{word}** {BESIDE}." in top or f"`{word}` {BESIDE}." in top
    print_report(Console(file=shown, width=300), report)
    assert f"Verdict: {word} {BESIDE}" in shown.getvalue()
    assert stated_verdict(report.to_dict()) == (word, f" {BESIDE}")


@pytest.mark.parametrize(
    ("smallest", "confirmed", "ruled_out"),
    [
        (0.21, "a margin of ±0.21", "a difference of 21 in 100"),
        (0.5, "no margin", "no difference, however large"),
        (1.1, "no margin", "no difference, however large"),
    ],
)
def test_the_margin_that_a_sample_can_confirm_is_said_in_words_where_there_is_none(
    hub: HubServer, tmp_path: Path, smallest: float, confirmed: str, ruled_out: str
) -> None:
    report, shown = judged("undecided"), io.StringIO()
    report = replace(report, verdict=replace(report.verdict, smallest_margin=smallest))
    assert f"This sample can confirm {confirmed}." in render_card(report, "unlearned")
    print_report(Console(file=shown, width=300), report)
    assert f"This sample can confirm {confirmed}." in shown.getvalue()
    report.save(tmp_path / REPORT_FILE)
    audit(str(tmp_path), tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert f"With so few records the tests can rule out {ruled_out}." in page


def test_an_exact_word_says_that_it_rests_on_no_test() -> None:
    card = render_card(judged("exact"), "unlearned")
    assert "**exact** (by how it was made, not by a test; margin ±0.10 in AUC; attacks: loss, zlib)." in card
    untested = replace(judged("exact"), verdict=replace(judged("exact").verdict, attack=None, attacks=[]))
    assert "**exact** (by how it was made, not by a test)." in render_card(untested, "unlearned")


def test_a_report_that_does_not_say_them_is_read_all_the_same() -> None:
    assert stated_verdict({"verdict": {"word": "exact"}}) == ("exact", "")
    for broken in ({}, {"verdict": None}, {"verdict": "exact"}, {"verdict": {"word": "undecided", "margin": "x"}}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            stated_verdict(broken)


def test_publishing_refuses_with_them(tmp_path: Path) -> None:
    judged("not_forgotten").save(tmp_path / REPORT_FILE)
    with pytest.raises(InputError) as refused:
        publish(tmp_path, "owner/name")
    assert f"The verdict is not_forgotten {BESIDE}, so the model is not published" in str(refused.value)


def test_a_line_from_before_stays_what_it_was() -> None:
    old = a_run(1)
    values = json.loads(line_of(old))
    assert not {"margin", "attack", "attacks"} & set(values)
    named = {name: value for name, value in values.items() if name not in ("event", "weights", "report")}
    assert old.statement == digest_of(json.dumps(named, sort_keys=True))
    new = a_run(2)
    ledger = Ledger().with_event(old).with_event(new)
    assert Ledger.read(ledger.text, "here") == ledger
    assert new.statement != replace(new, margin=0.2).statement
    assert asdict(ledger.runs[1])["attacks"] == ["loss", "zlib"]
