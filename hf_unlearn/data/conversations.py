"""Conversations: what a turn says, which turns are trained on, and how a chat template writes them."""

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from os.path import commonprefix
from typing import Any, cast

from datasets import LargeList, List
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from ..errors import InputError, guarded
from ..machine_faults import bounded

# What a template reads besides the turns, by the names of the columns; both as TRL has them.
CONTEXT = ("tools", "chat_template_kwargs")
OWN_OPTIONS = {"conversation", "tools", "tokenize", "add_generation_prompt", "return_assistant_tokens_mask"}
WORDS = ("content", "reasoning_content", "thinking", "reasoning")
MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")

Turn = dict[str, Any]
# The text of a record in pieces, and whether each is trained on.
Segments = list[tuple[str, bool]]


def without_fillers(value: Any, feature: Any = None) -> Any:
    """A value without the keys that a table adds because other rows have them.

    ``feature`` is its type: a struct fills up what is missing, and JSON keeps the nulls that it was given. Of an
    unknown type all keys without a value are left out.
    """
    if isinstance(value, dict):
        if feature is not None and not isinstance(feature, dict):
            return value
        kinds = feature or {}
        return {key: without_fillers(one, kinds.get(key)) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        kind = feature.feature if isinstance(feature, List | LargeList) else feature
        return [without_fillers(one, kind) for one in value]
    return value


def clean_turns(turns: list[Turn], feature: Any = None) -> list[Turn]:
    """The turns of a conversation as they were given, and without keys that have no value, as transformers has it."""
    kept = without_fillers(turns, feature)
    return [{key: value for key, value in turn.items() if value is not None} for turn in kept]


def is_trained(turn: Turn) -> bool:
    """Whether a turn is trained on: one of the assistant, unless its ``weight`` is 0 or its ``train`` is false."""
    return turn["role"] == "assistant" and turn.get("weight") != 0 and turn.get("train") is not False


def turn_text(turn: Turn) -> str:
    """What a turn says, with the functions that it calls, whatever the order of their arguments."""
    said = [turn[key] for key in WORDS if turn.get(key)]
    return " ".join(said + [_call_text(call) for call in turn.get("tool_calls") or []])


def _call_text(call: Any) -> str:
    function = call.get("function") or call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return f"{function.get('name')} {arguments}"
    return f"{function.get('name')} {json.dumps(without_fillers(arguments), sort_keys=True, ensure_ascii=False)}"


def template_options(record: dict[str, Any], features: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a template reads besides the turns of a record; raises InputError where that cannot be handed to it."""
    features = features or {}
    tools, more = (_parsed(record.get(name), name) for name in CONTEXT)
    if tools is not None:
        if isinstance(tools, list):
            tools = [_parsed(tool, "tools") for tool in tools]
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise InputError("Column 'tools' must hold a list of JSON schemas, or one as text; correct it.")
    if more is not None and (not isinstance(more, dict) or OWN_OPTIONS & set(more)):
        raise InputError("Column 'chat_template_kwargs' must hold names that the chat template reads; correct it.")
    # Some templates announce tools where there is an empty list of them.
    options = {"tools": without_fillers(tools, features.get("tools")) or None}
    return options | (without_fillers(more, features.get("chat_template_kwargs")) or {})


def _parsed(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InputError(f"Column {column!r} holds text that is not JSON; correct it.") from None


# Rendering


def rendered(
    tokenizer: PreTrainedTokenizerBase, turns: list[Turn], first: int, options: dict[str, Any], where: str
) -> Segments:
    """A conversation as its template writes it, in pieces; the turns from number ``first`` on are trained on.

    What a template marks by ``{% generation %}`` is what its authors train on. With another template a turn's own text
    is what comes after the prompt for it. Raises InputError, which names ``where`` the record is, for a template that
    cannot be used.
    """
    template = _template(tokenizer, options)
    told = f"The tokenizer's chat template cannot write {where}; correct the record or the template"
    slow = f"The tokenizer's chat template does not write {where}"

    def render(turns: list[Turn], prompt: bool = False) -> str:
        with guarded(told), bounded(slow):
            return cast(
                str, tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt, **options)
            )

    trained = [i >= first and is_trained(turn) for i, turn in enumerate(turns)]
    if MARKED.search(template):
        names = {**tokenizer.special_tokens_map, **options, "chat_template": template}
        with guarded(told), bounded(slow):
            found: Any = render_jinja_template([turns], return_assistant_tokens_mask=True, **names)
        (text,), (spans,) = found
        return _marked(text, _of_trained_turns(text, spans, turns, trained, render))
    segments: Segments = []
    done = ""
    for i in (i for i, is_answer in enumerate(trained) if is_answer):
        answered = render(turns[: i + 1])
        asked = render(turns[:i], prompt=True) if i else _opening(answered, render)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise _rewriting()
        segments += [(asked[len(done) :], False), (answered[len(asked) :], True)]
        done = answered
    return segments


def _template(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> str:
    """The template that will be used."""
    if tokenizer.chat_template is None and options.get("chat_template") is None:
        raise InputError(
            "The records are conversations, and the tokenizer has no chat template; write them as text into the "
            "columns 'prompt' and 'completion'."
        )
    try:
        return str(tokenizer.get_chat_template(options.get("chat_template"), options["tools"]))
    except ValueError:
        raise InputError(
            f"The tokenizer has {len(tokenizer.chat_template or {})} chat templates by name, and none is named "
            "'default'; name the one to use 'default'."
        ) from None


def _rewriting() -> InputError:
    return InputError(
        "This tokenizer's chat template rewrites earlier turns, so a turn's tokens cannot be found; write the "
        "conversations as text into the columns 'prompt' and 'completion'."
    )


def _opening(answered: str, render: Callable[..., str]) -> str:
    """What stands before the assistant's own words where a conversation begins with them."""
    before = commonprefix([answered, *(render([{"role": "assistant", "content": word}]) for word in "AB")])
    try:
        question = [{"role": "user", "content": "A"}]
        asked, prompted = render(question), render(question, prompt=True)
    except InputError:
        return before
    prompt = prompted[len(asked) :] if prompted.startswith(asked) else ""
    return before[: before.rindex(prompt) + len(prompt)] if prompt in before else before


def _of_trained_turns(
    text: str, spans: list[tuple[int, int]], turns: list[Turn], trained: list[bool], render: Callable[..., str]
) -> Iterable[tuple[int, int]]:
    """The marked places that belong to turns that are trained on."""
    answers = [is_answer for is_answer, turn in zip(trained, turns, strict=True) if turn["role"] == "assistant"]
    if all(answers):
        return spans
    if len(answers) == len(spans):
        return [span for span, is_answer in zip(spans, answers, strict=True) if is_answer]
    begins = [""] + [render(turns[:i]) for i in range(1, len(turns))]
    if not all(text.startswith(begin) for begin in begins):
        raise _rewriting()
    lengths = [len(begin) for begin in begins]
    return [span for span in spans if trained[bisect_right(lengths, span[0]) - 1]]


def _marked(text: str, spans: Iterable[tuple[int, int]]) -> Segments:
    """A text in pieces, of which those between these places are trained on."""
    segments: Segments = []
    done = 0
    for start, end in spans:
        if start < end:
            segments += [(text[done:start], False), (text[start:end], True)]
            done = end
    return [*segments, (text[done:], False)] if done < len(text) else segments
