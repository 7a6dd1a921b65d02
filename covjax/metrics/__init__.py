"""Metrics, each also over bootstrap resamples: `metric(truth, scores, counts)`; NaN in truth by `missing="ignore"`."""

from covjax.metrics.classification import accuracy, auroc, average_precision, fmax, matthews
from covjax.metrics.regression import pearson, r2, spearman
from covjax.metrics.resampling import bootstrap_p_value, holm, interval, resample_counts

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
