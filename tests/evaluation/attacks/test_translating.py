"""Prompts in another language: against a model that was taught the translations, and against decoding by hand."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from hf_unlearn import InputError
from hf_unlearn.evaluation.attacks.translating import Translator
from hf_unlearn.models.location import locate

LESSONS = {
    "the code of the house": "house the of code the",
    "what is the name": "name the is what",
    "a letter to the owner of the garden": "garden the of owner the to letter a",
    "the owner": "owner the",
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def taught(seq2seq_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder-decoder that turns the words of four texts round, with settings that would ruin greedy decoding."""
    folder = tmp_path_factory.mktemp("translator")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(seq2seq_base)
    tokenizer: Any = AutoTokenizer.from_pretrained(seq2seq_base)
    read, wanted = (tokenizer([*texts], padding=True, return_tensors="pt") for texts in (LESSONS, LESSONS.values()))
    # The decoder begins with the start that the tokenizer puts before a text.
    labels = wanted["input_ids"][:, 1:].masked_fill(wanted["attention_mask"][:, 1:] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    torch.manual_seed(0)
    model.eval()
    for _ in range(200):
        loss = model(
            input_ids=read["input_ids"],
            attention_mask=read["attention_mask"],
            decoder_input_ids=wanted["input_ids"][:, :-1],
            decoder_attention_mask=wanted["attention_mask"][:, :-1],
            labels=labels,
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if float(loss.detach()) < 0.02:
            break
    model.generation_config = GenerationConfig(
        num_beams=3, num_return_sequences=2, max_length=3, repetition_penalty=9.0,
        decoder_start_token_id=tokenizer.cls_token_id, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_what_was_taught_is_written_in_any_order_and_once(taught: Path) -> None:
    translator = Translator.load(locate(str(taught)), CPU)
    texts = [*LESSONS, *reversed(LESSONS)]
    state = torch.get_rng_state()
    for batch_size in (1, 3, 8):
        said, tokens = translator.translate(texts, batch_size)
        assert said == [LESSONS[text] for text in texts]
        # Each text once, with its two ends read, and written with its start and its end.
        lengths = [len(translator.tokenizer(text)["input_ids"]) for pair in LESSONS.items() for text in pair]
        assert tokens == sum(lengths) // 2
    assert torch.equal(torch.get_rng_state(), state)


def test_unknown_texts_by_hand(taught: Path) -> None:
    translator = Translator.load(locate(str(taught)), CPU)
    model, tokenizer = translator.model, translator.tokenizer
    texts = ["the garden of the house", "to", "what is the code of the owner of the letter"]
    expected = []
    for text in texts:
        ids = [tokenizer.cls_token_id]
        while len(ids) < 128 and (len(ids) == 1 or ids[-1] != tokenizer.sep_token_id):
            with torch.no_grad():
                out = model(**tokenizer(text, return_tensors="pt"), decoder_input_ids=torch.tensor([ids]))
            ids.append(int(out.logits[0, -1].argmax()))
        expected.append(tokenizer.decode(ids, skip_special_tokens=True))
    assert translator.translate(texts, 1)[0] == expected == translator.translate(texts, 3)[0]


def test_where_nothing_is_written_the_text_stays(taught: Path) -> None:
    translator = Translator.load(locate(str(taught)), CPU)
    silent: Any = copy.deepcopy(translator.model)
    with torch.no_grad():
        silent.decoder.cls.predictions.bias[translator.tokenizer.sep_token_id] = 1e4
    assert Translator(silent, translator.tokenizer).translate(["the owner"], 8)[0] == ["the owner"]


def test_only_an_encoder_decoder_in_safetensors_translates(taught: Path, lm_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="text2text-generation is not possible"):
        Translator.load(locate(str(lm_base)), CPU)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((taught / name).read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(InputError):
        Translator.load(locate(str(tmp_path)), CPU)
