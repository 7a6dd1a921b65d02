"""Two batches at once on a CPU, where much of a compiled program runs on one core."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax
from jax.sharding import Mesh

Input = TypeVar("Input")
Output = TypeVar("Output")


def overlap(
    run: Callable[[Input], Output],
    inputs: Iterable[Input],
    shape: Callable[[Input], tuple[int, ...]],
    mesh: Mesh | None = None,
) -> Iterator[tuple[Input, Output]]:
    """Every input with its result, in order; on a CPU two run at once, each in a thread of its own.

    XLA gives a loop (over attention heads, over eigendecompositions) one core, which leaves the others idle, unless
    `run` spreads its input over the devices of a `mesh`. The first input of a `shape` is finished before another
    begins, or both threads would compile it.
    """
    if mesh is not None or jax.default_backend() != "cpu":
        for each in inputs:
            yield each, run(each)
        return

    def finished(each: Input) -> tuple[Input, Output]:
        return each, jax.block_until_ready(run(each))

    compiled = set()
    with ThreadPoolExecutor(2) as threads:
        running: deque[Future[tuple[Input, Output]]] = deque()
        for each in inputs:
            running.append(threads.submit(finished, each))
            if shape(each) not in compiled:
                compiled.add(shape(each))
                running[-1].exception()
            if len(running) == 2:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
