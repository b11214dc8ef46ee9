"""Prompts in another language, by a model for translation.

What was unlearned in one language may be there for whoever asks in another (arXiv:2601.06675, arXiv:2606.03291).
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from ...data.encoding import padding_id
from ...models.limits import positions
from ...models.loading import Model, load_any, load_tokenizer, plain_model, source_task, to_device
from ...models.location import ModelSource
from ...models.tasks import Task
from ..scoring import evaluating, preserved_rng

TRANSLATED_TOKENS = 256  # read, and written, of a prompt at most

TRANSLATES: Task = "text2text-generation"

# Of a model's settings those that say how a text begins and ends, and in which language.
_OWN = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "bos_token_id", "eos_token_id",
        "bad_words_ids")  # fmt: skip


@dataclass(frozen=True)
class Translator:
    """A model that translates from the language of the records into one other.

    Attributes:
        model, tokenizer: an encoder-decoder.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def load(cls, source: ModelSource, device: torch.device) -> "Translator":
        """Load an encoder-decoder, from safetensors; raises InputError when it is none, or cannot be loaded."""
        source_task(source, TRANSLATES)
        model, tokenizer = to_device(load_any(source, TRANSLATES), device), load_tokenizer([source])
        writer = plain_model(model)
        named = {**writer.config.to_dict(), **writer.generation_config.to_dict()}
        own = {name: named[name] for name in _OWN if named.get(name) is not None}
        pad = padding_id(tokenizer, writer.config)
        writer.generation_config = GenerationConfig(**own, num_beams=1, do_sample=False, pad_token_id=pad)
        return cls(model, tokenizer)

    @torch.no_grad()
    def translate(self, texts: list[str], batch_size: int) -> tuple[list[str], int]:
        """Translate texts by greedy decoding, which has no chance in it.

        Args:
            texts: each is cut to :data:`TRANSLATED_TOKENS` tokens, or to what the model reads.
            batch_size: texts in a forward pass.

        Returns:
            The translations, a text itself where the model writes nothing; and the tokens read and written, half of
            them as each passes half of the model.
        """
        writer: Any = plain_model(self.model)
        limit = int(min(self.tokenizer.model_max_length, positions(writer.config), TRANSLATED_TOKENS))
        pad = writer.generation_config.pad_token_id
        # Texts repeat each other, and those of like length need little padding.
        different = sorted(set(texts), key=lambda text: (len(text), text))
        found: dict[str, str] = {}
        tokens = 0
        with evaluating(self.model), preserved_rng():
            for i in range(0, len(different), batch_size):
                part = different[i : i + batch_size]
                inputs = self.tokenizer(part, padding=True, truncation=True, max_length=limit, return_tensors="pt").to(
                    self.model.device
                )
                read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
                # The first of them is the decoder's start.
                written = writer.generate(**read, max_new_tokens=limit - 1)
                tokens += int(read["attention_mask"].sum()) + int((written != pad).sum())
                said = self.tokenizer.batch_decode(written, skip_special_tokens=True)
                found |= {text: new.strip() or text for text, new in zip(part, said, strict=True)}
        return [found[text] for text in texts], tokens // 2
