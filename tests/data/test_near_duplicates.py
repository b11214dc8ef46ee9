"""Near copies of S that stay in L: found, counted exactly, moved, reviewed, and never shown."""

import json
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, IterableDataset
from huggingface_hub import HfApi
from hypothesis import event, given, settings
from hypothesis import strategies as st

from hf_unlearn import InputError, Records, UnlearningReport, split_retained
from hf_unlearn.cli import main
from hf_unlearn.data.copies import near as near_copies
from hf_unlearn.data.copies import text_slices
from hf_unlearn.data.copies.near import find_near_copies
from hf_unlearn.data.copies.paraphrases import SentenceEncoder
from hf_unlearn.data.copies.review import ABOUT
from hf_unlearn.evaluation.verdict import Provenance, decide
from hf_unlearn.publishing.card import render_card

from ..conftest import write_rows
from ..publishing.test_card import example_report
from ..support.models import corpus

# The definition, word for word, in plain Python


def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def small(words: list[str]) -> set[tuple[str, ...]]:
    return {*runs(words, 1), *runs(words, 2)}


def digits(shingles: set[tuple[str, ...]]) -> int:
    counts = [len(re.findall(r"\d", shingle[0])) for shingle in shingles if len(shingle) == 1]
    return sum(count for count in counts if count >= 4)


def longest_passage(a: list[str], b: list[str], rare: set[tuple[str, ...]]) -> int:
    longest = 0
    for i in range(len(a)):
        for j in range(len(b)):
            if i and j and a[i - 1] == b[j - 1]:
                continue
            length = 0
            while i + length < len(a) and j + length < len(b) and a[i + length] == b[j + length]:
                length += 1
            if length >= 20:
                of_passage = rare & set(runs(a[i : i + length], 4))
                if len(of_passage) >= min(len(rare), length - 3) / 2:
                    longest = max(longest, length)
    return longest


def has_run(words: list[str], run: list[str]) -> bool:
    return tuple(run) in runs(words, len(run))


def is_quoted(words: list[str], retained: list[list[str]]) -> bool:
    """Whether a text of so few words is rare enough to count where a retained row has all of it."""
    rows = sum(has_run(row, words) for row in retained)
    rarest = min(sum(word in row for row in retained) for word in words)
    most = min(20, max(3, 0.02 * len(retained))) if rarest <= 3 * rows else len(words) - 3
    return 3 <= len(words) <= 7 and rows <= most


def by_hand(forgotten: list[str], retained: list[str], threshold: float) -> dict[tuple[int, int], tuple[float, float]]:
    """The Jaccard index and the containment of each pair that counts, by places in the two lists."""
    frequency = Counter(run for text in retained for run in set(runs(text.split(), 4)))
    found = {}
    for j, forgotten_text in enumerate(forgotten):
        a = forgotten_text.split()
        bound = max(20, 10 * min((frequency[run] for run in runs(a, 4)), default=math.inf))
        common = [i for i, run in enumerate(runs(a, 4)) if frequency[run] > bound]
        hidden = {place for i in common for place in range(i, i + 4)}
        hidden_pairs = {place for i in common for place in range(i, i + 3)}
        particular = {run for i, run in enumerate(runs(a, 1)) if i not in hidden}
        particular |= {run for i, run in enumerate(runs(a, 2)) if i not in hidden_pairs}
        particular = particular or small(a)
        rare = {run for run in runs(a, 4) if frequency[run] <= bound}
        short = bool(a) and is_quoted(a, [text.split() for text in retained if text])
        for i, retained_text in enumerate(retained):
            b = retained_text.split()
            if not a or not b:
                continue
            both = small(a) & small(b)
            jaccard = len(both) / len(small(a) | small(b))
            similar = jaccard >= (1 if min(len(a), len(b)) < 6 else threshold) - 1e-9
            has_digits = digits(both & particular) >= digits(particular) / 2 and digits(both) >= digits(small(a)) / 2
            if short and has_run(b, a):
                found[i, j] = (jaccard, 1.0)
                continue
            if similar and not has_digits and digits(small(b) - both) and jaccard < 0.95 - 1e-9:
                continue
            similar &= len(both & particular) >= len(particular) / 2
            shared = set(runs(a, 4)) & set(runs(b, 4))
            containment = len(shared) / max(len(set(runs(a, 4))), 1)
            quoted = len(a) >= 8 and containment >= (0.8 if len(a) >= 20 else 1) - 1e-9
            quoted &= len(shared & rare) >= len(rare) / 2
            quoted &= has_digits
            if similar or quoted or longest_passage(a, b, rare):
                found[i, j] = (jaccard, containment)
    return found


