"""A language model that knows its records by heart, for attacks that only ask it."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(lm_by_heart: Path) -> Any:
    return AutoTokenizer.from_pretrained(lm_by_heart)


@pytest.fixture(scope="module")
def by_heart(lm_by_heart: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm_by_heart).eval()
