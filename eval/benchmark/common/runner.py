"""How benchmarks measure: time, memory, devices, and the page that they write."""

import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from covjax import chunked_projected_moment, projected_moment
from covjax.comparison.page import markdown_table

Times = dict[str, list[float]]


def interleave(
    functions: Mapping[str, Callable[[], object]], seconds: float, minimum: int = 5, maximum: int = 60
) -> Times:
    """Seconds of every function in every round; a round runs all of them once, in random order.

    One untimed round compiles. Rounds go on until `seconds` have passed, at least `minimum`, at most `maximum`.
    """
    order = list(functions)
    for name in order:
        jax.block_until_ready(functions[name]())
    times: Times = {name: [] for name in order}
    for name in turns(order, seconds, minimum, maximum):
        time.sleep(0.05)  # PyTorch's threads spin for a while after work and would take the next one's cores
        start = time.perf_counter()
        jax.block_until_ready(functions[name]())
        times[name].append(time.perf_counter() - start)
    return times


def turns(names: Iterable[str], seconds: float, minimum: int, maximum: int) -> Iterator[str]:
    """Whose turn it is: all once a round, in random order, `minimum` rounds and more until `seconds` have passed."""
    order, shuffle, end = list(names), random.Random(0).shuffle, time.perf_counter() + seconds
    for done in range(maximum):
        if done >= minimum and time.perf_counter() >= end:
            return
        shuffle(order)
        yield from order


def median_ratio(times: Times, slow: str, fast: str) -> float:
    """Median over rounds of time(slow) / time(fast): how many times faster `fast` is."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def milliseconds(times: Times, name: str) -> float:
    """Median time."""
    return 1e3 * statistics.median(times[name])


TOKENS, FEATURES, CHUNK = 1_048_576, 1536, 16_384

# ru_maxrss would start at the parent's peak: the high-water mark of the address space does not.
_STREAM = """
import re, sys, time
import jax, ml_dtypes, numpy as np
from covjax import streaming_moments
path, tokens, features, chunk = sys.argv[1], *map(int, sys.argv[2:])
jax.block_until_ready(jax.numpy.ones(3) + 1)
def mebibytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
before, start = mebibytes("VmRSS"), time.perf_counter()
def chunks():
    with open(path, "rb") as file:
        for _ in range(0, tokens, chunk):
            yield np.fromfile(file, ml_dtypes.bfloat16, chunk * features).reshape(-1, features)
m = streaming_moments(chunks())
assert m.count == tokens
print(mebibytes("VmHWM") - before, time.perf_counter() - start)
"""


def measure(streaming: bool) -> dict[str, str]:
    """What was measured → how much."""
    b, t, d, r = 4, 8192, 1536, 64
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((b, t, d), (d, r), (d, r), (b, t))]
    result = {}
    for name, function in (("flat", projected_moment), ("chunked", chunked_projected_moment)):
        compiled = jax.jit(jax.vmap(function, in_axes=(0, None, None, 0))).lower(*shapes).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None, "the backend gives no account of memory"
        size = analysis.temp_size_in_bytes / 2**20
        result[f"projected moment f32, {name}, (4, 8192, 1536, 64), beyond its input (target 64 MiB)"] = (
            f"{size:.0f} MiB"
        )
    if streaming:
        mebibytes, seconds = _stream()
        name = f"`streaming_moments`, {TOKENS:,} × {FEATURES:,} bf16 from disk, peak above start (target 1,024 MiB)"
        result[name] = f"{mebibytes:.0f} MiB ({seconds:.0f} s)"
    return result


def _stream() -> tuple[float, float]:
    """Peak resident memory above that at the start, in MiB, and seconds, in a process of its own."""
    import ml_dtypes
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bf16"
        block = np.random.default_rng(0).standard_normal((CHUNK, FEATURES), np.float32).astype(ml_dtypes.bfloat16)
        with path.open("wb") as file:
            for _ in range(TOKENS // CHUNK):
                block.tofile(file)
        command = [sys.executable, "-c", _STREAM, str(path), str(TOKENS), str(FEATURES), str(CHUNK)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(output[0]), float(output[1])


class Timed(NamedTuple):
    """A call that may return before its work is done, and what waits for the result of the last one."""

    run: Callable[[], object]
    wait: Callable[[object], object]


def interleave_queued(
    functions: Mapping[str, Timed], seconds: float, batch_seconds: float, minimum: int = 5, maximum: int = 60
) -> Times:
    """Seconds per call in every round, a round being so many calls of each that they take `batch_seconds`.

    The start of a call and the wait after it cost tens of microseconds; shared by many they do not count. Functions
    take turns in random order; rounds go on until `seconds` have passed, at least `minimum`, at most `maximum`.
    """
    counts: dict[str, int] = {}
    for name, (run, wait) in functions.items():
        wait(run())  # compiles
        start = time.perf_counter()
        wait(run())
        counts[name] = max(1, math.ceil(batch_seconds / (time.perf_counter() - start)))
    times: Times = {name: [] for name in functions}
    for name in turns(functions, seconds, minimum, maximum):
        run, wait = functions[name]
        start = time.perf_counter()
        for _ in range(counts[name] - 1):
            run()
        wait(run())
        times[name].append((time.perf_counter() - start) / counts[name])
    return times


_START, _END = "<!-- generated: start -->", "<!-- generated: end -->"
_COMMAND = "python -m eval.benchmark pooling"


def show(name: str, times: Times, ratios: dict[str, float]) -> None:
    """Print one shape's medians and ratios."""
    print(name)
    for key in times:
        print(f"  {key:45s} {milliseconds(times, key):10.1f} ms  ({len(times[key])} rounds)")
    for key, value in ratios.items():
        print(f"  {key:50s} {value:6.2f}")


