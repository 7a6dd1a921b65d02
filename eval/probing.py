"""Fit both probes on every feature matrix and choose each penalty on validation; the test rows are not touched here."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from covjax import checkpoint
from covjax.data import Dataset
from covjax.errors import InputError
from covjax.probes import LinearProbe, fit_logistic_path, fit_ridge_path, row_space
from eval.config import CompareConfig
from eval.features import Features, slug
from eval.tasks import TASKS, Task, macro, predictions


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """The probe at the chosen penalty, and what the choice saw: the primary metric on validation for every penalty."""

    probe: LinearProbe
    penalty: float
    validation: list[float]
    converged: bool


def fit_probes(
    config: CompareConfig, data: Dataset, features: Features, output: Path, manifest: dict[str, Any]
) -> dict[str, dict[str, FittedProbe]]:
    """Fitted probes by row label and probe name; complete checkpoints in `output/probes` are reused.

    A checkpoint fitted on other features, penalties or targets is refused with the difference.
    """
    task = TASKS[data.task]
    like = {name: LinearProbe(np.empty(0), np.empty(0)) for name in task.probes}
    fitted, missing = {}, []
    for label, table in features.items():
        path = output / "probes" / slug(label)
        settings = _settings(config, manifest, table)
        if (saved := checkpoint.read_manifest(path)) is None:
            missing.append(label)
            continue
        state = checkpoint.load(path, like, settings)
        fitted[label] = {name: FittedProbe(state[name], **saved["chosen"][name]) for name in task.probes}
    if not missing:
        print(f"probes: all {len(fitted)} complete in {output / 'probes'}, reused")
        return fitted
    print(f"probes: {len(fitted)} complete and reused, {len(missing)} to fit")
    for label in tqdm(missing, desc=f"{'fit probes':>12}", unit="pooler"):
        try:
            fitted[label] = _fit(config, data, task, features[label])
        except InputError as error:
            raise InputError(f"{data.name}: pooler {label!r}: {error}") from None
        chosen = {
            name: {"penalty": fit.penalty, "validation": fit.validation, "converged": fit.converged}
            for name, fit in fitted[label].items()
        }
        state = {name: fit.probe for name, fit in fitted[label].items()}
        settings = _settings(config, manifest, features[label]) | {"chosen": chosen}
        checkpoint.save(output / "probes" / slug(label), state, settings)
    return {label: fitted[label] for label in features}


def _settings(config: CompareConfig, manifest: dict[str, Any], table: np.ndarray) -> dict[str, Any]:
    return {
        "penalties": list(config.penalties),
        "data": manifest["data"],
        "features_digest": checkpoint.leaf_digests({"features": table})["['features']"],
    }


def _fit(config: CompareConfig, data: Dataset, task: Task, table: np.ndarray) -> dict[str, FittedProbe]:
    train, validation = data.rows("train"), data.rows("validation")
    space = row_space(table[train])
    coordinates = space.coordinates(table[train])
    targets = data.targets[train]
    paths: dict[str, tuple[list[LinearProbe], list[bool]]] = {}
    paths["ridge"] = (fit_ridge_path(space, coordinates, targets, config.penalties), [True] * len(config.penalties))
    if "logistic" in task.probes:
        logistic = fit_logistic_path(space, coordinates, targets, config.penalties, task.exclusive)
        paths["logistic"] = (logistic.probes, [slope <= 1e-4 for slope in logistic.gradient])
    fitted = {}
    metric = task.metrics[task.primary][1]
    for name in task.probes:
        probes, converged = paths[name]
        scores = (predictions(task, name, probe.scores(table[validation])) for probe in probes)
        values = [float(macro(np.atleast_1d(metric(data.targets[validation], each)))) for each in scores]
        # Equal on validation: the stronger penalty is the safer one.
        best = max(range(len(values)), key=lambda i: (values[i], config.penalties[i]))
        fitted[name] = FittedProbe(probes[best], config.penalties[best], values, converged[best])
    return fitted
