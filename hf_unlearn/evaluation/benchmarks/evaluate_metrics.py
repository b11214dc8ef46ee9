"""The measures of this project as metrics of Hugging Face's ``evaluate``.

Each is usable alone, in a Trainer's ``compute_metrics`` and in ``evaluate.combine``; ``pip install
'hf_unlearn[metrics]'`` installs what they need. What a metric is given, the tokens to forget included, stays in
memory; with ``keep_in_memory=False`` it goes through a file in the cache folder of ``evaluate``. For
``evaluate.load`` each has a file in the folder ``loadable``.
"""

import inspect
from typing import Any

import evaluate
import numpy as np
import torch
from datasets import Features, List, Value

from ...errors import InputError
from ...models.tasks import IGNORED
from ..attacks.sampling import COUNTS, leak_at
from ..scoring import exact_memorization, extraction_strength
from ..statistics import clustered_rate, mean_loss, membership_auc
from .suites.muse import first_answer
from .suites.rouge_words import rouge_l_f1, rouge_l_recall
from .tofu import Mean, answer_probability, closer_to_one, privleak, true_better, truth_ratios

TOKENS, NUMBERS = List(Value("int64")), List(Value("float64"))
GREEDY = {
    "predictions": (TOKENS, "most likely token at the place of each label, -100 where there is none"),
    "references": (TOKENS, "labels, -100 where there is none and for tokens without text, such as EOS"),
}
LOSSES = {
    "nll": (
        NUMBERS,
        "negative log-likelihood of each token in nats, negative (such as -100) where nothing is predicted",
    )
}

MEMBERS = {
    "predictions": (Value("float64"), "loss of each record, or another number that is low for members"),
    "references": (Value("int64"), "1 for a record of S, 0 for one of H"),
}
TEXTS = {
    "predictions": (Value("string"), "what the model wrote"),
    "references": (Value("string"), "how the text goes on, or the right answer"),
}


