"""The gain of second order along the training of an encoder: one table and one figure of several comparisons.

    covjax train encoder genome.fa.gz --holdout chr4 --snapshots 0,500,1000,3000 --output runs/lm
    for step in 0 500 1000 3000; do covjax compare --config quickstart_dna --encoder runs/lm/snapshots/$step \\
        --output runs/pretraining/$step; done
    python -m eval.pretraining runs/pretraining

Reads the results of every comparison in the folder, each in a subfolder named by its step, and rewrites the generated
part of `pretraining.md` and the figure beside it.
"""

import argparse
import sys
from pathlib import Path

import matplotlib

from covjax.comparison.page import interval_text, markdown_table
from covjax.comparison.results import Results, Score, read_results
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error
from eval.benchmark.common.runner import write_page

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COMMAND = "python -m eval.pretraining"
ROWS = {
    **{"mean": "#555555", "mean_std": "#E69F00", "mean+mean_outer": "#D55E00"},
    **{"sqrt_covariance": "#0072B2", "mean+sqrt_covariance": "#56B4E9", "log_covariance": "#CC79A7"},
}  # and their colours, Okabe and Ito's


def read_runs(folder: Path) -> dict[int, Results]:
    """Results of the comparisons in `folder`/STEP, by step.

    Raises InputError where there is none, one is not finished, or their data, first probe or primary metric differ.
    """
    paths = {int(path.name): path for path in folder.glob("*") if path.is_dir() and path.name.isdecimal()}
    if not paths:
        raise InputError(f"folder: {folder} has no subfolder named by a step, such as {folder / '500'}")
    runs = {}
    for step, path in sorted(paths.items()):
        try:
            runs[step] = read_results(path / "results.json")
        except FileNotFoundError:
            raise InputError(f"folder: {path} has no results.json; finish its covjax compare first") from None
    first, *others = runs
    for step in others:
        if runs[step].manifest["data"] != runs[first].manifest["data"]:
            raise InputError(f"folder: {paths[step]} was made of other data than {paths[first]}; give one table")
        shown = [f"{each.probes[0]} probe, {each.primary_name}" for each in (runs[step], runs[first])]
        if shown[0] != shown[1]:
            raise InputError(
                f"folder: {paths[step]} has {shown[0]}, and {paths[first]} has {shown[1]}; compare both in one way"
            )
    return runs


def draw(runs: dict[int, Results], path: Path) -> None:
    """The rows' values along training, and their differences from the mean with their intervals."""
    steps, scores = list(runs), [results.scores() for results in runs.values()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for place, (name, colour) in enumerate(ROWS.items()):
        here = [(step, each[name]) for step, each in zip(steps, scores) if name in each]
        left.plot([step for step, _ in here], [score.value for _, score in here], "o-", color=colour, label=name)
        if here and name != "mean":
            x, values, intervals = zip(*((step, score.difference, score.difference_interval) for step, score in here))
            bars = [
                [v - low for v, (low, _) in zip(values, intervals)],
                [h - v for v, (_, h) in zip(values, intervals)],
            ]
            shift = (place - len(ROWS) / 2) * max(steps) / 150  # so that the bars of a step do not hide each other
            right.errorbar([each + shift for each in x], values, bars, fmt="o-", color=colour)
    metric = next(iter(runs.values())).primary_name
    left.set(xlabel="training steps", ylabel=metric)
    right.set(xlabel="training steps", ylabel=f"{metric} minus the mean's")
    right.axhline(0, color="#555555", linewidth=1)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str]) -> int:
    """The command; exit status 2 and one line for a user's error."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="has the comparisons in subfolders named by the step")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    options = parser.parse_args(argv)
    with exit_on_input_error(COMMAND):
        runs = read_runs(options.folder)
        first = next(iter(runs.values()))
        scores = {step: results.scores() for step, results in runs.items()}
        names = [name for name in ROWS if any(name in each for each in scores.values())]
        rows = [[f"{step:,}", *(_cell(name, each.get(name)) for name in names)] for step, each in scores.items()]
        table = markdown_table(["steps", *(f"`{name}`" for name in names)], rows)
        figure = f"![{first.primary_name} along the training of the encoder](pretraining.png)"
        body = [f"{first.primary_name}, {first.probes[0]} probe; minus `mean`, with 95 % intervals.", table, figure]
        write_page(options.output / "pretraining.md", "Second order along pre-training", body)
        draw(runs, options.output / "pretraining.png")
        print(table)
    return 0


def _cell(name: str, score: Score | None) -> str:
    if score is None:
        return ""
    if name == "mean":
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.difference:+.3f} {interval_text(score.difference_interval, '{:+.3f}'.format)})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
