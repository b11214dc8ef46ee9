"""How much more memory scoring needs than the forward pass alone, and how much more time.

python recipes/benchmarks/scoring_memory.py          Linux, on the CPU; each number from processes of its own

The models are untrained Llamas with a small and with a large vocabulary, every token is labelled, and there are two
batches, so that both held at once would show. Memory is the most that is resident during the pass, less what is
resident before it; the C library gives large blocks back when they are freed (MALLOC_MMAP_THRESHOLD_), so that it is
what is in use and not what the library keeps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from hf_unlearn.data.encoding import PaddingCollator
from hf_unlearn.evaluation.scoring import score

# Vocabulary, examples in a batch, tokens in an example: 0.5 GiB of logits in float32.
CASES = ((1_024, 256, 512), (256_000, 4, 128))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PASSES = ("forward", "score")
BATCHES = 2


def resident(name: str) -> int:
    """VmRSS, what is resident now, or VmHWM, the most that ever was since it was reset; in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


@torch.no_grad()
def forward(model: Any, examples: Dataset, collator: Any, batch_size: int) -> None:
    for start in range(0, len(examples), batch_size):
        batch = collator([examples[i] for i in range(start, min(start + batch_size, len(examples)))])
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        del logits


def measured(which: str, dtype: str, vocabulary: int, batch_size: int, length: int) -> tuple[float, float]:
    """Bytes, and seconds of one CPU core, of one pass."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=length,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).to(DTYPES[dtype]).eval()
    ids = torch.randint(vocabulary, (BATCHES * batch_size, length)).tolist()
    columns = {"input_ids": ids, "attention_mask": [[1] * length] * len(ids), "labels": ids, "row": range(len(ids))}
    examples = Dataset.from_dict(columns)
    collator = PaddingCollator(0)

    def scored(model: Any, examples: Dataset, collator: Any, batch_size: int) -> None:
        score(model, examples, collator, task="text-generation", batch_size=batch_size)

    run: Callable[..., None] = forward if which == "forward" else scored
    run(model, examples.select(range(1)), collator, 1)  # what the libraries load at first use
    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident("VmRSS"), time.process_time()
    run(model, examples, collator, batch_size)
    return resident("VmHWM") - before, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        which, dtype, *numbers = args.one
        print(json.dumps(measured(which, dtype, *map(int, numbers))))
        return
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**22)}
    print(f"{args.runs} runs in turns; peak memory of scoring, and of the forward pass alone:")
    for case in CASES:
        for dtype in DTYPES:
            found: dict[str, list[tuple[float, float]]] = {which: [] for which in PASSES}
            for _ in range(args.runs):
                for which in PASSES:
                    command = [sys.executable, __file__, "--one", which, dtype, *map(str, case)]
                    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                    found[which].append(json.loads(done.stdout.splitlines()[-1]))
            (memory, seconds), (least, fewest) = (
                [statistics.median(values) for values in zip(*found[which], strict=True)]
                for which in ("score", "forward")
            )
            pairs = zip(found["score"], found["forward"], strict=True)
            ratios = [scored[0] / alone[0] for scored, alone in pairs]
            print(
                f"  vocabulary {case[0]:,}, {case[1]} x {case[2]} tokens, {dtype}: {memory / 2**20:.0f} and "
                f"{least / 2**20:.0f} MiB, ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to "
                f"{max(ratios):.3f}); {seconds:.1f} and {fewest:.1f} s"
            )


if __name__ == "__main__":
    main()
