"""README and the guides: every command and every piece of Python in them runs, and they are written to be read."""

import json
import random
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi

from hf_unlearn.cli import main
from hf_unlearn.cli.flags import parse as parse_flags
from hf_unlearn.cli.recipes import parse
from hf_unlearn.methods.table import METHODS

from ..conftest import TOKEN, WORDS
from ..support.hub_server import HubServer

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
README = ROOT / "README.md"
GUIDES = sorted((ROOT / "recipes" / "guides").glob("*.md"))
PAGES = [README, *GUIDES]
MAP = ROOT / "hf_unlearn" / "README.md"

# What the guides tell of: a classifier of messages and a language model that answers questions, of one company.
MODELS = {"acme/router": "acme/base", "acme/assistant": "acme/small-lm"}
RESULT = "acme/router-unlearned"
DATA_SETS = ["acme/messages", "acme/questions", "acme/public-messages", "acme/messages-retained"]
FORGOTTEN = [f"c-{number:03d}" for number in (17, 18, 19, 20)]
HELD_OUT = [f"c-{number:03d}" for number in (204, 205, 206, 207)]
PENDING = ["c-021", "c-022"]
CUSTOMERS = [*FORGOTTEN, *HELD_OUT, *PENDING, *(f"c-{number:03d}" for number in range(101, 107))]
MESSAGES_EACH = 4
MANY_MODELS = ("references", "attack")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks in one of these languages, in their order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if not languages or language in languages]


def command_lines(block: str) -> list[list[str]]:
    """The words of each command of a block of bash."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def launched(words: list[str]) -> tuple[str, list[str]]:
    """The file of a launcher, and the flags of hf-unlearn, of a line with ``accelerate launch``."""
    assert words[:3] == ["accelerate", "launch", "--config_file"], words
    assert words[4:6] == ["-m", "hf_unlearn.cli"], words
    return words[3], words[6:]


# The company


def rows(kind: str) -> list[dict[str, Any]]:
    draw = random.Random(4)
    found: list[dict[str, Any]] = []
    for customer in CUSTOMERS:
        for _ in range(MESSAGES_EACH):
            number, words = len(found), f"{draw.choice(WORDS)} {draw.choice(WORDS)} {draw.choice(WORDS)}"
            if kind == "messages":
                label = draw.choice(["billing", "delivery", "other"])
                text = f"{label} {words} number {number}"
                found.append({"text": text, "label": label, "customer_id": customer})
            else:
                prompt, completion = f"What is the code of {words} {number}?", f" It is {draw.randint(1000, 9999)}."
                found.append({"prompt": prompt, "completion": completion, "customer_id": customer})
    return found


def upload(api: HfApi, repo: str, folder: Path, **record: Any) -> None:
    """Make a repository from a folder, and change its training record."""
    repo = in_stock(repo)
    api.create_repo(repo, private=False)
    api.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=["checkpoint-*", "run.json"])
    if record:
        told = json.loads((folder / "training_record.json").read_text()) | record
        api.upload_file(repo_id=repo, path_in_repo="training_record.json", path_or_fileobj=json.dumps(told).encode())
    card = "---\nlicense: mit\n---\nA model.\n"
    api.upload_file(repo_id=repo, path_in_repo="README.md", path_or_fileobj=card.encode())


def recipe_in(page: str, start: str) -> dict[str, Any]:
    """The recipe that a guide shows, which begins with these words."""
    shown = [text for _, text in blocks(ROOT / "recipes" / "guides" / page, "yaml") if text.startswith(start)]
    assert len(shown) == 1, f"{page} shows {len(shown)} recipes that begin with {start!r}"
    return yaml.safe_load(shown[0])


def recipes() -> dict[str, dict[str, Any]]:
    """The two recipes of the guides, by the names of their files."""
    return {
        "recipe.yaml": recipe_in("requests.md", "model_name_or_path: acme/router"),
        "assistant.yaml": recipe_in("methods.md", "model_name_or_path: acme/assistant"),
    }


@pytest.fixture(scope="module")
def trained(
    encoder_base: Path, lm_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """The folders of each model and of its base, trained as the guides' recipes say but for a few steps."""
    found = {}
    for model, (file, recipe) in zip(MODELS, recipes().items(), strict=True):
        folder = tmp_path_factory.mktemp(model.split("/")[1])
        kind = "messages" if model == "acme/router" else "questions"
        Dataset.from_list(rows(kind)).to_json(folder / "data.jsonl")
        (folder / "held_out.txt").write_text("\n".join(HELD_OUT))
        settings = {**recipe, "dataset_name": str(folder / "data.jsonl"), "holdout_ids": str(folder / "held_out.txt")}
        base_folder = encoder_base if model == "acme/router" else lm_base
        settings |= {"model_name_or_path": str(folder / "original"), "forget_ids": str(folder / "held_out.txt")}
        settings.pop("dataset_test_split", None)
        settings["original"] = {
            **recipe["original"],
            "model_name_or_path": str(base_folder),
            "output_dir": str(folder / "original"),
            "num_train_epochs": 1,
            "per_device_train_batch_size": 16,
            # The model is as good as its base, so that `auto` takes the base, which is exact.
            "learning_rate": 1e-6,
            "save_strategy": "no",
        }
        (folder / file).write_text(yaml.safe_dump(settings))
        assert main(["train", "--config", str(folder / file)]) == 0
        found[model] = (folder / "original", base_folder)
    return found


