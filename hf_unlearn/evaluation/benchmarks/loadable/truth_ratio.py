"""For ``evaluate.load``, which copies this file elsewhere, so that the import is whole."""

from hf_unlearn.evaluation.benchmarks.evaluate_metrics import TruthRatio

__all__ = ["TruthRatio"]
