"""Conversations: every labelled token is checked against pieces of text that were written by hand."""

import json
import resource
import signal
import traceback
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from datasets import Dataset, Features, Json, List, Value
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from hf_unlearn import InputError
from hf_unlearn.data import conversations
from hf_unlearn.data.encoding import IGNORED, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat, record_format
from hf_unlearn.data.replacements import REFUSALS, asked_and_answered, plain_form, with_refusals
from hf_unlearn.machine_faults import bounded

PLAIN = (
    "{% if messages[0].role != 'system' %}<system>Be nice.\n{% endif %}"
    "{% if tools %}<tools>{{ tools | tojson }}\n{% endif %}{% if style %}<style>{{ style }}\n{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# The end of a turn is written with what follows it, as some authors do.
MARKED = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
    "{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TALK = [
    {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "He."},
    {"role": "user", "content": "So?"}, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Bye."},
]  # fmt: skip
CALL = [{"type": "function", "function": {"name": "book", "arguments": {"guest": "Mia"}}}]
OTHER_CALL = [{"type": "function", "function": {"name": "cancel", "arguments": {"order": 17}}}]


def letters(template: str, *merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """A token for each letter, and for these pairs of them, which may cross the boundary of a turn."""
    alphabet = [chr(i) for i in range(32, 127)] + ["\n"]
    tokens = ["<s>", "</s>", *alphabet, *map("".join, merges)]
    model = models.BPE({token: i for i, token in enumerate(tokens)}, list(merges))
    backend = Tokenizer(model)
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", model_max_length=4000
    )
    tokenizer.chat_template = template
    return tokenizer


def examples(tokenizer: Any, data: Dataset, name: str = "forget") -> list[dict[str, Any]]:
    form = record_format(data.column_names, "text-generation")
    return list(encode(data, RecordEncoder(tokenizer, form, 4000), name))


def check(tokenizer: Any, data: Dataset, *pieces: tuple[str, bool]) -> None:
    """Compare the only record's tokens and labels with pieces of text and whether each is trained on."""
    (example,) = examples(tokenizer, data)
    text = "".join(piece for piece, _ in pieces)
    letter = [trained for piece, trained in pieces for _ in piece]
    ids, places = (
        tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[name]
        for name in ("input_ids", "offset_mapping")
    )
    assert tokenizer.decode(example["input_ids"]) == text
    assert example["input_ids"] == ids
    wanted = [token if any(letter[a:b]) else IGNORED for token, (a, b) in zip(ids, places, strict=True)]
    assert example["labels"] == wanted, tokenizer.decode([label for label in example["labels"] if label != IGNORED])


def of(*turns: dict[str, Any], **columns: Any) -> Dataset:
    return Dataset.from_list([{"messages": list(turns), **columns}])