def search(forgotten: list[str], retained: list[str]) -> list[dict[str, Any]]:
    dataset = Dataset.from_dict({"text": retained})
    look = np.ones(len(retained), bool)
    parts = list(find_near_copies(dataset, ["text"], pa.array(forgotten, pa.large_string()), look)[1])
    rows = [row for part in parts for row in set(part["row"].to_pylist())]
    assert len(rows) == len(set(rows)), "no row is in two parts"
    return [pair for part in parts for pair in part.to_pylist()]


WORDS = ["ann", "bob", "cat", "345", "6789", "12345", "a0b1c2d3", "dog", "eve"]


@st.composite
def related_texts(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Short texts of few words, made of each other's pieces."""
    alphabet = WORDS[: draw(st.integers(2, len(WORDS)))] + (
        [f"w{i}" for i in range(40)] if draw(st.booleans()) else []
    )
    pieces = draw(st.lists(st.lists(st.sampled_from(alphabet), min_size=1, max_size=26), min_size=1, max_size=4))

    def text() -> list[str]:
        words = [word for piece in draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=3)) for word in piece]
        for _ in range(draw(st.integers(0, 3))):
            words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(alphabet))
        return words

    forgotten = [" ".join(text()) for _ in range(draw(st.integers(1, 4)))]
    retained = [" ".join(text()) for _ in range(draw(st.integers(1, 8)))]
    if draw(st.booleans()):
        # Enough records of a template to make boilerplate of it.
        template = [f"t{i}" for i in range(draw(st.integers(5, 14)))]
        for texts in [forgotten, retained, retained]:
            record = list(template)
            for _ in range(draw(st.integers(1, 3))):
                record[draw(st.integers(0, len(template) - 1))] = draw(st.sampled_from(["x", "y", "12345", "67890"]))
            texts.append(" ".join(record))
        retained += [" ".join(template)] * 25
    return list(dict.fromkeys(forgotten)), retained


@settings(deadline=None, max_examples=100)
@given(related_texts(), st.sampled_from([0.3, 0.55, 0.8, 1.0]), st.sampled_from([1, 2**23]))
def test_what_is_found_is_what_the_definition_says(
    texts: tuple[list[str], list[str]], threshold: float, slice_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_slices, "SLICE_BYTES", slice_bytes)
        patch.setattr(near_copies, "LOOKED_UP", slice_bytes)
        patch.setattr(near_copies, "NEAR_THRESHOLD", threshold)
        pairs = search(*texts)
    expected = by_hand(*texts, threshold)
    found = {(pair["row"], pair["forgotten"]): (pair["jaccard"], pair["containment"]) for pair in pairs}
    event(f"found {min(len(expected), 3)}")
    assert found.keys() == expected.keys()
    for pair, numbers in expected.items():
        assert found[pair] == pytest.approx(numbers)


# Planted in real text


def changed(text: str, draw: random.Random, words: list[str]) -> str:
    """The text with every tenth word replaced."""
    copy = text.split()
    for place in draw.sample(range(len(copy)), max(1, round(len(copy) / 10))):
        copy[place] = draw.choice(words)
    return " ".join(copy)


