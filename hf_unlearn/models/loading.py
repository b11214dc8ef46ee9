"""Models and tokenizers from where they live: their configuration and task, their weights, and copies of them."""

import copy
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, cast

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ..errors import InputError
from ..hub_access import hub_errors, hub_trouble
from ..machine_faults import is_out_of_memory
from .location import (
    INDEX,
    LEDGER_MARK,
    WEIGHT_FILES,
    ModelSource,
    adapter_base,
    adapter_config,
    fetch_files,
    file_beside,
    indexed_weights,
    stored_shapes,
)
from .tasks import TASKS, Task
from .training_record import load_record

Model: TypeAlias = PreTrainedModel | PeftModel

AUTO_CLASSES: dict[Task, Any] = {
    "text-generation": AutoModelForCausalLM,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "text2text-generation": AutoModelForSeq2SeqLM,
    "fill-mask": AutoModelForMaskedLM,
}

ARCHITECTURES: dict[Task, dict[str, str]] = {
    "text-generation": dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    "text-classification": dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES),
    "token-classification": dict(MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES),
    "text2text-generation": dict(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES),
    "fill-mask": dict(MODEL_FOR_MASKED_LM_MAPPING_NAMES),
}

PEFT_TASKS: dict[Task, str] = {
    "text-generation": "CAUSAL_LM",
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "text2text-generation": "SEQ_2_SEQ_LM",
}

BITSANDBYTES = "bitsandbytes>=0.50"

FEWEST_TOKENS = 2  # words in a tokenizer that is one

# How many of what a configuration names, by words in the names of its settings.
LARGEST = {"layer": 10_000, "expert": 100_000, "num_labels": 1_000_000}

# The layers with a row for each token, by the names that architectures give them.
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "shared", "embed_in", "lm_head", "embed_out")


# What a model is


def load_config(source: ModelSource) -> PretrainedConfig:
    """The configuration of a model, or of the model under an adapter; raises InputError when it cannot be read."""
    base = adapter_base(source) if source.adapter else source
    _check_size(base)
    with hub_errors(f"The model {base.name!r}"), _told(f"{base.name!r} holds no model that transformers can load"):
        config = AutoConfig.from_pretrained(
            base.name, revision=base.revision, trust_remote_code=base.trust_remote_code
        )
    if source.adapter and (resized := _vocabulary_of_adapter(source)) is not None:
        config.get_text_config().vocab_size = resized
    return config


def _check_size(source: ModelSource) -> None:
    """Raise InputError for a configuration of so many layers or classes that a library would never be done with it."""
    path = file_beside(source, "config.json")
    try:
        parts = [{} if path is None else json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError):
        return  # The library says what is wrong.
    for part in parts:
        for name, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, dict):
                parts.append(value)
            for word, most in LARGEST.items():
                if isinstance(value, int) and word in name and value > most:
                    raise InputError(
                        f"The config.json of {source.name!r} has {name}={value:,}; at most {most:,} are read."
                    )


def peft_task(source: ModelSource) -> str | None:
    """PEFT's name of what an adapter was trained for, None for a full model."""
    if not source.adapter:
        return None
    return adapter_config(source).task_type


def task_of(
    name: str,
    config: PretrainedConfig,
    asked: Task | None,
    *,
    architecture: str | None = None,
    peft: str | None = None,
) -> Task:
    """What a model does: as asked, else from its architecture, or from PEFT's name of the task for an adapter.

    ``name`` is for messages. Raises InputError when the architecture does not tell, or cannot do what was asked.
    """
    architecture = architecture or (config.architectures or [config.model_type])[0]
    possible: list[Task] = [task for task, names in ARCHITECTURES.items() if architecture in names.values()]
    if peft is not None:
        possible = [task for task, peft_name in PEFT_TASKS.items() if str(peft).endswith(peft_name)]
    if asked is None:
        if not possible:
            raise InputError(
                f"The architecture {architecture!r} of {name!r} does not say what the model does; name its "
                f"task ({' or '.join(ARCHITECTURES)})."
            )
        asked = possible[0]
    # A new head can be put on any encoder or language model that has such a class.
    new_head = TASKS[asked].new_head and config.model_type in ARCHITECTURES[asked]
    if asked not in possible and not new_head and "auto_map" not in config.to_dict():
        raise InputError(f"The task {asked} is not possible with {name!r}, which is a {architecture}.")
    _check_problem(name, config, asked, is_classifier=asked in possible and peft is None)
    return asked


