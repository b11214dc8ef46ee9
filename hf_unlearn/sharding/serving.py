"""Sharded models in use: each row of a batch is answered by its owner's adapter, or by what answers to the unknown.

Never by a neighbour: who has no adapter, because nobody knows the owner or the owner was deleted, gets the base, or
the vote of all adapters, as ``sharding.json`` says.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from peft import PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    Pipeline,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
)
from transformers.modeling_outputs import TokenClassifierOutput
from transformers.trainer_utils import align_special_tokens

from ..data.copies.paraphrases import SentenceEncoder
from ..data.encoding import PaddingCollator, encode, make_encoder, padding_id, resolve_max_length
from ..data.format import layout_of
from ..errors import InputError
from ..evaluation.measured_sets import EvidenceSets, with_rows
from ..evaluation.report import SetName
from ..models.classes import LEAST, in_places
from ..models.loading import Model, load_tokenizer, plain_model, to_device
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS
from .layout import Shard, Sharding, adapter_folder, load_sharding, owner_digests, owner_key
from .router import STRANGERS, Guess, Router
from .training import base_model

BASE = "__base__"  # PEFT's name for rows without an adapter

MAX_LOADED = 8

TINY = torch.finfo(torch.float32).tiny

Inputs = dict[str, torch.Tensor]


def load_sharded(
    name: str,
    revision: str | None = None,
    *,
    digest_key_file: str | None = None,
    device: str | torch.device | None = None,
    max_loaded: int = MAX_LOADED,
    trust_remote_code: bool = False,
) -> "ShardedModel":
    """Load a model that is dealt into adapters by owner.

    Args:
        name: a folder or Hub id.
        revision: branch, tag or commit on the Hub.
        digest_key_file: the data owner's key, by default the usual one; without it nobody is known.
        device: where it runs; the accelerator, where there is one, when None.
        max_loaded: so many adapters stay in memory, those that were used last.
        trust_remote_code: whether code from the base model's repository may run.

    Raises:
        InputError: there is no such model, its files are not those that it names, or the key is another one.
    """
    source = locate(name, revision, trust_remote_code=trust_remote_code)
    sharding = load_sharding(source)
    if sharding is None:
        raise InputError(f"{name!r} is not dealt into adapters: it has no sharding.json; load it with transformers.")
    if max_loaded < 1:
        raise InputError(f"max_loaded={max_loaded} is not possible; it must be 1 or more.")
    key = owner_key(digest_key_file, sharding)
    base = sharding.base_source(trust_remote_code=trust_remote_code)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = to_device(base_model(sharding, base), place)
    return ShardedModel(source, sharding, model, load_tokenizer([source, base]), key, max_loaded)


class ShardedModel:
    """A model that is dealt into adapters, ready to answer.

    Attributes:
        sharding: what lies beside it.
        tokenizer: of the base model.
        model: the base model, under PEFT once an adapter is loaded.
        tokens: that it has read so far, with padding; each adapter that votes reads them all.
    """

    def __init__(
        self,
        source: ModelSource,
        sharding: Sharding,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        key: bytes | None,
        max_loaded: int = MAX_LOADED,
    ):
        self.source, self.sharding, self.tokenizer = source, sharding, tokenizer
        # As the trainer did; without a padding token some heads would look at the wrong place.
        align_special_tokens(plain_model(model), tokenizer)
        self.model: nn.Module = model.eval()
        self._key, self._max_loaded = key, max_loaded
        self._shard_of = sharding.shard_of
        self._loaded: OrderedDict[int, None] = OrderedDict()
        self.tokens = 0

    def shards_of(self, owner: Sequence[Any]) -> list[int | None]:
        """The shard that answers to each owner, or guess; None for no owner, and for one unknown or deleted."""
        found: list[int | None] = [None] * len(owner)
        named = [i for i, one in enumerate(owner) if one is not None and not isinstance(one, Guess)]
        if self._key is not None:
            digests = owner_digests(self._key, self.sharding.column, [owner[i] for i in named])
            for i, digest in zip(named, digests, strict=True):
                found[i] = self._shard_of.get(digest)
        for i, one in enumerate(owner):
            if isinstance(one, Guess) and self.sharding.part(one.shard) is not None:
                found[i] = one.shard
        return found

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    # Answers

    def __call__(self, owner: Sequence[Any], **inputs: torch.Tensor) -> torch.Tensor:
        """The logits of a batch.

        Args:
            owner: of each row, None without one.
            inputs: what the model reads, such as ``input_ids`` and ``attention_mask``, each of shape (rows, …).

        Returns:
            Logits of shape (rows, classes) or (rows, tokens, classes); of a vote the logarithm of its probabilities.
        """
        return self.logits(self.shards_of(self._checked(owner, inputs)), inputs)

    @torch.inference_mode()
    def logits(self, shards: Sequence[int | None], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """As a call, with the shard of each row in place of its owner."""
        votes, others = self._voted(shards)
        parts = [(rows, self._forward(of_rows, _rows(inputs, rows))) for rows, of_rows in self._parts(shards, others)]
        if votes:
            parts.append((votes, self._vote(_rows(inputs, votes))))
        return _joined(parts)

    @torch.inference_mode()
    def generate(self, owner: Sequence[Any], **options: Any) -> torch.Tensor:
        """Let the model write, each row by its owner's adapter; where all adapters vote, on each token.

        Args:
            owner: of each row, None without one.
            options: those of transformers' ``generate``; tensors among them are inputs of shape (rows, …).

        Returns:
            Token ids, as of ``generate``, padded at the right where rows were answered in several batches.

        Raises:
            InputError: the model is a classifier, there is not one owner a row, or a vote is to be sampled from or
                needs more adapters than may be loaded.
        """
        if TASKS[self.sharding.task].classes:
            raise InputError(f"A model for {self.sharding.task} writes nothing; use classify, or call it.")
        inputs = {name: value.to(self.device) for name, value in options.items() if isinstance(value, torch.Tensor)}
        rest = {name: value for name, value in options.items() if name not in inputs}
        shards = self.shards_of(self._checked(owner, inputs))
        votes, others = self._voted(shards)
        parts = []
        for rows, of_rows in self._parts(shards, others):
            names = self._names(of_rows)
            writer = cast(Any, self._peft if names else self._plain)
            written = writer.generate(**_rows(inputs, rows), **rest, **names)
            each = len(written) // len(rows)
            parts.append(([row * each + i for row in rows for i in range(each)], written))
        if votes:
            written = self._written_by_vote(_rows(inputs, votes), rest)
            each = len(written) // len(votes)
            parts.append(([row * each + i for row in votes for i in range(each)], written))
        longest = max(written.shape[1] for _, written in parts)
        filler = padding_id(self.tokenizer, self._config)
        return _joined(
            [(rows, nn.functional.pad(one, (0, longest - one.shape[1]), value=filler)) for rows, one in parts]
        )

    def classify(self, texts: Sequence[str], owner: Sequence[Any]) -> list[dict[str, float]]:
        """The probability of each class for each text; raises InputError where the model does not classify texts."""
        if self.sharding.task != "text-classification":
            raise InputError(f"A model for {self.sharding.task} does not classify texts; call it, or use generate.")
        limit = resolve_max_length(self._config, self.tokenizer, self.sharding.settings.get("max_length"))
        read = self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        examples = [{"input_ids": ids, "attention_mask": [1] * len(ids), "labels": 0} for ids in read]
        inputs = PaddingCollator(padding_id(self.tokenizer, self._config)).of(self._config)(examples)
        del inputs["labels"]
        found = self.logits(self.shards_of(self._checked(owner, inputs)), inputs).float().softmax(-1)
        return [dict(zip(self.sharding.labels or (), row, strict=True)) for row in found.tolist()]

    def pipeline(self, owner: Any = None, **options: Any) -> Pipeline:
        """Make transformers' pipeline of the model, which answers one owner.

        Args:
            owner: who is answered, None without one.
            options: those of transformers' ``pipeline``, such as ``batch_size``.

        Returns:
            The pipeline for what the model does; several may be in use, and share the weights.

        Raises:
            InputError: transformers has none.
        """
        task = TASKS[self.sharding.task]
        if not task.has_pipeline:
            raise InputError(f"transformers has no pipeline for {self.sharding.task}; use generate.")
        base = plain_model(cast(Model, self.model))
        made: Pipeline = cast(Any, pipeline)(
            task.pipeline_tag, model=base, tokenizer=self.tokenizer, device=self.device, **options
        )
        made.model = cast(Any, _ForOwner(self, owner))
        return made

    def router(
        self,
        encoder: str,
        texts: Sequence[str],
        owner: Sequence[Any],
        *,
        revision: str | None = None,
        strangers: float = STRANGERS,
    ) -> Router:
        """Make a guess at the shard of texts possible whose owner nobody names.

        Args:
            encoder: a sentence encoder, a folder or Hub id.
            texts: such as owners ask, of the records that stay.
            owner: of each text.
            revision: of the encoder: branch, tag or commit on the Hub.
            strangers: the share of texts of unknown owners that may go to a neighbour's adapter.

        Returns:
            What gives a guess for each text, to be used in place of its owner.

        Raises:
            InputError: the model knows fewer than two of the owners, or there is no such encoder.
        """
        return Router(SentenceEncoder(encoder, self.device, revision), texts, owner, self.shards_of(owner), strangers)

    def score(self, records: Dataset, owner: Sequence[Any], batch_size: int = 16) -> pa.Table:
        """What the model makes of records whose answers are known, see :func:`~hf_unlearn.evaluation.scoring.score`.

        Args:
            records: with the columns that the model was trained on.
            owner: of each record, None without one.
            batch_size: examples in a forward pass.
        """
        sharding = self.sharding
        encoder = make_encoder(
            records, sharding.task, self._config, self.tokenizer, sharding.settings.get("max_length"),
            layout_of(sharding.settings),
        )  # fmt: skip
        examples = with_rows(records) if encoder is None else cast(Dataset, encode(records, encoder, "scored"))
        collator = PaddingCollator(padding_id(self.tokenizer, self._config)).of(self._config)
        names = tuple(sharding.labels or ()) if TASKS[sharding.task].classes else ()
        evidence = EvidenceSets(sharding.task, {"retained": examples}, collator, batch_size, classes=names)
        return routed_scores(self, evidence, {"retained": self.shards_of(owner)})["retained"]

    # How

    @staticmethod
    def _checked(owner: Sequence[Any], inputs: Mapping[str, torch.Tensor]) -> Sequence[Any]:
        rows = {len(tensor) for tensor in inputs.values()}
        if isinstance(owner, str) or rows != {len(owner)}:
            raise InputError(
                f"owner must be a list with one owner, or None, for each of the {max(rows, default=0)} rows."
            )
        return owner

    def _parts(
        self, shards: Sequence[int | None], rows: Sequence[int]
    ) -> Iterator[tuple[list[int], list[int | None]]]:
        """The rows that are answered together: no more shards than may be loaded, of a head that cannot mix, one."""
        kinds = list(dict.fromkeys(shards[row] for row in rows))
        named = [shard for shard in kinds if shard is not None]
        most = self._max_loaded if self._mixes else 1
        groups: list[list[int | None]] = [[*named[i : i + most]] for i in range(0, len(named), most)]
        if None in kinds:
            if groups and self._mixes:
                groups[0].append(None)
            else:
                groups.append([None])
        for group in groups:
            chosen = [row for row in rows if shards[row] in group]
            yield chosen, [shards[row] for row in chosen]

    def _forward(self, shards: Sequence[int | None], inputs: Inputs) -> torch.Tensor:
        inputs = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        self.tokens += inputs["input_ids"].numel()
        if names := self._names(shards):
            if self._mixes:
                return self._peft(**inputs, **names).logits
            self._peft.set_adapter(names["adapter_names"][0])
            return self._peft(**inputs).logits
        return self._plain(**inputs).logits

    def _voted(self, shards: Sequence[int | None]) -> tuple[list[int], list[int]]:
        """The rows that all adapters answer, and the others."""
        parts: tuple[list[int], list[int]] = ([], [])
        for i, shard in enumerate(shards):
            parts[shard is not None or self.sharding.unknown != "vote"].append(i)
        return parts

    @property
    def _voters(self) -> list[Shard]:
        if not self.sharding.parts:
            raise InputError("All owners of this model were deleted, so there is no adapter left to vote.")
        return self.sharding.parts

    def _vote(self, inputs: Inputs) -> torch.Tensor:
        """The logarithm of the mean probability of each class, or token, over the adapters that know it."""
        labels = self.sharding.labels if TASKS[self.sharding.task].classes else None
        total: Any = 0.0
        counts: Any = torch.zeros((), device=self.device)
        for part in self._voters:
            rows = len(next(iter(inputs.values())))
            known = torch.tensor(labels is None or [label in part.classes for label in labels], device=self.device)
            found = self._forward([part.number] * rows, inputs).float().softmax(-1)
            total, counts = total + torch.where(known, found, 0.0), counts + known
        mean = total / counts.clamp(min=1)
        return (mean / mean.sum(-1, keepdim=True)).clamp(min=TINY if labels is None else LEAST).log()

    def _written_by_vote(self, inputs: Inputs, options: Mapping[str, Any]) -> torch.Tensor:
        """What all adapters write together: a row is read once by each, and the mean decides on every token."""
        voters = [part.number for part in self._voters]
        rows = len(next(iter(inputs.values())))
        given = options.get("generation_config") or cast(Any, plain_model(cast(Model, self.model))).generation_config
        if options.get("do_sample", given.do_sample):
            raise InputError("All adapters vote on the likeliest token, and none is sampled; set do_sample to False.")
        if len(voters) > self._max_loaded:
            raise InputError(
                f"All {len(voters):,} adapters vote on each token, and max_loaded={self._max_loaded} keeps fewer in "
                f"memory; load the model with max_loaded={len(voters)}."
            )
        names = self._names(voters * rows)
        mean = _MeanOfVoters(len(voters), options.get("num_beams", given.num_beams) or 1)
        processors = [*options.get("logits_processor", ()), mean]
        repeated = {name: tensor.repeat_interleave(len(voters), 0) for name, tensor in inputs.items()}
        written = self._peft.generate(**repeated, **{**options, "logits_processor": processors}, **names)
        # Those who voted on a row have written the same.
        return written.unflatten(0, (rows, len(voters), -1))[:, 0].flatten(0, 1)

    # Adapters

    @property
    def _config(self) -> PretrainedConfig:
        return plain_model(cast(Model, self.model)).config

    @property
    def _peft(self) -> PeftModel:
        assert isinstance(self.model, PeftModel)
        return self.model

    @property
    def _plain(self) -> nn.Module:
        """The base model without any adapter."""
        return _WithoutAdapter(self.model) if isinstance(self.model, PeftModel) else self.model

    @property
    def _mixes(self) -> bool:
        """Whether PEFT can answer rows of several adapters in one batch."""
        wrapped = [one for one in self.model.modules() if isinstance(one, ModulesToSaveWrapper)]
        return not TASKS[self.sharding.task].classes or (
            bool(wrapped) and all(isinstance(one.original_module, nn.Linear) for one in wrapped)
        )

    def _names(self, shards: Sequence[int | None]) -> dict[str, list[str]]:
        """PEFT's argument for the adapter of each row, which are loaded then; empty where no row has one."""
        wanted = sorted({shard for shard in shards if shard is not None})
        for shard in wanted:
            self._load(shard)
        if wanted:
            self._peft.set_adapter(str(wanted[0]))
        for shard in [*self._loaded][: max(0, len(self._loaded) - self._max_loaded)]:
            self._peft.delete_adapter(str(shard))
            del self._loaded[shard]
        if not wanted:
            return {}
        return {"adapter_names": [BASE if shard is None else str(shard) for shard in shards]}

    def _load(self, shard: int) -> None:
        if shard not in self._loaded:
            part = self.sharding.part(shard)
            assert part is not None
            folder = adapter_folder(self.source, part)
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(folder), str(shard))
            else:
                self.model = PeftModel.from_pretrained(cast(PreTrainedModel, self.model), folder, str(shard))
            self.model.eval()
        self._loaded[shard] = None
        self._loaded.move_to_end(shard)


