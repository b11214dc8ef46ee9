"""Marks in ids and texts: no byte that a run, its errors or its trackers leave holds one of them."""

import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image
from safetensors import safe_open
from transformers import AutoTokenizer

from hf_unlearn.cli import main

# Five letters that no text of the package and hardly any run of random bytes has.
MARK = "Zqxkv"
IDS = [f"{MARK}-{i:03d}" for i in range(24)]
ROWS = [
    {"id": name, "number": i, "prompt": f"Who is {MARK.upper()} {i}?", "completion": f" {MARK.lower()} of {i * i}."}
    for i, name in enumerate(IDS)
]
# What each leaves. trackio wants another pillow than constraints.txt has, so that it is no package for tests.
TRACKERS = {"tensorboard": "*tfevents*", "trackio": "*.db"}


def marks(content: str | bytes) -> bool:
    """Whether a text or some bytes hold a mark, in any case, in UTF-8 or in the bytes of UTF-16."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    content = content.lower()
    wanted = MARK.lower()
    return any(
        form in content for form in (wanted.encode(), wanted.encode("utf-16-le"), wanted.encode().hex().encode())
    )


def decoded(path: Path) -> Iterator[str | bytes]:
    """All that a file says: its bytes, and what is packed in them."""
    yield path.name
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path).to_pylist()) + repr(pq.read_schema(path))
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            yield repr(tensors.metadata()) + repr(list(tensors.keys()))
            yield b"".join(tensors.get_tensor(name).contiguous().numpy().tobytes() for name in tensors.keys())  # noqa: SIM118
    elif path.suffix == ".png":
        with Image.open(path) as image:
            yield repr(image.info)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            for name in packed.namelist():
                yield name
                yield packed.read(name)


def told(folder: Path) -> list[str]:
    """The files of a folder that hold a mark."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if any(map(marks, decoded(path)))]


@pytest.fixture
def model(lm_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lm_base, tmp_path / "model")


@pytest.fixture
def flags(model: Path, tmp_path: Path) -> list[str]:
    """A whole run of a few steps, whose records and ids all hold the mark."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "ids.txt").write_text("\n".join(IDS[:6]))
    (tmp_path / "held_out.txt").write_text("\n".join(IDS[18:]))
    return [
        "--model_name_or_path", str(model), "--dataset_name", str(rows), "--forget_id_column", "id",
        "--forget_ids", str(tmp_path / "ids.txt"), "--holdout_ids", str(tmp_path / "held_out.txt"),
        "--output_dir", str(tmp_path / "out"), "--max_steps", "3", "--logging_steps", "1", "--measure_steps", "2",
        "--save_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu",
    ]  # fmt: skip


class Heard(logging.Handler):
    """All that any library says in the log, at any level."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    loggers = [logging.getLogger(name) for name in (None, "datasets", "transformers", "huggingface_hub", "peft")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize(
    "tracker",
    [
        "none",
        *(
            pytest.param(
                name,
                marks=[
                    pytest.mark.slow,
                    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"needs {name}"),
                ],
            )
            for name in TRACKERS
        ),
    ],
)
def test_no_byte_of_a_run_holds_a_text_or_an_id(
    tracker: str,
    flags: list[str],
    tmp_path: Path,
    heard: Heard,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of what its tracker records, and of a second request in values, read from standard input."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "out" / "trackers"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "out" / "trackers"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"id={IDS[6]}\nprompt={ROWS[7]['prompt']}\n"))
    words = ["run", *flags, "--report_to", tracker, "--method", "npo", "--forget_values", "-"]
    # As the console does it: what trackers record of a process are its words.
    monkeypatch.setattr(sys, "argv", ["hf-unlearn", *words])
    assert main() == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO(IDS[6]))
    prove = ["ledger", "prove", str(tmp_path / "out"), "--column", "id", "--id", "-"]
    monkeypatch.setattr(sys, "argv", ["hf-unlearn", *prove])
    assert main() == 0
    assert main(["audit", str(tmp_path / "out"), "--output", str(tmp_path / "out" / "audit.html")]) == 0
    shown = capfd.readouterr()
    assert "has its digest" in shown.out
    for place, text in (("stdout", shown.out), ("stderr", shown.err), ("log", "\n".join(heard.lines))):
        assert not marks(text), f"{place}: {text[-2000:]}"
    assert not marks(repr(sys.argv))
    assert told(tmp_path / "out") == []
    assert list((tmp_path / "out").glob("tables/*.parquet"))
    assert tracker == "none" or list((tmp_path / "out" / "trackers").rglob(TRACKERS[tracker]))
    assert list((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))
    # The search is one that finds: the data set itself is full of marks, also packed.
    Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    assert {str(tmp_path / name) for name in ("rows.parquet", "rows.jsonl", "ids.txt")} <= set(told(tmp_path))


