"""TOFU's whole evaluation of a model, as one file of numbers.

    python recipes/tofu/benchmark/evaluation.py MODEL --reference RETAINED --source locuslab/TOFU --forget forget10
    python recipes/tofu/benchmark/evaluation.py build/original --reference build/tofu/retrained --source LOCAL

MODEL and RETAINED, the model that never saw S, are folders or Hub ids. The file is named after what was measured: the
weights of both, the records and the settings, never a name; what is there is not measured again.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from xxhash import xxh3_128

from hf_unlearn.data.loading import load_data, pick_split
from hf_unlearn.errors import InputError
from hf_unlearn.evaluation import generation, score_cache
from hf_unlearn.evaluation.benchmarks import tofu, tofu_suite
from hf_unlearn.evaluation.benchmarks.tofu_suite import (
    TofuMetric,
    TofuSet,
    TofuSuite,
    recall_tofu,
    score_tofu,
    tofu_metrics,
)
from hf_unlearn.evaluation.generation import NEW_TOKENS
from hf_unlearn.files import write_text
from hf_unlearn.models.loading import Model, load_config, load_model, load_tokenizer, to_device
from hf_unlearn.models.location import ModelSource, adapter_base, locate
from hf_unlearn.models.training_record import software_versions
from hf_unlearn.output_folder import require_folder

HUB = "locuslab/TOFU"
FIXED = {
    "retain": "retain_perturbed",
    "real_authors": "real_authors_perturbed",
    "world_facts": "world_facts_perturbed",
}
COLUMNS = ("question", "answer", "paraphrased_answer", "perturbed_answer")
ROWS_EACH = 20  # of an invented author, one after the other
CODE = [
    *score_cache.SCORING_CODE,
    *(xxh3_128(Path(str(module.__file__)).read_bytes()).hexdigest() for module in (generation, tofu, tofu_suite)),
]
SHOWN = (
    "forget_probability",
    "forget_rougeL_recall",
    "forget_truth_ratio_geometric_closer_to_one",
    "forget_quality_geometric",
    "model_utility_geometric",
    "forget_extraction_strength",
    "forget_exact_memorization",
    "mia_loss",
    "mia_min_k",
    "privleak",
)


@dataclass(frozen=True)
class Settings:
    """How a model is asked.

    Attributes:
        prompt_template, completion_template: over the columns ``question`` and ``answer``.
        new_tokens: of an answer at most.
        batch_size: answers in a forward pass.
    """

    prompt_template: str = "Question: {question}\nAnswer:"
    completion_template: str = " {answer}"
    new_tokens: int = NEW_TOKENS
    batch_size: int = 64


@dataclass(frozen=True)
class TofuData:
    """The sets and where they came from.

    Attributes:
        records: by set.
        about: the same in words and counts, for the file.
    """

    records: dict[TofuSet, Dataset]
    about: dict[str, Any]


def read_tofu(source: str, forget: str, holdout: str | None, sample: int | None = None, seed: int = 0) -> TofuData:
    """Read TOFU's sets.

    Args:
        source: a Hub id, or a folder with a file for each set, such as ``forget10_perturbed.json``.
        forget: ``forget01``, ``forget05`` or ``forget10``.
        holdout: a set of the source, or a file of records that no model saw, as many to an author; None for none.
        sample: records of each set at most, drawn at random; all when None.
        seed: of the draw.

    Raises:
        InputError: a set is not there, or cannot be read.
    """
    if Path(source).is_file():
        raise InputError(f"--source {source} is a file; name the folder with a file for each set.")
    names: dict[TofuSet, str] = {"forget": f"{forget}_perturbed", **FIXED}  # type: ignore[dict-item]
    if holdout is not None:
        names["holdout"] = holdout
    revision = None
    records: dict[TofuSet, Dataset] = {}
    counts = {}
    for name, part in names.items():
        rows, revision = _read(source, part, revision)
        if name in ("forget", "retain", "holdout"):
            rows = rows.add_column("author", [f"{name} {i // ROWS_EACH}" for i in range(len(rows))])
        counts[name] = {"name": Path(part).stem, "of": len(rows)}
        if sample is not None and sample < len(rows):
            rows = rows.select(np.sort(np.random.default_rng(seed).choice(len(rows), sample, replace=False)))
        counts[name]["n"] = len(rows)
        records[name] = rows
    name = Path(source).name if Path(source).is_dir() else source
    about = {"source": name, "revision": revision, "sets": counts, "sample": sample, "seed": seed}
    return TofuData(records, about)


def _read(source: str, name: str, revision: str | None) -> tuple[Dataset, str | None]:
    """One set, with the columns that are used, and the source's commit on the Hub."""
    file = Path(name)
    if not file.is_file() and Path(source).is_dir():
        found = [path for path in Path(source).iterdir() if path.stem == name and path.suffix in (".json", ".jsonl")]
        if not found:
            raise InputError(
                f"The folder {source} has no {name}.json; TOFU on the Hub has all sets: --source {HUB}. Name a "
                "file of held-out records with --holdout, or leave them out with --holdout none."
            )
        file = found[0]
    if file.is_file():
        data, came_from = load_data(str(file))
    else:
        data, came_from = load_data(source, config=name, revision=revision)
    rows = pick_split(data, "train", "source")
    assert isinstance(rows, Dataset)
    columns = [column for column in COLUMNS if column in rows.column_names]
    return rows.select_columns(columns), came_from.revision or revision


def make_suite(data: TofuData, source: ModelSource, settings: Settings) -> tuple[TofuSuite, PreTrainedTokenizerBase]:
    """The sets encoded for a model, and its tokenizer."""
    tokenizer = load_tokenizer(_with_base(source))
    suite = tofu_suite.tofu_suite(
        data.records, tokenizer, load_config(source), prompt_template=settings.prompt_template,
        completion_template=settings.completion_template, batch_size=settings.batch_size,
    )  # fmt: skip
    return suite, tokenizer


