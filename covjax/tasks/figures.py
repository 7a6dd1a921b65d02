"""Figures of the suite: planned comparisons, mean ranks, curves over the rank, decomposition."""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covjax.comparison.figures import COLOURS, FAMILY_COLOURS, save_figure, set_ranks, svg_text
from covjax.notes import figure_text
from covjax.tasks.records import CurvesRecord, Summary
from covjax.tasks.summary import PARTS, PLANNED

TITLES = {"gain": "minus {reference}", "over_control": "minus control", "over_composition": "minus composition"}
VERDICTS = {"above": "#00614a", "below": "#a33c00", "undecided": "#777777", "no interval": "#777777"}
PART_COLOURS = {"quadratic": "#D55E00", "marginal": "#E69F00", "co_occurrence": "#0072B2"}
PART_NAMES = {"quadratic": "quadratic features of the mean", "marginal": "marginals", "co_occurrence": "co-occurrence"}
FAMILIES = {family: (colour, marker) for (family, colour), marker in zip(FAMILY_COLOURS.items(), "os^vDP")}


def draw_suite(summary: Summary, folder: Path) -> dict[str, str]:
    """Write `planned`, `mean_ranks`, `rank` and `decomposition` as PNG, those that have data; return {name: SVG}.

    The rank panels come back one SVG a task, `rank-TASK`, so that the page can set them in as many columns as fit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    svgs = {}
    drawings: dict[str, Callable[[Summary], Figure]] = {"planned": _planned}
    if "missing" not in summary["mean_ranks"]:
        drawings["mean_ranks"] = _mean_ranks
    if summary["decomposition"]:
        drawings["decomposition"] = _decomposition
    for name, draw in drawings.items():
        svgs[name] = save_figure(draw(summary), name, folder)
    if summary["rank_curves"]:
        panels = _rank_panels(summary["rank_curves"])
        panels.savefig(folder / "rank.png", dpi=200)
        plt.close(panels)
    for entry in summary["rank_curves"]:
        figure, axes = plt.subplots(figsize=(3.4, 3.0), layout="constrained")
        _rank_panel(axes, entry)
        figure.suptitle(figure_text(entry["task"], 40), fontsize=9)
        figure.legend(loc="outside lower center", ncols=2)
        svgs[f"rank-{entry['task']}"] = svg_text(figure, f"rank-{entry['task']}")
    return svgs


def _planned(summary: Summary) -> Figure:
    tasks = [entry["task"] for entry in summary["headline"]][::-1]
    reference = summary["headline"][0]["reference"]
    figure, panels = plt.subplots(1, 3, figsize=(8.5, 0.34 * len(tasks) + 1.1), sharey=True, layout="constrained")
    for axes, name in zip(panels, PLANNED):
        for entry in summary["planned"][name]:
            y, colour = tasks.index(entry["task"]), VERDICTS[entry["verdict"]]
            if entry["interval"] is not None:
                axes.plot(entry["interval"], [y, y], color=colour, linewidth=1.6)
            filled = colour if entry["verdict"] in ("above", "below") else "white"
            axes.plot(entry["value"], y, "o", color=colour, markerfacecolor=filled, markersize=5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_title(TITLES[name].format(reference=reference))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_ylim(-0.7, len(tasks) - 0.3)
        axes.grid(axis="y", color="#eeeeee")
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(tasks)), map(figure_text, tasks))
    figure.supxlabel("difference of the task's primary metric on the test set", fontsize=9)
    return figure


def _mean_ranks(summary: Summary) -> Figure:
    """Demšar's diagram: methods on an axis of mean ranks, bars over those that the test does not tell apart."""
    test = summary["mean_ranks"]
    labels, ranks = list(test["ranks"]), list(test["ranks"].values())
    k, cd = len(labels), test["critical_difference"]
    roles = {label: cell["role"] for entry in summary["headline"] for label, cell in entry["cells"].items()}
    bars, step = test["cliques"], 0.26
    left = labels[: (k + 1) // 2]
    start = 0.35 + 0.16 * len(bars)
    # The axis covers the ranks that occur and has room for the critical difference.
    first = math.floor(ranks[0])
    last = max(math.ceil(ranks[-1]), math.ceil(first + cd))
    span = last - first
    figure, axes = plt.subplots(figsize=(8.5, 0.9 + 0.26 * (len(left) + 1) + 0.16 * len(bars)), layout="constrained")
    axes.set(xlim=(first - 0.42 * span, last + 0.42 * span), ylim=(-start - step * len(left), 0.8))
    axes.axis("off")
    axes.plot([first, last], [0, 0], color="black", linewidth=1)
    for tick in range(first, last + 1):
        axes.plot([tick, tick], [0, 0.08], color="black", linewidth=1)
        axes.text(tick, 0.14, str(tick), ha="center", va="bottom")
    end = first + cd
    axes.plot([first, first, first, end, end, end], [0.46, 0.58, 0.52, 0.52, 0.46, 0.58], color="black")
    axes.text(first, 0.64, f"critical difference {cd:.2f}", va="bottom")
    for place, (low, high) in enumerate(bars):
        y = -0.16 * (place + 1)
        axes.plot([low - 0.012 * span, high + 0.012 * span], [y, y], color="black", linewidth=2.5)
    for place, (label, rank) in enumerate(zip(labels, ranks)):
        on_left = place < len(left)
        row = place if on_left else k - 1 - place
        y = -start - step * row
        edge = first - 0.03 * span if on_left else last + 0.03 * span
        axes.plot([rank, rank, edge], [0, y, y], color="#888888", linewidth=0.7)
        words = f"{label}  {rank:.2f}" if on_left else f"{rank:.2f}  {label}"
        shift = -0.01 * span if on_left else 0.01 * span
        colour = COLOURS.get(roles.get(label, ""), "black")
        axes.text(edge + shift, y, words, ha="right" if on_left else "left", va="center", color=colour)
    return figure


def _decomposition(summary: Summary) -> Figure:
    entries = summary["decomposition"][::-1]
    names = [f"{figure_text(entry['task'])}: {entry['whole_gain']['row']} ({entry['metric']})" for entry in entries]
    figure, axes = plt.subplots(figsize=(8.5, 0.4 * len(entries) + 1.3), layout="constrained")
    for y, entry in enumerate(entries):
        ends = {1: 0.0, -1: 0.0}  # positive parts pile up to the right of 0, negative ones to the left
        for name in PARTS:
            value = entry[name]["value"]
            side = 1 if value >= 0 else -1
            axes.barh(y, value, 0.6, left=ends[side], color=PART_COLOURS[name])
            ends[side] += value
        axes.plot(entry["whole_gain"]["value"], y, "D", color="black", markersize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(entries)), names)
    axes.set_xlabel(f"test metric minus {summary['headline'][0]['reference']}")
    handles: list[Artist] = [
        plt.Rectangle((0, 0), 1, 1, color=PART_COLOURS[name], label=PART_NAMES[name]) for name in PARTS
    ]
    handles += axes.plot([], [], "D", color="black", markersize=4, label="whole gain")
    figure.legend(handles=handles, loc="outside upper center", ncols=4)
    return figure


