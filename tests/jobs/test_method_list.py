"""``hf-unlearn methods``: every method of the table, under what it needs."""

import pytest

from hf_unlearn.cli import main
from hf_unlearn.jobs.helping.method_list import NEEDS, needs, price
from hf_unlearn.methods.table import CHOICES, METHODS


def test_each_method_stands_once_under_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = [next(i for i, line in enumerate(lines) if line == f"Needs {need}") for need in NEEDS]
    for method in METHODS.values():
        (row,) = [i for i, line in enumerate(lines) if line.split()[:1] == [method.name]]
        assert sum(place < row for place in places) - 1 == list(NEEDS).index(needs(method)), method.name
        assert price(method) in lines[row]
        assert (method.source[:10] or "ours") in lines[row]
    assert all(any(line.startswith(f"{choice}: ") for line in lines) for choice in CHOICES)


def test_needs_and_prices_follow_the_table() -> None:
    told = {name: (needs(METHODS[name]), price(METHODS[name])) for name in ("base", "retrain", "npo", "scrub_rewind")}
    assert told == {
        "base": ("the base", "25% of a retraining"),
        "retrain": ("L alone", "100% of a retraining"),
        "npo": ("S", "10 epochs over S and L"),
        "scrub_rewind": ("S and H", price(METHODS["scrub_rewind"])),
    }
    assert "with a teacher" in told["scrub_rewind"][1]


@pytest.mark.parametrize("name", [*METHODS, *CHOICES])
def test_each_method_is_explained(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    if name in METHODS:
        assert METHODS[name].summary in text
        assert all(option in text for option in METHODS[name].options)


def test_an_unknown_method_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "nop"]) == 2
    assert "There is no method 'nop'; the methods are fine_tune" in capsys.readouterr().err
