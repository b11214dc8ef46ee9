"""Which weights of a model are trained."""

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import set_seed
from xxhash import xxh3_128

from ..errors import InputError
from ..methods.method import Method
from ..models.layers import blocks_until, freeze_all_but_ends, freeze_all_but_last
from ..models.limits import vocabulary
from ..models.loading import PEFT_TASKS, Model, check_quantised, lora_settings, plain_model
from ..models.location import ModelSource
from ..models.tasks import Task
from .config import UnlearningConfig
from .lineage import Lineage


def movement_digest(model: Model) -> str | None:
    """A quick digest that shows whether a training moved the weights; None where some that are trained lie elsewhere.

    It has 32 hexadecimal characters. Weights that are quantised are frozen, and stay out of it. It is never kept: what
    is kept is :func:`~hf_unlearn.models.weights_digest.weights_digest`.
    """
    digest = xxh3_128()
    for name, weight in model.named_parameters():
        if type(weight) is nn.Parameter and not weight.is_meta and weight.numel() > 0:
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
        elif weight.requires_grad:
            return None
    return digest.hexdigest()


def name_base(model: Model, base: ModelSource | None) -> None:
    """Let what is published name the model that is under an adapter here, by its commit."""
    if isinstance(model, PeftModel) and base is not None:
        for config in model.peft_config.values():
            config.base_model_name_or_path, config.revision = base.name, base.revision


def check_saved(args: UnlearningConfig, base: ModelSource | None, model: Model, tokens: int) -> None:
    """Raise InputError where an adapter would be saved into the model under it, or load as another one elsewhere.

    PEFT's loader adds random embeddings where the tokenizer beside an adapter has more ``tokens`` than the model.
    """
    if base is not None and not args.merge_adapter and Path(base.name).resolve() == args.folder.resolve():
        raise InputError(f"output_dir is {base.name!r}, the model that the adapter lies on; name another folder.")
    if isinstance(model, PeftModel) and tokens > (known := vocabulary(plain_model(model).config)):
        raise InputError(
            f"The tokenizer has {tokens:,} tokens and the model under the adapter {known:,}. PEFT's loader adds "
            "random weights for the others; save the model's own tokenizer beside the adapter."
        )


def fit_rate(args: UnlearningConfig, method: Method, *, adapter: bool) -> None:
    """Give an adapter a learning rate that moves one, where nobody asked for a rate and the method's is published."""
    if adapter and args.rate_is_published and method.adapter_rate is not None:
        args.learning_rate = method.adapter_rate


def trained_weights(
    model: Model,
    peft_config: PeftConfig | None,
    args: UnlearningConfig,
    method: Method,
    alpha: float,
    task: Task,
    lineage: Lineage,
) -> tuple[Model, dict[str, Any] | None]:
    """Freeze the weights of an original that are not to be trained, or put a new adapter on it.

    Returns the model, under the new adapter if there is one, and the LoRA settings of its adapter, None without one.
    """
    plain = plain_model(model)
    check_adapter(args, method, alpha, lineage, new=peft_config is not None)
    check_quantised(
        plain.config,
        adapter=lineage.adapter or peft_config is not None,
        moved=method.moves(alpha) and not lineage.adapter,
        merged=args.merge_adapter,
    )
    if peft_config is not None:
        if task not in PEFT_TASKS:
            raise InputError(f"PEFT knows no adapters for {task}; train all weights.")
        set_seed(args.seed)
        try:
            model = cast(PeftModel, get_peft_model(plain, peft_config))
        except ValueError as error:
            why = " ".join(str(error).split())
            raise InputError(
                f"PEFT puts no adapter on this {type(plain).__name__} ({why}); name its modules with "
                "--lora_target_modules (in Python, target_modules of LoraConfig)."
            ) from None
    if args.train_last_layers is not None:
        freeze_all_but_last(plain, args.train_last_layers)
    if method.trains_block_ends:
        depth = method.resolve_options(args.asked_options)[method.objective.depth]
        freeze_all_but_ends(plain, blocks_until(plain, depth))
    return model, lora_settings(model)


def check_adapter(args: UnlearningConfig, method: Method, alpha: float, lineage: Lineage, *, new: bool) -> None:
    """Raise InputError where a method and an adapter, which may be a new one, do not go together."""
    if method.picks_weights and (lineage.adapter or new):
        raise InputError(
            f"{args.method!r} picks single weights of the model, and an adapter leaves them as they are; merge it "
            "into the model, and train all weights."
        )
    if lineage.adapter and new:
        raise InputError("The model is an adapter already, and that is what will be trained; leave peft_config out.")
    if lineage.kept and method.moves(alpha) and not method.begins_at_base(alpha, known=lineage.base is not None):
        raise InputError(
            f"{args.method!r} moves the adapter a part of the way toward its base model, and {lineage.kept} would "
            "stay; use the method base, or merge the adapter into its model and unlearn all weights."
        )
    # The weights under a new adapter would become others than a model has.
    moved = method.moves(alpha) and not method.begins_at_base(alpha, known=lineage.base is not None)
    if new and moved and not args.merge_adapter:
        raise InputError(
            f"{args.method!r} moves the weights under the new adapter, so the adapter alone would not be the "
            "result; set merge_adapter, or train without an adapter."
        )
