"""Words of a command that others may read, and errors whose own words may be those of a record."""

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_unlearn import InputError, Records
from hf_unlearn.cli import main, recipes
from hf_unlearn.cli.flags import parse
from hf_unlearn.data.encoding import RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.errors import guarded
from hf_unlearn.jobs import finished_run
from hf_unlearn.machine_faults import bounded
from hf_unlearn.models.loading import load_config
from hf_unlearn.models.location import ModelSource, read_card
from hf_unlearn.training.trainer_data import GuardedCollator

SECRET = "Jane-0042"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def prove(*words: str) -> str:
    _, values = parse("ledger", ["prove", "owner/model", "--column", "id", *words])
    return values["value"]


def test_an_id_comes_from_a_file_or_from_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("\ufeff 47 11 \n", encoding="utf-8")
    assert prove("--id", f"@{tmp_path / 'id'}") == " 47 11 "
    monkeypatch.setattr(sys, "stdin", io.StringIO("4711\n"))
    assert prove("--id", "-") == "4711"
    assert prove("--id", "4711") == prove("--id=4711") == "4711"
    monkeypatch.setattr(sys, "stdin", io.StringIO("author=Jane\nauthor=Joe\n\n"))
    (tmp_path / "more").write_text("author=Ann\n")
    given = recipes.parse(
        "split", ["--forget_values", "-", f"@{tmp_path / 'more'}", "x=@y", "--holdout_values", "z=1"]
    )
    assert given["forget_values"] == ["author=Jane", "author=Joe", "author=Ann", "x=@y"]
    assert given["holdout_values"] == ["z=1"]


@pytest.mark.parametrize(
    ("word", "content", "message"),
    [
        (f"@{SECRET}", None, "The file that --id names after @ cannot be read: No such file"),
        ("@FILE", b"", "--id finds nothing in its file"),
        ("@FILE", b"a\nb\n", "it takes one id, and there are several lines"),
        ("@FILE", b"\xff\n", "it is not UTF-8 text"),
        ("-", b"\n \n", "--id finds nothing in standard input"),
    ],
)
def test_words_that_cannot_be_read(
    word: str, content: bytes | None, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "id").write_bytes(content or b"")
    monkeypatch.setattr(sys, "stdin", io.StringIO((content or b"").decode(errors="replace")))
    with pytest.raises(InputError, match=message) as raised:
        prove("--id", word.replace("FILE", str(tmp_path / "id")))
    assert SECRET not in str(raised.value)


def test_several_processes_do_not_share_one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="is read by one process alone"):
        recipes.parse("split", ["--forget_values", "-"])


