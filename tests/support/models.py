"""Tiny models and tokenizers, made here."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)


def corpus() -> list[str]:
    """Real English text that every Python has."""
    from pydoc_data.topics import topics

    return [paragraph for text in topics.values() for paragraph in text.split("\n\n") if len(paragraph) > 40]


@pytest.fixture(scope="session")
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """A GPT-2-like tokenizer: byte-level BPE, EOS, neither BOS nor padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus()[:400], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=128)


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """A BERT-like tokenizer: WordPiece, lower case, [CLS] and [SEP] around a text, no EOS."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus()[:400], trainer)
    # The trainer numbers the tokens otherwise each time.
    words = [*special, *sorted(set(tokenizer.get_vocab()) - set(special))]
    tokenizer.model = models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)


@pytest.fixture(scope="session")
def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A T5-like tokenizer: Unigram over blanks that are written as letters, EOS after a text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus()[:200], trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=128, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def lm_base(tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with an untrained Llama of 0.1 M weights."""
    folder = tmp_path_factory.mktemp("models") / "lm_base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(byte_level_tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        attention_dropout=0.1,
        eos_token_id=byte_level_tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_base(tmp_path_factory: pytest.TempPathFactory, byte_level_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with an untrained BERT encoder of 0.1 M weights, without a head."""
    folder = tmp_path_factory.mktemp("models") / "encoder_base"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(byte_level_tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return folder


def bert_config(vocabulary: int) -> BertConfig:
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )


@pytest.fixture(scope="session")
def wordpiece_base(tmp_path_factory: pytest.TempPathFactory, wordpiece_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with an untrained BERT encoder of 0.1 M weights with a WordPiece tokenizer, without a head."""
    folder = tmp_path_factory.mktemp("models") / "wordpiece_base"
    torch.manual_seed(0)
    BertModel(bert_config(len(wordpiece_tokenizer))).save_pretrained(folder)
    wordpiece_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seq2seq_base(tmp_path_factory: pytest.TempPathFactory, wordpiece_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with an untrained encoder-decoder of two tiny BERTs."""
    folder = tmp_path_factory.mktemp("models") / "seq2seq_base"
    torch.manual_seed(0)
    part = bert_config(len(wordpiece_tokenizer))
    config = EncoderDecoderConfig.from_encoder_decoder_configs(part, bert_config(len(wordpiece_tokenizer)))
    config.decoder_start_token_id = wordpiece_tokenizer.cls_token_id
    config.pad_token_id = wordpiece_tokenizer.pad_token_id
    config.eos_token_id = wordpiece_tokenizer.sep_token_id
    EncoderDecoderModel(config).save_pretrained(folder)
    wordpiece_tokenizer.save_pretrained(folder)
    return folder
