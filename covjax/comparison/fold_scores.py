"""Means over folds, and intervals by the corrected resampled method, of everything that a comparison shows."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from covjax.activations import ArrayTokens
from covjax.comparison.chain import chain_pairs
from covjax.comparison.config import CompareConfig
from covjax.comparison.folds import FoldProbe, FoldRow, FoldRows, common_shares
from covjax.comparison.mixtures import described
from covjax.comparison.probing import best_penalty, macro, probe_names, task_of
from covjax.comparison.results import Contrast, Folds, ProbeResult, Results, RowResult, Score
from covjax.comparison.scoring import (
    FEW_GROUPS,
    REFERENCE,
    assemble,
    count_terms,
    edge_warning,
    look_warnings,
    planned_pairs,
)
from covjax.data import Dataset
from covjax.data.splits import SPLITS
from covjax.metrics import corrected_interval
from covjax.probes.nonlinear import DECAYS
from covjax.recipes import Recipe
from covjax.recipes.base import Weighted

Values = dict[str, dict[str, dict[str, tuple[float, ...]]]]


def summarise_folds(
    config: CompareConfig,
    data: Dataset,
    folds: Sequence[Dataset],
    tokens: ArrayTokens,
    recipes: Sequence[Recipe],
    fits: FoldRows,
    manifest: dict[str, Any],
    looks: int,
    label_names: Mapping[str, str],
) -> Results:
    """Every row's metrics as means over folds, differences paired by fold.

    Intervals and p-values are those of `corrected_interval`. The contrasts are nested: each fold chooses their rows on
    its own validation rows, and the difference is that of its two rows on its test rows. `data` has every row in
    training; `tokens` are those of a layer, whose features are counted.
    """
    task, names = task_of(config, data), probe_names(config, data)
    sizes = {split: np.array([len(fold.rows(split)) for fold in folds]) for split in SPLITS}
    ratio = float(np.mean(sizes["test"] / sizes["train"]))
    values: Values = {
        recipe.name: {
            name: {
                key: tuple(float(macro(np.array(row.probes[name].test[key]))) for row in fits.rows[recipe.name])
                for key in task.metrics
            }
            for name in names
        }
        for recipe in recipes
    }
    has_terms = data.task == "multilabel"
    rows = [_row(recipe, fits.rows[recipe.name], values, ratio, config, has_terms) for recipe in recipes]
    compared = rows, fits, values, names[0], task.primary, ratio
    layers = {}
    if any(layer.number is not None for each in fits.layers.values() for layer in each):
        layers = {name: tuple(layer.number or 0 for layer in each) for name, each in fits.layers.items()}
    groups = {split: [len({fold.groups[i] for i in fold.rows(split)}) for fold in folds] for split in SPLITS}
    every = len(set(data.groups))
    parts = {
        "sizes": {split: float(round(each.mean())) for split, each in sizes.items()},
        "groups": {split: round(float(np.mean(each))) for split, each in groups.items()},
        # Each label has all its positives in some test set, once a repeat.
        "terms": count_terms(data, label_names, {"test": data.rows("train")}) if has_terms else (),
        "warnings": tuple(_warnings(rows, fits, data, every, looks)),
        "folds": Folds(config.folds, config.repeats, ratio, len(data), every, values, layers),
    }
    differences = _contrasts(planned_pairs, *compared)
    chain = _contrasts(chain_pairs, *compared)
    return assemble(config, data, tokens, rows, differences, chain, looks, manifest, parts)


def _row(
    recipe: Recipe,
    folds: Sequence[FoldRow],
    values: Values,
    ratio: float,
    config: CompareConfig,
    has_terms: bool,
) -> RowResult:
    grid = DECAYS if getattr(recipe, "probe", "") == "mlp" else config.penalties
    probes = {}
    for name, metrics in values[recipe.name].items():
        fits = [row.probes[name] for row in folds]
        path = np.mean([fit.validation for fit in fits], axis=0)
        penalty = grid[best_penalty(path.tolist(), grid)]
        scores = {key: _score(each, values[REFERENCE][name][key], ratio) for key, each in metrics.items()}
        probes[name] = ProbeResult(
            penalty=penalty,
            at_edge=penalty in (min(grid), max(grid)),
            validation=float(np.mean([max(fit.validation) for fit in fits])),
            validation_path=tuple(path.tolist()),
            converged=all(fit.converged for fit in fits),
            test=scores,
            per_term=_per_term(fits, has_terms),
        )
    title, shares = recipe.title, common_shares(folds)
    if isinstance(recipe, Weighted):
        title += f": most often {described(recipe.parts, shares)}"
    size = next(row.num_features for row in folds if row.shares == shares)
    return RowResult(recipe.name, title, recipe.role, recipe.family, recipe.rank, probes, size)


def _score(values: Sequence[float], reference: Sequence[float], ratio: float) -> Score:
    own, difference = np.array(values), np.array(values) - np.array(reference)
    low, high, p_value = corrected_interval(difference, ratio)
    return Score(float(own.mean()), corrected_interval(own, ratio)[:2], float(difference.mean()), (low, high), p_value)


def _per_term(fits: Sequence[FoldProbe], has_terms: bool) -> dict[str, tuple[float, ...]]:
    """The mean over folds of every target's metrics, where there are several or the target is a label."""
    means = {key: np.mean([fit.test[key] for fit in fits], axis=0) for key in fits[0].test}
    return {key: tuple(each.tolist()) for key, each in means.items() if has_terms or len(each) > 1}


def _contrasts(
    pairs_of: Callable[..., dict[str, tuple[str, str]]],
    rows: Sequence[RowResult],
    fits: FoldRows,
    values: Values,
    probe: str,
    metric: str,
    ratio: float,
) -> dict[str, Contrast]:
    """The differences that `pairs_of` plans from rows, the reference and the probe, planned in every fold."""
    count = len(fits.rows[REFERENCE])
    by_fold = [pairs_of(_as_in_fold(rows, fits, probe, fold), REFERENCE, probe) for fold in range(count)]
    out = {}
    for name, (row, other) in pairs_of(rows, REFERENCE, probe).items():
        choices = tuple(pairs[name] for pairs in by_fold)
        tests = {label: values[label][probe][metric] for label in values}
        differences = np.array([tests[a][fold] - tests[b][fold] for fold, (a, b) in enumerate(choices)])
        low, high, p_value = corrected_interval(differences, ratio)
        out[name] = Contrast(row, other, float(differences.mean()), (low, high), p_value, choices)
    return out


def _as_in_fold(rows: Sequence[RowResult], fits: FoldRows, probe: str, fold: int) -> list[RowResult]:
    """The rows with the validation value that they have in one fold."""
    out = []
    for row in rows:
        value = max(fits.rows[row.label][fold].probes[probe].validation)
        out.append(dataclasses.replace(row, probes={probe: dataclasses.replace(row.probes[probe], validation=value)}))
    return out


def _warnings(rows: Sequence[RowResult], fits: FoldRows, data: Dataset, groups: int, looks: int) -> list[str]:
    texts = [*look_warnings(looks), *data.warnings]
    if groups < FEW_GROUPS:
        texts.append(f"{groups} groups in all: intervals over so few are too narrow")
    texts += [f"{name}: equal for all sequences; its probe predicts a constant" for name in sorted(fits.constant)]
    for row in rows:
        for name, probe in row.probes.items():
            if probe.at_edge:
                texts.append(edge_warning(row.label, name, probe))
            count = sum(not fold.probes[name].converged for fold in fits.rows[row.label])
            if count:
                texts.append(f"{row.label}, {name}: stopped before its tolerance in {count} folds")
    return texts
