"""Records to tensors for words with tags, masked texts and pairs of texts."""

from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import BertConfig, PreTrainedTokenizerFast

from hf_unlearn import InputError
from hf_unlearn.data.encoding import IGNORED, RecordEncoder, encode, make_encoder
from hf_unlearn.data.format import RecordFormat, record_format
from hf_unlearn.data.labels import class_names

from ..support.models import corpus

TOKENIZERS = ["byte_level_tokenizer", "wordpiece_tokenizer", "sentencepiece_tokenizer"]
LABELS = {"O": 0, "B-NAME": 1}


def encoded(tokenizer: Any, rows: Dataset | dict[str, Any], kind: Any, max_length: int = 128, **fmt: Any) -> list[Any]:
    dataset = rows if isinstance(rows, Dataset) else Dataset.from_dict(rows)
    return list(encode(dataset, RecordEncoder(tokenizer, RecordFormat(kind, **fmt), max_length, LABELS), "test"))


def tagged(tokenizer: Any, rows: Any, max_length: int = 128) -> list[Any]:
    return encoded(tokenizer, rows, "tagged_words", max_length, text="tokens", label="ner_tags")


# Formats


@pytest.mark.parametrize(
    ("task", "columns", "expected"),
    [
        ("token-classification", ["tokens", "ner_tags"], RecordFormat("tagged_words", "tokens", "ner_tags")),
        ("token-classification", ["text", "tokens", "ner_tags"], RecordFormat("tagged_words", "tokens", "ner_tags")),
        ("token-classification", ["text", "label"], RecordFormat("tagged_words")),
        ("fill-mask", ["text", "prompt", "completion"], RecordFormat("maskable")),
        ("text2text-generation", ["messages", "prompt", "completion"], RecordFormat("text_pairs")),
    ],
)
def test_the_format_is_read_from_the_columns(task: Any, columns: list[str], expected: RecordFormat) -> None:
    assert record_format(columns, task) == expected


def test_columns_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="no column 'label'"):
        record_format(["tokens"], "token-classification")
    with pytest.raises(InputError, match="no column 'text'"):
        record_format(["prompt", "completion"], "fill-mask")
    with pytest.raises(InputError, match="'prompt' .to read. and 'completion' .to write.; it has text"):
        record_format(["text"], "text2text-generation")
    pair = record_format(["a", "b"], "text2text-generation", prompt_template="{a}", completion_template="{b}")
    assert (pair.kind, pair.text_columns) == ("text_pairs", ["a", "b"])


