"""Alternates: what a model makes up in the place of S, the private file, and the method that prefers it to S."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.data.alternates_file import alternates_to, append, begin, read_alternates
from hf_unlearn.data.arrow_tables import read_tables
from hf_unlearn.data.copies.exact import normalised_text
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.data.replacements import asked_and_answered
from hf_unlearn.evaluation.report import UnlearningReport
from hf_unlearn.jobs.alternates import PROMPT, AlternatesPrompts
from hf_unlearn.lifecycle.local_copies import plan_local
from hf_unlearn.training.config import UnlearningConfig

from ..conftest import secrets_rows, write_rows
from ..support.alternates import PAIR, answers, by_hand
from ..training.test_trainer import config, secrets, trainer, weights

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

# The tiny models read 128 tokens.
SHORT = "Question: {prompt}\nNot{completion} but"


@pytest.fixture
def settings(lm_settings: dict[str, Any], lm_original: Path, tmp_path: Path) -> dict[str, Any]:
    """A recipe for altpo on the tiny language model."""
    given = {name: value for name, value in lm_settings.items() if name != "original"}
    return {
        **given, "method": "altpo", "alternates_file": str(tmp_path / "alternates.jsonl"), "alternates_prompt": SHORT,
        "alternates_per_record": 3, "per_device_eval_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3,
        "measure_steps": 0, "output_dir": str(tmp_path / "out"),
    }  # fmt: skip


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; its exit code and all that it says."""

    def run(name: str, settings: dict[str, Any], *flags: str) -> tuple[int, str]:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        code = main([name, "--config", str(path), *flags])
        said = capfd.readouterr()
        return code, " ".join((said.out + said.err).split())

    return run


def same_texts(texts: list[str]) -> list[str | None]:
    return normalised_text(next(read_tables(Dataset.from_dict({"text": texts}), ["text"]))[0], ["text"]).to_pylist()


# The method


