"""Where a model lives: a folder or a revision on the Hub, and the files beside its weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, resolve_revision, snapshot_download, try_to_load_from_cache
from peft import PeftConfig
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ..errors import InputError
from ..hub_access import hub_errors

# What a model has beside its weights, as far as it is read here.
MODEL_FILES = (
    "README.md",
    "training_record.json",
    "sharding.json",
    "unlearning_report.json",
    "unlearning_ledger.jsonl",
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

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
    "adapter_model.safetensors",
    # Of a model that is dealt into adapters.
    "shards/[0-9]*/adapter_model.safetensors",
)


@dataclass(frozen=True)
class ModelSource:
    """A model on disk or on the Hub.

    Attributes:
        name: a folder, or ``owner/name`` on the Hub.
        revision: the commit on the Hub; None for a folder.
        adapter: whether it holds a PEFT adapter instead of a full model.
        trust_remote_code: whether code from its repository may run.
    """

    name: str
    revision: str | None = None
    adapter: bool = False
    trust_remote_code: bool = False

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
    else:
        with hub_errors(f"The model {name!r}"):
            revision = resolve_revision(name, revision=revision).resolved
            fetch_files(name, revision, MODEL_FILES)
    source = ModelSource(name, revision, trust_remote_code=trust_remote_code)
    return replace(source, adapter=file_beside(source, ADAPTER_CONFIG_NAME) is not None)


def adapter_config(source: ModelSource) -> PeftConfig:
    """The settings of an adapter."""
    with hub_errors(f"The adapter {source.name!r}"):
        return PeftConfig.from_pretrained(source.name, revision=source.revision)


def adapter_base(source: ModelSource) -> ModelSource:
    """The model that an adapter was trained on."""
    config = adapter_config(source)
    if not config.base_model_name_or_path:
        raise InputError(f"The adapter {source.name!r} does not say which model it belongs to.")
    return locate(config.base_model_name_or_path, config.revision, trust_remote_code=source.trust_remote_code)


def read_card(source: ModelSource) -> ModelCard | None:
    """The model card that lies beside a model, or None when there is none."""
    path = file_beside(source, "README.md")
    try:
        return None if path is None else ModelCard.load(path)
    except (ValueError, yaml.YAMLError):
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
