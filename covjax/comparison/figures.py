"""The report's figures, drawn from `results` alone; each is written as PNG and returned as SVG text."""

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from covjax.comparison.datacard import DataCard, Predictions, class_order, confusion
from covjax.comparison.results import Results, RowResult, side
from covjax.comparison.verdict import main_rows
from covjax.notes import figure_text
from covjax.recipes.standard import FAMILIES

# Okabe-Ito: distinguishable with any colour vision and in grey print.
COLOURS = {
    **{"baseline": "#555555", "second order": "#0072B2", "control": "#D55E00", "composition": "#009E73"},
    "mixture": "#CC79A7",
}
MARKERS = {"logistic": "o", "ridge": "s", "retrieval": "o"}
SIDES = {"above": "#00614a", "below": "#a33c00", "undecided": "#777777", "no interval": "#777777"}
WIDTH = 4.4  # inches of every figure of a comparison: on a page all have letters of one size, on a phone too
MOST_CLASSES, MOST_COUNTS = 40, 10  # of a confusion matrix that is drawn, and of one with its counts
MOST_TERMS = 24  # labels of which each has its line

plt.rcParams.update(
    {
        **{"font.size": 9, "legend.fontsize": 9, "axes.titlesize": 9, "xtick.labelsize": 9, "ytick.labelsize": 9},
        **{"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "covjax", "figure.dpi": 100},
        **{"legend.frameon": False, "legend.columnspacing": 1.2},
    }
)


def draw_figures(results: Results, folder: Path, card: DataCard | None = None) -> dict[str, str]:
    """Write the figures that the results have as PNG, each under its name; return {name: SVG}.

    `differences` are those of the table's main rows, `differences_all` of every row, where there are more; `chain`,
    `rank` and `terms` where the results have them, `confusion` or `measured` where the card has the predictions of such
    a task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = main_rows(results)
    figures = {"differences": _differences(results, rows)}
    if len(rows) < len(results.rows):
        figures["differences_all"] = _differences(results, results.rows)
    if results.chain:
        figures["chain"] = _chain(results)
    if card is not None and (taken := card.predictions) is not None:
        if results.task == "multiclass" and len(card.outputs) <= MOST_CLASSES:
            figures["confusion"] = _confusion(taken, card.outputs)
        if results.task == "regression":
            figures["measured"] = _measured(taken, results)
    if any(row.rank for row in results.rows):
        figures["rank"] = _rank(results)
    if results.terms:
        figures["terms"] = _terms(results)
    return {name: save_figure(figure, name, folder) for name, figure in figures.items()}


def save_figure(figure: Figure, name: str, folder: Path) -> str:
    """Write `name`.png into the folder and return the figure as SVG text (see `svg_text`)."""
    figure.savefig(folder / f"{name}.png", dpi=200, bbox_inches=_box(figure))
    return svg_text(figure, name)


def svg_text(figure: Figure, name: str) -> str:
    """The figure as SVG to set into a page, its ids prefixed by `name`; the figure is closed."""
    text = io.StringIO()
    # Without a ground of its own the shadow behind it shows where it scrolls.
    empty = {"Date": None, "Creator": None}
    figure.savefig(text, format="svg", bbox_inches=_box(figure), metadata=empty, transparent=True)
    plt.close(figure)
    return _embeddable(text.getvalue(), name)


def _box(figure: Figure) -> str | None:
    """A figure that is laid out whole keeps its width, and its letters their size on a page; others are cut to fit."""
    return None if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine) else "tight"


def _embeddable(svg: str, prefix: str) -> str:
    """Drop the XML prologue and fixed size; make ids unique, since all figures share one HTML page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r"(url\(#|href=\"#)", rf"\g<1>{prefix}-", svg)


