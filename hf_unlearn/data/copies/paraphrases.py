"""Paraphrases of forgotten records that stay in L, found by a sentence encoder.

The encoder has to be a transformer with a pooling of its last layer, by its sentence-transformers settings. Without
such settings the mean over the tokens is taken (Reimers & Gurevych 2019, arXiv:1908.10084).
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, PreTrainedModel

from ...errors import InputError
from ...hub_access import hub_errors
from ...models.limits import positions
from ...models.loading import load_config, load_tokenizer
from ...models.location import MODEL_FILES, WEIGHT_FILES, locate
from ..arrow_tables import AnyDataset
from .text_slices import text_slices

POOLINGS = ("mean", "cls", "lasttoken")
MODULES = ("Transformer", "Pooling", "Normalize")
SETTING_FILES = ("modules.json", "sentence_bert_config.json", "*_Pooling/config.json")
MOST_TOKENS = 512
BATCH = 64
# Texts compared with all of S at once, which bounds the memory.
BLOCK = 1024


class SentenceEncoder:
    """A sentence encoder, from a folder or the Hub; it runs on a GPU where there is one and no device is named.

    ``threshold`` is the least cosine between a record and its paraphrase. Raises InputError when there is no such
    model, or it is no sentence encoder of this kind.
    """

    threshold = 0.85

    def __init__(
        self,
        name: str,
        device: torch.device | str | None = None,
        revision: str | None = None,
    ):
        source = locate(name, revision)
        self.name, self.public_name = name, source.public_name
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with hub_errors(f"The model {name!r}"):
            self.folder = Path(name)
            if not source.is_local:
                patterns = [*MODEL_FILES, *WEIGHT_FILES, *SETTING_FILES]
                self.folder = Path(snapshot_download(name, revision=source.revision, allow_patterns=patterns))
        self.pooling, tokens = _settings(self.folder, name)
        self.tokens = int(min(tokens, positions(load_config(source))))
        self.tokenizer = load_tokenizer([source])
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        if self.tokenizer.pad_token is None:
            raise InputError(f"The tokenizer of {name!r} has no token to pad with; name another sentence encoder.")

    @cached_property
    def model(self) -> PreTrainedModel:
        try:
            return AutoModel.from_pretrained(self.folder, use_safetensors=True).to(self.device).eval()
        except (OSError, ValueError):
            raise InputError(f"transformers cannot load the sentence encoder {self.name!r}; name another.") from None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 of shape (texts, dimensions), each row of length 1."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        embedded = np.zeros((len(texts), self.model.config.hidden_size), np.float32)
        for start in range(0, len(texts), BATCH):
            batch = order[start : start + BATCH]
            embedded[batch] = self._embed([texts[i] for i in batch])
        return embedded

    def find_paraphrases(
        self, dataset: AnyDataset, columns: list[str], forgotten: pa.Array, look: np.ndarray
    ) -> Iterator[pa.Table]:
        """Find the rows of D whose embeddings are near those of S.

        Arguments and tables are those of :func:`~hf_unlearn.data.copies.near.find_near_copies`, with the column
        ``cosine`` instead of its measures.
        """
        wanted = self.encode(forgotten.to_pylist())
        for part in text_slices(dataset, columns, look, "Paraphrases of S"):
            for start in range(0, len(part.texts), BLOCK):
                cosines = self.encode(part.texts[start : start + BLOCK].to_pylist()) @ wanted.T
                text, forgets = np.nonzero(cosines >= self.threshold)
                pair, row = part.rows_of(start + text)
                yield pa.table({"row": row, "forgotten": forgets[pair], "cosine": cosines[text, forgets][pair]})

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> np.ndarray:
        inputs = self.tokenizer(
            texts, padding=True, padding_side="right", truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self.device)
        hidden = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"]
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.pooling == "lasttoken":
            pooled = hidden[torch.arange(len(texts)), mask.sum(1) - 1]
        else:
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()


def _settings(folder: Path, name: str) -> tuple[str, int]:
    """The pooling of an encoder, and how many tokens it reads; raises InputError where it has other modules."""
    kinds = [str(module.get("type")).rpartition(".")[2] for module in _json(folder / "modules.json") or []]
    places = list(folder.glob("*_Pooling/config.json"))
    found: dict[str, Any] = (_json(places[0]) if places else None) or {"pooling_mode": "mean"}
    # sentence-transformers 5 names one mode; older versions have a flag for each.
    modes = [key.removeprefix("pooling_mode_") for key, value in found.items() if value is True]
    modes = [found["pooling_mode"]] if "pooling_mode" in found else modes
    pooling = [str(mode).removesuffix("_tokens").removesuffix("_token") for mode in modes if mode != "include_prompt"]
    if set(kinds) - set(MODULES) or len(pooling) != 1 or pooling[0] not in POOLINGS:
        raise InputError(
            f"The sentence encoder {name!r} does not just take the mean, the first or the last token; name another "
            "encoder."
        )
    tokens = (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return pooling[0], tokens or MOST_TOKENS


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise InputError(f"{path.name} of the sentence encoder cannot be read; name another encoder.") from None
