"""``hf-unlearn attack``: attack a model, and the models it is compared with, side by side.

The attacks themselves are in :mod:`~hf_unlearn.evaluation.attacks`.
"""

import json
import shutil
from dataclasses import replace
from typing import Any

import pyarrow as pa
from accelerate import PartialState

from ..errors import InputError
from ..evaluation.attacks.relearning import Taught, halfway, way_back
from ..evaluation.attacks.report import (
    ATTACKS_FILE,
    CURVE_FILE,
    DEPTH_FILE,
    LEAKS_FILE,
    Attacked,
    AttackReport,
    ModelAttacks,
    plot_depth,
    plot_leaks,
    plot_relearning,
)
from ..evaluation.score_cache import model_digest
from ..files import save_json
from ..models.loading import load_any, source_task, to_device
from ..models.location import ModelSource, locate
from ..models.training_record import software_versions
from ..output_folder import PRIVATE_SETTINGS, require_folder
from ..training.retrained_model import Retraining
from .console import console, plain, print_attacks
from .helping.attack_material import Material, Plan, encode_material, plan_attacks
from .helping.kept_parts import FOLDER, KeptParts
from .helping.live import stage
from .helping.one_model import AttackedModel, attack_model, price_of_one
from .helping.two_models import compare_models, price_of_two
from .preparation import Preparation, prepare_run, without_method
from .settings import AttackArguments, EvaluateArguments, ModelArguments, build


def attack(values: dict[str, Any]) -> AttackReport:
    """Try to bring S back in a copy of a model, and in copies of the models that it is compared with.

    Args:
        values: the settings by the names of their flags.

    Returns:
        What the attacks found, as written to ``attacks.json``.

    Raises:
        InputError: a setting is not possible, or something does not fit together.
    """
    asked, compare = build(AttackArguments, values), build(EvaluateArguments, values)
    if asked.attack_steps < 1:
        raise InputError(f"--attack_steps {asked.attack_steps} is not possible; it must be 1 or more.")
    if asked.attack_samples < 1:
        raise InputError(f"--attack_samples {asked.attack_samples} is not possible; it must be 1 or more.")
    if not 0.01 <= asked.attack_temperature <= 100:
        raise InputError(f"--attack_temperature {asked.attack_temperature} is not possible; it is from 0.01 to 100.")
    model_args = build(ModelArguments, values)
    if model_args.load_in_4bit or model_args.load_in_8bit:
        raise InputError("Weights in few bits cannot be attacked; set --load_in_4bit and --load_in_8bit to false.")
    # A recipe also says how to unlearn, which an attack does not need.
    settings = {"output_dir": "attacks", **without_method(values), "max_steps": asked.attack_steps}
    run = prepare_run(settings, ask_again=True, find_base=False)
    folder = run.config.folder
    require_folder(folder)
    plan = plan_attacks(run, asked, model_args)
    places = _places(run, compare)
    report = _attack_all(run, places, plan)
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        save_json(report, folder / ATTACKS_FILE)
        plot_relearning(report, folder / CURVE_FILE)
        if report.models["unlearned"].sampling is not None:
            plot_leaks(report, folder / LEAKS_FILE)
        if report.depth is not None:
            plot_depth(report, folder / DEPTH_FILE)
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    out = console(run.config)
    print_attacks(out, report)
    out.print(f"{ATTACKS_FILE} and its plots are in {plain(run.config.output_dir)}.")
    return report


def _places(run: Preparation, compare: EvaluateArguments) -> dict[Attacked, ModelSource]:
    """Find the models without loading them; raises InputError where one is missing or has another task."""
    names: dict[Attacked, str | None] = {"original": compare.original_model, "retrained": compare.retrained_model}
    found = {arm: locate(name) for arm, name in names.items() if name is not None}
    for place in found.values():
        source_task(place, run.task)
    if "retrained" in found:
        Retraining.on(run.parts, run.data, found.get("original")).check(found["retrained"])
    order: tuple[Attacked, ...] = ("original", "unlearned", "retrained")
    places = found | {"unlearned": run.source}
    return {arm: places[arm] for arm in order if arm in places}


def _attack_all(run: Preparation, places: dict[Attacked, ModelSource], plan: Plan) -> AttackReport:
    models: dict[Attacked, ModelAttacks] = {}
    digests: dict[Attacked, str | None] = {}
    parts = _parts(run)
    material: Material | None = None
    original: pa.Table | None = None
    for arm, place in places.items():
        model = to_device(load_any(place, run.task, **run.loading), run.config.device)
        if material is None:
            material = encode_material(run, plan, [run.source, *places.values()], model.config)
            parts = parts.of(*material.digests())
            out = console(run.config)
            prices = price_of_one(run, plan, len(places), material)
            for line in prices + price_of_two(places, material.evidence, model):
                out.print(line)
            kept = plain(run.config.folder / FOLDER)
            out.print(f"What is finished is kept in {kept}; the same command goes on from there.")
        digests[arm] = model_digest(model)
        attacked = AttackedModel(model, arm, digests[arm], original, digests.get("original"))
        with stage(f"Attack on the {arm} model"):
            models[arm], whole = attack_model(attacked, run, plan, material, parts)
        if arm == "original":
            original = whole
    # Two more will be loaded together.
    del model, attacked
    loss = None
    if "original" in models:
        forgotten, known = (
            models[arm].relearning[0].points[0].forget_loss.value
            for arm in ("retrained" if "retrained" in models else "unlearned", "original")
        )
        loss = halfway(forgotten, known)
    for arm, found in models.items():
        steps = {curve.taught: None if loss is None else curve.steps_until(loss) for curve in found.relearning}
        back: dict[Taught, float | None] = {}
        if "original" in models and arm != "original":
            known = models["original"].relearning[0].points[0].forget_loss.value
            back = {curve.taught: way_back(curve, known) for curve in found.one_epoch}
        models[arm] = replace(found, steps_until_halfway=steps, way_back=back)
    assert material is not None
    with stage("Attack on two models"):
        compared = compare_models(run, places, material.evidence, material.tokenizer, parts.of(*digests.values()))
    skipped = plan.skipped | compared.skipped
    if models["unlearned"].sampling is None:
        skipped.setdefault("sampling", "the texts of S are too short")
    return AttackReport(
        run.task, run.config.max_steps, loss, models, skipped=skipped, depth=compared.depth, pair=compared.pair
    )


def _parts(run: Preparation) -> KeptParts:
    """What is finished of the same attacks, before anything is known of data and models."""
    names = sorted(run.values.keys() - {"output_dir", *PRIVATE_SETTINGS})
    settings = {name: str(run.values[name]) for name in names}
    return KeptParts(run.config.folder / FOLDER, "").of(json.dumps([settings, software_versions()]))
