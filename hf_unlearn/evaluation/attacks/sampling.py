"""Many samples of each record: the chance that one of so many gives the text away, leak@k.

It means little alone: the same question to a model that never saw S, and about H, shows what guessing gives.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ...errors import InputError
from ...models.limits import positions
from ...models.loading import Model, load_any, load_config, load_tokenizer, plain_model, source_task, to_device
from ...models.location import ModelSource
from ...models.tasks import IGNORED, TASKS
from ..generation import Generation, generate, measure
from ..measured_sets import JUDGED, EvidenceSets, first_pieces
from ..report import SetName
from ..scoring import evaluating
from ..statistics import Estimate, clustered_rate

SAMPLED_TOKENS = 64  # written in a sample at most
GIVEN_TOKENS = 8  # of a text that has no prompt
SIMILAR = 0.8  # ROUGE-L recall from which on a sample counts as similar to the text
SHORT = 8  # words that a short answer has at most
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)  # samples that the curve is given for, as far as it was asked so often

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class LeakPoint:
    """The share of records that so many samples give away, in four senses.

    Attributes:
        samples: k, how many are drawn of each record.
        verbatim: one begins with the text, token for token.
        similar: one is similar by ROUGE-L recall; None in scripts that ROUGE cannot read.
        answer: one contains all words of the text in their order, of texts of :data:`SHORT` words at most; None where
            no text is so short.
        entailed: the text follows from one, as a model for entailment says; None where none was named.
    """

    samples: int
    verbatim: Estimate
    similar: Estimate | None
    answer: Estimate | None
    entailed: Estimate | None


@dataclass(frozen=True)
class LeakCurve:
    """How much of S a model gives away in many samples.

    Attributes:
        similar_recall: from which on a sample counts as similar.
        drawn: n, the samples of each record that the curve is estimated from.
        temperature: of the samples; nothing else cuts the distribution.
        seed: of the records and the samples.
        tokens: read and written, of S and H together; of two texts half as many, as each passes half of the model.
        forget: of S, at 1, 2, 4 ... samples, up to 128.
        holdout: of H, which shows what a model guesses; None without H.
    """

    similar_recall: float
    drawn: int
    temperature: float
    seed: int
    tokens: int
    forget: tuple[LeakPoint, ...]
    holdout: tuple[LeakPoint, ...] | None


@dataclass(frozen=True)
class Judge:
    """A model that says whether one text follows from another.

    Attributes:
        model, tokenizer: a classifier of pairs of texts.
        entails: the number of its class ``entailment``.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    entails: int

    @classmethod
    def load(cls, source: ModelSource, device: torch.device) -> "Judge":
        """Load a classifier whose class ``entailment`` :func:`entailment_class` finds."""
        model = to_device(load_any(source, "text-classification"), device)
        return cls(model, load_tokenizer([source]), entailment_class(source))

    @torch.no_grad()
    def follows(self, pairs: list[tuple[str, str]], batch_size: int) -> np.ndarray:
        """Whether the second text of each pair follows from the first, shape (pairs,); texts are cut to its length."""
        # Samples repeat each other.
        different = sorted(set(pairs), key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        limit = min(self.tokenizer.model_max_length, positions(plain_model(self.model).config))
        found: dict[tuple[str, str], bool] = {}
        with evaluating(self.model):
            for i in range(0, len(different), batch_size):
                part = different[i : i + batch_size]
                inputs = self.tokenizer(
                    [first for first, _ in part],
                    [second for _, second in part],
                    padding=True,
                    truncation=True,
                    max_length=int(limit),
                    return_tensors="pt",
                ).to(self.model.device)
                likeliest = self.model(**inputs).logits.argmax(-1)
                found |= dict(zip(part, (likeliest == self.entails).tolist(), strict=True))
        return np.array([found[pair] for pair in pairs])


def entailment_class(source: ModelSource) -> int:
    """The number of a classifier's class ``entailment``, from its configuration.

    Raises:
        InputError: it is no classifier of texts, or has no such class.
    """
    source_task(source, "text-classification")
    names = {str(name).lower(): number for number, name in (load_config(source).id2label or {}).items()}
    if "entailment" not in names:
        raise InputError(
            f"The model {source.name!r} of --entailment_model has the classes {', '.join(sorted(names))}; name one "
            "with a class 'entailment'."
        )
    return int(names["entailment"])


def sample_leaks(
    model: Model,
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
    *,
    records: int,
    samples: int,
    seed: int,
    temperature: float = 1.0,
    judge: Judge | None = None,
) -> LeakCurve | None:
    """Draw samples for records of S and of H, and estimate the chance that one of k gives the text away.

    One greedy answer hides what a model gives away every tenth time (Reisizadeh et al. 2025, arXiv:2511.04934). The
    model writes after the prompt, or after the first :data:`GIVEN_TOKENS` tokens of texts that have none. Of a long
    document only the first piece counts, and of a text the first :data:`SAMPLED_TOKENS` tokens.

    Args:
        model, tokenizer: a language model or an encoder-decoder; it stays as it is, and so do the random number
            generators.
        evidence: S, and H where there is one, encoded.
        records: of each set at most, drawn at random.
        samples: of each record.
        seed: of both.
        temperature: of the samples.
        judge: says whether a text follows from a sample.

    Returns:
        The curve, the mean of :func:`leak_at` over the records with the interval of
        :func:`~hf_unlearn.evaluation.statistics.clustered_rate`; None where the texts of S are too short.
    """
    for given in (0, GIVEN_TOKENS):
        found: dict[SetName, tuple[LeakPoint, ...]] = {}
        tokens = 0
        for name, part in evidence.at_most(records, seed).sets.items():
            if name not in JUDGED:
                continue
            examples = first_pieces(part)
            groups = None
            if "group" in examples.column_names:
                groups = dict(zip(examples["row"], examples["group"], strict=True))
            longest = max(sum(label != IGNORED for label in labels) for labels in examples["labels"])
            written = generate(
                model,
                examples,
                tokenizer,
                task=evidence.task,
                batch_size=evidence.batch_size,
                prefixes=(given,),
                new_tokens=min(SAMPLED_TOKENS, longest),
                samples=samples,
                temperature=temperature,
                seed=seed,
            )
            if written:
                # The model cannot write more than that.
                written = [replace(one, wanted=one.wanted[:SAMPLED_TOKENS]) for one in written]
                follows = None if judge is None else _follows(written, tokenizer, judge, evidence.batch_size)
                found[name] = _leak_points(written, tokenizer, samples, groups, follows)
                tokens += sum(len(ids) for one in written for ids in (one.read, one.begun, one.written))
        if "forget" in found:
            tokens = tokens // 2 if TASKS[evidence.task].two_texts else tokens
            return LeakCurve(SIMILAR, samples, temperature, seed, tokens, found["forget"], found.get("holdout"))
    return None


def leak_at(hits: np.ndarray, samples: int, k: int) -> np.ndarray:
    """The chance that one or more of k samples hit, estimated without bias from n samples of which c hit.

    It is 1 - C(n - c, k) / C(n, k), the share of the sets of k samples that have a hit (Chen et al. 2021,
    arXiv:2107.03374).

    Args:
        hits: c, of each record, shape (records,).
        samples: n, the same for all records.
        k: n at most.

    Returns:
        Of each record, shape (records,).
    """
    sets = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(c), k) / sets for c in hits])