def planted_in(texts: list[str], seed: int) -> dict[str, tuple[int, int]]:
    """How many copies of each kind were planted and how many were found; under ``""`` what else was found."""
    draw = random.Random(seed)
    texts = list({" ".join(text.lower().split()): text for text in texts}.values())
    draw.shuffle(texts)
    forget, retained = texts[: len(texts) // 4], texts[len(texts) // 4 :]
    words = [word for text in retained for word in re.findall(r"[^\W_]+", text)]
    planted: list[tuple[str, str]] = []
    for text in forget:
        made = {"form": f" {text.upper()}\u00a0".replace(" ", "  "), "changed": changed(text, draw, words)}
        if len(re.findall(r"[^\W_]+", text)) >= 20:
            made["quoted"] = f"{draw.choice(retained)}\n> {text}\n{draw.choice(retained)}"
        if len(text.split()) < 10:
            del made["changed"]
        if re.search(r"\d{5}", text):
            made = {"digits": re.sub(r"\d", lambda d: str((int(d[0]) + draw.randint(1, 9)) % 10), text)}
        planted.append((kind := draw.choice(list(made)), made[kind]))
    rows = [*((text, "S") for text in forget), *((copy, kind) for kind, copy in planted), *((r, "") for r in retained)]
    draw.shuffle(rows)
    dataset = Dataset.from_dict({"text": [text for text, _ in rows], "kind": [kind for _, kind in rows]})
    split = split_retained(
        dataset, Records.where("kind", "S"), duplicates="forget", near_duplicates="forget", duplicate_columns=["text"]
    )
    made, found = Counter(dataset["kind"][:]), Counter(split.forget["kind"][:])
    return {kind: (made[kind], found[kind]) for kind in made if kind != "S"}


def all_found(counts: dict[str, tuple[int, int]], kinds: tuple[str, ...], at_least: int) -> None:
    for kind in kinds:
        made, found = counts[kind]
        assert made >= at_least, kind
        assert found >= (1 if kind == "form" else 0.98) * made, kind


def test_planted_copies_are_found_and_nothing_else() -> None:
    paragraphs = [paragraph.split() for paragraph in corpus()]
    words = [word for paragraph in paragraphs for word in paragraph]
    random.Random(2).shuffle(words)
    shuffled = iter(words)
    texts = [" ".join(next(shuffled) for _ in paragraph) for paragraph in paragraphs]
    counts = planted_in(texts, seed=11)
    all_found(counts, ("form", "changed", "quoted"), 70)
    assert counts[""] == (len(paragraphs) * 3 // 4 + 1, 0)


@pytest.mark.parametrize(("name", "natural"), [("sms", 0.025), ("tofu", 0.002), ("tinystories", 0.002)])
def test_planted_copies_in_texts_of_people(shared: Path, name: str, natural: float) -> None:
    place = {"sms": "sms_spam/sms.tsv", "tofu": "tofu/full.json", "tinystories": "tinystories/tinystories.txt"}[name]
    content = (shared / "data" / place).read_text(encoding="utf-8")
    if name == "sms":
        texts = [line.partition("\t")[2] for line in content.splitlines()]
    elif name == "tofu":
        rows = [json.loads(line) for line in content.splitlines()]
        texts = [f"{row['question']} {row['answer']}" for row in rows]
    else:
        texts = [paragraph for paragraph in content.split("\n\n") if paragraph.strip()]
    counts = planted_in(texts, seed=12)
    all_found(counts, ("form", "changed", "quoted"), 30)
    assert counts.get("digits", (0, 0))[1] == 0, "another number makes another record"
    # People repeat themselves: campaigns of SMS spam, questions of TOFU that differ in a name.
    assert counts[""][1] <= natural * counts[""][0]


# What is and what is no near copy


def looked_at(texts: list[str | None], **options: Any) -> list[int]:
    """The rows found near the first."""
    texts = [*texts, "nothing of the kind"]
    dataset = Dataset.from_dict({"text": texts, "n": list(range(len(texts)))})
    split = split_retained(dataset, Records.rows([0]), near_duplicates="forget", duplicates="report", **options)
    return [n for n in split.forget["n"][:] if n]


LETTER = "dear ann this is to tell you that your parcel with the blue lamp is on its way to hill road and comes today"


def test_a_template_is_no_copy_of_its_records() -> None:
    draw = random.Random(1)

    def record(name: str, number: int) -> str:
        return f"Dear {name}, your order {number} has left our house and will be with you in three days. Thank you!"

    family = [record("".join(draw.choices("abcdefgh", k=6)), draw.randrange(10**6, 10**7)) for _ in range(60)]
    copies = [record("Johanna", 4711471).replace("three", "four"), "Re: " + record("johanna", 4711471)]
    assert looked_at([record("Johanna", 4711471), *copies, *family]) == [1, 2]
    # Two records make no boilerplate, but their numbers tell them apart, unless that is all; a name alone does not.
    long_text = " ".join(f"w{i}" for i in range(80))
    assert looked_at([f"{LETTER} 4711471", f"{LETTER} 9998887"]) == []
    assert looked_at([f"{long_text} 4711471", f"{long_text} 9998887"]) == [1]
    assert looked_at([record("Johanna", 4711471), record("Johanna", 9998887)]) == []
    assert looked_at([record("Johanna", 4711471), record("Magdalena", 4711471)]) == [1]


def test_a_record_that_many_have_copied_is_found_in_all() -> None:
    draw, words = random.Random(3), corpus()[0].split()
    assert looked_at([LETTER, *(changed(LETTER, draw, words) for _ in range(200))]) == list(range(1, 201))


@pytest.mark.parametrize(("whole", "found"), [(3, 25), (1, 1)])
def test_boilerplate_is_what_far_more_have_than_the_rarest_part(whole: int, found: int) -> None:
    common, rare = " ".join(f"t{i}" for i in range(12)), " ".join(f"e{i}" for i in range(6))
    texts = [*(f"{common} {rare} z{i}" for i in range(whole)), *(f"{common} y{i}" for i in range(25 - whole))]
    assert len(looked_at([f"{common} {rare}", *texts])) == found


def test_of_a_form_letter_the_part_with_the_name_is_a_passage() -> None:
    words = [f"w{i}" for i in range(60)]
    letter = " ".join([*words[:30], "johanna", *words[30:]])
    with_name, without = [*words[20:30], "johanna", *words[30:44]], words[:24]
    texts = [" ".join([*corpus()[i].split(), *part]) for i, part in enumerate((with_name, without))]
    assert looked_at([letter, *texts, *[" ".join(words)] * 30]) == [1]


def test_a_footer_that_many_have_is_no_passage() -> None:
    footer = (
        "this message is for its recipient alone and may not be passed on to others without the written leave of its "
        "sender who is not liable for what others make of it"
    )
    texts = corpus()[:40]
    assert looked_at([f"{LETTER} {footer}", *(f"{text} {footer}" for text in texts)]) == []
    assert looked_at([f"{LETTER} {footer}", *(f"{text} {footer}" for text in texts[:5])]) == [1, 2, 3, 4, 5]


def test_quotations_of_all_and_of_a_part() -> None:
    long_text, others = " ".join(corpus()[3:12]), corpus()[30:34]
    assert len(long_text.split()) > 150
    part = " ".join(long_text.split()[50:80])
    assert looked_at([LETTER, f"{others[0]} {LETTER} {others[1]}", f"{others[2]} {LETTER[:60]} {others[3]}"]) == [1]
    assert looked_at([long_text, f"{others[0]} {part} {others[1]}", part, part[:60]]) == [1, 2]
    interleaved = f"> {LETTER[:56]}\nThis is good to know!\n> {LETTER[56:]}\n{others[0]}"
    assert looked_at([LETTER, interleaved]) == [1]


# Texts of a few words

FILLER = [" ".join(words) for words in zip(*[iter(" ".join(corpus()[:80]).split())] * 9, strict=False)]


def quotes_of(text: str, rows: list[Any], columns: str = "text", **options: Any) -> tuple[int, int, int]:
    """Rows that quote a record, and how many texts and rows were too common to count, among ordinary rows."""
    made = {"text": lambda t: {"text": t}}
    made["prompt"] = lambda t: {"prompt": " ".join(t.split()[:2]), "completion": " ".join(t.split()[2:])}
    made["messages"] = lambda t: {
        "messages": [
            {"role": r, "content": c} for r, c in zip(["user", "assistant"], made["prompt"](t).values(), strict=True)
        ]
    }
    make = made[columns]
    rest = [row if isinstance(row, dict) else make(row) for row in [*rows, *FILLER]]
    dataset = Dataset.from_list([{"id": i, **row} for i, row in enumerate([make(text), *rest])])
    (found,) = split_retained(dataset, Records.ids("id", [0]), **options).audit.near_duplicates
    return found.rows, found.common_texts, found.common_rows


@pytest.mark.parametrize("columns", ["text", "prompt", "messages"])
@pytest.mark.parametrize(
    "text",
    [
        "door code 4821",
        "Quillon owes Ann 48 crowns",
        "PIN of Quillon Drabbeck is 4821",
        "Quillon Drabbeck owes the bank 48213 crowns",
        "the big dog ate the cake",
    ],
)
def test_a_record_of_a_few_words_is_found_where_a_row_quotes_it_whole(text: str, columns: str) -> None:
    quoting = f"Hello, as you wrote:\n> {text.upper()}!\nWe will look into it."
    pieces = text.split()
    parts = [" ".join(pieces[:-1]), " ".join(pieces[1:]), " ".join(reversed(pieces))]
    others = [f"{before} {part} {after}" for before, part, after in zip(FILLER[:3], parts, FILLER[3:6], strict=True)]
    assert quotes_of(text, [quoting, *others], columns) == (1, 0, 0)
    assert quotes_of(text, others, columns) == (0, 0, 0)


@pytest.mark.parametrize("columns", ["text", "messages"])
@pytest.mark.parametrize(
    ("text", "rows", "counts"),
    [
        ("yes please", 1, (0, 1, 1)),
        ("yes please", 30, (0, 1, 30)),
        ("thanks", 12, (0, 1, 12)),
        ("Yes, please do!", 30, (0, 1, 30)),
        ("sorry I will call later today", 30, (0, 1, 30)),
        ("the to is", 1, (0, 1, 1)),
        ("Yes, please do!", 3, (3, 0, 0)),
    ],
)
def test_what_many_say_is_counted_and_is_no_quotation(
    text: str, rows: int, counts: tuple[int, int, int], columns: str
) -> None:
    repeated = [f"{before} {text} {after}" for before, after in zip(FILLER[:rows], FILLER[40:], strict=False)]
    assert quotes_of(text, repeated, columns) == counts


def test_what_a_held_out_row_says_too_is_no_quotation() -> None:
    text, quoting = "we open at noon", ["They wrote: we open at noon."]
    other = Dataset.from_dict({"id": [-1, -2], "text": ["So: we open at NOON, then", "nothing"]})
    assert quotes_of(text, quoting) == (1, 0, 0)
    assert quotes_of(text, quoting, holdout=other) == (0, 1, 1)
    assert quotes_of(text, [*quoting, "Well, we open at noon!"], holdout=Records.ids("id", [2])) == (0, 1, 1)
    assert quotes_of(text, quoting, holdout=other.select([1])) == (1, 0, 0)


def test_short_quotes_are_moved_reviewed_and_found_in_a_stream(tmp_path: Path) -> None:
    texts = ["PIN of Quillon is 4821", "He said: pin of Quillon is 4821.", "yes please", "yes please sir", *FILLER]
    dataset = Dataset.from_dict({"text": texts, "n": list(range(len(texts)))})
    review = tmp_path / "review.jsonl"
    for data in (dataset, dataset.to_iterable_dataset()):
        split = split_retained(data, Records.ids("n", [0, 2]), near_duplicates="forget", near_review=review)
        assert numbers(split.forget) == [0, 1, 2]
        about, pair = map(json.loads, review.read_text(encoding="utf-8").splitlines())
        assert (about["rows"], pair["retained_row"], pair["forget_row"], pair["containment"]) == (1, 1, 0, 1)
    with pytest.raises(InputError, match="1 retained rows are near copies"):
        split_retained(dataset, Records.ids("n", [0]), near_duplicates="error")


@pytest.mark.parametrize(
    ("text", "changes", "other"),
    [
        ("我昨天在北京的图书馆里借了三本关于机器学习的书", ("北京", "上海"), "他明天去北京的公园里看花"),
        ("昨日図書館で機械学習の本を三冊借りました", ("三", "五"), "明日公園で花を見ます"),
        ("เมื่อวานฉันยืมหนังสือสามเล่มจากห้องสมุด", ("สาม", "ห้า"), "พรุ่งนี้เราจะไปสวน"),
        ("어제 나는 서울 도서관에서 기계 학습에 관한 책을 세 권 빌렸다", ("서울", "부산"), "내일 나는 간다"),
        ("Ма́ма мыла раму и пела песню о море весь день", ("раму", "РАМЫ"), "Папа мыл раму и пел о море"),
        ("def f(x):\n    return x + 1  # adds one to x and gives it back", ("f(x)", "g( x )"), "x = f(x)  # x"),
    ],
)
def test_texts_of_any_script(text: str, changes: tuple[str, str], other: str) -> None:
    assert looked_at([text, text.replace(*changes) + "!", other, f"{other} {other}"]) == [1]


def test_texts_without_words_and_short_ones() -> None:
    texts = ["🙂🙂", "🙂🙂!", "...", "", None, " ", "see you"]
    assert looked_at(texts) == []
    assert looked_at(["See you, Ann!", "see you ann", "see you", "see you bob", "ann"]) == [1]


def test_huge_texts() -> None:
    draw = random.Random(5)
    book = [f"w{draw.randrange(10**6)}" for _ in range(100_000)]
    page = " ".join(book[1000:1300])
    noise = "ha " * 100_000
    assert looked_at([page, " ".join(book), noise, " ".join(book[5000:])]) == [1]
    assert looked_at([noise, "ha " * 90_000 + "ho", " ".join(book)]) == [1]


def test_exact_copies_are_no_near_copies() -> None:
    dataset = Dataset.from_dict({"text": [LETTER, LETTER.upper(), LETTER + " now", "other"]})
    audit = split_retained(dataset, Records.rows([0])).audit
    assert (audit.duplicates_retained, audit.near_duplicates_retained) == (1, 1)
    assert [(near.rows, near.pairs, near.encoder) for near in audit.near_duplicates] == [(1, 1, None)]
    assert audit.near_duplicates[0].histogram == [0] * 9 + [1]
    audit = split_retained(dataset, Records.rows([0]), duplicates="forget", near_duplicates="forget").audit
    assert (audit.forget_rows, audit.duplicates_forgotten, audit.near_duplicates_forgotten) == (3, 1, 1)
    assert (audit.duplicates_retained, audit.near_duplicates_retained) == (0, 0)


# In a split


def near_rows() -> Dataset:
    """Row 0 and its copies: exact 1 and 8, near 2 and 5, quoted in 6; row 7 is held out."""
    blue, hill = LETTER.replace("ann", "eve").replace("blue", "red"), LETTER.replace("blue lamp", "old hill")
    texts = [
        LETTER, LETTER.title(), blue, "what is new", "who are you",
        f"{LETTER} and rings", f"You wrote: {LETTER}. That is kind of you, I will wait for it and call you.",
        hill, f" {LETTER}\n",
    ]  # fmt: skip
    return Dataset.from_dict({"id": [f"r{i}" for i in range(9)], "n": list(range(9)), "text": texts})


def numbers(part: Any) -> list[int]:
    return [row["n"] for row in part]


@pytest.mark.parametrize("shards", [0, 1, 3])
@pytest.mark.parametrize(("duplicates", "gone"), [("report", [0, 2, 5, 6]), ("forget", [0, 1, 2, 5, 6, 8])])
def test_near_copies_are_forgotten_too(shards: int, duplicates: Any, gone: list[int]) -> None:
    dataset: Any = near_rows()
    if shards:
        dataset = dataset.to_iterable_dataset(num_shards=shards)
    split = split_retained(
        dataset,
        Records.ids("id", ["r0"]),
        holdout=Records.ids("id", ["r7"]),
        duplicates=duplicates,
        near_duplicates="forget",
    )
    assert numbers(split.forget) == gone
    assert numbers(split.holdout) == [7]
    assert numbers(split.retained) == [n for n in range(9) if n not in (*gone, 7)]
    audit = split.audit
    assert (audit.near_duplicate_policy, audit.near_duplicates_forgotten) == ("forget", 3)
    assert (audit.near_duplicates_retained, audit.forget_rows) == (0, len(gone))
    if not shards:
        assert split.forget_rows is not None
        assert split.forget_rows.rows.tolist() == [n if n < 7 else n - 1 for n in gone]


def test_a_stream_by_position() -> None:
    stream = near_rows().to_iterable_dataset()
    split = split_retained(stream, Records.rows([0]), near_duplicates="forget")
    assert numbers(split.forget) == [0, 2, 5, 6, 7]


def test_report_and_error() -> None:
    split = split_retained(near_rows(), Records.ids("id", ["r0"]))
    assert numbers(split.forget) == [0]
    assert split.audit.near_duplicates_retained == 4
    assert split.audit.near_duplicates[0].threshold == 0.55
    with pytest.raises(
        InputError, match="4 retained rows are near copies of a row to forget.*near_duplicates='forget'"
    ):
        split_retained(near_rows(), Records.ids("id", ["r0"]), near_duplicates="error")


def test_nobody_looks_where_nobody_looks_for_copies() -> None:
    for options in ({"duplicates": None}, {"near_duplicates": None}):
        audit = split_retained(near_rows(), Records.ids("id", ["r0"]), **options).audit  # type: ignore[arg-type]
        assert (audit.near_duplicates_retained, audit.near_duplicate_policy, audit.near_duplicates) == (None, None, [])
    for options in (
        {"duplicates": None, "near_duplicates": "error"},
        {"near_duplicates": None, "near_review": Path()},
    ):
        with pytest.raises(InputError, match="looked for only together with exact copies"):
            split_retained(near_rows(), Records.ids("id", ["r0"]), **options)  # type: ignore[arg-type]


def test_conversations_pairs_and_words() -> None:
    def chat(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text[:50]}, {"role": "assistant", "content": text[50:]}]

    texts = near_rows()["text"][:]
    columns: list[dict[str, list[Any]]] = [
        {"messages": [chat(text) for text in texts]},
        {"prompt": [text[:40] for text in texts], "completion": [text[40:] for text in texts]},
        {"tokens": [text.split() for text in texts], "ner_tags": [[0] * len(text.split()) for text in texts]},
    ]
    for column in columns:
        audit = split_retained(Dataset.from_dict(column), Records.rows([0])).audit
        assert audit.near_duplicates_retained is not None
        assert audit.near_duplicates_retained >= 3, audit.duplicate_columns


def test_the_audit_holds_counts_and_no_text() -> None:
    audit = split_retained(near_rows(), Records.ids("id", ["r0"])).audit
    told = json.dumps(audit.to_dict())
    assert not {"parcel", "lamp", "r0", "r2"} & set(re.findall(r"\w+", told))
    near = audit.near_duplicates[0]
    assert (near.rows, near.pairs, sum(near.histogram)) == (4, 4, 4)


# The review


def test_the_review_is_private_from_its_first_byte(tmp_path: Path) -> None:
    modes: list[int] = []
    path, part = tmp_path / "review.jsonl", tmp_path / ".review.jsonl.part"
    path.write_text(json.dumps({"about": ABOUT}))
    part.write_text("left by a process that was killed")
    for file in (path, part):
        file.chmod(0o644)

    def rows() -> Iterator[dict[str, Any]]:
        for row in near_rows():
            if part.exists():
                modes.append(part.stat().st_mode & 0o777)
            yield row

    stream = IterableDataset.from_generator(rows)
    split_retained(stream, Records.ids("id", ["r0"]), near_review=path)
    assert modes[-1] == path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    about, *pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert "This file holds the text of forgotten records" in about["about"]
    assert about["rows"] == len(pairs) == 4
    assert [(pair["retained_row"], pair["forget_row"]) for pair in pairs] == [(2, 0), (5, 0), (6, 0), (7, 0)]
    texts = near_rows()["text"][:]
    for pair in pairs:
        assert pair["forget"] == {"text": LETTER}
        assert pair["retained"] == {"text": texts[pair["retained_row"]]}
        assert 0 <= pair["jaccard"] <= 1
    assert pairs[2]["containment"] == 1


def test_the_review_names_rows_of_a_shuffled_data_set(tmp_path: Path) -> None:
    dataset = near_rows().shuffle(seed=4)
    path = tmp_path / "review.jsonl"
    with pytest.raises(InputError, match="4 retained rows"):
        split_retained(dataset, Records.ids("id", ["r0"]), near_duplicates="error", near_review=path)
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert {dataset[pair["retained_row"]]["n"] for pair in pairs} == {2, 5, 6, 7}
    assert {dataset[pair["forget_row"]]["n"] for pair in pairs} == {0}


def test_no_review_where_none_can_be(tmp_path: Path) -> None:
    places = {
        tmp_path: "is no plain file",
        tmp_path / "none" / "a.jsonl": "no folder",
        tmp_path / ("a" * 300): "cannot",
    }
    for path, message in places.items():
        with pytest.raises(InputError, match=message):
            split_retained(near_rows(), Records.ids("id", ["r0"]), near_review=path)
    assert list(tmp_path.iterdir()) == []


# Paraphrases


def test_an_encoder_finds_paraphrases(minilm: Path, tmp_path: Path) -> None:
    texts = [
        "My doctor told me on Monday that I have diabetes and must give up sugar.",
        "On Monday the doctor said to me I've got diabetes, so no more sugar for me.",
        "On Monday the gardener told me that I have moss and must give up the lawn.",
        "The trains to Leeds are late again.",
    ]
    dataset = Dataset.from_dict({"text": texts, "n": range(4)})
    assert split_retained(dataset, Records.rows([0])).audit.near_duplicates_retained == 0
    encoder = SentenceEncoder(str(minilm))
    path = tmp_path / "review.jsonl"
    split = split_retained(
        dataset, Records.rows([0]), near_duplicates="forget", near_encoder=encoder, near_review=path
    )
    assert numbers(split.forget) == [0, 1]
    words, meaning = split.audit.near_duplicates
    assert (words.rows, meaning.rows, meaning.pairs, meaning.encoder) == (0, 1, 1, "model")
    pair = json.loads(path.read_text(encoding="utf-8").splitlines()[1])
    assert pair["retained_row"] == 1
    assert pair["cosine"] >= SentenceEncoder.threshold
    alone, together = encoder.encode(texts[:1]), encoder.encode([*texts, "much longer than the others " * 9])
    assert np.allclose(alone[0], together[0], atol=1e-5), "padding has no say"
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_encoders_that_work_otherwise_are_refused(minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(minilm, folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    with pytest.raises(InputError, match="does not just take the mean"):
        SentenceEncoder(str(folder))
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls", "include_prompt": true}')
    assert SentenceEncoder(str(folder)).pooling == "cls"
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(InputError, match="does not just take the mean"):
        SentenceEncoder(str(folder))


def test_an_encoder_on_the_hub(owner: HfApi, encoder_base: Path) -> None:
    owner.create_repo("owner/sentences", private=True)
    owner.upload_folder(repo_id="owner/sentences", folder_path=encoder_base)
    pooling = b'{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    owner.upload_file(repo_id="owner/sentences", path_in_repo="1_Pooling/config.json", path_or_fileobj=pooling)
    encoder = SentenceEncoder("owner/sentences")
    assert (encoder.public_name, encoder.pooling) == ("owner/sentences", "cls")
    split = split_retained(near_rows(), Records.ids("id", ["r0"]), near_encoder=encoder)
    assert split.audit.near_duplicates[1].encoder == "owner/sentences"


# On the command line, and in the report


def test_the_command_shows_counts_and_writes_the_review(
    owner: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "rows.jsonl", list(near_rows()))  # type: ignore[arg-type]
    flags = ["split", "--dataset_name", "rows.jsonl", "--forget_values", "id=r0"]
    assert main([*flags, "--near_duplicates_review", "review.jsonl"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "near copies of S left in L 4" in shown
    assert "4 retained rows nearly equal or quote a forgotten row" in shown
    assert "2 from 0.9 to 1" in shown
    assert "parcel" not in shown
    assert (tmp_path / "review.jsonl").stat().st_mode & 0o777 == 0o600
    assert main([*flags, "--near_duplicates", "forget"]) == 0
    assert "near copies forgotten too 4" in " ".join(capsys.readouterr().out.split())
    assert main([*flags, "--near_duplicates", "ignore"]) == 0
    assert "near copies" not in capsys.readouterr().out
    for wrong, message in (
        (["--near_duplicates", "error"], "4 retained rows are near copies"),
        (["--near_duplicates_review", "none/review.jsonl"], "There is no folder none"),
        (["--near_duplicates_encoder", "owner/nothing"], "'owner/nothing' is neither"),
        (["--near_duplicates", "forget", "--duplicates", "ignore"], "only together with exact copies"),
    ):
        assert main([*flags, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {"rows.jsonl", "review.jsonl"}


@pytest.mark.parametrize("clean", [True, False])
def test_the_verdict_names_near_copies_and_keeps_its_word(clean: bool) -> None:
    provenance = Provenance(not clean, "the fine-tuning", 0, near_duplicates_retained=3)
    verdict = decide(provenance, None, original=None, retrained=None, margin=0.1)
    assert verdict.word == ("exact" if clean else "undecided")
    (warning,) = verdict.warnings
    assert warning.startswith("3 retained records are near copies of a record to forget, or quote one")
    assert ("A clean start does not remove what these taught" in warning) == clean
    nothing = decide(replace(provenance, near_duplicates_retained=0), None, original=None, retrained=None, margin=0.1)
    assert nothing.warnings == []


def test_the_report_and_the_card_say_what_was_found(tmp_path: Path) -> None:
    report = example_report()
    assert report.audit is not None
    path = tmp_path / "report.json"
    report.save(path)
    assert UnlearningReport.load(path) == report
    # As reports were before anybody looked.
    values = json.loads(path.read_text(encoding="utf-8"))
    added = ("near_duplicate_policy", "near_duplicates_forgotten", "near_duplicates")
    values["audit"] = {name: value for name, value in values["audit"].items() if name not in added}
    values["audit"]["near_duplicates_retained"] = None
    path.write_text(json.dumps(values), encoding="utf-8")
    older = UnlearningReport.load(path)
    card, before = render_card(report, "name"), render_card(older, "name")
    assert "**3 stayed in the retained set, so the training still taught most of their text**" in card
    assert "Nobody looked for paraphrases and translations of forgotten records" in card
    assert "Near copies and quotations of forgotten records" not in before
    assert "Nobody looked for near copies, translations and quotations of forgotten records" in before
    hostile = replace(report.audit.near_duplicates[0], encoder="**a**`|\n# b")
    audit = replace(report.audit, near_duplicates=[*report.audit.near_duplicates, hostile])
    card = render_card(replace(report, audit=audit), "name")
    assert "\n# b" not in card
    assert "**a**" not in card


def test_the_command_and_the_card_give_the_number_of_common_texts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "1 short text of S is also in 2 retained rows, but too short or too common to count as quoted there."
    rows = [{"text": text} for text in ["yes please", "yes please sir", "so yes please", *FILLER]]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert main(["split", "--dataset_name", str(tmp_path / "rows.jsonl"), "--forget_rows", "0"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    report = example_report()
    assert report.audit is not None
    (near,) = report.audit.near_duplicates
    assert "too common" not in render_card(report, "name")
    audit = replace(report.audit, near_duplicates=[replace(near, common_texts=1, common_rows=2)])
    assert said in render_card(replace(report, audit=audit), "name")
