"""What a batch of several owners costs: time and memory of adapters by owner against one adapter.

    OMP_NUM_THREADS=1 python recipes/benchmarks/shards/latency.py

The base has the shape of SmolLM2-135M and random weights. It is dealt into 8 adapters of rank 16 on all linear layers,
of one step each. Then batches of 8 rows are scored and continued: 8 rows of one owner, and a row of each of 8 owners.
Times are CPU seconds, the median of several rounds in which the two take turns; memory is what the process holds.

The numbers are OUTPUT/latency.json.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kept import MODULES, Cells, around, run
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from hf_unlearn import load_sharded
from hf_unlearn.data.request.digests import load_digest_key
from hf_unlearn.sharding.layout import number_of, owner_digests
from hf_unlearn.sharding.serving import ShardedModel

SHARDS = 8
SHAPE = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip


def base(folder: Path, tokenizer: Path) -> Path:
    """A folder with the base model."""
    if not (folder / "model.safetensors").is_file():
        set_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def one_owner_each(key_file: Path) -> list[str]:
    """An owner for each shard."""
    found: dict[int, str] = {}
    names = [f"owner {number}" for number in range(1000)]
    for name, digest in zip(names, owner_digests(load_digest_key(key_file), "owner", names), strict=True):
        found.setdefault(number_of(digest, SHARDS), name)
    return [found[number] for number in range(SHARDS)]


def resident() -> float:
    """The memory that this process holds, in MiB."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def megabytes(model: ShardedModel) -> float:
    """All weights of a model, in MiB."""
    return sum(one.numel() * one.element_size() for one in model.model.parameters()) / 2**20


def ratio(rounds: int, alone: Callable[[], Any], mixed: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of two ways that take turns, and how many times as long the second takes."""
    took: dict[str, list[float]] = {"one adapter": [], "of 8 owners": []}
    for _ in range(rounds + 1):
        for name, way in zip(took, (alone, mixed), strict=True):
            started = time.process_time()
            way()
            took[name].append(time.process_time() - started)
    # The first round warms up.
    found = {name: statistics.median(times[1:]) for name, times in took.items()}
    each = [mixed / alone for alone, mixed in zip(*(times[1:] for times in took.values()), strict=True)]
    return {**found, "ratio": statistics.median(each), "lowest": min(each), "highest": max(each)}


def measured(args: argparse.Namespace, folder: Path, owners: list[str], key_file: Path) -> dict[str, Any]:
    before = resident()
    model = load_sharded(str(folder), digest_key_file=str(key_file))
    memory = {"base, resident": resident() - before, "base, weights": megabytes(model)}
    ids = torch.randint(5, SHAPE["vocab_size"], (SHARDS, args.tokens), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for number in (1, SHARDS):
        model([owners[row % number] for row in range(SHARDS)], **inputs)
        memory[f"with {number} adapters, weights"] = megabytes(model)
        memory[f"with {number} adapters, resident"] = resident() - before
    options: dict[str, Any] = {"min_new_tokens": args.new_tokens, "max_new_tokens": args.new_tokens}
    options |= {"do_sample": False, "pad_token_id": 0}
    one = owners[:1] * SHARDS
    return {
        "MiB": memory,
        "scoring": ratio(args.rounds, lambda: model(one, **inputs), lambda: model(owners, **inputs)),
        "generation": ratio(
            args.rounds,
            lambda: model.generate(one, **inputs, **options),
            lambda: model.generate(owners, **inputs, **options),
        ),
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--output", type=Path, default=Path("build/shards/latency"), help="for models and numbers")
    flags.add_argument("--tokenizer", type=Path, default=Path("../shared/models/tinystories-260k"), help="any")
    flags.add_argument("--tokens", type=int, default=64, help="of each row")
    flags.add_argument("--new_tokens", type=int, default=16)
    flags.add_argument("--rounds", type=int, default=5)
    args = flags.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    key_file, data, folder = (args.output / name for name in ("digest.key", "data.jsonl", "sharded"))
    owners = one_owner_each(key_file)
    rows = [{"owner": owner, "text": f"A text of {owner}."} for owner in owners]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run(
        "train", "--model_name_or_path", base(args.output / "base", args.tokenizer), "--dataset_name", data,
        "--shards", SHARDS, "--shard_column", "owner", "--max_steps", 1, "--lora_r", 16, "--lora_target_modules",
        *MODULES, "--output_dir", folder, *around(args.output),
    )  # fmt: skip
    cells = Cells(
        args.output / "latency.json", {name: vars(args)[name] for name in ("tokens", "new_tokens", "rounds")}
    )
    cells.make(0, "8 owners", lambda: measured(args, folder, owners, key_file))


if __name__ == "__main__":
    main()
