"""How often a router by sentence encoder finds the shard of an author of TOFU, and how often it answers a stranger.

    python recipes/benchmarks/shards/router.py --source tofu --encoder all-MiniLM-L6-v2      (folders)

Each question is asked without itself in the means, and for strangers without its author. Nothing is trained.
"""

import argparse
import hashlib
import json
from pathlib import Path

from hf_unlearn.data.copies.paraphrases import SentenceEncoder
from hf_unlearn.sharding.layout import number_of, owner_digests
from hf_unlearn.sharding.router import Router

ROWS_EACH = 20  # of an author; row i of `full` belongs to author i // 20


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    flags.add_argument("--source", type=Path, required=True, help="The folder with full.json of TOFU.")
    flags.add_argument("--encoder", required=True, help="A sentence encoder, a folder or Hub id.")
    flags.add_argument("--shards", type=int, nargs="+", default=[20, 200], help="As many as authors: one each.")
    flags.add_argument("--strangers", type=float, nargs="+", default=[0.05, 0.25])
    flags.add_argument("--seeds", type=int, default=3, help="Keys that the authors are dealt by.")
    flags.add_argument("--output", type=Path, default=Path("build/router.json"))
    args = flags.parse_args()
    lines = (args.source / "full.json").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["question"] for line in lines]
    owners = [str(row // ROWS_EACH) for row in range(len(texts))]
    encoder = SentenceEncoder(args.encoder)
    # The same texts are embedded once.
    known = encoder.encode(texts)
    encoder.encode = lambda asked: known  # type: ignore[method-assign, assignment]
    found = []
    for shards in args.shards:
        alone = shards == len(set(owners))
        for seed in range(1 if alone else args.seeds):
            digests = owner_digests(hashlib.sha256(f"key {seed}".encode()).digest(), "author", owners)
            dealt = [
                int(owner) if alone else number_of(digest, shards)
                for owner, digest in zip(owners, digests, strict=True)
            ]
            for strangers in args.strangers:
                router = Router(encoder, texts, owners, dealt, strangers)
                rates = {name: rate.value for name, rate in vars(router.rates).items()}
                found.append({"shards": shards, "seed": seed, "allowed": strangers, **rates})
                print(found[-1])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
