"""Attacks that only talk to a model: against decoding, concatenating and scoring by hand."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PretrainedConfig

from hf_unlearn import InputError
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, padding_id
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.prompting import _shots, in_context, other_words, sample_leaks
from hf_unlearn.evaluation.generation import generate
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets
from hf_unlearn.models.tasks import Task

from ...conftest import secrets_rows
from ...support.models import corpus

PAIR = RecordFormat("prompt_completion")


def sets_of(
    tokenizer: Any,
    forget: list[dict[str, Any]],
    holdout: list[dict[str, Any]] | None,
    layout: RecordFormat = PAIR,
    task: Task = "text-generation",
    group_column: str | None = None,
) -> EvidenceSets:
    return evidence_sets(
        {"forget": Dataset.from_list(forget), "holdout": Dataset.from_list(holdout) if holdout else None},
        RecordEncoder(tokenizer, layout, 128),
        PaddingCollator(padding_id(tokenizer, PretrainedConfig())),
        task,
        8,
        seed=0,
        group_column=group_column,
    )


@pytest.fixture(scope="module")
def tokenizer(lm_by_heart: Path) -> Any:
    return AutoTokenizer.from_pretrained(lm_by_heart)


@pytest.fixture(scope="module")
def by_heart(lm_by_heart: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_by_heart).eval()


@pytest.fixture(scope="module")
def hesitant(by_heart: Any) -> Any:
    """Knows its records, and tells one in a few samples."""
    model = copy.deepcopy(by_heart)
    with torch.no_grad():
        model.lm_head.weight *= 0.75
    return model


# Sampling


def test_samples_come_from_the_whole_distribution_of_the_model(lm_base: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    with torch.no_grad():
        model.lm_head.weight *= 8
    model.generation_config.temperature, model.generation_config.top_k = 0.1, 5
    examples = sets_of(tokenizer, secrets_rows(1), None).sets["forget"]
    found = generate(
        model, examples, tokenizer, task="text-generation", batch_size=500, prefixes=(0,), new_tokens=1, samples=2000
    )
    drawn = np.array([g.written[0] if g.written else tokenizer.eos_token_id for g in found])
    with torch.no_grad():
        log_p = model.eval()(torch.tensor([found[0].read])).logits[0, -1].double().log_softmax(-1).numpy()
    entropy = -(np.exp(log_p) * log_p).sum()
    deviation = math.sqrt((np.exp(log_p) * (log_p + entropy) ** 2).sum() / len(drawn))
    assert abs(log_p[drawn].mean() + entropy) < 4 * deviation
    assert len(np.unique(drawn)) > 60
    likely = np.argsort(-log_p)[:5]
    expected = np.append(np.exp(log_p[likely]), 1 - np.exp(log_p[likely]).sum()) * len(drawn)
    counts = [(drawn == token).sum() for token in likely]
    assert stats.chisquare([*counts, len(drawn) - sum(counts)], expected).pvalue > 1e-4


def test_the_same_seed_draws_the_same_samples_and_nothing_else_is_drawn(hesitant: Any, tokenizer: Any) -> None:
    evidence = sets_of(tokenizer, secrets_rows(6), secrets_rows(20)[10:])
    before = {name: tensor.clone() for name, tensor in hesitant.state_dict().items()}
    state = torch.get_rng_state()
    first = sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=1) == first
    assert sample_leaks(hesitant, evidence, tokenizer, records=5, samples=4, seed=2) != first
    assert all(torch.equal(before[name], tensor) for name, tensor in hesitant.state_dict().items())


def test_the_curve_is_what_the_samples_tell(hesitant: Any, tokenizer: Any) -> None:
    rows = secrets_rows(30)
    evidence = sets_of(tokenizer, rows[:10], rows[10:30])
    curve = sample_leaks(hesitant, evidence, tokenizer, records=50, samples=6, seed=3)
    assert curve is not None
    assert curve.seed == 3
    assert [point.samples for point in curve.forget] == [1, 2, 4, 6]
    examples = evidence.sets["forget"]
    longest = max(sum(label != -100 for label in labels) for labels in examples["labels"])
    written = generate(
        hesitant, examples, tokenizer, task="text-generation", batch_size=8, prefixes=(0,), new_tokens=longest,
        samples=6, seed=3,
    )  # fmt: skip
    told = [[] for _ in range(10)]
    for one in written:
        text = tokenizer.decode(one.written)
        told[one.row].append(text.startswith(rows[one.row]["completion"]))
    assert [len(samples) for samples in told] == [6] * 10
    for point in curve.forget:
        hits = sum(any(samples[: point.samples]) for samples in told)
        interval = stats.binomtest(hits, 10).proportion_ci(0.95, method="exact")
        assert point.verbatim.value == hits / 10
        assert (point.verbatim.low, point.verbatim.high) == (interval.low, interval.high)
        assert point.similar is not None
        assert point.similar.value >= point.verbatim.value
    shares = [point.verbatim.value for point in curve.forget]
    assert shares[0] < shares[-1], "asking again helps"
    assert curve.holdout is not None
    assert curve.holdout[-1].verbatim.value == 0
    assert curve.holdout[-1].verbatim.n == 20


def test_who_knows_tells_at_once_and_who_never_saw_does_not(by_heart: Any, lm_base: Path, tokenizer: Any) -> None:
    evidence = sets_of(tokenizer, secrets_rows(10), None)
    known = sample_leaks(by_heart, evidence, tokenizer, records=10, samples=2, seed=0)
    never = sample_leaks(
        AutoModelForCausalLM.from_pretrained(lm_base), evidence, tokenizer, records=10, samples=2, seed=0
    )
    assert known is not None
    assert never is not None
    assert known.forget[0].verbatim.value >= 0.9
    assert never.forget[1].verbatim.value == 0
    assert known.holdout is None


def test_few_records_and_those_of_one_group_are_counted_together(hesitant: Any, tokenizer: Any) -> None:
    rows = secrets_rows(24)
    evidence = sets_of(tokenizer, rows[:12], rows[12:], group_column="group")
    curve = sample_leaks(hesitant, evidence, tokenizer, records=50, samples=1, seed=0)
    few = sample_leaks(hesitant, sets_of(tokenizer, rows[:12], None), tokenizer, records=4, samples=1, seed=0)
    assert curve is not None
    assert few is not None
    assert curve.forget[0].verbatim.n == 6
    assert few.forget[0].verbatim.n == 4


def test_texts_without_a_prompt_are_begun(by_heart: Any, tokenizer: Any) -> None:
    texts = [{"text": text[:200]} for text in corpus()[:3]]
    curve = sample_leaks(
        by_heart, sets_of(tokenizer, texts, None, RecordFormat("text")), tokenizer, records=9, samples=2, seed=0
    )
    assert curve is not None
    assert curve.forget[0].verbatim.n == 3
    short = sets_of(tokenizer, [{"text": "amber"}], None, RecordFormat("text"))
    assert sample_leaks(by_heart, short, tokenizer, records=9, samples=2, seed=0) is None


def test_an_encoder_decoder_is_asked_too(seq2seq_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(seq2seq_base)
    model = AutoModelForSeq2SeqLM.from_pretrained(seq2seq_base)
    evidence = sets_of(tokenizer, secrets_rows(4), None, RecordFormat("text_pairs"), "text2text-generation")
    curve = sample_leaks(model, evidence, tokenizer, records=9, samples=2, seed=0)
    assert curve is not None
    assert [point.verbatim.value for point in curve.forget] == [0, 0]


# In the context


def loss_after(model: Any, before: list[int], ids: list[int], labels: list[int]) -> tuple[float, int]:
    """Summed loss of the labels after the first token, and how many these are."""
    with torch.no_grad():
        log_p = model(torch.tensor([before + ids])).logits[0].log_softmax(-1)
    places = [i for i, label in enumerate(labels) if label != -100 and i > 0]
    return -sum(float(log_p[len(before) + i - 1, labels[i]]) for i in places), len(places)


@pytest.mark.parametrize("layout", ["prompt_completion", "text"])
def test_losses_in_the_context_by_hand(by_heart: Any, tokenizer: Any, layout: Any) -> None:
    """With two records of S and one of H there is one context each; long texts are cut at their beginning."""
    if layout == "text":
        whole = " ".join(corpus())
        rows: list[dict[str, Any]] = [
            {"text": whole[start:stop]} for start, stop in ((0, 900), (900, 960), (960, 1260))
        ]
    else:
        rows = secrets_rows(3)
    evidence = sets_of(tokenizer, rows[:2], rows[2:], RecordFormat(layout))
    score = in_context(by_heart, evidence, records=9, seed=0)
    assert (score.shots, score.others, score.alone.n) == (1, "holdout", 2)
    first = [
        evidence.sets["forget"].filter(lambda e, i=i: e["row"] == i, load_from_cache_file=False)[0] for i in (0, 1)
    ]
    other = evidence.sets["holdout"][0]["input_ids"]
    if layout == "text":
        assert max(len(example["input_ids"]) for example in first) == 128
    sums = dict.fromkeys(("alone", "after_forget", "after_others"), 0.0)
    tokens = 0
    for target, reminder in (first, first[::-1]):
        ids, labels = target["input_ids"][-64:], target["labels"][-64:]
        for name, before in zip(sums, ([], reminder["input_ids"], other), strict=True):
            nll, count = loss_after(by_heart, before[-(128 - len(ids)) :] if before else [], ids, labels)
            sums[name] += nll
        tokens += count
    for name, total in sums.items():
        assert vars(score)[name].value == pytest.approx(total / tokens, rel=1e-4), name
    assert score.gain.value == pytest.approx(
        (sums["after_others"] - sums["after_forget"]) / tokens, rel=1e-3, abs=1e-5
    )


def test_records_of_the_same_group_are_shown_first() -> None:
    groups = np.array([0, 1, 0, 1, 1, 0, 1, 1, 1])
    assert list(_shots(np.array([8, 0, 5, 4, 3, 2]), groups, 0)) == [0, 5, 2, 8]
    assert list(_shots(np.array([8, 0, 5, 4, 3, 2, 1]), groups, 1)) == [8, 4, 3, 1]


def test_contexts_are_drawn_by_the_seed(by_heart: Any, tokenizer: Any) -> None:
    rows = secrets_rows(30)
    evidence = sets_of(tokenizer, rows[:12], rows[12:], group_column="group")
    score = in_context(by_heart, evidence, records=8, seed=1)
    assert in_context(by_heart, evidence, records=8, seed=1) == score
    assert in_context(by_heart, evidence, records=8, seed=2).after_forget != score.after_forget
    assert score.shots == 4
    assert score.gain.value == pytest.approx(score.after_others.value - score.after_forget.value)
    assert score.alone.n <= 6, "groups are the unit"


def test_without_others_there_is_no_context(by_heart: Any, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="two records to forget or more"):
        in_context(by_heart, sets_of(tokenizer, secrets_rows(1), secrets_rows(2)), records=9, seed=0)
    with pytest.raises(InputError, match="held-out or retained"):
        in_context(by_heart, sets_of(tokenizer, secrets_rows(2), None), records=9, seed=0)


# In other words


def test_wordings_side_by_side(by_heart: Any, tokenizer: Any) -> None:
    rows = secrets_rows(20)
    wrapped = RecordFormat("prompt_completion", prompt="Hm. {prompt}", completion="{completion}")
    sets = {
        "as trained": sets_of(tokenizer, rows[:10], rows[10:]),
        "Hm.": sets_of(tokenizer, rows[:10], rows[10:], wrapped),
        "alone": sets_of(tokenizer, rows[:10], None),
    }
    plain, other, alone = other_words(by_heart, sets)
    assert (plain.wording, other.wording) == ("as trained", "Hm.")
    table = sets["as trained"].score(by_heart)["forget"]
    assert plain.forget_loss.value == pytest.approx(table["nll"].to_numpy().sum() / table["tokens"].to_numpy().sum())
    assert 0 < plain.forget_loss.value < other.forget_loss.value < 0.1, "who knows them knows them in any words"
    assert plain.membership_auc is not None
    assert plain.membership_auc.value == 1
    assert alone == type(alone)("alone", plain.forget_loss, None)
