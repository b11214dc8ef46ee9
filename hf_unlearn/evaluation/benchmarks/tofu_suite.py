"""TOFU's evaluation of one model: the published measures from one scoring and one generation.

The sets are those of Maini et al. 2024, arXiv:2401.06121: questions about S, about authors that stay, about real
authors and about the world, each with its right answer and perturbed ones, for S and L with a paraphrased one too; and
H, questions about authors that no model saw, for the attacks.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...data.arrow_tables import require_columns
from ...data.encoding import PaddingCollator, RecordEncoder, encode, padding_id
from ...data.format import record_format
from ...errors import InputError
from ...models.limits import positions
from ...models.loading import Model
from ..generation import NEW_TOKENS, generate, measure
from ..measured_sets import EvidenceSets, attack_scores, evidence_sets
from ..report import SetName
from ..score_cache import data_digest, score_once
from ..statistics import Estimate, clustered_mean, membership_auc
from .tofu import (
    Mean,
    answer_probability,
    closer_to_one,
    forget_quality,
    model_utility,
    privleak,
    probability_among_options,
    true_better,
    truth_probability,
    truth_ratios,
)

TofuSet = Literal["forget", "retain", "real_authors", "world_facts", "holdout"]
Answer = Literal["answer", "paraphrased_answer", "perturbed_answer"]
# The answers to each question of a set, by column.
Answers = dict[Answer, list[list[str]]]

# The sets with wrong answers too, and those of them that must stay.
ASKED: tuple[TofuSet, ...] = ("forget", "retain", "real_authors", "world_facts")
KEPT = ASKED[1:]
MEANS: tuple[Mean, ...] = ("geometric", "arithmetic")
AGGREGATES = {"closer_to_one": closer_to_one, "true_better": true_better, "probability": truth_probability}
# The six attacks of open-unlearning by our names.
ATTACKS = {
    "loss": "mia_loss",
    "zlib": "mia_zlib",
    "min_k": "mia_min_k",
    "min_k_plus": "mia_min_k_plus_plus",
    "gradient_norm": "mia_gradnorm",
    "reference": "mia_reference",
}
WHOLE = 2**31  # tokens in an example: no answer is cut into pieces


@dataclass(frozen=True)
class TofuSuite:
    """Every answer to every question, encoded for one tokenizer.

    Attributes:
        evidence: ``forget`` and ``holdout`` are the right answers of S and H, ``test`` all other answers.
        places: of the answers of a set in ``test``.
        authors: of the records, in the sets that name them.
        fingerprint: of the records, whatever the tokenizer.
    """

    evidence: EvidenceSets
    places: dict[tuple[TofuSet, Answer], slice]
    authors: dict[TofuSet, np.ndarray]
    fingerprint: str

    def examples(self, name: TofuSet) -> Dataset:
        """The right answers of a set."""
        if name in ("forget", "holdout"):
            return self.evidence.sets[name]
        place = self.places[name, "answer"]
        return self.evidence.sets["test"].select(range(place.start, place.stop))


@dataclass(frozen=True)
class TofuScores:
    """The scores of every answer; ``tables`` are by set of ``suite.evidence``."""

    suite: TofuSuite
    tables: Mapping[SetName, pa.Table]

    def losses(self, name: TofuSet, answer: Answer) -> np.ndarray:
        """Loss per token in nats, shape (records, answers)."""
        if (name, answer) == ("forget", "answer"):
            return self.tables["forget"]["loss"].to_numpy()[:, None]
        found = self.tables["test"]["loss"].to_numpy()[self.suite.places[name, answer]]
        return found.reshape(len(self.suite.examples(name)), -1)

    def truth_ratios(self, name: TofuSet, mean: Mean) -> np.ndarray:
        """See :func:`.tofu.truth_ratios`; the right answer is the paraphrased one where there is one."""
        paraphrased = (name, "paraphrased_answer") in self.suite.places
        right = self.losses(name, "paraphrased_answer" if paraphrased else "answer")
        return truth_ratios(right[:, 0], self.losses(name, "perturbed_answer"), mean)


@dataclass(frozen=True)
class TofuMetric:
    """One number of the suite.

    Attributes:
        value: the number, None where there is none (see :func:`.tofu.privleak`).
        n: records that it rests on.
        low, high: ends of its 95 % interval; None for a p-value, and where there is none.
        groups: authors, where they are the unit of sampling of the interval.
        reference: the same number of the model that never saw S, for the attacks.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    groups: int | None = None
    reference: float | None = None