class _MeanOfVoters(LogitsProcessor):
    """Gives all copies of a row the logarithm of their mean probability; the copies of a row stand together."""

    def __init__(self, voters: int, beams: int):
        self.shape = (-1, voters, beams)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        each = scores.softmax(-1).unflatten(0, self.shape)
        return each.mean(1, keepdim=True).expand_as(each).flatten(0, 2).clamp(min=TINY).log()


class _WithoutAdapter(nn.Module):
    """A model under PEFT as if it had no adapter."""

    def __init__(self, model: PeftModel):
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> Any:
        with self.model.disable_adapter():
            return self.model(**inputs)

    def generate(self, **options: Any) -> Any:
        with self.model.disable_adapter():
            return self.model.generate(**options)


class _ForOwner(nn.Module):
    """A sharded model as one owner's, for a pipeline, which asks for no more than this."""

    def __init__(self, served: ShardedModel, owner: Any):
        super().__init__()
        base = plain_model(cast(Model, served.model))
        self.config: PretrainedConfig = base.config
        if base.can_generate():
            self.generation_config: GenerationConfig | None = base.generation_config
        self.device, self.dtype, self.can_generate = base.device, base.dtype, base.can_generate
        # A module would count the weights as its own.
        self._answer, self._write, self._owner = served.__call__, served.generate, owner

    def forward(self, **inputs: torch.Tensor) -> TokenClassifierOutput:
        rows = len(inputs["input_ids"])
        return TokenClassifierOutput(logits=cast(Any, self._answer([self._owner] * rows, **inputs)))

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        return self._write([self._owner] * len(input_ids), input_ids=input_ids, **options)


