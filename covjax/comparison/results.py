"""The one look at the test set: every metric with its interval, and every pooler minus the reference."""

from typing import Any

import numpy as np

from covjax.activations import ArrayTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.contrasts import contrasts
from covjax.comparison.features import Tables
from covjax.comparison.probing import Probes, probe_names
from covjax.comparison.tasks import TASKS, macro, predictions
from covjax.data import Dataset
from covjax.data.splits import SPLITS
from covjax.data.text import read_delimited
from covjax.errors import InputError, shown
from covjax.metrics import bootstrap_p_value, interval, resample_counts
from covjax.notes import progress
from covjax.recipes import Recipe
from covjax.recipes.base import SECOND_ORDER
from covjax.recipes.truncated import matched_rank

REFERENCE = "mean"
FEW_GROUPS = 20


def summarise(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: tuple[Recipe, ...],
    tables: Tables,
    probes: Probes,
    manifest: dict[str, Any],
    looks: int,
) -> dict[str, Any]:
    """Score the test rows once per pooler and probe; plain JSON data (see `covjax.comparison.report` for its readers).

    Intervals: percentiles of `config.resamples` bootstrap resamples of whole groups, the same ones for every pooler,
    so that differences to the reference are paired. A pool trained with several seeds counts with the mean of its
    metrics over the seeds, in every resample too. `looks`: under how many settings the test set was scored, these
    included (`covjax.comparison.looks`).
    """
    task, names = TASKS[data.task], probe_names(config, data)
    test = data.rows("test")
    truth = data.targets[test]
    groups = {split: len({data.groups[i] for i in data.rows(split)}) for split in SPLITS}
    terms = _terms(config, data) if data.task == "multilabel" else []
    counts = resample_counts([data.groups[i] for i in test], config.resamples, config.seed)
    edges = min(config.penalties), max(config.penalties)
    entries: list[dict[str, Any]] = []
    reference: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
    planned: dict[str, np.ndarray] = {}  # draws of what the planned contrasts compare
    shown_rows = [recipe for recipe in recipes if not getattr(recipe, "replica_of", "")]
    for recipe in progress(shown_rows, desc=f"{'score test':>12}", unit="recipe"):
        labels = [each.name for each in recipes if recipe.name in (each.name, getattr(each, "replica_of", ""))]
        entry: dict[str, Any] = {"label": recipe.name, "title": recipe.title, "role": recipe.role}
        entry |= {"family": recipe.family, "rank": recipe.rank, "probes": {}}
        entry["num_features"] = tables[recipe.name].num_features
        for name in names:
            fits = [probes[label][name] for label in labels]
            shown = next((fit for fit in fits if fit.penalty in edges), fits[0])  # of the seeds
            scores = [predictions(task, name, fit.scores[test]) for fit in fits]
            test_scores, per_term = {}, {}
            for key, (_, metric) in task.metrics.items():
                values = np.mean([np.atleast_1d(metric(truth, each)) for each in scores], axis=0)
                draws = np.mean([_macro_draws(metric(truth, each, counts)) for each in scores], axis=0)
                value = float(macro(values))
                if (name, key) == (names[0], task.primary):
                    planned[recipe.name] = draws
                base, base_draws = reference.setdefault((name, key), (value, draws))  # the first row is the reference
                test_scores[key] = {
                    "value": value,
                    "interval": list(interval(draws)),
                    "difference": value - base,
                    "difference_interval": list(interval(draws - base_draws)),
                    "p_value": bootstrap_p_value(draws - base_draws, groups["test"]),
                }
                if len(scores) > 1:
                    test_scores[key]["seeds"] = [float(macro(np.atleast_1d(metric(truth, each)))) for each in scores]
                if terms or len(values) > 1:
                    per_term[key] = values.tolist()
            entry["probes"][name] = {
                "penalty": shown.penalty,
                "at_edge": shown.penalty in edges,
                "validation": float(np.mean([max(fit.validation) for fit in fits])),
                "validation_path": shown.validation,
                "converged": all(fit.converged for fit in fits),
                "test": test_scores,
                "per_term": per_term,
            }
        entries.append(entry)
    second_order = [entry for entry in entries if entry["role"] == SECOND_ORDER]
    return {
        "name": config.name,
        "task": data.task,
        "reference": REFERENCE,
        "primary": task.primary,
        "primary_name": task.metrics[task.primary][0],
        "metrics": {key: name for key, (name, _) in task.metrics.items()},
        "probes": list(names),
        "sizes": {split: len(data.rows(split)) for split in SPLITS} | {"median_tokens": tokens.median_tokens()},
        "groups": groups,
        "num_targets": len(data.target_names),
        "encoder_features": tokens.features,
        "matched_rank": matched_rank(tokens.features),
        "composition_unit": "word" if data.is_text else "letter" if config.composition_k == 1 else "k-mer",
        "best_second_order": max(second_order, key=lambda entry: entry["probes"][names[0]]["validation"])["label"],
        "contrasts": contrasts(entries, REFERENCE, names[0], task.primary, planned, groups["test"]),
        "rows": entries,
        "terms": terms,
        "test_looks": looks,
        "grouping": data.grouping,
        "one_family": data.one_family,
        "warnings": _warnings(entries, tables, data, groups["test"], looks),
        "manifest": manifest,
    }


