"""Cases of which a few run by default and all of them under ``slow``."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def seeds(many: int = 100, few: int = 20) -> list[Any]:
    """So many seeds; those after the first few are slow."""
    return few_of(range(many), range(few))


def few_of(cases: Iterable[Any], few: Container[Any]) -> list[Any]:
    """All cases, with those that are not among the few marked as slow; a tuple holds the values of one case."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if case in few else pytest.mark.slow)
        for case in cases
    ]
