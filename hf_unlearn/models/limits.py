"""What a model can read, by its configuration: how many tokens in a row, which token ids, and its padding token."""

import math

from transformers import PretrainedConfig

# Besides max_position_embeddings and what a configuration calls it.
OTHER_LIMITS = ("max_encoder_position_embeddings", "max_decoder_position_embeddings", "max_seq_len")

# Their positions begin after the padding token's id, so that so many fewer are left for a text.
BEGIN_AFTER_PADDING = (
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
)  # fmt: skip


def positions(config: PretrainedConfig) -> float:
    """How many tokens in a row a model can read; infinity where its configuration sets no limit."""
    return min((limit for part in _parts(config) for limit in _limits(part)), default=math.inf)


def vocabulary(config: PretrainedConfig) -> float:
    """How many token ids a model can read; infinity where its configuration does not say."""
    sizes = [part.to_dict().get(part.attribute_map.get("vocab_size", "vocab_size")) for part in _parts(config)]
    return min((size for size in sizes if size), default=math.inf)


def own_padding(config: PretrainedConfig) -> int | None:
    """The padding token's id, None where the configuration names none that the model can read."""
    named = [part.to_dict().get("pad_token_id") for part in (config, config.get_text_config())]
    return next((i for i in named if isinstance(i, int) and 0 <= i < vocabulary(config)), None)


def _parts(config: PretrainedConfig) -> list[PretrainedConfig]:
    if config.model_type == "encoder-decoder":
        return [config.encoder, config.decoder]
    return [config.get_text_config()]


def _limits(part: PretrainedConfig) -> list[int]:
    values, usual = part.to_dict(), "max_position_embeddings"
    names = (part.attribute_map.get(usual, usual), *OTHER_LIMITS)
    taken = (part.pad_token_id or 0) + 1 if part.model_type in BEGIN_AFTER_PADDING else 0
    return [limit - taken for name in names if isinstance(limit := values.get(name), int) and limit > 0]
