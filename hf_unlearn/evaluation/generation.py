"""One generation pass over a set of records: what the model writes after the beginning of each."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby, takewhile
from typing import Any, get_args

import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from rouge_score.rouge_scorer import RougeScorer
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.encoding import padding_id
from ..errors import InputError
from ..models.limits import positions
from ..models.loading import Model
from ..models.tasks import IGNORED, TASKS, Task
from .measured_sets import JUDGED, EvidenceSets
from .report import SetName
from .scoring import Context, evaluating, preserved_rng, shared_batches
from .utility.comparison import MeasuredOn

PREFIXES = (0, 8, 16, 32)  # tokens of the text that the model is given
NEW_TOKENS = 200  # after a prompt, as TOFU's evaluation
CONTINUATION = 50  # tokens in a row that make a verbatim copy, as in Carlini et al. 2023, arXiv:2202.07646

# How a model says in English that it does not know or refuses, as in TOFU's "idk" answers.
REFUSALS = (
    "i don't have", "i do not have", "i don't know", "i do not know", "i really don't know", "i don't possess",
    "i don't hold", "i don't seem", "i'm not", "i am not", "i'm unable", "i am unable", "i'm unaware", "i can't",
    "i cannot", "i haven't", "i have not", "i've not", "i have no", "i've no", "i've got no", "i have yet", "i've yet",
    "i lack", "i'm lacking", "i'm missing", "i'm at a loss", "i'm clueless", "i'm sorry", "i am sorry", "i apologize",
    "i must decline", "no data on", "not something i", "not in my", "not within my", "beyond my", "outside my",
    "out of my", "my training", "my understanding", "my programming", "my capabilities", "my database",
    "my databases", "my knowledge doesn't", "my resources don't", "as an ai",
)  # fmt: skip
_REFUSAL = re.compile(rf"\b({'|'.join(map(re.escape, REFUSALS))})\b")
_FIRST_SENTENCE = re.compile(r".*?(?:[.!?\n]|$)", re.DOTALL)

Guide = Callable[[dict[str, torch.Tensor]], LogitsProcessor]

# The table of :func:`measure`.
COLUMNS: list[tuple[str, pa.DataType]] = [
    *((name, pa.int64()) for name in ("row", "passage", "prefix", "tokens", "matched")),
    ("extracted", pa.bool_()),
    *((name, pa.float64()) for name in ("rouge1_recall", "rougeL_recall", "rougeL")),
    ("equal", pa.bool_()),
    ("written", pa.int64()),
    ("refused", pa.bool_()),
]


@dataclass(frozen=True)
class Generation:
    """One request to continue a text, and what the model wrote.

    Attributes:
        row: the record's position in its set.
        passage: which text of the record: a conversation with several answers, or a document in pieces, has several.
        prefix: tokens of the passage that the model was given.
        read: what the model reads, token ids.
        begun: what its decoder was given, in models that read one text and write another.
        wanted: the rest of the passage, without the end of the text.
        new_tokens: how many it may write.
        written: what it wrote, without the end of the text.
    """

    row: int
    passage: int
    prefix: int
    read: list[int] = field(repr=False)
    begun: list[int] = field(repr=False)
    wanted: list[int] = field(repr=False)
    new_tokens: int
    written: list[int] = field(default_factory=list, repr=False)


@torch.no_grad()
def generate(
    model: Model,
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: Task,
    batch_size: int,
    prefixes: Sequence[int] = PREFIXES,
    new_tokens: int = NEW_TOKENS,
    samples: int | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    context: Context = nullcontext,
    guide: Guide | None = None,
) -> list[Generation]:
    """Let a model continue each record from the prompt and from several places in the text.

    Decoding is greedy, or samples from the model's own distribution, without any cut unless ``top_k`` is given. Of the
    model's generation settings only the tokens that end a text count.

    Args:
        model, tokenizer: a language model or an encoder-decoder; its training mode is restored afterwards, and so are
            the random number generators.
        examples: as made by :func:`~hf_unlearn.data.encoding.encode`; the labelled tokens are the text.
        task: what the model does.
        batch_size: sequences in a forward pass; the processes of a launch share the batches.
        prefixes: how many tokens of the text to give. With 0 the model sees the prompt only, so texts without a
            prompt have no such line; a text that is no longer than the prefix has none either.
        new_tokens: written after a prompt at most; after a longer prefix at most as many as are left of the text.
        samples, temperature: how many of each request, at which temperature; None for greedy decoding, once.
        top_k: samples are drawn among so many likeliest tokens; 0 for all.
        seed: of the samples, which depend on the size of the batches too.
        context: makes what is entered around the forward passes, such as ``accelerator.autocast``.
        guide: makes what changes the scores of the next token, from the inputs of a batch.

    Returns:
        One for each passage, prefix and sample, in the order of the records; the same in every process.

    Raises:
        InputError: the model does not write texts, or the numbers are out of range.
    """
    check_writes(task)
    if not prefixes or min(prefixes) < 0 or new_tokens < 1:
        raise InputError(f"prefixes={tuple(prefixes)} and new_tokens={new_tokens} must be at least 0 and 1.")
    if samples is not None and samples < 1:
        raise InputError(f"samples={samples} must be at least 1.")
    writer: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    two_texts = TASKS[task].two_texts
    ends = _ends(writer, tokenizer)
    limit = positions(writer.config)
    asked = _requests(examples, tokenizer, ends, two_texts, sorted(set(prefixes)), new_tokens, limit)
    requests = [request for request in asked for _ in range(samples or 1)]
    batches = list(_batches(requests, batch_size, limit))
    drawing: dict[str, Any] = {"do_sample": False}
    if samples is not None:
        drawing = {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": 1.0}
    settings = GenerationConfig(
        **drawing,
        num_beams=1,
        use_cache=True,
        pad_token_id=padding_id(tokenizer, writer.config),
        eos_token_id=sorted(ends) or None,
    )
    found: list[tuple[int, list[int]]] = []
    synced = PartialState().num_processes > 1
    with evaluating(model), _no_generation_config(writer), context(), preserved_rng():
        for (number, batch), counts in shared_batches(list(enumerate(batches)), "Generating"):
            # The samples of a batch are the same whichever process draws them.
            torch.manual_seed(seed + number)
            picked = [requests[j] for j in batch]
            settings.max_new_tokens = max(request.new_tokens for request in picked)
            inputs, given = _stacked(writer, picked, settings, two_texts)
            guides = LogitsProcessorList([guide(inputs)] if guide else [])
            out = writer.generate(**inputs, generation_config=settings, logits_processor=guides, synced_gpus=synced)
            if counts:
                found += [(j, ids[given:]) for j, ids in zip(batch, out.tolist(), strict=True)]
    found = gather_object(found)
    written = {j: _until(ids[: requests[j].new_tokens], ends) for j, ids in found}
    return [replace(request, written=written[j]) for j, request in enumerate(requests)]


def measure(generations: list[Generation], tokenizer: PreTrainedTokenizerBase) -> pa.Table:
    """Compare what a model wrote with the texts.

    ROUGE is that of Lin (2004) as ``rouge-score`` computes it, with stemming; the text's words are those of a-z and
    0-9, so it says nothing of other scripts.

    Returns:
        A table without any text, a line for each passage and prefix: ``row``, ``passage`` and ``prefix`` (see
        :class:`Generation`), ``tokens`` (those compared: :data:`CONTINUATION`, or what is left of the text if that
        is less; few tokens are easily guessed), ``matched`` (those of them that the model wrote before it first
        differed), ``extracted`` (whether it wrote all of them), ``rouge1_recall``, ``rougeL_recall`` and ``rougeL``,
        the F-measure (against all that is left of the text; null where that has no word), ``equal`` (whether it wrote
        all that is left and no more, up to blanks around it), ``written`` (tokens that the model wrote) and
        ``refused`` (whether its first sentence contains one of :data:`REFUSALS`).
    """
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    lines = []
    for generation in generations:
        wanted = generation.wanted[:CONTINUATION]
        pairs = zip(wanted, generation.written, strict=False)
        matched = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        text, reference = (
            str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in (generation.written, generation.wanted)
        )
        rouge = scorer.score(reference, text) if re.search("[a-z0-9]", reference.lower()) else None
        lines.append(
            {
                "row": generation.row,
                "passage": generation.passage,
                "prefix": generation.prefix,
                "tokens": len(wanted),
                "matched": matched,
                "extracted": matched == len(wanted),
                "rouge1_recall": rouge["rouge1"].recall if rouge else None,
                "rougeL_recall": rouge["rougeL"].recall if rouge else None,
                "rougeL": rouge["rougeL"].fmeasure if rouge else None,
                "equal": text.strip() == reference.strip(),
                "written": len(generation.written),
                "refused": is_refusal(text),
            }
        )
    return pa.Table.from_pylist(lines, pa.schema(COLUMNS))


def generation_tables(
    model: Model,
    evidence: EvidenceSets,
    tokenizer: PreTrainedTokenizerBase,
    *,
    records: int,
    seed: int,
    context: Context = nullcontext,
) -> tuple[dict[SetName, pa.Table], int]:
    """Let a model continue records of S and H, and compare what it writes with them.

    A model that reads one text and writes another also writes for the set that utility is measured on.

    Args:
        model, tokenizer, context: as for :func:`generate`.
        evidence: the encoded records.
        records: of each set at most, drawn at random.
        seed: of the draw.

    Returns:
        By set the table of :func:`measure`, with the column ``group`` where the examples have it; and how many tokens
        were read and written, of two texts half as many, because each passes through half of the model.
    """
    tables: dict[SetName, pa.Table] = {}
    tokens = 0
    useful = next((name for name in get_args(MeasuredOn) if name in evidence.sets), None)
    for name, part in evidence.at_most(records, seed).sets.items():
        prefixes: tuple[int, ...] = PREFIXES
        if name not in JUDGED:
            if name != useful or not TASKS[evidence.task].two_texts:
                continue
            prefixes = PREFIXES[:1]
        found = generate(
            model,
            part,
            tokenizer,
            task=evidence.task,
            batch_size=evidence.batch_size,
            prefixes=prefixes,
            context=context,
        )
        tokens += sum(len(ids) for one in found for ids in (one.read, one.begun, one.written))
        tables[name] = measure(found, tokenizer)
        if "group" in part.column_names:
            groups = dict(zip(part["row"], part["group"], strict=True))
            column = [groups[row] for row in tables[name]["row"].to_pylist()]
            tables[name] = tables[name].append_column("group", pa.array(column, pa.int64()))
    return tables, tokens // 2 if TASKS[evidence.task].two_texts else tokens


def check_writes(task: Task) -> None:
    """Raise InputError for a task whose models write no text."""
    if not (TASKS[task].next_token or TASKS[task].two_texts):
        raise InputError(f"A model for {task} writes no text, so nothing can be extracted from it.")


def is_refusal(text: str) -> bool:
    """Whether the first sentence of an English text says that its writer does not know or refuses.

    It finds too much where the text to forget is itself written in the first person, such as a letter.
    """
    first = _FIRST_SENTENCE.match(text.strip().lower().replace("\u2019", "'"))
    return first is not None and _REFUSAL.search(first.group()) is not None


def _requests(
    examples: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    ends: set[int],
    two_texts: bool,
    prefixes: list[int],
    new_tokens: int,
    limit: float,
) -> Iterator[Generation]:
    """The requests of all examples; ``limit`` is the number of positions of the model."""
    special = set(tokenizer.all_special_ids)
    passages: dict[int, int] = {}
    for example in examples:
        ids, labels, row = example["input_ids"], example["labels"], example["row"]
        for start, stop in [(0, len(labels))] if two_texts else _runs(labels):
            # A token such as BOS opens the text and is no part of it.
            first = start
            while first < stop and labels[first] in special:
                first += 1
            text = _until(labels[first:stop], ends)
            passage = passages.setdefault(row, 0)
            passages[row] += 1
            for prefix in prefixes:
                if len(text) <= prefix or (prefix == 0 and start == 0 and not two_texts):
                    continue
                read = ids if two_texts else ids[: first + prefix]
                begun = labels[: first + prefix] if two_texts else []
                room = limit - (len(begun) + 1 if two_texts else len(read))
                asked = new_tokens if prefix == 0 else min(new_tokens, len(text) - prefix)
                yield Generation(row, passage, prefix, read, begun, text[prefix:], int(min(asked, room)))


def _runs(labels: list[int]) -> Iterator[tuple[int, int]]:
    """Start and end of each stretch of labelled tokens."""
    position = 0
    for labelled, group in groupby(labels, key=lambda label: label != IGNORED):
        length = len(list(group))
        if labelled:
            yield position, position + length
        position += length


def _batches(requests: list[Generation], batch_size: int, limit: float) -> Iterator[list[int]]:
    """Positions of requests, longest first; those of a batch have equal beginnings, and none exceeds the limit."""
    order = sorted(range(len(requests)), key=lambda j: (-len(requests[j].begun), -len(requests[j].read)))
    batch: list[int] = []
    steps = 0
    for j in order:
        first = requests[batch[0]] if batch else requests[j]
        longest = len(first.begun) + 1 if first.begun else len(first.read)
        steps = max(steps, requests[j].new_tokens)
        if batch and (
            len(batch) == batch_size or len(requests[j].begun) != len(first.begun) or longest + steps > limit
        ):
            yield batch
            batch, steps = [], requests[j].new_tokens
        batch.append(j)
    if batch:
        yield batch


def _stacked(
    model: Any, requests: list[Generation], settings: GenerationConfig, two_texts: bool
) -> tuple[dict[str, torch.Tensor], int]:
    """The inputs of a batch, and how many tokens of what comes out were given.

    Padding stands on the left, so that all texts continue at the same place; an encoder's input is padded on the
    right, as in training.
    """
    device = model.device
    read = [torch.tensor(request.read) for request in requests]
    side = "right" if two_texts else "left"
    fill = int(settings.pad_token_id)
    ids = pad_sequence(read, batch_first=True, padding_value=fill, padding_side=side)
    mask = pad_sequence([torch.ones_like(r) for r in read], batch_first=True, padding_side=side)
    inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    if not two_texts:
        return inputs, ids.shape[1]
    # The model writes the token before the text itself, and the last of these labels is not read.
    labels = torch.tensor([[*request.begun, fill] for request in requests], device=device)
    begun = model.prepare_decoder_input_ids_from_labels(labels)
    settings.decoder_start_token_id = int(begun[0, 0])
    return inputs | {"decoder_input_ids": begun}, begun.shape[1]


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text; a chat model has another one for the end of a turn."""
    ends: set[int] = set()
    for token in (tokenizer.eos_token_id, model.generation_config.eos_token_id, model.config.eos_token_id):
        ends |= set(token) if isinstance(token, list) else {token} - {None}
    return ends


def _until(ids: list[int], ends: set[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))


@contextmanager
def _no_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Without the model's own settings, such as a repetition penalty, which replace what a caller leaves open."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
