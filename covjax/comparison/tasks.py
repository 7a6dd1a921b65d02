"""What each kind of task is scored by and which probes fit it."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from covjax import metrics
from covjax.probes.logistic import probabilities


@dataclasses.dataclass(frozen=True)
class Task:
    """Metrics by key (name shown, function); the first one is primary: it chooses the penalty and heads the report."""

    metrics: dict[str, tuple[str, Callable]]
    probes: tuple[str, ...]
    exclusive: bool = False

    @property
    def primary(self) -> str:
        """Key of the metric that selects and is compared."""
        return next(iter(self.metrics))


TASKS = {
    "multilabel": Task(
        {
            "auprc": ("macro AUPRC", metrics.average_precision),
            "auroc": ("macro AUROC", metrics.auroc),
            "fmax": ("Fmax", metrics.fmax),
        },
        ("logistic", "ridge"),
    ),
    "multiclass": Task(
        {
            "mcc": ("MCC", metrics.matthews),
            "accuracy": ("accuracy", metrics.accuracy),
            "auroc": ("macro AUROC", metrics.auroc),
        },
        ("logistic", "ridge"),
        exclusive=True,
    ),
    "regression": Task(
        {"r2": ("R²", metrics.r2), "pearson": ("Pearson", metrics.pearson), "spearman": ("Spearman", metrics.spearman)},
        ("ridge",),
    ),
}


def predictions(task: Task, probe: str, scores: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k"]:
    """What the metrics see: probabilities from the logistic probe, the scores themselves from ridge.

    Ridge scores are not clipped to [0, 1]: thresholds of Fmax lie inside, and clipping would tie the ranking metrics.
    """
    return probabilities(scores, task.exclusive) if probe == "logistic" else scores


def macro(values: Float[np.ndarray, "*resamples k"]) -> Float[np.ndarray, "*resamples"]:
    """Mean over labels; a label undefined in a resample (one class only) is left out of that resample's mean.

    Which labels are defined depends on the truth alone, so both sides of a paired difference leave out the same. NaN
    where no label is defined.
    """
    defined = ~np.isnan(values)
    count = defined.sum(-1)
    return np.where(defined, values, 0).sum(-1) / np.where(count == 0, np.nan, count)
