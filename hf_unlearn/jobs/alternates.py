"""`hf-unlearn alternates`: a model makes up other answers to what S asks, into a private file.

After Mekala et al. 2024, arXiv:2409.13474: the model, which is the original there, reads a question with its answer
and the request to make up another one, and five answers are drawn at temperature 1 among the 50 likeliest tokens.
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
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.alternates_file import Alternates, AlternatesSettings, append, begin, forget_digest, read_alternates
from ..data.arrow_tables import column_names
from ..data.copies.exact import normalised_text
from ..data.encoding import RecordEncoder, resolve_max_length
from ..data.format import RecordFormat, record_format, template_fields
from ..data.replacements import asked_and_answered
from ..errors import InputError
from ..evaluation.generation import check_writes, generate
from ..methods.table import METHODS
from ..models.loading import Model, load_any, load_config, load_tokenizer, peft_task, task_of, to_device
from ..models.location import ModelSource, locate
from ..models.tasks import TASKS, Task
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
# With which the authors drew, as it is the default of transformers.
TOP_K = 50
# How often answers are drawn at most until a record has enough that differ.
DRAWS = 4


def alternates(values: dict[str, Any]) -> Alternates:
    """Let a model make up other answers to what the records to forget ask, and write them to a private file.

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
    _check(asked, prompt)
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
    with config.main_process_first(desc="looking into the file of alternates"):
        done = begin(path, settings)
    if done < len(pairs):
        model = to_device(load_any(generator, task, **prepared.loading), config.device)
        writer = AlternatesWriter(model, prompts, config, settings)
        if done:
            out.print(f"{plain(path)} has alternates to {done} records; the others follow.")
        hidden = None if PartialState().is_main_process else True
        for first in tqdm(range(done, len(pairs), settings.batch_size), desc="Alternates", disable=hidden):
            found = writer.write(pairs[first : first + settings.batch_size], first)
            if PartialState().is_main_process:
                append(path, first, found)
        PartialState().wait_for_everyone()
    written = read_alternates(path)
    _print(out, path, written)
    return written


def _check(asked: AlternatesArguments, prompt: str) -> None:
    if asked.alternates_per_record < 1:
        raise InputError(f"--alternates_per_record {asked.alternates_per_record} is not possible; give 1 or more.")
    fields = template_fields(prompt)
    if "prompt" not in fields or set(fields) - set(FIELDS):
        raise InputError("--alternates_prompt must name {prompt}, and may name {completion} and nothing else.")


def _place(name: str | None, config: UnlearningConfig) -> Path:
    """Where the file is to be; raises InputError where that is impossible, or where it might be published."""
    if name is None:
        raise InputError("Where to? Name a private file with --alternates_file, such as alternates.jsonl.")
    path = Path(name)
    if not path.parent.is_dir() or path.is_dir():
        raise InputError(f"Alternates cannot be written to {path}; name a file in a folder that is there.")
    if path.resolve().is_relative_to(config.folder.resolve()):
        raise InputError(
            f"--alternates_file {path} lies in --output_dir, with which it might be passed on; name another place."
        )
    return path


def _records(prepared: Preparation) -> tuple[Dataset, RecordFormat]:
    """S and its layout; raises InputError where it cannot be read as texts."""
    forget = prepared.parts.forget
    if not isinstance(forget, Dataset):
        raise InputError("Alternates are for records that can be counted; leave dataset_streaming out.")
    columns = column_names(forget)
    if "input_ids" in columns:
        raise InputError("Alternates need the records to forget as texts, not as tokens; give the records themselves.")
    return forget, record_format(columns, prepared.task, **prepared.config.layout)


def _generator(prepared: Preparation, name: str | None, model_args: ModelArguments) -> tuple[ModelSource, Task]:
    """The model that writes, and what it does; raises InputError where it writes no text."""
    if name is None:
        return prepared.source, prepared.task
    source = locate(name, trust_remote_code=model_args.trust_remote_code)
    task = task_of(source.name, load_config(source), None, peft=peft_task(source))
    check_writes(task)
    return source, task


