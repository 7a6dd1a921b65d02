"""Small made-up results of a comparison for the tests of the suite."""

import dataclasses
from typing import Any

from covjax.comparison.results import Results, RowResult, load
from covjax.comparison.scoring import contrasts

BASELINE, SECOND, CONTROL, COMPOSITION = "baseline", "second order", "control", "composition"
# label: role, rank, number of features
ROWS: dict[str, tuple[str, int | None, int]] = {
    "mean": (BASELINE, None, 8),
    "mean_std": (BASELINE, None, 16),
    "attention": (BASELINE, None, 8),
    "covariance": (SECOND, None, 36),
    "sqrt_covariance": (SECOND, None, 36),
    "pca_covariance_2": (SECOND, 2, 3),
    "pca_covariance_4": (SECOND, 4, 10),
    "pca_sqrt_covariance_2": (SECOND, 2, 3),
    "mean_outer": (CONTROL, None, 36),
    "mean+mean_outer": (CONTROL, None, 44),
    "shuffled_covariance": (CONTROL, None, 36),
    "shuffled_sqrt_covariance": (CONTROL, None, 36),
    "composition": (COMPOSITION, None, 4),
}


def example(name: str, scores: dict[str, tuple[float, float]], task: str = "multiclass", **fields: Any) -> Results:
    """Results with one probe and one metric; `scores` gives (validation, test) of each row that is to be there.

    The interval of a difference is ± 0.02 around it and its p-value 0.01, or 0.5 where that interval holds zero.
    """
    metric = "r2" if task == "regression" else "mcc"
    base = scores["mean"][1]
    rows = []
    for label, (validation, test) in scores.items():
        role, rank, features = ROWS[label]
        d = test - base
        score = {
            "value": test,
            "interval": [test - 0.05, test + 0.05],
            "difference": d,
            "difference_interval": [d - 0.02, d + 0.02] if label != "mean" else [0.0, 0.0],
            "p_value": 0.01 if abs(d) > 0.02 else 0.5,
        }
        fit = {"penalty": 0.1, "at_edge": False, "validation": validation, "converged": True, "per_term": {}}
        fit["validation_path"] = [validation]
        family = label.rpartition("_")[0] if rank else ""
        row = {"label": label, "title": label, "role": role, "family": family, "rank": rank, "num_features": features}
        rows.append(row | {"probes": {"ridge": fit | {"test": {metric: score}}}})
    planned = contrasts([load(RowResult, row, "row") for row in rows], "mean", "ridge", metric)
    plain = {
        "name": name,
        "task": task,
        "reference": "mean",
        "primary": metric,
        "primary_name": {"mcc": "MCC", "r2": "R²"}[metric],
        "metrics": {metric: metric},
        "probes": ["ridge"],
        "sizes": {"train": 100, "validation": 30, "test": 40, "median_tokens": 20},
        "groups": {"train": 100, "validation": 30, "test": 40},
        "num_targets": 1,
        "encoder_features": 8,
        "matched_rank": 3,
        "best_second_order": planned["gain"].row if "gain" in planned else "",
        "contrasts": {name: dataclasses.asdict(contrast) for name, contrast in planned.items()},
        "test_looks": 1,
        "grouping": "",
        "one_family": False,
        "composition_unit": "k-mer",
        "rows": rows,
        "terms": [],
        "warnings": [],
        "manifest": {
            "config": {"name": name, "resamples": 199},
            "encoder": {"name": "tiny", "layer": 1},
            "versions": {"jax": "0"},
        },
    }
    return load(Results, plain | fields, name)


def changed(results: Results, *keys: str | int, value: Any) -> Results:
    """The results with another value at one place of their plain data."""
    plain = results.dump()
    at: Any = plain
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return load(Results, plain, "changed")
