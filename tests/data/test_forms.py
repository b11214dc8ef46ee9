"""Other forms of a record: the question changes, and what is trained on stays, token for token."""

from typing import Any

import pytest
from datasets import Dataset
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from hf_unlearn import InputError
from hf_unlearn.data.encoding import RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat, record_format
from hf_unlearn.data.forms import BEFORE, PARAPHRASE, other_forms
from hf_unlearn.models.tasks import IGNORED, Task

from ..conftest import note_rows, secrets_rows, tagged_rows, tickets_rows

TOKENIZERS = ["byte_level_tokenizer", "wordpiece_tokenizer", "sentencepiece_tokenizer"]
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(params=[*TOKENIZERS, "with a BOS token"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param in TOKENIZERS:
        return request.getfixturevalue(request.param)
    plain = request.getfixturevalue("byte_level_tokenizer")
    found = PreTrainedTokenizerFast(tokenizer_object=plain.backend_tokenizer, model_max_length=128)
    found.add_special_tokens({"bos_token": "<s>", "eos_token": "<|endoftext|>"})
    first = ("<s>", found.bos_token_id)
    found.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [first])
    assert found("a")["input_ids"][0] == first[1] != plain("a")["input_ids"][0]
    return found


def chats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each a greeting, and a question with its answer."""
    greeting = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]
    return [
        {
            "messages": [
                *greeting,
                {"role": "assistant", "content": "Hello, you."},
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"].strip()},
            ]
        }
        for row in rows
    ]


def turns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in chats(rows)]


# Kinds of records, and of answers that begin or end otherwise.
RECORDS: dict[str, tuple[Task, list[dict[str, Any]]]] = {
    "pairs": ("text-generation", secrets_rows(6)),
    "a blank before the answer": (
        "text-generation",
        [{"prompt": f"{row['prompt']} ", "completion": row["completion"].strip()} for row in secrets_rows(6)],
    ),
    "texts": ("text-generation", note_rows(6)),
    "texts that begin with a blank": ("text-generation", [{"text": f"\n {row['text']}"} for row in note_rows(6)]),
    "long texts": ("text-generation", [{"text": " ".join(row["text"] for row in note_rows(30))}] * 2),
    "chats": ("text-generation", chats(secrets_rows(6))),
    "turns": ("text-generation", turns(secrets_rows(6))),
    "text pairs": ("text2text-generation", secrets_rows(6)),
}


def labelled(examples: Any, row: int, *, predicted: bool) -> list[int]:
    """The labels of a record; those that something is predicted from where ``predicted``."""
    pieces = [labels for labels, own in zip(examples["labels"], examples["row"], strict=True) if own == row]
    return [label for labels in pieces for label in labels[int(predicted) :] if label != IGNORED]


@pytest.mark.parametrize("kind", RECORDS)
def test_the_answer_stays_token_for_token(kind: str, tokenizer: PreTrainedTokenizerFast) -> None:
    task, rows = RECORDS[kind]
    tokenizer.chat_template = CHAT
    dataset = Dataset.from_list(rows)
    plain = RecordEncoder(tokenizer, record_format(dataset.column_names, task), 128)
    if kind == "long texts":
        plain.max_length = 50
    own = encode(dataset, plain, "test")
    forms = other_forms([dataset, dataset], task, {}, None)
    assert list(forms) == list(BEFORE)
    for name, form in forms.items():
        examples = encode(dataset, RecordEncoder(tokenizer, form, plain.max_length, trained=plain.format), "test")
        assert set(examples["row"]) == set(own["row"]) == set(range(len(rows)))
        begin = tokenizer(BEFORE[name].strip(), add_special_tokens=False)["input_ids"]
        for row in set(own["row"]):
            before, after = (labelled(one, row, predicted=task == "text-generation") for one in (own, examples))
            if "texts" in kind and (first := own["labels"][own["row"].index(row)][0]) not in tokenizer.all_special_ids:
                # Nothing predicts the first token of a text that nothing stands before.
                before = [first, *before]
            assert after == before
        text = tokenizer.decode(examples["input_ids"][0])
        times = 2 if kind in ("chats", "turns") else 1
        assert text.count(tokenizer.decode(begin).strip()) == times, text


def test_paraphrases_that_end_otherwise_have_the_same_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row | {"asked": f"Which code has number {i}? "} for i, row in enumerate(secrets_rows(5))]
    dataset = Dataset.from_list(rows)
    templates = {"prompt_template": "Q: {prompt}", "completion_template": "{completion}"}
    for layout, before in (({}, ""), (templates, "Q: ")):
        plain = RecordEncoder(tokenizer, record_format(dataset.column_names, "text-generation", **layout), 128)
        own = encode(dataset, plain, "test")
        form = other_forms([dataset], "text-generation", layout, "asked")[PARAPHRASE]
        examples = encode(dataset, RecordEncoder(tokenizer, form, 128, trained=plain.format), "test")
        for row, record in enumerate(rows):
            assert labelled(examples, row, predicted=False) == labelled(own, row, predicted=False)
            asked = [
                i for i, label in zip(examples["input_ids"][row], examples["labels"][row], strict=True) if label < 0
            ]
            written = tokenizer(f"{before}{record['asked']}", add_special_tokens=False)["input_ids"]
            bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
            expected = tokenizer.decode([*bos, *written]).strip()
            assert tokenizer.decode(asked).removeprefix("[CLS]").strip() == expected


def test_a_class_stays_and_its_text_is_asked_otherwise(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [row | {"said": f"In short, {row['text']}"} for row in tickets_rows(8)]
    dataset = Dataset.from_list(rows)
    classes = {"billing": 0, "delivery": 1, "other": 2}
    forms = other_forms([dataset], "text-classification", {}, "said")
    assert list(forms) == [*BEFORE, PARAPHRASE]
    for name, form in forms.items():
        examples = encode(dataset, RecordEncoder(byte_level_tokenizer, form, 128, classes), "test")
        assert examples["labels"][:] == [classes[row["label"]] for row in rows]
        texts = [row["said"] if name == PARAPHRASE else BEFORE[name] + row["text"] for row in rows]
        assert examples["input_ids"][:] == byte_level_tokenizer(texts)["input_ids"]


def test_what_has_no_other_form() -> None:
    tokens = [{"input_ids": [1, 2], "attention_mask": [1, 1], "labels": [1, 2]}]
    kinds: list[tuple[Task, list[dict[str, Any]]]] = [
        ("token-classification", tagged_rows(3)),
        ("fill-mask", note_rows(3)),
        ("text-generation", tokens),
    ]
    for task, rows in kinds:
        dataset = Dataset.from_list(rows)
        assert other_forms([dataset, None], task, {}, None) == {}
        with pytest.raises(InputError, match="paraphrase_column='asked' is for prompts of plain text"):
            other_forms([dataset, None], task, {}, "asked")


@pytest.mark.parametrize(
    ("rows", "layout", "said"),
    [
        (note_rows(3), {}, "is for prompts of plain text"),
        (chats(secrets_rows(3)), {}, "is for prompts of plain text"),
        (turns(secrets_rows(3)), {}, "is for prompts of plain text"),
        (secrets_rows(3), {}, "'asked'"),
        ([row | {"asked": None} for row in secrets_rows(3)], {}, "nothing in column 'asked'"),
        (
            [row | {"asked": "a"} for row in secrets_rows(3)],
            {"prompt_template": "{group} {prompt}", "completion_template": "{completion}"},
            "has 2 columns; join them into one",
        ),
    ],
)
def test_paraphrases_that_cannot_be_asked(rows: list[dict[str, Any]], layout: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        other_forms([Dataset.from_list(rows)], "text-generation", layout, "asked")


def test_held_out_records_need_paraphrases_too() -> None:
    rows = [row | {"asked": "a"} for row in secrets_rows(3)]
    with pytest.raises(InputError, match="asked"):
        other_forms([Dataset.from_list(rows), Dataset.from_list(secrets_rows(3))], "text-generation", {}, "asked")


def test_a_turn_without_text_stays() -> None:
    form = RecordFormat("messages", before="Please. ")
    calls = [{"role": "user", "content": None, "tool_calls": ["x"]}, {"role": "assistant", "content": "b"}]
    assert form.turns(calls) == calls