def _check_problem(name: str, config: PretrainedConfig, task: Task, *, is_classifier: bool) -> None:
    """Raise InputError for a classifier that gives a number, or several classes, in place of one class."""
    if not TASKS[task].classes:
        return
    kind = config.problem_type
    if kind is None and is_classifier and config.num_labels == 1:
        # What transformers makes of a classifier with one output.
        kind = "regression"
    if kind not in (None, "single_label_classification"):
        raise InputError(
            f"The problem_type of {name!r} is {kind!r}, and a classifier must give one class for each record; "
            "name another model."
        )


def source_task(source: ModelSource, asked: Task | None, config: PretrainedConfig | None = None) -> Task:
    """What a stored model does, see :func:`task_of`; its configuration is read where it is not given."""
    return task_of(source.name, config or load_config(source), asked, peft=peft_task(source))


# Weights and tokenizers


def load_any(source: ModelSource, task: Task | None, **options: Any) -> Model:
    """Load a fine-tuned model, full or adapter, with the classes that its training record names.

    The task is read from its architecture when None; the options are those of :func:`load_model`.
    """
    config = load_config(source)
    if task is None:
        task = source_task(source, None, config)
    record = load_record(source)
    labels = record.labels if record else None
    id2label = dict(enumerate(labels)) if labels and source.adapter else None
    return load_model(source, task, id2label=id2label, **options)


