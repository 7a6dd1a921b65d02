"""Ridge on whole covariances of many sequences: time of every stage, by the clock and by the CPU, and peak memory.

`python -m eval.benchmark ridge` rewrites the table of docs/benchmark-ridge.md; the full size, 20,000 sequences of 320
features, takes minutes and 8 GiB. Tokens are random: nothing here depends on their values, and only the features' own
time on their number.
"""

import argparse
import resource
import time
from pathlib import Path

import jax
import numpy as np

from covjax import moments, vech
from covjax.comparison.page import markdown_table
from covjax.probes.ridge_blocks import (
    FeatureBlock,
    block_gram,
    cholesky_path,
    choose_route,
    default_block,
    primal_weights,
)
from eval.benchmark.common import runner

Seconds = dict[str, tuple[float, float]]  # by the clock, and of all cores together
PENALTIES = tuple(10.0**e for e in range(-6, 3))


def random_covariances(tokens: int, features: int) -> FeatureBlock:
    """`vech` of the covariance of random tokens, made again, the same, for every block asked for."""

    @jax.jit
    @jax.vmap
    def one(i):
        x = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (tokens, features))
        return vech(moments(x).covariance())

    return lambda start, stop: one(np.arange(start, stop))


def measure(
    sequences: int, tokens: int, features: int, targets: int, block: int, panel_gib: float
) -> tuple[Seconds, float]:
    """Seconds of every stage, by the clock and of all cores together, and the peak memory in GiB."""
    blocks = random_covariances(tokens, features)
    y = np.random.default_rng(0).normal(size=(sequences, targets))
    seconds: Seconds = {}

    def timed(stage, function, *arguments):
        clock, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        seconds[stage] = time.perf_counter() - clock, time.process_time() - cpu
        print(f"{stage}: {seconds[stage][0]:.1f} s, {seconds[stage][1]:.1f} s of CPU", flush=True)
        return result

    kernel = timed("kernel", block_gram, blocks, sequences, block, panel_gib)
    alphas = timed(f"path of {len(PENALTIES)} penalties", cholesky_path, kernel, y, PENALTIES)
    del kernel
    timed("weights on the features", primal_weights, blocks, alphas, y.mean(0), block)
    seconds["total"] = sum(a for a, _ in seconds.values()), sum(b for _, b in seconds.values())
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(argv: list[str]) -> int:
    """Measure once and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark ridge", description=__doc__)
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=320, help="of a token; the covariance has d(d + 1)/2")
    parser.add_argument("--tokens", type=int, default=64, help="of a sequence")
    parser.add_argument("--targets", type=int, default=25)
    parser.add_argument("--block", type=int, help="sequences featurised at a time")
    parser.add_argument("--panel-gib", type=float, default=3.0, help="memory for blocks that are kept")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    n, d, p = options.sequences, options.features, options.features * (options.features + 1) // 2
    seconds, peak = measure(n, options.tokens, d, options.targets, options.block or default_block(p), options.panel_gib)
    shape = f"{n:,} sequences × {options.tokens} tokens × {d} features: {p:,} features of Σ, {options.targets} targets"
    body = [
        f"`python -m eval.benchmark ridge --sequences {n} --features {d} --tokens {options.tokens}`; "
        f"{runner.versions()}.",
        f"{shape}. The automatic route at this size is {choose_route(n, p)!r}; the Cholesky route was measured. "
        f"Penalties {PENALTIES[0]:g} to {PENALTIES[-1]:g}. The whole matrix of features would be "
        f"{n * p * 4 / 2**30:.1f} GiB.",
        markdown_table(
            ["stage", "seconds", "CPU seconds, all cores"],
            [[name, *(f"{value:.1f}" for value in pair)] for name, pair in seconds.items()],
        ),
        f"Peak memory {peak:.1f} GiB. On a machine shared with other work CPU seconds say more.",
    ]
    runner.write_page(options.output / "benchmark-ridge.md", "Ridge on whole covariances", body)
    return 0