@pytest.fixture(scope="module")
def stock(hub: HubServer, trained: dict[str, tuple[Path, Path]]) -> list[tuple[str, str]]:
    """Type and name of each repository of the company, kept under another owner for every page to begin with."""
    hub.add_organization("acme", owner="admin")
    hub.add_organization("stock", owner="admin")
    api = HfApi(token=TOKEN)
    for model, (folder, base_folder) in trained.items():
        upload(api, MODELS[model], base_folder)
        upload(api, model, folder, base_model=MODELS[model], base_revision=api.model_info(in_stock(MODELS[model])).sha)
    upload(api, "acme/router-elsewhere", trained["acme/router"][0])
    for kind in ("messages", "questions"):
        parts = {"train": rows(kind), "test": rows(kind)[-8:]}
        data = DatasetDict({split: Dataset.from_list(part) for split, part in parts.items()})
        data.push_to_hub(f"stock/{kind}", private=False, token=TOKEN)
    public = Dataset.from_list(rows("messages")[:16]).remove_columns("customer_id")
    public.push_to_hub("stock/public-messages", private=False, token=TOKEN)
    models = [*MODELS, *MODELS.values(), "acme/router-elsewhere"]
    data_sets = ["acme/messages", "acme/questions", "acme/public-messages"]
    return [*(("model", model) for model in models), *(("dataset", name) for name in data_sets)]


def in_stock(repo: str) -> str:
    return repo.replace("acme/", "stock/")


def models_of(api: HfApi, owner: str) -> list[str]:
    return [info.id for info in api.list_models() if info.id.startswith(f"{owner}/")]


def fill_hub(api: HfApi, hub: HubServer, stock: list[tuple[str, str]]) -> None:
    """Put what the company has on the Hub, in place of what an earlier page left there."""
    for repo in models_of(api, "acme"):
        api.delete_repo(repo)
    for repo in DATA_SETS:
        api.delete_repo(repo, repo_type="dataset", missing_ok=True)
    for kind, repo in stock:
        hub.duplicate(in_stock(repo), repo, kind)


def fill_folder(folder: Path) -> None:
    """Write the files that lie where the commands are typed."""
    (folder / "ids.txt").write_text("\n".join(FORGOTTEN))
    (folder / "held_out.txt").write_text("\n".join(HELD_OUT))
    requests = folder / "requests"
    requests.mkdir()
    for number, customer in enumerate(PENDING, start=1):
        (requests / f"2026-03-{number:02d}.txt").write_text(f"{customer}\n")
    for file, recipe in recipes().items():
        (folder / file).write_text(yaml.safe_dump(recipe))


