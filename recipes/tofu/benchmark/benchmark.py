"""The TOFU benchmark: a target and a reference for each seed, every method, the whole suite, one file of results.

    python recipes/tofu/benchmark/benchmark.py search --preset tinystories --source path/to/tofu --model path/to/model
    python recipes/tofu/benchmark/benchmark.py run --preset reduced --source path/to/tofu --model path/to/model
    python recipes/tofu/benchmark/benchmark.py run --preset smollm2                         (a GPU and the Hub)

`search` tries learning rates on forget05 and writes the best of each row to the file that the preset names as
`rates`. `run` takes them from there, makes the cells (a row with a seed), and collects them in PRESET.json, PRESET.md
and PRESET.png. Presets and rows are in benchmark.yaml. What is finished is not run again, so both can be interrupted,
and repeated with more rows or seeds; a cell is run again where its settings or its code changed. What a job shows is
in a log of its own.

The exit code is 1 where a cell failed, and 2 for input that cannot be used.
"""

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cells
import datasets
import rates
import tables
import torch
import yaml
from cells import ORIGINAL, RETRAINED, Experiment, Row
from work import Job, do

from hf_unlearn.errors import InputError
from hf_unlearn.files import write_text
from hf_unlearn.methods.table import METHODS
from hf_unlearn.models.training_record import software_versions

HERE = Path(__file__).parent
YARDSTICKS = [Row(ORIGINAL, "yardstick"), Row(RETRAINED, "yardstick")]


