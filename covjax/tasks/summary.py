"""From the results of many comparisons to the suite's numbers: pure functions of {task: its results.json}."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from covjax.comparison.results import contrasts
from covjax.errors import InputError
from covjax.metrics import holm
from covjax.recipes.base import COMPOSITION, SECOND_ORDER
from covjax.recipes.standard import FAMILIES, TWINS

Results = Mapping[str, dict[str, Any]]

COMPACT = 4096
WHOLE = ("second_moment", *TWINS, "mean+sqrt_covariance", "mean+log_covariance")
PLANNED = ("gain", "over_control", "over_composition")
PARTS = ("quadratic", "marginal", "co_occurrence")
# Genomic tracks: R² of covariance pooling over mean pooling, in percent of the mean's (Dooms, Wang, Pearce 2026).
NOTE_PERCENT = 52.9


def summarise_suite(tasks: Results) -> dict[str, Any]:
    """Every number of the suite's report, as plain JSON data. Tasks may lack rows, probes or planned contrasts."""
    return {
        "headline": headline(tasks),
        "planned": planned(tasks),
        "mean_ranks": average_ranks(tasks),
        "rank_curves": rank_curves(tasks),
        "decomposition": decomposition(tasks),
        "losses": losses(tasks),
        "compactness": compactness(tasks),
        "relative_r2": relative_r2(tasks),
        "warnings": {key: results["warnings"] for key, results in tasks.items() if results.get("warnings")},
    }


def probe_of(results: dict[str, Any]) -> str:
    """The probe the suite compares by: the task's first (logistic where there is one, else ridge)."""
    return results["probes"][0]


def scores(results: dict[str, Any], metric: str | None = None) -> dict[str, dict[str, Any]]:
    """{label: test score of `metric` (default the primary) under `probe_of`} of the rows that have that probe."""
    probe = probe_of(results)
    return {
        row["label"]: row["probes"][probe]["test"][metric or results["primary"]]
        for row in results["rows"]
        if probe in row["probes"]
    }


