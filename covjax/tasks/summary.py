"""From the results of many comparisons to the suite's numbers: pure functions of {task: its results}."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from covjax.comparison.results import Contrast, Results, RowResult, Score, side
from covjax.errors import InputError
from covjax.metrics import holm
from covjax.recipes.base import COMPOSITION, SECOND_ORDER
from covjax.recipes.standard import FAMILIES, TWINS
from covjax.tasks.records import (
    CellRecord,
    CompactRecord,
    ContrastRecord,
    CurvesRecord,
    GainRecord,
    LossRecord,
    PartsRecord,
    PercentRecord,
    PointRecord,
    R2Record,
    RanksRecord,
    Summary,
    TaskRecord,
)

Tasks = Mapping[str, Results]

COMPACT = 4096
WHOLE = ("second_moment", *TWINS, "mean+sqrt_covariance", "mean+log_covariance")
PLANNED = ("gain", "over_control", "over_composition")
PARTS: tuple[Literal["quadratic", "marginal", "co_occurrence"], ...] = ("quadratic", "marginal", "co_occurrence")
# Genomic tracks: R² of covariance pooling over mean pooling, in percent of the mean's (Dooms, Wang, Pearce 2026).
NOTE_PERCENT = 52.9


def summarise_suite(tasks: Tasks) -> Summary:
    """Every number of the suite's report. Tasks may lack rows, probes or planned contrasts."""
    return {
        "headline": headline(tasks),
        "planned": planned(tasks),
        "mean_ranks": average_ranks(tasks),
        "rank_curves": rank_curves(tasks),
        "decomposition": decomposition(tasks),
        "losses": losses(tasks),
        "compactness": compactness(tasks),
        "relative_r2": relative_r2(tasks),
        "warnings": {key: results.warnings for key, results in tasks.items() if results.warnings},
    }


def _chosen(results: Results) -> str | None:
    """The second-order row that validation chose; None where the task has none."""
    return results.contrasts["gain"].row if "gain" in results.contrasts else None


def _record(contrast: Contrast) -> ContrastRecord:
    return {
        "row": contrast.row,
        "other": contrast.other,
        "value": contrast.value,
        "interval": contrast.interval,
        "p_value": contrast.p_value,
    }


def headline(tasks: Tasks) -> list[TaskRecord]:
    """Per task: the primary metric of every row, its difference to the reference, the best and the chosen row.

    Of the truncated rows only the chosen one stands here; all of them are in `rank_curves`.
    """
    out: list[TaskRecord] = []
    for key, results in tasks.items():
        cells: dict[str, CellRecord] = {}
        scores, chosen = results.scores(), _chosen(results)
        for row in results.rows:
            if row.label not in scores or (row.rank and row.label != chosen):
                continue
            score = scores[row.label]
            cells[row.label] = {
                "role": row.role,
                "num_features": row.num_features,
                "value": score.value,
                "difference": score.difference,
                "interval": score.difference_interval,
                "p_value": score.p_value,
                "seeds": score.seeds,
            }
        out.append(
            {
                "task": key,
                "name": results.name,
                "metric": results.primary_name,
                "probe": results.probes[0],
                "reference": results.reference,
                "sizes": results.sizes,
                "encoder": results.manifest["encoder"]["name"],
                "encoder_features": results.encoder_features,
                "chosen": chosen,
                "best": max(cells, key=lambda label: cells[label]["value"]),
                "cells": cells,
            }
        )
    return out


def planned(tasks: Tasks) -> dict[str, list[ContrastRecord]]:
    """Per pre-declared comparison, its contrast in every task that has it, with Holm's p over those tasks.

    A task whose results carry no p-value has `p_holm` None and is not counted among the tests.
    """
    out: dict[str, list[ContrastRecord]] = {}
    for name in PLANNED:
        entries: list[ContrastRecord] = []
        for key, results in tasks.items():
            if contrast := results.contrasts.get(name):
                entry: ContrastRecord = {"task": key, **_record(contrast), "p_holm": None}
                entry["resamples"] = results.manifest["config"]["resamples"] if results.folds is None else None
                entry["verdict"] = side(contrast.interval)
                entries.append(entry)
        tested = [entry for entry in entries if entry["p_value"] is not None]
        for entry, p in zip(tested, holm([entry["p_value"] for entry in tested]) if tested else ()):
            entry["p_holm"] = float(p)
        out[name] = entries
    return out


