"""Invocations of the command line that are wrong in a way that is drawn, for every command."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_unlearn.cli.commands import COMMANDS, CONFIGURED
from hf_unlearn.cli.recipes import _Parser
from hf_unlearn.jobs.settings import SETTINGS, settings_of

# These start what is endless, needs another machine, or sets the whole process up in another way.
LEFT_ALONE = (
    "help", "help_all", "max_steps", "torch_compile", "torch_compile_backend", "torch_compile_mode", "deepspeed",
    "fsdp", "fsdp_config", "report_to", "dataloader_num_workers", "ddp_backend", "ddp_timeout", "tpu_num_cores",
    "parallelism_config", "debug", "log_level", "log_level_replica", "hub_token", "push_to_hub_token",
    "neftune_noise_alpha", "dataloader_prefetch_factor", "use_liger_kernel", "liger_kernel_config",
)  # fmt: skip
# A large number of these is a large amount of work, which one may ask for.
WORK = (
    "seeds", "attack_steps", "attack_samples", "alternates_per_record", "generate_records", "num_train_epochs",
    "lora_r", "shards", "owners", "rows_each", "requests_a_month", "max_models", "eval_steps", "logging_steps",
    "save_steps", "budget",
)  # fmt: skip
TEXTS = [
    "", " ", "nan", "NaN", "inf", "-inf", "-1", "0", "1e999", "-1e-999", "9" * 30, "9" * 400, "-" + "9" * 30, "0x10",
    "1_0", "½", "٣", "日本語", "\u202etxt", "e\u0301", "a=b", "=", "=x", "x=", "null", "true", "no", "{", "[]", "{}",
    "[1, 2]", '{"a": NaN}', '{"num_cycles": "x"}', "{text}", "{0}", "{}{", "%s", "a\nb", "a\tb", "x" * 300, "x" * 5000,
    "../..", "owner/name", "owner/name/more", "a//b", ".", "..", "*.jsonl", "http://127.0.0.1:1/x", "C:\\x", "id",
    "text", "label", "train", "test", "float16", "cpu", "cuda:7", "\ud800", "a\x00b",
]  # fmt: skip
NUMBERS = ["0", "1", "2", "0.5", "-3", "-0.1", "1e-5", "7.5", "nan", "inf", "1e300", "-" + "9" * 25]
LARGE = ["9" * 25, "1e18", "1000000007"]


class Place:
    """A folder with files that are right, wrong, empty and of other kinds."""

    def __init__(self, folder: Path, model: Path):
        self.folder = folder
        rows = [{"id": i, "text": f"person {i} says {i * 7}", "other": "x" * i} for i in range(12)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        written: dict[str, bytes] = {
            "data.jsonl": lines.encode(),
            "data.csv": b"id,text\n" + b"".join(f"{i},person {i} says so\n".encode() for i in range(12)),
            "data.tsv": b'id\ttext\n1\t"open\n2\tb\n3\tc\n',
            "ids.txt": b"1\n2\n",
            "more.jsonl": lines.encode() * 2,
            "recipe.yaml": b"dataset_name: data.jsonl\nforget_rows: [1]\n",
            "broken.yaml": b"a: [1\n",
            "list.yaml": b"- 1\n- 2\n",
            "pairs.jsonl": lines.replace("text", "prompt").replace("other", "completion").encode(),
            "empty.txt": b"",
            "empty.jsonl": b"",
            "empty.csv": b"",
            "head.csv": b"id,text\n",
            "latin.csv": "id,text\n1,\xe4\n".encode("latin-1"),
            "latin.txt": b"\xff\xfe\n",
            "nul.jsonl": b"\x00\x00",
            "half.jsonl": b'{"id": 1, "text": "a"}\n{"id": 2, ',
            "list.jsonl": b"[1, 2]\n",
            "number.json": b"3",
            "deep.jsonl": b"[" * 5000,
            "fake.parquet": b"PAR1nothing",
            "fake.safetensors": b"\xff" * 64,
            "unlearning_report.json": b"{}",
            "key": b"zz",
            "short_key": b"00",
        }
        for name, content in written.items():
            (folder / name).write_bytes(content)
        pq.write_table(pa.table({"id": [None, None], "text": [None, "a"]}), folder / "nulls.parquet")
        (folder / "folder").mkdir()
        (folder / "finished").mkdir()
        (folder / "finished" / "unlearning_report.json").write_text('{"schema_version": 1}')
        (folder / "finished" / "unlearning_ledger.jsonl").write_text("{}\n")
        for name, config in {
            "no_weights": '{"model_type": "llama"}',
            "no_type": "{}",
            "no_json": "{",
            "list": "[]",
        }.items():
            (folder / name).mkdir()
            (folder / name / "config.json").write_text(config)
        (folder / "model").symlink_to(model)
        (folder / "loop").symlink_to(folder / "loop")
        self.files = sorted(entry.name for entry in folder.iterdir())

    def settings(self, rng: random.Random, command: str) -> dict[str, list[str]]:
        """Settings that are right, of which some are left out."""
        right = {
            "model_name_or_path": ["model"], "dataset_name": ["data.jsonl"], "forget_rows": ["1", "2"],
            "output_dir": ["out"], "max_steps": ["1"], "use_cpu": ["true"], "per_device_train_batch_size": ["2"],
            "max_length": ["16"], "disable_tqdm": ["true"], "digest_key_file": ["new_key"],
        }  # fmt: skip
        right |= (
            {
                "alternates_file": ["alternates.jsonl"],
                "alternates_per_record": ["1"],
                "dataset_name": ["pairs.jsonl"],
                # One with examples is too long for so small a model.
                "alternates_prompt": ["{prompt}{completion}"],
            }
            if command == "alternates"
            else {}
        )
        right |= {"seeds": ["1"]} if command == "references" else {}
        right |= {"attack_steps": ["1"], "attack_samples": ["1"]} if command == "attack" else {}
        if command in ("run", "references"):
            right |= {"method": [rng.choice(["fine_tune", "shrink_perturb", "npo", "grad_diff", "auto"])]}
        right = {name: values for name, values in right.items() if name in settings_of(command)}
        if rng.random() < 0.3:
            right.pop(rng.choice(sorted(set(right) - {"max_steps", "use_cpu", "output_dir"})))
        return right

    def value(self, rng: random.Random, action: argparse.Action) -> str:
        """A value for a flag: of its kind and wrong, of another kind, or right."""
        number = action.type in (int, float) or "int" in str(action.type) or "float" in str(action.type)
        pools = [TEXTS, self.files, NUMBERS, [f"{rng.choice(self.files)}={rng.choice(TEXTS)}"]]
        if action.choices:
            pools.append([str(one) for one in action.choices])
        if number:
            pools += [NUMBERS, NUMBERS, [] if action.dest in WORK else LARGE]
        return rng.choice(rng.choice([pool for pool in pools if pool]))


def invocation(place: Place, command: str, number: int) -> list[str]:
    """The words of a command line that is wrong, mostly."""
    rng = random.Random(f"{command} {number}")
    return _configured(place, command, rng) if command in CONFIGURED else _plain(place, command, rng)


def _configured(place: Place, command: str, rng: random.Random) -> list[str]:
    given = place.settings(rng, command)
    actions = {action.dest: action for action in _Parser(SETTINGS[command], command)._actions}
    used = settings_of(command)
    own = [name for kind in SETTINGS[command][:-1] for name in kind.__dataclass_fields__ if name in used]
    for _ in range(rng.choice([1, 1, 2, 3])):
        names = rng.choice([own, own, own, sorted(used), sorted(used), sorted(actions)])
        name = rng.choice([one for one in names if one in actions and one not in LEFT_ALONE])
        several = rng.choice([1, 1, 1, 2, 0]) if rng.random() < 0.3 else 1
        given[name] = [place.value(rng, actions[name]) for _ in range(several)]
    words = [word for name, values in given.items() for word in _flag(rng, name, values)]
    return [command, *words, *_loose(place, rng)]


def _flag(rng: random.Random, name: str, values: list[str]) -> list[str]:
    if rng.random() < 0.02:
        name = rng.choice([name[:-1], name.upper(), name + "s", name.replace("_", "-"), "ünknown", ""])
    # A value that begins with a dash is a flag to argparse unless it is written with the name.
    return [f"--{name}={values[0]}"] if len(values) == 1 and rng.random() < 0.5 else [f"--{name}", *values]


def _loose(place: Place, rng: random.Random) -> list[str]:
    return [rng.choice([*TEXTS, *place.files, "-x", "--", "-"])] if rng.random() < 0.05 else []


def _plain(place: Place, command: str, rng: random.Random) -> list[str]:
    spec, words = COMMANDS[command], [command]
    if spec.actions:
        action = rng.choice([*spec.actions, *spec.actions, "shew"])
        words.append(action)
        spec = spec.actions.get(action, spec)
    for names, options in spec.arguments:
        flag = names[0].startswith("-")
        if rng.random() < (0.5 if flag and not options.get("required") else 0.1):
            continue
        made = argparse.Action(
            list(names), names[0].lstrip("-"), type=options.get("type"), choices=options.get("choices")
        )
        value = place.value(rng, made)
        if options.get("action") == "store_true":
            words.append(names[0])
        elif flag:
            words += _flag(rng, names[0].lstrip("-"), [value])
        else:
            words.append(value)
    return [*words, *_loose(place, rng)]


def commands() -> list[str]:
    return list(COMMANDS)


def quoted(words: list[Any]) -> str:
    return " ".join(ascii(word)[:80] for word in words)
