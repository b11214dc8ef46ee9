"""Attacks that only talk to a model: against decoding, concatenating and scoring by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PretrainedConfig

from hf_unlearn import InputError
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, padding_id
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.prompting import _shots, in_context
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