def average_ranks(tasks: Tasks) -> RanksRecord:
    """Mean rank over the tasks of every row that all of them have, Friedman's test, Nemenyi's critical difference.

    Truncated rows are left out: every further row widens the critical difference, and theirs is a figure of its own.
    `{"missing": reason}` with fewer than two tasks or two common rows.
    """
    tables = {key: results.scores() for key, results in tasks.items()}
    truncated = {row.label for results in tasks.values() for row in results.rows if row.rank}
    first = next(iter(tables.values()), {})
    labels = [label for label in first if all(label in table for table in tables.values()) and label not in truncated]
    if len(tables) < 2 or len(labels) < 2:
        return {"missing": f"{len(tables)} tasks with {len(labels)} rows in common; needs two of each"}
    found = mean_ranks(np.array([[table[label].value for label in labels] for table in tables.values()]))
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


def rank_curves(tasks: Tasks) -> list[CurvesRecord]:
    """Per task: the metric along the rank of each truncated family, the whole matrix last, the reference's value."""
    out: list[CurvesRecord] = []
    for key, results in tasks.items():
        scores = results.scores()
        curves: dict[str, list[PointRecord]] = {}
        for row in results.rows:
            if row.rank and row.label in scores:
                curves.setdefault(row.family, []).append(_point(row.rank, scores[row.label], whole=False))
        for family, whole in FAMILIES.items():
            if family in curves and whole in scores:
                curves[family].append(_point(results.encoder_features, scores[whole], whole=True))
        if curves:
            for points in curves.values():
                points.sort(key=lambda point: (point["rank"], point["whole"]))
            reference = scores[results.reference].value
            out.append({"task": key, "metric": results.primary_name, "curves": curves, "reference": reference})
    return out


def _point(rank: int, score: Score, whole: bool) -> PointRecord:
    return {"rank": rank, "value": score.value, "interval": score.interval, "whole": whole}


def decomposition(tasks: Tasks) -> list[PartsRecord]:
    """Per task that has the controls: the gain of a whole matrix and its three parts (see `contrasts`)."""
    return [
        {
            "task": key,
            "metric": results.primary_name,
            "whole_gain": _record(results.contrasts["whole_gain"]),
            "quadratic": _record(results.contrasts["quadratic"]),
            "marginal": _record(results.contrasts["marginal"]),
            "co_occurrence": _record(results.contrasts["co_occurrence"]),
        }
        for key, results in tasks.items()
        if "whole_gain" in results.contrasts
    ]


def compactness(tasks: Tasks, limit: int = COMPACT) -> list[CompactRecord]:
    """Per task: the best second-order row of at most `limit` numbers and the best whole matrix, both by validation.

    `share` is the quotient of the two gains over the reference; None where the whole matrix's interval does not lie
    above zero, since there is no gain to keep.
    """
    out: list[CompactRecord] = []
    for key, results in tasks.items():
        scores = results.scores()
        rows = [row for row in results.rows if row.role == SECOND_ORDER and row.label in scores]
        small = [row for row in rows if row.num_features <= limit]
        matrices = [row for row in rows if row.label in WHOLE]
        if small and matrices:
            compact, whole = _best_gain(results, small), _best_gain(results, matrices)
            share = compact["gain"] / whole["gain"] if side(whole["interval"]) == "above" else None
            metric = results.primary_name
            out.append({"task": key, "metric": metric, "compact": compact, "whole": whole, "share": share})
    return out


def _best_gain(results: Results, rows: Sequence[RowResult]) -> GainRecord:
    """The best of the rows on validation."""
    row = max(rows, key=lambda row: row.probes[results.probes[0]].validation)
    score = results.scores()[row.label]
    return {
        "row": row.label,
        "num_features": row.num_features,
        "value": score.value,
        "gain": score.difference,
        "interval": score.difference_interval,
    }