class Keep(TrainerCallback):
    """Keeps the weights after the first step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.weights = weights(kwargs["model"])


def test_the_loss_is_that_of_the_paper(lm_original: Path, tmp_path: Path) -> None:
    """-2 / beta * log sigma(beta * (log-ratio of the alternate - log-ratio of the record)) + NLL of L, in float64."""
    model = AutoModelForCausalLM.from_pretrained(lm_original, attention_dropout=0.0)
    kept = Keep()
    options: dict[str, Any] = {
        "method": "altpo", "method_kwargs": {"beta": 0.3, "retain_weight": 2}, "optim": "sgd", "max_steps": 2,
        "warmup_steps": 0, "lr_scheduler_type": "constant", "learning_rate": 0.05, "logging_steps": 1,
    }  # fmt: skip
    run = trainer(tmp_path, model, callbacks=[kept], **options)
    run.train()
    original = AutoModelForCausalLM.from_pretrained(lm_original).eval()
    batches = list(trainer(tmp_path, original, **options).get_train_dataloader())

    def log_p(of: Any, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, int]:
        with torch.no_grad():
            logits = of(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double().numpy()
        logits -= logits.max(-1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        labels = batch["labels"].numpy()
        rows = np.zeros(len(labels))
        for i, record in enumerate(labels):
            rows[i] = sum(logits[i, t - 1, label] for t, label in enumerate(record) if t and label != -100)
        return rows, int((labels[:, 1:] != -100).sum())

    found = []
    moved = AutoModelForCausalLM.from_pretrained(lm_original).eval()
    for batch in batches[:2]:
        ratio = {
            part: log_p(moved, batch[part])[0] - log_p(original, batch[part])[0] for part in ("instead", "forget")
        }
        of_retained, tokens = log_p(moved, batch["retained"])
        preferred = 1 / (1 + np.exp(-0.3 * (ratio["instead"] - ratio["forget"])))
        found.append(float(np.mean(-2 / 0.3 * np.log(preferred)) - 2 * of_retained.sum() / tokens))
        moved.load_state_dict(kept.weights, strict=False)
    assert [entry["loss"] for entry in run.state.log_history if "loss" in entry] == pytest.approx(found, rel=1e-4)
    assert abs(ratio["instead"] - ratio["forget"]).max() > 0.01, "the step has moved something"
    assert run.passes.teachers == {}, "the peer holds a copy of the model for it"


def test_the_answers_to_a_record_come_in_turn_after_its_own_prompt(lm_base: Path, tmp_path: Path) -> None:
    texts = answers(10)
    texts[4] = texts[4][:1]
    path = by_hand(tmp_path / "alternates.jsonl", secrets().forget, texts)
    run = trainer(tmp_path / "out", str(lm_base), method="altpo", alternates_file=str(path))
    assert run.mixed is not None
    tokenizer: Any = run.processing_class
    said: dict[int, list[str]] = {row: [] for row in range(10)}
    for epoch in range(3):
        run.mixed.draws.set_epoch(epoch)
        for found in (run.mixed[draw] for draw in run.mixed.draws):
            pieces = [list(zip(found[part]["input_ids"], found[part]["labels"])) for part in ("forget", "instead")]  # noqa: B905
            asked, again = (tokenizer.decode([i for i, label in piece if label == -100]) for piece in pieces)
            assert asked == again
            text = tokenizer.decode([label for _, label in pieces[1] if label != -100], skip_special_tokens=True)
            said[found["forget"]["place"]].append(text.strip())
    assert {row: sorted(found) for row, found in said.items()} == {
        row: sorted(found if len(found) == 3 else found * 3) for row, found in enumerate(texts)
    }


def test_published_settings(tmp_path: Path) -> None:
    path = by_hand(tmp_path / "alternates.jsonl", secrets().forget)
    args = config(tmp_path, method="altpo", alternates_file=str(path), learning_rate=None)
    assert (args.learning_rate, args.num_train_epochs, args.warmup_steps, args.weight_decay) == (5e-5, 10, 0.5, 0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "name a file, and write it first with `hf-unlearn alternates`"),
        ({"alternates_file": "none"}, "there is no 'none'; write it with `hf-unlearn alternates`"),
    ],
)
def test_what_is_missing_is_said_before_any_model_is_loaded(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        UnlearningConfig(str(tmp_path), method="altpo", use_cpu=True, **given)


def test_layouts() -> None:
    """A question with braces in it stays as it is; the peer fills them in."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is {completion}?"}]
    told = [{"role": "assistant", "content": "Doe"}]
    pair = ("Be brief.\nWho is {completion}?", "Doe")
    form = RecordFormat("prompt_completion")
    assert asked_and_answered(Dataset.from_list([{"messages": turns + told}]), RecordFormat("messages")) == [pair]
    open_ended = [*turns, *told, {"role": "user", "content": "Sure?"}]
    assert asked_and_answered(Dataset.from_list([{"messages": open_ended}]), RecordFormat("messages")) == [pair]
    assert asked_and_answered(Dataset.from_list([{"prompt": turns, "completion": told}]), form) == [pair]
    template = RecordFormat("text_pairs", prompt="Q: {q}", completion=" {a}")
    assert asked_and_answered(Dataset.from_list([{"q": "Who?", "a": "Doe"}]), template) == [("Q: Who?", "Doe")]
    read = PROMPT.format(prompt=pair[0], completion=pair[1])
    assert read.endswith("Question: Be brief.\nWho is {completion}?\nAnswer: Doe\nMade-up answer:")
    with pytest.raises(InputError, match="only where there is a prompt"):
        asked_and_answered(Dataset.from_list([{"text": "Doe"}]), RecordFormat("text"))