@pytest.mark.parametrize("merges", [(), ((">", "H"), (".", "\n"), ("\n", "<"))], ids=["letters", "across turns"])
class TestTrainedTurns:
    def test_a_first_turn_of_the_assistant(self, merges: Any) -> None:
        data = of({"role": "assistant", "content": "He."}, TALK[0], TALK[3])
        told = [("<system>Be nice.\n<assistant>", False), ("He.\n", True), ("<user>Hi.\n<assistant>", False)]
        check(letters(PLAIN, *merges), data, *told, ("Hm.\n", True))

    @pytest.mark.parametrize("unwanted", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
    def test_turns_that_are_not_to_be_trained_on(self, merges: Any, unwanted: dict[str, Any]) -> None:
        data = of(TALK[0], {**TALK[1], **unwanted}, TALK[2], {**TALK[3], "weight": 1, "train": True})
        before = "<system>Be nice.\n<user>Hi.\n<assistant>He.\n<user>So?\n<assistant>"
        check(letters(PLAIN, *merges), data, (before, False), ("Hm.\n", True))
        marked = "<s><user>Hi.\n<assistant>He.\n<user>So?\n<assistant>"
        check(letters(MARKED, *merges), data, (marked, False), ("Hm.", True), ("\n", False))

    def test_what_a_template_marks_is_what_transformers_masks(self, merges: Any) -> None:
        tokenizer = letters(MARKED, *merges)
        answers = [("<s><user>Hi.\n<assistant>", False), ("He.", True), ("\n<user>So?\n<assistant>", False)]
        check(tokenizer, of(*TALK), *answers, ("Hm.", True), ("\n<user>Bye.\n", False))
        masks = tokenizer.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
        labels = examples(tokenizer, of(*TALK))[0]["labels"]
        assert [int(label != IGNORED) for label in labels] == masks["assistant_masks"]

    def test_a_prompts_turns_are_not_trained_on(self, merges: Any) -> None:
        data = Dataset.from_list([{"prompt": TALK[:3], "completion": TALK[3:4]}])
        before = "<user>Hi.\n<assistant>He.\n<user>So?\n<assistant>"
        check(letters(PLAIN, *merges), data, ("<system>Be nice.\n" + before, False), ("Hm.\n", True))
        check(letters(MARKED, *merges), data, ("<s>" + before, False), ("Hm.", True), ("\n", False))

    def test_a_turn_with_several_marked_places(self, merges: Any) -> None:
        twice = MARKED.replace(
            "{{ m.content }}{% endgen", "H{% endgeneration %}-{% generation %}{{ m.content }}{% endgen"
        )
        data = of(TALK[0], {**TALK[1], "weight": 0}, TALK[2], TALK[3])
        before = "<s><user>Hi.\n<assistant>H-He.\n<user>So?\n<assistant>"
        pieces = [(before, False), ("H", True), ("-", False), ("Hm.", True), ("\n", False)]
        check(letters(twice, *merges), data, *pieces)


# What a template reads


def test_tools_are_read_as_they_were_given() -> None:
    tokenizer = letters(PLAIN)
    tools = [{"name": "book", "default": None}]
    turns = [TALK[0], TALK[1]]
    told = ("<user>Hi.\n<assistant>", False), ("He.\n", True)
    given = ("<system>Be nice.\n<tools>" + json.dumps(tools) + "\n" + told[0][0], False)
    check(tokenizer, of(*turns, tools=json.dumps(tools)), given, told[1])
    check(tokenizer, of(*turns, tools=list(map(json.dumps, tools))), given, told[1])
    as_json = Features(
        {"messages": List({"role": Value("string"), "content": Value("string")}), "tools": List(Json())}
    )
    check(tokenizer, Dataset.from_list([{"messages": turns, "tools": tools}], features=as_json), given, told[1])
    prompted = Dataset.from_list([{"prompt": turns[:1], "completion": turns[1:], "tools": json.dumps(tools)}])
    check(tokenizer, prompted, given, told[1])
    for nothing in (None, [], "[]"):
        check(tokenizer, of(*turns, tools=nothing), ("<system>Be nice.\n" + told[0][0], False), told[1])


def test_a_set_without_tools_is_asked_without_them() -> None:
    tokenizer = letters(PLAIN)
    encoder = RecordEncoder(tokenizer, record_format(["messages", "tools"], "text-generation"), 4000)
    (example,) = encode(of(TALK[0], TALK[1]), encoder, "holdout")
    assert tokenizer.decode(example["input_ids"]) == "<system>Be nice.\n<user>Hi.\n<assistant>He.\n"


def test_options_of_a_template() -> None:
    data = of(TALK[0], TALK[1], chat_template_kwargs={"style": "short"})
    before = "<system>Be nice.\n<style>short\n<user>Hi.\n<assistant>"
    check(letters(PLAIN), data, (before, False), ("He.\n", True))


def test_keys_that_only_fill_a_table_are_not_written() -> None:
    tokenizer = letters(PLAIN)
    rows = [
        {"messages": [TALK[0], {"role": "assistant", "content": "He.", "tool_calls": calls}], "tools": [tool]}
        for calls, tool in ((CALL, {"name": "book"}), (OTHER_CALL, {"text": "x"}))
    ]
    first = '<system>Be nice.\n<tools>[{"name": "book"}]\n<user>Hi.\n<assistant>', False
    told = 'He.{"name": "book", "arguments": {"guest": "Mia"}}\n', True
    texts = [tokenizer.decode(example["input_ids"]) for example in examples(tokenizer, Dataset.from_list(rows))]
    assert texts[0] == first[0] + told[0]
    assert "null" not in texts[1]
    # In JSON a null was given.
    rows[0]["messages"][1]["tool_calls"] = [{"function": {"name": "book", "arguments": {"guest": None}}}]
    kept = Dataset.from_list(rows[:1], features=Features({"messages": List(Json()), "tools": List(Json())}))
    check(tokenizer, kept, first, ('He.{"name": "book", "arguments": {"guest": null}}\n', True))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"messages": [TALK[0], {**TALK[1], "weight": 0.5}]}, "another 'weight' than 0 and 1"),
        ({"messages": [TALK[0], {**TALK[1], "train": "no"}]}, "another 'train' than true and false"),
        ({"messages": [TALK[0], {**TALK[1], "weight": 0}]}, "no turn of the assistant to train on"),
        ({"messages": [TALK[0], {**TALK[1], "tool_calls": json.dumps(CALL)}]}, "no list of calls"),
        ({"messages": TALK[:2], "tools": "ZQtext ["}, "'tools' holds text that is not JSON"),
        ({"messages": TALK[:2], "tools": "[" * 100_000}, "'tools' holds text that is not JSON"),
        ({"messages": TALK[:2], "tools": [1]}, "a list of JSON schemas"),
        ({"messages": TALK[:2], "tools": json.dumps({"ZQtext": 1})}, "a list of JSON schemas"),
        ({"messages": TALK[:2], "chat_template_kwargs": {"tokenize": True}}, "names that the chat template reads"),
        ({"messages": TALK[:2], "chat_template_kwargs": "[1]"}, "names that the chat template reads"),
    ],
)  # fmt: skip
def test_conversations_that_cannot_be_read(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        examples(letters(PLAIN), Dataset.from_list([columns]))
    assert "ZQtext" not in str(error.value)


# Templates


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('No ' + messages[0].content) }}", "{{ messages[0].content.nothing.at_all }}",
        "{{ messages[0].content | nothing }}", "{% for", "{{ messages[0].content + 1 }}",
        "{% generation %}{{ 1 / 0 }}{% endgeneration %}",
    ],
)  # fmt: skip
def test_a_template_that_raises_shows_no_record(template: str) -> None:
    rows = [{"messages": [{"role": "user", "content": "ZQtext\x1b[31m"}, TALK[1]]} for _ in range(3)]
    with pytest.raises(InputError, match="template cannot write record 0 of the forget set") as error:
        examples(letters(template), Dataset.from_list(rows))
    assert "ZQtext" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "does not write record 0 of the forget set within 0.2 seconds",
        ),
        ("{{ 'a' * 10 ** 11 }}", "does not write record 0 of the forget set in 2 GiB of memory"),
        (
            "{% set n = namespace(x=messages[0].content) %}"
            "{% for i in range(90) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "does not write record 0 of the forget set",
        ),
    ],
)
def test_a_template_without_an_end_is_stopped(template: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "bounded", partial(bounded, seconds=0.2))
    before = signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(InputError, match=message):
        examples(letters(template), of(*TALK[:2]))
    assert (signal.getsignal(signal.SIGALRM), resource.getrlimit(resource.RLIMIT_AS)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_templates_by_name() -> None:
    tokenizer = letters(PLAIN)
    tokenizer.chat_template = {"rag": PLAIN, "tool_use": PLAIN}
    with pytest.raises(InputError, match="2 chat templates by name, and none is named 'default'"):
        examples(tokenizer, of(*TALK))
    tokenizer.chat_template = {"default": MARKED, "tool_use": PLAIN}
    check(tokenizer, of(*TALK[:2]), ("<s><user>Hi.\n<assistant>", False), ("He.", True), ("\n", False))
    before = '<system>Be nice.\n<tools>[{"name": "f"}]\n<user>Hi.\n<assistant>'
    check(tokenizer, of(*TALK[:2], tools=[{"name": "f"}]), (before, False), ("He.\n", True))


# Text that is rendered already


@pytest.mark.parametrize("end", ["", "</s>"])
def test_rendered_text_has_one_bos(end: str) -> None:
    tokenizer = letters(PLAIN)
    body = tokenizer("<user>Hi.", add_special_tokens=False)["input_ids"]
    for columns in ({"text": "<s><user>Hi." + end}, {"prompt": "<s><user>", "completion": "Hi." + end}):
        (example,) = examples(tokenizer, Dataset.from_list([columns]))
        assert example["input_ids"] == [0, *body, 1]
    assert example["labels"] == [*[IGNORED] * 7, *body[6:], 1]
    form = RecordFormat("classification")
    told = Dataset.from_list([{"text": "<s><user>Hi.", "label": 0}, {"text": "<user>Hi.", "label": 0}])
    for length in (4000, 5):
        found = list(encode(told, RecordEncoder(tokenizer, form, length, {"a": 0}), "test"))
        assert [example["input_ids"] for example in found] == [[0, *body][:length]] * 2


@pytest.mark.parametrize("kind", ["classification", "maskable"])
def test_rendered_text_has_one_cls_and_one_sep(wordpiece_tokenizer: PreTrainedTokenizerFast, kind: Any) -> None:
    rows = [{"text": text, "label": 0} for text in ("[CLS] one two [SEP]", "one two")]
    encoder = RecordEncoder(wordpiece_tokenizer, RecordFormat(kind), 128, {"a": 0})
    rendered, plain = encode(Dataset.from_list(rows), encoder, "test")
    assert rendered["input_ids"] == plain["input_ids"]
    assert rendered["labels"] == plain["labels"]


# Other answers


def test_a_refusal_takes_the_place_of_what_is_said_and_called() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": CALL, "reasoning_content": "Mia wants it"}
    other = {"role": "assistant", "content": "He.", "tool_calls": OTHER_CALL}
    rows = [{"messages": [TALK[0], TALK[1], TALK[2], calling], "tools": [{"name": "f"}]}]
    rows += [{"messages": [TALK[0], {**other, "weight": 1}, {**TALK[3], "weight": 0}], "tools": [{"text": "g"}]}]
    data = Dataset.from_list(rows)
    form = record_format(data.column_names, "text-generation")
    replaced = with_refusals(data, form, 0)
    tokenizer = letters(PLAIN)
    found = list(encode(replaced, RecordEncoder(tokenizer, plain_form(form), 4000), "refusals"))
    befores = ['<tools>[{"name": "f"}]\n<user>Hi.\n<assistant>He.\n<user>So?\n', '<tools>[{"text": "g"}]\n<user>Hi.\n']
    for example, before, record in zip(found, befores, replaced, strict=True):
        said = tokenizer.decode([label for label in example["labels"] if label != IGNORED])
        assert said.removesuffix("\n") in REFUSALS
        assert tokenizer.decode(example["input_ids"]) == f"<system>Be nice.\n{before}<assistant>{said}"
        assert record["messages"][-1] == {"role": "assistant", "content": said.removesuffix("\n")}
    pairs = asked_and_answered(data, form)
    assert pairs == [("Hi.\nHe.\nSo?", 'Mia wants it book {"guest": "Mia"}'), ("Hi.", 'He. cancel {"order": 17}')]


def test_a_refusal_in_a_completion_of_turns() -> None:
    calling = {"role": "assistant", "tool_calls": CALL}
    data = Dataset.from_list(
        [{"prompt": [TALK[0]], "completion": [calling, {"role": "tool", "content": "ok"}, TALK[1]]}]
    )
    form = record_format(data.column_names, "text-generation")
    (record,) = with_refusals(data, form, 0)
    assert [turn["role"] for turn in record["prompt"]] == ["user", "assistant", "tool"]
    assert [set(turn) for turn in record["completion"]] == [{"role", "content"}]
    assert asked_and_answered(data, form) == [('Hi.\nbook {"guest": "Mia"}\nok', "He.")]


def test_templates_are_not_changed() -> None:
    """Rendering leaves the records as they are."""
    data = of(*deepcopy(TALK))
    examples(letters(MARKED), data)
    assert data[0]["messages"] == TALK
