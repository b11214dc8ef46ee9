"""How many rows about a person `--forget_mentions` finds, and how many of those that it finds are about that person.

    python recipes/benchmarks/mentions.py tofu path/to/tofu/full.json
    python recipes/benchmarks/mentions.py wikiann path/to/WikiANN/en      (a folder with the files `train` and `test`)

In TOFU 20 rows in a row belong to an author. Their name is the series of two to four words with capitals that most of
these rows have, and the longest of several. To be found are rows of the author in which these words follow each other.
WikiANN marks which words are a person. A request is a person, drawn by the seed among those that look like names. To
be found are rows in which a person has these words. The intervals are of 95 %, with people as what was drawn.
"""

import argparse
import json
import random
import re
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from hf_unlearn import InputError
from hf_unlearn.data.request.mention_patterns import fold, forms_of
from hf_unlearn.data.request.mentions import Entry, confirmed_mentions
from hf_unlearn.evaluation.statistics import clustered_rate

PEOPLE, SEED, ROWS_OF_AN_AUTHOR = 300, 2, 20
FEWEST_LETTERS = 3  # the flag refuses shorter entries
PARTICLES = {"van", "von", "der", "de", "la", "da", "dos", "bin", "al"}


def plain(text: str) -> str:
    """The words of a text in lower case, each between blanks, so that it holds a text with some of them in a row."""
    return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])


def is_name(text: str) -> bool:
    """Whether a text looks like a name: two to four words with capitals, without digits and brackets."""
    capital = [word[:1].isupper() for word in text.split()]
    inner = all(known or word in PARTICLES for known, word in zip(capital, text.split(), strict=True))
    return 2 <= len(capital) <= 4 and capital[0] and capital[-1] and inner and not re.search(r"[^\w\s.'’\-]|\d", text)


def find(texts: list[str], entries: list[str]) -> list[set[int]]:
    """The rows that the review shows for each entry."""
    with tempfile.TemporaryDirectory() as folder:
        file, review = Path(folder) / "people.txt", Path(folder) / "review.jsonl"
        file.write_text("\n".join(entries) + "\n", encoding="utf-8")
        with suppress(InputError):  # it asks for answers
            confirmed_mentions(Dataset.from_dict({"text": texts}), file, review)
        lines = [json.loads(line) for line in review.read_text(encoding="utf-8").splitlines()[1:]]
    found: list[set[int]] = [set() for _ in entries]
    for row, entry in ((line["row"], number - 1) for line in lines for number in line["entries"]):
        found[entry].add(row)
    return found


def compared(found: list[set[int]], wanted: list[set[int]]) -> dict[str, Any]:
    """Recall and precision over all rows."""
    both = np.array([len(f & w) for f, w in zip(found, wanted, strict=True)])
    shown, to_find = (np.array(list(map(len, rows))) for rows in (found, wanted))
    counts = {"people": len(found), "rows_to_find": int(to_find.sum()), "rows_found": int(shown.sum())}
    recall, precision = (asdict(clustered_rate(both, of)) for of in (to_find, shown))
    return {**counts, "rows_of_both": int(both.sum()), "recall": recall, "precision": precision}


def author_name(texts: list[str]) -> str:
    """The name that most rows of an author have."""
    counts: Counter[str] = Counter()
    for text in texts:
        clauses = re.split(r"[\"“”,;:!?()]|\.(?!\w)", re.sub(r"['’]s?(?!\w)", "", text))
        words = map(str.split, clauses)
        series = (" ".join(one[i : i + n]) for one in words for n in (2, 3, 4) for i in range(len(one) - n + 1))
        counts.update(set(filter(is_name, series)))
    return max(counts, key=lambda name: (counts[name], len(name)))


def tofu(path: Path) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['question']} {row['answer']}" for row in rows]
    own = [range(first, first + ROWS_OF_AN_AUTHOR) for first in range(0, len(texts), ROWS_OF_AN_AUTHOR)]
    named = [(author_name([texts[row] for row in of]), of) for of in own]
    words = list(map(plain, texts))
    result: dict[str, Any] = {"authors": len(own)}
    for kind, part in (("full_name", slice(None)), ("surname_alone", slice(-1, None))):
        asked = [(" ".join(name.split()[part]), set(of)) for name, of in named]
        taken = [(entry, of) for entry, of in asked if len(entry) >= FEWEST_LETTERS]
        found = find(texts, [entry for entry, _ in taken])
        wanted = [{row for row in of if plain(entry) in words[row]} for entry, of in taken]
        others = [len(f - of) for f, (_, of) in zip(found, taken, strict=True)]
        counts = {"entries_refused": len(asked) - len(taken), "found_of_other_authors": sum(others)}
        result[kind] = {**compared(found, wanted), **counts, "authors_with_rows_of_others": sum(map(bool, others))}
    return result


def persons_in(words: list[str], tags: list[str]) -> list[str]:
    """What a sentence marks as persons."""
    found: list[list[str]] = []
    for before, word, tag in zip(["O", *tags], words, tags, strict=False):
        if tag == "B-PER" or (tag == "I-PER" and not before.endswith("PER")):
            found.append([])
        if tag.endswith("PER"):
            found[-1].append(word)
    return list(map(" ".join, found))


def mark_of(words: list[str], tags: list[str], name: str) -> str:
    """How the words are marked that a sentence first mentions a name with."""
    text = " ".join(words)
    place = Entry(1, forms_of(name)).find(text, fold(text))
    assert place is not None
    here = {tag[2:] for tag in tags[text[: place[0]].count(" ") : text[: place[1]].count(" ") + 1]}
    return "something else" if here & {"ORG", "LOC"} else "a person in another form" if "PER" in here else "nothing"


def wikiann(folder: Path) -> dict[str, Any]:
    text = "\n\n".join((folder / name).read_text(encoding="utf-8").strip() for name in ("train", "test"))
    pairs = [[line.partition(":")[2].split("\t") for line in one.splitlines()] for one in text.split("\n\n")]
    data = [([word for word, _ in one], [tag for _, tag in one]) for one in pairs]
    persons = [persons_in(*one) for one in data]
    distinct = sorted({name for names in persons for name in names})
    names = list(filter(is_name, distinct))
    drawn = random.Random(SEED).sample(names, PEOPLE)
    found = find([" ".join(words) for words, _ in data], drawn)
    marked = ["|".join(map(plain, of_row)) for of_row in persons]
    wanted = [{row for row, of_row in enumerate(marked) if plain(name) in of_row} for name in drawn]
    places = zip(drawn, found, wanted, strict=True)
    others = Counter(mark_of(*data[row], name) for name, f, w in places for row in sorted(f - w))
    counts = {"rows": len(data), "persons_marked": len(distinct), "of_them_names": len(names), "seed": SEED}
    return {**counts, **compared(found, wanted), "other_rows_by_their_mark": dict(sorted(others.items()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("tofu", "wikiann"))
    parser.add_argument("source", type=Path, help="the file of TOFU's rows, or the folder of WikiANN's")
    args = parser.parse_args()
    output = Path(__file__).with_suffix(".json")
    result = tofu(args.source) if args.data == "tofu" else wikiann(args.source)
    numbers = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    output.write_text(json.dumps({**numbers, args.data: result}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
