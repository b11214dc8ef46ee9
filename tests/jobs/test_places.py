"""Where runs write: into their own folder alone, one at a time, and over nothing that is not theirs."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.data.copies.review import check_review
from hf_unlearn.data.loading import load_data
from hf_unlearn.files import write_text, written_privately
from hf_unlearn.jobs.finished_run import audit, card
from hf_unlearn.output_folder import LOCK_FILE, alone_in, require_apart
from hf_unlearn.publishing.ledger import load_ledger
from hf_unlearn.publishing.publish import publish
from hf_unlearn.training.saving import finish_checkpoint, last_checkpoint

ROOT = Path(__file__).parents[2]
TRIES = 50

HOLD = """
import sys
from pathlib import Path
from hf_unlearn.output_folder import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize("make", [fifo, unix_socket, Path.mkdir])
def test_what_is_no_plain_file_is_never_replaced(make: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "a"
    make(path)
    before = path.stat()
    for write in (lambda: write_text(path, "x"), lambda: check_review(path), lambda: audit("nowhere", path)):
        with pytest.raises(InputError, match="is no plain file and is not replaced"):
            write()
    assert (path.stat().st_mode, path.stat().st_ino) == (before.st_mode, before.st_ino)
    assert [found.name for found in tmp_path.iterdir()] == ["a"]


def test_dev_null_stays_a_device() -> None:
    with pytest.raises(InputError, match="/dev/null is no plain file"):
        audit("nowhere", Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for name in ("README.md", "key"):
        (tmp_path / f".{name}.part").symlink_to(secret)
    write_text(tmp_path / "README.md", "card")
    with written_privately(tmp_path / "key") as file:
        file.write("key")
    assert secret.read_text() == "mine"
    assert (tmp_path / "README.md").read_text() == "card"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("write", [check_review, lambda path: audit("nowhere", path)])
def test_a_file_of_somebody_else_is_not_overwritten(write: Callable[[Path], Any], tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "a row of D"}\n')
    with pytest.raises(InputError, match="holds something else, which would be lost; name another file"):
        write(data)
    assert data.read_text() == '{"text": "a row of D"}\n'


def test_links_out_of_the_folder_are_not_published(finished: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (finished / "added_tokens.json").symlink_to(secret)
    with pytest.raises(InputError, match="is a link to a file outside of"):
        publish(finished, "owner/linked")


def test_the_last_checkpoint_stays_whatever_the_clock_said(tmp_path: Path) -> None:
    """The clock was ahead when the first one was written."""
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
        if step == 1:
            finish_checkpoint(folder, 1, None)
            ahead = time.time() + 10**6
            os.utime(folder, (ahead, ahead))
    finish_checkpoint(tmp_path / "checkpoint-2", 1, None)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_folder_is_for_one_process_at_a_time(
    classifier_settings: dict[str, Any], classifier_original: Path, recipe: Any, tmp_path: Path
) -> None:
    """Another process is refused as long as the first one lives, whatever it wants there, and not longer."""
    folder = tmp_path / "out"
    same = recipe(**classifier_settings, output_dir=str(folder), max_steps=2)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        asks = [lambda: main(["run", "--config", str(same)]), lambda: main(["references", "--config", str(same)])]
        assert [ask() for ask in asks] == [2, 2]
        holder = f"process {other.pid} on {socket.gethostname()}"
        with pytest.raises(InputError, match=f"is in use by {holder}; wait until it has ended"), alone_in(folder):
            pass
        assert [path.name for path in folder.iterdir()] == [LOCK_FILE]
        other.kill()
    # The dead hold nothing, though their lock is still there.
    assert (folder / LOCK_FILE).is_file()
    assert main(["run", "--config", str(same)]) == 0
    assert not (folder / LOCK_FILE).exists()
    card(folder)
    assert load_ledger(folder) is not None


@pytest.mark.slow
@pytest.mark.parametrize("way", ["same", "other request", "other seed", "other method", "card"])
def test_two_at_once_never_leave_a_mixed_folder(
    way: str, lm_settings: dict[str, Any], lm_original: Path, recipe: Any, tmp_path: Path
) -> None:
    """Fifty times each, in one folder: the result is that of the one or of the other, and its ledger verifies."""
    settings = {name: value for name, value in lm_settings.items() if name not in ("original", "output_dir")}
    settings |= {"measure": "sample", "max_steps": 2, "save_steps": 1, "use_cpu": True}
    flags = ["--config", str(recipe(**settings)), "--output_dir", "OUT"]
    first = ["run", *flags]
    second = {
        "same": first,
        "other request": [*first, "--forget_rows", "12"],
        "other seed": [*first, "--seed", "4"],
        "other method": [*first, "--method", "toward_base"],
        "card": ["card", "OUT"],
    }[way]
    words = [str(tmp_path), str(TRIES), json.dumps(first), json.dumps(second)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.racing", *words], cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert len(codes) == TRIES
    assert all(0 in pair and set(pair) <= {0, 2} for pair in codes), codes
    kept = ("model.safetensors", "run.json")
    whole = [
        {name: (tmp_path / place / name).read_bytes() for name in kept}
        for place in ("first", "second")
        if (tmp_path / place).exists()
    ]
    for number in range(TRIES):
        folder = tmp_path / str(number)
        assert {name: (folder / name).read_bytes() for name in kept} in whole
        assert main(["ledger", "verify", str(folder)]) == 0
        assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".part"]


@pytest.mark.parametrize("inside", ["the output in D", "D in the output", "both one folder", "a link"])
def test_the_output_and_the_data_lie_apart(
    inside: str, lm_settings: dict[str, Any], lm_base: Path, recipe: Any, tmp_path: Path, capsys: Any
) -> None:
    data, out = {
        "the output in D": (tmp_path / "data", tmp_path / "data" / "out" / "deeper"),
        "D in the output": (tmp_path / "out" / "data" / "rows.jsonl", tmp_path / "out"),
        "both one folder": (tmp_path / "data", tmp_path / "data"),
        "a link": (tmp_path / "data", tmp_path / "link" / "out"),
    }[inside]
    folder = data if data.suffix == "" else data.parent
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    (folder / "rows.jsonl").write_bytes(Path(lm_settings["dataset_name"]).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    settings = {**lm_settings, "model_name_or_path": str(lm_base), "dataset_name": str(data), "output_dir": str(out)}
    settings["original"] = {**settings["original"], "output_dir": str(out)}
    path = str(recipe(**settings))
    for command in ("run", "train", "evaluate", "references", "attack"):
        assert main([command, "--config", path]) == 2
        said = capsys.readouterr().err
        assert "name one elsewhere." in said or "name another --output_dir." in said
    (tmp_path / "recipe.yaml").unlink()
    assert sorted(tmp_path.rglob("*")) == before
    # Beside a file of data there is room.
    require_apart(tmp_path / "data" / "out", str(tmp_path / "data" / "rows.jsonl"))


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bad"), alone_in(tmp_path / "new"):
        raise InputError("bad")
    assert list(tmp_path.iterdir()) == []


def test_data_that_was_touched_or_moved_is_the_same_data(tickets_file: Path, tmp_path: Path) -> None:
    content = tickets_file.read_bytes()
    places = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for date, path in enumerate(places, start=1):
        path.write_bytes(content)
        os.utime(path, (date * 1e9, date * 1e9))
    data = [load_data(str(path))[0]["train"] for path in places]
    assert data[0]._fingerprint == data[1]._fingerprint
    one = data[0]._fingerprint
    for part in data:
        tables = Path(part.cache_files[0]["filename"]).parent
        assert tables.stat().st_mode & 0o777 == 0o700, "what is prepared of a file is for nobody else"
        assert tables == Path(part.map(lambda row: {"more": 1}).cache_files[0]["filename"]).parent
    places[1].write_bytes(content.replace(b"billing", b"billings", 1))
    assert load_data(str(places[1]))[0]["train"]._fingerprint != one
