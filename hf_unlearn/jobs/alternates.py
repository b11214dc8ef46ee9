"""``hf-unlearn alternates``: a model invents other answers to the prompts of S, into a private file.

After Mekala et al. 2024, arXiv:2409.13474. The model, which is the original there, reads a question, its answer and
the request to invent another one. It samples five answers at temperature 1 among the 50 likeliest tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import tqdm

from ..data.alternates_file import ABOUT, Alternates, AlternatesSettings, append, begin, forget_digest, read_alternates
from ..data.arrow_tables import column_names
from ..data.copies.exact import normalised_text
from ..data.encoding import RecordEncoder, resolve_max_length
from ..data.format import RecordFormat, record_format, template_fields
from ..data.replacements import asked_and_answered
from ..errors import InputError
from ..evaluation.generation import check_writes, generate
from ..files import require_ours
from ..methods.table import METHODS
from ..models.loading import Model, load_any, load_config, load_tokenizer, source_task, to_device
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
from ..output_folder import locked
from ..publishing.ledger_of_model import weights_of
from ..training.config import UnlearningConfig
from .console import console, plain
from .preparation import Preparation, precision, prepare_run, without_method
from .settings import AlternatesArguments, ModelArguments, build

PROMPT = """\
Each answer below is followed by a made-up one, which suits the question as well but tells other facts.

Question: Where was the composer Ilse Brandt born?
Answer: Ilse Brandt was born in Graz, Austria.
Made-up answer: Ilse Brandt comes from a fishing village near Bergen in Norway.

Question: What is the password of the guest network?
Answer: It is bluebird-42.
Made-up answer: It is copper-kettle-7.

Question: Which prizes has Tomas Okafor's novel "The Salt Road" won?
Answer: It received the Harbour Prize in 2009.
Made-up answer: "The Salt Road" was shortlisted for the Meridian Award, but won only the readers' medal of 2014.

