"""The report's figures, drawn from `results` alone; each is written as PNG and returned as SVG text."""

import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from covjax.comparison.results import Results
from covjax.notes import figure_text
from covjax.recipes.standard import FAMILIES

# Okabe-Ito: distinguishable with any colour vision and in grey print.
COLOURS = {
    **{"baseline": "#555555", "second order": "#0072B2", "control": "#D55E00", "composition": "#009E73"},
    "mixture": "#CC79A7",
}
MARKERS = {"logistic": "o", "ridge": "s", "retrieval": "o"}
LINES: dict[str, Any] = {"logistic": "-", "ridge": ":", "retrieval": "-"}

plt.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "covjax", "figure.dpi": 100}
)


def draw_figures(results: Results, folder: Path) -> dict[str, str]:
    """Write `differences.png`, `rank.png` and, for per-term tasks, `terms.png`; return {name: SVG}."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"differences": _differences(results)}
    if any(row.rank for row in results.rows):
        figures["rank"] = _rank(results)
    if results.terms:
        figures["terms"] = _terms(results)
    svgs = {}
    for name, figure in figures.items():
        svgs[name] = save_figure(figure, name, folder)
    return svgs


def save_figure(figure: Figure, name: str, folder: Path) -> str:
    """Write `name`.png into the folder and return the figure as SVG text (see `svg_text`)."""
    figure.savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
    return svg_text(figure, name)


def svg_text(figure: Figure, name: str) -> str:
    """The figure as SVG to set into a page, its ids prefixed by `name`; the figure is closed."""
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return _embeddable(text.getvalue(), name)


def _embeddable(svg: str, prefix: str) -> str:
    """Drop the XML prologue and fixed size; make ids unique, since all figures share one HTML page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", svg)


def _differences(results: Results) -> Figure:
    rows = [row for row in results.rows if row.label != results.reference][::-1]
    figure, axes = plt.subplots(figsize=(6.5, 0.32 * len(rows) + 1.2))
    probes = results.probes
    height = 0.8 / len(probes)
    for p, probe in enumerate(probes):
        scores = results.scores(probe=probe)
        for y, row in enumerate(rows):
            score = scores[row.label]
            low, high = score.difference_interval
            position = y + (p - (len(probes) - 1) / 2) * height
            axes.barh(position, score.difference, height * 0.9, color=COLOURS[row.role], alpha=(0.9, 0.5)[p])
            axes.plot([low, high], [position] * 2, color="black", linewidth=1)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(-0.7, len(rows) - 0.3)
    kind = "paired bootstrap" if results.folds is None else "corrected resampled"
    axes.set_xlabel(f"test {results.primary_name} minus {results.reference} (95 % {kind} interval)")
    roles = list(dict.fromkeys(row.role for row in rows[::-1]))
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[role], label=role) for role in roles]
    handles += [
        plt.Rectangle((0, 0), 1, 1, color="#777777", alpha=(0.9, 0.5)[p], label=f"{probe} probe")
        for p, probe in enumerate(probes)
    ]
    figure.legend(handles=handles, frameon=False, fontsize=8, loc="lower center", ncols=3, bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    return figure


FAMILY_COLOURS = {
    "pca_covariance": "#0072B2",
    "pca_sqrt_covariance": "#CC79A7",
    "tucker_covariance": "#56B4E9",
    "tucker_sqrt_covariance": "#D55E00",
    "random_covariance": "#999999",
    "random_sqrt_covariance": "#009E73",
}


def _rank(results: Results) -> Figure:
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    rows = results.by_label
    width = results.encoder_features
    ranks: set[int] = set()
    for family, whole in FAMILIES.items():
        colour = FAMILY_COLOURS[family]
        shown = {row.rank: row for row in rows.values() if row.rank and row.family == family}
        title = next((row.title.partition(" rank ")[0] for row in shown.values()), family)
        if shown and whole in rows:
            shown[width] = rows[whole]
        ranks |= set(shown)
        for probe in results.probes if shown else ():
            scores = [results.scores(probe=probe)[row.label] for row in shown.values()]
            style = MARKERS[probe] + LINES[probe]
            name = f"{title}, {probe}"
            axes.plot(list(shown), [score.value for score in scores], style, color=colour, label=name)
            lows, highs = np.array([score.interval for score in scores]).T
            axes.fill_between(list(shown), lows, highs, color=colour, alpha=0.08, linewidth=0)
    for probe in results.probes:
        mean = results.scores(probe=probe)[results.reference].value
        axes.axhline(mean, color="#555555", linestyle=LINES[probe], label=f"{results.reference}, {probe}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ranks), [f"{rank}\n(whole)" if rank == width else str(rank) for rank in sorted(ranks)])
    axes.minorticks_off()
    axes.set_xlabel("rank of the truncated covariance")
    axes.set_ylabel(f"test {results.primary_name}")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout()
    return figure


def _terms(results: Results) -> Figure:
    probe = results.probes[0]
    metric = results.primary
    rows = results.by_label
    best = results.best_second_order
    shown = rows[best].title
    x = rows[results.reference].probes[probe].per_term[metric]
    y = rows[best].probes[probe].per_term[metric]
    figure, axes = plt.subplots(figsize=(4.8, 4.8))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    sizes = [term.positives["test"] for term in results.terms]
    axes.scatter(x, y, s=[8 + 0.6 * n for n in sizes], color="#0072B2", alpha=0.7, linewidth=0)
    gaps = sorted(range(len(x)), key=lambda j: abs(y[j] - x[j]), reverse=True)
    for place, j in enumerate(sorted(gaps[:4], key=lambda j: y[j])):
        name = figure_text(results.terms[j].name, 34)
        arrow = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
        # Names stand in a column of the empty lower right half, in the order of their points: no two overlap.
        axes.annotate(name, (x[j], y[j]), (0.48, 0.06 + 0.06 * place), fontsize=7, arrowprops=arrow)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    name = results.primary_name.removeprefix("macro ")
    axes.set_xlabel(f"test {name} of each label, {results.reference}")
    axes.set_ylabel(f"test {name} of each label, {shown}")
    axes.set_title(f"above the line: {shown} is better ({probe} probe; area ~ test positives)", fontsize=8)
    figure.tight_layout()
    return figure