def _leak_points(
    written: list[Generation],
    tokenizer: PreTrainedTokenizerBase,
    samples: int,
    groups: dict[int, int] | None,
    follows: np.ndarray | None,
) -> tuple[LeakPoint, ...]:
    """The points of a curve from samples, those of a passage together."""
    table = measure(written, tokenizer)
    rows = table["row"].to_numpy()
    recall = table["rougeL_recall"].to_numpy(zero_copy_only=False)
    short, told = _answers(written, tokenizer)

    def curve(hits: np.ndarray, counted: np.ndarray) -> Callable[[int], Estimate | None]:
        if not counted.any():
            return lambda k: None
        records, which = np.unique(rows[counted], return_inverse=True)
        given = np.zeros((len(records), samples), bool)
        # A record with several passages gives itself away by any of them.
        np.logical_or.at(given, (which, (np.arange(len(rows)) % samples)[counted]), hits[counted])
        units = None if groups is None else np.array([groups[row] for row in records])
        return lambda k: clustered_rate(leak_at(given.sum(1), samples, k), np.ones(len(records)), units)

    everywhere = np.ones(len(rows), bool)
    verbatim = curve(table["extracted"].to_numpy(), everywhere)
    similar = curve(recall >= SIMILAR, ~np.isnan(recall))
    answer = curve(told, short)
    entailed = curve(everywhere if follows is None else follows, everywhere & (follows is not None))
    points = []
    for k in COUNTS:
        if k <= samples and (sure := verbatim(k)) is not None:
            points.append(LeakPoint(k, sure, similar(k), answer(k), entailed(k)))
    return tuple(points)


def _answers(written: list[Generation], tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are of a short text, and which contain the words of the text in a row."""
    short, told = [], []
    for text, sample in _texts(written, tokenizer):
        words = _WORD.findall(text.lower())
        short.append(0 < len(words) <= SHORT)
        told.append(f" {' '.join(words)} " in f" {' '.join(_WORD.findall(sample.lower()))} ")
    return np.array(short), np.array(told)


def _follows(
    written: list[Generation], tokenizer: PreTrainedTokenizerBase, judge: Judge, batch_size: int
) -> np.ndarray:
    """Whether each text follows from the sample."""
    return judge.follows([(sample, text) for text, sample in _texts(written, tokenizer)], batch_size)


def _texts(written: list[Generation], tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, str]]:
    """The text and the sample of each."""

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    return [(text(one.wanted), text(one.written)) for one in written]