def evaluate(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    suite: TofuSuite,
    settings: Settings,
    about: dict[str, Any],
    folder: Path,
    reference: Model | None = None,
) -> dict[str, Any]:
    """Measure a model, unless that is done.

    Args:
        model: on its device.
        tokenizer: the model's.
        suite: the sets, encoded with that tokenizer.
        settings: those that the suite was made with.
        about: what else the file is to say: where the data and the models came from.
        folder: where the files are.
        reference: a model with the same tokenizer that never saw S, on its device too.

    Returns:
        What is in the file: ``metrics`` are those of ``tofu_metrics`` by name.

    Raises:
        InputError: the model cannot be told from others by its weights, or what it makes of an answer is no number.
    """
    digests = [score_cache.model_digest(one) for one in (model, reference) if one is not None]
    if None in digests:
        raise InputError(
            "The digest of a model that is quantised, sharded, or has other layers than transformers and LoRA would "
            "not tell it from others; merge the adapter, or load the weights whole."
        )
    device = next(model.parameters()).device
    key = {
        "model_digest": digests[0],
        "reference_digest": None if reference is None else digests[1],
        "data_fingerprint": suite.fingerprint,
        "examples_fingerprint": "".join(score_cache.data_digest(part) for part in suite.evidence.sets.values()),
        "settings": asdict(settings),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "software": software_versions(),
        "code": xxh3_128("".join(CODE).encode()).hexdigest(),
    }
    file = folder / f"{xxh3_128(json.dumps(key).encode()).hexdigest()}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    started = time.perf_counter()
    scores = score_tofu(suite, model)
    recall = recall_tofu(suite, model, tokenizer, settings.new_tokens)
    others = None if reference is None else score_tofu(suite, reference)
    metrics = {name: _plain(metric) for name, metric in tofu_metrics(scores, recall, others).items()}
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    seconds = round(time.perf_counter() - started, 1)
    found = {**about, **key, "dtype": dtype, "seconds": seconds, "metrics": metrics}
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def _plain(metric: TofuMetric) -> dict[str, Any]:
    return {name: value for name, value in asdict(metric).items() if value is not None or name == "value"}


def load(source: ModelSource, dtype: str) -> Model:
    """A causal language model on the device there is."""
    return to_device(load_model(source, "text-generation", dtype=dtype), PartialState().device)


def _with_base(source: ModelSource) -> list[ModelSource]:
    """A model, and the one under it where it is an adapter."""
    return [source, adapter_base(source)] if source.adapter else [source]


def _vocabulary(reference: ModelSource, source: ModelSource) -> dict[str, int]:
    """That of the reference; where no tokenizer lies beside it, that of the model."""
    return load_tokenizer([*_with_base(reference), *_with_base(source)]).get_vocab()


def _entry(source: ModelSource | None) -> dict[str, Any] | None:
    return None if source is None else {"name": source.public_name, "revision": source.revision}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks for."""
    for name, least in (("sample", 1), ("batch_size", 1), ("new_tokens", 1), ("seed", 0)):
        asked = getattr(args, name)
        if asked is not None and asked < least:
            raise InputError(f"--{name} {asked} must be at least {least}.")
    require_folder(args.output_dir)
    source = locate(args.model)
    reference = locate(args.reference) if args.reference else None
    holdout = args.holdout or args.forget.replace("forget", "holdout")
    data = read_tofu(args.source, args.forget, None if holdout == "none" else holdout, args.sample, args.seed)
    settings = Settings(args.prompt_template, args.completion_template, args.new_tokens, args.batch_size)
    about = {"model": _entry(source), "reference": _entry(reference), "data": data.about}
    suite, tokenizer = make_suite(data, source, settings)
    if reference is not None and _vocabulary(reference, source) != tokenizer.get_vocab():
        raise InputError(
            f"{args.reference!r} has another tokenizer than {args.model!r}; take one trained from the same."
        )
    model, other = load(source, args.dtype), None if reference is None else load(reference, args.dtype)
    return evaluate(model, tokenizer, suite, settings, about, args.output_dir, other)


def show(found: dict[str, Any]) -> None:
    """The numbers that papers print, with their intervals."""
    for name in SHOWN:
        if name in found["metrics"]:
            metric = found["metrics"][name]
            value = "none" if metric["value"] is None else f"{metric['value']:.4g}"
            ends = f" [{metric['low']:.3f}, {metric['high']:.3f}]" if "low" in metric else ""
            print(f"{name}: {value}{ends}, n = {metric['n']}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder or a Hub id")
    parser.add_argument("--reference", help="a model that never saw S, such as the one trained on L")
    parser.add_argument("--source", default=HUB, help="a Hub id, or a folder with a file for each set")
    parser.add_argument("--forget", choices=["forget01", "forget05", "forget10"], default="forget10")
    parser.add_argument("--holdout", help="a set of the source, a file of records, or none; by default like --forget")
    parser.add_argument("--sample", type=int, help="records of each set at most")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--prompt_template", default=Settings.prompt_template)
    parser.add_argument("--completion_template", default=Settings.completion_template)
    parser.add_argument("--new_tokens", type=int, default=Settings.new_tokens, help="of an answer at most")
    parser.add_argument("--batch_size", type=int, default=Settings.batch_size)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "auto"], default="float32")
    parser.add_argument("--output_dir", type=Path, default=Path("build/tofu/evaluations"), help="for the file")
    args = parser.parse_args(argv)
    try:
        found = run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
