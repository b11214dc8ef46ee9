"""ROUGE-L recall as the package ``rouge`` counts it, which RWKU is scored with."""

from collections.abc import Sequence


def rouge_l_recall(right: str, written: str) -> float:
    """The share of the different words of an answer that a longest common subsequence with the text holds.

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
