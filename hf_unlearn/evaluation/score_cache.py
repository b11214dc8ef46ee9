"""A cache of score tables, found by digests of the weights and the records, never by a name.

It lies in ``HF_HOME/hf_unlearn/tables``, numbers only: some 100 bytes a record and model, and 4 a token of S and H.
Deleting the folder clears it; a missing or damaged table is made again.
"""

import contextlib
import json
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from huggingface_hub import constants
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn
from xxhash import xxh3_128

from ..data.encoding import PaddingCollator
from ..models.loading import Model, plain_model
from ..models.tasks import TASKS
from ..models.training_record import software_versions
from ..models.weights_digest import is_whole
from . import measured_sets, scoring
from .measured_sets import EvidenceSets
from .report import SetName
from .scoring import Context

# Packages of a known version, whose layers the digest of a model covers.
KNOWN_CODE = ("torch.nn.", "transformers.", "peft.")
# The configuration's fields that say where a model came from, and not what it computes.
NAMES = ("_name_or_path", "architectures", "transformers_version")
# A change of the scoring code makes all tables old.
SCORING_CODE = [xxh3_128(Path(str(module.__file__)).read_bytes()).hexdigest() for module in (scoring, measured_sets)]
BATCH_ROWS = 10_000


def score_once(
    evidence: EvidenceSets, model: Model, context: Context = nullcontext
) -> tuple[dict[SetName, pa.Table], int]:
    """Score a model as :meth:`EvidenceSets.score` does, or read the tables of an earlier time.

    A table is found by all that its numbers depend on: weights and buffers, configuration and layers of the model, an
    adapter's scale and state; the encoded records, in all forms, and the size of the batches; number formats, device,
    the versions of the libraries and the code that scores. Models that these do not identify are scored each time:
    quantised or sharded ones, adapters other than LoRA, code from outside of transformers, layers with hooks.

    Args:
        evidence: the records.
        model: a model that is whole on every process.
        context: as for :meth:`EvidenceSets.score`.

    Returns:
        The tables by set, and how many tokens had to be read for them.

    Raises:
        InputError: the loss of a record is no finite number.
    """
    places: dict[SetName, Path] = {}
    # Only one process reads, so that all agree on what is left to score together.
    if PartialState().is_main_process:
        places = _places(evidence, model, context)
    kept: dict[SetName, pa.Table] = broadcast_object_list(
        [{name: table for name, place in places.items() if (table := _read(place)) is not None}]
    )[0]
    missing = evidence.with_sets({name: part for name, part in evidence.sets.items() if name not in kept})
    scored = missing.score(model, context)
    for name, table in scored.items():
        if name in places:
            _write(places[name], table)
    return {name: {**kept, **scored}[name] for name in evidence.sets}, missing.tokens


def tables_folder() -> Path:
    """Where the tables lie."""
    return Path(os.path.expanduser(constants.HF_HOME)) / "hf_unlearn" / "tables"


def _places(evidence: EvidenceSets, model: Model, context: Context) -> dict[SetName, Path]:
    """The file of each set; none where a digest does not identify the model."""
    weights = model_digest(model)
    if weights is None or not isinstance(evidence.collator, PaddingCollator):
        return {}
    device = next(model.parameters()).device
    with context():
        autocast = torch.is_autocast_enabled(device.type) and str(torch.get_autocast_dtype(device.type))
    settings = {
        "task": [evidence.task, str(TASKS[evidence.task])],
        "batch_size": evidence.batch_size,
        "gradients": evidence.gradients,
        "classes": evidence.classes,
        "padding": evidence.collator.pad_token_id,
        "autocast": autocast,
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "software": software_versions(),
        "code": SCORING_CODE,
    }
    about = f"{weights} {json.dumps(settings)}"

    def place(name: SetName) -> Path:
        digests = [about, data_digest(evidence.sets[name])]
        digests += [f"{form}={data_digest(parts[name])}" for form, parts in evidence.forms.items() if name in parts]
        return tables_folder() / f"{xxh3_128(' '.join(digests).encode()).hexdigest()}.parquet"

    return {name: place(name) for name in evidence.sets}


def model_digest(model: Model) -> str | None:
    """A digest of all that a model's results depend on, wherever it was loaded from.

    Returns:
        32 hexadecimal characters; None for a model that they would not identify.
    """
    plain = plain_model(model)
    if isinstance(model, PeftModel) and not isinstance(model.active_peft_config, LoraConfig):
        return None
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if not all(_is_known(module) for module in model.modules()) or not all(is_whole(t) for _, t in tensors):
        return None
    config = {key: value for key, value in plain.config.to_dict().items() if key not in NAMES}
    digest = xxh3_128(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(f"{plain.config._attn_implementation} {model!r}".encode())
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            used = (module.scaling, module.active_adapters, module.merged_adapters, module.disable_adapters)
            digest.update(f"{name} {used}".encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _is_known(module: nn.Module) -> bool:
    """Whether a layer runs the code of its class only, and that code is of a known version."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module).__module__.startswith(KNOWN_CODE) and not hooked


def data_digest(examples: Dataset) -> str:
    """A digest of encoded records, in their order; 32 hexadecimal characters."""
    tables = examples.with_format("arrow").iter(BATCH_ROWS)
    return xxh3_128("".join(_table_digest(table) for table in tables).encode()).hexdigest()


def _table_digest(table: pa.Table) -> str:
    digest = xxh3_128(str(table.schema.remove_metadata()).encode())
    # A part of a larger table is serialised with more of it than the part, unless it is copied out.
    for batch in table.take(pa.array(range(table.num_rows))).combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _read(place: Path) -> pa.Table | None:
    """A table; None where it is missing or damaged."""
    try:
        table = pq.read_table(place)
    except (OSError, pa.ArrowException):
        return None
    whole = (table.schema.metadata or {}).get(b"digest") == _table_digest(table).encode()
    return table.replace_schema_metadata(None) if whole else None


def _write(place: Path, table: pa.Table) -> None:
    """Keep a table, whole also when two processes write it; do without where the disk refuses."""
    temporary: Any = None
    with contextlib.suppress(OSError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
            os.close(descriptor)
            pq.write_table(table.replace_schema_metadata({"digest": _table_digest(table)}), temporary)
            os.replace(temporary, place)
            temporary = None
        finally:
            if temporary is not None:
                os.unlink(temporary)
