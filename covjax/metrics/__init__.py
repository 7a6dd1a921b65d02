"""Metrics, also over bootstrap resamples: `metric(truth, scores, counts)`. `missing="ignore"` allows NaN in truth."""

from covjax.metrics.classification import accuracy, auroc, average_precision, fmax, matthews
from covjax.metrics.regression import pearson, r2, spearman
from covjax.metrics.resampling import bootstrap_p_value, corrected_interval, holm, interval, resample_counts

__all__ = [
    "accuracy",
    "auroc",
    "average_precision",
    "bootstrap_p_value",
    "corrected_interval",
    "fmax",
    "holm",
    "interval",
    "matthews",
    "pearson",
    "r2",
    "resample_counts",
    "spearman",
]
