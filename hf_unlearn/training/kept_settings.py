"""What a training leaves as it was in the original's configuration, and one padding token for all that pads."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import (
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ..data.encoding import padding_id
from ..models.limits import own_padding
from ..models.loading import Model, plain_model
from ..models.tasks import Task

# The trainer sets the first for the training, the model's own loss the second.
SET_BY_TRAINING = ("use_cache", "problem_type")
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")


def with_one_padding(model: Model, tokenizer: PreTrainedTokenizerBase, task: Task) -> PreTrainedTokenizerBase:
    """A tokenizer that pads as the model expects, so that a classifier on a decoder finds the end of each text.

    The model's own padding token counts; one without gets the tokenizer's, in place. It is the tokenizer itself where
    it pads so already, or where the mask alone hides what is padded.
    """
    config = plain_model(model).config
    if task != "text-classification":
        return tokenizer
    token = padding_id(tokenizer, config)
    if own_padding(config) is None:
        config.get_text_config().pad_token_id = token
    name = tokenizer.convert_ids_to_tokens(token)
    if token == tokenizer.pad_token_id or not isinstance(name, str):
        return tokenizer
    padding = copy.deepcopy(tokenizer)
    padding.pad_token = name
    return padding


class KeptSettings(TrainerCallback):
    """Undoes what transformers' trainer does to a configuration: the tokenizer's special tokens, and no cache."""

    def __init__(self, model: PreTrainedModel):
        self.config = model.config
        self.kept = _fields(self.config, SET_BY_TRAINING)
        holders: list[Any] = [self.config.get_text_config()]
        if model.can_generate():
            holders.append(model.generation_config)
        self.special = [(holder, _fields(holder, SPECIAL_TOKENS)) for holder in holders]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for holder, fields in self.special:
            _restore(holder, SPECIAL_TOKENS, fields)

    @contextmanager
    def as_they_were(self) -> Iterator[None]:
        """With the settings that the original had, for a model that is saved."""
        now = _fields(self.config, SET_BY_TRAINING)
        _restore(self.config, SET_BY_TRAINING, self.kept)
        try:
            yield
        finally:
            _restore(self.config, SET_BY_TRAINING, now)


def _fields(holder: PretrainedConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: vars(holder)[name] for name in names if name in vars(holder)}


def _restore(holder: PretrainedConfig, names: tuple[str, ...], fields: dict[str, Any]) -> None:
    for name in names:
        if name in fields:
            setattr(holder, name, fields[name])
        else:
            vars(holder).pop(name, None)
