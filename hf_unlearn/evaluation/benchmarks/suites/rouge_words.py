"""ROUGE-L as the suites count it: the F-measure of MUSE and KnowUnDo, and the recall of RWKU."""

from collections.abc import Sequence

import numpy as np
from rouge_score.rouge_scorer import RougeScorer


def rouge_l_f1(right: Sequence[str], written: Sequence[str]) -> np.ndarray:
    """The F-measure of ``rouge-score`` without stemming; its words are those of a-z and 0-9 (Lin 2004).

    Args:
        right: how each text goes on, or is answered.
        written: what a model wrote, of as many.

    Returns:
        From 0 to 1, shape (texts,).
    """
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(right, written, strict=True)
    return np.array([scorer.score(wanted, text)["rougeL"].fmeasure for wanted, text in pairs])


def rouge_l_recall(right: str, written: str) -> float:
    """The share of the different words of an answer that a longest common subsequence with the text holds.

    It is counted as the package ``rouge`` does.
    Words are what blanks part, with their case and signs; a full stop ends a sentence. Each sentence of the answer is
    compared with each sentence of the text (summary-level ROUGE-L, Lin 2004).

    Returns:
        From 0 to 1; 0 where the answer or the text has no word.
    """
    wanted, found = _sentences(right), _sentences(written)
    words = {word for sentence in wanted for word in sentence}
    common = {word for one in wanted for other in found for word in _subsequence(one, other)}
    return len(common) / len(words) if words else 0.0


def _sentences(text: str) -> list[list[str]]:
    return [words for part in text.split(".") if (words := part.split())]


def _subsequence(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """A longest common subsequence; of several that which the package chooses."""
    lengths = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, word in enumerate(left, start=1):
        for j, other in enumerate(right, start=1):
            same = lengths[i - 1][j - 1] + 1 if word == other else 0
            lengths[i][j] = max(same, lengths[i - 1][j], lengths[i][j - 1])
    found, i, j = [], len(left), len(right)
    while i and j:
        if left[i - 1] == right[j - 1]:
            found.append(left[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
