"""Validation scores of log(Σ + εI) for fixed ε and for ε and shrinkage by rule, on the built-in tasks.

    python -m eval.eps --tasks splice go_unirep --train 900 --validation 600

Ridge probe, the penalty chosen on the same validation set for every line; the test set is not scored. Needs
COVJAX_SHARED. A rule should be within 0.005 of the best fixed ε of its task.
"""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from covjax.activations.tokens import standardiser
from covjax.comparison.probing import TASKS, macro, predictions
from covjax.comparison.source import open_source
from covjax.data import Dataset
from covjax.data.splits import assign_splits, drop_rare
from covjax.data.table import read_table
from covjax.embedding.pools import FittedPool, pool_groups, pool_tokens, widths
from covjax.embedding.tables import make_table
from covjax.pooling import get_pooler
from covjax.probes.ridge import ridge_path
from covjax.recipes.base import SECOND_ORDER, Options, Pooled
from covjax.sources import write_source
from covjax.tasks.configs import TASK_CONFIGS

FIXED = (1e-4, 1e-3, 0.01, 0.03, 0.1, 1.0)
WITHIN = 0.005
MAX_GIB = 0.5  # of vectors in memory at a time
RULES: dict[str, Options] = {
    "auto": (("eps", "auto"),),
    "oas, 0.01": (("eps", 0.01), ("shrink", "oas")),
    "oas, auto": (("eps", "auto"), ("shrink", "oas")),
}


def measure(task: str, sizes: tuple[int, int, int], shared: str) -> dict[str, float]:
    """The best validation score over the penalties, for every fixed ε and rule."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / f"{task}.csv.gz"
        config = dataclasses.replace(TASK_CONFIGS[task](), data=str(table))
        with contextlib.redirect_stdout(sys.stderr):
            write_source(config.source, table, shared, sizes)
        data = drop_rare(
            assign_splits(read_table(table, config.task), config.shares, config.seed), config.min_positives
        )
    data, source = open_source(config, data)
    tokens, train = source.tokens(data, None), data.rows("train")
    fit = standardiser(tokens, train)
    every: dict[str, Options] = {f"{eps:g}": (("eps", eps),) for eps in FIXED} | RULES
    pools = {}
    for name, options in every.items():
        recipe = Pooled(name=name, title=name, role=SECOND_ORDER, pooler="log_covariance", options=options)
        pools[name] = FittedPool(recipe, get_pooler("log_covariance", **dict(options)))
    scores: dict[str, float] = {}
    for group in pool_groups(widths(pools, tokens.features), len(tokens), MAX_GIB):
        vectors = pool_tokens({name: pools[name] for name in group}, tokens, fit, config.seed)
        scores |= {name: score(vectors.pop(name), data, config.penalties) for name in group}
    return scores


def score(vectors: np.ndarray, data: Dataset, penalties: Sequence[float]) -> float:
    """The primary metric on validation under the best penalty of a ridge probe."""
    train, validation, task = data.rows("train"), data.rows("validation"), TASKS[data.task]
    table = make_table(vectors, train)
    space = table.space(train)
    coordinates = space.coordinates(table.values)
    metric = task.metrics[task.primary][1]
    path = ridge_path(space.eigenvalues, coordinates[train], data.targets[train], penalties)
    guesses = (predictions(task, "ridge", probe.scores(coordinates[validation])) for probe in path)
    return max(float(macro(np.atleast_1d(metric(data.targets[validation], guess)))) for guess in guesses)


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for every task, as a Markdown table, and how many tasks every rule is good for."""
    parser = argparse.ArgumentParser(prog="python -m eval.eps", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASK_CONFIGS), default=sorted(TASK_CONFIGS))
    parser.add_argument("--train", type=int, default=900, help="most training sequences of a task (900)")
    parser.add_argument("--validation", type=int, default=600, help="most validation sequences (600)")
    parser.add_argument("--test", type=int, default=150, help="test sequences drawn, and not scored (150)")
    parser.add_argument("--shared", default=os.environ.get("COVJAX_SHARED", "../shared"), help="folder of real data")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    columns = [*(f"{eps:g}" for eps in FIXED), *RULES]
    print("| task | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    near = dict.fromkeys(RULES, 0)
    for task in options.tasks:
        scores = measure(task, (options.train, options.validation, options.test), options.shared)
        best = max(scores[f"{eps:g}"] for eps in FIXED)
        for rule in RULES:
            near[rule] += scores[rule] >= best - WITHIN
        print(f"| {task} | " + " | ".join(f"{scores[column]:.3f}" for column in columns) + " |", flush=True)
    for rule, count in near.items():
        print(f"{rule}: within {WITHIN} of the best fixed ε on {count} of {len(options.tasks)} tasks")


if __name__ == "__main__":
    main()
