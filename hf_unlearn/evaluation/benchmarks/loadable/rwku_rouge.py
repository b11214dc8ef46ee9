"""For ``evaluate.load``, which copies this file elsewhere, so that the import is whole."""

from hf_unlearn.evaluation.benchmarks.evaluate_metrics import RwkuRouge

__all__ = ["RwkuRouge"]
