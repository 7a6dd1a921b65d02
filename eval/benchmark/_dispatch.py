"""Interleaved timing where calls are queued and run later: many calls, one wait."""

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from eval.benchmark._timing import Times, turns


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