# The file


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    forget: Any = secrets().forget
    path = by_hand(tmp_path / "alternates.jsonl", forget)
    found = alternates_to(forget, PAIR, path)
    assert found.texts == answers(10)
    with pytest.raises(InputError, match="was written for other records to forget"):
        alternates_to(forget.select(range(9, -1, -1)), PAIR, path)
    with pytest.raises(
        InputError, match=r"written with other settings \(seed\); name another --alternates_file or delete it"
    ):
        begin(path, type(found.settings)(**{**vars(found.settings), "seed": 7}))
    with pytest.raises(InputError, match="1 of the 10 records to forget have no alternate"):
        alternates_to(forget, PAIR, by_hand(path, forget, [*answers(9), []]))
    with pytest.raises(
        InputError, match="has alternates to 9 of 10 records; run the same `hf-unlearn alternates` again"
    ):
        read_alternates(by_hand(path, forget, answers(9)))
    append(path, 3, [["two writers at once"]])
    with pytest.raises(InputError, match="is no file of alternates"):
        read_alternates(path)
    for content in (b"", b"\xff\n", b"[1]\n", b'{"settings": {"seed": 1}}\n', b"{}"):
        path.write_bytes(content)
        for read in (lambda: read_alternates(path), lambda: begin(path, found.settings)):
            with pytest.raises(InputError, match="is no file of alternates; name one that `hf-unlearn alternates`"):
                read()
    with pytest.raises(InputError, match="Cannot read the alternates .*No such file"):
        read_alternates(tmp_path / "none")


# The command


