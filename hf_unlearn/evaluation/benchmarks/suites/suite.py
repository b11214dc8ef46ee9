"""What the suites share: their prompts to a model, its texts and likelihoods, and the report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ....data.encoding import PaddingCollator, added_tokens, padding_id
from ....errors import InputError
from ....files import load_json, save_json
from ....models.limits import positions
from ....models.loading import Model
from ....models.tasks import IGNORED, Task
from ....models.training_record import DataSource
from ...generation import generate
from ...report import ModelEntry
from ...scoring import score
from ...statistics import CONFIDENCE, Estimate, clustered_mean

SUITE_FILE = "suite_report.json"
SUITE_VERSION = 1
TASK: Task = "text-generation"
TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class SuiteScore:
    """One number of a suite.

    Attributes:
        name: what was asked and how it is measured.
        value: the number; None where it is not defined.
        low, high: its 95 % interval; None where one record, or one subject, gives none.
        records: that it rests on.
        subjects: persons or works, where they are the unit of sampling of the interval.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    records: int
    subjects: int | None = None

    @property
    def estimate(self) -> Estimate | None:
        if self.value is None or self.low is None or self.high is None:
            return None
        return Estimate(self.value, self.low, self.high, self.subjects or self.records)


@dataclass(frozen=True)
class SuiteReport:
    """``suite_report.json``: the numbers of a suite for each model. It has no text of the suite and no subject.

    Attributes:
        suite: its name.
        data: where its files came from.
        models: by what they are: original, unlearned, retrained.
        scores: of each model, in the same order.
        records: of each set at most; None for all.
        seed: of draws.
        prompts: ``ours`` or ``file``: whose words stand around the questions.
    """

    suite: str
    data: DataSource
    models: dict[str, ModelEntry]
    scores: dict[str, list[SuiteScore]]
    records: int | None
    seed: int
    prompts: str = "ours"
    software: dict[str, str] = field(default_factory=dict)
    schema_version: int = SUITE_VERSION

    def save(self, path: Path) -> None:
        """Write the report, all of it or nothing."""
        save_json(self, path)

    @classmethod
    def load(cls, path: Path) -> "SuiteReport":
        """Read a report; raises InputError when there is none or it is of another version."""
        return load_json(cls, path, "suite report", SUITE_VERSION)


class Suite(Protocol):
    """A suite whose files are read."""

    def measure(self, reader: "Reader") -> Any:
        """What a model makes of every record."""

    def scores(self, measured: Any, retrained: Any | None) -> list[SuiteScore]:
        """The numbers of a model; ``retrained`` is the same of a model that never saw S, None without one."""


@dataclass(frozen=True)
class Values:
    """One measure of every record of a set.

    Attributes:
        name: of the number.
        values: shape (records,).
        subjects: the person or work that each record is about, shape (records,); None where nobody knows.
        share: whether the values lie from 0 to 1.
    """

    name: str
    values: np.ndarray
    subjects: np.ndarray | None = None
    share: bool = True

    def summary(self) -> SuiteScore:
        """The mean of all records; subjects are the unit of sampling."""
        found = clustered_mean(self.values, self.subjects)
        if self.share and found.n > 1:
            # Where all are alike there is no variance, yet the next record may differ.
            half = found.high - found.value or 1 - TAIL ** (1 / found.n)
            found = Estimate(found.value, max(found.value - half, 0.0), min(found.value + half, 1.0), found.n)
        return as_score(self.name, found, len(self.values), self.subjects)

    def within(self, chosen: np.ndarray, name: str) -> "Values":
        """Those of some records, where ``chosen`` is True."""
        return replace(
            self,
            name=name,
            values=self.values[chosen],
            subjects=None if self.subjects is None else self.subjects[chosen],
        )


def as_score(name: str, found: Estimate, records: int, subjects: np.ndarray | None = None) -> SuiteScore:
    """An estimate as a number of the report, without an interval where there is no variance to make one of."""
    units = None if subjects is None else len(np.unique(subjects))
    if (units or records) < 2 or not math.isfinite(found.high - found.low):
        return SuiteScore(name, found.value, None, None, records, units)
    return SuiteScore(name, found.value, found.low, found.high, records, units)


