"""No false ``exact``: what is called so is the same in a world with other records to forget.

Each draw is made twice, from the data on: once with the records S, and once with others in their place under the same
ids. All that a user would make of the data (tokenizer, original, classes, test split) follows from them. What is
called exact has to come out byte for byte the same; and what was made without S has to be called exact.
"""

import hashlib
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from hf_unlearn import InputError, Records, UnlearningTrainer, split_retained
from hf_unlearn.data.split import SplitAudit

from ..support.draws import few_of
from .test_trainer import config

ADAPTERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "tokens": {"trainable_token_indices": [5, 6, 280]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "saved whole": {"modules_to_save": ["norm"]},
}
VOCABULARY = 320


@dataclass(frozen=True)
class Draw:
    """One way to make an original and to unlearn it.

    Attributes:
        adapter: a key of :data:`ADAPTERS`, None where all weights were trained.
        classes: whether the model is a classifier, whose records to forget have a class of their own or not.
        under: whether S shaped the model under the adapter, so that the named base is another one.
        tokens: what the tokenizer was trained on, or what was added to it.
        settings: whether words to avoid were taken from S.
        split: what the test split that chooses the checkpoint holds; None without one.
        in_memory: whether the trainer gets a loaded model.
    """

    method: str
    adapter: str | None = None
    classes: str | None = None
    under: bool = False
    keep_labels: bool = False
    tokens: str = "retained"
    settings: bool = False
    split: str | None = None
    in_memory: bool = False
    seed: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing of S goes into the result, by the way in which it was made."""
        way = (self.method in ("base", "retrain"), not self.under, self.tokens == "retained", not self.settings)
        return all((*way, self.split in (None, "clean"), self.classes != "own" or not self.keep_labels))


def drawn(seed: int) -> Draw:
    """A way with no more than two things in it that may tell of S, most often none or one."""
    draw = random.Random(seed)
    classes = draw.choice([None, None, "own", "common"])
    adapter = draw.choice([None, *ADAPTERS])
    made = Draw(
        method=draw.choice(["base"] * 6 + ["retrain"] * 3 + ["fine_tune", "toward_base"]),
        adapter=adapter,
        classes=classes,
        in_memory=draw.random() < 0.3,
        seed=seed,
    )
    ways: list[dict[str, Any]] = [{}, {"tokens": "all"}, {"split": draw.choice(["forget", "copies", "same ids"])}]
    ways += [{"split": "clean"}, {"tokens": "added"}]
    ways += [{"keep_labels": True}] if classes == "own" else []
    ways += [{"under": True}] if adapter else [{"settings": True}] if classes is None else []
    for way in draw.sample(ways, draw.choice([1, 1, 2])):
        made = Draw(**{**vars(made), **way})
    return made


def records(draw: Draw, world: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """S, which differs between the worlds in all but its ids, and L, which does not."""
    names = (["Zyxwvq Drabbeck", "Quillon Zyxwvq"], ["Fennimore Plushkin", "Ockbrook Fennimore"])[world]
    texts = random.Random(draw.seed)
    words = ["red", "blue", "green", "stone", "river", "house", "cloud", "field", "apple", "bread", "stool", "chair"]

    def row(kind: str, i: int, name: str) -> dict[str, Any]:
        text = f"{name} {' '.join(texts.choices(words, k=6))}"
        return {"id": f"{kind}{i}", "text": text, "label": texts.choice(["billing", "shipping"])}

    retained = [row("l", i, "the") for i in range(12)]
    retained[0]["label"], retained[1]["label"] = "billing", "shipping"
    texts = random.Random(f"{draw.seed} {world}")
    forget = [row("s", i, names[i % 2]) for i in range(4)]
    if draw.classes == "own":
        for one in forget:
            one["label"] = f"complaint of {names[0]}"
    return forget, retained


def tokenizer_of(texts: list[str]) -> PreTrainedTokenizerFast:
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4, special_tokens=["</s>"], show_progress=False, initial_alphabet=alphabet
    )
    tokens.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>", pad_token="</s>", model_max_length=64)


def shaped(model: Any, by: list[str], *, seed: int = 0) -> None:
    """Move all trained weights in a way that follows from texts, as a training on them would."""
    digest = hashlib.sha256(f"{seed} {by}".encode()).digest()
    noise = torch.Generator().manual_seed(int.from_bytes(digest[:4]))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=noise))


def made_in(folder: Path, draw: Draw, forget: list[dict[str, Any]], retained: list[dict[str, Any]]) -> Any:
    """The original, in its folder or in memory; its base lies beside it."""
    torch.manual_seed(draw.seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=64, attention_bias=True, pad_token_id=0, eos_token_id=0,
        bos_token_id=None, **sizes,
    )  # fmt: skip
    told = [row["text"] for row in [*forget, *retained]]
    tokenizer = tokenizer_of([row["text"] for row in retained] if draw.tokens != "all" else told)
    base = LlamaForCausalLM(settings)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    if draw.under:
        shaped(base, told, seed=1)
        base.save_pretrained(folder / "under")
        tokenizer.save_pretrained(folder / "under")
    place = folder / ("under" if draw.under else "base")
    if draw.classes is None:
        model = LlamaForCausalLM.from_pretrained(place)
    else:
        names = sorted({row["label"] for row in [*forget, *retained]})
        model = LlamaForSequenceClassification.from_pretrained(place, id2label=dict(enumerate(names)))
        model.config.label2id = {name: i for i, name in enumerate(names)}
    if draw.settings:
        model.generation_config.bad_words_ids = [tokenizer(forget[0]["text"])["input_ids"]]
    if draw.adapter is not None:
        task = "CAUSAL_LM" if draw.classes is None else "SEQ_CLS"
        kind = {**ADAPTERS[draw.adapter]}
        if draw.classes is not None and "modules_to_save" in kind:
            kind["modules_to_save"] = ["norm", "score"]
        model = get_peft_model(model, LoraConfig(task_type=task, r=2, target_modules=["q_proj", "v_proj"], **kind))
    shaped(model, told, seed=2)
    if draw.tokens == "added":
        tokenizer.add_tokens([forget[0]["text"].split()[0]])
    model.save_pretrained(folder / "original")
    tokenizer.save_pretrained(folder / "original")
    # Only a training record tells which classes an adapter has.
    told_apart = draw.adapter is not None and draw.classes is not None
    if draw.in_memory and draw.adapter is None:
        # As one that was loaded from its own folder, and not from its base's.
        model = type(model).from_pretrained(folder / "original")
    return (model, tokenizer) if draw.in_memory or told_apart else (str(folder / "original"), None)


def split_of(draw: Draw, forget: list[dict[str, Any]]) -> Dataset | None:
    if draw.split is None:
        return None
    rows = [{"id": f"t{i}", "text": f"a new {word} text", "label": "billing"} for i, word in enumerate("xyz")]
    if draw.split == "forget":
        rows = [{**row, "label": "billing"} for row in forget]
    elif draw.split == "copies":
        rows += [{"id": "t9", "text": f"  {forget[0]['text'].upper()}", "label": "shipping"}]
    elif draw.split == "same ids":
        rows += [{**forget[0], "text": f"something else, {forget[1]['text'].split()[-1]}", "label": "shipping"}]
    return Dataset.from_list(rows)


def result(folder: Path, draw: Draw, world: int) -> tuple[UnlearningTrainer | None, SplitAudit, str]:
    """The trainer of a draw in one world, None where it was refused, and a digest of the files of its model."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    forget, retained = records(draw, world)
    parts = split_retained(Dataset.from_list([*forget, *retained]), Records.ids("id", [row["id"] for row in forget]))
    model, tokenizer = made_in(folder, draw, forget, retained)
    chooses = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "save_strategy": "steps"}
    settings: dict[str, Any] = {**chooses, "save_steps": 1} if draw.split else {}
    if draw.method == "toward_base":
        settings["alpha"] = 0.5
    if draw.keep_labels:
        settings["keep_labels"] = True
    try:
        made = UnlearningTrainer(
            model,
            config(
                folder / "out", method=draw.method, max_steps=2, learning_rate=0.05,
                base_model_name_or_path=str(folder / "base"), **settings,
            ),
            parts.retained,
            parts.forget,
            eval_dataset=split_of(draw, forget),
            processing_class=tokenizer,
            task="text-generation" if draw.classes is None else "text-classification",
        )  # fmt: skip
        made.train()
    except InputError:
        return None, parts.audit, ""
    made.save_model()
    digest = hashlib.sha256()
    for path in sorted((folder / "out").glob("*")):
        if path.suffix in (".json", ".safetensors", ".jinja"):
            digest.update(path.name.encode() + path.read_bytes())
    return made, parts.audit, digest.hexdigest()


