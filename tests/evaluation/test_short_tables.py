"""What print shows of a report and a split: the verdict and the numbers, and never a record."""

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from datasets import Dataset
from markdown_it import MarkdownIt

from hf_unlearn import Records, split_retained
from hf_unlearn.data.short_table import Shown
from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.evaluation.utility.comparison import Utility
from hf_unlearn.evaluation.wording import VERDICTS

from ..conftest import secrets_rows
from ..publishing.test_card import HOSTILE, REPORTS, bare_report, example_report

LOST = Utility("test", "original", "accuracy", Estimate(0.30, 0.25, 0.35, 40), 0.05, "lost")


class Tags(HTMLParser):
    """The tags of a page, and whether each that is opened is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown_everywhere(shown: Shown) -> list[str]:
    """All forms in which something shows itself, each checked for what it is."""
    text, markdown, html = str(shown), shown.to_markdown(), shown._repr_html_()
    assert len(text.splitlines()) <= 25
    kinds = {token.type for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)}
    assert "table_open" in kinds
    assert not kinds & {"html_block", "heading_open", "fence"}
    page = Tags(html)
    assert page.open == []
    assert page.seen <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    return [text, markdown, html]


@pytest.mark.parametrize("report", REPORTS, ids=range(len(REPORTS)))
def test_a_report_shows_verdict_numbers_utility_and_price(report: Any) -> None:
    for form in shown_everywhere(replace(report, utility=LOST)):
        plain = form.replace("\\", "")
        assert f"{report.method.name}: {report.verdict.word}" in plain
        assert VERDICTS[report.verdict.word] in plain
        assert "Utility lost. On the test split accuracy is lower by 0.30" in plain
        assert "None" not in plain
        assert ("Cost: 33 s" in plain) == (report.cost is not None)
        assert ("0.52 [0.46, 0.58]" in plain) == (report.arms["unlearned"].membership_auc is not None)


def test_the_columns_stand_under_each_other() -> None:
    lines = str(example_report()).splitlines()
    head, rows = lines[1], lines[2:11]
    assert head.split() == ["before", "after", "retrained", "without", "S"]
    assert {len(row) for row in rows} == {len(head)}
    assert rows[-1].split()[:4] == ["membership", "AUC", "of", "S"]


def test_many_warnings_and_hostile_names_stay_short_and_harmless() -> None:
    report = example_report()
    warned = replace(report, verdict=replace(report.verdict, warnings=[HOSTILE, HOSTILE]))
    for form in shown_everywhere(replace(warned, method=replace(report.method, name=HOSTILE))):
        assert "\x1b" not in form
        assert "\u202e" not in form
    many = replace(report, verdict=replace(report.verdict, warnings=["no"] * 40))
    assert "40 things weaken this" in str(many)
    shown_everywhere(many)
    shown_everywhere(bare_report())


def test_a_split_shows_counts_and_no_record() -> None:
    rows = secrets_rows()
    rows[20]["prompt"], rows[20]["completion"] = rows[0]["prompt"], rows[0]["completion"]
    request = Records.ids("id", [row["id"] for row in rows[:10]])
    held_out = Records.ids("id", [row["id"] for row in rows[50:]])
    split = split_retained(Dataset.from_list(rows), request, holdout=held_out, digest_key=b"k" * 32)
    for form in shown_everywhere(split):
        assert "rows to forget (S)" in form
        assert "1 retained rows have the text of a forgotten row" in form
        for row in rows:
            assert row["id"] not in form
            assert row["completion"].strip() not in form
    assert str(split).splitlines()[1].split() == ["rows", "in", "D", "50"]
    # Neither positions nor digests of what is forgotten.
    assert "ForgetRows" not in repr(split)
    assert "digest" not in repr(split).replace("request_digest", "")
