"""What a step of NPO costs beside one of gradient difference, and a step of RMU beside one that runs all blocks.

python recipes/benchmarks/forget_steps.py

The same batches and the same model, with weights drawn at random, in turns; the optimiser's own work is left out. The
time is that of the processor, where there is no GPU. Each peak of memory is that of a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_unlearn import UnlearningConfig, UnlearningTrainer
from hf_unlearn.methods import step as step_module
from hf_unlearn.models.layers import blocks_of, first_blocks
from hf_unlearn.training.cost import peak_memory_bytes

RECORDS, TOKENS, BATCH, VOCABULARY, BLOCKS = 16, 64, 4, 4096, 8


@contextmanager
def all_blocks(model: Any, count: int) -> Iterator[tuple[list[torch.Tensor], dict[str, Any]]]:
    """As :func:`first_blocks`, with all of them run."""
    with first_blocks(model, len(blocks_of(model))) as (_, options):
        states: list[torch.Tensor] = []
        hook = blocks_of(model)[count - 1].register_forward_hook(lambda module, inputs, output: states.append(output))
        try:
            yield states, options
        finally:
            hook.remove()


def made(method: str, folder: str) -> UnlearningTrainer:
    """A trainer that is about to make its first step."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=BLOCKS,
            num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=TOKENS,
        )
    )  # fmt: skip
    ids = np.random.default_rng(0).integers(3, VOCABULARY, (2 * RECORDS, TOKENS)).tolist()
    labels = [[-100] * (TOKENS // 2) + row[TOKENS // 2 :] for row in ids]
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": np.ones_like(ids).tolist(), "labels": labels})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"[PAD]": 0}, "[PAD]")), pad_token="[PAD]"
    )
    config = UnlearningConfig(
        folder, method=method, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, measure_steps=0,
        disable_tqdm=True, save_strategy="no", method_kwargs={"retain_weight": 1.0} if method == "rmu" else None,
    )  # fmt: skip
    retained, forget = rows.select(range(RECORDS)), rows.select(range(RECORDS, 2 * RECORDS))
    trainer = UnlearningTrainer(model, config, retained, forget, processing_class=tokenizer, task="text-generation")
    trainer._hold_teachers()
    return trainer


def step(trainer: UnlearningTrainer, batch: Any) -> float:
    """Seconds of one step."""
    batches, items = trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
    started = _now()
    trainer.training_step(trainer.model, batches[0], items)
    seconds = _now() - started
    trainer.model.zero_grad(set_to_none=True)
    return seconds


def _now() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def references(trainer: UnlearningTrainer) -> float:
    """Seconds until the log-probabilities under the start are found out."""
    started = _now()
    trainer._find_start_log_p()
    return _now() - started


def peak(method: str) -> None:
    """Print the most memory held over some steps, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = made(method, folder)
        trainer._find_start_log_p()
        trainer.current_gradient_accumulation_steps = 1
        for batch in list(trainer.get_train_dataloader())[:4]:
            step(trainer, batch)
    print(json.dumps(peak_memory_bytes()))


def told(name: str, ratios: list[float]) -> None:
    print(f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--peak", help="only this method, and the most memory that it held")
    args = parser.parse_args()
    if args.peak:
        peak(args.peak)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: made(name, folder) for name in ("gradient_difference", "npo", "rmu")}
        for trainer in trainers.values():
            trainer.current_gradient_accumulation_steps = 1
        precomputed = references(trainers["npo"])
        batches = list(trainers["npo"].get_train_dataloader())
        times: dict[str, list[float]] = {name: [] for name in (*trainers, "rmu, all blocks")}
        for turn in range(args.turns + 1):
            batch, names = batches[turn % len(batches)], list(times)
            for name in names if turn % 2 else reversed(names):
                trainer = trainers[name.split(",")[0]]
                with patch.object(step_module, "first_blocks", all_blocks) if "," in name else nullcontext():
                    seconds = step(trainer, batch)
                if turn:
                    times[name].append(seconds)
    print(f"{args.turns} steps of {BATCH} + {BATCH} records of {TOKENS} tokens, in turns:")
    for first, second in (("npo", "gradient_difference"), ("rmu", "rmu, all blocks")):
        told(f"  {first} / {second}", [a / b for a, b in zip(times[first], times[second], strict=True)])
    print(
        "  median seconds: " + ", ".join(f"{name} {statistics.median(seconds):.3f}" for name, seconds in times.items())
    )
    print(f"  NPO's references of {RECORDS} records, once: {precomputed:.2f} s")
    held = {}
    for name in ("npo", "gradient_difference"):
        command = [sys.executable, __file__, "--peak", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        held[name] = int(done.stdout.strip().splitlines()[-1])
    print(f"  peak memory npo / gradient_difference: {held['npo'] / held['gradient_difference']:.3f}")


if __name__ == "__main__":
    main()
