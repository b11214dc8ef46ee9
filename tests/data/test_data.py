"""Records to tensors: formats, boundaries, masks, chunks, labels."""

from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoTokenizer, BertConfig, LlamaConfig, PreTrainedTokenizerFast

from hf_unlearn import InputError
from hf_unlearn.data.checks import check_examples, check_records
from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, encode, resolve_max_length
from hf_unlearn.data.format import RecordFormat, record_format
from hf_unlearn.data.labels import class_ids, class_names, label_ids

from ..conftest import SHARED
from ..support.models import corpus

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def encoded(tokenizer: Any, rows: dict[str, list[Any]], max_length: int = 128, **fmt: Any) -> list[dict[str, Any]]:
    fmt = {"kind": "prompt_completion", **fmt}
    return list(encode(Dataset.from_dict(rows), RecordEncoder(tokenizer, RecordFormat(**fmt), max_length), "test"))


def trained_text(tokenizer: Any, example: dict[str, Any]) -> str:
    return tokenizer.decode([token for token in example["labels"] if token != IGNORED])


def untrained_text(tokenizer: Any, example: dict[str, Any]) -> str:
    return tokenizer.decode(
        [t for t, label in zip(example["input_ids"], example["labels"], strict=True) if label == IGNORED]
    )


# Formats


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["text", "label"], RecordFormat("text")),
        (["prompt", "completion", "text"], RecordFormat("prompt_completion")),
        (["messages", "prompt", "completion"], RecordFormat("messages")),
    ],
)
def test_the_format_is_read_from_the_columns(columns: list[str], expected: RecordFormat) -> None:
    assert record_format(columns, "text-generation") == expected


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (["body"], {}, "a column 'text'; it has body"),
        (["q", "a"], {"prompt_template": "{q}"}, "go together"),
        (["q", "a"], {"prompt_template": "{q}", "completion_template": "{b}"}, "no column 'b'"),
        (["q"], {"prompt_template": "{q.__class__}", "completion_template": "{q}"}, "only column names in braces"),
        (["q"], {"prompt_template": "{q:>10}", "completion_template": "{q}"}, "only column names in braces"),
        (["q"], {"prompt_template": "", "completion_template": "{{q}}"}, "name no column"),
        (["q"], {"prompt_template": "{q", "completion_template": "{q}"}, "malformed"),
    ],
)
def test_columns_that_do_not_fit_a_language_model(columns: list[str], options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        record_format(columns, "text-generation", **options)  # type: ignore[arg-type]


def test_columns_that_do_not_fit_a_classifier() -> None:
    with pytest.raises(InputError, match="no column 'label'; its columns are text"):
        record_format(["text"], "text-classification")


# Prompts and completions


def test_the_prompt_is_masked_and_eos_is_trained(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = {"prompt": ["What is it?", "Where?"], "completion": [" A thing.", ""]}
    first, second = encoded(byte_level_tokenizer, rows)
    assert trained_text(byte_level_tokenizer, first) == " A thing.<|endoftext|>"
    assert untrained_text(byte_level_tokenizer, first) == "What is it?"
    assert trained_text(byte_level_tokenizer, second) == "<|endoftext|>"


@pytest.mark.parametrize("prompt", ["Question: {q}\nAnswer:", "Question: {q}\nAnswer: ", "{q}", "{q} "])
def test_no_answer_loses_its_first_token_with_byte_level_bpe(
    byte_level_tokenizer: PreTrainedTokenizerFast, prompt: str
) -> None:
    # With "Answer: " the blank becomes part of the answer's first token; tokenising both sides apart, as
    # open-unlearning does, leaves that token out of the labels.
    questions, answers = corpus()[:150], corpus()[150:300]
    lead = " " if prompt.endswith((":", "}")) else ""
    rows = {"prompt": [prompt.format(q=q[:80]) for q in questions], "completion": [lead + a[:60] for a in answers]}
    examples = encoded(byte_level_tokenizer, rows, max_length=1024)
    assert len(examples) == 150
    for example, before, after in zip(examples, rows["prompt"], rows["completion"], strict=True):
        told = trained_text(byte_level_tokenizer, example)
        assert told.endswith(after + "<|endoftext|>")
        # what else is trained on is the part of the prompt that shares a token with the answer
        extra = told.removesuffix(after + "<|endoftext|>")
        assert before.endswith(extra)
        assert len(extra) <= 8
        assert example["input_ids"][:-1] == byte_level_tokenizer(before + after)["input_ids"]


def test_boundaries_with_other_kinds_of_tokenizers(minilm: Any, lm_base: Any) -> None:
    wordpiece = AutoTokenizer.from_pretrained(minilm)
    rows = {"prompt": ["who wrote it?"], "completion": [" nobody"]}
    fmt = RecordFormat("prompt_completion")
    (example,) = encode(Dataset.from_dict(rows), RecordEncoder(wordpiece, fmt, 64), "test")
    assert "nobody" in wordpiece.decode([t for t in example["labels"] if t != IGNORED])
    if SHARED.is_dir():
        sentencepiece = AutoTokenizer.from_pretrained(SHARED / "models" / "tinystories-260k")
        (example,) = encode(Dataset.from_dict(rows), RecordEncoder(sentencepiece, fmt, 64), "test")
        assert example["input_ids"][0] == sentencepiece.bos_token_id
        assert example["labels"][0] == IGNORED
        assert example["labels"][-1] == sentencepiece.eos_token_id
        assert trained_text(sentencepiece, example).replace("</s>", "").strip() == "nobody"


def test_templates_build_prompts_from_other_columns(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = {"question": ["Who?"], "answer": ["Me"], "id": [7]}
    (example,) = encoded(byte_level_tokenizer, rows, prompt="Q{id}: {question}\nA:", completion=" {answer}")
    assert byte_level_tokenizer.decode(example["input_ids"]) == "Q7: Who?\nA: Me<|endoftext|>"
    assert trained_text(byte_level_tokenizer, example) == " Me<|endoftext|>"


# Conversations


@pytest.fixture
def chat_tokenizer(byte_level_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    from copy import deepcopy

    tokenizer = deepcopy(byte_level_tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_only_the_assistants_turns_are_trained_on(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    talk = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Bye"), turn("assistant", "See you")]
    (example,) = encoded(chat_tokenizer, {"messages": [talk]}, kind="messages")
    assert chat_tokenizer.decode(example["input_ids"]) == (
        "<user>Hi</s>\n<assistant>Hello</s>\n<user>Bye</s>\n<assistant>See you</s>\n"
    )
    assert trained_text(chat_tokenizer, example) == "Hello</s>\nSee you</s>\n"


def test_conversational_prompts_and_completions(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "Bye")]
    (example,) = encoded(chat_tokenizer, {"prompt": [prompt], "completion": [[turn("assistant", "See you")]]})
    assert trained_text(chat_tokenizer, example) == "See you</s>\n"


def test_conversations_that_cannot_be_trained_on(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no turn of the assistant"):
        encoded(chat_tokenizer, {"messages": [[turn("user", "Hi")]]}, kind="messages")
    chat_tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    talk = [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")]
    with pytest.raises(InputError, match="rewrites earlier turns"):
        encoded(chat_tokenizer, {"messages": [talk]}, kind="messages")


def test_conversations_need_a_chat_template(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        encoded(byte_level_tokenizer, {"messages": [[turn("assistant", "Hi")]]}, kind="messages")


# Documents


@pytest.mark.parametrize("max_length", [2, 3, 7, 50, 128])
def test_long_documents_are_split_and_every_token_is_predicted_once(
    byte_level_tokenizer: PreTrainedTokenizerFast, max_length: int
) -> None:
    document = corpus()[0]
    examples = encoded(byte_level_tokenizer, {"text": [document, "short"]}, max_length, kind="text")
    whole = [*byte_level_tokenizer(document)["input_ids"], byte_level_tokenizer.eos_token_id]
    pieces = [example for example in examples if example["row"] == 0]
    assert all(len(example["input_ids"]) <= max_length for example in examples)
    predicted = [token for example in pieces for token in example["labels"][1:]]
    assert predicted == whole[1:]


def test_records_without_a_token_to_predict_are_left_out_and_said_so(
    byte_level_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    examples = encoded(byte_level_tokenizer, {"text": ["", "a b", ""]}, kind="text")
    assert [example["row"] for example in examples] == [1]
    assert "2 of the 3 test records have no token to predict" in caplog.text


def test_missing_texts_are_an_error(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="Some records have nothing in column 'text'"):
        encoded(byte_level_tokenizer, {"text": ["a", None]}, kind="text")
    with pytest.raises(InputError, match="Column 'text' holds int values, not text"):
        encoded(byte_level_tokenizer, {"text": [1, 2]}, kind="text")
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"0": 0, "1": 1})
    with pytest.raises(InputError, match="Some records have nothing in column 'label'"):
        encode(Dataset.from_dict({"text": ["a", "b"], "label": [0, None]}), encoder, "test")
    with pytest.raises(InputError, match="no column 'text'"):
        encoded(byte_level_tokenizer, {"body": ["a"]}, kind="text")


@pytest.mark.parametrize(
    ("columns", "kind", "message"),
    [
        ({"text": [["a"]]}, "text", "Column 'text' holds list values, not text"),
        ({"messages": ["hello"]}, "messages", "Column 'messages' holds str values, not conversations"),
        ({"messages": [["hello"]]}, "messages", "a message without a role"),
        ({"messages": [[{"content": "a"}]]}, "messages", "a message without a role"),
        ({"messages": [[{"role": "assistant", "content": None}]]}, "messages", "a message whose content is not text"),
        ({"messages": [[]]}, "messages", "no turn of the assistant"),
        ({"prompt": ["a"], "completion": [[{"role": "assistant", "content": "b"}]]}, "prompt_completion", "not text"),
        ({"prompt": [1], "completion": [2]}, "prompt_completion", "not conversations"),
        ({"prompt": [[]], "completion": [[{"role": "user", "content": "b"}]]}, "prompt_completion", "no turn of the"),
        ({"text": ["a"], "label": [["b"]]}, "classification", "a class is a name or a number"),
    ],
)
def test_records_that_are_not_what_their_format_says(columns: dict[str, list[Any]], kind: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_records(Dataset.from_dict(columns), RecordFormat(kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_mask": None}, "no column 'attention_mask'"),
        ({"input_ids": ["a", "b"]}, "counts as tokenised, but its column 'input_ids' holds string"),
        ({"input_ids": [[1], None]}, "its column 'input_ids' holds list"),
        ({"labels": [1, 2]}, "its column 'labels' holds int64"),
        ({"labels": [[1, 2], [3]]}, "columns of different lengths"),
        (dict.fromkeys(("input_ids", "attention_mask", "labels"), [[1], []]), "Some examples have no token"),
        ({"input_ids": [[1], [600]]}, "outside the model's vocabulary of 600 tokens"),
        ({"input_ids": [[1], [-1]]}, "outside the model's vocabulary of 600 tokens"),
    ],
)
def test_tokenised_records_that_are_not(change: dict[str, Any], message: str) -> None:
    sound: dict[str, Any] = {name: [[1], [1]] for name in ("input_ids", "attention_mask", "labels")}
    check_examples(Dataset.from_dict(sound), task="text-generation", vocabulary=600)
    columns = {name: values for name, values in {**sound, **change}.items() if values is not None}
    with pytest.raises(InputError, match=message):
        check_examples(Dataset.from_dict(columns), task="text-generation", vocabulary=600)


def test_many_blank_records_come_first(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    for kind, columns in (("text", {}), ("classification", {"label": ["a"] * 1101})):
        data = Dataset.from_dict({"text": [""] * 1100 + ["a b"], **columns})
        encoder = RecordEncoder(byte_level_tokenizer, RecordFormat(kind), 16, {"a": 0})  # type: ignore[arg-type]
        assert encode(data, encoder, "test")["row"][:] == [1100]
        with pytest.raises(InputError, match="None of the 1100 test records has a token"):
            encode(data.select(range(1100)), encoder, "test")


def test_a_new_name_does_not_make_numbers_of_the_others() -> None:
    features = Features({"label": ClassLabel(names=["ham", "spam", "eggs"])})
    data = Dataset.from_dict({"label": [0, 1]}, features=features)
    assert label_ids(data, "label", {"spam": 0, "ham": 1}) == {0: 1, 1: 0}
    with pytest.raises(InputError, match="1 of the labels"):
        label_ids(Dataset.from_dict({"label": [0, 2]}, features=features), "label", {"spam": 0, "ham": 1})
    assert label_ids(data, "label", {"LABEL_0": 0, "LABEL_1": 1})[1] == 1


def test_classes_are_those_of_the_head() -> None:
    config = BertConfig(id2label={0: "a", 1: "b"})
    assert config.label2id is None, "transformers does not make it"
    assert class_ids(config) == {"a": 0, "b": 1}


def test_numbers_that_are_no_classes() -> None:
    for labels in ([0, 10**6], [3, 2**40]):
        with pytest.raises(InputError, match="integers far apart"):
            class_names(Dataset.from_dict({"label": labels}), "label")


def test_the_length_is_the_models_or_what_is_asked(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    long = LlamaConfig(max_position_embeddings=100_000)
    assert resolve_max_length(LlamaConfig(max_position_embeddings=64), byte_level_tokenizer, None) == 64
    assert resolve_max_length(long, byte_level_tokenizer, 100) == 100
    unlimited = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer.backend_tokenizer)
    assert resolve_max_length(long, unlimited, None) == 1024
    # What a tokenizer says of its model is a default.
    assert resolve_max_length(long, byte_level_tokenizer, None) == 128
    assert resolve_max_length(long, byte_level_tokenizer, 129) == 129
    for asked in (1, 100_001):
        with pytest.raises(InputError, match="reads 2 to 100000 tokens"):
            resolve_max_length(long, byte_level_tokenizer, asked)


# Classification


def test_texts_with_labels(byte_level_tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"text": ["a b c", "x " * 100], "label": ["yes", "no"]}
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"no": 0, "yes": 1})
    examples = list(encode(Dataset.from_dict(rows), encoder, "test"))
    assert [example["labels"] for example in examples] == [1, 0]
    assert len(examples[1]["input_ids"]) == 16
    assert "1 of the 2 test texts are longer than 16 tokens" in caplog.text


@pytest.mark.parametrize(
    ("labels", "features", "expected"),
    [
        (["b", "a", "b"], None, ["a", "b"]),
        ([2, 0, 2], None, ["0", "1", "2"]),
        ([1, 0, 1], ClassLabel(names=["ham", "spam"]), ["ham", "spam"]),
    ],
)
def test_names_of_classes(labels: list[Any], features: Any, expected: list[str]) -> None:
    schema = Features({"label": features}) if features else None
    assert class_names(Dataset.from_dict({"label": labels}, features=schema), "label") == expected


def test_labels_are_matched_by_name_whatever_their_order(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    dataset = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"spam": 0, "ham": 1})
    assert [example["labels"] for example in encode(dataset, encoder, "test")] == [1, 0]
    unnamed = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"LABEL_0": 0, "LABEL_1": 1})
    assert [example["labels"] for example in encode(dataset, unnamed, "test")] == [0, 1]


@pytest.mark.parametrize("labels", [["maybe"], [5], [-1]])
def test_labels_the_model_does_not_have(byte_level_tokenizer: PreTrainedTokenizerFast, labels: list[Any]) -> None:
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"no": 0, "yes": 1})
    with pytest.raises(InputError, match="none of the model's 2 classes"):
        encode(Dataset.from_dict({"text": ["a"], "label": labels}), encoder, "test")


def test_labels_of_other_types() -> None:
    for labels in ([0.5, 1.0], [-1, 0], [None, None]):
        with pytest.raises(InputError, match="must all be names or all be integers"):
            class_names(Dataset.from_dict({"label": labels}), "label")


# Padding


def test_padding_is_masked_whatever_its_id() -> None:
    """Open-unlearning masks every token whose id is that of the padding, the ends of turns among them."""
    eos = 3
    examples = [
        {"input_ids": [5, 6, eos], "attention_mask": [1, 1, 1], "labels": [IGNORED, 6, eos]},
        {"input_ids": [eos], "attention_mask": [1], "labels": [eos]},
    ]
    batch = PaddingCollator(pad_token_id=eos)(examples)
    assert batch["input_ids"].tolist() == [[5, 6, eos], [eos, eos, eos]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, eos], [eos, IGNORED, IGNORED]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_classes_are_stacked() -> None:
    examples = [
        {"input_ids": [5], "attention_mask": [1], "labels": 2},
        {"input_ids": [5, 6], "attention_mask": [1, 1], "labels": 0},
    ]
    assert PaddingCollator(0)(examples)["labels"].tolist() == [2, 0]


def test_streams_are_tokenised_as_they_come(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = Dataset.from_dict({"prompt": ["a", "b"], "completion": [" c", " d"]})
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("prompt_completion"), 16)
    whole, stream = encode(rows, encoder, "test"), encode(rows.to_iterable_dataset(), encoder, "test")
    assert [e["input_ids"] for e in stream] == [e["input_ids"] for e in whole]
    assert [e["labels"] for e in stream] == [e["labels"] for e in whole]


def test_labels_of_a_stream_the_model_does_not_have(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    stream = Dataset.from_dict({"text": ["a", "b"], "label": ["x", "Jane"]}).to_iterable_dataset()
    encoder = RecordEncoder(byte_level_tokenizer, RecordFormat("classification"), 16, {"x": 0})
    with pytest.raises(InputError, match="1 labels of the stream are none of the model's classes"):
        list(encode(stream, encoder, "test"))


def test_smollm2_conversations(smollm2: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    talk = [turn("user", "Who are you?"), turn("assistant", "A model.")]
    (example,) = encoded(tokenizer, {"messages": [talk]}, kind="messages")
    assert trained_text(tokenizer, example) == "A model.<|im_end|>\n"
