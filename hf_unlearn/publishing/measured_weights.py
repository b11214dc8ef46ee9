"""What is published is what was measured: the weights that anybody will load are those that the report is about."""

from pathlib import Path

from ..errors import InputError
from ..evaluation.report import UnlearningReport
from ..models.loading import load_any
from ..models.location import adapter_base, locate
from ..models.weights_digest import weights_digest
from .ledger import load_ledger
from .ledger_of_model import weights_of


def check_measured(folder: Path, report: UnlearningReport) -> None:
    """Load a finished run's model as anybody would, and compare its weights with those that were measured.

    Raises InputError where they are others, also under an adapter, or where nothing tells which were measured.
    """
    source, measured = locate(str(folder)), report.measured
    again = "run it again in a new --output_dir"
    if measured is None:
        ledger = load_ledger(folder)
        if source.adapter or ledger is None or not ledger.runs or ledger.runs[-1].weights != weights_of(source):
            raise InputError(f"The report in {folder} does not say which weights were measured; {again}.")
        return
    if source.adapter and measured.base is not None:
        base = adapter_base(source)
        if weights_of(base) != measured.base:
            raise InputError(
                f"The weights of {base.public_name!r}, which the adapter in {folder} lies on, are not those that were "
                f"measured under it; restore them, or {again}."
            )
    if measured.digest is None:
        return
    if weights_digest(load_any(source, report.task, dtype=measured.dtype)) != measured.digest:
        raise InputError(
            f"The model that loads from {folder} has other weights than the one that was measured; restore the "
            f"files, or {again}."
        )
