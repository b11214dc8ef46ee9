"""Whole inputs for the fuzz tests: data files, requests, recipes and names, each sound or spoiled in a few places."""

import csv
import io
import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from hf_unlearn.jobs.settings import settings_of

from .oddities import (
    ARROW_TYPES,
    COLUMNS,
    GARBAGE,
    LABELS,
    NAMES,
    ODD_SETTINGS,
    ODD_SETTINGS_OF,
    RECIPES,
    SAMPLES,
    TEMPLATES,
    TEXTS,
)

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from(
        [2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 0.0, -0.0, 1.0, 1.5, 1e300, float("nan"), float("inf")]
    ),
    st.sampled_from(TEXTS),
    st.text(max_size=12),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["role", "content", "a", ""]), inner, max_size=3)
    ),
    max_leaves=5,
)
ROLES = st.sampled_from(["user", "assistant", "system", "", "Assistant", "tool", "<b>"])


@dataclass
class Case:
    """One command on one input.

    Attributes:
        command: its name.
        task: what the smallest model of the case does.
        model_name, output_name: how the folders are called.
        files: by path within the case's folder, their bytes.
        values: the settings; the words MODEL, OUT and HERE in them stand for folders.
        recipe: how the recipe is written: None for flags, "yaml", or its bytes.
        rows: how many records the data has, None when that depends on a reader.
        holdout_in_data: whether the held-out records are rows of the data.
        saved: a data set to be saved into the folder ``data``.
    """

    command: str
    task: str
    model_name: str = "model"
    output_name: str = "out"
    files: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    recipe: Any = None
    rows: int | None = None
    holdout_in_data: bool = False
    saved: Any = None

    @property
    def allow_unmatched(self) -> bool:
        return bool(self.values.get("allow_unmatched"))

    def write(self, folder: Path, words: dict[str, str]) -> list[str]:
        """Write the files and return the flags."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.saved is not None:
            self.saved.save_to_disk(folder / "data")

        def placed(value: Any) -> Any:
            if isinstance(value, str):
                for word, place in words.items():
                    value = value.replace(word, place)
            return value

        values = {name: placed(value) for name, value in self.values.items()}
        # A recipe serves all commands; a flag has to be one of the command.
        flags = _flags({name: value for name, value in values.items() if name in settings_of(self.command)})
        if self.recipe is None:
            return flags
        path = folder / "recipe.yaml"
        if isinstance(self.recipe, bytes):
            path.write_bytes(self.recipe)
            return ["--config", str(path), *flags]
        if self.command == "train":
            values = {"original": values}
        path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
        return ["--config", str(path)]


def _seldom(draw: st.DrawFn, n: int) -> bool:
    """True once in n draws; hypothesis likes the ends of a range."""
    return draw(st.integers(0, n - 1)) == n // 2


def _flags(values: dict[str, Any]) -> list[str]:
    flags = []
    for name, value in values.items():
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


# Rows


def _marked(text: Any) -> Any:
    """Text with a mark in it, so that its leaks are seen; blank text stays as it is."""
    return f"ZQtext {text}" if isinstance(text, str) and text.strip() else text


@st.composite
def _turns(draw: st.DrawFn, odd: bool) -> Any:
    if not odd or draw(st.booleans()):
        asked = {"role": "user", "content": _marked(draw(st.sampled_from(TEXTS)))}
        return [asked, {"role": "assistant", "content": "ZQtext yes"}] * draw(st.integers(1, 2))
    return draw(
        st.one_of(
            st.lists(
                st.fixed_dictionaries(
                    {"role": ROLES, "content": st.one_of(st.none(), st.sampled_from(TEXTS).map(_marked), st.just(3))}
                ),
                max_size=3,
            ),
            st.lists(st.dictionaries(st.sampled_from(["role", "content", "name"]), st.text(max_size=4)), max_size=2),
            VALUES,
        )
    )


@st.composite
def rows_of(draw: st.DrawFn, kind: str, n: int, odd: bool) -> list[dict[str, Any]]:
    """Sound records of a kind, their texts odd but text."""
    plain = st.sampled_from(["plain words", "other words", "more", "yes and no"])
    text = (st.one_of(plain, st.sampled_from(TEXTS), st.text(max_size=20)) if odd else plain).map(_marked)
    ending = draw(st.sampled_from(["", "\u00e9", "e\u0301", " ", "\n", "\r\n", "\u200b", ',"', "\x00"])) if odd else ""
    rows: list[dict[str, Any]] = []
    for i in range(n):
        row: dict[str, Any] = {"id": f"ZQid-{i}{ending}"}
        if kind == "messages":
            row["messages"] = draw(_turns(odd))
        elif kind == "prompt_completion":
            row |= {"prompt": draw(text), "completion": draw(text)}
        elif kind == "tagged_words":
            row["tokens"] = draw(st.lists(text, max_size=4))
            row["ner_tags"] = [draw(st.sampled_from(LABELS)) for _ in row["tokens"]]
        else:
            row["text"] = draw(text)
        if kind == "classification":
            row["label"] = draw(st.sampled_from(LABELS))
        rows.append(row)
    return rows


@st.composite
def _spoil(draw: st.DrawFn, rows: list[dict[str, Any]]) -> None:
    """Spoil a column or a value in place."""
    columns = list(rows[0]) if rows else ["text"]
    column = draw(st.sampled_from(columns))
    how = draw(
        st.sampled_from(["value", "value", "column", "drop", "add", "same", "null", "ints", "labels", "missing"])
    )
    if not rows:
        return
    if how == "value":
        draw(st.sampled_from(rows))[column] = draw(VALUES)
    elif how == "column":
        for row in rows:
            row[column] = draw(SCALARS)
    elif how == "drop":
        for row in rows:
            row.pop(column, None)
    elif how == "add":
        name = draw(st.sampled_from(COLUMNS))
        values = draw(st.sampled_from([SCALARS, VALUES, st.just("ZQtext x"), st.just([1, 2])]))
        for row in rows:
            row[name] = draw(values)
    elif how == "same":
        value = draw(VALUES)
        for row in rows:
            row[column] = value
    elif how == "null":
        for row in rows:
            row[column] = None
    elif how == "ints":
        for i, row in enumerate(rows):
            row[column] = i
    elif how == "labels":
        label = draw(st.sampled_from([-1, 0, 2, 3, 10**6, 1.0, 0.5, "0", True, "", "nothing", LABELS[0]]))
        for row in rows:
            if "label" in row:
                row["label"] = label
            if row.get("ner_tags"):
                row["ner_tags"] = [label, *row["ner_tags"][1:]]
    else:
        draw(st.sampled_from(rows)).pop(column, None)


# Files


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def csv_bytes(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(name)).replace("\x00", "") for name in columns])
    return file.getvalue().encode("utf-8", "surrogatepass")


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array | None:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        return None


@st.composite
def _parquet(draw: st.DrawFn, rows: list[dict[str, Any]], odd: bool) -> bytes | None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in columns:
        array = _array([row.get(name) for row in rows], None)
        if array is None:
            return None
        arrays.append(array)
    for _ in range(draw(st.integers(1, 2)) if odd else 0):
        place = draw(st.integers(0, len(columns) - 1))
        kind = draw(st.sampled_from(ARROW_TYPES))
        try:
            arrays[place] = arrays[place].cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            arrays[place] = _array([SAMPLES.get(str(kind))] * len(rows), kind) or arrays[place]
    if odd and _seldom(draw, 6):
        columns, arrays = [*columns, columns[0]], [*arrays, arrays[0]]
    file = io.BytesIO()
    try:
        pq.write_table(pa.table(arrays, names=columns), file)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeEncodeError):
        return None
    return file.getvalue()


@st.composite
def _saved(draw: st.DrawFn, rows: list[dict[str, Any]]) -> Any:
    """A data set with classes, of one or several splits; None where its library cannot hold the rows."""
    try:
        table = datasets.Dataset.from_list(rows)
        if table.features.get("label") == datasets.Value("string") and draw(st.booleans()):
            table = table.cast_column(
                "label", datasets.ClassLabel(names=[*LABELS, *draw(st.sampled_from([[], ["more"]]))])
            )
        if draw(st.booleans()):
            return datasets.DatasetDict({"train": table, draw(st.sampled_from(["test", "dev.1", "a b"])): table})
    except Exception:
        return None
    return table


@st.composite
def _data(draw: st.DrawFn, case: Case, rows: list[dict[str, Any]], odd: bool, named: bool) -> None:
    """Write the data of a case in one of the forms."""
    stem = draw(st.sampled_from(NAMES if named else ["rows"]))
    sound = ["jsonl", "jsonl", "json", "csv", "tsv", "parquet", "saved"]
    form = draw(st.sampled_from(["parquet", "parquet", "folder", "txt", "bytes", "bytes", "bytes"] if odd else sound))
    content: bytes | None = None
    suffix = form
    case.rows = len(rows)
    if form in ("csv", "tsv"):
        content = csv_bytes(rows, "," if form == "csv" else "\t")
        case.rows = None if len(rows and rows[0]) == 1 else len(rows)
    elif form == "json":
        content = json.dumps(rows).encode()
    elif form == "parquet" and rows:
        content = draw(_parquet(rows, odd))
    elif form == "saved":
        case.saved = draw(_saved(rows))
        if case.saved is not None:
            case.values["dataset_name"] = "HERE/data"
            return
    elif form == "txt":
        content = "\n".join(str(row.get("text")) for row in rows).encode("utf-8", "surrogatepass")
        case.rows = None
    elif form == "bytes":
        content = draw(st.sampled_from(GARBAGE))
        suffix = draw(st.sampled_from(["jsonl", "csv", "tsv", "json", "parquet", "txt", "pdf", ""]))
        case.rows = None
    elif form == "folder":
        case.values["dataset_name"] = f"HERE/{stem}"
        names = draw(st.sampled_from([["train"], ["train", "test"], ["test"], ["rows"], [], ["a b", "train"]]))
        for name in names:
            case.files[f"{stem}/{name}.jsonl"] = _jsonl(rows)
        if not names:
            case.files[f"{stem}/notes.md"] = b"nothing"
        case.rows = None
        return
    if content is None:
        content, suffix = _jsonl(rows), "jsonl"
    if odd and _seldom(draw, 5):
        content, case.rows = b"\xef\xbb\xbf" + content, None
    name = f"{stem}.{suffix}" if suffix else stem
    case.files[name] = content
    case.values["dataset_name"] = f"HERE/{name}"


# Requests


@st.composite
def _ids_file(draw: st.DrawFn, case: Case, ids: list[Any], name: str, odd: bool) -> str:
    """Write a file of ids, each as it is in the data or slightly different, and return its place."""
    twist = draw(
        st.sampled_from(
            [lambda x: x]
            if not odd
            else [
                lambda x: x,
                lambda x: x + " ",
                lambda x: "\u200b" + x,
                lambda x: unicodedata.normalize("NFD", x + "\u00e9"),
                lambda x: x + "\n",
                lambda x: x.upper(),
                lambda x: "",
                lambda x: x + "\x00",
            ]
        )
    )
    written = [twist(x) if isinstance(x, str) else x for x in ids] * draw(st.sampled_from([1, 1, 1, 2]))
    suffix = draw(st.sampled_from(["txt", "csv", "jsonl"] + ["md"] * odd))
    if suffix == "txt":
        ending = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
        text = ending.join(_cell(x) for x in written)
    elif suffix == "csv":
        text = csv_bytes([{"id": x} for x in written]).decode("utf-8", "surrogatepass")
    else:
        if odd and _seldom(draw, 5):
            written = [*written, draw(VALUES)]
        keyed = draw(st.booleans())
        text = "".join(json.dumps({"id": x} if keyed else x) + "\n" for x in written)
    content = text.encode("utf-8", "surrogatepass")
    content = draw(
        st.sampled_from(
            [content]
            if not odd
            else [content, content, b"\xef\xbb\xbf" + content, content + b"\xff", b"", content[:-3]]
        )
    )
    case.files[f"{name}.{suffix}"] = content
    return f"HERE/{name}.{suffix}"


@st.composite
def _request(draw: st.DrawFn, case: Case, rows: list[dict[str, Any]], forget: list[int], kind: str, odd: bool) -> None:
    sound = ["rows", "rows", "ids", "ids", "values", "dataset", *(["none"] if kind == "holdout" else [])]
    strange = ["ids", "ids", "ids", "values", "dataset", "odd", *(["split"] if kind == "holdout" else [])]
    how = draw(st.sampled_from(strange if odd else sound))
    ids = [rows[i].get("id") for i in forget if i < len(rows)]
    if kind == "holdout":
        case.holdout_in_data = how in ("rows", "ids", "values", "odd")
    if how == "rows":
        case.values[f"{kind}_rows"] = list(forget)
    elif how == "ids":
        case.values[f"{kind}_ids"] = draw(_ids_file(case, ids, f"{kind}_ids", odd))
        case.values["forget_id_column"] = "id"
    elif how == "values":
        column = draw(st.sampled_from(["id", "text", "label", "nothing"] if odd else ["id"]))
        values = [f"{column}={_cell(rows[i].get(column))}" for i in forget if i < len(rows)]
        case.values[f"{kind}_values"] = values or [column]
    elif how == "dataset":
        subset = [dict(rows[i]) for i in forget if i < len(rows)]
        if kind == "holdout":
            subset = [{**row, "text": "ZQtext other"} for row in subset]
        if subset and odd and draw(st.booleans()):
            draw(_spoil(subset))
        case.files[f"{kind}.jsonl"] = _jsonl(subset)
        case.values[f"{kind}_dataset"] = f"HERE/{kind}.jsonl"
    elif how == "split":
        case.values["holdout_split"] = draw(st.sampled_from(["test", "train", "a b", "dev.1", ""]))
    elif how == "odd":
        name, value = draw(
            st.sampled_from(
                [
                    (f"{kind}_rows", [-1]),
                    (f"{kind}_rows", [10**25]),
                    (f"{kind}_rows", ["ZQid-0"]),
                    (f"{kind}_rows", [10**6]),
                    (f"{kind}_values", ["ZQid-0"]),
                    (f"{kind}_values", ["="]),
                    (f"{kind}_values", ["id="]),
                    (f"{kind}_values", ["--push=true"]),
                    (f"{kind}_values", ["-x=ZQid-0"]),
                    (f"{kind}_ids", "HERE"),
                    (f"{kind}_ids", "HERE/none.txt"),
                    (f"{kind}_ids", ""),
                    (f"{kind}_rows", []),
                    (f"{kind}_dataset", "HERE"),
                    (f"{kind}_dataset", ""),
                ]
            )  # fmt: skip
        )
        case.values[name] = value
        case.holdout_in_data &= not name.endswith("_dataset")


# Whole cases


KINDS = {
    "text-generation": ["text", "text", "prompt_completion", "messages"],
    "text-classification": ["classification"],
    "token-classification": ["tagged_words"],
    "text2text-generation": ["prompt_completion"],
    "fill-mask": ["text"],
}
SHORTEST: dict[str, dict[str, Any]] = {
    "references": {"seeds": 1},
    "attack": {"attack_steps": 1},
    "alternates": {
        "alternates_file": "HERE/private.jsonl",
        "alternates_per_record": 2,
        "alternates_prompt": "{prompt}",  # the one by default is longer than what the smallest models read
    },
}
PLACES = ("few", "texts", "rows", "form", "forget", "holdout", "names", "templates", "settings", "recipe")


@st.composite
def cases(draw: st.DrawFn, command: str) -> Case:
    """Inputs that are sound but in a place or two."""
    odd = draw(st.sets(st.sampled_from(PLACES), max_size=2))
    task = draw(st.sampled_from(list(KINDS)))
    kind = draw(st.sampled_from(KINDS[task]))
    if command == "alternates" and not _seldom(draw, 4):
        task, kind = "text-generation", draw(st.sampled_from(["prompt_completion", "messages"]))
    case = Case(command, task)
    n = draw(st.sampled_from([0, 1, 2, 3, 4] if "few" in odd else [5, 6, 7, 8]))
    rows = draw(rows_of(kind, n, "texts" in odd))
    if "rows" in odd:
        for _ in range(draw(st.integers(1, 2))):
            draw(_spoil(rows))
    case.values = {
        "model_name_or_path": "MODEL",
        "output_dir": "OUT",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "measure_steps": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    draw(_data(case, rows, "form" in odd, "names" in odd))
    half = max(1, min(2, n // 2))
    draw(_request(case, rows, list(range(half)), "forget", "forget" in odd))
    draw(_request(case, rows, list(range(half, 2 * half)), "holdout", "holdout" in odd))
    if "names" in odd:
        case.model_name = draw(st.sampled_from(NAMES))
        case.output_name = draw(st.sampled_from(NAMES))
    if task == "text-generation" and kind == "text" and _seldom(draw, 4):
        templates = st.sampled_from(TEMPLATES if "templates" in odd else TEMPLATES[:2])
        case.values["prompt_template"], case.values["completion_template"] = draw(templates), draw(templates)
    if draw(st.booleans()):
        case.values["duplicates"] = draw(st.sampled_from(["report", "forget", "ignore"]))
    case.values |= SHORTEST.get(command, {})
    if "settings" in odd:
        case.files["taken"] = b"a file"
        for _ in range(draw(st.integers(1, 2))):
            own = ODD_SETTINGS_OF.get(command, ODD_SETTINGS)
            name, value = draw(st.sampled_from(own if draw(st.booleans()) else ODD_SETTINGS))
            case.values[name] = value
    if command == "split":
        case.values.pop("model_name_or_path", None)
    if "recipe" in odd:
        case.recipe = draw(st.sampled_from(RECIPES))
    elif draw(st.booleans()):
        case.recipe = "yaml"
    if "dataset_streaming" in case.values or not str(case.values.get("dataset_name", "")).startswith("HERE/"):
        case.rows = None
    return case
