"""Exact ridge on wide vectors of too many sequences for a kernel: conjugate gradients, two passes a step.

In the first the vectors of the training rows add up to the directions, in the second their inner products with these
are made. No array has more numbers than directions of a step x features, or sequences x directions.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.embedding.passes import each_vector
from covjax.embedding.pools import FittedPool, widths
from covjax.embedding.tables import Directions, Sums, Table, TrainingSums, direction_space, scaled, side_by_side
from covjax.errors import InputError
from covjax.jobs.distributed import agree, exchange
from covjax.notes import note
from covjax.probes import KernelSpace
from covjax.probes.ridge_conjugate import RESIDUAL, Solved, System, conjugate_directions, span_residuals

_COLUMNS = 16, 64  # directions of a step at least, where there are so many, and at most
_STEPS = 40  # at most


def conjugate_table(
    name: str,
    pool: FittedPool,
    tokens: ArrayTokens,
    fit: Fit,
    seed: int,
    train: Int[np.ndarray, "n_train"],
    targets: Float[np.ndarray, "n_train k"],
    penalties: Sequence[float],
    landmarks: Table | None,
    beside: Mapping[str, Table],
    room: float,
) -> Table | None:
    """The inner products of a pool's vectors with directions in whose span ridge on them is exact, at every penalty.

    So it is on them beside each of the tables `beside`, by the name of that row. The pool's table with landmarks
    preconditions. In a job of several processes, which call this together, process 0 has the tables, and gets one.

    Raises InputError where all landmarks are equal.
    """
    width = widths({name: pool}, tokens.features)[name]
    columns = int(np.clip(2 * targets.shape[1], *_COLUMNS))
    columns = max(1, min(columns, int(room / 2 / (24 * width))))
    most = max(1, min(_STEPS, int(room / 2 / (4 * (2 + len(beside)) * len(tokens) * columns))))
    solver: Generator[np.ndarray, np.ndarray, Solved] | None = None
    if landmarks is not None:
        tables = [landmarks, *(side_by_side([each, landmarks], train) for each in beside.values())]
        blocks = [None, *(scaled(each.values, train)[train] for each in beside.values())]
        try:
            systems = [_system(table, block, train) for table, block in zip(tables, blocks, strict=True)]
        except InputError as error:
            raise InputError(f"recipe {name!r}: {error}") from None
        solver = conjugate_directions(systems, targets, penalties, columns, most)
        del tables
    solved: Solved | None = None
    sums: Sums | None = None
    images: list[Float[np.ndarray, "n c"]] = []
    directions = np.zeros((len(train), columns), np.float32)
    while True:
        new = 0
        if solver is not None:
            try:
                block = solver.send(images[-1][train]) if images else next(solver)
                new, directions = block.shape[1], np.pad(block, ((0, 0), (0, columns - block.shape[1])))
            except StopIteration as end:
                solved = end.value
        new, directions = agree((np.int64(new), directions))
        if not new:
            break
        running = TrainingSums(train, directions[:, :new].astype(np.float64), width)
        for rows, vectors in each_vector({name: pool}, tokens, fit, seed, train):
            running.add(rows, vectors[name])
        total = running.total()
        sums = sums or total
        scale, centre = np.sqrt(sums.square), sums.mean.astype(np.float32)
        weights = (total.weighted / scale).astype(np.float32)
        image = np.zeros((len(tokens), int(new)), np.float32)
        for rows, vectors in each_vector({name: pool}, tokens, fit, seed):
            image[rows] = ((vectors[name] - centre) / np.float32(scale)) @ weights
        exchange(image, tokens.own)
        images.append(image)
    if solved is None or landmarks is None:
        return None
    for row, residuals in zip([name, *beside], solved.residuals, strict=True):
        note(f"{row}: {solved.steps} steps of conjugate gradients, {described(residuals, penalties)}")
    return Table(
        np.concatenate([np.empty((len(tokens), 0), np.float32), *images], axis=1),
        width,
        True,
        landmarks.landmarks,
        directions=Directions(solved.directions, 1.0, solved.steps, tuple(beside)),
    )


def described(residuals: Sequence[float] | Float[np.ndarray, "penalties"], penalties: Sequence[float]) -> str:
    """The relative residuals of all penalties in words: the largest, or which are not solved."""
    open_ = {penalty: value for penalty, value in zip(penalties, residuals) if not value <= RESIDUAL}
    if not open_:
        return f"relative residual at most {max(residuals):.0e}"
    worst = ", ".join(f"{value:.0e} at {penalty:g}" for penalty, value in sorted(open_.items()))
    return (
        f"NOT CONVERGED at {len(open_)} of {len(penalties)} penalties: relative residual {worst}, above the tolerance "
        f"of {RESIDUAL:.0e}; give more --landmarks or --max-memory-gib, or leave these penalties out"
    )


def solved_residuals(
    table: Table, train: Int[np.ndarray, "n_train"], targets: Float[np.ndarray, "n_train k"], penalties: Sequence[float]
) -> list[float]:
    """The relative residuals of ridge in the span of a table's directions, by penalty; no pass over the tokens."""
    directions = table.directions
    assert directions is not None
    ridges = [len(train) * penalty * directions.square for penalty in penalties]
    return span_residuals(directions.vectors, table.values[train], targets, ridges)


def sample_directions(
    kernel: Float[np.ndarray, "sv s"], targets: Float[np.ndarray, "s k"], penalties: Sequence[float]
) -> tuple[Float[np.ndarray, "sv c"], KernelSpace]:
    """The same of a kernel that is in memory, of s training rows first: inner products with directions, their space."""
    count = len(targets)
    centred = kernel - kernel[:count].mean(0)
    square = float(np.trace(centred[:count], dtype=np.float64) / count)
    solver = conjugate_directions([System(square)], targets, penalties, _COLUMNS[1], count)
    try:
        block = next(solver)
        while True:
            block = solver.send(centred[:count] @ block)
    except StopIteration as end:
        directions = Directions(end.value.directions, square, end.value.steps)
    values = kernel @ directions.vectors
    return values, direction_space(values[:count], directions)


def _system(table: Table, block: Float[np.ndarray, "n_train b"] | None, train: Int[np.ndarray, "n_train"]) -> System:
    """Of a table with landmarks, and the features beside it; each has a mean squared norm of 1."""
    square = 1.0 if block is None else 1.0 + float(np.square(block, dtype=np.float64).sum() / len(block))
    space: Any = table.space(train)
    return System(square, block, (space, table.values[train]))