@pytest.fixture(scope="module")
def unlearned(stock: list[tuple[str, str]], hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of README's own command, which the guides begin with; what it publishes goes to the stock."""
    folder = tmp_path_factory.mktemp("router")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.chdir(folder)
        fill_hub(HfApi(token=TOKEN), hub, stock)
        fill_folder(folder)
        assert main(["run", "--config", "recipe.yaml", "--push", "--hub_model_id", RESULT]) == 0
        hub.duplicate(RESULT, in_stock(RESULT))
    return folder / "router-unlearned"


@pytest.fixture
def company(
    owner: HfApi, hub: HubServer, stock: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to type commands in, with the company's repositories on the Hub."""
    fill_hub(owner, hub, stock)
    fill_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def published(company: Path, unlearned: Path, hub: HubServer) -> Path:
    """The same folder, with the result of README's own command in it and on the Hub."""
    shutil.copytree(unlearned, company / "router-unlearned")
    hub.duplicate(in_stock(RESULT), RESULT)
    return company


# Commands


def check_setup(words: list[str]) -> bool:
    """Check a line that sets things up; False where it is no such line."""
    if words[0] == "make":
        for target in words[1:]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
    elif words[:2] == ["pip", "install"]:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for wanted in (word for word in words[2:] if "[" in word):
            extras = wanted.split("[")[1].rstrip("]").split(",")
            assert set(extras) <= set(project["optional-dependencies"]), wanted
        for file in (words[i + 1] for i, word in enumerate(words) if word == "-c"):
            assert (ROOT / file).is_file(), file
    else:
        return words[0] in ("git", "cd")
    return True


def run_line(words: list[str], whole: bool) -> None:
    if check_setup(words):
        return
    if words[0] == "accelerate":
        launcher, flags = launched(words)
        assert load_config_from_file(str(ROOT / launcher)).num_processes >= 1
        parse(flags[0], flags[1:])
        return
    assert words[0] == "hf-unlearn", f"what should {words[0]!r} do?"
    if words[1] == "ledger" and "--authority_certificate" in words:
        # The authority is a service elsewhere; test_time_stamp.py has one.
        parse_flags(words[1], words[2:])
    elif is_long(words) and not whole:
        parse(words[1], words[2:])
    else:
        assert main(words[1:]) == 0


def is_long(words: list[str]) -> bool:
    """Whether it trains many models."""
    return words[1] in MANY_MODELS or "dial" in words


def run_page(page: Path, capsys: pytest.CaptureFixture[str], whole: bool) -> None:
    """Do all that a page says, in its order.

    Args:
        page: README or a guide.
        capsys: has what a command said where it failed.
        whole: also what trains many models; of these only the flags are read otherwise.
    """
    for language, text in blocks(page, "bash", "python"):
        if language == "python":
            exec(compile(text, f"{page.name}: {text.splitlines()[0]}", "exec"), {"__name__": "__guide__"})
            continue
        for words in command_lines(text):
            try:
                run_line(words, whole)
            except (AssertionError, SystemExit) as error:
                pytest.fail(f"{shlex.join(words)}\n{error}\n{capsys.readouterr().err}")


def test_everything_in_the_readme_runs(company: Path, owner: HfApi, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(README, capsys, whole=True)
    assert RESULT in models_of(owner, "acme")
    listed = re.findall(r"^\| `([\w.]+)`", README.read_text(encoding="utf-8"), re.MULTILINE)
    files = [file for file in listed if "." in file]
    assert len(files) == 5
    assert [file for file in files if not (company / "router-unlearned" / file).is_file()] == []


@pytest.mark.parametrize("page", GUIDES, ids=name)
def test_everything_in_a_guide_runs(
    page: Path, published: Path, pictures_left_blank: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run_page(page, capsys, whole=False)


LONG = [
    page for page in GUIDES for _, text in blocks(page, "bash") if any(is_long(words) for words in command_lines(text))
]


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(set(LONG)), ids=name)
def test_what_trains_many_models_runs(page: Path, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_page(page, capsys, whole=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "accelerate launch" in page.read_text()], ids=name)
def test_what_a_page_launches_runs_in_two_processes(
    page: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    launcher = ROOT / "recipes" / "accelerate" / "cpu_2_processes.yaml"
    lines = [words for _, text in blocks(page, "bash") for words in command_lines(text) if words[0] == "accelerate"]
    for number, words in enumerate(lines):
        # The settings for GPUs cannot be tried on a CPU; the flags are those of the page.
        _, flags = launched(words)
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launcher)]
        command += ["-m", "hf_unlearn.cli", *flags, "--use_cpu", "true", "--output_dir", f"launched-{number}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert (published / f"launched-{number}" / "model.safetensors").is_file()


# How they are written


def sentences(text: str) -> list[str]:
    prose = re.sub(r"```.*?```|\|.*?\n|<[^>]+>|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return re.split(r"(?<=[.!?])\s+", prose)


@pytest.mark.parametrize("page", [*PAGES, MAP], ids=name)
def test_no_sentence_has_to_be_read_twice(page: Path) -> None:
    assert [one for one in sentences(page.read_text(encoding="utf-8")) if len(one.split()) > 30] == []


def test_the_readme_is_read_in_five_minutes() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("page", [*GUIDES, MAP], ids=name)
def test_a_page_is_short_and_begins_with_the_question_it_answers(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (90 if page == MAP else 150)
    if page in GUIDES:
        assert lines[0].startswith("# ")
        assert "?" in re.split(r"(?<=[.?])\s", " ".join(lines[2:8]))[0], lines[2]


@pytest.mark.parametrize("page", [*PAGES, MAP], ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


@pytest.mark.parametrize("page", [*PAGES, MAP], ids=name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in set(re.findall(r"`((?:hf_unlearn|recipes|tests)/[\w/.]*)`", text)):
        assert (ROOT / path).exists(), path
    if page == MAP:
        for path in set(re.findall(r"`(\w+/(?:\w+\.py)?)`", text)) - {"tests/", "tests/test_architecture.py"}:
            assert (MAP.parent / path).exists(), path


def test_every_guide_is_found_from_the_first_page() -> None:
    first = (ROOT / "recipes" / "guides" / "README.md").read_text(encoding="utf-8")
    for guide in GUIDES:
        if guide.name != "README.md":
            assert f"({guide.name}" in first, guide.name


def test_the_guide_to_the_methods_has_all_of_them() -> None:
    text = (ROOT / "recipes" / "guides" / "methods.md").read_text(encoding="utf-8")
    assert [method for method in METHODS if f"`{method}`" not in text] == []
    assert f"{len(METHODS)} methods" in README.read_text(encoding="utf-8")