def _panel(height: float, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of the one width, its parts laid out so that no text touches another."""
    return plt.subplots(rows, figsize=(WIDTH, height), layout="constrained", **options)


def _legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(handles)))


def _differences(results: Results, rows: Sequence[RowResult]) -> Figure:
    """A point and its interval a row and probe; the first probe above the second, as their tables stand."""
    shown = [row for row in rows if row.label != results.reference]
    figure, axes = _panel(0.21 * len(shown) * (1 + 0.35 * (len(results.probes) - 1)) + 1.5)
    step = 0.4 / len(results.probes)
    for p, probe in enumerate(results.probes):
        scores = results.scores(probe=probe)
        for y, row in enumerate(shown):
            if row.label not in scores:
                continue
            score, colour = scores[row.label], COLOURS[row.role]
            place = y + (p - (len(results.probes) - 1) / 2) * step * 2
            axes.plot(score.difference_interval, [place] * 2, color=colour, linewidth=1.4)
            fill = colour if p == 0 else "white"
            axes.plot(score.difference, place, MARKERS[probe], color=colour, markerfacecolor=fill, markersize=4.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [figure_text(row.title, 28) for row in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"test {results.primary_name} minus {results.reference}")
    roles = dict.fromkeys(row.role for row in shown)
    handles: list[Artist] = [plt.Line2D([], [], color=COLOURS[role], linewidth=3, label=role) for role in roles]
    for p, probe in enumerate(results.probes if len(results.probes) > 1 else ()):
        fill = "#555555" if p == 0 else "white"
        style: dict[str, Any] = {"color": "#555555", "marker": MARKERS[probe], "markerfacecolor": fill, "linestyle": ""}
        handles.append(plt.Line2D([], [], label=f"{probe} probe", **style))
    _legend(figure, handles, 3)
    return figure


def _chain(results: Results) -> Figure:
    """From the reference down to the last row: a bar a link, from the value before it to that after it."""
    titles = {row.label: row.title for row in results.rows}
    figure, axes = _panel(0.42 * (len(results.chain) + 1) + 0.7)
    before, names = 0.0, [results.reference]
    for y, (link, step) in enumerate(results.chain.items(), 1):
        taken = step.is_step
        names.append(f"{link}\n{figure_text(titles.get(step.row, step.row), 26) if taken else 'no row above'}")
        if taken:
            colour = SIDES[side(step.interval)]
            axes.barh(y, step.value, 0.5, left=before, color=colour, alpha=0.45)
            if step.interval is not None:
                axes.plot([before + end for end in step.interval], [y, y], color=colour, linewidth=1.6)
            axes.plot(before + step.value, y, "o", color=colour, markersize=4.5)
            axes.plot([before + step.value] * 2, [y, y + 1], color="#999999", linewidth=0.8)
        else:
            axes.plot([before] * 2, [y, y + 1], color="#999999", linewidth=0.8)
            axes.plot(before, y, "o", color="#777777", markerfacecolor="white", markersize=4.5)
        before += step.value if taken else 0.0
    axes.plot([0, 0], [0, 1], color="#999999", linewidth=0.8)
    axes.plot(0, 0, "o", color="black", markersize=4.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"test {results.primary_name} minus {results.reference}")
    return figure


def _confusion(taken: Predictions, names: Sequence[str]) -> Figure:
    order = class_order(taken.truth)
    counts = confusion(taken.truth, taken.chosen)[np.ix_(order, order)]
    k = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = min(0.42, 2.9 / k)
    figure, axes = _panel(cell * k + 1.6)
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    if k <= MOST_COUNTS:
        for i, j in np.ndindex(k, k):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j + 0.5, i + 0.5, f"{counts[i, j]}", ha="center", va="center", color=colour)
    every = 1 if k <= 20 else 2  # of many classes every second has its name, or the names would touch
    texts = [figure_text(names[i], 18) for i in order]
    places = np.arange(0, k, every)
    axes.set_xticks(places + 0.5, [texts[i] for i in places], rotation=90)
    axes.set_yticks(places + 0.5, [texts[i] for i in places])
    axes.set(xlim=(0, k), ylim=(k, 0), aspect="equal", xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    return figure


def middle_output(results: Results) -> int:
    """The output that stands in the middle by the R² of the chosen row: the one that a single picture shows."""
    values = results.by_label[results.best_second_order].probes[results.probes[0]].per_term.get("r2", (0.0,))
    return int(np.argsort(values, kind="stable")[(len(values) - 1) // 2])


def _measured(taken: Predictions, results: Results) -> Figure:
    output = middle_output(results)
    x, y = taken.chosen[:, output], taken.truth[:, output]
    figure, (above, below) = _panel(4.6, 2, sharex=True, height_ratios=(2, 1))
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    above.plot(ends, ends, color="#999999", linewidth=0.8)
    below.axhline(0, color="#999999", linewidth=0.8)
    style = {"s": 12, "alpha": 0.6, "linewidth": 0, "color": COLOURS["second order"]}
    above.scatter(x, y, **style)
    below.scatter(x, y - x, **style)
    above.set_ylabel("measured")
    below.set(xlabel="predicted", ylabel="residual")
    for axes in (above, below):
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return figure


FAMILY_COLOURS = {
    "pca_covariance": "#0072B2",
    "pca_sqrt_covariance": "#CC79A7",
    "tucker_covariance": "#56B4E9",
    "tucker_sqrt_covariance": "#D55E00",
    "random_covariance": "#999999",
    "random_sqrt_covariance": "#009E73",
}


def set_ranks(axes: Axes, ranks: Sequence[int], whole: Sequence[int]) -> None:
    """A logarithmic axis of ranks; one has its name where that does not touch the next larger one's."""
    axes.set_xscale("log", base=2)
    ticks, named = sorted(ranks, reverse=True), list[int]()
    for rank in ticks:
        if not named or np.log(named[-1] / rank) > 0.12 * np.log(ticks[0] / ticks[-1]):
            named.append(rank)
    names = {rank: f"{rank}\n(whole)" if rank in whole else str(rank) for rank in named}
    axes.set_xticks(ticks, [names.get(rank, "") for rank in ticks])
    axes.minorticks_off()


def rank_family(results: Results) -> str:
    """The family of truncated rows that has the best row on validation."""
    ranked = [row for row in results.rows if row.rank and results.probes[0] in row.probes]
    return max(ranked, key=lambda row: row.probes[results.probes[0]].validation).family


def _rank(results: Results) -> Figure:
    """A line a family and the whole matrices as diamonds; one band, of the family that is best on validation."""
    figure, axes = _panel(3.4)
    scores, width, best = results.scores(), results.encoder_features, rank_family(results)
    ranks, wholes = set[int](), dict[str, str]()
    for family, whole in FAMILIES.items():
        rows = [row for row in results.rows if row.rank and row.family == family and row.label in scores]
        if not rows:
            continue
        rows.sort(key=lambda row: row.rank or 0)
        x, colour = [row.rank or 0 for row in rows], FAMILY_COLOURS[family]
        values = [scores[row.label].value for row in rows]
        title = figure_text(rows[0].title.partition(" rank ")[0], 24)
        axes.plot(x, values, "o-", color=colour, markersize=4, label=title, zorder=3 if family == best else 2)
        if family == best:
            lows, highs = np.array([scores[row.label].interval for row in rows]).T
            axes.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0)
        ranks |= set(x)
        if whole in scores:
            wholes.setdefault(whole, colour)
    for label, colour in wholes.items():
        axes.plot(width, scores[label].value, "D", color=colour, markersize=5, label=results.by_label[label].title)
    mean = scores[results.reference].value
    axes.axhline(mean, color="#555555", linestyle="--", linewidth=1, label=results.reference)
    set_ranks(axes, [*ranks, *[width] * bool(wholes)], [width] * bool(wholes))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("rank of the truncated covariance")
    axes.set_ylabel(f"test {results.primary_name}")
    _legend(figure, axes.get_legend_handles_labels()[0], 2)
    return figure


