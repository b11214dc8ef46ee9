"""How much faster one pass gives seven metrics than a pass for each, and whether the values are the same.

python recipes/benchmarks/scoring.py build/tofu/tinystories build/tofu/tofu.jsonl

The metrics: probability, exact memorization, extraction strength, loss, zlib, Min-K% and Min-K%++. The pass for each
is written for this comparison: batches of the same size, then a loop over the records of a batch.
"""

import argparse
import statistics
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import IGNORED, PaddingCollator, RecordEncoder, padding_id
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.measured_sets import evidence_sets


def passes(tokenizer: Any) -> dict[str, Callable[[torch.Tensor, torch.Tensor, int], float]]:
    """By metric, its value for one record: logits of its labelled tokens, their ids, and how many are no text."""

    def loss(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        return float(torch.nn.functional.cross_entropy(logits, ids))

    def exact(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        hits = (logits.argmax(-1) == ids)[: len(ids) - tail]
        return float(hits.float().mean())

    def strength(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        guessed, wanted = (t[: len(ids) - tail].tolist() for t in (logits.argmax(-1), ids))
        k = next(k for k in range(len(wanted) + 1) if guessed[k:] == wanted[k:])
        return 1 - k / len(wanted)

    def compressed(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return loss(logits, ids, tail) / len(zlib.compress(text.encode()))

    def lowest(values: np.ndarray) -> float:
        return float(np.mean(np.sort(values)[: max(1, int(0.4 * len(values)))]))

    def min_k(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        return lowest(logits.log_softmax(-1).gather(1, ids[:, None])[:, 0].numpy())

    def min_k_plus(logits: torch.Tensor, ids: torch.Tensor, tail: int) -> float:
        log_p = logits.log_softmax(-1)
        p = log_p.exp()
        mean = (p * log_p).sum(-1)
        deviation = (p * (log_p - mean[:, None]).square()).sum(-1).clamp(min=1e-6).sqrt()
        return lowest(((log_p.gather(1, ids[:, None])[:, 0] - mean) / deviation).numpy())

    return {
        "probability": lambda *record: float(np.exp(-loss(*record))),
        "exact": exact,
        "extraction": strength,
        "loss": loss,
        "zlib": compressed,
        "min_k": min_k,
        "min_k_plus": min_k_plus,
    }


@torch.no_grad()
def a_pass_for_each(model: Any, examples: Dataset, collator: Any, batch_size: int, metrics: Any) -> dict[str, list]:
    found: dict[str, list] = {}
    for name, metric in metrics.items():
        found[name] = []
        for start in range(0, len(examples), batch_size):
            picked = [examples[i] for i in range(start, min(start + batch_size, len(examples)))]
            batch = collator(picked)
            labels = batch.pop("labels")
            logits = model(**batch).logits
            for example, row, wanted in zip(picked, logits, labels, strict=True):
                kept = wanted[1:] != IGNORED
                found[name].append(metric(row[:-1][kept], wanted[1:][kept], example["tail"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a language model's folder")
    parser.add_argument("data", help="TOFU's questions and answers, as recipes/tofu/prepare.py writes them")
    parser.add_argument("--records", type=int, default=400)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    layout = RecordFormat("prompt_completion", prompt="Question: {question}\nAnswer:", completion=" {answer}")
    encoder = RecordEncoder(tokenizer, layout, 512)
    rows: Any = {"forget": load_dataset("json", data_files=args.data, split=f"train[:{args.records}]")}
    collator = PaddingCollator(padding_id(tokenizer, model.config))
    sets = evidence_sets(rows, encoder, collator, "text-generation", args.batch_size, seed=0, tokenizer=tokenizer)
    examples, metrics = sets.sets["forget"], passes(tokenizer)
    ratios = []
    for _ in range(args.pairs):
        started = time.perf_counter()
        table = sets.score(model)["forget"]
        ours = time.perf_counter() - started
        theirs = a_pass_for_each(model, examples, collator, args.batch_size, metrics)
        ratios.append((time.perf_counter() - started - ours) / ours)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    columns |= {"probability": np.exp(-columns["loss"]), "zlib": columns["loss"] / columns["zlib"]}
    print(f"{len(examples)} records, batches of {args.batch_size}, {args.pairs} pairs in turns:")
    print(f"  one pass is {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) times as fast")
    for name in metrics:
        furthest = np.abs(columns[name] - np.array(theirs[name])).max()
        print(f"  {name}: the values differ by {furthest:.1g} at most")


if __name__ == "__main__":
    main()
