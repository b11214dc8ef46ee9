"""Kills, full disks, too little memory, losses that are no number: nothing is lost and one sentence is said."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import HfApi, hf_hub_download
from safetensors.torch import load_file, save_file

from hf_unlearn import UnlearningReport, UnlearningTrainer
from hf_unlearn.cli import main
from hf_unlearn.evaluation import measured_sets
from hf_unlearn.models.location import locate
from hf_unlearn.models.training_record import RECORD_FILE
from hf_unlearn.publishing.ledger_of_model import ledger_of
from hf_unlearn.training import method_trainer
from hf_unlearn.training.saving import MARKER, finish_checkpoint, last_checkpoint

from ..conftest import TOKEN, secrets_rows, write_rows
from ..support.hub_server import HubServer

ROOT = Path(__file__).parents[2]


def python(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, **options)


@pytest.fixture(scope="module")
def quick_settings(lm_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe whose original, and so its reference, takes 10 steps; with many checkpoints and measurements."""
    folder = tmp_path_factory.mktemp("quick")
    original = {**lm_settings["original"], "output_dir": str(folder / "original"), "num_train_epochs": 2}
    recipe = {**lm_settings, "model_name_or_path": str(folder / "original"), "original": original}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "--config", str(folder / "recipe.yaml")]) == 0
    return {**recipe, "use_cpu": True, "save_steps": 3, "logging_steps": 1, "measure_steps": 4}


@pytest.fixture
def settings(quick_settings: dict[str, Any]) -> dict[str, Any]:
    """A run of the tiny language model, which has dropout; it ends in the middle of an epoch of four steps."""
    return {**quick_settings, "max_steps": 22}


def same_result(folder: Path, whole: Path) -> None:
    weights = [path.name for path in whole.glob("*.safetensors")]
    assert weights
    for name in weights:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    report, expected = (UnlearningReport.load(f / "unlearning_report.json") for f in (folder, whole))
    assert report.cost is not None
    assert expected.cost is not None
    assert (report.cost.tokens, report.cost.flops) == (expected.cost.tokens, expected.cost.flops)
    assert (report.curve, report.verdict, report.arms) == (expected.curve, expected.verdict, expected.arms)
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".part"]
    assert ledger_of(locate(str(folder))) is not None, "its ledger tells of this report and these weights"


REFERENCE = {"method": "toward_base", "with_retrained": True}
ADAPTER = {"method": "base", "use_peft": True, "lora_dropout": 0.1, "save_total_limit": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "moments"),
    [
        (REFERENCE, "random:20"),
        (REFERENCE | {"save_total_limit": 1, "save_steps": 9}, "files:20"),
        pytest.param(REFERENCE, "random:100", marks=pytest.mark.slow),
        pytest.param(REFERENCE | {"save_total_limit": 1}, "files:1", marks=pytest.mark.slow),
        pytest.param(ADAPTER, "random:50", marks=pytest.mark.slow),
        pytest.param(ADAPTER, "files:5", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_moment_the_same_command_gives_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, more: dict[str, Any], moments: str
) -> None:
    config = str(recipe(**{**settings, **more}))
    done = python(str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), moments, "run", "--config", config)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    # On a busy machine all the kills at random may hit one run.
    assert folders > (0 if moments.startswith("random") else 1)
    for i in range(folders):
        same_result(tmp_path / str(i), tmp_path / "whole")


# Sixty kills and more, with those above.
METHODS = [
    ({"method": "npo"}, "random:10"),
    ({"method": "npo", "save_total_limit": 1}, "files:8"),
    ({"method": "shrink_reheat"}, "random:10"),
    ({"method": "scrub"}, "random:10"),
    ({"method": "dial"}, "random:10"),
    ({"method": "auto"}, "random:10"),
    ({"method": "auto", "with_retrained": True}, "files:10"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("more", "moments"), METHODS, ids=lambda value: str(value))
def test_killed_with_any_method_the_same_command_gives_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, more: dict[str, Any], moments: str
) -> None:
    config = str(recipe(**{**settings, "max_steps": 8, **more}))
    done = python(str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), moments, "run", "--config", config)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    assert folders
    for i in range(folders):
        same_result(tmp_path / str(i), tmp_path / "whole")