def greedy_and_nll(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the metrics of texts need of the logits; a Trainer's ``preprocess_logits_for_metrics`` for causal models.

    Args:
        logits: shape (records, tokens, vocabulary).
        labels: token ids, -100 where not predicted, shape (records, tokens).

    Returns:
        The most likely token at the place of each label, and the label's negative log-likelihood in nats (float32),
        both of shape (records, tokens) and -100 where nothing is predicted.
    """
    greedy, nll = torch.full_like(labels, IGNORED), torch.full(labels.shape, float(IGNORED), device=logits.device)
    wanted = labels[:, 1:]
    predicted = wanted != IGNORED
    kept = logits[:, :-1][predicted]
    greedy[:, 1:][predicted] = kept.argmax(-1)
    nll[:, 1:][predicted] = torch.nn.functional.cross_entropy(kept.float(), wanted[predicted], reduction="none")
    return greedy, nll


class _Metric(evaluate.Metric):
    """A metric that writes nothing to disk, and ignores the inputs of other metrics in ``evaluate.combine``."""

    source = ""
    inputs: dict[str, tuple[Any, str]]  # by name the type, and what it holds

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=inspect.cleandoc(str(self.__doc__)),
            citation=self.source,
            inputs_description="".join(f"\n    {name}: {text}." for name, (_, text) in self.inputs.items()),
            features=Features({name: kind for name, (kind, _) in self.inputs.items()}),
        )


class ExactMemorization(_Metric):
    """The share of a text's tokens that greedy decoding gives when it has seen the true ones before."""

    source = "Tirumala et al. 2022, arXiv:2205.10770"
    inputs = GREEDY

    def _compute(self, predictions: list[list[int]], references: list[list[int]], **others: Any) -> dict[str, float]:
        return {"exact_memorization": float(np.nanmean(exact_memorization(_padded(predictions), _padded(references))))}


class ExtractionStrength(_Metric):
    """The largest share at the end of a text that greedy decoding gives; 0 when the last token is missed."""

    source = "Carlini et al. 2021, arXiv:2012.07805"
    inputs = GREEDY

    def _compute(self, predictions: list[list[int]], references: list[list[int]], **others: Any) -> dict[str, float]:
        strength = extraction_strength(_padded(predictions), _padded(references))
        return {"extraction_strength": float(np.nanmean(strength))}


class Perplexity(_Metric):
    """exp of the mean negative log-likelihood per token over all records."""

    inputs = LOSSES

    def _compute(self, nll: list[list[float]], **others: Any) -> dict[str, float]:
        return {"perplexity": float(np.exp(mean_loss(*_sums(nll)).value))}


class Probability(_Metric):
    """Mean over the records of their probability to the power of 1/tokens."""

    source = "Maini et al. 2024, arXiv:2401.06121"
    inputs = LOSSES

    def _compute(self, nll: list[list[float]], **others: Any) -> dict[str, float]:
        total, tokens = _sums(nll)
        return {"probability": float(answer_probability(total / tokens).mean())}


class MembershipAUC(_Metric):
    """The probability that a record of S has a lower loss than one of H, with its 95 % interval."""

    source = "DeLong et al. 1988, Biometrics 44"
    inputs = MEMBERS

    def _compute(self, predictions: list[float], references: list[int], **others: Any) -> dict[str, float]:
        losses, members = np.array(predictions), np.array(references) == 1
        found = membership_auc(losses[members], losses[~members])
        return {"membership_auc": found.value, "membership_auc_low": found.low, "membership_auc_high": found.high}


class TruthRatio(_Metric):
    """How likely wrong answers are in proportion to a right one.

    It is averaged as on S (closer to one is better) and as on what must stay (the true answer is better).
    """

    source = "Maini et al. 2024, arXiv:2401.06121"
    inputs = {
        "predictions": (NUMBERS, "loss per token of each wrong answer"),
        "references": (Value("float64"), "loss per token of the right answer"),
    }

    def _compute(self, predictions: list[list[float]], references: list[float], **others: Any) -> dict[str, float]:
        correct, wrong = np.array(references), np.array(predictions)
        found: dict[str, float] = {}
        means: tuple[Mean, ...] = ("arithmetic", "geometric")
        for mean in means:
            ratios = truth_ratios(correct, wrong, mean)
            found[f"truth_ratio_{mean}"] = float(closer_to_one(ratios).mean())
            found[f"true_better_{mean}"] = float(true_better(ratios).mean())
        return found


class LeakAtK(_Metric):
    """The chance that one or more of k samples of a record give it away, without bias, with its 95 % interval.

    It is given for k = 1, 2, 4 ... up to the number of samples and to 128.
    """

    source = "Reisizadeh et al. 2025, arXiv:2511.04934"
    inputs = {"predictions": (TOKENS, "for each sample of a record 1 where it gives the record away, else 0")}

    def _compute(self, predictions: list[list[int]], **others: Any) -> dict[str, float]:
        samples = {len(record) for record in predictions}
        if len(samples) != 1 or 0 in samples:
            raise InputError(f"Records have {sorted(samples)} samples; give as many of each, and one or more.")
        n = samples.pop()
        hits = (np.array(predictions) != 0).sum(1)
        found: dict[str, float] = {}
        for k in (k for k in COUNTS if k <= n):
            leak = clustered_rate(leak_at(hits, n, k), np.ones(len(hits)))
            found |= {f"leak_at_{k}": leak.value, f"leak_at_{k}_low": leak.low, f"leak_at_{k}_high": leak.high}
        return found


class MuseVerbatim(_Metric):
    """MUSE's verbatim memorisation: mean ROUGE-L F1 of greedy texts of 128 tokens and how the texts of S go on."""

    source = "Shi et al. 2024, arXiv:2407.06460"
    inputs = TEXTS

    def _compute(self, predictions: list[str], references: list[str], **others: Any) -> dict[str, float]:
        return {"muse_verbatim": float(rouge_l_f1(references, predictions).mean())}


class MuseKnowledge(_Metric):
    """MUSE's knowledge memorisation of S, or utility of L: mean ROUGE-L F1 of answers.

    Of what a model wrote the first answer counts, and no question of its own.
    """

    source = "Shi et al. 2024, arXiv:2407.06460"
    inputs = TEXTS

    def _compute(self, predictions: list[str], references: list[str], **others: Any) -> dict[str, float]:
        answers = [first_answer(text) for text in predictions]
        return {"muse_knowledge": float(rouge_l_f1(references, answers).mean())}


class PrivLeak(_Metric):
    """MUSE's privacy leakage: how far the membership AUC is from that of a model that never saw S, in percent.

    ``compute(retrained=...)`` takes the same numbers of such a model for the same records; without them its AUC is one
    half.
    """

    source = "Shi et al. 2024, arXiv:2407.06460"
    inputs = MEMBERS

    def _compute(
        self, predictions: list[float], references: list[int], retrained: list[float] | None = None, **others: Any
    ) -> dict[str, float]:
        values, members = np.array(predictions), np.array(references) == 1
        reference = None
        if retrained is not None:
            if len(retrained) != len(values):
                raise InputError(f"There are {len(values):,} records, and {len(retrained):,} of the retrained model.")
            never = np.array(retrained)
            reference = never[members], never[~members]
        return {"privleak": privleak(values[members], values[~members], reference)}


class RwkuRouge(_Metric):
    """RWKU's ROUGE-L recall of answers, as the package ``rouge`` counts words: with case and signs."""

    source = "Jin et al. 2024, arXiv:2406.10890"
    inputs = TEXTS

    def _compute(self, predictions: list[str], references: list[str], **others: Any) -> dict[str, float]:
        pairs = zip(references, predictions, strict=True)
        return {"rwku_rouge": float(np.mean([rouge_l_recall(right, text) for right, text in pairs]))}


def _padded(lists: list[list[int]]) -> np.ndarray:
    out = np.full((len(lists), max(map(len, lists))), IGNORED)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out


def _sums(nll: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Summed negative log-likelihood and number of tokens of each record that has any."""
    kept = [[value for value in record if not value < 0] for record in nll]
    kept = [record for record in kept if record]
    return np.array([sum(record) for record in kept]), np.array([len(record) for record in kept])
