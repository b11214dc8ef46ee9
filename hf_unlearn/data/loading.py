"""Data sets from the Hub or from disk."""

import csv
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from datasets import (
    Dataset,
    DatasetDict,
    DownloadManager,
    Features,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets import logging as datasets_logging
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import auth_check, resolve_revision

from ..errors import InputError
from ..hub_access import hub_errors, hub_trouble
from ..models.training_record import DataSource
from .arrow_tables import AnyDataset, plain_type
from .csv_ids import text_columns
from .text_files import DELIMITERS, check_depth, check_utf8, quoting

BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}
# NA, null and None are texts; only an empty field has no value.
ONLY_EMPTY = {"keep_default_na": False, "na_values": [""]}
UNKNOWN_TYPES = re.compile(r"arrow\.uuid|decimal(32|64)\(")


def load_data(
    name: str | AnyDataset | DatasetDict | IterableDatasetDict | None,
    *,
    config: str | None = None,
    revision: str | None = None,
    split: str = "train",
    streaming: bool = False,
    as_text: Collection[str] = (),
) -> tuple[DatasetDict | IterableDatasetDict, DataSource]:
    """Load all splits of a data set, a Hub id, a folder or a file, and say where it came from.

    What is no name is data in memory, which is taken as it is. Data that has no splits gets one named ``split``. A
    column of CSV is read as text where numbers could not tell its values apart, or ``as_text`` names it. Raises
    InputError when there is no such data set, or it cannot be read.
    """
    if name is None:
        raise InputError("Which data set? Name a Hub id, folder or file with --dataset_name.")
    if isinstance(name, DatasetDict | IterableDatasetDict):
        return name, DataSource(None, config, split)
    if isinstance(name, Dataset | IterableDataset):
        kind = DatasetDict if isinstance(name, Dataset) else IterableDatasetDict
        return kind({split: name}), DataSource(None, config, split)
    path = Path(name)
    commit = None
    if path.exists():
        _check_files(path)
    if path.is_file():
        builder, options = _file_reader(path)
        options |= _csv_options(name, builder, as_text, **options)
        data = _load(name, builder, streaming, **options)
    elif path.is_dir():
        if _is_saved(path):
            with reading(name):
                data = load_from_disk(path)
        else:
            options = {"name": config, **_parquet_features(path)}
            options |= _csv_options(name, str(path), as_text, **options)
            data = _load(name, str(path), streaming, **options)
    else:
        with hub_errors(f"The data set {name!r}"):
            commit = resolve_revision(name, revision=revision, repo_type="dataset").resolved
        options = {"name": config, "revision": commit}
        if not streaming:
            options |= _csv_options(name, name, as_text, **options)
        data = _load(name, name, streaming, **options)
    _refuse_shifted_columns(data, name)
    parts = [data] if isinstance(data, Dataset | IterableDataset) else data.values()
    if all(isinstance(part, Dataset) and len(part) == 0 for part in parts):
        raise InputError(f"The data set {name!r} has no rows; give one with records.")
    if isinstance(data, Dataset | IterableDataset):
        kind = DatasetDict if isinstance(data, Dataset) else IterableDatasetDict
        data = kind({split: data})
    if path.exists() and not _is_saved(path):
        for part in data.values():
            _name_by_content(part)
            _keep_private(part)
    public_name = path.resolve().name if path.exists() else name
    return data, DataSource(public_name, config, split, commit)


def _name_by_content(part: AnyDataset) -> None:
    """Give a part a fingerprint of its rows, for that of ``datasets`` changes with the place and date of its file."""
    if isinstance(part, Dataset):
        digest = xxhash.xxh64()
        for table in part.cache_files:
            with open(table["filename"], "rb") as file:
                while piece := file.read(2**20):
                    digest.update(piece)
        part._fingerprint = digest.hexdigest()


def _keep_private(part: AnyDataset) -> None:
    """Let nobody else into the folder of a file's tables, where what is made of them will lie, too."""
    for table in part.cache_files if isinstance(part, Dataset) else []:
        # What another user cached is theirs.
        with suppress(OSError):
            Path(table["filename"]).parent.chmod(0o700)


def local_cache_folder(name: str, config: str | None = None) -> Path | None:
    """Where datasets keeps the tables of a local folder or file; None for a saved data set, which needs none."""
    path = Path(name)
    if _is_saved(path):
        return None
    with reading(name):
        builder, options = (str(path), {"name": config}) if path.is_dir() else _file_reader(path)
        options |= _csv_options(name, builder, **options)
        return Path(load_dataset_builder(builder, **options).cache_dir)