# Of a whole folder: what may differ from one run to the next.
TIMES = re.compile(
    r'"(created|seconds|measuring_seconds|minutes|time)": [^,\n]*|20\d\d-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?'
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "file", "moments"),
    [
        (["evaluate"], "/unlearning_report.json", "files:1"),
        (["attack", "--attack_steps", "4"], "/attacks.json", "files:7"),
        (["attack", "--attack_steps", "4"], "/attacks.json", "random:3"),
        (["split", "--near_duplicates_review", "OUT/review.jsonl"], "/review.jsonl", "files:1"),
        (["alternates", "--alternates_file", "OUT.jsonl", "--alternates_prompt", "{prompt}"], ".jsonl", "files:1"),
    ],
    ids=["evaluate", "attack", "attack at random", "split", "alternates"],
)
def test_killed_at_any_file_the_same_command_leaves_the_same(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, words: list[str], file: str, moments: str
) -> None:
    rows = secrets_rows()
    # Near copies of records to forget, for the review.
    more = [{**row, "id": f"c-{row['id']}", "prompt": row["prompt"] + " "} for row in rows[:4]]
    names = ("method", "measure_steps", "original", "dataset_name")
    given = {name: value for name, value in settings.items() if name not in names}
    given["dataset_name"] = str(write_rows(tmp_path / "rows.jsonl", [*rows, *more]))
    config = str(recipe(**{**given, "max_steps": 2}))
    script = str(ROOT / "tests" / "support" / "killed.py")
    done = python(script, str(tmp_path), moments, *words, "--config", config)
    assert done.returncode == 0, done.stderr[-3000:]
    folders = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    assert folders
    for i in range(folders):
        whole, killed = (Path(f"{tmp_path / place}{file}").read_text() for place in ("whole", str(i)))
        assert whole
        assert TIMES.sub("", killed) == TIMES.sub("", whole)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_killed_while_publishing_the_same_command_publishes_in_one_commit(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    config = str(recipe(**{**settings, "max_steps": 2}))
    done = python(
        str(ROOT / "tests" / "support" / "killed.py"), str(tmp_path), "requests:1", "run", "--config", config
    )
    assert done.returncode == 0, done.stderr[-3000:]
    repos = int(re.findall(r"killed in (\d+) folders", done.stdout)[0])
    assert repos > 3
    api = HfApi(token=TOKEN)
    for i in range(repos + 1):
        commits = api.list_repo_commits(f"owner/killed-{i}")
        assert [commit.title[:7] for commit in commits] == ["Unlearn", "initial"]
        published = hf_hub_download(f"owner/killed-{i}", "model.safetensors", token=TOKEN)
        assert Path(published).read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_checkpoint_that_is_not_whole_is_passed_over(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    folder = tmp_path / "out"
    assert main(["run", "--config", str(recipe(**settings, output_dir=str(folder)))]) == 0
    newest = folder / "checkpoint-22"
    assert last_checkpoint(folder) == str(newest)
    for spoil in ("shorter", "missing", "marker"):
        kept = {path: path.read_bytes() for path in newest.iterdir()}
        if spoil == "shorter":
            (newest / "optimizer.pt").write_bytes(kept[newest / "optimizer.pt"][:-1])
        elif spoil == "missing":
            (newest / "model.safetensors").unlink()
        else:
            (newest / MARKER).unlink()
        assert last_checkpoint(folder) == str(folder / "checkpoint-21"), spoil
        for path, content in kept.items():
            path.write_bytes(content)
    assert last_checkpoint(folder) == str(newest)


def test_the_last_whole_checkpoint_is_never_removed(tmp_path: Path) -> None:
    for step, whole in ((6, False), (9, True), (12, True)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(b"state")
        if whole:
            finish_checkpoint(folder, 3, None)
            assert last_checkpoint(tmp_path) == str(folder)
    assert not (tmp_path / "checkpoint-6").exists()
    # A kill while an old one is removed makes what is left of it the newest folder.
    (tmp_path / "checkpoint-9" / "optimizer.pt").unlink()
    for name, hour in (("checkpoint-12", 1), ("checkpoint-9", 2)):
        os.utime(tmp_path / name, (3600 * hour, 3600 * hour))
    (tmp_path / "checkpoint-15").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")
    finish_checkpoint(tmp_path / "checkpoint-15", 2, None)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-12", "checkpoint-15"}
    # What others write into it afterwards does not spoil a checkpoint, a marker that cannot be read does.
    (tmp_path / "checkpoint-15" / "notes.txt").write_text("mine")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-15")
    (tmp_path / "checkpoint-15" / MARKER).write_text("")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-12")


def test_the_only_checkpoint_stays_until_the_next_is_whole(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *args: Any) -> None:
        if folder.name == "checkpoint-6":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / MARKER))
        finish_checkpoint(folder, *args)

    monkeypatch.setattr(method_trainer, "finish_checkpoint", full)
    out = tmp_path / "out"
    assert main(["run", "--config", str(recipe(**settings, save_total_limit=1, output_dir=str(out)))]) == 2
    assert last_checkpoint(out) == str(out / "checkpoint-3")


def test_killed_before_the_settings_have_their_name(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    folder = tmp_path / "out"
    # The first trial of `dial` has its folder before the run has its settings.
    (folder / "trials" / "original").mkdir(parents=True)
    (folder / ".run.json.part").write_text("{")
    assert main(["run", "--config", str(recipe(**settings, output_dir=str(folder)))]) == 0
    assert not (folder / ".run.json.part").exists()


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("scheduler.pt", "rng_state.pth", "training_args.bin")
        ),
    ],
)
def test_nothing_in_a_checkpoint_is_unpickled(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(recipe(**settings, output_dir=str(tmp_path / "out")))
    assert main(["run", "--config", config]) == 0
    # From the checkpoint before there are steps to go, which need everything that is in it.
    shutil.rmtree(tmp_path / "out" / "checkpoint-22")
    newest = tmp_path / "out" / "checkpoint-21"
    torch.save(Evil(tmp_path / "trace"), newest / name)
    sizes = json.loads((newest / MARKER).read_text())
    (newest / MARKER).write_text(json.dumps({**sizes, name: (newest / name).stat().st_size}))
    assert last_checkpoint(tmp_path / "out") == str(newest)
    (tmp_path / "out" / "README.md").unlink()
    capsys.readouterr()
    code = main(["run", "--config", config])
    assert not (tmp_path / "trace").exists()
    assert code == (0 if name == "training_args.bin" else 2)
    if code:
        assert "delete the newest checkpoint folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pytorch_model.bin", pytest.param("training_args.bin", marks=pytest.mark.slow)])
