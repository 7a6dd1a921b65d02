"""Kernels of whole matrices for encoders of 320 to 4,096 features: time and memory of every stage.

`python -m eval.benchmark width` measures two of the comparison's seven matrices, Σ and the shuffled log(Σ+εI), on
`--measured` sequences for every number of features, each in a process of its own, and scales to all seven and to the
numbers of sequences shown: factors and features grow with N, inner products with N². It rewrites the table of
docs/benchmark-width.md. Tokens are random: nothing here depends on their values.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations import ArrayTokens, Batch
from covjax.comparison.page import markdown_table
from covjax.embedding import kernels, wide
from covjax.embedding.plan import GIB, KernelPlan, plan_kernels
from covjax.embedding.pools import fit_pools
from covjax.errors import InputError
from covjax.recipes import RecipeSettings, all_recipes
from eval.benchmark.common import runner

RECIPES = ("covariance", "shuffled_log_covariance")  # measured
MATRICES = 7  # of the default comparison: M, Σ, √Σ, log Σ and three shuffled ones; μμᵀ costs next to nothing
KERNELS = 12  # in memory at its end: these, μμᵀ, three beside the mean, and one for a sum in the making
TRAIN = 0.7  # of the sequences


class RandomTokens(ArrayTokens):
    """Tokens that are made at every walk and kept nowhere, as from a store: windows of one random array, scaled."""

    name = "random tokens"

    def __init__(self, count: int, tokens: int, features: int):
        random = np.random.default_rng(0)
        self.features = features
        self._array = random.standard_normal((tokens + 997, features), np.float32)
        self._scales = random.uniform(0.5, 2, (31, features)).astype(np.float32)
        self._tokens = tokens
        self._plan([tokens] * count, 16384, None)

    def median_tokens(self) -> float:
        """See `ArrayTokens.median_tokens`."""
        return float(self._tokens)

    def walk(self, stage: str) -> Iterator[Batch]:
        """See `ArrayTokens.walk`."""
        size = max(1, self.token_budget // self._tokens)
        for first in range(0, len(self), size):
            rows = np.arange(first, min(first + size, len(self)))
            tokens = np.stack([self._one(row) for row in np.resize(rows, size)])
            weights = np.ones(tokens.shape[:2], np.float32)
            weights[len(rows) :] = 0
            yield Batch(rows, tokens, weights, None)

    def _one(self, row: Any) -> np.ndarray:
        return self._array[row % 997 : row % 997 + self._tokens] * self._scales[row % 31]


def measure(count: int, tokens: int, features: int, memory: float) -> dict[str, float]:
    """CPU seconds of every stage, by the clock in all, and the peak memory in GiB, with that before the kernels."""
    source, train = RandomTokens(count, tokens, features), np.arange(round(TRAIN * count))
    recipes = [each for each in all_recipes(RecipeSettings(ranks=())) if each.name in RECIPES]
    seconds = dict.fromkeys(("features", "products"), 0.0)

    def timed(stage, function):
        def run(*arguments):
            start = time.process_time()
            result = function(*arguments)
            seconds[stage] += time.process_time() - start
            return result

        return run

    with tempfile.TemporaryDirectory() as place:
        fit, pools = fit_pools(recipes, source, train, 0, Path(place), {})
        for warm in (True, False):
            if not warm:
                kernels._part = timed("features", kernels._part)
                kernels._add_products = timed("products", kernels._add_products)
            start, clock = time.process_time(), time.perf_counter()
            plan: Any = wide.plan_tables(pools, source, len(train), Path(place), memory).factors
            for _ in kernels.factor_kernels(pools, source, fit, 0, train, plan, Path(place)):
                pass
    seconds["factors"] = time.process_time() - start - sum(seconds.values())
    seconds["clock"] = time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds | {"peak": peak, "planned": plan.peak / GIB, "blocks": plan.blocks}


def plan_of(count: int, tokens: int, features: int, memory: float) -> KernelPlan:
    """The plan of the default comparison, beside 1 GiB for the runtime and the encoder's weights."""
    columns = np.full(count, float(min(tokens, features)))
    names = [f"matrix {number}" for number in range(MATRICES)]
    return plan_kernels(names, columns, features, round(TRAIN * count), memory * GIB, GIB, 64 * GIB, KERNELS)


def main(argv: list[str]) -> int:
    """Measure and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark width", description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=[320, 640, 1280])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--tokens", type=int, default=250, help="of a sequence")
    parser.add_argument("--measured", type=int, default=200, help="sequences that are measured")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="limit of memory")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # features measured in this process
    options = parser.parse_args(argv)
    count, tokens, memory = options.measured, options.tokens, options.memory_gib
    if options.one:
        print(json.dumps(measure(count, tokens, options.one, memory)))
        return 0
    measured, scaled = [], []
    for d in options.features:
        command = [sys.executable, "-m", "eval.benchmark", "width", *argv, "--one", str(d)]
        result = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")[-2]
        )
        stages = [result[name] for name in ("factors", "features", "products")]
        shown = [*(f"{value:.1f}" for value in stages), f"{result['clock']:.0f}", str(int(result["blocks"]))]
        measured.append([f"{d:,}", *shown, f"{result['peak']:.2f}", f"{result['planned']:.2f}"])
        print(measured[-1], flush=True)
        for n in options.sequences:
            scaled.append([f"{d:,}", f"{n:,}", *_scaled(n, d, tokens, memory, count, stages)])
    settings = " ".join(f"--{key} {' '.join(map(str, getattr(options, key)))}" for key in ("features", "sequences"))
    body = [
        f"`python -m eval.benchmark width {settings} --tokens {tokens} --measured {count} --memory-gib {memory:g}`; "
        f"{runner.versions()}.",
        f"Measured: two matrices, {count:,} sequences of {tokens} tokens, CPU seconds of all cores and GiB.",
        markdown_table(
            ["d", "factors", "features", "inner products", "seconds by the clock", "blocks", "peak", "planned"],
            measured,
        ),
        f"Scaled to the {MATRICES} matrices of the default comparison: CPU minutes, and the memory of the plan.",
        markdown_table(
            ["d", "N", "features: N·t·d·min(t, d)", "kernels: N²d²/2", "blocks", "factors", "passes", "peak, GiB"],
            scaled,
        ),
    ]
    runner.write_page(options.output / "benchmark-width.md", "Wide encoders", body)
    return 0


def _scaled(n: int, d: int, tokens: int, memory: float, count: int, stages: list[float]) -> list[str]:
    factors, features, products = (value * MATRICES / len(RECIPES) / 60 for value in stages)
    times = [f"{(factors + features) * n / count:,.1f}", f"{products * (n / count) ** 2:,.1f}"]
    try:
        plan = plan_of(n, tokens, d, memory)
    except InputError as error:
        return [*times, "", "", "", str(error).rsplit(";", 1)[-1].strip()]
    place = "on disk" if plan.on_disk else "in memory"
    return [
        *times,
        str(plan.blocks),
        f"{plan.factors / GIB:.1f} GiB {place}",
        str(len(plan.groups)),
        f"{plan.peak / GIB:.1f}",
    ]