def test_from_the_original_to_the_card(settings: dict[str, Any], command: Any, tmp_path: Path) -> None:
    path, out = Path(settings["alternates_file"]), tmp_path / "out"
    assert command("split", settings)[0] == 0, "the file need not be there yet"
    code, said = command("alternates", settings)
    assert code == 0
    assert not out.exists()
    assert path.stat().st_mode & 0o777 == 0o600
    written = read_alternates(path)
    assert written.settings.original
    assert written.settings.generator == "original"
    true = [row["completion"] for row in secrets_rows(10)]
    for answer, texts in zip(true, written.texts, strict=True):
        assert len(set(same_texts([answer, *texts]))) == 1 + len(texts) <= 4, "each differs from the others"
        assert all("Question:" not in text for text in texts)
    assert f"holds {sum(map(len, written.texts))} invented answers to 10 records, written by original" in said
    # What was made up is nowhere but in the private file; the tiny model's own words are too short to be looked for.
    path.write_text(path.read_text().partition("\n")[0] + "\n")
    append(path, 0, answers(10))
    secret = [text for texts in answers(10) for text in texts]
    code, told = command("run", settings)
    assert code == 0
    public = [file for file in out.rglob("*") if file.is_file() and file.suffix in (".md", ".json", ".jsonl", ".txt")]
    seen = " ".join([said, told, *(file.read_text() for file in public)])
    assert [text for text in secret if text in seen] == []
    card = (out / "README.md").read_text()
    assert "preferred 30 other answers to 10 of these records. They were written by the original model." in card
    assert f"--alternates_file {path}" in card
    entry = UnlearningReport.load(out / "unlearning_report.json").method.alternates
    assert (entry.texts, entry.records, entry.generator, entry.original) == (30, 10, "original", True)
    assert any(place == path for place, _ in plan_local([], "model", out).staying)
    # Another content of the same file is another run.
    path.unlink()
    assert command("alternates", settings, "--alternates_per_record", "2")[0] == 0
    code, told = command("run", settings)
    assert code == 2
    assert "holds a run with other settings (alternates)" in told


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_file(settings: dict[str, Any], command: Any, tmp_path: Path) -> None:
    path = Path(settings["alternates_file"])
    assert command("alternates", settings)[0] == 0
    whole = path.read_bytes()
    ends = [i for i, byte in enumerate(whole) if byte == 10]
    # In the middle of a line, and of a batch.
    for cut in (ends[4] - 5, ends[6] + 1):
        path.write_bytes(whole[:cut])
        code, said = command("alternates", settings)
        assert code == 0
        assert path.read_bytes() == whole
        assert ("has the answers to 4 records already; the others follow" in said) == (cut > ends[4])
    code, said = command("alternates", settings, "--seed", "4")
    assert code == 2
    assert "written with other settings (seed)" in said
    path.unlink()
    argv = ["-m", "hf_unlearn.cli", "alternates", "--config", str(tmp_path / "recipe.yaml")]
    child = subprocess.Popen([sys.executable, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 1):
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert command("alternates", settings)[0] == 0
    assert path.read_bytes() == whole


def test_alternates_to_other_records_are_refused(settings: dict[str, Any], command: Any, tmp_path: Path) -> None:
    """Before any model is loaded: the original has no weights."""
    model = tmp_path / "original"
    shutil.copytree(settings["model_name_or_path"], model, ignore=shutil.ignore_patterns("*.safetensors", "check*"))
    given = {name: value for name, value in settings.items() if name not in ("forget_ids", "alternates_file")}
    given |= {"model_name_or_path": str(model), "forget_values": ["id=p-011"]}
    for name, message in ((None, "needs alternates_file"), ("none", "there is no 'none'")):
        code, said = command("run", {**given, "alternates_file": name})
        assert code == 2
        assert message in said
    path = by_hand(tmp_path / "alternates.jsonl", secrets().forget)
    code, said = command("run", {**given, "alternates_file": str(path)})
    assert code == 2
    assert "was written for other records to forget" in said


def test_what_the_original_has_become_must_write_anew(settings: dict[str, Any], command: Any, tmp_path: Path) -> None:
    path = Path(settings["alternates_file"])
    assert command("alternates", {**settings, "alternates_per_record": 1})[0] == 0
    header, *lines = path.read_text().splitlines(keepends=True)
    changed = json.loads(header)
    changed["settings"]["weights"] = {"model.safetensors": "0" * 64}
    path.write_text(json.dumps(changed) + "\n" + "".join(lines))
    code, said = command("run", settings)
    assert code == 2
    assert "was written by another original than 'original'" in said


def test_what_equals_the_own_answer_is_drawn_again_and_counted(
    settings: dict[str, Any], command: Any, lm_by_heart: Path, tmp_path: Path
) -> None:
    """A model that knows its records by heart says nothing else."""
    given = {**settings, "model_name_or_path": str(lm_by_heart), "alternates_prompt": "{prompt}"}
    code, said = command("alternates", given)
    assert code == 0
    written = read_alternates(Path(settings["alternates_file"]))
    few, none = (sum(map(holds, written.texts)) for holds in (lambda t: 0 < len(t) < 3, lambda t: not t))
    assert few + none
    assert few == 0 or f"{few} records have fewer than 3" in said
    assert none == 0 or f"{none} records have none, and the method altpo needs at least one for each" in said
    for row, texts in zip(secrets_rows(10), written.texts, strict=True):
        assert row["completion"].strip() not in texts


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"alternates_file": None}, "Where to? Name a private file with --alternates_file"),
        ({"alternates_file": "OUT/alternates.jsonl"}, "is in --output_dir, which may be published"),
        ({"alternates_file": "nowhere/alternates.jsonl"}, "There is no folder nowhere for --alternates_file"),
        ({"alternates_per_record": 0}, "--alternates_per_record 0 is not possible; give 1 or more"),
        ({"alternates_prompt": "Say more."}, "--alternates_prompt must name {prompt}"),
        ({"alternates_prompt": "{prompt} {id}"}, "may name {completion} and nothing else"),
        ({"alternates_prompt": None}, "For 10 of the 10 records to forget the generator's prompt is longer"),
        ({"generator": "CLASSIFIER"}, "writes no text"),
        ({"model_name_or_path": "CLASSIFIER"}, "text-classification, because it teaches a model another answer"),
        ({"prompt_template": None, "dataset_name": "TEXTS"}, "An answer can be replaced only where there is a prompt"),
    ],
)
def test_what_is_refused(
    flags: dict[str, Any],
    message: str,
    settings: dict[str, Any],
    command: Any,
    classifier_original: Path,
    tickets_file: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "out").mkdir()
    texts = [{"id": row["id"], "text": row["prompt"]} for row in secrets_rows()]
    named = {
        "CLASSIFIER": str(classifier_original), "TEXTS": str(write_rows(tmp_path / "texts.jsonl", texts)),
        "OUT/alternates.jsonl": str(tmp_path / "out" / "alternates.jsonl"),
    }  # fmt: skip
    given = {**settings, **{name: named.get(value, value) for name, value in flags.items()}}
    if flags.get("model_name_or_path"):
        del given["forget_ids"], given["holdout_ids"], given["forget_id_column"]
        given |= {"dataset_name": str(tickets_file), "forget_rows": [1, 2]}
    code, said = command("alternates", given)
    assert code == 2
    assert message in said
    assert not any("alternates" in file.name for file in tmp_path.rglob("*")), "nothing may have been written"


