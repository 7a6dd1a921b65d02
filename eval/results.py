"""The one look at the test set: every metric with its interval, and every pooler minus the reference."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from covjax.data import Dataset
from covjax.errors import InputError
from covjax.metrics import interval, resample_counts
from eval.config import SECOND_ORDER, CompareConfig
from eval.features import Features
from eval.probing import FittedProbe
from eval.tasks import TASKS, macro, predictions

REFERENCE = "mean"


def summarise(
    config: CompareConfig,
    data: Dataset,
    features: Features,
    probes: dict[str, dict[str, FittedProbe]],
    manifest: dict[str, Any],
) -> dict[str, Any]:
    """Score the test rows once per pooler and probe; plain JSON data (see `eval.report` for its readers).

    Intervals: percentiles of `config.resamples` bootstrap resamples of whole groups, the same ones for every pooler,
    so that differences to the reference are paired.
    """
    task = TASKS[data.task]
    test = data.rows("test")
    truth = data.targets[test]
    counts = resample_counts([data.groups[i] for i in test], config.resamples, config.seed)
    rows: list[dict[str, Any]] = []
    resampled: dict[tuple[str, str, str], np.ndarray] = {}
    for row in tqdm(config.rows, desc=f"{'score test':>12}", unit="pooler"):
        entry: dict[str, Any] = {"label": row.label, "role": row.role, "rank": row.rank, "probes": {}}
        entry["num_features"] = features[row.label].shape[1]
        for name in task.probes:
            fit = probes[row.label][name]
            scores = predictions(task, name, fit.probe.scores(features[row.label][test]))
            test_scores, per_term = {}, {}
            for key, (_, metric) in task.metrics.items():
                values = np.atleast_1d(metric(truth, scores))
                draws = metric(truth, scores, counts)
                draws = macro(draws) if draws.ndim == 2 else draws
                resampled[row.label, name, key] = draws
                value = float(macro(values))
                baseline = resampled[REFERENCE, name, key]
                reference = value if row.label == REFERENCE else rows[0]["probes"][name]["test"][key]["value"]
                test_scores[key] = {
                    "value": value,
                    "interval": list(interval(draws)),
                    "difference": value - reference,
                    "difference_interval": list(interval(draws - baseline)),
                }
                if len(values) > 1:
                    per_term[key] = values.tolist()
            entry["probes"][name] = {
                "penalty": fit.penalty,
                "at_edge": fit.penalty in (min(config.penalties), max(config.penalties)),
                "validation": max(fit.validation),
                "validation_path": fit.validation,
                "converged": fit.converged,
                "test": test_scores,
                "per_term": per_term,
            }
        rows.append(entry)
    first = task.probes[0]
    second_order = [row for row in rows if row["role"] == SECOND_ORDER]
    return {
        "name": config.name,
        "task": data.task,
        "reference": REFERENCE,
        "primary": task.primary,
        "primary_name": task.metrics[task.primary][0],
        "metrics": {key: name for key, (name, _) in task.metrics.items()},
        "probes": list(task.probes),
        "sizes": {split: len(data.rows(split)) for split in ("train", "validation", "test")},
        "num_targets": len(data.target_names),
        "best_second_order": max(second_order, key=lambda row: row["probes"][first]["validation"])["label"],
        "rows": rows,
        "terms": _terms(config, data) if data.task == "multilabel" else [],
        "warnings": _warnings(config, rows),
        "manifest": manifest,
    }


def _warnings(config: CompareConfig, rows: list[dict[str, Any]]) -> list[str]:
    texts = []
    for row in rows:
        for name, fit in row["probes"].items():
            if fit["at_edge"]:
                texts.append(f"{row['label']}, {name}: penalty {fit['penalty']:g} is at the edge of the grid")
            if not fit["converged"]:
                texts.append(f"{row['label']}, {name}: L-BFGS stopped before its tolerance")
    return texts


def _terms(config: CompareConfig, data: Dataset) -> list[dict[str, Any]]:
    names = {}
    if config.label_names:
        path = Path(config.label_names)
        if not path.is_file():
            raise InputError(f"label_names: {path}: no such file")
        with open(path, newline="") as file:
            names = {row["label"]: row["name"] for row in csv.DictReader(file)}
    counts = {split: data.targets[data.rows(split)].sum(0) for split in ("train", "validation", "test")}
    return [
        {
            "label": label,
            "name": names.get(label, label),
            "positives": {split: int(counts[split][j]) for split in counts},
        }
        for j, label in enumerate(data.target_names)
    ]
