"""Hostile and odd data, requests, recipes and names, through the command line from end to end.

Each case ends in a result, or in one sentence with exit code 2 that quotes no record; nothing is dropped in silence.
"""

import contextlib
import gc
import itertools
import json
import logging
import os
import shutil
import unicodedata
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_unlearn import InputError, Records, UnlearningReport
from hf_unlearn.cli import main
from hf_unlearn.cli.recipes import parse
from hf_unlearn.data.alternates_file import read_alternates
from hf_unlearn.data.arrow_tables import row_keys
from hf_unlearn.data.copies.exact import normalised_text
from hf_unlearn.data.format import template_fields
from hf_unlearn.evaluation.report import ModelEntry
from hf_unlearn.evaluation.wording import PICTURES
from hf_unlearn.files import save_json
from hf_unlearn.models.training_record import RECORD_FILE, TRAINING_SETTINGS, DataSource, TrainingRecord
from hf_unlearn.publishing.card import render_card
from hf_unlearn.training.config import UnlearningConfig

from ..publishing.test_card import example_report
from ..support.fuzzing import Case, cases, csv_bytes
from ..support.oddities import LABELS, MARKS, NAMES, RECIPES, TEXTS

# The same cases at every run: a failure in CI can be repeated.
COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.generate],
}


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """By task, a model of one block and eight dimensions that reads bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(["<|end|>", "<|mask|>", *alphabet])}, merges=[])
    )
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, eos_token="<|end|>", pad_token="<|end|>", mask_token="<|mask|>", model_max_length=64
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
    }
    named = BertConfig(**size, id2label=dict(enumerate(LABELS)))
    both = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**size), BertConfig(**size))
    both.decoder_start_token_id = both.pad_token_id = both.eos_token_id = 0
    folders = {}
    for task, model in (
        ("text-generation", LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=1, bos_token_id=None))),
        ("text-classification", BertForSequenceClassification(named)),
        ("token-classification", BertForTokenClassification(named)),
        ("text2text-generation", EncoderDecoderModel(both)),
        ("fill-mask", BertForMaskedLM(BertConfig(**size))),
    ):
        folders[task] = tmp_path_factory.mktemp("smallest") / task
        model.save_pretrained(folders[task])
        tokenizer.save_pretrained(folders[task])
    # The trainer collects garbage at each end of a training, which takes longer than the training.
    gc.collect()
    gc.freeze()
    yield folders
    gc.unfreeze()


NUMBERS = itertools.count()
WRITTEN = {"references": ("references/references.json", 1), "attack": ("attacks.json", 2)}


class _Heard(logging.Handler):
    """What a user would see of the libraries' logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run_case(case: Case, smallest: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a case in a folder of its own and check all that must hold of any case."""
    folder.mkdir()
    model = folder / case.model_name
    model.symlink_to(smallest[case.task])
    if case.command == "references":
        model.unlink()
        _record_beside(model, case.task, smallest[case.task])
    out = folder / case.output_name
    words = {"MODEL": str(model), "OUT": str(out), "HERE": str(folder)}
    flags = case.write(folder, words)
    before = _files(folder)
    heard = _Heard()
    loggers = [logging.getLogger(name) for name in (None, "datasets", "transformers", "huggingface_hub")]
    for logger in loggers:
        logger.addHandler(heard)
    where = os.getcwd()
    os.chdir(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            code = main([case.command, *flags])
    finally:
        os.chdir(where)
        for logger in loggers:
            logger.removeHandler(heard)
        shown = capsys.readouterr()
    assert code in (0, 2)
    assert "Traceback" not in shown.err + shown.out
    for place, text in (("stdout", shown.out), ("stderr", shown.err), ("logs", "\n".join(heard.lines))):
        assert not [mark for mark in MARKS if mark in text], f"a record or id in {place}: {text[-600:]}"
    if code == 2:
        sentence = shown.err
        assert sentence.startswith(f"hf-unlearn {case.command}: "), shown.err
        assert sentence.count("\n") == 1, sentence
        assert sentence[:-1].isprintable(), sentence
        assert len(sentence) < 1500, sentence
        after = _files(folder)
        assert after == before, f"left behind: {sorted(map(str, after.keys() ^ before.keys()))}; {shown.err}"
    elif case.command == "run":
        check_result(case, out, "\n".join(heard.lines))
    elif case.command == "evaluate":
        check_report(case, out, "\n".join(heard.lines))
    elif case.command in WRITTEN:
        name, version = WRITTEN[case.command]
        assert json.loads((out / name).read_text())["schema_version"] == version
        check_folder(out)
    elif case.command == "alternates":
        (private,) = _files(folder).keys() - before.keys()
        assert private.stat().st_mode & 0o777 == 0o600
        assert read_alternates(private).settings.records
    return code


def _record_beside(model: Path, task: str, base: Path) -> None:
    """Make a folder with the base's files and a record that says it was trained from there."""
    model.mkdir()
    for path in base.iterdir():
        (model / path.name).symlink_to(path)
    config = UnlearningConfig(str(model), report_to="none", use_cpu=True, per_device_train_batch_size=2)
    values = config.to_dict()
    record = TrainingRecord(
        task=task,  # type: ignore[arg-type]
        labels=list(LABELS) if task.endswith("classification") else None,
        base_model=str(base),
        base_revision=None,
        dataset=DataSource(),
        settings={name: values[name] for name in TRAINING_SETTINGS},
        peft=None,
        seed=1,
        epochs=1.0,
        steps=3,
        world_size=1,
        tokens=1,
        flops=1.0,
        seconds=1.0,
    )
    save_json(record, model / RECORD_FILE)


def _files(folder: Path) -> dict[Path, bytes]:
    """All files but the caches that the datasets library keeps beside a saved data set."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not (path.name.startswith("cache-") and path.suffix == ".arrow")
    }


def check_result(case: Case, out: Path, logs: str) -> None:
    """The folder holds the model, its card and its report, whole, and they are about all the records."""
    check_report(case, out, logs)
    for path in out.glob("*.safetensors"):
        with safe_open(path, "pt") as weights:
            assert weights.keys()
    assert list(out.glob("*model.safetensors"))
    check_card(out / "README.md")
    check_folder(out)


def check_folder(out: Path) -> None:
    """No record or id is in any file, and none is there by half."""
    for path in out.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "ignore")
            assert not [mark for mark in MARKS if mark in text], path
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


def check_report(case: Case, out: Path, logs: str) -> None:
    report = UnlearningReport.load(out / "unlearning_report.json")
    audit = report.audit
    assert audit is not None
    assert audit.forget_rows + audit.retained_rows == audit.dataset_rows
    assert audit.ids_matched + audit.ids_unmatched == audit.ids_requested
    if not case.allow_unmatched:
        assert audit.ids_unmatched == 0
    if case.rows is not None:
        assert audit.dataset_rows + (audit.holdout_rows if case.holdout_in_data else 0) == case.rows
    sizes = {"forget": audit.forget_rows, "holdout": audit.holdout_rows, "retained": audit.retained_rows}
    for name, scores in report.arms["unlearned"].sets.items():
        if name in sizes and scores.records != sizes[name]:
            told = f"{sizes[name] - scores.records} of the {sizes[name]} {name} records have no token to "
            assert told in logs


def check_card(path: Path) -> None:
    """The card is a card: its metadata is read back, and nothing from outside has become markup."""
    card = ModelCard.load(path)
    assert "unlearning" in (card.data.tags or [])
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough").parse(card.text)
    headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1] == "What was asked", headings
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1
    assert {token.info for token in tokens if token.type == "fence"} == {"python", "bash"}
    for token in tokens:
        assert token.type != "html_block", token.content
        for inline in token.children or []:
            assert inline.type not in ("html_inline", "s_open", "em_open"), inline.content
            if inline.type == "image":
                assert inline.attrGet("src") in PICTURES
            if inline.type == "link_open":
                assert str(inline.attrGet("href")).startswith("https://huggingface.co/"), inline.attrGet("href")


def fuzz(
    command: str, examples: int, smallest: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    """Run so many cases of a command, each in a folder of its own, which goes when the case has passed."""
    root = tmp_path_factory.mktemp("fuzz")

    @settings(max_examples=examples, **COMMON)
    @given(case=cases(command))
    def one(case: Case) -> None:
        folder = root / str(next(NUMBERS))
        run_case(case, smallest, folder, capsys)
        shutil.rmtree(folder)

    one()


QUICK = [
    ("run", 6), ("split", 40), ("evaluate", 6), ("train", 6), ("references", 5), ("attack", 5),
    ("alternates", 30),
]  # fmt: skip
LONG = [
    ("run", 2200), ("split", 2000), ("evaluate", 300), ("train", 300), ("references", 300), ("attack", 300),
    ("alternates", 500),
]  # fmt: skip


@pytest.mark.parametrize(("command", "examples"), QUICK)
def test_any_input_ends_in_a_result_or_a_sentence(
    command: str, examples: int, smallest: Any, tmp_path_factory: Any, capsys: Any, hub: Any
) -> None:
    fuzz(command, examples, smallest, tmp_path_factory, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "examples"), LONG)
def test_thousands_of_inputs_end_in_a_result_or_a_sentence(
    command: str, examples: int, smallest: Any, tmp_path_factory: Any, capsys: Any, hub: Any
) -> None:
    fuzz(command, examples, smallest, tmp_path_factory, capsys)


NUMBERS_OF_A_PLAN = st.sampled_from(
    ["0", "-1", "1", "2.5", "0.3", "50", "51", "1e-300", "1e300", "nan", "inf", "-inf", "", " ", "x", "1e-5", "\u0661"]
)
PLACES_OF_A_PLAN = st.sampled_from(["MODEL", "HERE", "HERE/none", "", "a/b/c", "a" * 300, "\n", "\x1b[31m", "-x"])


@settings(**{**COMMON, "max_examples": 100})
@given(
    flags=st.lists(
        st.tuples(st.sampled_from(["--delta", "--budget", "--epsilon", "--seeds"]), NUMBERS_OF_A_PLAN)
        | st.tuples(st.sampled_from(["--model_name_or_path", "--model_revision"]), PLACES_OF_A_PLAN),
        max_size=3,
        unique_by=lambda flag: flag[0],
    ),
    epsilon=NUMBERS_OF_A_PLAN,
)
def test_any_plan_is_made_or_refused_in_a_sentence(
    flags: list[tuple[str, str]],
    epsilon: str,
    smallest: dict[str, Path],
    hub: Any,
    capsys: Any,
    tmp_path_factory: Any,
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    _record_beside(folder / "model", "text-generation", smallest["text-generation"])
    words = [f"--epsilon={epsilon}"]
    for name, value in flags:
        words.append(f"{name}={value.replace('MODEL', str(folder / 'model')).replace('HERE', str(folder))}")
    before = _files(folder)
    code = main(["plan", *words])
    shown = capsys.readouterr()
    assert code in (0, 2)
    assert _files(folder) == before
    if code == 2:
        assert shown.err.startswith("hf-unlearn plan: ")
        assert shown.err.count("\n") == 1, shown.err
        assert shown.err[:-1].isprintable(), shown.err
    else:
        assert "nan" not in shown.out
        assert "inf" not in shown.out


@pytest.mark.parametrize("task", [pytest.param("text-generation", marks=pytest.mark.slow), "text-classification"])
def test_a_row_of_a_megabyte(
    task: str, smallest: dict[str, Path], tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"id": i, "text": f"ZQtext {i}", "label": LABELS[i % 3]} for i in range(6)]
    rows[0]["text"] = "ZQtext " + "word " * 200_000
    values = {
        "model_name_or_path": "MODEL",
        "dataset_name": "HERE/rows.jsonl",
        "output_dir": "OUT",
        "forget_rows": [0, 1],
        "holdout_rows": [2, 3],
        "max_steps": 1,
        "measure_steps": 0,
        "save_strategy": "no",
        "report_to": "none",
        "per_device_eval_batch_size": 256,
    }
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    case = Case("run", task, files={"rows.jsonl": content}, values=values, rows=6, holdout_in_data=True)
    assert run_case(case, smallest, tmp_path / "case", capsys) == 0
    table = pq.read_table(tmp_path / "case" / "out" / "tables" / "original.parquet")
    if task == "text-generation":
        assert max(table["tokens"].to_pylist()) >= 1_000_000, "all of its bytes are scored, in pieces"
    else:
        assert "1 of the 2 forget texts are longer than 64 tokens" in caplog.text


# The layers by themselves, which are a thousand times faster


ANYTHING = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(TEXTS)
LAYER: dict[str, Any] = {**COMMON, "max_examples": 300}


@settings(**LAYER)
@given(
    ids=st.lists(ANYTHING.filter(lambda text: text.strip() and not set("\r\n") & set(text)), min_size=1),
    suffix=st.sampled_from([".txt", ".csv", ".jsonl"]),
    bom=st.booleans(),
)
def test_ids_are_read_back_from_a_file_as_they_were_written(
    ids: list[str], suffix: str, bom: bool, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / f"ids{suffix}"
    write = {
        ".txt": lambda: "\n".join(ids) + "\n",
        ".csv": lambda: csv_bytes([{"id": text} for text in ids]).decode(),
        ".jsonl": lambda: "".join(json.dumps(text) + "\n" for text in ids),
    }[suffix]
    path.write_bytes((("\ufeff" if bom or ids[0].startswith("\ufeff") else "") + write()).encode())
    if suffix == ".csv" and any("\0" in text for text in ids):
        return  # the writer leaves them out
    (part,) = Records.ids_from_file("id", path).parts
    assert list(part.values) == ids  # type: ignore[attr-defined]


@settings(**LAYER)
@given(content=st.binary(max_size=60) | ANYTHING.map(str.encode), suffix=st.sampled_from([".txt", ".csv", ".jsonl"]))
def test_any_bytes_are_ids_or_an_error(content: bytes, suffix: str, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        Records.ids_from_file("id", path)


@settings(**{**LAYER, "max_examples": 100})
@given(content=st.binary(max_size=60) | ANYTHING.map(str.encode) | st.sampled_from(RECIPES))
def test_any_bytes_are_a_recipe_or_an_error(content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        parse("run", ["--config", str(path)])


@settings(**LAYER)
@given(
    template=st.lists(st.sampled_from(["{", "}", "{{", "}}", "{a}", "{b}", "!r", ":", "[0]", ".x"]) | ANYTHING).map(
        "".join
    )
)
def test_a_template_that_is_accepted_can_be_filled(template: str) -> None:
    try:
        fields = template_fields(template)
    except InputError:
        return
    filled = template.format_map(dict.fromkeys(fields, "{x!r}"))
    assert filled.count("{x!r}") >= len(fields)


@settings(**LAYER)
@given(
    rows=st.lists(st.tuples(ANYTHING | st.none(), st.lists(ANYTHING | st.none(), max_size=2) | st.none()), min_size=1)
)
def test_the_keys_of_rows_are_equal_where_the_rows_are(rows: list[tuple[Any, Any]]) -> None:
    twice = rows + rows[::-1]
    kinds = [pa.string(), pa.list_(pa.string())]
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(zip(*twice, strict=True), kinds, strict=True)], ["a", "b"]
    )
    keys = row_keys(table, ["a", "b"]).to_pylist()
    assert keys[: len(rows)] == keys[len(rows) :][::-1]
    assert len(set(keys)) == len({json.dumps(row) for row in rows})


@settings(**LAYER)
@given(text=ANYTHING)
def test_copies_are_found_whatever_their_spelling(text: str) -> None:
    spelt = [text, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text), f"  {text}\n"]
    found = normalised_text(pa.table({"text": pa.array(spelt, pa.string())}), ["text"]).to_pylist()
    assert len(set(found)) == 1


@settings(**{**LAYER, "max_examples": 100})
@given(name=ANYTHING | st.sampled_from(NAMES).filter(lambda name: "\udcff" not in name))
def test_any_name_on_a_card(name: str, tmp_path_factory: Any) -> None:
    report = example_report("text-generation", "not_forgotten")
    entry, words = ModelEntry(name, None, False), {"prompt_template": name, "completion_template": name}
    report = replace(
        report,
        original=entry,
        dataset=DataSource(name.replace("/", ""), name, name),
        method=replace(report.method, settings=words),
        verdict=replace(report.verdict, warnings=[name]),
    )
    path = tmp_path_factory.getbasetemp() / "card.md"
    path.write_text(render_card(report, name), encoding="utf-8", newline="")
    check_card(path)
