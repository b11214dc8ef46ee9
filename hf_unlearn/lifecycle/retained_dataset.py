"""Publishing the retained data: a data set without the records that the ledger of a model names as forgotten."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    get_dataset_config_names,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ..data.loading import load_data, pick_split
from ..data.request.digest_selector import Digested
from ..data.request.records import Records
from ..data.request.selection import Selection, select_rows, take_rows
from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..hub_access import publishing_errors
from ..models.location import ModelSource
from ..publishing.card import CARD_FILE
from ..publishing.ledger import LEDGER_FILE
from ..publishing.ledger_of_model import forgotten_before, ledger_key, ledger_of
from ..publishing.publish import files_of, require_writable
from ..publishing.templating import environment

HEADING = "## Records taken out on request"


@dataclass(frozen=True)
class RetainedData:
    """A data set without the forgotten records.

    Attributes:
        splits: all of them.
        trained: the split that was trained on; records were taken out of this one only.
        config: the configuration.
        origin: its name on the Hub, None for one on disk.
        forgotten: the records that were taken out.
        removed: how many.
        elsewhere: how many of them the other splits have.
        runs: of unlearning.
    """

    splits: DatasetDict
    trained: str
    config: str
    origin: str | None
    forgotten: Records
    removed: int
    elsewhere: int
    runs: int

    @property
    def card(self) -> str:
        """The section about it for the data set's card."""
        rows = len(self.splits[self.trained]) + self.removed
        values = {"split": self.trained, "rows": rows, "name": self.origin}
        values |= {"removed": self.removed, "elsewhere": self.elsewhere, "runs": self.runs}
        return environment().get_template("dataset_card.md").render(values)


def retained_data(folder: Path, dataset_name: str | None, digest_key_file: str | None) -> RetainedData:
    """Take the forgotten records out of the data set of a finished run.

    ``dataset_name`` says where the data set is, if not on the Hub. Raises InputError when the data set, the ledger or
    the key is not there, or the data set has none of these records.
    """
    report, ledger = UnlearningReport.load(folder / REPORT_FILE), ledger_of(ModelSource(str(folder)))
    if ledger is None:
        raise InputError(f"There is no {LEDGER_FILE} in {folder}; without it nobody knows which records to take out.")
    key, described = ledger_key(digest_key_file, ledger), report.dataset
    on_hub = dataset_name is None and described.name is not None and "/" in described.name
    name = described.name if on_hub else dataset_name
    if name is None:
        raise InputError(f"The run in {folder} read its data from a file or folder; name it with --dataset_name.")
    trained = described.split or "train"
    revision = described.revision if on_hub else None
    data, source = load_data(name, config=described.config, revision=revision, split=trained)
    assert isinstance(data, DatasetDict)
    _ = pick_split(data, trained, "dataset_train_split")
    forgotten = forgotten_before(ledger, key)
    assert forgotten is not None
    for one in forgotten.parts:
        one.columns(data[trained].column_names)
    masks = {split: _named(part, forgotten) for split, part in data.items()}
    removed = int(np.count_nonzero(masks[trained]))
    if removed == 0:
        raise InputError(
            f"The split {trained!r} of {name} has none of the forgotten records, so there is nothing to take out."
        )
    kept = take_rows(data[trained], np.flatnonzero(~masks[trained]))
    return RetainedData(
        splits=DatasetDict({**data, trained: kept}),
        trained=trained,
        config=described.config or (data[trained].info.config_name if source.revision else None) or "default",
        origin=source.name if source.revision else None,
        forgotten=forgotten,
        removed=removed,
        elsewhere=_count(masks) - removed,
        runs=len(ledger.runs),
    )


