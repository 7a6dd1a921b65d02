"""Second-order collapse (SOCM) on every task of a finished suite, and the gain of second order against it.

    covjax tasks all --output runs/suite
    python -m eval.collapse runs/suite
    python -m eval.collapse runs/suite --tasks splice,promoter     measures these two again; the others stay

Pairs of training sequences are drawn for each task, and SOCM of Hara et al. 2026 (`covjax.second_order_collapse`) is
averaged over them: of the encoder's tokens, as in the paper, and of tokens standardised as covjax pools them. The
numbers stand in `collapse.json`, the table and the figure of the page in `collapse.md` and `collapse.png`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import stats

from covjax import metrics
from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit, standardiser
from covjax.collapse import Cloud, Collapse, cloud_collapse, token_cloud
from covjax.comparison.page import gain_text, interval_text, markdown_table
from covjax.comparison.results import Results, read_results
from covjax.data.splits import take_rows
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error
from covjax.notes import note
from covjax.standardise import standardise
from eval.benchmark.common.runner import write_page
from eval.suite_task import SuiteTask, find_tasks, measure_tasks

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COMMAND = "python -m eval.collapse"
PARTNERS = 5  # sequences that each sequence is the first of a pair with: it is in ten pairs
RESAMPLES = 1000
ROWS = {"sqrt_covariance": "√Σ", "log_covariance": "log Σ"}
TOKENS = {"raw": "the encoder's tokens", "standardised": "standardised tokens"}
MEASURES = {"socm": "SOCM", "mean_distance": "d_μ", "covariance_distance": "d_Σ", "concentration": "tr Σ / ‖μ‖²"}
CAPTION = "Spearman's ρ of each measure with the gains over the tasks, and its p-value:"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#555555")  # Okabe and Ito's

Pairs = Int[np.ndarray, "pairs 2"]


def draw_pairs(sequences: int) -> Pairs:
    """Every sequence with the next few in a circle, so that all are in equally many pairs, none in one twice."""
    steps = np.arange(1, min(PARTNERS, (sequences - 1) // 2) + 1)
    first = np.arange(sequences)
    return np.stack(np.broadcast_arrays(first[:, None], (first[:, None] + steps) % sequences), axis=-1).reshape(-1, 2)


@jax.jit
def _clouds(x: Float[Array, "b t d"], w: Float[Array, "b t"], fit: Fit | None) -> Cloud:
    def cloud(pair):
        x, w = pair
        return token_cloud(x.astype(jnp.float32) if fit is None else standardise(x, w, *fit), w)

    return jax.lax.map(cloud, (x, w))


@jax.jit
def _collapse(clouds: Cloud, pairs: Int[Array, "pairs 2"]) -> Collapse:
    def pick(place):
        return Cloud(clouds.mean[place], clouds.factor[place])

    return jax.lax.map(lambda pair: cloud_collapse(pick(pair[0]), pick(pair[1])), pairs)


def measure_tokens(tokens: ArrayTokens, pairs: Pairs, fit: Fit | None) -> dict[str, Any]:
    """Means over the pairs with their intervals, of tokens standardised by `fit` if there is one.

    Intervals are percentiles of 1,000 resamples of the sequences: a pair counts as often as both its sequences, once
    for each combination. The concentration is the median over sequences.
    """
    places = {row: np.empty(0, np.float32) for row in range(len(tokens))}
    means = np.empty((len(tokens), tokens.features), np.float32)
    for batch in tokens.walk("collapse"):
        clouds = _clouds(batch.tokens, batch.weights, fit)
        for row, mean, factor in zip(batch.rows, *map(np.asarray, clouds)):
            means[row], places[row] = mean, factor[factor.any(1)]
    factors = np.zeros((len(tokens), max(1, *map(len, places.values())), tokens.features), np.float32)
    for row, factor in places.items():
        factors[row, : len(factor)] = factor
    collapse = _collapse(Cloud(jnp.asarray(means), jnp.asarray(factors)), pairs)
    counts = metrics.resample_counts(np.arange(len(tokens)), RESAMPLES, 0)
    weights = counts[:, pairs[:, 0]] * counts[:, pairs[:, 1]]
    out: dict[str, Any] = {}
    for name, values in collapse._asdict().items():
        values = np.asarray(values, np.float64)
        out[name] = {"value": values.mean(), "interval": metrics.interval(weights @ values / weights.sum(1))}
    concentration = (factors.astype(np.float64) ** 2).sum((1, 2))
    out["concentration"] = {
        "value": float(np.median(concentration)),
        "interval": metrics.interval(np.median(concentration[_resampled(counts)], axis=1)),
    }
    return out | {"above_1": float(np.mean(np.asarray(collapse.covariance_distance) > 1))}


def _resampled(counts: Int[np.ndarray, "resamples n"]) -> Int[np.ndarray, "resamples n"]:
    """The numbers of the examples in each resample."""
    return np.stack([np.repeat(np.arange(len(row)), row) for row in counts])


def measure(task: SuiteTask, sequences: int) -> dict[str, Any]:
    """The task's numbers, of at most so many of its training sequences."""
    train = task.data.rows("train")
    rows = np.random.default_rng(0).choice(train, min(sequences, len(train)), replace=False)
    tokens = task.source.tokens(take_rows(task.data, rows), None)
    pairs = draw_pairs(len(rows))
    fit = standardiser(tokens, np.arange(len(rows)))
    note(f"{task.name}: {len(pairs):,} pairs of {len(rows):,} training sequences")
    return {
        "data": task.results.manifest["data"]["fingerprint"],
        "sequences": len(rows),
        "pairs": len(pairs),
        **{kind: measure_tokens(tokens, pairs, fit if kind == "standardised" else None) for kind in TOKENS},
    }


