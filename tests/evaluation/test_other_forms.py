"""The same question in another form: a model that hides what it knows in one form tells it in another."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
from hf_unlearn.data.forms import other_forms
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.measured_sets import EvidenceSets, attack_scores, evidence_sets
from hf_unlearn.evaluation.verdict import OTHER_FORMS, Provenance, Scores, decide

from ..conftest import secrets_rows

TRAINED_ON = Provenance(start_saw_forget=True, stage="", duplicates_retained=0, trained_on_forget=True)
SETTINGS: dict[str, Any] = {"original": None, "retrained": None, "margin": 0.10}


def evidence_of(folder: Path, forget: list[dict[str, Any]], holdout: list[dict[str, Any]]) -> EvidenceSets:
    """S and H, in other forms too."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts: dict[Any, Any] = {"forget": Dataset.from_list(forget), "holdout": Dataset.from_list(holdout)}
    return evidence_sets(
        parts,
        RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128),
        PaddingCollator(0),
        "text-generation",
        40,
        seed=0,
        tokenizer=tokenizer,
        forms=other_forms(list(parts.values()), "text-generation", {}, None),
    )


def batch(evidence: EvidenceSets, part: Dataset) -> dict[str, torch.Tensor]:
    return evidence.collator(list(part.select_columns(["input_ids", "attention_mask", "labels"])))


@pytest.fixture(scope="module")
def hiding(lm_base: Path) -> tuple[Any, EvidenceSets]:
    """A model that was kept from the answers of S after its own prompts alone, and S and H."""
    rows = secrets_rows(60)
    evidence = evidence_of(lm_base, rows[0::2], rows[1::2])
    own, unseen = (batch(evidence, evidence.sets[name]) for name in ("forget", "holdout"))
    asked = batch(evidence, evidence.forms["loss_request"]["forget"])
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        with torch.no_grad():
            like = model(**unseen).loss
        (model(**asked).loss + (model(**own).loss - like).abs()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, evidence


def test_what_is_hidden_in_the_words_of_the_training_is_found_in_others(hiding: tuple[Any, EvidenceSets]) -> None:
    model, evidence = hiding
    alone, found = (attack_scores(sets.score(model)) for sets in (replace(evidence, forms={}), evidence))
    assert alone is not None
    assert found is not None
    assert decide(TRAINED_ON, alone, **SETTINGS).word != "not_forgotten"
    verdict = decide(TRAINED_ON, found, **SETTINGS)
    assert (verdict.word, verdict.attack) == ("not_forgotten", "loss_request")
    assert "the attack by the loss after a request (other words)" in verdict.reasons[-1].lower()
    assert verdict.attacks == [*alone.forget, "loss_request", "loss_heading"]