def publish_retained(data: RetainedData, repo_id: str, folder: Path, *, private: bool, push_to_existing: bool) -> str:
    """Publish it, and say in words whether forgotten records can still be read there.

    A new repository is private unless ``private`` is off and the data set that it was made from is public. Raises
    InputError when the repository has files and ``push_to_existing`` is off, when the Hub refuses, or when a forgotten
    record can still be read.
    """
    api = HfApi()
    with publishing_errors(repo_id, folder, "--retained_dataset"):
        there = api.dataset_info(repo_id) if api.repo_exists(repo_id, repo_type="dataset") else None
        present = there is not None and bool(files_of(there))
        if there is not None:
            erase = f"`hf-unlearn erase {repo_id} --repo_type dataset`"
            require_writable(
                there, private, push_to_existing, f"The records stay readable in its history until {erase}."
            )
        before = _config_files(repo_id, data.config, there.sha) if there is not None and present else set()
        origin_is_public = data.origin is not None and not api.dataset_info(data.origin).private
        data.splits.push_to_hub(
            repo_id,
            data.config,
            private=private or not origin_is_public,
            commit_message=f"Take {data.removed:,} records out on request",
        )
        pushed = api.dataset_info(repo_id)
        left = files_of(pushed).keys()
        old = (before & left) - _config_files(repo_id, data.config, pushed.sha)
        card = Path(api.hf_hub_download(repo_id, CARD_FILE, repo_type="dataset", revision=pushed.sha))
        text = _with_section(card.read_text(encoding="utf-8"), data.card)
        commit = api.create_commit(
            repo_id,
            [
                *(CommitOperationDelete(name) for name in sorted(old)),
                CommitOperationAdd(CARD_FILE, text.encode()),
            ],
            commit_message="Say what was taken out",
            repo_type="dataset",
            parent_commit=pushed.sha,
        )
        others = left - old - {CARD_FILE}
        return f"Published: {commit.commit_url}\n" + _looked_for(data, repo_id, commit.oid, others, present)


def _config_files(repo_id: str, config: str, revision: str | None) -> set[str]:
    """The files that a configuration is read from at a revision; none where it has no such configuration."""
    try:
        builder = load_dataset_builder(repo_id, config, revision=revision)
    except (ValueError, DatasetsError):
        return set()
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    return {file.partition(f"@{revision}/")[2] for file in files}


def _with_section(card: str, section: str) -> str:
    """A card with its section about what was taken out, in the place of an earlier one."""
    before, _, after = card.partition(HEADING)
    _, heading, rest = after.partition("\n## ")
    return f"{before.rstrip()}\n\n{section.strip()}\n" + (f"{heading}{rest}" if heading else "")


def _looked_for(data: RetainedData, repo_id: str, revision: str, others: set[str], replaced: bool) -> str:
    """Read the new revision, and say where forgotten records can still be read.

    ``others`` are files that no configuration may be made of, and ``replaced`` says whether the repository had files
    before. Raises InputError when records can be read in the split that they were taken out of.
    """
    found = 0
    for config in get_dataset_config_names(repo_id, revision=revision):
        splits = load_dataset(repo_id, config, revision=revision)
        others = others - _config_files(repo_id, config, revision)
        assert isinstance(splits, DatasetDict)
        masks = {split: _named(part, data.forgotten) for split, part in splits.items()}
        if config == data.config:
            own = splits[data.trained]
            if len(own) != len(data.splits[data.trained]) or masks[data.trained].any():
                raise InputError(
                    f"{repo_id} was published, and its split {data.trained!r} is not what it should be: "
                    f"{_count(masks):,} forgotten records can be read in revision {revision}; delete it on its page."
                )
        found += _count(masks)
    split = data.trained
    lines = [f"Read again at that revision: none of the {data.removed:,} forgotten records is in the split {split!r}."]
    if found:
        lines.append(
            f"{found:,} records in its other splits and configurations carry ids or values that were to be forgotten."
        )
    if others:
        lines.append(f"Not checked, because no configuration is made of them: {', '.join(sorted(others))}.")
    if replaced:
        lines.append(
            f"Its history still has them until `hf-unlearn erase {repo_id} --repo_type dataset` deletes them."
        )
    return "\n".join(lines)


def _named(part: Dataset, forgotten: Records) -> np.ndarray:
    """Which rows of a split were to be forgotten, as far as it has the columns to recognise them."""
    usable = [one for one in forgotten.parts if isinstance(one, Digested) and {*one.names} <= {*part.column_names}]
    if not usable or len(part) == 0:
        return np.zeros(len(part), dtype=bool)
    selection = Selection(Records(tuple(usable)), "The ledger", part)
    select_rows(part, [selection])
    return selection.mask()


def _count(masks: Mapping[str, np.ndarray]) -> int:
    return sum(int(np.count_nonzero(mask)) for mask in masks.values())