def task_contrasts(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The planned contrasts of one task; without paired intervals where its results carry none."""
    if "contrasts" in results:
        return results["contrasts"]
    return contrasts(results["rows"], results["reference"], probe_of(results), results["primary"])


def verdict(entry: dict[str, Any]) -> str:
    """`above`, `below`, `undecided` (the interval holds 0) or `no interval` of a difference."""
    if entry["interval"] is None:
        return "no interval"
    low, high = entry["interval"]
    return "above" if low > 0 else "below" if high < 0 else "undecided"


def headline(tasks: Results) -> list[dict[str, Any]]:
    """Per task: the primary metric of every row, its difference to the reference, the best and the chosen row.

    Of the truncated rows only the chosen one stands here; all of them are in `rank_curves`.
    """
    out = []
    for key, results in tasks.items():
        cells = {}
        by_label = scores(results)
        chosen = task_contrasts(results).get("gain", {}).get("row")
        for row in results["rows"]:
            if row["label"] not in by_label or (row["rank"] and row["label"] != chosen):
                continue
            score = by_label[row["label"]]
            cells[row["label"]] = {
                "role": row["role"],
                "num_features": row["num_features"],
                "value": score["value"],
                "difference": score["difference"],
                "interval": score["difference_interval"],
                "p_value": score.get("p_value"),
                "seeds": score.get("seeds"),
            }
        out.append(
            {
                "task": key,
                "name": results["name"],
                "metric": results["primary_name"],
                "probe": probe_of(results),
                "reference": results["reference"],
                "sizes": results["sizes"],
                "encoder": results["manifest"]["encoder"]["name"],
                "encoder_features": results["encoder_features"],
                "chosen": chosen,
                "best": max(cells, key=lambda label: cells[label]["value"]),
                "cells": cells,
            }
        )
    return out


def planned(tasks: Results) -> dict[str, list[dict[str, Any]]]:
    """Per pre-declared comparison, its contrast in every task that has it, with Holm's p over those tasks.

    A task whose results carry no p-value has `p_holm` None and is not counted among the tests.
    """
    out: dict[str, list[dict[str, Any]]] = {}
    for name in PLANNED:
        found = [
            {"task": key, **entry, "p_holm": None, "resamples": results["manifest"]["config"]["resamples"]}
            for key, results in tasks.items()
            if (entry := task_contrasts(results).get(name))
        ]
        tested = [entry for entry in found if entry["p_value"] is not None]
        if tested:
            for entry, p in zip(tested, holm([entry["p_value"] for entry in tested])):
                entry["p_holm"] = float(p)
        out[name] = [entry | {"verdict": verdict(entry)} for entry in found]
    return out


def average_ranks(tasks: Results) -> dict[str, Any]:
    """Mean rank over the tasks of every row that all of them have, Friedman's test, Nemenyi's critical difference.

    Truncated rows are left out: every further row widens the critical difference, and theirs is a figure of its own.
    `{"missing": reason}` with fewer than two tasks or two common rows.
    """
    tables = {key: scores(results) for key, results in tasks.items()}
    truncated = {row["label"] for results in tasks.values() for row in results["rows"] if row["rank"]}
    first = next(iter(tables.values()), {})
    labels = [label for label in first if all(label in table for table in tables.values()) and label not in truncated]
    if len(tables) < 2 or len(labels) < 2:
        return {"missing": f"{len(tables)} tasks with {len(labels)} rows in common; needs two of each"}
    found = mean_ranks(np.array([[table[label]["value"] for label in labels] for table in tables.values()]))
    return {
        "tasks": len(tables),
        "ranks": dict(sorted(zip(labels, found.ranks.tolist()), key=lambda pair: pair[1])),
        "chi_square": found.chi_square,
        "p_chi_square": found.p_chi_square,
        "f": found.f if np.isfinite(found.f) else None,
        "p_f": found.p_f,
        "critical_difference": found.critical_difference,
        "cliques": cliques(found.ranks, found.critical_difference),
    }


def rank_curves(tasks: Results) -> list[dict[str, Any]]:
    """Per task: the metric along the rank of each truncated family, the whole matrix last, the reference's value."""
    out = []
    for key, results in tasks.items():
        by_label = scores(results)
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in results["rows"]:
            if row["rank"] and row["label"] in by_label:
                family = row["family"]
                curves.setdefault(family, []).append(_point(row["rank"], by_label[row["label"]], whole=False))
        for family, whole in FAMILIES.items():
            if family in curves and whole in by_label:
                curves[family].append(_point(results["encoder_features"], by_label[whole], whole=True))
        if curves:
            for points in curves.values():
                points.sort(key=lambda point: (point["rank"], point["whole"]))
            reference = by_label[results["reference"]]["value"]
            out.append({"task": key, "metric": results["primary_name"], "curves": curves, "reference": reference})
    return out


def _point(rank: int, score: dict[str, Any], whole: bool) -> dict[str, Any]:
    return {"rank": rank, "value": score["value"], "interval": score["interval"], "whole": whole}


def decomposition(tasks: Results) -> list[dict[str, Any]]:
    """Per task that has the controls: the gain of a whole matrix and its three parts (see `contrasts`)."""
    out = []
    for key, results in tasks.items():
        found = task_contrasts(results)
        if "whole_gain" in found:
            parts = {name: found[name] for name in ("whole_gain", *PARTS)}
            out.append({"task": key, "metric": results["primary_name"], **parts})
    return out


def compactness(tasks: Results, limit: int = COMPACT) -> list[dict[str, Any]]:
    """Per task: the best second-order row of at most `limit` numbers and the best whole matrix, both by validation.

    `share` is the quotient of the two gains over the reference; None where the whole matrix's interval does not lie
    above zero, since there is no gain to keep.
    """
    out = []
    for key, results in tasks.items():
        probe, by_label = probe_of(results), scores(results)
        rows = [row for row in results["rows"] if row["role"] == SECOND_ORDER and row["label"] in by_label]
        small = [row for row in rows if row["num_features"] <= limit]
        whole = [row for row in rows if row["label"] in WHOLE]
        if not small or not whole:
            continue
        entry: dict[str, Any] = {"task": key, "metric": results["primary_name"]}
        for name, group in (("compact", small), ("whole", whole)):
            row = max(group, key=lambda row: row["probes"][probe]["validation"])
            score = by_label[row["label"]]
            entry[name] = {
                "row": row["label"],
                "num_features": row["num_features"],
                "value": score["value"],
                "gain": score["difference"],
                "interval": score["difference_interval"],
            }
        gained = entry["whole"]["interval"][0] > 0
        out.append(entry | {"share": entry["compact"]["gain"] / entry["whole"]["gain"] if gained else None})
    return out


def relative_r2(tasks: Results) -> list[dict[str, Any]]:
    """Per regression task and second-order row: R² minus the reference's, in percent of the reference's R².

    `percent` is None where the reference's R² is not positive: a percentage of it means nothing.
    """
    out = []
    for key, results in tasks.items():
        if results["task"] != "regression":
            continue
        by_label = scores(results, "r2")
        base = by_label[results["reference"]]["value"]
        rows = {
            row["label"]: {
                "r2": by_label[row["label"]]["value"],
                "percent": 100 * by_label[row["label"]]["difference"] / base if base > 0 else None,
            }
            for row in results["rows"]
            if row["role"] == SECOND_ORDER and row["label"] in by_label
        }
        chosen = task_contrasts(results).get("gain", {}).get("row")
        found: dict[str, Any] = {"task": key, "targets": results["num_targets"], "reference_r2": base, "rows": rows}
        if base > 0 and chosen is not None and chosen in rows:
            ends = by_label[chosen]["difference_interval"]
            found["chosen"] = {"row": chosen, "interval": [100 * end / base for end in ends]}
        out.append(found)
    return out


def losses(tasks: Results) -> list[dict[str, Any]]:
    """The tasks where the chosen second-order row is not above the reference, control or composition, and the facts.

    `not_above` are the planned contrasts whose interval is not above zero (without an interval: whose value is not);
    `facts` are sentences, each of which is there only if the task's numbers say so.
    """
    out = []
    for key, results in tasks.items():
        found = {name: entry for name, entry in task_contrasts(results).items() if name in PLANNED}
        not_above = [name for name, entry in found.items() if not _shown_above(entry)]
        if not_above:
            entries = [{"name": name, **found[name], "verdict": verdict(found[name])} for name in not_above]
            out.append({"task": key, "metric": results["primary_name"], "not_above": entries, "facts": _facts(results)})
    return out


def _shown_above(entry: dict[str, Any]) -> bool:
    return entry["value"] > 0 if entry["interval"] is None else entry["interval"][0] > 0


def _facts(results: dict[str, Any]) -> list[str]:
    probe, reference = probe_of(results), results["reference"]
    rows = {row["label"]: row for row in results["rows"]}
    by_label = scores(results)
    found = task_contrasts(results)
    chosen = rows[found["gain"]["row"]]
    fit = chosen["probes"][probe]
    value, sizes, d = by_label[chosen["label"]]["value"], results["sizes"], results["encoder_features"]
    facts = []

    composition = found.get("over_composition")
    if composition and composition["value"] < 0:
        other, first = by_label[composition["other"]]["value"], by_label[reference]["value"]
        text = f"{results['composition_unit']} content decides: " if verdict(composition) == "below" else ""
        text += f"{composition['other']}, which never sees the encoder, reaches {other:.3f}"
        facts.append(text + (f", and {reference} {first:.3f}" if other > first else ""))
    control = found.get("over_control")
    if control and _shown_above(found["gain"]) and not _shown_above(control):
        facts.append(
            f"the gain over {reference} is not shown to be co-occurrence: {control['other']}, which has none, reaches "
            f"{by_label[control['other']]['value']:.3f}"
        )
    roles = (SECOND_ORDER, COMPOSITION)
    above = {
        label: score["value"]
        for label, score in by_label.items()
        if rows[label]["role"] not in roles and label != reference and score["value"] > value
    }
    if above:
        best = max(above, key=lambda label: above[label])
        facts.append(f"{best}, a {rows[best]['role']}, reaches {above[best]:.3f} on the test set")
    before = fit["validation"] - rows[reference]["probes"][probe]["validation"]
    if before > 0 and found["gain"]["value"] <= 0:
        facts.append(f"its advantage on validation ({before:+.3f} over {reference}) did not carry over to the test set")
    elif before <= 0:
        too = ", too," if found["gain"]["value"] <= 0 else ""
        facts.append(f"on validation{too} it was not above {reference} ({before:+.3f})")
    if fit["at_edge"]:
        facts.append(f"its penalty, {fit['penalty']:g}, stands at the edge of the grid")
    if not fit["converged"]:
        facts.append("its probe stopped before its tolerance")
    if chosen["num_features"] > sizes["train"]:
        facts.append(f"{chosen['num_features']:,} features on {sizes['train']:,} training sequences")
    length = sizes["median_tokens"]
    if length <= d:
        facts.append(
            f"half of the sequences have at most {length:g} tokens for {d} features a token: their covariance has "
            f"rank below {length:g}"
        )
    if verdict(found["gain"]) == "undecided":
        low, high = found["gain"]["interval"]
        units = (
            f"{results['groups']['test']:,} test groups" if "groups" in results else f"{sizes['test']:,} test sequences"
        )
        facts.append(f"{units} leave an interval {high - low:.3f} wide")
    return facts


@dataclasses.dataclass(frozen=True)
class MeanRanks:
    """Mean rank of each of k methods over N tasks (1 is best) and whether the ranks differ at all."""

    ranks: Float[np.ndarray, "k"]
    chi_square: float
    p_chi_square: float
    f: float
    p_f: float
    critical_difference: float


def mean_ranks(values: Float[np.ndarray, "tasks methods"], alpha: float = 0.05) -> MeanRanks:
    """Rank the methods within each task (ties share their mean rank) and test (Demšar 2006, §3.2.2).

        χ²_F = 12 N / (k (k + 1)) · (Σ_j R_j² − k (k + 1)² / 4) / (1 − Σ(t³ − t) / (N k (k² − 1)))
        F_F  = (N − 1) χ²_F / (N (k − 1) − χ²_F)          with k − 1 and (k − 1)(N − 1) degrees of freedom
        CD   = q_α √(k (k + 1) / (6 N))

    The divisor corrects for ties of t methods in a task. Larger values are better. Raises InputError for fewer than
    two tasks or methods, for NaN, and where all methods tie in all tasks.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or min(x.shape) < 2:
        raise InputError(f"values: shape {x.shape} must be (tasks >= 2, methods >= 2)")
    if not np.isfinite(x).all():
        raise InputError(f"values: {np.count_nonzero(~np.isfinite(x))} are not finite")
    n, k = x.shape
    placed = stats.rankdata(-x, axis=1)
    ranks = placed.mean(0)
    ties = float(np.mean([stats.tiecorrect(row) for row in placed]))
    if ties <= 0:
        raise InputError("values: all methods tie in all tasks")
    chi = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4) / ties
    spare = n * (k - 1) - chi
    f = math.inf if spare <= 1e-9 * n * k else (n - 1) * chi / spare
    return MeanRanks(
        ranks,
        float(chi),
        float(stats.chi2.sf(chi, k - 1)),
        float(f),
        float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))),
        nemenyi_q(k, alpha) * math.sqrt(k * (k + 1) / (6 * n)),
    )


def nemenyi_q(k: int, alpha: float = 0.05) -> float:
    """q_α of Nemenyi's test for k methods: quantile of the studentized range (infinite degrees of freedom) over √2.

    (Demšar 2006, table 5.)
    """
    return float(stats.studentized_range.ppf(1 - alpha, k, math.inf)) / math.sqrt(2)


def cliques(ranks: Float[np.ndarray, "k"], critical_difference: float) -> list[tuple[float, float]]:
    """Widest spans (lowest rank, highest rank) of at least two methods that the test does not tell apart."""
    sorted_ranks = np.sort(ranks)
    spans: list[tuple[float, float]] = []
    for low in sorted_ranks:
        high = sorted_ranks[sorted_ranks <= low + critical_difference][-1]
        if high > low and (not spans or high > spans[-1][1]):
            spans.append((float(low), float(high)))
    return spans
