"""Which weights of a model are trained."""

from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, set_seed

from ..errors import InputError
from ..methods.method import Method
from ..models.layers import blocks_until, freeze_all_but_ends, freeze_all_but_last
from ..models.loading import PEFT_TASKS, Model, check_quantised, lora_settings, plain_model
from ..models.tasks import Task
from .config import UnlearningConfig
from .lineage import Lineage


def trained_weights(
    model: Model,
    peft_config: PeftConfig | None,
    args: UnlearningConfig,
    method: Method,
    alpha: float,
    task: Task,
    lineage: Lineage,
) -> tuple[Model, dict[str, Any] | None]:
    """Make ready those weights of an original that are to be trained: all, the last blocks, or an adapter.

    Args:
        model: the original; what is not to be trained is frozen.
        peft_config: of a new adapter, None without one.
        args: the settings.
        method, alpha: what will be done to them.
        task: what the model does.
        lineage: where it comes from.

    Returns:
        The model, under the new adapter if there is one; and the LoRA settings of its adapter, None without one.

    Raises:
        InputError: the method, the adapter and the weights do not go together.
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
        model = _with_adapter(model, peft_config, args.seed, task)
    if args.train_last_layers is not None:
        freeze_all_but_last(plain, args.train_last_layers)
    if method.trains_block_ends:
        depth = method.resolve_options(args.asked_options)[method.objective.depth]
        freeze_all_but_ends(plain, blocks_until(plain, depth))
    return model, lora_settings(model)


def check_adapter(args: UnlearningConfig, method: Method, alpha: float, lineage: Lineage, *, new: bool) -> None:
    """Look whether a method and an adapter go together, before any weights are loaded.

    Args:
        args: the settings.
        method, alpha: what will be done.
        lineage: of the original.
        new: whether a new adapter is trained.

    Raises:
        InputError: they do not.
    """
    if method.picks_weights and (lineage.adapter or new):
        raise InputError(
            f"{args.method!r} picks single weights of the model, and an adapter leaves them out; merge it into "
            "the model, and train all weights."
        )
    if lineage.adapter and new:
        raise InputError("The model is an adapter already, and that is what will be trained; leave peft_config out.")
    # The weights under a new adapter would become others than a model has.
    moved = method.moves(alpha) and not method.begins_at_base(alpha, known=lineage.base is not None)
    if new and moved and not args.merge_adapter:
        raise InputError(
            f"{args.method!r} moves the weights under the new adapter, so the adapter alone would not be the "
            "result; set merge_adapter, or train without an adapter."
        )


def _with_adapter(model: Model, peft_config: PeftConfig, seed: int, task: Task) -> Model:
    """The model under a new adapter."""
    if task not in PEFT_TASKS:
        raise InputError(f"PEFT knows no adapters for {task}; train all weights.")
    assert isinstance(model, PreTrainedModel)
    set_seed(seed)
    wrapped = get_peft_model(model, peft_config)
    assert isinstance(wrapped, PeftModel)
    return wrapped
