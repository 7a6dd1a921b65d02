"""What a page shows of the data and of single test predictions, beside the numbers of `results.json`."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from covjax import metrics
from covjax.comparison.config import RETRIEVAL
from covjax.comparison.probing import TASKS, Probes, macro, predictions
from covjax.comparison.results import Results
from covjax.data import Dataset
from covjax.data.splits import SPLITS

Spread = tuple[float, float, float]  # least, median, greatest


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What one probe predicts for the test set, as its metrics see it: probabilities or scores, (n, k)."""

    truth: np.ndarray
    chosen: Float[np.ndarray, "n k"]
    reference: Float[np.ndarray, "n k"]


@dataclasses.dataclass(frozen=True)
class DataCard:
    """The data of a comparison in a few numbers, each by split.

    `unit` is what `lengths` count. `labels` are the counts of every class or label, none in regression, `targets` the
    measured values of the only output. `baseline` says in words what a prediction without any features reaches.
    `predictions` is None where there is no probe (retrieval).
    """

    unit: str
    lengths: dict[str, Spread]
    labels: dict[str, dict[str, int]]
    targets: dict[str, Spread]
    baseline: str
    outputs: tuple[str, ...]
    predictions: Predictions | None = None


def data_card(data: Dataset, results: Results, probes: Probes) -> DataCard:
    """Describe the data and take the test predictions of the chosen second-order row and of the reference."""
    rows = {split: data.rows(split) for split in SPLITS}
    lengths, targets = {}, {}
    if data.sequences:
        sizes = np.array([len(each.split()) if data.is_text else len(each) for each in data.sequences])
        lengths = {split: _spread(sizes[rows[split]]) for split in SPLITS}
    if data.task == "regression" and data.targets.shape[1] == 1:
        targets = {split: _spread(data.targets[rows[split], 0]) for split in SPLITS}
    labels = {}
    if data.task != "regression":
        counts = {split: data.targets[rows[split]].sum(0) for split in SPLITS}
        labels = {name: {s: int(counts[s][j]) for s in SPLITS} for j, name in enumerate(data.target_names)}
    taken, name = None, results.probes[0]
    if name != RETRIEVAL:
        task, test = TASKS[data.task], rows["test"]
        fits = [probes[label][name] for label in (results.best_second_order, results.reference)]
        taken = Predictions(data.targets[test], *(predictions(task, name, fit.scores[test]) for fit in fits))
    unit = "words" if data.is_text else "letters"
    return DataCard(unit, lengths, labels, targets, _baseline(data, results), data.target_names, taken)


def _spread(values: np.ndarray) -> Spread:
    return float(np.min(values)), float(np.median(values)), float(np.max(values))


def _baseline(data: Dataset, results: Results) -> str:
    """What a prediction that is the same for all reaches on the test set."""
    train, test = data.targets[data.rows("train")], data.targets[data.rows("test")]
    if results.probes[0] == RETRIEVAL:
        return ""
    if data.task == "multiclass":
        common = int(train.sum(0).argmax())
        share = float(test[:, common].mean())
        return f"always “{data.target_names[common]}”, the most frequent training class: accuracy {share:.3f}, MCC 0"
    if data.task == "multilabel":
        return f"the same score for all: macro AUPRC {float(test.mean()):.3f}, the mean share of positives; AUROC 0.5"
    value = float(macro(np.atleast_1d(metrics.r2(test, np.broadcast_to(train.mean(0), test.shape)))))
    return f"always the training mean: R² {value:.3f}"


def confusion(truth: Bool[np.ndarray, "n k"], scores: Float[np.ndarray, "n k"]) -> Int[np.ndarray, "k k"]:
    """Test sequences by true class (row) and class of the highest score (column)."""
    out = np.zeros((truth.shape[1],) * 2, np.int64)
    np.add.at(out, (truth.argmax(1), scores.argmax(1)), 1)
    return out


def class_order(truth: Bool[np.ndarray, "n k"]) -> list[int]:
    """The classes as tables and figures have them, the most frequent of the test set first."""
    return [int(i) for i in np.argsort(-truth.sum(0), kind="stable")]


def class_scores(counts: Int[np.ndarray, "k k"]) -> dict[str, Float[np.ndarray, "k"]]:
    """Precision, recall and F1 of every class from its confusion counts; 0 where a class is never predicted or there.

    F1 is 2·hits / (predicted + true), so a class without a hit has 0.
    """
    hits, true, predicted = np.diag(counts).astype(float), counts.sum(1), counts.sum(0)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(true, 1),
        "F1": 2 * hits / np.maximum(true + predicted, 1),
    }
