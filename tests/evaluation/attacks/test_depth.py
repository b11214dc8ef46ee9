"""The depth score: against blocks run by hand, and at both of its ends."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from sklearn.linear_model import LogisticRegression
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_unlearn import InputError
from hf_unlearn.data.encoding import PaddingCollator
from hf_unlearn.evaluation.attacks.depth import (
    THRESHOLD,
    groups_of,
    patched_depth,
    patched_drops,
    probed_depth,
    probed_layers,
)
from hf_unlearn.evaluation.measured_sets import EvidenceSets
from hf_unlearn.models.tasks import IGNORED, Task

VOCABULARY, WIDTH, LAYERS = 40, 16, 3


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        )
    )  # fmt: skip


def gpt2() -> Any:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_positions=64, attn_pdrop=0.3)
    )


def neox() -> Any:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS,
            num_attention_heads=2, max_position_embeddings=64,
        )
    )  # fmt: skip


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=LAYERS,
            num_heads=2, pad_token_id=0, decoder_start_token_id=0,
        )
    )  # fmt: skip


def bert() -> Any:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=LAYERS,
            num_attention_heads=2, max_position_embeddings=64, pad_token_id=0,
        )
    )  # fmt: skip


MAKERS = {"llama": llama, "gpt2": gpt2, "neox": neox, "t5": t5, "bert": bert}
TASKS: dict[str, Task] = {"t5": "text2text-generation", "bert": "fill-mask"}


def of_size(make: Any, seed: int) -> Any:
    """A model whose blocks do a lot, so that patching them shows."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model


def adapted(model: Any, seed: int) -> Any:
    """A copy of a model under an adapter that changes all linear layers."""
    torch.manual_seed(seed)
    adapter = get_peft_model(
        copy.deepcopy(model),
        LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=isinstance(model, GPT2LMHeadModel)),
    )
    with torch.no_grad():
        for name, weight in adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5)
    return adapter


