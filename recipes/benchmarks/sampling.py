"""How long leak@k takes: the seconds to write many samples of each record.

python recipes/benchmarks/sampling.py path/to/SmolLM2-135M path/to/tofu.jsonl --records 40 --samples 200

The records have a question and an answer, as those of recipes/tofu. The model need not know them: what it writes is
about as long. Torch takes as many threads as OMP_NUM_THREADS says.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, padding_id
from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.attacks.sampling import sample_leaks
from hf_unlearn.evaluation.measured_sets import evidence_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="JSON lines with a question and an answer each")
    parser.add_argument("--records", type=int, default=40)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    layout = RecordFormat("prompt_completion", prompt="Question: {question}\nAnswer:", completion=" {answer}")
    encoder = RecordEncoder(tokenizer, layout, 256)
    rows: Any = {"forget": load_dataset("json", data_files=str(args.data), split=f"train[:{args.records}]")}
    collator = PaddingCollator(padding_id(tokenizer, model.config))
    sets = evidence_sets(rows, encoder, collator, "text-generation", args.batch_size, seed=0, tokenizer=tokenizer)
    started, spent = time.perf_counter(), time.process_time()
    curve = sample_leaks(model, sets, tokenizer, records=args.records, samples=args.samples, seed=0)
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    assert curve is not None
    print(
        f"{args.records} records, {args.samples} samples each, {args.dtype}, {torch.get_num_threads()} threads: "
        f"{seconds:,.0f} s, {spent:,.0f} s of CPU, {curve.tokens:,} tokens read and written"
    )


if __name__ == "__main__":
    main()