# Errors


def write(folder: Path, name: str, content: Any) -> str:
    """A file, or a recipe where the content is one."""
    path = folder / name
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def saved(folder: Path, rows: list[dict[str, Any]], **features: Any) -> str:
    """A data set with columns of these types."""
    kinds = Features({"text": Value("string"), **features})
    Dataset.from_list([{"text": row["prompt"], **row} for row in rows]).select_columns(list(kinds)).cast(
        kinds
    ).save_to_disk(folder / "saved")
    return str(folder / "saved")


TALK = [{"role": "user", "content": f"{MARK}\x1b[31m"}, {"role": "assistant", "content": f"{MARK}!"}]
TALKS = [{"id": name, "messages": TALK} for name in IDS]
LONG = f"{MARK} went to the market and met all of her friends there, and they talked until the sun had gone down."
CSV = "\n".join(f"{name},{MARK} is her name,{i}" for i, name in enumerate(IDS)) + "\n"
TEMPLATES = (
    "{{ raise_exception('No ' + messages[0].content) }}", "{{ messages[0].content.nothing.at_all }}",
    "{{ messages[0].content + 1 }}", "{% for", "{{ 'a' * 10 ** 11 }}",
)  # fmt: skip

Case = Callable[[Path], list[str]]
# What goes in the place of a flag of a split that is right, or after it; the file is made in the test's folder.
SPLIT: dict[str, Case] = {
    "a flag that is none": lambda f: [f"--forget_idz={MARK}"],
    "a flag made of an id": lambda f: [f"--{MARK}"],
    "a word that is none": lambda f: [IDS[0]],
    "two words for one value": lambda f: ["--dataset_test_split", "test", IDS[0]],
    "an id in place of a number": lambda f: ["--seed", IDS[0]],
    "an id in place of a fraction": lambda f: ["--mlm_probability", IDS[0]],
    "an id in place of a choice": lambda f: ["--duplicates", IDS[0]],
    "an id in place of a task": lambda f: ["--task", MARK],
    "an id after a switch": lambda f: ["--allow_unmatched", IDS[0]],
    "an id in place of a row": lambda f: ["--forget_rows", IDS[0]],
    "a value without its column": lambda f: ["--forget_values", IDS[0]],
    "column and value in the wrong order": lambda f: ["--forget_values", f"{IDS[0]}=id"],
    "a value that is not there": lambda f: ["--forget_values", f"id={MARK}-999"],
    "a held-out value that is not there": lambda f: ["--holdout_values", f"prompt={MARK}"],
    "a value of another type": lambda f: ["--forget_values", f"number={MARK}"],
    "a file of values that is not there": lambda f: ["--forget_values", f"@{MARK}"],
    "a file of values without columns": lambda f: ["--forget_values", "@" + write(f, "v.txt", f"{MARK}\n{MARK}\n")],
    "an id that D lacks": lambda f: ["--forget_ids", write(f, "i.txt", f"{IDS[0]}\n{MARK}-nobody\n")],
    "an id in another case": lambda f: ["--forget_ids", write(f, "i.txt", IDS[0].upper())],
    "ids in a table without the column": lambda f: ["--forget_ids", write(f, "i.csv", f"{IDS[0]},{MARK}\n")],
    "ids in a table with a gap": lambda f: ["--forget_ids", write(f, "i.csv", f"x,id\n{MARK},{IDS[0]}\n{MARK},\n")],
    "ids that are not JSON": lambda f: ["--forget_ids", write(f, "i.jsonl", f'"{IDS[0]}"\n{IDS[1]}\n')],
    "ids in objects with another key": lambda f: ["--forget_ids", write(f, "i.jsonl", [{MARK: IDS[0]}])],
    "ids that are lists": lambda f: ["--forget_ids", write(f, "i.jsonl", [{"id": [IDS[0]]}])],
    "ids that are not UTF-8": lambda f: ["--forget_ids", write(f, "i.txt", IDS[0].encode() + b"\n\xff\n")],
    "ids of numbers": lambda f: ["--forget_id_column", "number"],
    "ids of a column that is not there": lambda f: ["--forget_id_column", MARK.lower() + " 0"],
    "a folder of requests with one that D lacks": lambda f: [
        "--forget_requests", str(Path(write(f, "r.txt", f"{MARK}-none")).parent)
    ],
    "records to forget with other columns": lambda f: [
        "--forget_dataset", write(f, "forget.csv", CSV)
    ],
    "held-out records that are forgotten": lambda f: ["--holdout_ids", write(f, "i.txt", IDS[0])],
    "all records": lambda f: ["--forget_ids", write(f, "i.txt", "\n".join(IDS))],
    "copies that are an error": lambda f: [
        "--dataset_name", write(f, "d.jsonl", [*ROWS, ROWS[0] | {"id": "copy"}]), "--duplicates", "error"
    ],
    "near copies that are an error": lambda f: [
        "--dataset_name",
        write(f, "d.jsonl", [{**ROWS[0], "prompt": LONG}, *ROWS[1:], {**ROWS[0], "id": "c", "prompt": f"{LONG} So."}]),
        "--near_duplicates", "error",
    ],
    "a review over other records": lambda f: ["--near_duplicates_review", write(f, "d.jsonl", ROWS)],
    "a table without names": lambda f: ["--dataset_name", write(f, "d.csv", CSV)],
    "a table with a field too many": lambda f: ["--dataset_name", write(f, "d.csv", f"id,text\n{IDS[0]},{MARK},x\n")],
    "a table with a quotation mark": lambda f: [
        "--dataset_name", write(f, "d.csv", f'id,text\n{IDS[0]},"{MARK}\n{IDS[1]},x"y\n')
    ],
    "records that are not JSON": lambda f: ["--dataset_name", write(f, "d.jsonl", f'{{"id": "{IDS[0]}", "te')],
    "records of two types": lambda f: ["--dataset_name", write(f, "d.jsonl", [{"id": IDS[0]}, {"id": [MARK]}])],
    "records that are not UTF-8": lambda f: [
        "--dataset_name", write(f, "d.jsonl", b'{"id": "' + IDS[0].encode() + b'\xff"}')
    ],
    "classes for ids": lambda f: [
        "--dataset_name", saved(f, [{**row, "id": i} for i, row in enumerate(ROWS)], id=ClassLabel(names=IDS)),
        "--forget_ids", write(f, "i.txt", f"{IDS[0]}\n{MARK}-999\n"),
    ],
    "dates for ids": lambda f: [
        "--dataset_name", saved(f, [{**row, "id": "2020-01-01"} for row in ROWS], id=Value("date32")),
    ],
    "an alias in a recipe": lambda f: ["--config", write(f, "r.yaml", f"forget_values: *{MARK}\n")],
    "a tag in a recipe": lambda f: ["--config", write(f, "r.yaml", f"forget_values: !{MARK} [x]\n")],
    "an unknown key in a recipe": lambda f: ["--config", write(f, "r.yaml", f"seed: 1\n{IDS[0]}: x\n")],
    "a key that stands twice": lambda f: ["--config", write(f, "r.yaml", f"{IDS[0]}: x\n{IDS[0]}: y\n")],
    "a recipe that is not YAML": lambda f: ["--config", write(f, "r.yaml", f"forget_values: id={MARK}: x\n")],
    "a recipe with an id for a number": lambda f: ["--config", write(f, "r.yaml", f"seed: {IDS[0]}\n")],
    "a recipe of ids alone": lambda f: ["--config", write(f, "r.yaml", f"- {IDS[0]}\n")],
    "a recipe with mappings of ids": lambda f: ["--config", write(f, "r.yaml", f"forget_rows: [{{{MARK}: 1}}]\n")],
}  # fmt: skip
# Errors that only a model finds.
RUN: dict[str, Case] = {
    **{
        f"a template that fails, {number}": lambda f, template=template: _with_template(f, template)
        for number, template in enumerate(TEMPLATES)
    },
    "records without text": lambda f: ["--dataset_name", write(f, "d.jsonl", [*ROWS, {**ROWS[0], "prompt": None}])],
    "turns of nobody": lambda f: [
        "--dataset_name", write(f, "d.jsonl", [{**talk, "messages": [{MARK: "x"}]} for talk in TALKS])
    ],
    "a folder that holds something": lambda f: ["--output_dir", str(f)],
}  # fmt: skip
OTHER: dict[str, list[str]] = {
    "an id for a command of the ledger": ["ledger", IDS[0]],
    "an id without its flag": ["ledger", "prove", "MODEL", IDS[0]],
    "an id under a flag cut short": ["ledger", "prove", "MODEL", "--c", "id", f"--i={MARK}", "--digest", MARK],
    "an id under another flag": ["ledger", "prove", "MODEL", "--column", "id", f"--idd={IDS[0]}"],
    "an id after a switch": ["push", "model", f"--push_anyway={IDS[0]}"],
    "an id of a model without a ledger": ["ledger", "prove", "MODEL", "--column", "id", "--id", IDS[0]],
    "an id of a file that is not there": ["ledger", "prove", "MODEL", "--column", "id", "--id", f"@{IDS[0]}"],
    "an id for a number": ["derived", "owner/model", "--max_models", IDS[0]],
}