def _print(out: Console, path: Path, written: Alternates) -> None:
    entry, wanted = written.entry, written.settings.wanted
    out.print(
        f"{plain(path)} holds {entry.texts} made-up answers to {entry.records} records, written by "
        f"{plain(entry.generator)}. It is private; delete it once no run needs it."
    )
    few = sum(0 < len(texts) < wanted for texts in written.texts)
    none = sum(not texts for texts in written.texts)
    if few:
        out.print(f"{few} records have fewer than {wanted}: what else was drawn was the record's own, or came twice.")
    if none:
        out.print(
            f"[bold red]{none} records have none,[/] and the method altpo needs one for each; write the file anew "
            "with another --seed, --generator or --alternates_prompt."
        )


@dataclass
class AlternatesPrompts:
    """What a model reads to make up answers.

    Attributes:
        tokenizer: the model's. Where it has a chat template, what the model reads is a user's turn.
        task: what the model does.
        prompt: the template.
    """

    tokenizer: PreTrainedTokenizerBase
    task: Task
    prompt: str

    def check(self, pairs: Sequence[tuple[str, str]], limit: int) -> None:
        """Raise InputError where what is to be read, with the record's own answer after it, has too many tokens."""
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
                f"For {long} of the {len(pairs)} records to forget, what the generator is to read is longer than the "
                f"{limit} tokens that it reads; give a shorter --alternates_prompt or another --generator."
            )

    def encode(self, pairs: Sequence[tuple[str, str]], rows: Sequence[int]) -> dict[str, list[Any]]:
        """What is to be read, as examples in which the record's own answer is what is to be written."""
        two_texts = TASKS[self.task].two_texts
        chat = self.tokenizer.chat_template is not None and not two_texts
        prompts: list[Any] = []
        answers: list[Any] = []
        for prompt, completion in pairs:
            read = self.prompt.format(prompt=prompt, completion=completion)
            # A record without an answer has a place for one all the same.
            answer = completion or "-"
            prompts.append([{"role": "user", "content": read}] if chat else read)
            answers.append([{"role": "assistant", "content": answer}] if chat else f" {answer}")
        form = RecordFormat("text_pairs" if two_texts else "prompt_completion")
        # What is too long is refused, and not cut.
        encoder = RecordEncoder(self.tokenizer, form, max_length=2**30)
        return encoder({"prompt": prompts, "completion": answers}, list(rows))

    def answer(self, written: list[int]) -> str:
        """What a model wrote, up to where it begins with another question."""
        text = str(self.tokenizer.decode(written, skip_special_tokens=True))
        label = self.prompt.partition("{prompt}")[0].rpartition("\n")[2].strip()
        return (text.split(label)[0] if label else text).strip()


@dataclass
class AlternatesWriter:
    """Lets a model make up answers.

    Attributes:
        model: a language model or an encoder-decoder.
        prompts: what it reads.
        config: the settings of the command.
        settings: what the answers follow from.
    """

    model: Model
    prompts: AlternatesPrompts
    config: UnlearningConfig
    settings: AlternatesSettings

    def write(self, pairs: Sequence[tuple[str, str]], first: int) -> list[list[str]]:
        """Make up answers that differ from the record's own and from each other, up to case and white space.

        Args:
            pairs: what some records ask and answer.
            first: the number of the first of them, from which with the seed the answers follow.

        Returns:
            For each record as many as are wanted, or fewer.
        """
        wanted, prompts = self.settings.wanted, self.prompts
        found: list[list[str]] = [[] for _ in pairs]
        known: list[set[str | None]] = [{None, text} for text in _normalised([answer for _, answer in pairs])]
        for draw in range(DRAWS):
            rows = [row for row, texts in enumerate(found) if len(texts) < wanted]
            if not rows:
                break
            written = generate(
                self.model,
                Dataset.from_dict(prompts.encode([pairs[row] for row in rows], rows)),
                prompts.tokenizer,
                task=prompts.task,
                batch_size=self.settings.batch_size,
                prefixes=(0,),
                samples=max(wanted - len(found[row]) for row in rows),
                top_k=TOP_K,
                seed=int(np.random.default_rng([self.settings.seed, first, draw]).integers(2**62)),
                context=lambda: precision(self.config),
            )
            texts = [prompts.answer(one.written) for one in written]
            for one, text, same in zip(written, texts, _normalised(texts), strict=True):
                if len(found[one.row]) < wanted and same not in known[one.row]:
                    known[one.row].add(same)
                    found[one.row].append(text)
        return found


def _normalised(texts: list[str]) -> list[str | None]:
    """Each text as it is compared; None where there is nothing in it."""
    return normalised_text(pa.table({"text": pa.array(texts, pa.string())}), ["text"]).to_pylist()