def _macro_draws(draws: np.ndarray) -> np.ndarray:
    return macro(draws) if draws.ndim == 2 else draws


def _warnings(entries: list[dict[str, Any]], tables: Tables, data: Dataset, groups: int, looks: int) -> list[str]:
    texts = []
    if looks > 1:
        texts.append(
            f"the test set was scored under {looks} settings from this folder (test-looks.jsonl): to choose between "
            "them by these numbers is selection on test"
        )
    texts += data.warnings
    if groups < FEW_GROUPS:
        texts.append(f"{groups} groups in the test set: bootstrap intervals over so few are too narrow")
    for entry in entries:
        values = tables[entry["label"]].values[data.rows("train")]
        if (values == values[:1]).all():
            texts.append(f"{entry['label']}: equal for all training sequences; its probe predicts a constant")
    for entry in entries:
        for name, fit in entry["probes"].items():
            if fit["at_edge"]:
                texts.append(f"{entry['label']}, {name}: penalty {fit['penalty']:g} is at the edge of the grid")
            if not fit["converged"]:
                texts.append(f"{entry['label']}, {name}: L-BFGS stopped before its tolerance")
    return texts


def read_label_names(path: str) -> dict[str, str]:
    """What the report calls each label, from a table with the columns label and name; nothing for no path.

    Raises InputError, naming the line, where there is no such file, it is damaged, its columns are others, or a label
    is empty or stands in it twice, or none does.
    """
    if not path:
        return {}
    try:
        table = read_delimited(path)
    except InputError as error:
        raise InputError(f"label_names: {error}") from None
    header = [cell.strip().casefold() for cell in table.header.cells]
    if header.count("label") != 1 or header.count("name") != 1:
        columns = shown(", ".join(table.header.cells))
        raise InputError(f"label_names: {path}: columns {columns}; label and name are needed, each once")
    if not table.rows:
        raise InputError(f"label_names: {path}: a header but no rows")
    names, lines = dict[str, str](), dict[str, int]()
    for row in table.rows:
        label, name = row.cells[header.index("label")].strip(), row.cells[header.index("name")].strip()
        if not label:
            raise InputError(f"label_names: {path}: line {row.line}: the label is empty")
        if label in names:
            raise InputError(
                f"label_names: {path}: line {row.line}: label {shown(label)} stands already in line {lines[label]}"
            )
        names[label], lines[label] = name or label, row.line
    return names


def label_name_notes(names: dict[str, str], data: Dataset, path: str) -> list[str]:
    """A line for labels of the data without a name, and one for names of other labels.

    Raises InputError where the names are of other labels altogether.
    """
    unnamed = [label for label in data.target_names if label not in names]
    unknown = sorted(set(names) - set(data.target_names))
    if names and len(unnamed) == len(data.target_names):
        raise InputError(
            f"label_names: {path}: none of its labels ({shown(unknown[0], 60)}, …) stands in {data.name} "
            f"({shown(unnamed[0], 60)}, …)"
        )
    notes = [(unnamed, "labels have no name"), (unknown, "labels do not stand in the data")]
    return [
        f"{path}: {len(labels)} {what} ({', '.join(shown(label, 40) for label in labels[:3])})"
        for labels, what in notes
        if names and labels
    ]


def _terms(config: CompareConfig, data: Dataset) -> list[dict[str, Any]]:
    names = read_label_names(config.label_names)
    counts = {split: data.targets[data.rows(split)].sum(0) for split in SPLITS}
    return [
        {
            "label": label,
            "name": names.get(label, label),
            "positives": {split: int(counts[split][j]) for split in counts},
        }
        for j, label in enumerate(data.target_names)
    ]