def _encoder(results: Results) -> str:
    """The encoder, as the title of a built-in task ends with it."""
    return results.name.rsplit(", ", 1)[-1]


def correlations(numbers: dict[str, Any], results: dict[str, Results]) -> dict[tuple[str, str, str], tuple]:
    """Spearman's ρ over the tasks and its p-value, of every measure with the gain of every row."""
    out = {}
    for kind in TOKENS:
        for name in MEASURES:
            x = [numbers[task][kind][name]["value"] for task in results]
            for row in ROWS:
                rho = stats.spearmanr(x, [each.scores()[row].difference for each in results.values()])
                out[kind, name, row] = float(rho.statistic), float(rho.pvalue)
    return out


def tables(numbers: dict[str, Any], results: dict[str, Results]) -> list[str]:
    """The measures of every task with the gains, and the correlations."""
    head = ["task", "encoder", "pairs", "SOCM", "d_μ", "d_Σ", "d_Σ > 1", "tr Σ / ‖μ‖²", "SOCM, standardised"]
    rows = []
    for task in sorted(results, key=lambda task: numbers[task]["raw"]["socm"]["value"]):
        own, scores = numbers[task], results[task].scores()
        raw, other = own["raw"], own["standardised"]["socm"]
        gains = [gain_text(scores[row].difference, scores[row].difference_interval) for row in ROWS]
        rows.append(
            [
                *(task, _encoder(results[task]), f"{own['pairs']:,}"),
                f"{raw['socm']['value']:.3g} {interval_text(tuple(raw['socm']['interval']), '{:.3g}'.format)}",
                *(f"{raw[name]['value']:.3g}" for name in ("mean_distance", "covariance_distance")),
                *(f"{100 * raw['above_1']:.0f} %", f"{raw['concentration']['value']:.2f}"),
                f"{other['value']:.3g} {interval_text(tuple(other['interval']), '{:.3g}'.format)}",
                *gains,
            ]
        )
    rho = correlations(numbers, results)
    short = {"raw": "", "standardised": ", standardised tokens"}
    lines = [
        [f"{shown}{short[kind]}", *(f"{rho[kind, name, row][0]:+.2f} ({rho[kind, name, row][1]:.2f})" for row in ROWS)]
        for kind in TOKENS
        for name, shown in MEASURES.items()
    ]
    gain = [f"gain of {name}" for name in ROWS.values()]
    return [markdown_table([*head, *gain], rows), markdown_table(["measure", *gain], lines)]


