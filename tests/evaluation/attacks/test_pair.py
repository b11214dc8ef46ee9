"""What a pair of models gives away: against decoding by hand, and against counting pairs."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_unlearn import InputError
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.pair import CUT, WEIGHT, Guidance, changed_losses, guided_texts
from hf_unlearn.evaluation.generation import generate
from hf_unlearn.evaluation.measured_sets import EvidenceSets, evidence_sets
from hf_unlearn.models.loading import load_any
from hf_unlearn.models.location import locate

from ...conftest import secrets_rows
from .test_depth import adapted

VOCABULARY = 600


def llama(seed: int, vocabulary: int = VOCABULARY) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=128, initializer_range=0.3, eos_token_id=0, bos_token_id=None,
        )
    ).eval()  # fmt: skip


def gpt2(seed: int) -> Any:
    """Its positions are absolute, so that padding on the left shows where it is not taken off."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3, eos_token_id=0,
        bos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


@pytest.fixture
def evidence(byte_level_tokenizer: Any) -> EvidenceSets:
    rows = secrets_rows(16)
    return evidence_sets(
        {"forget": Dataset.from_list(rows[:8]), "holdout": Dataset.from_list(rows[8:])},
        RecordEncoder(byte_level_tokenizer, RecordFormat("prompt_completion"), 128),
        PaddingCollator(0),
        "text-generation",
        4,
        seed=0,
        group_column="group",
    )


@torch.no_grad()
def by_hand(original: Any, other: Any, read: list[int], tokens: int) -> list[int]:
    """Guided greedy decoding of one text, from the start at each token."""
    ids = list(read)
    for _ in range(tokens):
        p, q = (
            model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1).numpy() for model in (original, other)
        )
        possible = [token for token in range(VOCABULARY) if p[token] >= p.max() - CUT]
        ids.append(max(possible, key=lambda token: q[token] + WEIGHT * (p[token] - q[token])))
        if ids[-1] == 0:
            break
    return [token for token in ids[len(read) :] if token != 0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora"])
def test_guided_decoding_is_what_decoding_by_hand_gives(
    kind: str, evidence: EvidenceSets, byte_level_tokenizer: Any
) -> None:
    make = gpt2 if kind == "gpt2" else llama
    original, other = make(0), make(1)
    if kind == "lora":
        other = adapted(original, 3).eval()
    settings: dict[str, Any] = {"task": "text-generation", "batch_size": 4, "prefixes": (0,), "new_tokens": 12}
    plain = other.get_base_model() if kind == "lora" else other
    written = generate(
        original, evidence.sets["forget"], byte_level_tokenizer, **settings,
        guide=lambda inputs: Guidance(plain, inputs["attention_mask"]),
    )  # fmt: skip
    assert len({len(one.read) for one in written}) > 1, "padding has to matter"
    assert [one.written for one in written] == [by_hand(original, other, one.read, 12) for one in written]
    alone = generate(original, evidence.sets["forget"], byte_level_tokenizer, **settings)
    assert [one.written for one in alone] != [one.written for one in written]


def test_texts_that_the_pair_writes_are_counted(lm_by_heart: Any) -> None:
    """A model guided away from itself writes what it writes alone."""
    model = load_any(locate(str(lm_by_heart)), None).eval()
    tokenizer = AutoTokenizer.from_pretrained(lm_by_heart)
    rows = secrets_rows(20)
    sets = evidence_sets(
        {"forget": Dataset.from_list(rows[:10]), "holdout": Dataset.from_list(rows[10:])},
        RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128),
        PaddingCollator(0),
        "text-generation",
        8,
        seed=0,
        group_column="group",
    )
    alone, itself = (guided_texts(model, other, sets, tokenizer, records=8, seed=0) for other in (None, model))
    assert alone == itself
    assert alone is not None
    assert alone.holdout is not None
    assert (alone.forget.verbatim.value, alone.holdout.verbatim.value) == (1.0, 0.0)
    assert alone.forget.recall is not None
    assert alone.forget.recall.value == 1
    assert alone.forget.verbatim.n <= 6, "groups are the units"
    with pytest.raises(InputError, match="size of their vocabulary"):
        guided_texts(model, llama(0, VOCABULARY + 8), sets, tokenizer, records=2, seed=0)


def test_membership_by_the_change_of_the_loss() -> None:
    draw = np.random.default_rng(0)
    hard = draw.normal(2, 1, 60)
    change = np.concatenate([draw.normal(0.5, 0.3, 40), draw.normal(0.1, 0.3, 20)])

    def tables(losses: np.ndarray, groups: bool = False) -> Any:
        found = {"forget": losses[:40], "holdout": losses[40:]}
        return {
            name: pa.table({"loss": values} | ({"group": np.arange(len(values)) // 4 + 100 * i} if groups else {}))
            for i, (name, values) in enumerate(found.items())
        }

    found = changed_losses(tables(hard), tables(hard + change))
    assert found is not None
    pairs = [s > h for s in change[:40] for h in change[40:]]
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.n == 60
    grouped = changed_losses(tables(hard, True), tables(hard + change, True))
    assert grouped is not None
    assert (grouped.value, grouped.n) == (found.value, 15)
    before = tables(hard)
    assert changed_losses(before, before).value == 0.5  # type: ignore[union-attr]
    assert changed_losses({"forget": before["forget"]}, before) is None
