"""Each row is answered by its owner's adapter, the unknown by the base or the vote, and nobody by a neighbour."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from hf_unlearn import InputError, load_sharded
from hf_unlearn.sharding.layout import WEIGHTS
from hf_unlearn.sharding.serving import ShardedModel

from ..conftest import tagged_rows
from .conftest import (
    CLASSIFIER,
    OWNERS,
    RARE_OWNER,
    RARE_SHARD,
    question_rows,
    sharding_of,
    shards_of,
    ticket_rows,
    write_key,
)

QUESTIONS = [row["prompt"] for row in question_rows()[:6]]


def read(model: ShardedModel, texts: list[str], side: str = "left") -> dict[str, torch.Tensor]:
    """Texts as the model reads them."""
    tokenizer = model.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return dict(tokenizer(texts, padding=True, padding_side=side, return_tensors="pt"))


def test_a_mixed_batch_is_answered_as_by_each_adapter_alone(sharded: Path, key_file: Path, lm_base: Path) -> None:
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    shards = shards_of()
    owners: list[Any] = [next(owner for owner in OWNERS if shards[owner] == number) for number in range(4)]
    asked = [*owners, "stranger", None]
    inputs = read(model, QUESTIONS)
    mixed = model(asked, **inputs)
    written = model.generate(asked, **inputs, max_new_tokens=5, do_sample=False)
    for row, owner in enumerate(asked):
        alone = AutoModelForCausalLM.from_pretrained(lm_base)
        if row < 4:
            alone = PeftModel.from_pretrained(alone, sharded / f"shards/{shards[owner]:04d}")
        one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        with torch.no_grad():
            expected = alone.eval()(**one).logits
            text = alone.generate(**one, max_new_tokens=5, do_sample=False)
        torch.testing.assert_close(mixed[row : row + 1], expected, atol=1e-5, rtol=1e-4)
        assert written[row, : text.shape[1]].tolist() == text[0].tolist()
    # The base and the adapters do differ.
    assert not torch.allclose(mixed[0], model([None] * 6, **inputs)[0], atol=1e-3)


def test_who_is_unknown_or_deleted_gets_the_base_and_never_a_neighbour(
    sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    strangers = [f"stranger {number}" for number in range(40)]
    assert model.shards_of([*strangers, None]) == [None] * 41
    assert model.shards_of(OWNERS) == [*shards_of().values()]
    without_key = load_sharded(str(sharded))
    assert without_key.shards_of(OWNERS) == [None] * len(OWNERS)
    other = write_key(tmp_path / "other.key", "ab" * 32)
    with pytest.raises(InputError, match="not the key that the owners were dealt by"):
        load_sharded(str(sharded), digest_key_file=str(other))


def test_few_adapters_stay_in_memory_and_the_answers_are_the_same(sharded: Path, key_file: Path) -> None:
    many, few = (load_sharded(str(sharded), digest_key_file=str(key_file), max_loaded=n) for n in (8, 1))
    inputs = read(many, QUESTIONS * 2)
    asked = [*OWNERS[:11], None]
    expected = many(asked, **inputs)
    for _ in range(2):
        torch.testing.assert_close(few(asked, **inputs), expected, atol=1e-5, rtol=1e-4)
        assert len(few._loaded) == 1
        assert len(few._peft.peft_config) == 1
    torch.testing.assert_close(few([None] * 12, **inputs), many([None] * 12, **inputs), atol=1e-5, rtol=1e-4)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "num_return_sequences": 2}
    written = [model.generate(asked, **inputs, **options) for model in (many, few)]
    assert written[0].shape[0] == 24
    assert torch.equal(*written)


def test_the_vote_is_the_mean_of_those_who_know_the_class(
    classifier: Path, key_file: Path, encoder_base: Path
) -> None:
    model = load_sharded(str(classifier), digest_key_file=str(key_file))
    texts = [row["text"] for row in ticket_rows()[:5]]
    found = model.classify(texts, [None, "stranger", None, OWNERS[0], RARE_OWNER])
    inputs = read(model, texts, "right")
    each = {}
    for part in sharding_of(classifier).parts:
        base = AutoModelForSequenceClassification.from_pretrained(encoder_base, num_labels=3)
        alone = PeftModel.from_pretrained(base, classifier / part.folder).eval()
        with torch.no_grad():
            each[part.number] = alone(**inputs).logits.softmax(-1)
    everyone = torch.stack([*each.values()]).mean(0)
    everyone[:, 2] = each[RARE_SHARD][:, 2]
    everyone /= everyone.sum(-1, keepdim=True)
    for row in range(3):
        assert [*found[row].values()] == pytest.approx(everyone[row].tolist(), abs=1e-5)
    for row, owner in ((3, OWNERS[0]), (4, RARE_OWNER)):
        assert [*found[row].values()] == pytest.approx(each[shards_of()[owner]][row].tolist(), abs=1e-5)
    assert [*found[0]] == ["billing", "delivery", "other"]


def test_a_language_model_votes_on_every_token(
    train_shards: Callable[..., Path], key_file: Path, lm_base: Path, tmp_path: Path
) -> None:
    folder = train_shards(tmp_path / "model", question_rows(), unknown_owner="vote")
    model = load_sharded(str(folder), digest_key_file=str(key_file))
    inputs = read(model, QUESTIONS)
    asked = [None, OWNERS[0], "stranger", None, OWNERS[1], None]
    each = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(lm_base), folder / part.folder).eval()
        for part in sharding_of(folder).parts
    ]

    def mean(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([m(input_ids=ids, attention_mask=mask).logits.softmax(-1) for m in each]).mean(0)

    voted = [row for row, owner in enumerate(asked) if owner in (None, "stranger")]
    expected = mean(inputs["input_ids"], inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    for row in voted:
        torch.testing.assert_close(
            model(asked, **inputs)[row][real[row]].exp(), expected[row][real[row]], atol=1e-5, rtol=1e-3
        )
    for beams in (1, 3):
        options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
        written = model.generate(asked, **inputs, **options)
        # In a batch and alone the same is written, by those who have an adapter too.
        for row, owner in enumerate(asked):
            one = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            alone = model.generate([owner], **one, **options)
            assert written[row, : alone.shape[1]].tolist() == alone[0].tolist()
    ids, mask = inputs["input_ids"][:1], inputs["attention_mask"][:1]
    written = model.generate([None], input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    for place in range(ids.shape[1], written.shape[1]):
        likeliest = mean(ids, mask)[0, -1].argmax()
        assert written[0, place] == likeliest
        ids, mask = torch.cat([ids, likeliest[None, None]], 1), torch.cat([mask, mask[:, :1] * 0 + 1], 1)
    with pytest.raises(InputError, match="set do_sample to False"):
        model.generate([None] * 6, **inputs, do_sample=True)
    few = load_sharded(str(folder), digest_key_file=str(key_file), max_loaded=1)
    with pytest.raises(InputError, match="load the model with max_loaded=4"):
        few.generate([None] * 6, **inputs, max_new_tokens=2, do_sample=False)
    torch.testing.assert_close(few(asked, **inputs), model(asked, **inputs), atol=1e-4, rtol=1e-4)
    assert "the mean of all adapters answers" in (folder / "README.md").read_text(encoding="utf-8")


def test_a_pipeline_answers_its_owner(sharded: Path, classifier: Path, key_file: Path) -> None:
    model = load_sharded(str(classifier), digest_key_file=str(key_file))
    texts = [row["text"] for row in ticket_rows()[:4]]
    read(model, texts)
    for owner in (OWNERS[0], RARE_OWNER, "stranger", None):
        expected = model.classify(texts, [owner] * 4)
        found = model.pipeline(owner, batch_size=3, top_k=None)(texts)
        for row, of_text in zip(expected, found, strict=True):
            assert {one["label"]: one["score"] for one in of_text} == pytest.approx(row, abs=1e-5)
    writer = load_sharded(str(sharded), digest_key_file=str(key_file))
    inputs = read(writer, QUESTIONS[:1])
    pipes = {owner: writer.pipeline(owner, do_sample=False, max_new_tokens=5) for owner in (OWNERS[0], None)}
    for owner, pipe in pipes.items():
        written = writer.generate([owner], **inputs, max_new_tokens=5, do_sample=False)
        expected_text = writer.tokenizer.decode(written[0], skip_special_tokens=True)
        assert pipe(QUESTIONS[0])[0]["generated_text"] == expected_text
    own, base = (pipe(QUESTIONS[0], return_full_text=False)[0]["generated_text"] for pipe in pipes.values())
    assert own != base


def other_base(kind: str, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny base model whose classifier has another kind of head than Bert's."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "num_attention_heads": 4}
    model = {
        "roberta": lambda: RobertaModel(
            RobertaConfig(**sizes, hidden_size=48, intermediate_size=96, max_position_embeddings=130)
        ),
        "distilbert": lambda: DistilBertModel(
            DistilBertConfig(vocab_size=len(tokenizer), dim=48, hidden_dim=96, n_layers=2, n_heads=4)
        ),
    }[kind]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_heads_of_any_kind_belong_to_the_shard(
    kind: str,
    train_shards: Callable[..., Path],
    byte_level_tokenizer: PreTrainedTokenizerFast,
    key_file: Path,
    tmp_path: Path,
) -> None:
    base = other_base(kind, tmp_path / "base", byte_level_tokenizer)
    settings = {"model_name_or_path": str(base), **CLASSIFIER}
    if kind == "distilbert":
        with pytest.raises(InputError, match="name its modules with --lora_target_modules"):
            train_shards(tmp_path / "none", ticket_rows(), **settings)
        settings["lora_target_modules"] = ["q_lin", "v_lin"]
    folder = train_shards(tmp_path / "model", ticket_rows(), **settings)
    model = load_sharded(str(folder), digest_key_file=str(key_file))
    texts = [row["text"] for row in ticket_rows()[:5]]
    found = model.classify(texts, [*OWNERS[:4], None])
    inputs = read(model, texts, "right")
    for row, owner in enumerate(OWNERS[:4]):
        alone = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        alone = PeftModel.from_pretrained(alone, folder / f"shards/{shards_of()[owner]:04d}").eval()
        with torch.no_grad():
            expected = alone(**inputs).logits.softmax(-1)[row]
        assert [*found[row].values()] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.slow
def test_words_are_tagged_by_owner_and_by_vote(
    train_shards: Callable[..., Path], encoder_base: Path, key_file: Path, tmp_path: Path
) -> None:
    rows = [{"customer": OWNERS[i % len(OWNERS)], **row} for i, row in enumerate(tagged_rows(48))]
    settings = {"model_name_or_path": str(encoder_base), **CLASSIFIER, "task": "token-classification"}
    folder = train_shards(tmp_path / "model", rows, **settings)
    model = load_sharded(str(folder), digest_key_file=str(key_file))
    owners = [row["customer"] for row in rows]
    own = model.score(Dataset.from_list(rows), owners)
    voted = model.score(Dataset.from_list(rows), [None] * len(rows))
    assert sum(own["nll"].to_pylist()) != pytest.approx(sum(voted["nll"].to_pylist()))
    inputs = {name: read(model, ["case1 amber basil"])[name] for name in ("input_ids", "attention_mask")}
    words = "case1 amber basil"
    for owner in (owners[0], None):
        found = model.pipeline(owner, ignore_labels=[])(words)
        logits = model([owner], **inputs)[0]
        assert [one["score"] for one in found] == pytest.approx(logits.softmax(-1).amax(-1).tolist(), abs=1e-5)
    assert model([None], **inputs).exp().sum(-1) == pytest.approx(torch.ones(inputs["input_ids"].shape), abs=1e-4)


def test_records_are_scored_by_their_owners(sharded: Path, key_file: Path) -> None:
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    rows = question_rows()
    records, owners = Dataset.from_list(rows), [row["customer"] for row in rows]
    own, base = model.score(records, owners), model.score(records, [None] * len(rows))
    assert own["row"].to_pylist() == list(range(len(rows)))
    assert sum(own["nll"].to_pylist()) < sum(base["nll"].to_pylist())
    # One owner's records alone are told the same.
    mine = [i for i, owner in enumerate(owners) if owner == OWNERS[0]]
    alone = model.score(records.select(mine), [OWNERS[0]] * len(mine))
    assert alone["nll"].to_pylist() == pytest.approx([own["nll"][i].as_py() for i in mine], rel=1e-4)


def test_what_is_not_asked_for_rightly_is_said(
    sharded: Path, classifier: Path, lm_base: Path, key_file: Path, tmp_path: Path
) -> None:
    model = load_sharded(str(sharded), digest_key_file=str(key_file))
    with pytest.raises(InputError, match="one owner, or None, for each of the 6 rows"):
        model("c-01", **read(model, QUESTIONS))
    with pytest.raises(InputError, match="does not classify texts"):
        model.classify(["a"], [None])
    with pytest.raises(InputError, match="writes nothing"):
        load_sharded(str(classifier)).generate([None], input_ids=torch.tensor([[1]]))
    with pytest.raises(InputError, match="has no sharding.json"):
        load_sharded(str(lm_base))
    changed = shutil.copytree(sharded, tmp_path / "changed")
    part = sharding_of(changed).parts[0]
    weights = load_file(changed / part.folder / WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, changed / part.folder / WEIGHTS)
    owner = next(owner for owner in OWNERS if shards_of()[owner] == part.number)
    model, inputs = load_sharded(str(changed), digest_key_file=str(key_file)), read(model, QUESTIONS[:1])
    with pytest.raises(InputError, match=f"The adapter {part.folder} of 'changed' is not the one"):
        model([owner], **inputs)
