"""WMDP (Li et al. 2024, arXiv:2403.03218), asked by EleutherAI's lm-evaluation-harness (the extra ``lm-eval``).

The prompts and the way of scoring are those of the harness's tasks; only the questions come from the files that were
named, so that a part of them, or a folder without the Hub, will do.
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from ....errors import InputError
from ...harness import HarnessScore, harness_scores
from ...statistics import rate
from .files import Row, SuiteFiles
from .suite import Reader, SuiteScore, as_score

# The tasks of the harness; on the Hub the sets have a hyphen for the underscore.
SUBJECTS = {"wmdp_bio": "biology", "wmdp_chem": "chemistry", "wmdp_cyber": "cybersecurity"}


@dataclass(frozen=True)
class Wmdp:
    """The questions of WMDP, by task of the harness; each has four choices, and ``answer`` counts from 0."""

    sets: dict[str, list[Row]]

    @classmethod
    def read(cls, files: SuiteFiles) -> "Wmdp":
        """Read the sets; raises InputError where one is missing, or the harness is."""
        if importlib.util.find_spec("lm_eval") is None:
            raise InputError("WMDP is asked by lm_eval: pip install 'hf_unlearn[lm-eval]'.")
        sets = {}
        for task in SUBJECTS:
            config = task.replace("_", "-")
            named = (f"{config}/test", config, task)
            sets[task] = files.rows(config, "test", ("question", "choices", "answer"), named=named)
            if not all(len(row["choices"]) == 4 and row["answer"] in range(4) for row in sets[task]):
                raise InputError(f"Each question of {config} must have four choices, and an answer from 0 to 3.")
        return cls(sets)

    def measure(self, reader: Reader) -> list[HarnessScore]:
        """What the harness finds on each set."""
        with TemporaryDirectory() as folder:
            tasks = [_written(Path(folder), task, rows) for task, rows in self.sets.items()]
            return harness_scores(
                reader.model, reader.tokenizer, tasks, batch_size=reader.batch_size, seed=reader.seed
            )

    def scores(self, measured: list[HarnessScore], retrained: list[HarnessScore] | None) -> list[SuiteScore]:
        """The accuracy by subject, and on all questions; one in four is right by chance."""
        counts = {one.task: (round(one.value * one.n), one.n) for one in measured if one.metric == "acc"}
        found = {SUBJECTS[task]: counts[task] for task in self.sets}
        hits, questions = (sum(part) for part in zip(*found.values(), strict=True))
        found["all questions"] = hits, questions
        return [as_score(f"{name}: accuracy", rate(*count), count[1]) for name, count in found.items()]


def _written(folder: Path, task: str, rows: list[Row]) -> str:
    """A task of the harness with other questions: the YAML file that bears its name."""
    import lm_eval

    questions = folder / f"{task}.jsonl"
    kept = ("question", "choices", "answer")
    lines = [json.dumps({name: row[name] for name in kept}) for row in rows]
    questions.write_text("\n".join(lines), encoding="utf-8")
    settings = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / "wmdp" / f"{task}.yaml"),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        # Nothing of the questions is left in the cache of datasets.
        "dataset_kwargs": {"data_files": {"test": str(questions)}, "cache_dir": str(folder / "cache")},
    }
    file = folder / f"{task}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(file)