def _with_template(folder: Path, template: str) -> list[str]:
    model = folder / "templated"
    shutil.copytree(folder / "model", model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(model)
    return ["--model_name_or_path", str(model), "--dataset_name", write(folder, "talks.jsonl", TALKS)]


@pytest.fixture
def refused(
    flags: list[str], model: Path, tmp_path: Path, heard: Heard, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a command that is refused, and searches what it says and leaves."""

    def run(name: str, *words: str, code: int = 2) -> str:
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        heard.lines.clear()
        capfd.readouterr()
        assert main([word.replace("MODEL", str(model)) for word in words]) == code, name
        shown = capfd.readouterr()
        said = shown.out + shown.err + "\n".join(heard.lines)
        assert not marks(said), f"{name}: {said[-2000:]}"
        assert "Traceback" not in said, name
        left = {path for path in tmp_path.rglob("*") if path.is_file()} - before
        assert not [path for path in left if any(map(marks, decoded(path)))], name
        return shown.err

    return run


def test_no_error_tells_an_id_or_a_text(refused: Any, flags: list[str], tmp_path: Path) -> None:
    assert len(SPLIT) + len(RUN) + len(OTHER) >= 60
    for number, (name, case) in enumerate(SPLIT.items()):
        folder = tmp_path / f"case-{number}"
        folder.mkdir()
        # Of flags that come twice the last counts.
        refused(name, "split", *flags, *case(folder))
    for name, words in OTHER.items():
        refused(name, *words)


@pytest.mark.slow
def test_no_error_of_a_run_tells_an_id_or_a_text(refused: Any, flags: list[str], model: Path, tmp_path: Path) -> None:
    for number, (name, case) in enumerate(RUN.items()):
        folder = tmp_path / f"case-{number}"
        shutil.copytree(model, folder / "model")
        refused(name, "run", *flags, *case(folder))


def test_a_template_that_raises_is_told_by_the_record(
    refused: Any, flags: list[str], model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its own words with ``--debug`` alone, without what a terminal would obey."""
    (tmp_path / "case").mkdir()
    shutil.copytree(model, tmp_path / "case" / "model")
    words = ["run", *flags, *_with_template(tmp_path / "case", TEMPLATES[0])]
    said = refused("a template", *words)
    assert "The tokenizer's chat template cannot write record 0 of the " in said
    assert "correct the record or the template (TemplateError)." in said
    assert main([*words, "--debug"]) == 2
    shown = capfd.readouterr().err
    assert f"No {MARK}" in shown
    assert "\x1b" not in shown
    assert shown.splitlines()[-1] + "\n" == said
    assert not os.path.exists(tmp_path / "out")
