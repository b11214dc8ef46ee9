"""From the arguments of a function to the settings of a job: checked, with objects where a job takes them."""

import difflib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from accelerate import PartialState
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.request.records import Records
from ..errors import InputError
from ..hub_access import hub_errors
from ..jobs.console import silence
from ..jobs.helping.live import live
from ..jobs.settings import SETTINGS, settings_of
from ..models.loading import Model, load_any, load_tokenizer, plain_model, quantised_bits
from ..models.location import ModelSource, locate
from ..models.weights_digest import weights_digest
from ..output_folder import require_folder

Place: TypeAlias = str | os.PathLike[str]
Data: TypeAlias = Place | Dataset | IterableDataset | DatasetDict | IterableDatasetDict
Request: TypeAlias = Place | Records | Dataset

# What settings are called in Python, in place of the names of their flags.
ARGUMENTS = {
    "model_name_or_path": "model",
    "dataset_name": "dataset",
    "forget_ids": "forget",
    "holdout_ids": "holdout",
}
ITSELF = ("model", "dataset", "forget", "holdout")
DTYPES = ("float32", "bfloat16", "float16")


@contextmanager
def job_values(
    command: str,
    model: Place | Model,
    dataset: Data,
    given: Mapping[str, Any],
    output_dir: Place,
    tokenizer: PreTrainedTokenizerBase | None,
    show: bool,
) -> Iterator[dict[str, Any]]:
    """The settings of a job, which is done inside; raises InputError that names the argument.

    A model in memory lies where the job finds it until then.
    """
    with told_in_python(), live() if show else silence():
        values = {**_checked(command, given), **_request(given), "output_dir": _name("output_dir", output_dir)}
        values["dataset_name"] = _data(dataset)
        require_folder(Path(values["output_dir"]))
        with _placed(command, model, tokenizer, values) as place, hub_errors("The data set"):
            yield {**place, **values, "model_name_or_path": place["model_name_or_path"]}


@contextmanager
def told_in_python() -> Iterator[None]:
    """Let errors name arguments where they name flags."""
    try:
        yield
    except InputError as error:
        raise type(error)(in_python(str(error))) from None


def in_python(text: str) -> str:
    """A sentence with arguments in the place of flags; commands in it stay as they are."""

    def renamed(found: re.Match[str]) -> str:
        command, flag, value = found.groups()
        if command is not None:
            return command
        name = ARGUMENTS.get(flag, flag)
        return name if value is None else f"{name}={value!r}"

    text = re.sub(r"--\w+ \(in Python, ([^()]*)\)", r"\1", text)
    return re.sub(r"(`hf-unlearn[^`]*`)|--(\w+)(?: (\w+)(?=`))?", renamed, text)


# Settings


@cache
def hints(command: str) -> dict[str, Any]:
    """The settings that a command uses by name, each with its type."""
    found = {name: hint for kind in SETTINGS[command] for name, hint in get_type_hints(kind).items()}
    return {name: found[name] for name in settings_of(command) - ARGUMENTS.keys()}