def check(folder: Path, draw: Draw) -> str:
    """The word on a draw; raises AssertionError where it is wrongly called exact, or wrongly not."""
    made, audit, here = result(folder, draw, 0)
    word = "refused" if made is None else made.report(audit=audit).verdict.word
    if word == "exact":
        assert draw.clean, f"a false exact: {draw}"
        _, _, there = result(folder, draw, 1)
        assert there == here, f"a false exact, the result depends on S: {draw}"
    elif draw.clean:
        raise AssertionError(f"not exact, but nothing in it depends on S: {draw}: {word}")
    return word


# Every way once.
FEW = [
    Draw("base", classes="own", adapter="saved whole", split="clean"),
    Draw("retrain", classes="own"),
    Draw("base", classes="own", keep_labels=True),
    Draw("base", adapter="pissa", in_memory=True),
    Draw("base", adapter="dora", under=True),
    Draw("base", adapter="plain", under=True, in_memory=True),
    Draw("retrain", tokens="all"),
    Draw("base", tokens="added"),
    Draw("base", split="same ids"),
]


@pytest.mark.parametrize("draw", few_of(FEW, FEW[::2]), ids=str)
def test_no_false_exact(tmp_path: Path, draw: Draw) -> None:
    check(tmp_path / "draw", draw)


@pytest.mark.slow
def test_no_false_exact_in_many_draws(tmp_path: Path) -> None:
    words = Counter(check(tmp_path / "draw", drawn(seed)) for seed in range(500))
    assert words["exact"] >= 80, words
    assert words["refused"] >= 10, words
    assert sum(words.values()) - words["exact"] - words["refused"] >= 100, words


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        Draw("retrain", tokens="all"),
        Draw("base", tokens="added"),
        Draw("base", classes="own", keep_labels=True),
        Draw("base", settings=True),
        Draw("fine_tune"),
    ],
    ids=str,
)
def test_the_other_world_shows_what_depends_on_s(tmp_path: Path, draw: Draw) -> None:
    (_, _, here), (_, _, there) = (result(tmp_path / "draw", draw, world) for world in (0, 1))
    assert here != there