def loading_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options of :func:`load_model` that settings, by the names of their flags, say."""
    bits = 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None
    implementation = settings.get("attn_implementation")
    return {"dtype": settings.get("dtype", "float32"), "attn_implementation": implementation, "bits": bits}


def load_model(
    source: ModelSource,
    task: Task,
    *,
    id2label: dict[int, str] | None = None,
    dtype: str = "float32",
    attn_implementation: str | None = None,
    bits: Literal[4, 8] | None = None,
    new_head: bool = False,
) -> Model:
    """Load a model for training, from safetensors only; an adapter comes as a trainable ``PeftModel`` on its base.

    Args:
        id2label: the classes of a classifier whose configuration does not name them.
        dtype: of the weights: ``float32``, ``bfloat16``, ``float16`` or ``auto`` (as stored).
        bits: of the weights under an adapter, None for all that ``dtype`` has; needs bitsandbytes.
        new_head: whether weights that the files lack may be drawn afresh, as for a classifier on a base model.

    Raises:
        InputError: it cannot be loaded, or lacks weights and ``new_head`` is off.
    """
    if source.adapter:
        base = load_model(
            adapter_base(source), task, id2label=id2label, dtype=dtype,
            attn_implementation=attn_implementation, bits=bits, new_head=True,
        )  # fmt: skip
        resized = _vocabulary_of_adapter(source)
        if resized is not None and resized != base.config.get_text_config().vocab_size:
            with torch.random.fork_rng():
                # The new rows are those of the adapter; others than in its file would follow from this seed.
                torch.manual_seed(0)
                base.resize_token_embeddings(resized)
        with hub_errors(f"The adapter {source.name!r}"), _told(f"Cannot load the adapter {source.name!r}"):
            adapted = PeftModel.from_pretrained(base, source.name, revision=source.revision, is_trainable=True)
        known = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        if known.keys().isdisjoint(stored_shapes(source)):
            raise InputError(f"The adapter {source.name!r} holds other weights than its {ADAPTER_CONFIG_NAME} names.")
        return adapted
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
    if bits is not None:
        options["quantization_config"] = quantization(bits, dtype)
    if id2label is not None:
        options["id2label"] = id2label
        options["label2id"] = {name: i for i, name in id2label.items()}
    # Under ZeRO-3 from_pretrained would shard the weights, but the original is scored, and moved to its start, whole.
    unset_hf_deepspeed_config()
    with hub_errors(f"The model {source.name!r}"):
        fetch_files(source.name, source.revision, WEIGHT_FILES)
        index = file_beside(source, INDEX)
        if index is not None and file_beside(source, "model.safetensors") is None:
            indexed_weights(index)
        with _told(f"Cannot load the weights of {source.name!r}"):
            model, info = AUTO_CLASSES[task].from_pretrained(
                source.name, revision=source.revision, trust_remote_code=source.trust_remote_code,
                use_safetensors=True, output_loading_info=True, **options,
            )  # fmt: skip
    # What is made of it has no ledger yet.
    vars(model.config).pop(LEDGER_MARK, None)
    if 2 * len(info["missing_keys"]) > len(model.state_dict()):
        raise InputError(f"The files of {source.name!r} hold the weights of another model than its config.json names.")
    if info["missing_keys"] and not new_head:
        raise InputError(
            f"{source.name!r} lacks {len(info['missing_keys'])} of the weights that {task} needs; "
            "it is not a model that was trained for it."
        )
    return cast(PreTrainedModel, model)


def load_like(source: ModelSource, task: Task, like: PretrainedConfig, *, dtype: torch.dtype, seed: int) -> Model:
    """Load a model in the shape of another: with its classes and its vocabulary.

    Weights that the model does not have, such as a classifier's head, follow from the seed. Raises InputError when it
    cannot be loaded.
    """
    labels = cast(dict[int, str], like.id2label) if TASKS[task].classes else None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = load_model(source, task, id2label=labels, dtype=str(dtype).removeprefix("torch."), new_head=True)
        # The configuration of EncoderDecoderModel does not say; its halves do not share.
        tied, wanted = (config.to_dict().get("tie_word_embeddings") for config in (model.config, like))
        if tied and not wanted:
            _untie(plain_model(model))
        differs = model.config.get_text_config().vocab_size != like.get_text_config().vocab_size
        # EncoderDecoderModel cannot be resized; the weights that differ are named when the start is made.
        if differs and model.config.model_type != "encoder-decoder":
            model.resize_token_embeddings(like.get_text_config().vocab_size)
    return model


def _untie(model: PreTrainedModel) -> None:
    """Give a model a head of its own, with the weights that it shared with the embeddings."""
    head, model.config.tie_word_embeddings = model.get_output_embeddings(), False
    if isinstance(head, nn.Linear):
        head.weight = nn.Parameter(head.weight.detach().clone())


def load_anchor(
    source: ModelSource, task: Task, like: PretrainedConfig, *, dtype: torch.dtype, seed: int
) -> PreTrainedModel:
    """Load a base model in the shape of the original, see :func:`load_like`; raises InputError for an adapter."""
    if source.adapter:
        raise InputError(f"The base model {source.name!r} is itself an adapter; name the full model under it.")
    return cast(PreTrainedModel, load_like(source, task, like, dtype=dtype, seed=seed))


def load_measurable(
    base: ModelSource | None, task: Task, like: PretrainedConfig, device: torch.device
) -> Model | None:
    """Load a base model to be measured as the fine-tuned model is, whose task and configuration are given.

    None where no base is known, or it does not do the same task with the same tokens.
    """
    if base is None or TASKS[task].new_head or base.adapter:
        return None
    if load_config(base).get_text_config().vocab_size != like.get_text_config().vocab_size:
        return None
    return to_device(load_any(base, task, bits=quantised_bits(like)), device)


def load_tokenizer(sources: Sequence[ModelSource]) -> PreTrainedTokenizerBase:
    """The tokenizer of the first of these models that has one.

    Raises InputError when none has, or one has files of a tokenizer that cannot be loaded.
    """
    for source in sources:
        with hub_errors(f"The model {source.name!r}"):
            try:
                tokenizer = AutoTokenizer.from_pretrained(
                    source.name, revision=source.revision, trust_remote_code=source.trust_remote_code
                )
            except Exception as error:  # the tokenizers library raises nothing more particular
                if hub_trouble(error) is not None:
                    raise
                # That of a later model would read the records in another way.
                if any(file_beside(source, file) for file in ("tokenizer.json", "tokenizer_config.json")):
                    raise InputError(
                        f"The tokenizer beside {source.name!r} cannot be loaded ({type(error).__name__}); restore its "
                        "files."
                    ) from None
                continue
        # Where a repository has no tokenizer, transformers makes one of special tokens for most kinds of models.
        if len(tokenizer) > len(tokenizer.all_special_ids) + FEWEST_TOKENS:
            return tokenizer
    have = "have" if len(sources) > 1 else "has"
    raise InputError(f"{' and '.join(repr(s.name) for s in sources)} {have} no tokenizer; save one beside the model.")


# Weights of few bits


def quantization(bits: Literal[4, 8], dtype: str) -> BitsAndBytesConfig:
    """How weights are quantised: NF4 as in QLoRA (Dettmers et al. 2023, arXiv:2305.14314), or LLM.int8.

    Raises InputError when bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"To load weights in {bits} bits run `pip install '{BITSANDBYTES}'` first.")
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = "float32" if dtype == "auto" else dtype
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def quantised_bits(config: PretrainedConfig) -> Literal[4, 8] | None:
    """In how many bits bitsandbytes holds a model's weights, None for a model that it does not."""
    settings = config.to_dict().get("quantization_config") or {}
    return 4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None