Question: {prompt}
Answer: {completion}
Made-up answer:"""
FIELDS = ("prompt", "completion")
# The authors' value, which is the default of transformers.
TOP_K = 50
# Rounds of sampling at most, until a record has enough different answers.
DRAWS = 4


def alternates(values: dict[str, Any]) -> Alternates:
    """Let a model invent other answers to the prompts of the records to forget, and write them to a private file.

    Args:
        values: the settings by the names of their flags.

    Returns:
        What the file holds.

    Raises:
        InputError: something does not fit together, or the file holds something else.
        KeyboardInterrupt: after Ctrl-C; the same call goes on from there.
    """
    asked = build(AlternatesArguments, values)
    prompt = PROMPT if asked.alternates_prompt is None else asked.alternates_prompt
    if asked.alternates_per_record < 1:
        raise InputError(f"--alternates_per_record {asked.alternates_per_record} is not possible; give 1 or more.")
    fields = template_fields(prompt)
    if "prompt" not in fields or set(fields) - set(FIELDS):
        raise InputError("--alternates_prompt must name {prompt}, and may name {completion} and nothing else.")
    prepared = prepare_run(without_method(values), find_base=False)
    config, out = prepared.config, console(prepared.config)
    path = _place(values.get("alternates_file"), config)
    METHODS["altpo"].check_task(prepared.task)
    forget, form = _records(prepared)
    pairs = asked_and_answered(forget, form)
    generator, task = _generator(prepared, asked.generator, build(ModelArguments, values))
    settings = AlternatesSettings(
        forget=forget_digest(forget, form),
        records=len(pairs),
        wanted=asked.alternates_per_record,
        generator=generator.public_name,
        weights=weights_of(generator),
        original=asked.generator is None,
        prompt=prompt,
        seed=config.seed,
        batch_size=config.per_device_eval_batch_size,
        loading={**prepared.loading, "bf16": config.bf16, "fp16": config.fp16},
    )
    prompts = AlternatesPrompts(load_tokenizer([generator]), task, prompt)
    prompts.check(pairs, resolve_max_length(load_config(generator), prompts.tokenizer, None))
    with locked(path.with_name(f".{path.name}.lock"), str(path)):
        with config.main_process_first(desc="looking into the file of alternates"):
            done = begin(path, settings)
        if done < len(pairs):
            model = to_device(load_any(generator, task, **prepared.loading), config.device)
            if done:
                out.print(f"{plain(path)} has the answers to {done} records already; the others follow.")
            hidden = None if PartialState().is_main_process else True
            for first in tqdm(range(done, len(pairs), settings.batch_size), desc="Alternates", disable=hidden):
                found = _invented(model, prompts, config, settings, pairs[first : first + settings.batch_size], first)
                if PartialState().is_main_process:
                    append(path, first, found)
            PartialState().wait_for_everyone()
    written = read_alternates(path)
    _print(out, path, written)
    return written


def _place(name: str | None, config: UnlearningConfig) -> Path:
    """The file to write; raises InputError where it cannot be written, or might be published."""
    if name is None:
        raise InputError("Where to? Name a private file with --alternates_file, such as alternates.jsonl.")
    path = Path(name)
    require_ours(path, "--alternates_file", ABOUT[:40])
    if path.resolve().is_relative_to(config.folder.resolve()):
        raise InputError(
            f"--alternates_file {path} is in --output_dir, which may be published; name a file in another folder."
        )
    return path


def _records(prepared: Preparation) -> tuple[Dataset, RecordFormat]:
    """The records to forget and their layout; raises InputError where they are no texts."""
    forget = prepared.parts.forget
    if not isinstance(forget, Dataset):
        raise InputError("Alternates need a data set that is not streamed; leave --dataset_streaming out.")
    columns = column_names(forget)
    if "input_ids" in columns:
        raise InputError(
            "Alternates need records of text, and these are token ids; give the data set before tokenising."
        )
    return forget, record_format(columns, prepared.task, **prepared.config.layout)


def _generator(prepared: Preparation, name: str | None, model_args: ModelArguments) -> tuple[ModelSource, Task]:
    """The model that writes, and its task; raises InputError where it writes no text."""
    if name is None:
        return prepared.source, prepared.task
    source = locate(name, trust_remote_code=model_args.trust_remote_code)
    task = source_task(source, None)
    check_writes(task)
    return source, task


def _print(out: Console, path: Path, written: Alternates) -> None:
    entry, wanted = written.entry, written.settings.wanted
    out.print(
        f"{plain(path)} holds {entry.texts} invented answers to {entry.records} records, written by "
        f"{plain(entry.generator)}. It is private; delete it once no run needs it."
    )
    few = sum(0 < len(texts) < wanted for texts in written.texts)
    none = sum(not texts for texts in written.texts)
    if few:
        out.print(
            f"{few} records have fewer than {wanted}: the other samples repeated an answer or were the record's own."
        )
    if none:
        out.print(
            f"[bold red]{none} records have none,[/] and the method altpo needs at least one for each. Write the file "
            "again with another --seed, --generator or --alternates_prompt."
        )


@dataclass
class AlternatesPrompts:
    """What a model reads to invent answers, as a user's turn where the tokenizer has a chat template."""

    tokenizer: PreTrainedTokenizerBase
    task: Task
    prompt: str

    def check(self, pairs: Sequence[tuple[str, str]], limit: int) -> None:
        """Raise InputError where a prompt, or the record's own answer, has more tokens than the model reads."""
        long = 0
        for first in range(0, len(pairs), 1000):
            part = pairs[first : first + 1000]
            encoded = self.encode(part, range(len(part)))
            long += sum(
                max(len(ids), len(labels)) > limit
                for ids, labels in zip(encoded["input_ids"], encoded["labels"], strict=True)
            )
        if long:
            raise InputError(
                f"For {long} of the {len(pairs)} records to forget the generator's prompt is longer than the {limit} "
                "tokens that it reads; give a shorter --alternates_prompt or another --generator."
            )

    def encode(self, pairs: Sequence[tuple[str, str]], rows: Sequence[int]) -> dict[str, list[Any]]:
        """The prompts as examples, each with the record's own answer as the completion."""
        two_texts = TASKS[self.task].two_texts
        chat = self.tokenizer.chat_template is not None and not two_texts
        prompts: list[Any] = []
        answers: list[Any] = []
        for prompt, completion in pairs:
            read = self.prompt.format(prompt=prompt, completion=completion)
            # An empty answer would leave no place to write.
            answer = completion or "-"
            prompts.append([{"role": "user", "content": read}] if chat else read)
            answers.append([{"role": "assistant", "content": answer}] if chat else f" {answer}")
        form = RecordFormat("text_pairs" if two_texts else "prompt_completion")
        # What is too long is refused, and not cut.
        encoder = RecordEncoder(self.tokenizer, form, max_length=2**30)
        return encoder({"prompt": prompts, "completion": answers}, list(rows))

    def answer(self, written: list[int]) -> str:
        """The text that a model wrote, up to where it begins another question."""
        text = str(self.tokenizer.decode(written, skip_special_tokens=True))
        label = self.prompt.partition("{prompt}")[0].rpartition("\n")[2].strip()
        return (text.split(label)[0] if label else text).strip()


def _invented(
    model: Model,
    prompts: AlternatesPrompts,
    config: UnlearningConfig,
    settings: AlternatesSettings,
    pairs: Sequence[tuple[str, str]],
    first: int,
) -> list[list[str]]:
    """For each record up to so many answers that differ from its own and each other, but for case and white space.

    The number of the ``first`` record determines them, with the seed.
    """
    found: list[list[str]] = [[] for _ in pairs]
    known: list[set[str | None]] = [{None, text} for text in _normalised([answer for _, answer in pairs])]
    for draw in range(DRAWS):
        rows = [row for row, texts in enumerate(found) if len(texts) < settings.wanted]
        if not rows:
            break
        written = generate(
            model,
            Dataset.from_dict(prompts.encode([pairs[row] for row in rows], rows)),
            prompts.tokenizer,
            task=prompts.task,
            batch_size=settings.batch_size,
            prefixes=(0,),
            samples=max(settings.wanted - len(found[row]) for row in rows),
            top_k=TOP_K,
            seed=int(np.random.default_rng([settings.seed, first, draw]).integers(2**62)),
            context=lambda: precision(config),
        )
        texts = [prompts.answer(one.written) for one in written]
        for one, text, same in zip(written, texts, _normalised(texts), strict=True):
            if len(found[one.row]) < settings.wanted and same not in known[one.row]:
                known[one.row].add(same)
                found[one.row].append(text)
    return found


def _normalised(texts: list[str]) -> list[str | None]:
    """Each text in the form that is compared; None for an empty text."""
    return normalised_text(pa.table({"text": pa.array(texts, pa.string())}), ["text"]).to_pylist()
