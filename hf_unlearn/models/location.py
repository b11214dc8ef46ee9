"""Where a model lives: a folder or a revision on the Hub, and the files beside its weights."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, resolve_revision, snapshot_download, try_to_load_from_cache
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ..errors import InputError
from ..files import check_aliases
from ..hub_access import hub_errors, hub_trouble

# What a model has beside its weights, as far as it is read here.
MODEL_FILES = (
    "README.md",
    "training_record.json",
    "sharding.json",
    "unlearning_report.json",
    "unlearning_ledger.jsonl",
    "unlearning_ledger.tsr",
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)

# In config.json, and in the metadata of an adapter's weights: a ledger belongs to the model.
LEDGER_MARK = "unlearning_ledger"

# Names the shards of large weights.
INDEX = "model.safetensors.index.json"

WEIGHT_FILES = (
    "model.safetensors",
    INDEX,
    "model-*.safetensors",
    "adapter_model.safetensors",
    # Of a model that is dealt into adapters.
    "shards/[0-9]*/adapter_model.safetensors",
    "shards/[0-9]*/slices/[0-9]*/adapter_model.safetensors",
)


# What Git leaves in a file's place where Git LFS is not installed.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class ModelSource:
    """A model on disk or on the Hub.

    Attributes:
        name: a folder, or ``owner/name`` on the Hub.
        revision: the commit on the Hub; None for a folder.
        adapter: whether it holds a PEFT adapter instead of a full model.
        trust_remote_code: whether code from its repository may run.
        under: the model under an adapter that names one which is not there; None where it names it.
    """

    name: str
    revision: str | None = None
    adapter: bool = False
    trust_remote_code: bool = False
    under: "ModelSource | None" = None

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def public_name(self) -> str:
        """Its name without the folders of this machine."""
        return Path(self.name).absolute().name if self.is_local else self.name


def locate(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> ModelSource:
    """Find a model and fix its revision to a commit; raises InputError when it is not there, or cannot be reached."""
    try:
        local = Path(name).is_dir()
    except OSError as error:
        raise InputError(f"The model {name[:80]!r} cannot be looked up: {error.strerror}.") from None
    if local:
        revision = None
        _check_pointers(Path(name))
    else:
        with hub_errors(f"The model {name!r}"):
            revision = resolve_revision(name, revision=revision).resolved
            fetch_files(name, revision, MODEL_FILES)
    source = ModelSource(name, revision, trust_remote_code=trust_remote_code)
    return replace(source, adapter=file_beside(source, ADAPTER_CONFIG_NAME) is not None)


def adapter_config(source: ModelSource) -> PeftConfig:
    """The settings of an adapter."""
    with hub_errors(f"The adapter {source.name!r}"):
        try:
            return PeftConfig.from_pretrained(source.name, revision=source.revision)
        except Exception as error:  # a damaged file makes PEFT raise errors of any kind
            if hub_trouble(error) is not None:
                raise
            raise InputError(f"The adapter {source.name!r} has no {ADAPTER_CONFIG_NAME} that PEFT can read.") from None


def adapter_base(source: ModelSource) -> ModelSource:
    """The model that an adapter was trained on; raises InputError where it names none, or one that is not there."""
    if source.under is not None:
        return source.under
    config = adapter_config(source)
    named = config.base_model_name_or_path
    cure = f"name the model under it with --base_model_name_or_path, or in its {ADAPTER_CONFIG_NAME}"
    if not named:
        raise InputError(f"The adapter {source.name!r} does not say which model it belongs to; {cure}.")
    try:
        return locate(named, config.revision, trust_remote_code=source.trust_remote_code)
    except InputError as error:
        raise InputError(f"The adapter {source.name!r} lies on {named!r}. {error} Or {cure}.") from None


def on_named_base(source: ModelSource, name: str | None, revision: str | None) -> ModelSource:
    """An adapter on the model that the user names, where the one that it names itself is not there."""
    if not source.adapter or name is None:
        return source
    try:
        adapter_base(source)
    except InputError:
        return replace(source, under=locate(name, revision, trust_remote_code=source.trust_remote_code))
    return source


def stored_shapes(source: ModelSource) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter's weights by their names in its file, which is not read further."""
    with hub_errors(f"The adapter {source.name!r}"):
        fetch_files(source.name, source.revision, WEIGHT_FILES)
    path = file_beside(source, SAFETENSORS_WEIGHTS_NAME)
    if path is None:
        raise InputError(f"The adapter {source.name!r} has no {SAFETENSORS_WEIGHTS_NAME}.")
    try:
        with safe_open(path, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except SafetensorError:
        raise InputError(f"{path} is damaged; copy or download the adapter again.") from None


def loaded_weights(names: Iterable[str]) -> set[str]:
    """Which of a model's files hold the weights that are loaded; shards that lie beside a whole file do not."""
    found = {name for name in names if any(fnmatch(name, pattern) for pattern in WEIGHT_FILES)}
    return next(({name} for name in (SAFETENSORS_WEIGHTS_NAME, "model.safetensors") if name in found), found)


def indexed_weights(index: Path) -> set[str]:
    """The files that an index of shards names; raises InputError where it is none, or they lie elsewhere."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        away = sum(Path(name).name != name or name in ("", "..") or "\\" in name for name in names)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} is no index of weights; copy or download the model again.") from None
    if away:
        raise InputError(
            f"{index} names {away} files in other folders, whose weights are not those of this model; restore the "
            "index."
        )
    return names


def _check_pointers(folder: Path) -> None:
    """Raise InputError where Git LFS has left notes in the place of a model's files."""
    for path in (path for pattern in (*MODEL_FILES, *WEIGHT_FILES) for path in folder.glob(pattern)):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise InputError(
                        f"{path} is a note of Git LFS in place of the file; run `git lfs pull` in {folder}."
                    )


def read_card(source: ModelSource) -> ModelCard | None:
    """The model card that lies beside a model, or None when there is none."""
    path = file_beside(source, "README.md")
    try:
        if path is None:
            return None
        # What others wrote may be a bomb.
        if block := REGEX_YAML_BLOCK.search(path.read_text(encoding="utf-8")):
            check_aliases(yaml.compose(block.group(2), yaml.SafeLoader))
        return ModelCard.load(path)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None


def file_beside(source: ModelSource, file_name: str) -> Path | None:
    """One of :data:`MODEL_FILES` of a model, or None when the model does not have it."""
    if source.is_local:
        path = Path(source.name) / file_name
        return path if path.is_file() else None
    found = try_to_load_from_cache(source.name, file_name, revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def fetch_files(name: str, revision: str | None, files: Sequence[str]) -> None:
    """Bring files of a model here; transformers itself would take a file for missing when the Hub fails."""
    if not Path(name).is_dir():
        snapshot_download(name, revision=revision, allow_patterns=list(files))
