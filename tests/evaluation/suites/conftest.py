"""Two small models for the suites."""

from pathlib import Path

import pytest

from ...support.suites import reading_far


@pytest.fixture(scope="session")
def unlearned(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading_far(lm_base, tmp_path_factory.mktemp("unlearned"), 1)


@pytest.fixture(scope="session")
def retrained(lm_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reading_far(lm_base, tmp_path_factory.mktemp("retrained"), 2)
