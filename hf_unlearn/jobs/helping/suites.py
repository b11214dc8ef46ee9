"""``hf-unlearn suite``: the numbers of a suite of the field for a model, and for those it is compared with."""

from pathlib import Path

from accelerate import PartialState

from ...errors import InputError
from ...evaluation.assemble import model_entry
from ...evaluation.benchmarks.suites.files import SuiteFiles
from ...evaluation.benchmarks.suites.knowundo import PROMPTS as KNOWUNDO_PROMPTS
from ...evaluation.benchmarks.suites.knowundo import KnowUnDo
from ...evaluation.benchmarks.suites.muse import Muse
from ...evaluation.benchmarks.suites.prompts import prompts_of
from ...evaluation.benchmarks.suites.rwku import PROMPTS as RWKU_PROMPTS
from ...evaluation.benchmarks.suites.rwku import Rwku
from ...evaluation.benchmarks.suites.suite import SUITE_FILE, TASK, Reader, Suite, SuiteReport
from ...evaluation.benchmarks.suites.wmdp import Wmdp
from ...evaluation.wording import ARM_NAMES, show
from ...models.loading import load_any, load_tokenizer, loading_of, source_task, to_device
from ...models.location import ModelSource, locate
from ...models.training_record import software_versions
from ...output_folder import require_folder
from ..console import numbers, plain, terminal


def suite(
    name: str,
    *,
    model_name_or_path: str,
    data: str,
    model_revision: str | None = None,
    data_revision: str | None = None,
    original_model: str | None = None,
    retrained_model: str | None = None,
    domain: str | None = None,
    prompts: Path | None = None,
    records: int | None = None,
    seed: int = 42,
    per_device_eval_batch_size: int = 8,
    dtype: str = "float32",
    use_cpu: bool = False,
    output_dir: Path = Path("suite"),
) -> None:
    """Measure models on a suite, show its numbers, and write ``suite_report.json``.

    Args:
        name: of the suite.
        model_name_or_path: the unlearned model, a folder or Hub id.
        data: the suite's files: a Hub id, or a folder in its authors' layout.
        model_revision, data_revision: branch, tag or commit on the Hub.
        original_model, retrained_model: to compare with.
        domain: of KnowUnDo, copyright or privacy.
        prompts: a file with the words around the questions; None for ours.
        records: of each set at most, drawn at random; None for all.
        seed: of draws.
        per_device_eval_batch_size: sequences in a forward pass.
        dtype: of the weights.
        use_cpu: leave accelerators alone.
        output_dir: where the report goes.

    Raises:
        InputError: something does not fit together.
    """
    if records is not None and records < 1:
        raise InputError(f"--records {records} must be at least 1.")
    if per_device_eval_batch_size < 1:
        raise InputError(f"--per_device_eval_batch_size {per_device_eval_batch_size} must be at least 1.")
    require_folder(output_dir)
    state = PartialState(cpu=use_cpu)
    named = {"original": original_model, "unlearned": model_name_or_path, "retrained": retrained_model}
    places = {
        arm: locate(model, model_revision if arm == "unlearned" else None) for arm, model in named.items() if model
    }
    for place in places.values():
        if (task := source_task(place, None)) != TASK:
            raise InputError(f"A suite asks language models that write, and {place.name} is for {task}.")
    files = SuiteFiles(data, data_revision, records, seed)
    read = _suite(name, files, prompts, domain)
    measured = {}
    for arm, place in places.items():
        reader = _reader(place, list(places.values()), state, dtype, per_device_eval_batch_size, seed)
        measured[arm] = read.measure(reader)
    assert files.source is not None
    report = SuiteReport(
        name,
        files.source,
        {arm: entry for arm, place in places.items() if (entry := model_entry(place)) is not None},
        {arm: read.scores(found, measured.get("retrained")) for arm, found in measured.items()},
        records,
        seed,
        prompts="ours" if prompts is None else "file",
        software=software_versions(),
    )
    if state.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        report.save(output_dir / SUITE_FILE)
    _tell(report, places, output_dir, quiet=not state.is_main_process)


def _suite(name: str, files: SuiteFiles, prompts: Path | None, domain: str | None) -> Suite:
    if domain is not None and name != "knowundo":
        raise InputError(f"--domain is for knowundo; leave it out for {name}.")
    if name == "knowundo":
        return KnowUnDo.read(files, prompts_of(KNOWUNDO_PROMPTS, prompts), domain)
    if name == "rwku":
        return Rwku.read(files, prompts_of(RWKU_PROMPTS, prompts))
    prompts_of({}, prompts)
    return Wmdp.read(files) if name == "wmdp" else Muse.read(files)


def _reader(
    place: ModelSource, others: list[ModelSource], state: PartialState, dtype: str, batch_size: int, seed: int
) -> Reader:
    model = to_device(load_any(place, TASK, **loading_of({"dtype": dtype})), state.device)
    return Reader(model, load_tokenizer([place, *others]), batch_size, seed)


def _tell(report: SuiteReport, places: dict[str, ModelSource], folder: Path, *, quiet: bool) -> None:
    out = terminal(quiet=quiet)
    for arm, place in places.items():
        out.print(f"{ARM_NAMES[arm]}: {plain(place.public_name)}")
    shown = numbers(f"{report.suite}, on {plain(report.data.name)}", (ARM_NAMES[arm] for arm in report.scores))
    for scores in zip(*report.scores.values(), strict=True):
        first = scores[0]
        of = "" if first.subjects is None else f" of {first.subjects:,} subjects"
        values = ["" if one.value is None else show(one.estimate) or f"{one.value:.3f}" for one in scores]
        shown.add_row(plain(f"{first.name}, n={first.records:,}{of}"), *values)
    out.print(shown)
    out.print(f"{SUITE_FILE} is in {plain(folder)}.")