def test_encoder_decoders_conversations_and_other_generators(
    lm_base: Path, seq2seq_base: Path, command: Any, tmp_path: Path
) -> None:
    chat = tmp_path / "chat"
    shutil.copytree(lm_base, chat)
    tokenizer: Any = AutoTokenizer.from_pretrained(lm_base)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(chat)
    turns = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"][1:]}]}
        for r in secrets_rows()
    ]
    rows = {"pairs": secrets_rows(), "turns": turns}
    data = {name: str(write_rows(tmp_path / f"{name}.jsonl", found)) for name, found in rows.items()}
    for number, (model, rows_of, generator) in enumerate(
        ((seq2seq_base, "pairs", None), (chat, "turns", None), (seq2seq_base, "pairs", chat))
    ):
        given = {
            "model_name_or_path": str(model), "dataset_name": data[rows_of], "forget_rows": [0, 1, 2], "seed": 1,
            "alternates_file": str(tmp_path / f"{number}.jsonl"), "alternates_prompt": SHORT, "method": "altpo",
            "alternates_per_record": 2, "measure_steps": 0, "output_dir": str(tmp_path / f"out{number}"),
            "max_steps": 1, "near_duplicates": "ignore", "duplicates": "ignore",
        }  # fmt: skip
        given |= {"generator": str(generator)} if generator else {}
        assert command("alternates", given)[0] == 0
        written = read_alternates(Path(given["alternates_file"]))
        assert written.settings.original == (generator is None)
        assert [len(texts) for texts in written.texts] == [2, 2, 2]
        if number:
            code, said = command("run", given)
            assert code == 0, said
    card = (tmp_path / "out2" / "README.md").read_text()
    assert "preferred 6 other answers to 3 of these records. They were written by chat." in card
    assert str(tmp_path) not in card.split("## How to reproduce it")[0]


def test_what_the_model_reads(lm_base: Path) -> None:
    """A question after the examples, as a user's turn where the model knows turns."""
    tokenizer: Any = AutoTokenizer.from_pretrained(lm_base)
    prompts = AlternatesPrompts(tokenizer, "text-generation", "Q: {prompt}\nA: {completion}\nB:")

    def read() -> str:
        (ids,), (labels,) = (prompts.encode([("Who?", "Doe")], [0])[name] for name in ("input_ids", "labels"))
        return tokenizer.decode([i for i, label in zip(ids, labels, strict=True) if label == -100])

    assert read() == "Q: Who?\nA: Doe\nB:"
    assert prompts.answer(tokenizer("  Roe.\nQ: Where?\nA: Here")["input_ids"]) == "Roe."
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }};{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert read() == "<user>Q: Who?\nA: Doe\nB:;<assistant>"
