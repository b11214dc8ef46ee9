"""How many planted near copies a split finds, what it reports besides, how long it takes and how much memory.

python recipes/benchmarks/near_duplicates.py                            1,000,000 short texts, 10,000 to forget
python recipes/benchmarks/near_duplicates.py --rows 900000 --forget 100000 --none_planted
python recipes/benchmarks/near_duplicates.py --texts a.jsonl b.tsv      real texts: a fifth of them to forget
python recipes/benchmarks/near_duplicates.py --paraphrases retain_perturbed.json --encoder MODEL
"""

import argparse
import json
import random
import re
import resource
import string
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, disable_progress_bars, load_from_disk
from scipy import stats

from hf_unlearn import Records, split_retained
from hf_unlearn.data.copies.exact import normalised_text
from hf_unlearn.data.copies.near import find_near_copies

WORD = re.compile(r"[^\W_]+")
TEMPLATES, NAMES = 200, 5000
# Of these a near copy is planted; of the last kind, a record of the same template with other digits.
KINDS = ("exact", "form", "changed", "quoted", "passage", "other digits")


def read(path: Path) -> list[str]:
    """The distinct texts of a file: strings of JSON lines, the last column of a TSV, or paragraphs."""
    content = path.read_text(encoding="utf-8")
    if path.suffix in (".json", ".jsonl"):
        rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        texts = [" ".join(value for value in row.values() if isinstance(value, str)) for row in rows]
    elif path.suffix == ".tsv":
        texts = [line.rpartition("\t")[2] for line in content.splitlines()]
    else:
        texts = content.split("\n\n")
    return list({" ".join(text.lower().split()): text for text in texts if WORD.search(text)}.values())


class Chains:
    """Makes texts whose neighbouring words are mostly neighbours in Python's own manual, too."""

    def __init__(self) -> None:
        from pydoc_data.topics import topics

        words = WORD.findall(" ".join(topics.values()).lower())
        self.vocabulary = sorted(set(words))
        codes = {word: i for i, word in enumerate(self.vocabulary)}
        self.corpus = np.array([codes[word] for word in words])
        self.places = np.argsort(self.corpus, kind="stable")
        self.begins = np.searchsorted(self.corpus[self.places], np.arange(len(self.vocabulary) + 1))

    def texts(self, draw: np.random.Generator, n: int, shortest: int, longest: int) -> list[str]:
        """``n`` texts of so many words; every third word, on average, follows its neighbour by chance alone."""
        columns = [self.corpus[draw.integers(0, len(self.corpus), n)]]
        for _ in range(longest - 1):
            word = columns[-1]
            counts = self.begins[word + 1] - self.begins[word]
            place = self.places[self.begins[word] + (draw.random(n) * counts).astype(int)]
            after = self.corpus[(place + 1) % len(self.corpus)]
            anywhere = self.corpus[draw.integers(0, len(self.corpus), n)]
            columns.append(np.where(draw.random(n) < 1 / 3, anywhere, after))
        lengths = draw.integers(shortest, longest + 1, n)
        kept = np.stack(columns, axis=1)[np.arange(longest) < lengths[:, None]]
        words = pa.array(self.vocabulary, pa.large_string()).take(pa.array(kept))
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
        lists = pa.LargeListArray.from_arrays(offsets, words)
        return pc.binary_join(lists, pa.scalar(" ", pa.large_string())).to_pylist()


def filled(templates: list[str], names: list[str], draw: random.Random, n: int) -> list[str]:
    """Records of templates, each with a name and a number of ten digits in it."""
    records = []
    for _ in range(n):
        words = draw.choice(templates).split()
        words[3], words[9] = draw.choice(names), str(draw.randrange(10**9, 10**10))
        records.append(" ".join(words))
    return records