def _write_names(axes: plt.Axes, places: dict[str, tuple[float, float]]) -> None:
    """Names beside the points, the highest first; one that would cross another stands below it, with a line."""
    (left, right), (bottom, top) = np.log(axes.get_xlim()), axes.get_ylim()
    written: list[tuple[float, float]] = []
    for name, (x, y) in sorted(places.items(), key=lambda each: -each[1][1]):
        near = [height for other, height in written if abs(np.log(x / other)) < 0.25 * (right - left)]
        height = min([y, *(each - 0.03 * (top - bottom) for each in near)])
        written.append((x, height))
        beside = x * np.exp(0.02 * (right - left))
        axes.annotate(
            name, (x, y), (beside, height), fontsize=7, va="center", arrowprops={"arrowstyle": "-", "linewidth": 0.4}
        )


def draw(numbers: dict[str, Any], results: dict[str, Results], path: Path) -> None:
    """Gain against SOCM: a row of panels for each pool, a column for each kind of tokens, a colour for each encoder."""
    encoders = list(dict.fromkeys(map(_encoder, results.values())))
    colour = dict(zip(encoders, COLOURS, strict=False))
    rho = correlations(numbers, results)
    figure, panels = plt.subplots(2, 2, figsize=(10, 8), sharey=True, sharex="col", layout="constrained")
    for line, (row, title) in zip(panels, ROWS.items()):
        for axes, (kind, what) in zip(line, TOKENS.items()):
            for task, each in results.items():
                score, socm = each.scores()[row], numbers[task][kind]["socm"]["value"]
                axes.plot([socm, socm], score.difference_interval, color=colour[_encoder(each)], alpha=0.4)
                axes.plot(socm, score.difference, "o", color=colour[_encoder(each)])
            axes.axhline(0, color="#555555", linewidth=1)
            axes.set_title(f"{title}, {what}: ρ = {rho[kind, 'socm', row][0]:+.2f}", fontsize=10)
            axes.set_xscale("log")
            axes.margins(x=0.15)  # room for the names
    gains = [each.scores()[row].difference for each in results.values() for row in ROWS]
    panels[0, 0].set_ylim(min(gains) - 0.1, max(gains) + 0.1)  # the longest intervals end outside
    for line, row in zip(panels, ROWS):
        for axes, kind in zip(line, TOKENS):
            places = {
                task: (numbers[task][kind]["socm"]["value"], results[task].scores()[row].difference) for task in results
            }
            _write_names(axes, places)
    for axes in panels[:, 0]:
        axes.set_ylabel("test metric minus the mean's")
    for axes in panels[1]:
        axes.set_xlabel("mean SOCM")
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=colour[name], label=name) for name in encoders]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(encoders))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(argv: list[str]) -> int:
    """The command; exit status 2 and one line for a user's error."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", type=Path, help="folder of covjax tasks, with the results of every task")
    parser.add_argument(
        "--tasks", default="", help="NAME,NAME: tasks to measure (default: all that have no numbers yet)"
    )
    parser.add_argument("--sequences", type=int, default=400, help="training sequences of a task (default: 400)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    options = parser.parse_args(argv)
    with exit_on_input_error(COMMAND):
        if options.sequences < 3:
            raise InputError(f"--sequences: {options.sequences}; at least 3 make pairs with others")
        finished = find_tasks(options.suite)
        results = {folder.name: read_results(folder / "results.json") for folder in finished}
        data = {name: each.manifest["data"]["fingerprint"] for name, each in results.items()}
        numbers = measure_tasks(
            *(options.suite, options.tasks, options.output / "collapse.json"),
            lambda task: measure(task, options.sequences),
            lambda name, entry: entry.get("data") == data[name],
        )
        results = {name: each for name, each in results.items() if numbers.get(name, {}).get("data") == data[name]}
        body = tables(numbers, results)
        sources = (
            f"`{COMMAND}` on {len(results)} tasks. Means over pairs, with 95 % intervals; tr Σ / ‖μ‖² is the median "
            "over sequences. Gains are over the mean: each task's primary metric on the test set, first probe."
        )
        figure = "![Gain of second order against second-order collapse](collapse.png)"
        write_page(
            options.output / "collapse.md", "Second-order collapse", [sources, body[0], figure, CAPTION, body[1]]
        )
        draw(numbers, results, options.output / "collapse.png")
        print("\n\n".join(body))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