def _checked(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, as the types they have; raises InputError for another name or type."""
    known, values = hints(command), {}
    for name, value in given.items():
        if name in ITSELF:
            continue
        if name in ARGUMENTS:
            raise InputError(f"{name} is called {ARGUMENTS[name]} here.")
        if name not in known:
            nearest = difflib.get_close_matches(name, [*known, *ITSELF], n=1)
            raise InputError(
                f"There is no argument {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ".")
            )
        if value is None:
            continue
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not _fits(value, known[name]):
            # The value itself may be an id.
            raise InputError(f"{name} is a {type(value).__name__} that does not fit; it must be {_told(known[name])}.")
        if value == "" and not name.endswith("_template"):
            raise InputError(f"{name} is empty; give it a value or leave it out.")
        values[name] = list(value) if isinstance(value, tuple) else value
    return values


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type that a setting is annotated with."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _told(hint: Any) -> str:
    """A type in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_told(one) for one in get_args(hint) if one is not NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return str(hint) if get_args(hint) else hint.__name__


def _name(argument: str, value: object) -> str:
    """A name or a path as text; raises InputError for anything else."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise InputError(f"{argument} is a {type(value).__name__} that names nothing; give a name or a path.")
    return str(os.fspath(value))


def _data(dataset: Any) -> Any:
    if isinstance(dataset, Dataset | IterableDataset | DatasetDict | IterableDatasetDict):
        return dataset
    if isinstance(dataset, str | os.PathLike) and os.fspath(dataset):
        return os.fspath(dataset)
    raise InputError(f"dataset is a {type(dataset).__name__}; give a name, a path, or a data set of datasets.")


def _request(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say what is to be forgotten and what was held out."""
    values: dict[str, Any] = {}
    for argument in ("forget", "holdout"):
        value = given.get(argument)
        if isinstance(value, Dataset) or (isinstance(value, IterableDataset) and argument == "holdout"):
            values[f"{argument}_dataset"] = value
        elif isinstance(value, Records):
            values[f"{argument}_ids"] = value
        elif isinstance(value, str | os.PathLike):
            values[f"{argument}_ids"] = _name(argument, value)
        elif value is not None:
            # It may hold ids.
            raise InputError(
                f"{argument} is a {type(value).__name__}; give Records, such as Records.ids(column, ids), a Dataset, "
                "or the name of a file of ids."
            )
    return values


# Models in memory


@contextmanager
def _placed(
    command: str, model: Any, tokenizer: PreTrainedTokenizerBase | None, values: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Where a job finds the model; one in memory that lies nowhere is saved for its owner alone until the end."""
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise InputError("tokenizer is for a model in memory, and a name has its own; leave it out.")
        yield {"model_name_or_path": _name("model", model)}
        return
    if not isinstance(model, PreTrainedModel | PeftModel):
        raise InputError(
            f"model is a {type(model).__name__}; give a folder, a Hub id, or a model of transformers or PEFT."
        )
    plain = plain_model(model)
    if quantised_bits(plain.config) is not None:
        raise InputError("The model in memory has its weights in few bits; give its name, and set load_in_4bit or so.")
    dtype = str(plain.dtype).removeprefix("torch.")
    found = {"dtype": dtype} if dtype in DTYPES else {}
    source, stored_tokenizer = _stored(model, dtype, values.get("model_revision"))
    if source is not None and (tokenizer is None or _alike(tokenizer, stored_tokenizer)):
        revision = {} if source.revision is None else {"model_revision": source.revision}
        yield {**found, **revision, "model_name_or_path": source.name}
        return
    if command == "train":
        raise InputError(
            "The base in memory lies nowhere where later runs could find it; save it and its tokenizer with "
            "save_pretrained, and give the folder."
        )
    if command == "run" and values.get("use_peft") and not values.get("merge_adapter"):
        raise InputError(
            "The new adapter would lie on a model in memory, so nobody could load it later; set merge_adapter=True, "
            "or save the model with save_pretrained and give the folder."
        )
    if (tokenizer := tokenizer or stored_tokenizer) is None:
        raise InputError("The model in memory has no tokenizer beside it; give one as tokenizer.")
    digest, folder = weights_digest(model), Path(values["output_dir"]).absolute()
    if digest is None:
        raise InputError("The weights in memory are sharded over processes; save the model, and give the folder.")
    private = folder.with_name(f".{folder.name}-{digest[:16]}")
    try:
        if PartialState().is_main_process:
            private.parent.mkdir(parents=True, exist_ok=True)
            private.mkdir(mode=0o700, exist_ok=True)
            model.save_pretrained(str(private / "original"))
            tokenizer.save_pretrained(private / "original")
        PartialState().wait_for_everyone()
        yield {**found, "model_name_or_path": str(private / "original")}
    finally:
        if PartialState().is_main_process:
            shutil.rmtree(private, ignore_errors=True)


def _stored(
    model: Model, dtype: str, revision: str | None
) -> tuple[ModelSource | None, PreTrainedTokenizerBase | None]:
    """Where a model in memory lies with the very same weights, None where nowhere; and the tokenizer of its name."""
    plain, source, tokenizer = plain_model(model), None, None
    if not plain.name_or_path:
        return None, None
    try:
        source = locate(plain.name_or_path, revision)
        tokenizer = load_tokenizer([source])
        stored = load_any(source, None, dtype=dtype)
    except InputError:
        return None, tokenizer
    same = type(stored) is type(model) and stored.config.id2label == model.config.id2label
    return (source if same and weights_digest(stored) == weights_digest(model) else None), tokenizer


def _alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers have the same words, special tokens and chat template."""
    return other is not None and all(
        read(one) == read(other)
        for read in (lambda t: t.get_vocab(), lambda t: t.special_tokens_map, lambda t: t.chat_template)
    )
