"""Results of a comparison: values, intervals, contrasts between rows, and how often the test set was looked at."""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.activations import ArrayTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.features import Tables
from covjax.comparison.probing import TASKS, Probes, macro, predictions, probe_names
from covjax.data import Dataset
from covjax.data.splits import SPLITS
from covjax.data.text import read_delimited
from covjax.errors import InputError, shown
from covjax.jobs.disk import read_line, sealed_line
from covjax.jobs.folder import write_text
from covjax.metrics import bootstrap_p_value, interval, resample_counts
from covjax.notes import progress
from covjax.recipes import Recipe
from covjax.recipes.base import BASELINE, COMPOSITION, CONTROL, ROLES, SECOND_ORDER
from covjax.recipes.standard import QUADRATIC, TWINS, matched_rank


def planned_pairs(rows: Sequence[dict[str, Any]], reference: str, probe: str) -> dict[str, tuple[str, str]]:
    """Which row is compared with which: {name: (row, other row)}, every choice made on validation alone.

    `gain`, `over_baseline`, `over_control`, `over_composition`: the best second-order row minus the reference, the best
    other row of first order, the best control, the best composition row. The other four take the gain of a whole matrix
    W apart, W being the best row that has a shuffled twin:

        whole_gain    W − mean                           = quadratic + marginal + co_occurrence
        quadratic     first − mean,    first  = the best of mean, mean_outer, mean+mean_outer
        marginal      second − first,  second = the best of first and shuffled W
        co_occurrence W − second

    The three parts are a chain, so they add up exactly. A control that does not help on validation takes no part
    (its step is zero); a plain sum of (μμᵀ − mean), (shuffled W − mean) and a remainder would credit co-occurrence
    with what shuffled W loses because, unlike the mean, it is centred. Ties go to the simpler row, which stands
    first. Pairs whose rows are absent are left out.
    """
    validation = {row["label"]: row["probes"][probe]["validation"] for row in rows if probe in row["probes"]}
    roles = {row["label"]: row["role"] for row in rows}

    def best(labels: Sequence[str]) -> str:
        return max(labels, key=lambda label: validation[label])

    pairs = {}
    by_role = {role: [label for label in validation if roles[label] == role and label != reference] for role in ROLES}
    if by_role[SECOND_ORDER]:
        chosen = best(by_role[SECOND_ORDER])
        pairs["gain"] = (chosen, reference)
        if by_role[BASELINE]:
            pairs["over_baseline"] = (chosen, best(by_role[BASELINE]))
        if by_role[CONTROL]:
            pairs["over_control"] = (chosen, best(by_role[CONTROL]))
        if by_role[COMPOSITION]:
            pairs["over_composition"] = (chosen, best(by_role[COMPOSITION]))
    quadratic = [label for label in QUADRATIC if label in validation]
    wholes = [label for label, twin in TWINS.items() if label in validation and twin in validation]
    if wholes and quadratic:
        whole = best(wholes)
        first = best([reference, *quadratic])
        second = best([first, TWINS[whole]])
        pairs["whole_gain"] = (whole, reference)
        pairs["quadratic"] = (first, reference)
        pairs["marginal"] = (second, first)
        pairs["co_occurrence"] = (whole, second)
    return pairs


def contrasts(
    rows: Sequence[dict[str, Any]],
    reference: str,
    probe: str,
    metric: str,
    draws: Mapping[str, Float[np.ndarray, "resamples"]] | None = None,
    groups: int = 0,
) -> dict[str, dict[str, Any]]:
    """The planned differences on the test set: {name: {row, other, value, interval, p_value}}.

    `draws` are the bootstrapped metric of every row by label, on the same resamples (paired) of `groups` test groups.
    Without them the interval and p-value are known only against the reference, where the rows carry them; elsewhere
    they are None.
    """
    by_label = {row["label"]: row for row in rows}
    out = {}
    for name, (label, other) in planned_pairs(rows, reference, probe).items():
        score, base = (by_label[key]["probes"][probe]["test"][metric] for key in (label, other))
        entry: dict[str, Any] = {"row": label, "other": other, "value": score["value"] - base["value"]}
        entry |= {"interval": None, "p_value": None}
        if label == other:
            entry |= {"interval": [0.0, 0.0], "p_value": 1.0}
        elif draws is not None:
            difference = np.asarray(draws[label]) - np.asarray(draws[other])
            entry |= {"interval": list(interval(difference)), "p_value": bootstrap_p_value(difference, groups)}
        elif other == reference:
            entry |= {"interval": list(score["difference_interval"]), "p_value": score.get("p_value")}
        out[name] = entry
    return out


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
    included (`covjax.comparison.results`).
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


NAME = "test-looks.jsonl"


def record_look(folder: Path, settings: dict[str, Any], manifest: dict[str, Any], command: str) -> int:
    """Note that the test set is scored under these settings; how many settings were scored from this folder.

    `settings` are the fields that decide numbers (`covjax.options.decided_by`).

    The same config, data and encoder again, which give the same numbers, are no new look; neither names and places
    nor the machine count. Other data do, such as another split of the same. --force removes all but this record.

    Raises InputError for a record that cannot be read.
    """
    data, encoder = manifest["data"]["fingerprint"], manifest["encoder"]
    text = json.dumps([data, encoder["weights_digest"], encoder["layer"], settings], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = folder / NAME
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n") if path.exists() else []
        looks = [look for line in lines if (look := read_line(line)) is not None]
    except (OSError, ValueError):
        lines, looks = [""], []
    if len(looks) < len(lines):
        raise InputError(
            f"output: {path} is damaged, was changed, or is of another version of covjax; it records every look at the "
            "test set: put it back, or use --output OTHER"
        )
    known = {look["settings"] for look in looks}
    if digest not in known:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        look = {"time": now, "data": data, "settings": digest, "command": command}
        write_text(path, "".join(sealed_line(each) + "\n" for each in [*looks, look]))
        known.add(digest)
    return len(known)
