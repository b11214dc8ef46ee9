"""``hf-unlearn init``: a first recipe, from what the model and the data set are, with held-out records like S."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value

from ...data.arrow_tables import column_names, listed
from ...data.copies.exact import texts_of
from ...data.format import RecordFormat, record_format
from ...data.holdout import Likeness, choose_holdout
from ...data.loading import load_data, pick_split
from ...data.request.records import Records
from ...data.request.selection import Selection, select_rows
from ...errors import InputError
from ...evaluation.blind_baseline import blind_baseline
from ...files import require_plain, write_text, written_privately, written_whole
from ...models.loading import source_task
from ...models.location import locate
from ...models.tasks import TASKS, Task
from ...models.training_record import load_record
from ..console import plain, terminal

MOST_CLASSES = 50
LOOKED_AT = 1000


@dataclass(frozen=True)
class _Asked:
    """What was given as flags, or asked for."""

    model: str
    data: str
    column: str
    ids: Path


def init(**given: Any) -> None:
    """Look at a model, a data set and a request, choose held-out records, and write a recipe.

    Args:
        given: the flags by name; what is missing is asked for where somebody can answer.

    Raises:
        InputError: something is missing or does not fit together, or a file is there already.
    """
    out, recipe, seed = terminal(), given["recipe"], 42
    holdout_file = recipe.with_name(f"{recipe.stem}_holdout.parquet")
    for path in (recipe, holdout_file):
        require_plain(path)
        if path.exists():
            raise InputError(f"{path} is there already; name another recipe with --recipe, or delete it.")
    model = _ask(given, "model_name_or_path", "Which model shall forget? A folder, or a Hub id")
    source = locate(model)
    task = source_task(source, given["task"])
    record = load_record(source)
    out.print(f"The model is for {task}.")
    name = _ask(given, "dataset_name", "Which data was it trained on? A Hub id, a folder or a file")
    data, _ = load_data(name, config=given["dataset_config"])
    split = given["dataset_train_split"]
    trained = pick_split(data, split, "dataset_train_split")
    assert isinstance(trained, Dataset)
    columns = column_names(trained)
    out.print(f"The split {plain(split)} has {len(trained):,} rows with the columns {plain(listed(columns))}.")
    column = _ask(given, "forget_id_column", "Which column holds the ids (of customers, authors or records)?")
    ids = _ids_file(_ask(given, "forget_ids", "Which file has the ids to forget, one a line?"), recipe)
    chosen = _Asked(model, name, column, ids)
    rows = _rows_to_forget(trained, chosen)
    out.print(f"{len(rows):,} of its rows are to be forgotten.")
    layout = _layout(trained, task, given, column)
    form = record_format(columns, task, **layout)
    unseen = _unseen(given, list(data), split)
    candidates = _candidates(unseen, data) if unseen else None
    found = None
    if candidates is not None:
        label = form.label if TASKS[task].classes and form.kind == "classification" else None
        found = choose_holdout(
            candidates, trained, rows, texts=form.text_columns, label=label, group=_group(trained, column), seed=seed
        )
        for sentence in _likeness(found, candidates, trained, rows, form, column, seed):
            out.print(sentence)
    if found is not None and candidates is not None:
        with written_whole(holdout_file, 0o600) as temporary:
            candidates.select(found.rows).to_parquet(str(temporary))
    base = given["base_model_name_or_path"] or (record.base_model if record is not None else None)
    text = _recipe(chosen, given, layout, base, holdout_file if found is not None else None, len(rows))
    write_text(recipe, text)
    out.print(f"\nThe recipe is in {plain(recipe)}. Next:\n\n  hf-unlearn run --config {plain(recipe)}\n")


def _ask(given: dict[str, Any], flag: str, question: str) -> str:
    """What a flag says, or the answer to a question where somebody can give one."""
    if given[flag] is not None:
        return str(given[flag])
    if not sys.stdin.isatty():
        raise InputError(f"{question.rstrip('?')}? Name it with --{flag}.")
    answer = input(f"{question}: ").strip()
    if not answer:
        raise InputError(f"Nothing was answered; name it with --{flag}.")
    return answer


def _ids_file(named: str, recipe: Path) -> Path:
    """The file of ids; those of standard input go to a private file beside the recipe."""
    if named != "-":
        return Path(named)
    path = recipe.with_name(f"{recipe.stem}_ids.txt")
    if path.exists():
        raise InputError(f"{path} is there already; delete it, or name it with --forget_ids.")
    text = sys.stdin.read()
    if not text.strip():
        raise InputError("There are no ids on standard input; give one a line.")
    with written_privately(path) as file:
        file.write(text if text.endswith("\n") else f"{text}\n")
    return path


def _rows_to_forget(trained: Dataset, asked: _Asked) -> np.ndarray:
    selection = Selection(Records.ids_from_file(asked.column, asked.ids), "The request", trained)
    select_rows(trained, [selection])
    selection.check(False, trained)
    rows = np.flatnonzero(selection.mask())
    if len(rows) == len(trained):
        raise InputError("The request names every row, so nothing is left to train on; name fewer ids.")
    return rows


# What the model reads


def _layout(trained: Dataset, task: Task, given: dict[str, Any], ids: str) -> dict[str, Any]:
    """The columns of text and class: as given, of their usual names, or the only ones that can be meant."""
    columns, layout = trained.column_names, {}
    text, label = given["dataset_text_field"], given["dataset_label_field"]
    paired = {"prompt", "completion"} <= set(columns) or "messages" in columns
    if text is not None:
        layout["text_field"] = text
    elif not ("text" in columns or "tokens" in columns or (paired and not TASKS[task].classes)):
        layout["text_field"] = _longest(trained, ids)
    if label is not None:
        layout["label_field"] = label
    elif TASKS[task].classes and not {"label", "ner_tags"} & set(columns):
        layout["label_field"] = _classes(trained, {ids, layout.get("text_field", "text")})
    return layout


def _longest(trained: Dataset, ids: str) -> str:
    """The column of strings with the longest texts."""
    first = trained.select(range(min(LOOKED_AT, len(trained))))
    strings = [n for n, f in trained.features.items() if isinstance(f, Value) and "string" in f.dtype and n != ids]
    if not strings:
        raise InputError(f"No column holds text; the columns are {listed(trained.column_names)}.")
    return max(strings, key=lambda name: sum(len(text or "") for text in first[name]))


def _classes(trained: Dataset, others: set[str]) -> str:
    """The only column that can be one of classes; raises InputError where there are none or several."""
    first = trained.select(range(min(LOOKED_AT, len(trained))))
    labels = [name for name, kind in trained.features.items() if isinstance(kind, ClassLabel)]
    few = [
        name
        for name, kind in trained.features.items()
        if isinstance(kind, Value) and name not in others and 1 < len(set(first[name])) <= MOST_CLASSES
    ]
    if len(found := labels or few) != 1:
        what = f"it may be {listed(found)}" if found else f"the columns are {listed(trained.column_names)}"
        raise InputError(f"Which column holds the class? Name it with --dataset_label_field; {what}.")
    return found[0]


def _group(trained: Dataset, column: str) -> str | None:
    """The column of ids where these repeat, so that they say whose a record is."""
    return column if len(set(trained[column])) < len(trained) else None


# The held-out records


def _unseen(given: dict[str, Any], splits: list[str], trained: str) -> tuple[str, str] | None:
    """The flag and the name of what no model saw; None where nobody names it."""
    named = [(flag, given[flag]) for flag in ("holdout_split", "holdout_dataset") if given[flag] is not None]
    if len(named) > 1:
        raise InputError("Held-out records come from one place; give --holdout_split or --holdout_dataset.")
    if named:
        return named[0]
    others = [name for name in splits if name != trained]
    if not others or not sys.stdin.isatty():
        return None
    answer = input(f"Which split did the model never see: {', '.join(others)}? (empty: none) ").strip()
    return ("holdout_split", answer) if answer else None


def _candidates(unseen: tuple[str, str], data: Any) -> Dataset:
    flag, name = unseen
    found = pick_split(data, name, flag) if flag == "holdout_split" else next(iter(load_data(name)[0].values()))
    assert isinstance(found, Dataset)
    return found


def _likeness(
    found: Likeness | None,
    candidates: Dataset,
    trained: Dataset,
    rows: np.ndarray,
    form: RecordFormat,
    column: str,
    seed: int,
) -> list[str]:
    """What was chosen and how good it is, in sentences."""
    if found is None:
        return ["All of these records have an id or a text that the model saw, so none can be held out."]
    told = [f"{len(found.rows):,} of {len(candidates):,} unseen records are held out (H)."]
    if found.known_groups:
        told.append(f"{found.known_groups:,} were left out, because the model saw other records of the same ids.")
    if found.known_texts:
        told.append(f"{found.known_texts:,} were left out, because the model saw their text.")
    told.append(
        f"{found.matched:.0%} of the records to forget (S) have one of their label and length in H. The median length "
        f"is {found.lengths[0]:,.0f} characters in S and {found.lengths[1]:,.0f} in H."
    )
    chosen = candidates.select(found.rows)
    texts, of_chosen = (
        [text or "" for text in texts_of(part, form.text_columns).to_pylist()]
        for part in (trained.select(rows), chosen)
    )
    blind = blind_baseline(texts, of_chosen, _groups(trained.select(rows), chosen, column), seed=seed)
    if blind is None:
        return [*told, "There are too few records to say whether their texts tell S from H."]
    auc = f"their texts alone tell S from H with an AUC of {blind.auc.value:.2f} (0.5 is chance)"
    if blind.separable:
        return [*told, f"H is not like S: {auc}. The verdict may be undecided; --with_retrained helps then."]
    return [*told, f"H is like S: {auc}."]


def _groups(forget: Dataset, holdout: Dataset, column: str) -> tuple[np.ndarray, np.ndarray] | None:
    if column not in holdout.column_names:
        return None
    of_forget, of_holdout = ([str(value) for value in part[column]] for part in (forget, holdout))
    repeated = len(set(of_forget)) < len(of_forget) or len(set(of_holdout)) < len(of_holdout)
    return (np.array(of_forget), np.array(of_holdout)) if repeated else None


# The recipe


def _recipe(
    asked: _Asked, given: dict[str, Any], layout: dict[str, Any], base: Any, holdout: Path | None, rows: int
) -> str:
    """The recipe, with a comment above each part."""
    data = {"dataset_name": asked.data, "dataset_config": given["dataset_config"]}
    data |= {"dataset_train_split": given["dataset_train_split"]}
    data |= {f"dataset_{name}": value for name, value in layout.items()}
    parts: list[tuple[str, dict[str, Any]]] = [
        ("The model that shall forget.", {"model_name_or_path": asked.model, "task": given["task"]}),
        ("The data it was trained on (D).", data),
        (
            f"The records to forget (S): {rows:,} rows. The file of ids stays with you.",
            {"forget_id_column": asked.column, "forget_ids": str(asked.ids)},
        ),
    ]
    if holdout is not None:
        about = "Records like these that the model never saw (H). The verdict compares S with them."
        parts.append((about, {"holdout_dataset": str(holdout)}))
    else:
        parts.append(
            (
                "Without records that the model never saw the verdict is exact or undecided. Name some where you have "
                "them:\n# holdout_split: test",
                {},
            )
        )
    if given["base_model_name_or_path"] is not None:
        parts.append(("The model that it was fine-tuned from.", {"base_model_name_or_path": base}))
    elif base is None:
        parts.append(
            (
                "With the model that it was fine-tuned from, the run is exact:\n# base_model_name_or_path: owner/name",
                {},
            )
        )
    folder = given["output_dir"] or f"{os.path.basename(os.path.normpath(asked.model))}-unlearned"
    parts.append(("Where the unlearned model and its report go.", {"output_dir": folder}))
    parts.append(("auto chooses how; `hf-unlearn methods` lists the others.", {"method": "auto"}))
    lines = []
    for about, values in parts:
        lines.append(f"# {about}")
        lines += [
            f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None
        ]
        lines.append("")
    return "\n".join(lines)