@dataclass(frozen=True)
class Reader:
    """A model that reads prompts.

    Attributes:
        model, tokenizer: a causal language model.
        batch_size: sequences in a forward pass.
        seed: of draws.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    seed: int

    def ids(self, text: str) -> list[int]:
        """The tokens of a text that goes on: with those that the tokenizer puts before it, without one after it."""
        # Its length is checked where the model is known.
        ids = list(self.tokenizer(text, verbose=False)["input_ids"])
        return ids[:-1] if ids and added_tokens(self.tokenizer)[1] == ids[-1] else ids

    def asked(self, text: str, begun: str = "") -> list[int]:
        """The tokens of a user's turn in the model's chat template, or of the plain text without one.

        Args:
            text: what the user says.
            begun: how the answer begins.
        """
        if self.tokenizer.chat_template is None:
            return self.ids(text + begun)
        turn = [{"role": "user", "content": text}]
        shown = str(self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        # The template writes BOS itself.
        return list(self.tokenizer(shown + begun, add_special_tokens=False, verbose=False)["input_ids"])

    def answers(self, prompts: Sequence[list[int]], new_tokens: int) -> list[str]:
        """What the model writes after each prompt, greedily, without special tokens.

        Raises:
            InputError: a prompt with its answer is longer than the model can read.
        """
        self._check_lengths([len(prompt) + new_tokens for prompt in prompts])
        # The generation continues a record from its first labelled token, whichever that is.
        label = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        examples = Dataset.from_dict(
            {
                "input_ids": [[*prompt, label] for prompt in prompts],
                "attention_mask": [[1] * (len(prompt) + 1) for prompt in prompts],
                "labels": [[IGNORED] * len(prompt) + [label] for prompt in prompts],
                "row": list(range(len(prompts))),
            }
        )
        written = generate(
            self.model, examples, self.tokenizer, task=TASK, batch_size=self.batch_size, prefixes=(0,),
            new_tokens=new_tokens,
        )  # fmt: skip
        return [str(self.tokenizer.decode(one.written, skip_special_tokens=True)) for one in written]

    def scored(self, prompts: Sequence[list[int]], wholes: Sequence[list[int]]) -> pa.Table:
        """The likelihood of texts after their prompts, as :func:`~hf_unlearn.evaluation.scoring.score` gives it.

        Args:
            prompts: tokens that are read only; empty for a text without a prompt.
            wholes: tokens of each prompt with its text. A token that reaches over the border counts for the text.

        Raises:
            InputError: a text is longer than the model can read, has no token to predict, or no finite likelihood.
        """
        self._check_lengths([len(whole) for whole in wholes])
        read = [max(1, _common(prompt, whole)) for prompt, whole in zip(prompts, wholes, strict=True)]
        if any(first >= len(whole) for first, whole in zip(read, wholes, strict=True)):
            raise InputError("A text of the suite has no token that the model could predict; check its files.")
        examples = Dataset.from_dict(
            {
                "input_ids": list(wholes),
                "attention_mask": [[1] * len(whole) for whole in wholes],
                "labels": [[IGNORED] * first + list(whole[first:]) for first, whole in zip(read, wholes, strict=True)],
                "row": list(range(len(wholes))),
            }
        )
        collator = PaddingCollator(padding_id(self.tokenizer, self.model.config))
        return score(self.model, examples, collator, task=TASK, batch_size=self.batch_size)

    def _check_lengths(self, lengths: Sequence[int]) -> None:
        limit = positions(self.model.config)
        if too_long := sum(length > limit for length in lengths):
            raise InputError(
                f"{too_long:,} of {len(lengths):,} texts of the suite have more than the {limit:,} tokens that the "
                f"model reads (up to {max(lengths):,}); nothing is cut here, so use a model that reads more."
            )


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    length = min(len(left), len(right))
    return next((i for i in range(length) if left[i] != right[i]), length)
