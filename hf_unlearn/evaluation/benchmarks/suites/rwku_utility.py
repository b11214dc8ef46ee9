"""What a model can still do, as RWKU asks: knowledge, reasoning, truth, facts, and a varied language."""

import re
import string
from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from .files import Row
from .prompts import filled
from .suite import Reader, Values

UTILITY_COLUMNS: dict[str, tuple[str, ...]] = {
    "utility_general": ("question", "choices", "answer", "examples"),
    "utility_reason": ("question", "answer", "cot"),
    "utility_truthfulness": ("question", "mc1_targets", "mc2_targets"),
    "utility_factuality": ("question", "answers"),
    "utility_fluency": ("instruction",),
}
UTILITY_PROMPTS = {
    "general": "{examples}Answer the last question in the same way.\n{query}\n",
    "reason": "{examples}\n\nAnswer in the same way, and end with 'so the answer is'.\nQ: {query}\n",
    "truthfulness": "Q: {query}\n",
    "factuality": "Give a short answer.\nQ: {query}\n",
    "fluency": "Instruction: {query}\n",
}
LETTERS = "ABCDEFGHIJ"
REASON_TOKENS, FACT_TOKENS, FLUENT_TOKENS = 256, 30, 256
ANSWER_IS = re.compile(r"[Tt]he answer is (.*?)\.")
ARTICLES = re.compile(r"\b(a|an|the)\b")
# Entropy of pairs and of triples of words, with the weights of Zhang et al. 2018, arXiv:1809.05972.
GRAMS = {2: 2 / 3, 3: 4 / 3}


def utility_values(reader: Reader, sets: dict[str, list[Row]], prompts: dict[str, str]) -> list[Values]:
    """RWKU's measures of utility.

    Args:
        reader: the model.
        sets: by the names of their configurations.
        prompts: by kind.
    """
    general, reason, truth, facts, fluent = (sets[name] for name in UTILITY_COLUMNS)
    chosen = _chosen(reader, general, prompts["general"])
    right = np.array([float(row["answer"] == one) for row, one in zip(general, chosen, strict=True)])
    reasoned = [reader.asked(filled(prompts["reason"], row["question"], row["cot"].strip()), "A:") for row in reason]
    said = [_conclusion(text) for text in reader.answers(reasoned, REASON_TOKENS)]
    concluded = _best(exact_match, said, [row["answer"] for row in reason])
    first, all_true = _truthful(reader, truth, prompts["truthfulness"])
    asked = [reader.asked(filled(prompts["factuality"], row["question"]), "A:") for row in facts]
    told = reader.answers(asked, FACT_TOKENS)
    asked = [reader.asked(filled(prompts["fluency"], row["instruction"])) for row in fluent]
    wrote = reader.answers(asked, FLUENT_TOKENS)
    return [
        _values("utility, general ability: accuracy", right, general),
        _values("utility, reasoning: exact match", concluded, reason),
        _values("utility, truthfulness: MC1", first, truth),
        _values("utility, truthfulness: MC2", all_true, truth),
        _values("utility, facts: exact match", _best(exact_match, told, [row["answers"] for row in facts]), facts),
        _values("utility, facts: F1 of words", _best(word_f1, told, [row["answers"] for row in facts]), facts),
        _values("utility, fluency: entropy, bits", np.array([entropy(text) for text in wrote]), fluent, share=False),
    ]  # fmt: skip


def exact_match(right: str, text: str) -> float:
    """1 where a text has the words of the answer and no others, without articles, case and signs; else 0."""
    return float(_words(right) == _words(text))


def word_f1(right: str, text: str) -> float:
    """The harmonic mean of precision and recall of words (Rajpurkar et al. 2016), from 0 to 1."""
    wanted, found = _words(right), _words(text)
    if not wanted or not found:
        return float(wanted == found)
    common = sum((Counter(wanted) & Counter(found)).values())
    return 2 * common / (len(wanted) + len(found))


def entropy(text: str) -> float:
    """The weighted mean entropy of a text's pairs and triples of words, in bits; signs are words of their own."""
    words = re.findall(r"\w+|[^\w\s]", text)
    found = []
    for size, weight in GRAMS.items():
        counts = np.array(list(Counter(zip(*(words[i:] for i in range(size)), strict=False)).values()), dtype=float)
        shares = counts / counts.sum() if len(counts) else counts
        found.append(weight * float(-(shares * np.log2(shares)).sum()))
    return float(np.mean(found))


def _values(name: str, values: np.ndarray, rows: list[Row], *, share: bool = True) -> Values:
    return Values(name, values, np.array([str(row["subject"]) for row in rows]), share)


def _best(measure: Callable[[str, str], float], texts: list[str], answers: list[str | list[str]]) -> np.ndarray:
    """The best of a measure over the answers that are right."""
    lists = [[right] if isinstance(right, str) else list(right) for right in answers]
    return np.array([max(measure(right, text) for right in some) for some, text in zip(lists, texts, strict=True)])


def _chosen(reader: Reader, rows: list[Row], prompt: str) -> list[int]:
    """The letter that the model finds likeliest after each question."""
    asked = []
    for row in rows:
        examples = "".join(f"{_with_choices(one)}Answer: {LETTERS[one['answer']]}\n\n" for one in row["examples"])
        asked.append((filled(prompt, _with_choices(row).rstrip("\n"), examples), [*LETTERS[: len(row["choices"])]]))
    return [int(np.argmax(each)) for each in _log_likelihoods(reader, asked, "Answer:")]


def _with_choices(row: Row) -> str:
    options = zip(LETTERS, row["choices"], strict=False)
    return f"Question: {row['question']}\n" + "".join(f"{letter}. {choice}\n" for letter, choice in options)


def _truthful(reader: Reader, rows: list[Row], prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """MC1 and MC2 of TruthfulQA (Lin et al. 2022): the best answer before all false ones, the mass of true ones."""
    asked = [
        (filled(prompt, row["question"]), [*row["mc1_targets"]["choices"], *row["mc2_targets"]["choices"]])
        for row in rows
    ]
    first, mass = [], []
    for row, each in zip(rows, _log_likelihoods(reader, asked, "A:"), strict=True):
        count = len(row["mc1_targets"]["choices"])
        one, true = np.array(row["mc1_targets"]["labels"]) == 1, np.array(row["mc2_targets"]["labels"]) == 1
        first.append(float(each[:count][one][0] > each[:count][~one].max()))
        mass.append(float(np.exp(logsumexp(each[count:][true]) - logsumexp(each[count:]))))
    return np.array(first), np.array(mass)


def _log_likelihoods(reader: Reader, asked: list[tuple[str, list[str]]], begun: str) -> list[np.ndarray]:
    """The summed log-likelihood in nats of each answer after its question, by question."""
    prompts = [reader.asked(text, begun) for text, answers in asked for _ in answers]
    wholes = [reader.asked(text, f"{begun} {answer}") for text, answers in asked for answer in answers]
    nll = reader.scored(prompts, wholes)["nll"].to_numpy()
    return np.split(-nll, np.cumsum([len(answers) for _, answers in asked])[:-1])


def _conclusion(text: str) -> str:
    """What follows "the answer is", up to a full stop; else the whole text."""
    found = ANSWER_IS.search(text)
    return found[1] if found else text


def _words(text: str) -> list[str]:
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return ARTICLES.sub(" ", plain).split()