def shown_terms(results: Results) -> list[int]:
    """The labels that are drawn, those with the largest gain first: all, or as many at both ends as have room."""
    probe, metric, by_label = results.probes[0], results.primary, results.by_label
    chosen, mean = (
        np.nan_to_num(by_label[label].probes[probe].per_term[metric])
        for label in (results.best_second_order, results.reference)
    )
    order = [int(j) for j in np.argsort(mean - chosen, kind="stable")]
    half = MOST_TERMS // 2
    return order if len(order) <= MOST_TERMS else [*order[:half], *order[-half:]]


def _two_lines(name: str, most: int = 30) -> str:
    lines = textwrap.wrap(name, most, max_lines=2, placeholder="…")
    return "\n".join(figure_text(line, most) for line in lines)


def _terms(results: Results) -> Figure:
    """Two dots a label, the reference and the chosen row, each label on a line of its own."""
    probe, metric, by_label = results.probes[0], results.primary, results.by_label
    chosen = by_label[results.best_second_order]
    x, y = (row.probes[probe].per_term[metric] for row in (by_label[results.reference], chosen))
    shown = shown_terms(results)
    names = [_two_lines(results.terms[j].name) for j in shown]
    figure, axes = _panel((0.34 if "\n" in "".join(names) else 0.22) * len(shown) + 1.2)
    for place, j in enumerate(shown):
        axes.plot([x[j], y[j]], [place] * 2, color="#bbbbbb", linewidth=1.4, zorder=1)
        axes.plot(x[j], place, "o", color=COLOURS["baseline"], markerfacecolor="white", markersize=5)
        axes.plot(y[j], place, "o", color=COLOURS["second order"], markersize=5)
    if len(shown) < len(x):
        axes.axhline(len(shown) / 2 - 0.5, color="#999999", linestyle=":", linewidth=0.8)
    axes.set_yticks(range(len(shown)), names)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", color="#f2f2f2")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(f"test {results.primary_name.removeprefix('macro ')} of the label")
    style: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 5}
    _legend(
        figure,
        [
            plt.Line2D([], [], color=COLOURS["baseline"], markerfacecolor="white", label=results.reference, **style),
            plt.Line2D([], [], color=COLOURS["second order"], label=figure_text(chosen.title, 24), **style),
        ],
        2,
    )
    return figure