def _is_saved(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def _file_reader(path: Path) -> tuple[str, dict[str, Any]]:
    """What reads a file, and how."""
    if path.suffix not in BUILDERS:
        raise InputError(f"{path} is of no known type; give a file that ends in one of {', '.join(BUILDERS)}.")
    options: dict[str, Any] = {"data_files": str(path)}
    if BUILDERS[path.suffix] == "csv":
        options |= {"delimiter": DELIMITERS[path.suffix], **ONLY_EMPTY}
        if quoting(path, DELIMITERS[path.suffix]) == csv.QUOTE_NONE:
            options["quoting"] = csv.QUOTE_NONE
    return BUILDERS[path.suffix], options | _parquet_features(path)


def _parquet_features(path: Path) -> dict[str, Any]:
    """The option to read Parquet with types that datasets does not know; nothing for other data."""
    for file in [path] if path.is_file() else sorted(path.rglob("*.parquet")):
        if BUILDERS.get(file.suffix) == "parquet" and file.is_file():
            with reading(str(path)):
                schema = pq.read_schema(file)
            if any(UNKNOWN_TYPES.search(str(kind)) for kind in schema.types):
                kinds = [field.with_type(plain_type(field.type)) for field in schema]
                return {"features": Features.from_arrow_schema(pa.schema(kinds, schema.metadata))}
    return {}


def _csv_options(asked: str, what: str, as_text: Collection[str] = (), **options: Any) -> dict[str, Any]:
    """How to read CSV, with the columns that have to be read as text; nothing for other data.

    Raises InputError where it cannot be told whether quotation marks enclose fields, which a named file's options say.
    """
    with reading(asked):
        builder = _found(what, load_dataset_builder, **options)
        if builder.name != "csv":
            return {}
        parts = DownloadManager().download_and_extract(builder.config.data_files)
        files = [file for found in parts.values() for file in found]
        kwargs = {**builder.config.pd_read_csv_kwargs, **ONLY_EMPTY, "iterator": True}
        for file in files if "data_files" not in options else ():
            if quoting(Path(file), kwargs["sep"], f"A file of {asked!r}") == csv.QUOTE_NONE:
                raise InputError(
                    f"The quotation marks in a file of {asked!r} are text and enclose no fields; name that file, "
                    "downloaded, as the data set."
                )
        columns = {*as_text, *text_columns(files, kwargs)}
    return {**ONLY_EMPTY, **({"converters": dict.fromkeys(sorted(columns), str)} if columns else {})}


def _check_files(path: Path) -> None:
    """Raise InputError for files that a reader would misread, or that crash it."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if not file.is_file() or BUILDERS.get(file.suffix, "parquet") == "parquet":
            continue
        with reading(str(path)):
            check_utf8(file)
            if BUILDERS[file.suffix] == "json":
                check_depth(file)
            with file.open("rb") as opened:
                lines = [line for line in islice(opened, 100) if line.strip()]
            if len(lines) <= int(BUILDERS[file.suffix] == "csv"):
                raise InputError(f"{file} has no rows; give a file with records, or remove it.")
            # A first record that is null crashes pyarrow 26.
            if BUILDERS[file.suffix] == "json" and lines[0].removeprefix(b"\xef\xbb\xbf").split()[:1] == [b"null"]:
                raise InputError(f"The first record in {file} is null; remove it.")
            in_folder = BUILDERS[file.suffix] == "csv" and file != path
            if in_folder and quoting(file, DELIMITERS[file.suffix]) == csv.QUOTE_NONE:
                raise InputError(
                    f"The quotation marks in {file} are text and enclose no fields; name the file, not its folder."
                )


def _refuse_shifted_columns(data: Any, asked: str) -> None:
    """Raise InputError for CSV with rows longer than its first line, whose columns pandas would shift."""
    for part in [data] if isinstance(data, Dataset | IterableDataset) else data.values():
        names = part.column_names or []
        if part.info.builder_name == "csv" and any(name.startswith("__index_level_") for name in names):
            raise InputError(
                f"The data set {asked!r} has rows with more fields than its first line names; correct it."
            )


def _load(asked: str, what: str, streaming: bool, **options: Any) -> Any:
    with reading(asked):
        return _found(what, load_dataset, streaming=streaming, **options)


def _found(what: str, load: Callable[..., Any], **options: Any) -> Any:
    """What a function of datasets makes of a data set; raises the reason where datasets hides that there is none."""
    try:
        return load(what, **options)
    except DatasetNotFoundError as error:
        if hub_trouble(error) is None:
            auth_check(what, repo_type="dataset")
        raise


def pick_split(data: DatasetDict | IterableDatasetDict, name: str, flag: str) -> AnyDataset:
    """One split of a data set; raises InputError naming those it has."""
    if name not in data:
        raise InputError(f"--{flag} {name}: the data set has the splits {', '.join(data)}.")
    part = data[name]
    if isinstance(part, Dataset) and len(part) == 0:
        raise InputError(f"--{flag} {name}: this split has no rows; name one of {', '.join(data)} that has.")
    return part


@contextmanager
def reading(name: str | None) -> Iterator[None]:
    """Raise InputError, with a message that quotes no record, where a data set cannot be read."""
    verbosity = datasets_logging.get_verbosity()
    # Readers log what they cannot parse, which may be a record, and raise errors of many kinds.
    datasets_logging.set_verbosity(datasets_logging.CRITICAL)
    try:
        with hub_errors(f"The data set {name!r}"):
            yield
    except InputError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, DatasetsError) else error
        if isinstance(cause, OSError) and cause.strerror is not None:
            raise InputError(f"Cannot read the data set {name!r}: {cause.strerror}.") from None
        if isinstance(error, OSError) and not isinstance(error, DatasetsError | FileNotFoundError):
            raise
        raise InputError(
            f"Cannot read the data set {name!r}: its files are empty, malformed or differ in their columns, "
            f"or the configuration does not exist ({type(error).__name__})."
        ) from None
    finally:
        datasets_logging.set_verbosity(verbosity)
