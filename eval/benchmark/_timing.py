"""Interleaved timing: on a shared machine only ratios of neighbours in time mean anything."""

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax

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
