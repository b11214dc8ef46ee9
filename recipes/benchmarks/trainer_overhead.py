"""What the trainer costs on top of transformers' own: the same data, model and steps, in turns.

python recipes/benchmarks/trainer_overhead.py build/quickstart/minilm
"""

import argparse
import statistics
import tempfile

from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from hf_unlearn import UnlearningConfig, UnlearningTrainer
from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.data.format import RecordFormat

STEPS, BATCH, ROWS = 20, 16, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an encoder, such as the one that recipes/quickstart/prepare.py writes")
    parser.add_argument("--pairs", type=int, default=9)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = {"text": [f"message number {i} about parcel {i * 7}" * (1 + i % 4) for i in range(ROWS)]}
    rows["label"] = [i % 2 for i in range(ROWS)]
    encoder = RecordEncoder(tokenizer, RecordFormat("classification"), 128, {"a": 0, "b": 1})
    examples = encode(Dataset.from_dict(rows), encoder, "benchmark")
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }

    def loop_seconds(ours: bool) -> float:
        model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
        with tempfile.TemporaryDirectory() as folder:
            if ours:
                config = UnlearningConfig(folder, method="fine_tune", measure_steps=0, **settings)
                sets = {
                    "forget_dataset": examples.select(range(20)),
                    "holdout_dataset": examples.select(range(20, 40)),
                }
                trainer: Trainer = UnlearningTrainer(model, config, examples, processing_class=tokenizer, **sets)
            else:
                plain = TrainingArguments(folder, dataloader_pin_memory=False, **settings)
                trainer = Trainer(model, plain, train_dataset=examples, data_collator=PaddingCollator(0))
            return trainer.train().metrics["train_runtime"]

    loop_seconds(True), loop_seconds(False)
    pairs = []
    for i in range(args.pairs):
        first = i % 2 == 0
        times = {ours: loop_seconds(ours) for ours in (first, not first)}
        pairs.append((times[True], times[False]))
    ratios = [ours / plain for ours, plain in pairs]
    print(f"{STEPS} steps of {BATCH}, {args.pairs} interleaved pairs, the training loop alone:")
    print(f"  UnlearningTrainer / Trainer: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    ours_median, plain_median = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"  median seconds: {ours_median:.2f} / {plain_median:.2f}")


if __name__ == "__main__":
    main()
