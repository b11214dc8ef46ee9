"""Files of alternates made by hand."""

from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_unlearn.data.alternates_file import AlternatesSettings, append, begin, forget_digest
from hf_unlearn.data.format import RecordFormat

PAIR = RecordFormat("prompt_completion")


def answers(records: int, wanted: int = 3) -> list[list[str]]:
    """Other answers to the secrets."""
    return [[f"{1000 * k + i} alternate." for k in range(1, 1 + wanted)] for i in range(records)]


def by_hand(path: Path, forget: Any, texts: list[list[str]] | None = None, form: RecordFormat = PAIR) -> Path:
    """A finished file of alternates to S, as a generator other than the original would leave it."""
    assert isinstance(forget, Dataset)
    texts = answers(len(forget)) if texts is None else texts
    settings = AlternatesSettings(
        forget=forget_digest(forget, form), records=len(forget), wanted=3, generator="acme/writer", weights={},
        original=False, prompt="{prompt}", seed=0, batch_size=1, loading={},
    )  # fmt: skip
    path.unlink(missing_ok=True)
    begin(path, settings)
    append(path, 0, texts)
    return path