def read_presets(file: Path, preset: str) -> tuple[dict[str, Any], list[Row]]:
    """A preset and all rows.

    Raises:
        InputError: the file cannot be read, or something is not in it.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        presets, groups = content["presets"], content["rows"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        raise InputError(f"{file} cannot be read as YAML with the sections rows and presets.") from None
    if preset not in presets:
        raise InputError(f"There is no preset {preset!r} in {file}; it has {', '.join(presets)}.")
    rows = [Row(name, group, flags) for group, named in groups.items() for name, flags in named.items()]
    for row in rows:
        if row.flags.get("method") not in METHODS:
            raise InputError(f"{file}: the row {row.name!r} has no method of the table: {row.flags.get('method')!r}.")
    return presets[preset], rows


def experiment(args: argparse.Namespace, preset: dict[str, Any]) -> Experiment:
    """A preset with what the command line says.

    Raises:
        InputError: a setting is missing, or unknown.
    """
    settings = {name: value for name, value in preset.items() if name not in ("search", "rates", "rows")}
    settings |= {} if args.model is None else {"model": args.model}
    try:
        shared = Experiment(args.build / args.preset, args.source, max_steps=args.max_steps, **settings)
    except TypeError as error:
        raise InputError(f"The preset {args.preset!r} does not fit: {str(error).split('__init__() ')[-1]}.") from None
    if (shared.target is None) != (shared.reference is None):
        raise InputError("A preset names both, target and reference, or none of them.")
    if shared.model.startswith("build/") and not Path(shared.model).is_dir():
        raise InputError(f"There is no model in {shared.model}; name a folder or Hub id with --model.")
    return shared


def picked(rows: list[Row], names: list[str] | None) -> list[Row]:
    """The rows that were asked for, the yardsticks with them; all when nobody asked.

    Raises:
        InputError: there is no such row.
    """
    known = [row.name for row in rows]
    for name in names or []:
        if name not in known:
            raise InputError(f"There is no row {name!r}; the rows are {', '.join(known)}.")
    return [*YARDSTICKS, *(row for row in rows if names is None or row.name in names)]


# The jobs, and what is done already


def finished(shared: Experiment, row: Row, seed: int, *, tell: bool = False) -> dict[str, Any] | None:
    """A cell, None where it is still to be made; tells why one that is there has to be made again."""
    file = shared.cell(row, seed)
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    before, now = found.pop("key"), json.loads(json.dumps(shared.key(row, seed)))
    if before == now:
        return found
    if tell:
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        print(f"{row.name}, seed {seed}: again, because of other {', '.join(changed)}.")
    return None


def make_cells(shared: Experiment, rows: list[Row], seeds: list[int], processes: int) -> list[str]:
    """Train what is missing of the targets and references, then run what is missing of the cells.

    Returns:
        The names of the jobs that failed.
    """
    for seed in seeds:
        cells.write_data(shared, seed)
    missing = [(row, seed) for seed in seeds for row in rows if finished(shared, row, seed, tell=True) is None]
    print(f"{len(rows) * len(seeds) - len(missing)} of {len(rows) * len(seeds)} cells are finished.", flush=True)
    needed = sorted({seed for _, seed in missing})
    jobs = []
    for seed in needed if shared.target is None else []:
        for arm in (arm for arm in (ORIGINAL, RETRAINED) if not shared.is_trained(arm, seed)):
            jobs.append(Job(f"{arm} model, seed {seed}", cells.train, (shared, arm, seed)))
    models = {job.name for job in jobs}
    for row, seed in missing:
        needs = {name for name in models if name.endswith(f"model, seed {seed}")}
        jobs.append(Job(f"{row.name}, seed {seed}", cells.run, (shared, row, seed), frozenset(needs)))
    # One process has all cores; several have one each.
    threads = 1 if processes > 1 else None
    failed = do(jobs, processes, cells.begin, (threads,))
    if failed:
        print(f"{len(failed)} failed; see {shared.folder / 'logs'}:", *failed, sep="\n  ", file=sys.stderr)
    return failed


# Commands


def about(args: argparse.Namespace, shared: Experiment) -> dict[str, Any]:
    """What the files of results say of how they were made."""
    words = [f"benchmark.py {args.command}", f"--preset {args.preset}"]
    words += [f"--seeds {' '.join(map(str, args.seeds))}"] if args.command == "run" else []
    words += [f"--rows {' '.join(args.rows)}"] if args.rows is not None else []
    words += [f"--max_steps {args.max_steps}"] if args.max_steps is not None else []
    return {
        "command": f"python recipes/tofu/{' '.join(words)}",
        "hardware": cells.hardware(),
        "software": software_versions(),
        "settings": cells.as_settings(shared),
    }


def in_lines(found: dict[str, Any]) -> str:
    """Results as JSON with a line for each cell, so that a change of one is a change of its line."""
    head = json.dumps({**found, "cells": []}, indent=1, allow_nan=False)
    cell_lines = ",\n".join(f"  {json.dumps(cell, allow_nan=False)}" for cell in found["cells"])
    return head.replace('"cells": []', f'"cells": [\n{cell_lines}\n ]') + "\n"


def run(args: argparse.Namespace) -> int:
    """All cells of a table, and its file."""
    preset, rows = read_presets(args.config, args.preset)
    shared = experiment(args, preset)
    rows = picked(rows, args.rows or preset.get("rows"))
    if preset.get("rates") is not None:
        rows = rates.chosen(rows, args.rates or HERE / preset["rates"])
    failed = make_cells(shared, rows, args.seeds, args.processes)
    made = [cell for row in rows for seed in args.seeds if (cell := finished(shared, row, seed)) is not None]
    names = {cell["row"] for cell in made}
    common = {row.name: {**shared.unlearn.get(row.group, {}), **row.flags} for row in rows}
    listed = [{"name": row.name, "group": row.group, "flags": common[row.name]} for row in rows if row.name in names]
    found = {
        "name": args.preset, "forget": shared.forget, "seeds": args.seeds, **about(args, shared), "rows": listed,
        "cells": made,
    }  # fmt: skip
    output = args.output or HERE / f"{args.preset}.json"
    write_text(output, in_lines(found))
    print(f"{len(made)} cells are in {output}.")
    tables.render(output)
    return 1 if failed else 0


def search(args: argparse.Namespace) -> int:
    """Learning rates for the rows of the group ``forget``, by a forget set of its own."""
    preset, rows = read_presets(args.config, args.preset)
    asked = preset.get("search")
    if asked is None:
        told = preset.get("rates")
        raise InputError(
            f"The preset {args.preset!r} has no search; its rates are "
            f"{'the published ones' if told is None else f'those of {told}'}."
        )
    own = {name: value for name, value in asked.items() if name not in ("seed", "learning_rates")}
    shared = experiment(args, {**preset, **own})
    shared = replace(shared, folder=shared.folder / "search")
    tried = rates.candidates(picked(rows, args.rows or preset.get("rows")), asked["learning_rates"])
    seed = asked["seed"]
    options = [*YARDSTICKS, *(option for listed in tried.values() for option in listed)]
    failed = make_cells(shared, options, [seed], args.processes)
    made = {row.name: finished(shared, row, seed) for row in options}
    if made[ORIGINAL] is None or made[RETRAINED] is None:
        return 1
    chosen = rates.choose(tried, made)
    output = args.output or HERE / preset["rates"]
    found = {
        "name": args.preset, "forget": shared.forget, "seed": seed, **about(args, shared),
        "learning_rates": asked["learning_rates"], "criterion": rates.CRITERION, **chosen,
    }  # fmt: skip
    write_text(output, json.dumps(found, indent=1, allow_nan=False) + "\n")
    ends = {min(asked["learning_rates"]), max(asked["learning_rates"])}
    for name, row in chosen["rows"].items():
        scores = ", ".join(f"{one['learning_rate']:g}: {_shown(one['score'])}" for one in row["tried"])
        end = "; the best may lie beyond the rates that were tried" if row["chosen"] in ends else ""
        print(f"{name}: {_shown(row['chosen'])} of {scores}{end}")
    print(f"They are in {output}.")
    # A rate at which the loss is no number is a finding of the search, and not a failure of it.
    return 1 if any(row["chosen"] is None for row in chosen["rows"].values()) or len(failed) == len(options) else 0


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("command", nargs="?", choices=["run", "search"], default="run", help="run by default")
    made.add_argument("--preset", default="reduced", help="tinystories, reduced or smollm2")
    made.add_argument("--config", type=Path, default=HERE / "benchmark.yaml", help="the file of presets and rows")
    made.add_argument("--source", default="locuslab/TOFU", help="a Hub id, or a folder with a file for each set")
    made.add_argument("--model", help="what the models are trained from, in the place of the preset's")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of run; search has one of its own")
    made.add_argument("--rows", nargs="+", help="only these, and the yardsticks")
    made.add_argument("--max_steps", type=int, help="of each training, to see whether everything works")
    made.add_argument("--processes", type=int, help="at a time; 2 with two CPU cores or more and without a GPU")
    made.add_argument("--build", type=Path, default=Path("build/tofu"), help="the folder for models, cells and logs")
    made.add_argument("--rates", type=Path, help="what search wrote; the preset names one")
    made.add_argument("--output", type=Path, help="the results; here by default, of a part of the preset in --build")
    return made


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, before anything is trained."""
    for name in ("max_steps", "processes"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)} is not possible; it must be 1 or more.")
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        raise InputError(f"--seeds {' '.join(map(str, args.seeds))} must be different numbers, 0 or more.")
    if not next(place for place in (args.build, *args.build.absolute().parents) if place.exists()).is_dir():
        raise InputError(f"--build {args.build} cannot be a folder, as a file is in its way; name another.")
    if args.processes is None:
        args.processes = 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)
    # What is only a part of the preset does not take the place of the whole.
    if args.output is None and (args.max_steps is not None or args.rows is not None):
        args.output = args.build / args.preset / f"{args.command}.json"


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    datasets.disable_progress_bars()
    try:
        check(args)
        return {"run": run, "search": search}[args.command](args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on with the cells that are missing.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
