"""Metrics, each also over bootstrap resamples: `metric(truth, scores, counts)`; NaN in truth by `missing="ignore"`."""

from covjax.metrics.bootstrap import bootstrap_p_value, interval, resample_counts
from covjax.metrics.classification import accuracy, matthews
from covjax.metrics.fmax import fmax
from covjax.metrics.holm import holm
from covjax.metrics.ranking import auroc, average_precision
from covjax.metrics.regression import pearson, r2, spearman

__all__ = [
    "accuracy",
    "auroc",
    "average_precision",
    "bootstrap_p_value",
    "fmax",
    "holm",
    "interval",
    "matthews",
    "pearson",
    "r2",
    "resample_counts",
    "spearman",
]