def test_nothing_in_a_model_folder_is_unpickled(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, name: str
) -> None:
    shutil.copytree(settings["model_name_or_path"], tmp_path / "model")
    torch.save(Evil(tmp_path / "trace"), tmp_path / "model" / name)
    config = {**settings, "model_name_or_path": str(tmp_path / "model"), "output_dir": str(tmp_path / "out")}
    assert main(["run", "--config", str(recipe(**config)), "--max_steps", "1"]) == 0
    assert not (tmp_path / "trace").exists()


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "out"
    config = str(recipe(**{**settings, "max_steps": 120, "save_steps": 1000, "measure_steps": 0}))
    # All in processes of their own: bits depend on the number of threads.
    run = ("-m", "hf_unlearn.cli", "run", "--config", config, "--output_dir")
    assert python(*run, str(whole)).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *run, str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stderr is not None
        told = b""
        while not re.search(rb"[1-9]\d*/120", told):
            assert (said := process.stderr.read1()), told
            told += said
        process.send_signal(signal.SIGTERM)
        told += process.stderr.read()
    assert process.returncode == 130, told
    assert b"stopped after step" in told
    assert b"The same command goes on from the last checkpoint" in told
    assert last_checkpoint(folder) is not None
    assert python(*run, str(folder)).returncode == 0
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize("only", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_nothing_in_an_adapter_folder_is_unpickled(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str], only: bool
) -> None:
    adapter = tmp_path / "adapter"
    more = {"method": "base", "use_peft": True, "max_steps": 1, "output_dir": str(adapter)}
    assert main(["run", "--config", str(recipe(**{**settings, **more}))]) == 0
    torch.save(Evil(tmp_path / "trace"), adapter / "adapter_model.bin")
    if only:
        (adapter / "adapter_model.safetensors").unlink()
    config = {**settings, "model_name_or_path": str(adapter), "output_dir": str(tmp_path / "out"), "max_steps": 1}
    capsys.readouterr()
    assert main(["run", "--config", str(recipe(**config))]) == (2 if only else 0)
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """A suite that runs in the background of a shell inherits that Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("scoring", "told"),
    [
        (None, ", stopped after step 2 of 8"),
        *(pytest.param(scoring, "", marks=pytest.mark.slow) for scoring in (1, 7, 11)),
    ],
    ids=str,
)
def test_ctrl_c_at_any_stage(
    settings: dict[str, Any],
    tmp_path: Path,
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    scoring: int | None,
    told: str,
) -> None:
    """While the original, the training or the reference is scored, and while the reference is trained."""
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "max_steps": 6, "with_retrained": True, "output_dir": str(folder)}))
    calls = 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == scoring:
            signal.raise_signal(number)
        return score(*args, **kwargs)

    def stepped(trainer: UnlearningTrainer, *args: Any, **kwargs: Any) -> Any:
        if scoring is None and trainer.args.folder.name == "retrained-seed3" and trainer.state.global_step == 1:
            signal.raise_signal(number)
        return training_step(trainer, *args, **kwargs)

    score, training_step = measured_sets.score, UnlearningTrainer.training_step
    monkeypatch.setattr(measured_sets, "score", interrupted)
    monkeypatch.setattr(UnlearningTrainer, "training_step", stepped)
    before = signal.getsignal(number)
    capsys.readouterr()
    assert main(["run", "--config", config]) == 130
    assert signal.getsignal(number) == before
    assert f"hf-unlearn run: interrupted{told}. The same command goes on from the last" in capsys.readouterr().err
    assert not (folder / "model.safetensors").exists()
    calls, scoring = 100, 0
    assert main(["run", "--config", config]) == 0
    assert "retrained" in UnlearningReport.load(folder / "unlearning_report.json").arms


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(settings: dict[str, Any], tmp_path: Path, recipe: Any) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "max_steps": 2000, "output_dir": str(folder), "logging_steps": 10}))
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2_processes.yaml"]
    command = [sys.executable, *launcher, "-m", "hf_unlearn.cli", "run", "--config", config]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, cwd=ROOT, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while last_checkpoint(folder) is None and process.poll() is None:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.read().decode()
    assert process.returncode not in (0, -signal.SIGKILL), told
    assert told.count("hf-unlearn run: interrupted. The same command goes on from the last checkpoint.") == 1, told
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert last_checkpoint(folder) is not None
    assert not (folder / "model.safetensors").exists()


# What the machine does


def test_a_loss_that_is_no_number_ends_the_run(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "learning_rate": 1e30, "optim": "sgd"}))
    assert main(["run", "--config", config]) == 2
    err = capsys.readouterr().err
    assert re.search(
        r"hf-unlearn run: The loss is no longer a number by step \d+\. Most likely the learning rate", err
    )
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "README.md").exists()


def test_weights_that_are_no_numbers_are_not_saved(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    # The loss of the only step is that of the weights before it.
    original = {**settings["original"], "output_dir": str(folder), "learning_rate": 1e30, "optim": "sgd"}
    original |= {"max_steps": 1, "max_grad_norm": 0, "weight_decay": 1e30}
    assert main(["train", "--config", str(recipe(**{**settings, "original": original}))]) == 2
    assert "are no longer numbers; most likely the learning rate is too high" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"run.json", "checkpoint-1"}


def test_a_model_that_is_no_longer_one_is_refused(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(settings["model_name_or_path"], broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "out"
    # By its record it would be no retrained model.
    without_record = shutil.copytree(broken, tmp_path / "without", ignore=shutil.ignore_patterns(RECORD_FILE))
    for more in ({"model_name_or_path": str(broken)}, {"retrained_model": str(without_record)}):
        config = str(recipe(**{**settings, **more, "max_steps": 3, "output_dir": str(folder)}))
        assert main(["run", "--config", config]) == 2
        assert "The loss of 10 of 10 forget records is no number" in capsys.readouterr().err
        assert not (folder / "model.safetensors").exists()
        shutil.rmtree(folder)


def test_a_checkpoint_after_a_loss_that_is_no_number_does_not_displace_a_good_one(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(trainer: UnlearningTrainer, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == 4:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(float("nan"))
        return training_step(trainer, *args, **kwargs)

    training_step = UnlearningTrainer.training_step
    monkeypatch.setattr(UnlearningTrainer, "training_step", spoil)
    more = {"logging_steps": 100, "measure_steps": 0, "save_total_limit": 1, "output_dir": str(tmp_path / "out")}
    assert main(["run", "--config", str(recipe(**{**settings, **more}))]) == 2
    assert last_checkpoint(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-3")


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from hf_unlearn.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("save_steps", [3, 1000])
def test_a_file_that_cannot_be_written_whole(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, save_steps: int
) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "save_steps": save_steps}))
    done = python("-c", FULL, "100000", "run", "--config", config)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert re.search(r"hf-unlearn run: .*(disk is full)", done.stderr)
    assert not (folder / "model.safetensors").exists()
    assert last_checkpoint(folder) is None
    assert main(["run", "--config", config]) == 0


@pytest.mark.parametrize(
    ("room", "kept"),
    [
        (2935, 6),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in ((450, None), (1500, 3), (2480, 3), (2760, 6))),
    ],
)
def test_a_disk_that_is_full(
    settings: dict[str, Any],
    tmp_path: Path,
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    room: int,
    kept: int | None,
) -> None:
    """Of 3 MB the first checkpoint does not fit, the second, its end, the result's weights, or its tokenizer."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(disk)], capture_output=True))
    folder = disk / "out"
    config = str(recipe(**{**settings, "max_steps": 6, "output_dir": str(folder), "save_total_limit": None}))
    assert main(["run", "--config", config]) == 2
    assert re.search(r"hf-unlearn run: .*(disk is full)", capsys.readouterr().err)
    assert not (folder / "README.md").exists()
    assert not [path for path in folder.rglob("*") if path.name.endswith(".part")]
    assert last_checkpoint(folder) == (kept and str(folder / f"checkpoint-{kept}"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    assert main(["run", "--config", config]) == 0


def test_a_folder_that_cannot_be_written(
    settings: dict[str, Any],
    tmp_path: Path,
    recipe: Any,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    (tmp_path / "file").write_text("kept")
    read_only = tmp_path / "read_only"
    read_only.mkdir()
    # Permissions do not bind root, a mount does.
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(read_only)], capture_output=True)
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(read_only)], capture_output=True))
    if mounted.returncode:
        read_only.chmod(0o500)
    folders = [tmp_path / "file", tmp_path / "file" / "below"]
    if mounted.returncode == 0 or os.geteuid():
        folders.append(read_only / "out")
    for folder in folders:
        assert main(["run", "--config", str(recipe(**settings, output_dir=str(folder)))]) == 2
        assert re.search(r"hf-unlearn run: .+ name another", capsys.readouterr().err), folder
    assert (tmp_path / "file").read_text() == "kept"


