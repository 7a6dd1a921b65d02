"""ε of log(Σ + εI) by rule against fixed ones: validation of ridge on the tasks of a finished suite.

    covjax tasks all --output runs/suite
    python -m eval.eps runs/suite
    python -m eval.eps runs/suite --tasks splice,promoter     measures these two again; the others stay

Every ε is a row as a comparison has it: standardised tokens, log(Σ + εI), ridge at the penalty that is best on
validation. The test set is not touched. The numbers stand in `eps.json`, the table of the page in `eps.md`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations.tokens import standardiser
from covjax.comparison.page import markdown_table
from covjax.comparison.probing import TASKS, fit_row
from covjax.data.splits import take_rows
from covjax.embedding.passes import pool_tokens
from covjax.embedding.plan import pool_groups
from covjax.embedding.pools import unfitted_pools, widths
from covjax.embedding.tables import make_table
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error
from covjax.notes import note
from covjax.recipes.base import SECOND_ORDER, Pooled
from eval.benchmark.common.runner import write_page
from eval.suite_task import SuiteTask, measure_tasks

COMMAND = "python -m eval.eps"
FIXED = ("0.0001", "0.001", "0.01", "0.03", "0.1", "1")
RULES: dict[str, dict[str, Any]] = {"auto": {"eps": "auto"}, "auto + OAS": {"eps": "auto", "shrink": "oas"}}
OPTIONS = {**{eps: {"eps": float(eps)} for eps in FIXED}, **RULES}
NEAR = 0.005  # of the metric
GIB = 1.0  # of vectors at a time


def measure(task: SuiteTask, most: int) -> dict[str, Any]:
    """The validation value of every ε, of ridge on at most so many of the training sequences."""
    train, seed = task.data.rows("train"), task.config.seed
    chosen = np.random.default_rng(0).choice(train, min(most, len(train)), replace=False)
    data = take_rows(task.data, np.sort(np.concatenate([chosen, task.data.rows("validation")])))
    tokens, train = task.source.tokens(data, None), data.rows("train")
    fit = standardiser(tokens, train)
    recipes = [
        Pooled(name=name, title=name, role=SECOND_ORDER, pooler="log_covariance", options=tuple(options.items()))
        for name, options in OPTIONS.items()
    ]
    values = {}
    pools = unfitted_pools(recipes)
    for group in pool_groups(widths(pools, tokens.features), len(data), GIB):  # one program decomposes Σ once
        vectors = pool_tokens({name: pools[name] for name in group}, tokens, fit, seed)
        for name in group:
            table = make_table(vectors.pop(name), train)
            values[name] = max(fit_row(task.config, data, ("ridge",), table)["ridge"].validation)
            note(f"{task.name}: {name}: {values[name]:.4f}")
    kind = TASKS[data.task]
    return {
        "metric": kind.metrics[kind.primary][0],
        "train": len(train),
        "validation": len(data.rows("validation")),
        "of": len(task.data.rows("train")),
        "values": values,
    }


def best_fixed(entry: dict[str, Any]) -> str:
    """The fixed ε with the highest value; of equal ones the larger, which is the safer one."""
    return max(FIXED, key=lambda eps: (entry["values"][eps], float(eps)))


def page(numbers: dict[str, Any]) -> list[str]:
    """The table, and how near each fixed ε and each rule comes to the best fixed one."""
    lines: list[list[str]] = []
    differences: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for task, entry in sorted(numbers.items()):
        values, best = entry["values"], best_fixed(entry)
        top = values[best]
        for name in OPTIONS:
            differences[name].append(values[name] - top)
        train = f"{entry['train']:,}" + (f" of {entry['of']:,}" if entry["of"] > entry["train"] else "")
        cells = [f"**{values[eps]:.3f}**" if eps == best else f"{values[eps]:.3f}" for eps in FIXED]
        ruled = [f"{values[name]:.3f} ({values[name] - top:+.3f})" for name in RULES]
        lines.append([f"{task} ({entry['metric']})", train, f"{entry['validation']:,}", *cells, *ruled])
    near = [f"{sum(each >= -NEAR for each in own)} of {len(own)}" for own in differences.values()]
    lines.append([f"within {NEAR} of the best", "", "", *near])
    lines.append(["median minus best", "", "", *(f"{np.median(own):+.3f}" for own in differences.values())])
    lines.append(["worst minus best", "", "", *(f"{min(own):+.3f}" for own in differences.values())])
    head = ["task", "train", "validation", *(f"ε = {eps}" for eps in FIXED)]
    return [markdown_table([*head, *(f"{rule} (minus best)" for rule in RULES)], lines)]


def main(argv: list[str]) -> int:
    """The command; exit status 2 and one line for a user's error."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("suite", type=Path, help="folder of covjax tasks, with the results of every task")
    parser.add_argument("--tasks", default="", help="NAME,NAME: tasks to measure (default: those without numbers)")
    parser.add_argument("--train", type=int, default=1500, help="most training sequences of a task (default: 1500)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    options = parser.parse_args(argv)
    with exit_on_input_error(COMMAND):
        if options.train < 2:
            raise InputError(f"--train: {options.train}; ridge needs at least 2 training sequences")
        path = options.output / "eps.json"
        numbers = measure_tasks(options.suite, options.tasks, path, lambda task: measure(task, options.train))
        body = page(numbers)
        write_page(options.output / "eps.md", "ε of log(Σ + εI)", body)
        print(body[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
