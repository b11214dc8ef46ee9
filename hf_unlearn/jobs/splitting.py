"""Data sets from the Hub or from disk, and requests from the settings."""

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import DatasetDict, IterableDataset, IterableDatasetDict, Value

from ..data.arrow_tables import AnyDataset, column_names
from ..data.copies.paraphrases import SentenceEncoder
from ..data.format import columns_read
from ..data.loading import load_data, pick_split, reading
from ..data.request.attempts import Attempt, AttemptCount, attempts_path, note_attempt
from ..data.request.digests import key_path, load_digest_key
from ..data.request.id_files import request_files
from ..data.request.mentions import confirmed_mentions
from ..data.request.records import Records
from ..data.split import RetainedSplit, split_retained
from ..errors import InputError
from ..models.tasks import Task
from ..models.training_record import DataSource, LeftOut
from ..output_folder import require_apart
from ..publishing.ledger import Ledger
from ..publishing.ledger_of_model import forgotten_before, ledger_key
from ..training.config import UnlearningConfig
from .console import console
from .settings import DataArguments, RequestArguments


def named_data(
    args: DataArguments, folder: Path | None = None
) -> tuple[DatasetDict | IterableDatasetDict, DataSource]:
    """Load all splits of the data set that the settings name, see :func:`load_data`, apart from the output folder."""
    if folder is not None and isinstance(args.dataset_name, str):
        require_apart(folder, args.dataset_name)
    return load_data(
        args.dataset_name,
        config=args.dataset_config,
        revision=args.dataset_revision,
        split=args.dataset_train_split,
        streaming=args.dataset_streaming,
    )


def split_data(
    data: DatasetDict | IterableDatasetDict,
    source: DataSource,
    data_args: DataArguments,
    request_args: RequestArguments,
    config: UnlearningConfig,
    ledger: Ledger | None = None,
    *,
    task: Task | None = None,
    ask_again: bool = False,
) -> RetainedSplit:
    """Split D as the settings ask; see :func:`~hf_unlearn.data.split.split_retained`.

    Copies are looked for in the columns that are read for the ``task``. What the ledger of the model names was
    forgotten before, and stays out of all parts.
    """
    dataset = pick_split(data, data_args.dataset_train_split, "dataset_train_split")
    texts = [
        name for name, kind in (dataset.features or {}).items() if isinstance(kind, Value) and "string" in kind.dtype
    ]
    mentioned = _mentioned(dataset, request_args, config)
    request, holdout = forget_request(request_args, texts, mentioned), _holdout(data, data_args, request_args)
    if ledger is not None and ledger.runs:
        key = ledger_key(request_args.digest_key_file, ledger)
    else:
        key = load_digest_key(key_path(request_args.digest_key_file))
    encoder, review = request_args.near_duplicates_encoder, request_args.near_duplicates_review
    # The files of a stream are read here for the first time.
    with reading(source.name or "in memory") if isinstance(dataset, IterableDataset) else nullcontext():
        return split_retained(
            dataset,
            request,
            holdout=holdout,
            duplicates=None if request_args.duplicates == "ignore" else request_args.duplicates,
            duplicate_columns=columns_read(column_names(dataset), task, **config.layout),
            near_duplicates=None if request_args.near_duplicates == "ignore" else request_args.near_duplicates,
            near_encoder=SentenceEncoder(encoder, config.device) if encoder is not None else None,
            near_review=Path(review) if review is not None else None,
            allow_unmatched=request_args.allow_unmatched,
            digest_key=key,
            revision=source.revision,
            forgotten_before=forgotten_before(ledger, key) if ledger is not None else None,
            ask_again=ask_again,
            group_column=config.group_column,
        )


def count_attempt(
    parts: RetainedSplit, args: RequestArguments, config: UnlearningConfig, run: str, method: str
) -> AttemptCount:
    """Note that a run begins to measure S, unless that is noted already, and say which attempt on S it is.

    ``run`` identifies it, through interruptions. Raises InputError where the file beside the key cannot be used.
    """
    assert parts.forgotten is not None
    attempt = Attempt(run, parts.forgotten.records, method, config.seed, config.auc_margin)
    found: list[AttemptCount | None] = [None]
    if PartialState().is_main_process:
        found = [note_attempt(attempts_path(key_path(args.digest_key_file)), attempt)]
    (count,) = broadcast_object_list(found)
    return count


