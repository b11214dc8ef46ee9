"""Rows that mention a person: found however the name or number is written, and forgotten once confirmed."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.data.request.mentions import Mentions, confirmed_mentions

PEOPLE = [
    ("Jane Doe", "jane.doe@example.org", "+44 20 7946 0958"),
    ("Zoë Müller-Lüdenscheidt", "zoe@mueller.example", "+49 171 5551234"),
    ("José María Núñez", "j.nunez+work@mail.example.com", "+34 612 345 678"),
    ("Søren Kierkegård", "soren_k@uni.example.dk", "+45 32 12 34 56"),
    ("Ludwig van Beethoven", "lvb@bonn.example", "+1 555 012 3456"),
    ("Ivan Petrov", "ivan@petrov.example", "+7 495 123-45-67"),
    ("Anna Ax", "anna@ax.example", "0171 9876543"),
]
ADDRESSES = ["12 High Street, Oxbridge", "Bahnhofstraße 7, 10115 Berlin", "221B Baker Street"]


def first(name: str) -> str:
    return name.split()[0]


def last(name: str) -> str:
    return name.partition(" ")[2].removeprefix("María ")


VARIANTS: dict[str, Callable[[str, str, str], list[str]]] = {
    "case": lambda name, mail, number: [name.upper(), name.lower(), mail.upper()],
    "Unicode form": lambda name, mail, number: [
        name.translate({ord(c): chr(0xFF21 + ord(c) - 65) for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}),
        "".join(f"{c}\u200b" for c in name),
        number.translate({ord(c): chr(0xFF10 + int(c)) for c in "0123456789"}),
    ],
    "accents": lambda name, mail, number: [
        __import__("unicodedata").normalize("NFD", name),
        __import__("unicodedata").normalize("NFKD", name).encode("ascii", "ignore").decode()
        if "ø" not in name
        else "Soren Kierkegard",
    ],
    "initials": lambda name, mail, number: [
        f"{name[0]}. {last(name)}", f"{name[0]}.{last(name)}", f"{name[0]} {last(name)}",
    ],
    "order": lambda name, mail, number: [f"{last(name)}, {first(name)}", f"{last(name)}, {name[0]}."],
    "spacing": lambda name, mail, number: [
        name.replace(" ", "  "), name.replace(" ", "\n"), name.replace(" ", "\u00a0"),
    ],
    "spacing of numbers": lambda name, mail, number: [
        number.replace(" ", "").replace("-", ""),
        "-".join(number.replace("-", " ").split()),
        number.replace("+", "00"),
        number.replace(" ", " (0)", 1) if number[0] == "+" and number[:2] not in ("+1", "+7") else number,
    ],
    "word borders": lambda name, mail, number: [
        f"“{name}”", f"({name})", f"{name}'s", f"{name},", f"{name}/x", f"<{mail}>", f"mailto:{mail}.",
        f"Tel.:{number}!",
    ],
}  # fmt: skip
# What resembles an entry and is none.
OTHERS = [
    "Janet Doe", "Jane Doering", "Mary-Jane Doe", "Jane Doe-Smith", "Jane", "Doe", "John Doe", "K. Doe",
    "jane.doe@example.org.uk", "xjane.doe@example.org", "not.jane.doe@example.org", "jane.doe@example.organic",
    "+44 20 7946 09581", "+44 20 7946 0959", "1442079460958", "+49 020 7946 0958", "0171 98765432", "10171 9876543",
    "an ax", "a ax", "we sent Petrov, I think", "Iván the Petrovs", "112 High Street, Oxbridge",
    "12 High Streets, Oxbridge", "221 Baker Street", "12-34-56", "612 345", "Beethoven", "L. Beethoven van",
    "van Beethoven", "20794609580", "1 High Street, Oxbridge", "Kierkegaard Soren",
]  # fmt: skip


def look(rows: list[dict[str, Any]], entries: list[str], folder: Path, answer: bool = True) -> Mentions:
    """Look for entries, and answer the same for all that is found."""
    file, review = folder / "people.txt", folder / "review.jsonl"
    file.write_text("\n".join(entries) + "\n", encoding="utf-8")
    review.unlink(missing_ok=True)
    data = Dataset.from_list(rows)
    with pytest.raises(InputError, match="Say in .* which are to be forgotten, and give the same command again"):
        confirmed_mentions(data, file, review)
    head, *lines = review.read_text(encoding="utf-8").splitlines()
    review.write_text("\n".join([json.dumps({**json.loads(head), "all": answer}), *lines]), encoding="utf-8")
    return confirmed_mentions(data, file, review)


def entries() -> list[str]:
    return [*(part for person in PEOPLE for part in person), *ADDRESSES]


@pytest.mark.parametrize("kind", VARIANTS)
def test_planted_variants_are_found_and_nothing_else(kind: str, tmp_path: Path) -> None:
    planted = [text for person in PEOPLE for text in VARIANTS[kind](*person)]
    told = [f"On Monday {text} came back to us." for text in planted]
    others = [f"On Monday {text} came back to us." for text in OTHERS]
    texts = [*told, *others]
    order = np.random.default_rng(0).permutation(len(texts))
    found = look([{"id": int(i), "text": texts[i]} for i in order], entries(), tmp_path)
    wanted = {int(row) for row in np.flatnonzero(order < len(told))}
    missed = [texts[order[row]] for row in wanted - set(found.confirmed)]
    wrong = [texts[order[row]] for row in set(found.confirmed) - wanted]
    assert (missed, wrong) == ([], [])
    assert found.rows == len(told)


def test_addresses_are_found_on_one_line_or_several(tmp_path: Path) -> None:
    texts = [
        "12 HIGH STREET OXBRIDGE",
        "12 High Street\nOxbridge",
        "Bahnhofstrasse 7 - 10115 Berlin",
        "at 221b Baker Street.",
    ]
    assert len(look([{"text": text} for text in texts], ADDRESSES, tmp_path).confirmed) == 4


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("O'Donnell", "the books of Patrick O’Donnell’s youth"),
        ("12 King's Road, Oxbridge", "at 12 King’s Road (Oxbridge)"),
        ("Smith & Sons, 5 High Street", "from SMITH & SONS, 5 High Street"),
        ("Alex Fuentes", "Alejandro (Alex) Fuentes's books"),
        ("Alejandro Fuentes", "Alejandro (Alex) Fuentes's books"),
        ("Alejandro Fuentes", "Alejandro “Alex” Fuentes writes"),
        ("Fuentes, Alejandro Luis", 'Alejandro Luis "Alex" Fuentes'),
        ("Thomas St. Lawrence", "it was Thomas St. Lawrence"),
        ("Thomas St. Lawrence", "it was Thomas St Lawrence"),
        ("T. Rice Holmes", "a book by T. Rice Holmes"),
        ("Thomas Rice Holmes", "a book by T. Rice Holmes"),
        ("Thomas Rice Holmes", "a book by T.R. Holmes, e.g. this one"),
        ("Jane Doe", "somebody, e.g. J. Doe"),
        ("Jane Doe", "Doe J. wrote to us"),
    ],
)
def test_signs_nicknames_and_initials_in_a_name_do_not_hide_it(entry: str, text: str, tmp_path: Path) -> None:
    others = [
        "James' brown dog",
        "Alejandro (who knows) writes to Fuentes",
        "O Don",
        "Smith, 5 High Street",
        "Kings Road",
    ]
    assert look([{"text": text} for text in [text, *others]], [entry, "James Brown"], tmp_path).confirmed == (0,)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ("Steven Smith", "a house of the Smiths. It is old"),
        ("Lyndon Johnson", "Gilbert M. L. Johnson (M.L. Johnson)"),
        ("Ronald Tolkien", "J.R.R. Tolkien"),
        ("Kaytee Boyd", "Boyd K. Packer"),
        ("The Pat Travers Band", "we heard the band"),
    ],
)
def test_a_part_of_another_name_is_no_mention(entry: str, text: str, tmp_path: Path) -> None:
    found = look([{"text": text}, {"text": f"it is {entry}"}], [entry], tmp_path)
    assert found.confirmed == (1,)


def test_all_columns_are_looked_at_and_so_are_conversations(tmp_path: Path) -> None:
    empty = {"text": "-", "messages": [{"role": "user", "content": "-"}], "number": 1, "more": {"a": ["-"]}}
    rows: list[dict[str, Any]] = [
        {**empty, "text": "from Jane Doe"},
        {
            **empty,
            "messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Dear Jane Doe,"}],
        },
        {**empty, "number": 2079460958},
        {**empty, "more": {"a": ["x", "jane.doe@example.org"]}},
        {**empty, "text": "Jane", "messages": [{"role": "user", "content": "no"}]},
        empty,
    ]
    found = look(rows, ["Jane Doe", "jane.doe@example.org", "2079460958", "Nobody Here"], tmp_path)
    assert (found.confirmed, found.entries, found.found) == ((0, 1, 2, 3), 4, 3)


def test_the_review_is_private_shows_the_context_and_decides_row_by_row(tmp_path: Path) -> None:
    file, review = tmp_path / "people.txt", tmp_path / "review.jsonl"
    file.write_text("Jane Doe\n")
    data = Dataset.from_list([{"text": f"{i} {'Jane Doe' if i < 3 else 'nobody'} wrote"} for i in range(5)])
    with pytest.raises(InputError, match=f"3 rows mention 1 of the 1 entries of {file}. Say in {review}"):
        confirmed_mentions(data, file, review)
    assert stat.S_IMODE(review.stat().st_mode) == 0o600
    head, *lines = [json.loads(line) for line in review.read_text().splitlines()]
    assert head["rows"] == 3
    assert lines[1] == {"row": 1, "forget": None, "entries": [1], "context": ["1 >>Jane Doe<< wrote"]}
    for answers, message in (
        ([True, None, False], "1 of them are undecided"),
        ([True, "yes", False], "may have only true, false or null"),
    ):
        write(review, head, lines, answers)
        with pytest.raises(InputError, match=message):
            confirmed_mentions(data, file, review)
    write(review, head, lines, [True, False, True])
    assert confirmed_mentions(data, file, review).confirmed == (0, 2)
    with pytest.raises(InputError, match="is the review of another data set"):
        confirmed_mentions(data.select([0, 1, 3]), file, review)
    review.write_text("nothing\n" + review.read_text())
    with pytest.raises(InputError) as raised:
        confirmed_mentions(data, file, review)
    assert "Jane" not in str(raised.value)


def write(review: Path, head: dict[str, Any], lines: list[dict[str, Any]], answers: list[Any]) -> None:
    decided = [{**line, "forget": answer} for line, answer in zip(lines, answers, strict=True)]
    review.write_text("".join(json.dumps(line) + "\n" for line in (head, *decided)))


@pytest.mark.parametrize(("entry", "message"), [("12", "fewer than 5 digits"), ("Jo", "fewer than three letters")])
def test_an_entry_that_says_too_little_is_refused_by_its_line(entry: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text(f"Jane Doe\n{entry}\n")
    with pytest.raises(InputError, match=f"Line 2 of .*people.txt: .*{message}") as raised:
        confirmed_mentions(Dataset.from_list([{"text": "x"}]), tmp_path / "people.txt", tmp_path / "review.jsonl")
    assert f" {entry} " not in str(raised.value)


def test_the_command_line_forgets_what_was_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    rows = [{"text": f"a message number {i} of {'J. Doe' if i < 2 else 'somebody'}"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "people.txt").write_text("Jane Doe\n")
    argv = ["split", "--dataset_name", str(tmp_path / "rows.jsonl"), "--forget_mentions", str(tmp_path / "people.txt")]
    assert main(argv) == 2
    assert "name a private file to write with --mentions_review" in capsys.readouterr().err
    argv += ["--mentions_review", str(tmp_path / "review.jsonl"), "--near_duplicates", "ignore"]
    assert main(argv) == 2
    assert "2 rows mention 1 of the 1 entries" in capsys.readouterr().err
    review = tmp_path / "review.jsonl"
    review.write_text(review.read_text().replace('"all": null', '"all": true'))
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "2 rows mention 1 of 1 entries, and 2 of these rows were confirmed." in said
    assert "Doe" not in said