def _rows(inputs: Mapping[str, torch.Tensor], rows: Sequence[int]) -> Inputs:
    return {name: tensor[list(rows)] for name, tensor in inputs.items()}


def _joined(parts: Sequence[tuple[Sequence[int], torch.Tensor]]) -> torch.Tensor:
    """Parts of a batch in the order of its rows."""
    order = torch.tensor([row for rows, _ in parts for row in rows])
    return torch.cat([part for _, part in parts])[order.argsort()]


# Measuring


class _OfShard(nn.Module):
    """A sharded model as one shard answers, or as it answers to the unknown."""

    def __init__(self, served: ShardedModel, shard: int | None, classes: Sequence[str]):
        super().__init__()
        self.served, self.shard, self.model, self.classes = served, shard, served.model, classes

    def forward(self, **inputs: torch.Tensor) -> Any:
        rows = len(next(iter(inputs.values())))
        logits = self.served.logits([self.shard] * rows, inputs)
        return SimpleNamespace(logits=in_places(logits, self.served.sharding.labels or (), self.classes))


def routed_scores(
    served: ShardedModel, evidence: EvidenceSets, shards: Mapping[SetName, Sequence[int | None]]
) -> dict[SetName, pa.Table]:
    """Score the model on every set, each record by the shard that answers it; ``shards`` are by set and record."""
    found: dict[SetName, list[pa.Table]] = {name: [] for name in evidence.sets}
    for shard in dict.fromkeys(shard for of_set in shards.values() for shard in of_set):
        sets: dict[SetName, Dataset] = {}
        for name, part in evidence.sets.items():
            mine = np.array([one == shard for one in shards[name]])[np.array(part["row"])]
            if mine.any():
                sets[name] = part.select(np.flatnonzero(mine))
        for name, table in evidence.with_sets(sets).score(_OfShard(served, shard, evidence.classes)).items():
            found[name].append(table)
    return {name: pa.concat_tables(tables).sort_by("row") for name, tables in found.items()}
