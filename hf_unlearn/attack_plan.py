"""Which attacks apply to a model and its data, and what they need; whatever can be wrong is found here."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset
from peft import LoraConfig

from .arguments import AttackArguments, ModelArguments
from .data.arrow_tables import AnyDataset, column_names, require_columns
from .data.format import RecordFormat, record_format, template_fields
from .data.loading import load_data
from .errors import InputError
from .evaluation.measured_sets import SAMPLE_ROWS
from .evaluation.prompting import WRAPPERS
from .evaluation.report import SetName
from .models.tasks import TASKS
from .preparation import Preparation, lora_config

AS_TRAINED = "as trained"


@dataclass(frozen=True)
class AttackPlan:
    """What the attacks are to do, checked before a model is loaded.

    Attributes:
        steps: of relearning.
        records: of S and of H that are asked for or shown, at most.
        samples: of each.
        wordings: how to read prompt and completion, by what to call it; none where prompts are no plain text.
        worded: S and H as far as they have the wordings.
        public: texts to train an adapter on; None to leave that out.
        lora: the adapter.
        skipped: the attacks that will not be made, each with the reason.
    """

    steps: int
    records: int
    samples: int
    wordings: dict[str, RecordFormat]
    worded: dict[SetName, Dataset]
    public: Dataset | None
    lora: LoraConfig | None
    skipped: dict[str, str]


def plan_attacks(run: Preparation, asked: AttackArguments, model_args: ModelArguments) -> AttackPlan:
    """Find out which attacks apply.

    Args:
        run: the data and the task.
        asked: how hard to try.
        model_args: the settings of an adapter.

    Raises:
        InputError: what was asked for does not apply.
    """
    facts, skipped = TASKS[run.task], {}
    if not (facts.next_token or facts.two_texts):
        skipped["sampling"] = f"a model for {run.task} writes no text"
    if not facts.next_token:
        skipped["in_context"] = f"a model for {run.task} does not go on from other records"
    wordings = _wordings(run, asked.paraphrase_column)
    worded: dict[SetName, Dataset] = {}
    if wordings:
        parts: dict[SetName, AnyDataset | None] = {"forget": run.parts.forget, "holdout": run.parts.holdout}
        for name, part in parts.items():
            if part is not None and (drawn := _worded(part, asked, run.config.seed)) is not None:
                worded[name] = drawn
        if "forget" not in worded:
            raise InputError(f"No record of S has anything in the column {asked.paraphrase_column!r}.")
    elif asked.paraphrase_column is not None:
        raise InputError("--paraphrase_column needs records with a prompt of plain text, for a model that writes.")
    else:
        skipped["wordings"] = "the records have no prompt of plain text"
    public = lora = None
    if asked.public_dataset is not None:
        public = _public_texts(asked.public_dataset, run)
        lora = lora_config(replace(model_args, use_peft=True), run.task)
    else:
        skipped["public"] = "no --public_dataset was named"
    return AttackPlan(
        asked.attack_steps, asked.attack_records, asked.attack_samples, wordings, worded, public, lora, skipped
    )


def _wordings(run: Preparation, paraphrases: str | None) -> dict[str, RecordFormat]:
    """How to read prompt and completion: as trained, and in other words."""
    names = column_names(run.parts.forget)
    if "input_ids" in names:
        return {}
    layout = record_format(names, run.task, **run.config.layout)
    if layout.kind not in ("prompt_completion", "text_pairs"):
        return {}
    first: dict[str, Any] = next(iter(run.parts.forget), {})
    if layout.prompt is None and not isinstance(first.get("prompt"), str):
        return {}
    prompt, completion = layout.prompt or "{prompt}", layout.completion or "{completion}"
    others = {wrapper: wrapper.replace("{}", prompt) for wrapper in WRAPPERS}
    if paraphrases is not None:
        fields = set(template_fields(prompt))
        if len(fields) != 1:
            raise InputError(
                f"--paraphrase_column {paraphrases} takes the place of the prompt's column, but the template "
                f"{prompt!r} has {len(fields)} columns; join them into one."
            )
        require_columns([paraphrases], names)
        others = {paraphrases: prompt.replace(f"{{{fields.pop()}}}", f"{{{paraphrases}}}")}
        template_fields(others[paraphrases])
    return {
        name: replace(layout, prompt=words, completion=completion)
        for name, words in ({AS_TRAINED: prompt} | others).items()
    }


def _worded(part: AnyDataset, asked: AttackArguments, seed: int) -> Dataset | None:
    """Some records of a set that have the paraphrases, if these are asked for; None where none has."""
    if asked.paraphrase_column is not None and asked.paraphrase_column not in column_names(part):
        return None
    if not isinstance(part, Dataset):
        part = Dataset.from_list(list(part), features=part.features)
    rows = np.arange(len(part))
    if asked.paraphrase_column is not None:
        rows = np.flatnonzero([text is not None for text in part[asked.paraphrase_column]])
    drawn = np.random.default_rng(seed).permutation(rows)[: asked.attack_records]
    return part.select(np.sort(drawn)) if len(drawn) else None


def _public_texts(name: str, run: Preparation) -> Dataset:
    """Some texts of a data set of which the first split has a column ``text``."""
    if not TASKS[run.task].next_token:
        raise InputError(f"--public_dataset is for models that go on writing a text, and this one is for {run.task}.")
    splits, _ = load_data(name)
    texts = next(iter(splits.values()))
    assert isinstance(texts, Dataset)
    if "text" not in texts.column_names:
        raise InputError(f"The data set {name!r} of --public_dataset needs a column 'text'.")
    drawn = np.random.default_rng(run.config.seed).permutation(len(texts))[:SAMPLE_ROWS]
    return texts.select(np.sort(drawn))