def left_out_of(parts: RetainedSplit) -> LeftOut:
    """What a training on L leaves out, as its record says it."""
    assert parts.forgotten is not None
    return LeftOut(parts.audit.forget_rows, parts.forgotten.records, parts.forgotten.key_check)


def _mentioned(dataset: AnyDataset, args: RequestArguments, config: UnlearningConfig) -> Records | None:
    """The rows that mention somebody and were confirmed, None where nobody asks for them; shows the counts."""
    if args.forget_mentions is None:
        return None
    review = None if args.mentions_review is None else Path(args.mentions_review)
    found = confirmed_mentions(dataset, Path(args.forget_mentions), review)
    console(config).print(
        f"{found.rows:,} rows mention {found.found:,} of {found.entries:,} entries, and {len(found.confirmed):,} of "
        "these rows were confirmed."
    )
    if found.records is None:
        raise InputError("No row that mentions an entry was confirmed; leave --forget_mentions out.")
    return found.records


def forget_request(args: RequestArguments, as_text: Collection[str] = (), mentioned: Records | None = None) -> Records:
    """The records to forget, with those that are ``mentioned``; raises InputError where the settings name none.

    ``as_text`` are the columns that D has as text; a CSV file of records is then read alike.
    """
    request = _records(args.forget_ids, args.forget_values, args.forget_rows, args, "forget")
    if args.forget_requests is not None:
        if args.forget_id_column is None:
            raise InputError("--forget_requests needs --forget_id_column, the column that holds the ids.")
        files, _ = request_files(Path(args.forget_requests))
        for path in files:
            request = _unite(request, Records.ids_from_file(args.forget_id_column, path))
    if args.forget_dataset is not None:
        data, _ = load_data(args.forget_dataset, as_text=as_text)
        request = _unite(request, Records.like(next(iter(data.values()))))
    if mentioned is not None:
        request = _unite(request, mentioned)
    if request is None:
        raise InputError(
            "Which records are to be forgotten? Name them with --forget_ids or --forget_requests and "
            "--forget_id_column, --forget_values, --forget_rows, --forget_dataset or --forget_mentions."
        )
    return request


def holdout_rows(args: RequestArguments) -> Records | None:
    """The request that takes H out of D, None when H does not lie in D."""
    return _records(args.holdout_ids, args.holdout_values, args.holdout_rows, args, "holdout")


def _holdout(
    data: DatasetDict | IterableDatasetDict, data_args: DataArguments, args: RequestArguments
) -> Records | AnyDataset | None:
    rows = holdout_rows(args)
    named = [name for name in (args.holdout_split, args.holdout_dataset, rows) if name is not None]
    if len(named) > 1:
        raise InputError(
            "Held-out records come from one place: give one of --holdout_split, --holdout_dataset or rows of the data "
            "set (--holdout_ids, --holdout_values, --holdout_rows)."
        )
    if args.holdout_split is not None:
        if args.holdout_split == data_args.dataset_train_split:
            raise InputError(f"--holdout_split {args.holdout_split} is the split that was trained on.")
        return pick_split(data, args.holdout_split, "holdout_split")
    if args.holdout_dataset is not None:
        other, _ = load_data(args.holdout_dataset)
        return next(iter(other.values()))
    return rows


def _records(
    ids: str | Records | None, values: list[str] | None, rows: list[int] | None, args: RequestArguments, kind: str
) -> Records | None:
    request: Records | None = None
    if isinstance(ids, Records):
        request = ids
    elif ids is not None:
        if args.forget_id_column is None:
            raise InputError(f"--{kind}_ids needs --forget_id_column, the column that holds the ids.")
        request = Records.ids_from_file(args.forget_id_column, ids)
    for pair in values or []:
        column, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--{kind}_values must be written column=value.")
        request = _unite(request, Records.where_text(column, value))
    if rows is not None:
        request = _unite(request, Records.rows(rows))
    return request


def _unite(left: Records | None, right: Records) -> Records:
    return right if left is None else left | right