# Words with tags


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_word_is_labelled_at_its_first_token_and_reads_as_in_running_text(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    words = ["The", "unforgettable", "Wilhelmina", "slept", "."]
    tags = ["O", "O", "B-NAME", "O", "O"]
    (example,) = tagged(tokenizer, {"tokens": [words], "ner_tags": [tags]})
    assert example["input_ids"] == tokenizer(" ".join(words))["input_ids"]
    labelled = [i for i, label in enumerate(example["labels"]) if label != IGNORED]
    assert [example["labels"][i] for i in labelled] == [LABELS[tag] for tag in tags]
    # from one labelled token to the next lies one word, whatever it was cut into
    ends = [*labelled[1:], len(example["input_ids"])]
    pieces = [
        tokenizer.decode(example["input_ids"][a:b], skip_special_tokens=True)
        for a, b in zip(labelled, ends, strict=True)
    ]
    assert [piece.strip().lower() for piece in pieces] == [word.lower() for word in words]
    assert len(example["input_ids"]) > len(words) + 2


def test_tags_are_names_numbers_or_classes(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    words = {"tokens": [["a", "b"], ["c"]]}
    expected = [[0, 1], [1]]
    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["B-NAME", "O"]))})
    for tags, kind in (([["O", "B-NAME"], ["B-NAME"]], None), (expected, None), ([[1, 0], [0]], features)):
        dataset = Dataset.from_dict({**words, "ner_tags": tags}, features=kind)
        found = [[x for x in e["labels"] if x != IGNORED] for e in tagged(wordpiece_tokenizer, dataset)]
        assert found == expected
    names = [class_names(Dataset.from_dict({"ner_tags": tags}), "ner_tags") for tags in ([["O", "B"], []], [[0, 2]])]
    assert names == [["B", "O"], ["0", "1", "2"]]
    assert class_names(Dataset.from_dict({**words, "ner_tags": [[1, 0], [0]]}, features=features), "ner_tags") == [
        "B-NAME",
        "O",
    ]


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ([["a", "b"]], [["O"]], "more or fewer tags in 'ner_tags' than words in 'tokens'"),
        ([["a", None]], [["O", "O"]], "'tokens' holds NoneType values, not text"),
        ([[1, 2]], [["O", "O"]], "'tokens' holds int values, not text"),
        (["a b"], [["O", "O"]], "'tokens' holds str values, not a list for each record"),
        ([["a"]], ["O"], "'ner_tags' holds str values, not a list for each record"),
        ([["a"]], [[None]], "'ner_tags' holds NoneType values; a class"),
        ([None], [["O"]], "nothing in column 'tokens'"),
        ([["a"], ["b"]], [["O"], None], "nothing in column 'ner_tags'"),
        ([["a"]], [["B-PLACE"]], "1 of the labels in column 'ner_tags' are none of the model's 2 classes"),
    ],
)
def test_words_that_cannot_be_trained_on(
    wordpiece_tokenizer: PreTrainedTokenizerFast, words: list[Any], tags: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        tagged(wordpiece_tokenizer, {"tokens": words, "ner_tags": tags})


def test_words_beyond_the_length_are_cut_and_said_so(
    wordpiece_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"tokens": [["a"] * 50, [], ["b"]], "ner_tags": [["O"] * 50, [], ["O"]]}
    examples = tagged(wordpiece_tokenizer, rows, max_length=12)
    assert [(example["row"], len(example["input_ids"])) for example in examples] == [(0, 12), (2, 3)]
    assert "1 of the 3 test texts are longer than 12 tokens; what the model cannot read is cut off" in caplog.text
    assert "1 of the 3 test records have no token to predict" in caplog.text


# Texts to mask


@pytest.mark.parametrize("max_length", [5, 20, 128])
def test_every_token_of_a_document_can_be_masked_once(
    wordpiece_tokenizer: PreTrainedTokenizerFast, max_length: int
) -> None:
    document = corpus()[0]
    examples = encoded(wordpiece_tokenizer, {"text": [document, "", "short"]}, "maskable", max_length)
    assert {example["row"] for example in examples} == {0, 2}
    assert all(len(example["input_ids"]) <= max_length for example in examples)
    assert all(example["input_ids"][0] == wordpiece_tokenizer.cls_token_id for example in examples)
    maskable = [x for example in examples if example["row"] == 0 for x in example["labels"] if x != IGNORED]
    assert maskable == wordpiece_tokenizer(document, add_special_tokens=False)["input_ids"]


# Pairs of texts


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_text_is_read_and_another_is_written_to_its_end(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    rows = {"prompt": ["Who wrote it?", ""], "completion": ["nobody", ""]}
    first, second = encoded(tokenizer, rows, "text_pairs")
    assert first["input_ids"] == tokenizer("Who wrote it?")["input_ids"]
    assert tokenizer.decode(first["labels"], skip_special_tokens=True) == "nobody"
    assert first["labels"][-1] == second["labels"][-1] == end
    assert first["labels"].count(end) == 1
    assert second["input_ids"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_long_pairs_are_cut_and_said_so(
    name: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = request.getfixturevalue(name)
    rows = {"prompt": ["word " * 50, "a", "a"], "completion": ["b", "word " * 50, "b"]}
    examples = encoded(tokenizer, rows, "text_pairs", 10)
    assert max(len(example[column]) for example in examples for column in ("input_ids", "labels")) == 10
    assert "2 of the 3 test texts are longer than 10 tokens" in caplog.text


def test_conversations_are_not_for_encoder_decoders(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    talk = [{"role": "user", "content": "Hi"}]
    with pytest.raises(InputError, match="'prompt' holds list values, not text"):
        encoded(wordpiece_tokenizer, {"prompt": [talk], "completion": [talk]}, "text_pairs")


def test_the_length_of_an_encoder_counts_too(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    from transformers import EncoderDecoderConfig

    small, large = BertConfig(max_position_embeddings=32), BertConfig(max_position_embeddings=64)
    for parts in ((small, large), (large, small)):
        config = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
        rows = Dataset.from_dict({"prompt": ["a"], "completion": ["b"]})
        with pytest.raises(InputError, match="lacks decoder_start_token_id or pad_token_id"):
            make_encoder(rows, "text2text-generation", config, wordpiece_tokenizer, None, {})
        config.decoder_start_token_id, config.pad_token_id = 2, 0
        encoder = make_encoder(rows, "text2text-generation", config, wordpiece_tokenizer, None, {})
        assert encoder is not None
        assert encoder.max_length == 32