def test_trackers_find_no_words_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["hf-unlearn", "split", "--forget_values", f"author={SECRET}"])
    assert main() == 2
    assert sys.argv == ["hf-unlearn", "split"]


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job of whose code somebody else made an error, on the way to another."""

    def job(**_: Any) -> None:
        try:
            raise KeyError(f"{SECRET}\x1b[31m")
        except KeyError:
            raise ValueError(SECRET) from None

    monkeypatch.setattr(finished_run, "card", job)
    return lambda *words: main(["card", *words, "out"])


def test_an_error_that_nobody_foresaw_is_one_sentence(unforeseen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert unforeseen() == 70
    told = capsys.readouterr().err
    assert told.startswith(
        "hf-unlearn card: an error that was not foreseen, ValueError in test_private_words.py, line "
    )
    assert told.count("\n") == 1
    assert SECRET not in told


def test_its_details_are_for_debugging(unforeseen: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", "out", "--debug"]) == 70
    told = capsys.readouterr().err
    assert f"ValueError: {SECRET}\n" in told
    assert "KeyError: " in told
    assert "\x1b" not in told
    # With a value it is a flag of transformers.
    assert main(["split", "--debug", "underflow_overflow"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_printed_of_a_request_has_no_ids() -> None:
    def fails(row: dict[str, Any]) -> bool:
        raise KeyError(row["text"])

    rows = Dataset.from_dict({"text": [SECRET]})
    named = [Records.ids("id", [SECRET]), Records.where("id", SECRET), Records.rows([42]), Records.like(rows)]
    assert not [request for request in named if SECRET in repr(request) or "42" in repr(request)]
    with pytest.raises(InputError, match=r"Value 2 of the request is no row number") as raised:
        Records.rows([1, SECRET])  # type: ignore[list-item]
    assert SECRET not in str(raised.value)
    (part,) = Records.matching(fails).parts
    with pytest.raises(InputError, match=r"The predicate fails on row 7; correct it \(KeyError\)\."):
        part.bind(None, None).mask(rows.with_format("arrow")[:], 7)  # type: ignore[arg-type]


def test_a_tokenizer_that_raises_is_told_by_the_record(byte_level_tokenizer: PreTrainedTokenizerFast) -> None:
    class Fails(PreTrainedTokenizerFast):
        def __call__(self, text: Any, **options: Any) -> Any:
            if SECRET in str(text):
                raise RuntimeError(f"cannot read {text}")
            return super().__call__(text, **options)

    tokenizer = Fails(tokenizer_object=byte_level_tokenizer.backend_tokenizer, eos_token="<|endoftext|>")
    data = Dataset.from_dict({"text": ["a", "b", SECRET, "c"]})
    with pytest.raises(InputError, match=r"cannot read record 2 of the forget set; correct either \(RuntimeError\)\."):
        encode(data, RecordEncoder(tokenizer, RecordFormat("text"), 16), "forget")


def test_a_collator_that_raises_shows_no_record() -> None:
    def fails(examples: list[dict[str, Any]]) -> Any:
        raise ValueError(f"cannot stack {examples}")

    with pytest.raises(
        InputError, match=r"The data collator fails on a batch of 2 examples; correct it \(ValueError\)"
    ):
        GuardedCollator(fails)([{"input_ids": SECRET}] * 2)


def test_faults_of_the_machine_are_no_faults_of_others() -> None:
    for kind in (OSError, MemoryError, KeyboardInterrupt, InputError):
        with pytest.raises(kind), guarded("It fails"):
            raise kind


@pytest.mark.parametrize(
    "content",
    [f"seed: *{SECRET}", f"seed: !{SECRET} 1", f"seed: &{SECRET} 1\nx: &{SECRET}", f"{SECRET}: 1\n{SECRET}: 2"],
)
def test_names_in_a_recipe_are_not_quoted(content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(InputError, match="The recipe .* is not YAML|is no key") as raised:
        recipes.parse("run", ["--config", str(tmp_path / "recipe.yaml")])
    assert SECRET not in str(raised.value)


# What has no end


@pytest.mark.parametrize("content", [BOMB, BOMB + "lr_scheduler_kwargs: {x: *i}\n", "<<: &a {<<: [*a]}\n" + BOMB])
def test_a_recipe_that_blows_up_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(InputError, match="is not YAML"), bounded("It was not refused", 5):
        recipes.parse("run", ["--config", str(tmp_path / "recipe.yaml")])


def test_a_card_that_blows_up_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{BOMB}---\n# A model\n")
    assert read_card(ModelSource(str(tmp_path))) is None
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    card = read_card(ModelSource(str(tmp_path)))
    assert card is not None
    assert card.data.license == "mit"


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 10**7), ("num_hidden_layers", 10**12), ("num_labels", 10**9), ("num_local_experts", 10**7)],
)
def test_a_configuration_of_ten_million_layers_is_refused(name: str, value: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "llama", "text_config": {{"{name}": {value}}}}}')
    with pytest.raises(InputError, match=f"{name}={value:,}; at most "), bounded("It was not refused", 5):
        load_config(ModelSource(str(tmp_path)))


@pytest.mark.parametrize("what", ["--forget_ids", "--config", "--digest_key_file", "--forget_values", "card"])
def test_a_pipe_in_place_of_a_file_is_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, pipe = tmp_path / "rows.jsonl", tmp_path / "pipe.txt"
    data.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": "y"}\n')
    os.mkfifo(tmp_path / "unlearning_report.json")
    os.mkfifo(pipe)
    words = ["split", "--dataset_name", str(data), "--forget_id_column", "id", "--forget_rows", "0", what, str(pipe)]
    if what == "--forget_values":
        words[-1] = f"@{pipe}"
    with bounded("It was not refused", 20):
        assert main(["card", str(tmp_path)] if what == "card" else words) == 2
    assert "is no plain file and is not read; name a file." in capsys.readouterr().err