def sets_of(task: Task = "text-generation", records: int = 7) -> EvidenceSets:
    """Records of several lengths, of which the first tokens are a prompt, and two each are of one person."""
    draw = np.random.default_rng(0)
    rows = []
    for row in range(records):
        ids = draw.integers(1, VOCABULARY, 5 + row).tolist()
        labels = ids if task == "text2text-generation" else [IGNORED] * 3 + ids[3:]
        rows.append(
            {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "row": row, "group": row // 2}
        )
    return EvidenceSets(task, {"forget": Dataset.from_list(rows)}, PaddingCollator(0), batch_size=3)


def plain(model: Any) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def body_of(model: Any) -> tuple[Any, Any, Any]:
    """What holds the blocks of a model, its blocks, and its last norm."""
    if isinstance(model, GPT2LMHeadModel):
        return model.transformer, model.transformer.h, model.transformer.ln_f
    if isinstance(model, GPTNeoXForCausalLM):
        return model.gpt_neox, model.gpt_neox.layers, model.gpt_neox.final_layer_norm
    return model.model, model.model.layers, model.model.norm


def by_hand(original: Any, source: Any, ids: list[int], labels: list[int]) -> list[float]:
    """The drops of one record, without padding or hooks: hidden states go through the blocks that are left."""
    tokens = torch.tensor([ids])
    at = [p for p in range(len(ids) - 1) if labels[p + 1] != IGNORED]
    wanted = torch.tensor([ids[p + 1] for p in at])
    inner, other = plain(original), plain(source)
    theirs = source(tokens, output_hidden_states=True).hidden_states
    own = original(tokens, output_hidden_states=True)

    def mean_log_p(logits: torch.Tensor) -> float:
        return float(logits[0, at].log_softmax(-1)[range(len(at)), wanted].mean())

    drops = []
    for layer in range(LAYERS):
        # The last of the hidden states has the norm in it, so the block is run here.
        handed = run_block(other, layer, theirs[layer])
        state = run_block(inner, layer, own.hidden_states[layer])
        state[:, at] = handed[:, at]
        for later in range(layer + 1, LAYERS):
            state = run_block(inner, later, state)
        drops.append(mean_log_p(own.logits) - mean_log_p(inner.lm_head(body_of(inner)[2](state))))
    return drops


def run_block(model: Any, layer: int, state: torch.Tensor) -> torch.Tensor:
    """One block on the hidden states of one text."""
    length = state.shape[1]
    mask = torch.full((length, length), -1e9).triu(1)[None, None]
    positions = torch.arange(length)[None]
    body, blocks, _ = body_of(model)
    more = {}
    if not isinstance(model, GPT2LMHeadModel):
        more = {"position_embeddings": body.rotary_emb(state, positions), "position_ids": positions}
    out = blocks[layer](state, attention_mask=mask, **more)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_patching_is_what_running_the_blocks_by_hand_gives(name: str, lora: bool) -> None:
    original = of_size(MAKERS[name], 0)
    source = adapted(original, 1) if lora else of_size(MAKERS[name], 1)
    if lora:
        original = adapted(original, 2)
    evidence = sets_of()
    found = patched_drops(original, source, evidence, seed=0)
    assert original.training, "its mode stays"
    assert source.training
    with torch.no_grad():
        original.eval(), source.eval()
        rows = evidence.sets["forget"]
        expected = np.array([by_hand(original, source, row["input_ids"], row["labels"]) for row in rows])
    assert found.shape == (7, LAYERS)
    assert np.abs(found).min(axis=0).max() > 1e-3, "a drop of nothing would prove nothing"
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_ends_are_exact(name: str) -> None:
    original, retrained = of_size(MAKERS[name], 0), of_size(MAKERS[name], 1)
    evidence = sets_of(TASKS.get(name, "text-generation"))
    first = patched_drops(original, retrained, evidence, seed=0)
    assert first.shape == (7, LAYERS)
    assert np.array_equal(patched_drops(original, retrained, evidence, seed=0), first)
    # Of models that nobody trained half of the drops are gains.
    first = np.abs(first)
    own = patched_drops(original, original, evidence, seed=0)
    assert (own == 0).all()
    groups = groups_of(evidence, "forget", 0)
    assert groups is not None
    for drops, value in ((first, 1.0), (own, 0.0)):
        score = patched_depth(first, drops, groups, seed=0)
        assert score is not None
        for found in (score.depth, score.pooled):
            assert (found.value, found.low, found.high) == (value, value, value)
        counted = (first > THRESHOLD).any(1)
        assert (score.depth.n, score.records, score.left_out) == (len(set(groups[counted])), 7, int((~counted).sum()))


def test_models_of_another_shape_are_refused() -> None:
    for field, value in (("num_hidden_layers", 2), ("hidden_size", 32)):
        config = llama().config
        setattr(config, field, value)
        with pytest.raises(InputError, match="differ in the number or the width of their layers"):
            patched_drops(llama(), LlamaForCausalLM(config), sets_of(), seed=0)


def test_the_last_block_of_a_decoder_leaves_the_source_alone_to_answer() -> None:
    """With one head, going on from the last block's states is to ask the other model."""
    original, source = of_size(t5, 0), of_size(t5, 1)
    # Past the last block come the norm and the head.
    source.decoder.final_layer_norm = original.decoder.final_layer_norm
    source.lm_head = original.lm_head
    evidence = sets_of("text2text-generation")
    found = patched_drops(original, source, evidence, seed=0)[:, -1]
    means = [
        -(table["nll"].to_numpy() / table["tokens"].to_numpy())
        for table in (evidence.score(model.eval())["forget"] for model in (original, source))
    ]
    assert found == pytest.approx(means[0] - means[1], abs=1e-5)


def test_the_score_of_drops_written_down() -> None:
    retrained = np.array([[1.0, 3.0], [0.04, 2.0], [0.05, -1.0]])
    unlearned = np.array([[2.0, 1.5], [9.0, -1.0], [1.0, 1.0]])
    score = patched_depth(retrained, unlearned, None, seed=5)
    assert score is not None
    # (1 * 1 + 3 * .5) / 4 = .625; only the second layer counts in the second record, and none in the third.
    assert score.depth.value == (0.625 + 0) / 2
    assert (score.depth.n, score.records, score.left_out, score.seed) == (2, 3, 1, 5)
    assert [layer.counted for layer in score.layers] == pytest.approx([1 / 3, 2 / 3])
    assert score.layers[1].unlearned == pytest.approx(0.5)
    assert score.depth.low >= 0
    # Means: (1.09 / 3, 4 / 3) and (4, 1.5 / 3).
    assert score.pooled is not None
    assert score.pooled.value == pytest.approx((1.09 + 1.5) / (1.09 + 4))
    assert score.pooled.low < score.pooled.value < score.pooled.high
    assert patched_depth(retrained[2:], unlearned[2:], None, seed=5) is None


# Classifiers


def tickets(draw: np.random.Generator, records: int, known: int | None) -> Dataset:
    """Texts whose class their second token tells, or, of S and H, that have a class by chance."""
    rows = []
    for row in range(records):
        ids = draw.integers(6, VOCABULARY, 6 + row % 3).tolist()
        label = int(draw.integers(0, 3))
        if known is None:
            ids[1] = 3 + label
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": label, "row": row})
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def classified() -> EvidenceSets:
    draw = np.random.default_rng(1)
    sets = {"retained": tickets(draw, 90, None), "forget": tickets(draw, 40, 1), "holdout": tickets(draw, 40, 1)}
    return EvidenceSets("text-classification", sets, PaddingCollator(0), batch_size=16)


def trained(evidence: EvidenceSets, names: tuple[str, ...], seed: int) -> Any:
    """A tiny classifier that knows these sets by heart."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, num_labels=3, pad_token_id=0, hidden_dropout_prob=0.0,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [evidence.collator(list(evidence.sets[name].remove_columns("row"))) for name in names]  # type: ignore[index]
    for _ in range(40):
        loss = torch.stack([model(**batch).loss for batch in batches]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss.detach()) < 0.1
    return model


def test_a_probe_of_each_layer_tells_what_a_classifier_holds(classified: EvidenceSets) -> None:
    original = trained(classified, ("retained", "forget"), 0)
    retrained, again = (trained(classified, ("retained",), seed) for seed in (1, 2))
    known, never, other = (probed_layers(model, classified, seed=0) for model in (original, retrained, again))
    assert known["forget"].shape == known["holdout"].shape == (40, 2)
    # By the features of the mean over the positions, without padding or hooks, and by the class's own column.
    rows = {name: list(part) for name, part in classified.sets.items()}

    def last_features(part: list[dict[str, Any]]) -> np.ndarray:
        states = [original.eval().bert(torch.tensor([row["input_ids"]])).last_hidden_state[0] for row in part]
        return torch.stack([state.mean(0) for state in states]).detach().double().numpy()

    learned = last_features(rows["retained"])
    mean, spread = learned.mean(0), learned.std(0)
    probe = LogisticRegression(max_iter=1000).fit(
        (learned - mean) / spread, [row["labels"] for row in rows["retained"]]
    )
    likely = probe.predict_proba((last_features(rows["forget"]) - mean) / spread)
    expected = likely[range(40), [row["labels"] for row in rows["forget"]]]
    assert known["forget"][:, 1] == pytest.approx(expected, abs=1e-3)
    assert known["forget"][:, 1].mean() > known["holdout"][:, 1].mean() + 0.3

    def depth(unlearned: dict[Any, np.ndarray]) -> Any:
        return probed_depth(known, never, unlearned, None, seed=0)

    exact, nothing, fresh = depth(never), depth(known), depth(other)
    assert (exact.depth.value, exact.depth.low, exact.depth.high) == (1, 1, 1)
    assert (nothing.depth.value, nothing.depth.low, nothing.depth.high) == (0, 0, 0)
    assert exact.layers[1].counted == 1
    assert exact.layers[1].retrained == pytest.approx(
        (known["forget"] - never["forget"])[:, 1].mean() - (known["holdout"] - never["holdout"])[:, 1].mean()
    )
    assert fresh.depth == fresh.pooled
    assert fresh.depth.value > 0.8
    assert probed_depth(known, known, other, None, seed=0) is None, "where nothing was to be lost"
    few = {name: values[:2] for name, values in known.items()}, {name: values[:2] for name, values in never.items()}
    assert probed_depth(*few, few[0], None, seed=0) is None, "two records may differ by chance"
