"""What a run knows of its model is looked up once, and handed on."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_unlearn.cli import main
from hf_unlearn.jobs import preparation
from hf_unlearn.models.training_record import load_record
from hf_unlearn.training import lineage, trainer

pytestmark = pytest.mark.usefixtures("pictures_left_blank")

Lookups = Counter[tuple[str, str]]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Lookups:
    """How often a record and a base are looked for, by what and by the model's folder."""
    found: Lookups = Counter()

    def counted(what: str, find: Callable[..., Any], source: Any, *args: Any) -> Any:
        found[what, source.name] += 1
        return find(source, *args)

    monkeypatch.setattr(lineage, "find_base", partial(counted, "base", lineage.find_base))
    for module in (preparation, trainer):
        monkeypatch.setattr(module, "load_record", partial(counted, "record", load_record))
    return found


@pytest.fixture
def command(lm_settings: dict[str, Any], recipe: Callable[..., Path], tmp_path: Path) -> Callable[..., int]:
    short = {"max_steps": 2, "measure_steps": 0, "use_cpu": True, "disable_tqdm": True}
    settings = {name: value for name, value in lm_settings.items() if name != "budget"}

    def run(name: str, method: str, *flags: str) -> int:
        config = recipe(**{**settings, **short, "method": method, "output_dir": str(tmp_path / method)})
        return main([name, "--config", str(config), *flags])

    return run


@pytest.mark.parametrize("method", ["base", "auto", "dial"])
def test_a_run_looks_for_record_and_base_once(
    command: Callable[..., int], lookups: Lookups, lm_original: Path, method: str
) -> None:
    assert command("run", method) == 0
    assert lookups == {("record", str(lm_original)): 1, ("base", str(lm_original)): 1}


def test_references_take_both_from_the_run(command: Callable[..., int], lookups: Lookups, lm_original: Path) -> None:
    assert command("references", "toward_base", "--seeds", "2", "--arms", "same_budget", "unlearned") == 0
    assert (lookups["record", str(lm_original)], lookups["base", str(lm_original)]) == (1, 1)
