"""AUROC and average precision of many labels at once against a loop over scikit-learn.

`python -m eval.benchmark metrics` rewrites the table of docs/benchmark-metrics.md (one minute). Needs scikit-learn
(extra `test`).
"""

import argparse
from pathlib import Path

import numpy as np

from covjax.comparison.page import markdown_table
from covjax.metrics import auroc, average_precision
from eval.benchmark.common import runner
from eval.benchmark.common.runner import interleave, median_ratio

TARGETS = {"AUROC: scikit-learn loop ÷ covjax": 30.0}


def main(argv: list[str]) -> int:
    """Run and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark metrics", description=__doc__)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float64", help="of the scores: float64, as probes give them, or float32")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    truth = rng.random((options.examples, options.labels)) < rng.uniform(0.005, 0.1, options.labels)
    truth[0], truth[1] = True, False  # every label has both outcomes
    scores = np.round(rng.normal(size=truth.shape) + truth, 3).astype(options.dtype)  # with ties
    run = {
        "covjax AUROC": lambda: auroc(truth, scores),
        "scikit-learn AUROC": lambda: [sk.roc_auc_score(t, s) for t, s in zip(truth.T, scores.T)],
        "covjax average precision": lambda: average_precision(truth, scores),
        "scikit-learn average precision": lambda: [sk.average_precision_score(t, s) for t, s in zip(truth.T, scores.T)],
    }
    gap = max(float(np.abs(np.asarray(run[f"covjax {m}"]()) - run[f"scikit-learn {m}"]()).max()) for m in METRICS)
    times = interleave(run, 0, minimum=options.rounds, maximum=options.rounds)
    ratios = {
        f"{m}: scikit-learn loop ÷ covjax": median_ratio(times, f"scikit-learn {m}", f"covjax {m}") for m in METRICS
    }
    name = f"{options.labels:,} labels × {options.examples:,} examples"
    runner.show(name, times, ratios)
    rows = [[key, f"{TARGETS[key]:g}" if key in TARGETS else "", f"**{value:.0f}**"] for key, value in ratios.items()]
    body = [
        f"`python -m eval.benchmark metrics`; {runner.versions()}.",
        f"{name}, scores in {options.dtype}; medians over {options.rounds} interleaved rounds; largest difference of a "
        f"value {gap:.1e}.",
        markdown_table(["ratio", "target", "measured"], rows),
        "Median milliseconds:",
        runner.times_table({name: times}),
    ]
    runner.write_page(options.output / "benchmark-metrics.md", "Metrics benchmark", body)
    return 0


METRICS = ("AUROC", "average precision")