def copied(kind: str, text: str, others: list[str], draw: random.Random) -> str | None:
    """A near copy, None where the text is too short for one of this kind."""
    words = text.split()
    if kind == "exact":
        return text
    if kind == "form":
        wide = {ord(letter): ord(letter) + 0xFEE0 for letter in string.ascii_letters}
        return "  ".join(draw.choice([word.upper(), word.title(), word.translate(wide)]) for word in words) + "\n"
    if kind == "changed" and len(words) >= 10:
        donors = WORD.findall(" ".join(draw.sample(others, 50)))
        for place in draw.sample(range(len(words)), max(1, round(len(words) / 10))):
            words[place] = draw.choice(donors)
        return " ".join(words)
    if kind == "quoted" and len(words) >= 20:
        lines = "\n".join("> " + " ".join(words[i : i + 12]) for i in range(0, len(words), 12))
        return f"{draw.choice(others)}\n{lines}\n{draw.choice(others)} {draw.choice(others)}"
    if kind == "passage" and len(words) >= 40:
        length = draw.randint(20, len(words) // 2)
        first = draw.randint(0, len(words) - length)
        return f"{draw.choice(others)} {' '.join(words[first : first + length])} {draw.choice(others)}"
    if kind == "other digits" and len(words) < 50 and re.search(r"\d{5}", text):
        return re.sub(r"\d", lambda digit: str((int(digit[0]) + draw.randint(1, 9)) % 10), text)
    return None


def split_in(folder: str, rows: int, near_duplicates: str | None) -> tuple[float, float, float, list[int]]:
    """Split a data set on disk in a process of its own.

    Args:
        folder: of the data set; the ids from ``rows`` on are to be forgotten.
        rows: how many others there are.
        near_duplicates: as for ``split_retained``.

    Returns:
        Seconds, seconds of CPU time, the process's peak memory in GiB, and the ids that went to S unasked.
    """
    dataset = load_from_disk(folder)
    request = Records.ids("id", range(rows, len(dataset)))
    started, worked = time.perf_counter(), time.process_time()
    split = split_retained(dataset, request, duplicates="forget", near_duplicates=near_duplicates)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds, work, peak, [i for i in split.forget["id"][:] if i < rows]


def measured(forget: list[str], retained: list[str], draw: random.Random, show: int, plant: bool = True) -> None:
    """Plant copies among the retained texts where that is asked for, split, and print what came of it."""
    planted: dict[int, str] = {}
    rows = list(retained)
    for text in forget if plant else ():
        made = {kind: copy for kind in KINDS if (copy := copied(kind, text, retained, draw)) is not None}
        kind = draw.choice(list(made))
        planted[len(rows)] = kind
        rows.append(made[kind])
    order = draw.sample(range(len(rows) + len(forget)), len(rows) + len(forget))
    texts = rows + forget
    with tempfile.TemporaryDirectory() as folder:
        Dataset.from_dict({"id": order, "text": [texts[i] for i in order]}).save_to_disk(folder)
        found = []
        for policy in (None, "forget"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found.append(process.submit(split_in, folder, len(rows), policy).result())
    (without, *_, before, _), (seconds, work, peak, moved) = found
    print(
        f"{len(texts):,} texts, {len(forget):,} to forget: {seconds:.1f} s ({work:.1f} s of CPU time), peak memory of"
    )
    print(f"  the process {peak:.2f} GiB; {without:.1f} s and {before:.2f} GiB without the search for near copies")
    made, hit = Counter(planted.values()), Counter(planted[i] for i in moved if i in planted)
    for kind in KINDS:
        if made[kind]:
            low, high = stats.binomtest(hit[kind], made[kind]).proportion_ci(method="exact")
            share = f"{hit[kind] / made[kind]:.4f} ({low:.4f} to {high:.4f})"
            print(f"  {kind:14} {hit[kind]:,} of {made[kind]:,} found: {share}")
    others = sorted(set(moved) - planted.keys())
    print(f"  nothing planted: {len(others):,} of {len(retained):,}")
    for i in draw.sample(others, min(show, len(others))):
        print(f"    {rows[i]!r}")


def paraphrased(path: Path, encoder: str, draw: random.Random, n: int = 400) -> None:
    """Look for the paraphrases of TOFU's questions and answers, by words and with an encoder."""
    from hf_unlearn.data.copies.paraphrases import SentenceEncoder

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = draw.sample(rows, n)
    forget = pa.array([f"{row['question']} {row['answer']}".lower() for row in rows], pa.large_string())
    texts = [f"{row['paraphrased_question']} {row['paraphrased_answer']}" for row in rows]
    dataset, look = Dataset.from_dict({"text": texts}), np.ones(n, bool)
    _, by_words = find_near_copies(dataset, ["text"], forget, look)
    own = sum(np.count_nonzero(pairs["row"].to_numpy() == pairs["forgotten"].to_numpy()) for pairs in by_words)
    print(f"{n} paraphrases by words: {own} found")
    sentences = SentenceEncoder(encoder)
    read = normalised_text(pa.table({"text": texts}), ["text"]).to_pylist()
    cosines = sentences.encode(read) @ sentences.encode(forget.to_pylist()).T
    for threshold in (0.8, 0.85, 0.9):
        own = np.count_nonzero(cosines.diagonal() >= threshold)
        low, high = stats.binomtest(own, n).proportion_ci(method="exact")
        print(
            f"  cosine {threshold}: {own} found, {own / n:.3f} ({low:.3f} to {high:.3f}); of {n * (n - 1):,} other",
            end="",
        )
        print(f" pairs {np.count_nonzero(cosines >= threshold) - own}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, nargs="+", help="files of texts: .jsonl, .json, .tsv or .txt")
    parser.add_argument("--paraphrases", type=Path, help="TOFU's retain_perturbed.json; needs --encoder")
    parser.add_argument("--encoder", help="a sentence encoder: a folder or Hub id")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--forget", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=0, help="texts to print that nobody planted and that were found")
    parser.add_argument("--none_planted", action="store_true", help="measure the time alone, without near copies")
    args = parser.parse_args()
    disable_progress_bars()
    draw, numbers = random.Random(args.seed), np.random.default_rng(args.seed)
    if args.paraphrases:
        paraphrased(args.paraphrases, args.encoder, draw)
        return
    for path in args.texts or []:
        texts = read(path)
        draw.shuffle(texts)
        print(path.name, end=": ")
        measured(texts[: len(texts) // 5], texts[len(texts) // 5 :], draw, args.show)
    if args.texts:
        return
    chains = Chains()
    templates = chains.texts(numbers, TEMPLATES, 14, 24)
    names = ["".join(draw.choices(string.ascii_lowercase, k=7)) for _ in range(NAMES)]

    def mixed(n: int) -> list[str]:
        """Short texts, with a fifth of records of templates."""
        return chains.texts(numbers, n - n // 5, 10, 24) + filled(templates, names, draw, n // 5)

    forget = mixed(args.forget - args.forget // 10) + chains.texts(numbers, args.forget // 10, 40, 120)
    draw.shuffle(forget)
    measured(forget, mixed(args.rows), draw, args.show, plant=not args.none_planted)


if __name__ == "__main__":
    main()