def _rank_panels(entries: list[CurvesRecord]) -> Figure:
    columns = min(3, len(entries))
    rows = -(-len(entries) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.0 * rows), squeeze=False, layout="constrained")
    for axes, entry in zip(grid.flat, entries):
        _rank_panel(axes, entry)
        axes.set_title(figure_text(entry["task"], 40))
        axes.legend()
    for axes in grid.flat[len(entries) :]:
        axes.axis("off")
    return figure


def _rank_panel(axes: Axes, entry: CurvesRecord) -> None:
    """A line a family; of the first also the band of its intervals."""
    ranks: set[int] = set()
    for place, (family, points) in enumerate(entry["curves"].items()):
        colour, marker = FAMILIES.get(family, ("#009E73", "^"))
        x = [point["rank"] for point in points]
        axes.plot(x, [point["value"] for point in points], marker + "-", color=colour, label=family, markersize=4)
        if place == 0:
            lows, highs = np.array([point["interval"] for point in points]).T
            axes.fill_between(x, lows, highs, color=colour, alpha=0.15, linewidth=0)
        ranks |= set(x)
    axes.axhline(entry["reference"], color="#555555", linestyle="--", linewidth=1, label="mean")
    whole = {point["rank"] for points in entry["curves"].values() for point in points if point["whole"]}
    set_ranks(axes, [*ranks], [*whole])
    axes.set_ylabel(f"test {entry['metric']}")
    axes.yaxis.set_major_locator(MaxNLocator(4))