def check_quantised(config: PretrainedConfig, *, adapter: bool, moved: bool, merged: bool) -> None:
    """Raise InputError for what cannot be done to weights of few bits.

    They can be trained only by an ``adapter``, not ``moved`` by the method, and the adapter not ``merged`` into them.
    """
    bits = quantised_bits(config)
    if bits is None:
        return
    if not adapter:
        raise InputError(f"Weights in {bits} bits cannot be trained; train an adapter on them (use_peft).")
    if moved:
        raise InputError(
            f"This method moves the weights under the new adapter, and weights in {bits} bits cannot be moved; load "
            "them whole, unlearn an adapter that was trained on them, or use fine_tune."
        )
    if merged:
        raise InputError(
            f"merge_adapter would round the result to {bits} bits, and it would no longer be what was measured; leave "
            "it out, or load the weights whole."
        )


# Loaded models


def plain_model(model: Model) -> PreTrainedModel:
    """The model without PEFT's wrapper."""
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


def to_device(model: Model, device: torch.device) -> Model:
    """The model itself, moved to a device."""
    nn.Module.to(model, device)
    return model


def frozen_copy(
    model: Model, device: torch.device, dtype: torch.dtype | None = None, *, share_frozen: bool = False
) -> Model:
    """A copy that is not trained, in evaluation mode: the teacher of a model that moves away from it.

    With ``share_frozen`` it shares the weights that the model does not train, as those under an adapter.
    """
    dtype = None if dtype == plain_model(model).dtype else dtype
    memo: dict[int, nn.Parameter] = {}
    for weight in model.parameters():
        if share_frozen and dtype is None and not weight.requires_grad:
            memo[id(weight)] = weight
        elif dtype is not None and weight.is_floating_point():
            # Cast one by one, so that there is never a whole second copy in the model's own type.
            memo[id(weight)] = nn.Parameter(weight.detach().to(device, dtype, copy=True), requires_grad=False)
    copied = copy.deepcopy(model, memo)
    copied.requires_grad_(False)
    copied.eval()
    return to_device(copied, device)


# Of an adapter that changes nothing at first in the model under it.
PLAIN_STARTS = (True, False, "gaussian")


def kept_of_adapter(config: PeftConfig) -> str:
    """What of a LoRA adapter stays when its matrices are drawn afresh, in words; empty where nothing does."""
    if not isinstance(config, LoraConfig):
        return ""
    parts = {
        "the magnitudes of DoRA": config.use_dora,
        "the biases": config.bias != "none",
        "the embeddings of single tokens": config.trainable_token_indices is not None,
        f"what init_lora_weights={config.init_lora_weights!r} changed": config.init_lora_weights not in PLAIN_STARTS,
    }
    return " and ".join(part for part, is_there in parts.items() if is_there)


def lora_settings(model: Model) -> dict[str, Any] | None:
    """The LoRA settings of a model, None when it has no adapter."""
    if not isinstance(model, PeftModel):
        return None
    config = model.active_peft_config
    if not isinstance(config, LoraConfig):
        raise InputError(f"The adapter is a {config.peft_type}; only LoRA adapters are supported, merge it first.")
    targets = config.target_modules
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": sorted(targets) if isinstance(targets, set | list) else targets,
    }


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say in one sentence what cannot be loaded: damaged files make the libraries raise errors of any kind."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if hub_trouble(error) is not None or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
            raise
        raise InputError(f"{what}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if any(words in str(error) for words in ("ignore_mismatched_sizes", "size mismatch")):
        return "their shapes are not those of the configuration beside them; restore both from one place."
    if lines and isinstance(error, OSError | ValueError):
        return lines[0]
    return " ".join([type(error).__name__, *(line.strip() for line in lines[:2])])


def _vocabulary_of_adapter(source: ModelSource) -> int | None:
    """How many token ids an adapter was trained with, None where its file holds no embeddings and does not tell."""
    for name, shape in stored_shapes(source).items():
        if any(part in EMBEDDINGS for part in name.split(".")) and len(shape) == 2:
            if name.endswith("lora_embedding_A"):
                return shape[1]
            if "lora_" not in name and "token_adapter" not in name:
                return shape[0]
    return None