def relative_r2(tasks: Tasks) -> list[R2Record]:
    """Per regression task and second-order row: R² minus the reference's, in percent of the reference's R².

    `percent` is None where the reference's R² is not positive: a percentage of it means nothing.
    """
    out: list[R2Record] = []
    for key, results in tasks.items():
        if results.task != "regression":
            continue
        scores, chosen = results.scores("r2"), _chosen(results)
        base = scores[results.reference].value
        rows: dict[str, PercentRecord] = {
            row.label: {
                "r2": scores[row.label].value,
                "percent": 100 * scores[row.label].difference / base if base > 0 else None,
            }
            for row in results.rows
            if row.role == SECOND_ORDER and row.label in scores
        }
        entry: R2Record = {"task": key, "targets": results.num_targets, "reference_r2": base, "rows": rows}
        if base > 0 and chosen in rows:
            low, high = scores[chosen].difference_interval
            entry["chosen"] = {"row": chosen, "interval": (100 * low / base, 100 * high / base)}
        out.append(entry)
    return out


def losses(tasks: Tasks) -> list[LossRecord]:
    """The tasks where the chosen second-order row is not above the reference, control or composition, and the facts.

    `not_above` are the planned contrasts whose interval is not above zero (without an interval: whose value is not);
    `facts` are sentences, each of which is there only if the task's numbers say so.
    """
    out: list[LossRecord] = []
    for key, results in tasks.items():
        lost = {name: each for name, each in results.contrasts.items() if name in PLANNED and not _is_above(each)}
        if lost:
            not_above: list[ContrastRecord] = [
                {"name": name, **_record(each), "verdict": side(each.interval)} for name, each in lost.items()
            ]
            metric, facts = results.primary_name, _facts(results)
            out.append({"task": key, "metric": metric, "not_above": not_above, "facts": facts})
    return out


def _is_above(contrast: Contrast) -> bool:
    return contrast.value > 0 if contrast.interval is None else contrast.interval[0] > 0


def _facts(results: Results) -> list[str]:
    probe, reference = results.probes[0], results.reference
    rows, scores, contrasts = results.by_label, results.scores(), results.contrasts
    gain, d = contrasts["gain"], results.encoder_features
    chosen = rows[gain.row]
    fit, value, sizes = chosen.probes[probe], scores[chosen.label].value, results.sizes
    facts = []

    composition = contrasts.get("over_composition")
    if composition and composition.value < 0:
        other, first = scores[composition.other].value, scores[reference].value
        text = f"{results.composition_unit} content decides: " if side(composition.interval) == "below" else ""
        text += f"{composition.other}, which never sees the encoder, reaches {other:.3f}"
        facts.append(text + (f", and {reference} {first:.3f}" if other > first else ""))
    control = contrasts.get("over_control")
    if control and _is_above(gain) and not _is_above(control):
        facts.append(
            f"the gain over {reference} is not shown to be co-occurrence: {control.other}, which has none, reaches "
            f"{scores[control.other].value:.3f}"
        )
    roles = (SECOND_ORDER, COMPOSITION)
    above = {
        label: score.value
        for label, score in scores.items()
        if rows[label].role not in roles and label != reference and score.value > value
    }
    if above:
        best = max(above, key=lambda label: above[label])
        facts.append(f"{best}, a {rows[best].role}, reaches {above[best]:.3f} on the test set")
    before = fit.validation - rows[reference].probes[probe].validation
    if before > 0 and gain.value <= 0:
        facts.append(f"its advantage on validation ({before:+.3f} over {reference}) did not carry over to the test set")
    elif before <= 0:
        too = ", too," if gain.value <= 0 else ""
        facts.append(f"on validation{too} it was not above {reference} ({before:+.3f})")
    if fit.at_edge:
        facts.append(f"its penalty, {fit.penalty:g}, is at the edge of the grid")
    if not fit.converged:
        facts.append("its probe stopped before its tolerance")
    if chosen.num_features > sizes["train"]:
        facts.append(f"{chosen.num_features:,} features on {sizes['train']:,.0f} training sequences")
    length = sizes["median_tokens"]
    if length <= d:
        facts.append(
            f"half of the sequences have at most {length:g} tokens for {d} features a token: their covariance has "
            f"rank below {length:g}"
        )
    if gain.interval is not None and side(gain.interval) == "undecided":
        low, high = gain.interval
        facts.append(f"{results.groups['test']:,} test groups leave an interval {high - low:.3f} wide")
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