def tofu_suite(
    records: Mapping[TofuSet, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    prompt_template: str,
    completion_template: str,
    batch_size: int,
) -> TofuSuite:
    """Encode TOFU for a model.

    Args:
        records: all sets, ``holdout`` where there is one, with the columns ``question`` and ``answer``; all but
            ``holdout`` with ``perturbed_answer``, a list of one length, and where it exists ``paraphrased_answer``;
            and ``author`` where it is known, as the unit of sampling.
        tokenizer, config: the model's.
        prompt_template, completion_template: over ``question`` and ``answer``.
        batch_size: answers in a forward pass.

    Raises:
        InputError: a set or column is missing, a template lacks question or answer, an answer is empty, or a question
            with its answer is longer than the model can read.
    """
    if missing := [name for name in ASKED if name not in records]:
        raise InputError(f"TOFU's measures need the sets {', '.join(ASKED)}; {', '.join(missing)} is missing.")
    if "{question}" not in prompt_template or "{answer}" not in completion_template:
        raise InputError("The prompt_template must have {question} in it and the completion_template {answer}.")
    layout = {"prompt_template": prompt_template, "completion_template": completion_template}
    form = record_format(["question", "answer"], "text-generation", **layout)
    encoder = RecordEncoder(tokenizer, form, WHOLE)
    texts = {name: _answers(part, name) for name, part in records.items()}
    others, places = _others(records, texts)
    judged: dict[SetName, Dataset] = {"forget": records["forget"]}
    if "holdout" in records:
        judged["holdout"] = records["holdout"]
    evidence = evidence_sets(
        judged, encoder, PaddingCollator(padding_id(tokenizer, config)), "text-generation", batch_size, 0,
        tokenizer=tokenizer, group_column="author" if "author" in records["forget"].column_names else None,
    )  # fmt: skip
    examples = encode(Dataset.from_list(others), encoder, "test")
    assert isinstance(examples, Dataset)
    evidence.sets["test"] = examples
    evidence.gradients = "holdout" in records
    counts = {**{name: len(part) for name, part in judged.items()}, "test": len(others)}
    _check_lengths(evidence, counts, positions(config))
    authors = {name: np.array(part["author"]) for name, part in records.items() if "author" in part.column_names}
    return TofuSuite(evidence, places, authors, _fingerprint(records, texts))


def score_tofu(suite: TofuSuite, model: Model) -> TofuScores:
    """Score a model on every answer (see :func:`~hf_unlearn.evaluation.score_cache.score_once`).

    Raises:
        InputError: the loss of an answer is no finite number.
    """
    return TofuScores(suite, score_once(suite.evidence, model)[0])


def recall_tofu(
    suite: TofuSuite,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    new_tokens: int = NEW_TOKENS,
) -> dict[TofuSet, np.ndarray]:
    """ROUGE-L recall of a model's greedy answers, all sets in one generation.

    Args:
        suite: the answers.
        model, tokenizer: a causal language model.
        new_tokens: written at most.

    Returns:
        By set, from 0 to 1, shape (records,); 0 where the right answer has no word of a-z and 0-9.
    """
    parts = [suite.examples(name).select_columns(["input_ids", "attention_mask", "labels"]) for name in ASKED]
    asked = concatenate_datasets(parts)
    asked = asked.add_column("row", list(range(len(asked))))
    written = generate(
        model, asked, tokenizer, task="text-generation", batch_size=suite.evidence.batch_size,
        prefixes=(0,), new_tokens=new_tokens,
    )  # fmt: skip
    table = measure(written, tokenizer)
    recall = np.zeros(len(asked))
    recall[table["row"].to_numpy()] = np.nan_to_num(table["rougeL_recall"].to_numpy(zero_copy_only=False))
    ends = np.cumsum([len(part) for part in parts])
    return dict(zip(ASKED, np.split(recall, ends[:-1]), strict=True))


def tofu_metrics(
    scores: TofuScores, recall: Mapping[TofuSet, np.ndarray], reference: TofuScores | None = None
) -> dict[str, TofuMetric]:
    """All measures of TOFU's evaluation.

    Args:
        scores: of the model.
        recall: of the same, from :func:`recall_tofu`.
        reference: of a model that never saw S, on the same records; without it there are no forget quality, no
            reference attack and no privleak.

    Returns:
        By name: for each set ``probability``, ``rougeL_recall`` and ``truth_ratio`` in both means and all three
        aggregates, ``probability_among_options`` for real authors and world facts, ``exact_memorization`` and
        ``extraction_strength`` for S; ``forget_quality`` and ``model_utility`` in both means; and with H the
        membership AUC of each attack and ``privleak``.

    Raises:
        InputError: the reference was scored on other records.
    """
    if reference is not None and reference.suite.fingerprint != scores.suite.fingerprint:
        raise InputError("The reference was scored on other records than the model. Score both on the same sets.")
    authors = scores.suite.authors
    values: dict[tuple[TofuSet, str], np.ndarray] = {}
    for name in ASKED:
        right = scores.losses(name, "answer")[:, 0]
        values[name, "probability"] = answer_probability(right)
        values[name, "rougeL_recall"] = recall[name]
        for mean in MEANS:
            ratios = scores.truth_ratios(name, mean)
            for label, aggregate in AGGREGATES.items():
                values[name, f"truth_ratio_{mean}_{label}"] = aggregate(ratios)
        if name in ("real_authors", "world_facts"):
            options = probability_among_options(right, scores.losses(name, "perturbed_answer"))
            values[name, "probability_among_options"] = options
    for measured, column in (("exact_memorization", "exact"), ("extraction_strength", "extraction")):
        values["forget", measured] = scores.tables["forget"][column].to_numpy()
    found = {}
    for (name, measured), of_records in values.items():
        mean_of = clustered_mean(of_records, authors.get(name))
        groups = mean_of.n if name in authors else None
        found[f"{name}_{measured}"] = _metric(mean_of, len(of_records), groups)
    for mean in MEANS:
        if reference is not None:
            ratios, others = (model.truth_ratios("forget", mean) for model in (scores, reference))
            found[f"forget_quality_{mean}"] = TofuMetric(forget_quality(ratios, others), len(ratios))
        found[f"model_utility_{mean}"] = _utility(values, authors, mean)
    return found | _attacks(scores, reference)


def _utility(
    values: Mapping[tuple[TofuSet, str], np.ndarray], authors: Mapping[TofuSet, np.ndarray], mean: Mean
) -> TofuMetric:
    """The harmonic mean of nine with its interval.

    Its derivative by one of them, m, is H^2 / (9 m^2). So the change with one record is that of a sum over the
    measures of its set, and the variances of the three sets add up.
    """
    nine = [
        [
            values[name, "probability" if name == "retain" else "probability_among_options"],
            values[name, "rougeL_recall"],
            values[name, f"truth_ratio_{mean}_true_better"],
        ]
        for name in KEPT
    ]
    means = np.array([[measured.mean() for measured in three] for three in nine])
    utility, n = model_utility(means), sum(len(three[0]) for three in nine)
    if utility == 0:
        return TofuMetric(0.0, n)
    slopes = utility**2 / (9 * means**2)
    parts = [
        clustered_mean(np.stack(three, 1) @ slope, authors.get(name))
        for name, three, slope in zip(KEPT, nine, slopes, strict=True)
    ]
    half = math.hypot(*(part.high - part.value for part in parts))
    return _metric(Estimate(utility, utility - half, utility + half, min(part.n for part in parts)), n)


def _attacks(scores: TofuScores, reference: TofuScores | None) -> dict[str, TofuMetric]:
    """The membership AUC of each attack, and PrivLeak by Min-K%."""
    tables = scores.tables
    found = attack_scores(tables, None if reference is None else reference.tables)
    theirs = None if reference is None else attack_scores(reference.tables)
    if found is None:
        return {}
    n = sum(tables[name].num_rows for name in ("forget", "holdout"))
    groups = None if found.groups is None else len(np.unique(np.concatenate(found.groups)))
    metrics = {}
    for name, label in ATTACKS.items():
        if name not in found.forget:
            continue
        auc = membership_auc(-found.forget[name], -found.holdout[name], groups=found.groups)
        other = None
        if theirs is not None and name in theirs.forget:
            other = membership_auc(-theirs.forget[name], -theirs.holdout[name]).value
        metrics[label] = _metric(auc, n, groups, other)
    if theirs is not None:
        low = [(-side.forget["min_k"], -side.holdout["min_k"]) for side in (found, theirs)]
        leak = privleak(*low[0], reference=low[1])
        metrics["privleak"] = TofuMetric(leak if math.isfinite(leak) else None, n)
    return metrics


def _metric(found: Estimate, n: int, groups: int | None = None, reference: float | None = None) -> TofuMetric:
    """A number from 0 to 1; it has no interval where a single record, or a single author, shows no variance."""
    if found.n < 2 or not math.isfinite(found.high):
        return TofuMetric(found.value, n, None, None, groups, reference)
    return TofuMetric(found.value, n, max(found.low, 0.0), min(found.high, 1.0), groups, reference)


def _others(
    records: Mapping[TofuSet, Dataset], texts: Mapping[TofuSet, Answers]
) -> tuple[list[dict[str, str]], dict[tuple[TofuSet, Answer], slice]]:
    """All answers but the right ones of S and H, each with its question, and where those of a set lie."""
    others: list[dict[str, str]] = []
    places: dict[tuple[TofuSet, Answer], slice] = {}
    for name in ASKED:
        for answer, options in texts[name].items():
            if (name, answer) == ("forget", "answer"):
                continue
            start = len(others)
            for question, given in zip(records[name]["question"], options, strict=True):
                others += [{"question": question, "answer": text} for text in given]
            places[name, answer] = slice(start, len(others))
    return others, places


def _fingerprint(records: Mapping[TofuSet, Dataset], texts: Mapping[TofuSet, Answers]) -> str:
    """A digest of all questions and answers, in their order."""
    rows = [
        {"set": name, "question": question, "answer": answer, "texts": given}
        for name in get_args(TofuSet)
        if name in records
        for answer, options in texts[name].items()
        for question, given in zip(records[name]["question"], options, strict=True)
    ]
    return data_digest(Dataset.from_list(rows))


def _answers(part: Dataset, name: TofuSet) -> Answers:
    """The answers to each question of a set, by column; raises InputError where one is missing or empty."""
    needed = ["question", "answer", *(["perturbed_answer"] if name != "holdout" else [])]
    require_columns(needed, part.column_names)
    if len(part) == 0:
        raise InputError(f"The {name} set is empty.")
    columns = [column for column in get_args(Answer) if column in part.column_names]
    found: Answers = {}
    for column in columns[:1] if name == "holdout" else columns:
        given: list[Any] = part[column][:]
        found[column] = [[one] if isinstance(one, str) else one for one in given]
        bad = sum(not all(isinstance(text, str) and text.strip() for text in one or [""]) for one in found[column])
        if bad:
            raise InputError(f"{bad} of the {len(part)} {name} records have nothing in {column!r}. Leave them out.")
        if len({len(one) for one in found[column]}) > 1:
            raise InputError(f"The {name} records have unequal numbers of texts in {column!r}.")
    return found


def _check_lengths(evidence: EvidenceSets, records: Mapping[SetName, int], limit: float) -> None:
    for name, part in evidence.sets.items():
        if missing := records[name] - len(part):
            raise InputError(f"{missing} of the {records[name]} {name} answers have no token that could be predicted.")
        longest = max(map(len, part["input_ids"]))
        if longest > limit:
            raise InputError(
                f"A question with its answer takes up to {longest} tokens, and this model reads {limit}. TOFU's "
                "measures need a model that reads all of them."
            )