def versions() -> str:
    """Machine, cores and the versions of what is compared."""
    try:
        import torch

        peer = f", PyTorch {torch.__version__}"
    except ImportError:
        peer = ""
    return f"{platform.machine()}, {os.cpu_count()} cores, JAX {jax.__version__} on {jax.default_backend()}{peer}"


def times_table(times: dict[str, Times]) -> str:
    """Median milliseconds, one column a shape."""
    return markdown_table(
        ["", *times],
        [
            [name, *(f"{milliseconds(t, name):.1f}" if name in t else "" for t in times.values())]
            for name in dict.fromkeys(k for t in times.values() for k in t)
        ],
    )


def write_page(page: Path, title: str, body: list[str]) -> None:
    """Replace the generated part of a page, made if absent; the words around it stay."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text() if page.exists() else f"# {title}\n\n{_START}\n{_END}\n"
    before, after = text.split(_START)[0], text.split(_END)[1]
    page.write_text(before + _START + "\n" + "\n\n".join(body) + "\n" + _END + after)


def write(folder: Path, targets, ratios, times: dict[str, Times], memory: dict[str, str], rows) -> None:
    """Replace the generated part of `folder`/benchmark-pooling.md (made if absent) and the plot beside it."""
    shapes = list(ratios)
    order = [*targets, *sorted({k for r in ratios.values() for k in r} - set(targets))]
    body = [
        f"`{_COMMAND}`; {versions()}.",
        "Medians over interleaved rounds; ratios above 1 mean faster. Shapes are (sequences, tokens, features, rank).",
        markdown_table(
            ["ratio", "realistic", "aim", *shapes],
            [
                [
                    name,
                    *(f"{v:g}" for v in targets.get(name, ())),
                    *([] if name in targets else ["", ""]),
                    *(f"**{ratios[s][name]:.2f}**" if name in ratios[s] else "" for s in shapes),
                ]
                for name in order
                if any(name in r for r in ratios.values())
            ],
        ),
        "Median milliseconds:",
        times_table(times),
        markdown_table(["memory", "measured"], [list(item) for item in memory.items()]),
        "Projected moment of one sequence, 384 features, rank 32, milliseconds by tokens:",
        markdown_table(
            ["tokens", *next(iter(rows.values()))],
            [[f"{t:,}", *(f"{v:.2f}" for v in r.values())] for t, r in rows.items()],
        ),
        "![Milliseconds against tokens, both logarithmic](benchmark-pooling.png)",
    ]
    write_page(folder / "benchmark-pooling.md", "Pooling benchmark", body)
    _plot(folder / "benchmark-pooling.png", rows)


def _plot(path: Path, rows) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tokens = list(rows)
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name in rows[tokens[0]]:
        axes.loglog(tokens, [rows[t][name] for t in tokens], marker="o", label=name)
    first = min(rows[tokens[-1]].values()) / tokens[-1]
    axes.loglog(tokens, [first * t for t in tokens], "k:", label="linear")
    axes.set(xlabel="tokens", ylabel="milliseconds", title="Projected moment, 384 features, rank 32")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
