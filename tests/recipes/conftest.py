"""Keeps the scripts of one recipe from being taken for those of another, as two of them are called prepare.py."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

RECIPES = str(Path(__file__).parents[2] / "recipes")


@pytest.fixture(autouse=True)
def _no_script_lingers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget_scripts()
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    forget_scripts()


def forget_scripts() -> None:
    """Take every module under recipes/ out of those that Python has loaded."""
    for name, module in list(sys.modules.items()):
        if str(vars(module).get("__file__")).startswith(RECIPES):
            del sys.modules[name]