GREEDY = """
import sys, torch
from hf_unlearn.training import trainer_data
from hf_unlearn.cli import main
# Any model is too large for this machine once its batches are.
class Greedy(trainer_data.PaddingCollator):
    def __call__(self, examples):
        batch = super().__call__(examples)
        if len(examples) >= int(sys.argv[1]):
            torch.empty(2**46)
        return batch
trainer_data.PaddingCollator = Greedy
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "said"), [(20, "--per_device_train_batch_size 10 --gradient_accumulation_steps 2")])
def test_too_little_memory(settings: dict[str, Any], tmp_path: Path, recipe: Any, batch: int, said: str) -> None:
    folder = tmp_path / "out"
    config = str(recipe(**{**settings, "output_dir": str(folder), "per_device_train_batch_size": batch}))
    done = python("-c", GREEDY, str(batch), "run", "--config", config)
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"Out of memory while training with per_device_train_batch_size={batch}" in done.stderr
    assert said in done.stderr
    smaller = ["--per_device_train_batch_size", "10", "--gradient_accumulation_steps", "2"]
    done = python("-c", GREEDY, str(batch), "run", "--config", config, *smaller, "--output_dir", str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr[-2000:]
    done = python("-c", GREEDY, "16", "run", "--config", config, *smaller, "--output_dir", str(tmp_path / "c"))
    assert done.returncode == 2
    assert "Out of memory while measuring with per_device_eval_batch_size=16; try --per_device_eval_batch_size 4" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("batch", "steps", "expected"), [(5, 2, (5, 2)), pytest.param(5, 1, (10, 1), marks=pytest.mark.slow)]
)
def test_the_reference_trains_in_the_smaller_pieces_of_the_run(
    settings: dict[str, Any], tmp_path: Path, recipe: Any, batch: int, steps: int, expected: tuple[int, int]
) -> None:
    more = {"max_steps": 1, "with_retrained": True, "output_dir": str(tmp_path / "out")}
    more |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    assert main(["run", "--config", str(recipe(**{**settings, **more}))]) == 0
    reference = tmp_path / "out" / "references" / "retrained-seed3"
    record = json.loads((reference / "training_record.json").read_text())["settings"]
    assert (record["per_device_train_batch_size"], record["gradient_accumulation_steps"]) == expected
