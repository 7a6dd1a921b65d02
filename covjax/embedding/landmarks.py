"""Kernels with some of the training rows, the landmarks, where those with all of them are too large (Nyström).

Which route wide vectors take is planned here: all training rows, landmarks, conjugate gradients on top of these
(`covjax.embedding.conjugate`), or a sketch.

Two passes over the tokens. In the first the vectors of the landmarks, and of a sample beside them, are made and kept;
in the second those of all sequences pass by in batches, and their inner products with what is kept are the kernel. No
array has more than landmarks x features or sequences x landmarks numbers.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.embedding import tables
from covjax.embedding.passes import check_finite, each_vector, pool_tokens
from covjax.embedding.plan import GIB, RUNTIME, pool_groups
from covjax.embedding.pools import FittedPool, sketched, widths
from covjax.embedding.tables import Landmarks, Table
from covjax.errors import InputError
from covjax.jobs.distributed import exchange, is_first

_STEP = 64  # landmarks come in steps of so many
_MOST = 8192  # chosen by themselves: the eigendecomposition of more takes longer than what they add is worth
_SAMPLE = 2000, 1000  # most rows that a probe is fitted, and scored, on both ways
_FEW = 256  # landmarks; where fewer fit, and four times as many numbers of a sketch, that is taken
_PRECONDITION = 2048  # landmarks that precondition, at most
_ROOM = 1.0 * GIB  # that a run has beside it, whatever its limit


@dataclasses.dataclass(frozen=True)
class LandmarkPlan:
    """How many landmarks there are, or numbers of a sketch, 0 for none, and for which vectors; see `plan_landmarks`.

    `sample` is how many rows the sample of a sketch has at most.
    """

    count: int
    train: int
    widest: int  # columns of a table that need none
    narrow: int  # numbers of a vector that needs none
    room: float  # bytes
    solver: str = "landmarks"
    sample: int = 0
    makes_kernels: bool = True  # with all training rows, where these are few enough

    def covers(self, width: int) -> bool:
        """Whether vectors of so many numbers are compared through landmarks."""
        columns = columns_of(width, self.train)
        is_kernel = columns < width
        return (
            self.count > 0 and width > self.narrow and (columns > self.widest or (is_kernel and not self.makes_kernels))
        )

    def most_bytes(self, sequences: int, widths: Iterable[int]) -> float:
        """`probe_bytes` of the largest table of vectors of so many numbers."""
        columns = [self.count if self.covers(width) else columns_of(width, self.train) for width in widths]
        return probe_bytes(sequences, max(columns, default=0))


def columns_of(width: int, train: int) -> int:
    """Columns of the exact table of such vectors: all numbers, or the kernel's training rows."""
    return width if width <= max(tables.WIDE, train) else train


def probe_bytes(sequences: int, columns: int) -> float:
    """Memory that one table takes at most while it is made, and while probes are fitted on it."""
    return 12.0 * sequences * columns + 44.0 * columns**2


def plan_landmarks(
    given: int | None,
    sequences: int,
    train: int,
    features: int,
    memory: float,
    tokens: float,
    solver: str = "auto",
    cg_pays: Callable[[], bool] = lambda: False,
    makes_kernels: Callable[[], bool] = lambda: True,
    largest: int = 0,
) -> LandmarkPlan:
    """None where all exact tables fit; else as many landmarks as do, or as many as are `given`.

    A given 0 is none. `features` are those of a token, `largest` is how many numbers a vector has at most, where these
    are more than those of a whole matrix; `memory` and `tokens`, which stay in it, are bytes: numbers of the settings,
    not of the moment, so that a run that goes on chooses the same. A `solver` other than auto is taken whether or not
    the exact tables fit; `makes_kernels` says whether there is memory to make those that are kernels. By itself cg is
    taken where it pays (`cg_pays`), a sketch where landmarks are few.

    Raises InputError where not even 64 fit.
    """
    width = max(largest, features * (features + 1) // 2)
    room = max(memory - tokens - RUNTIME, _ROOM)
    if given is not None or solver == "kernel":
        count = given if given is not None and given < train else 0
        return LandmarkPlan(count, train, given or 0, tables.WIDE, room, "cg" if solver == "cg" else "landmarks")
    fits = solver != "auto" or makes_kernels()
    if solver == "auto" and fits and probe_bytes(sequences, columns_of(width, train)) <= room:
        return LandmarkPlan(0, train, 0, 0, room)

    def need(count: int) -> float:
        return max(probe_bytes(sequences, count), 4.0 * count * (sequences + 2 * width) + GIB / 2)

    if train <= _STEP and solver in ("landmarks", "cg"):
        return LandmarkPlan(0, train, 0, 0, room)
    is_cg = solver == "cg" or (solver == "auto" and cg_pays())
    count = _STEP * (min(_PRECONDITION if is_cg else _MOST, train - 1, width) // _STEP)
    while count and need(count) > room:
        count -= _STEP
    size = next((c for c in range(tables.WIDE, 0, -_STEP) if probe_bytes(sequences, c) <= room), 0)
    if solver == "sketch" or (solver == "auto" and not is_cg and count < min(_FEW, size // 4)):
        count, solver = size, "sketch"
    if not count:
        needed = (need(_STEP) + tokens + RUNTIME) / GIB
        raise InputError(
            f"max_memory_gib: {memory / GIB:.2g} is too little for {sequences:,} sequences of {features:,} features; "
            f"{needed:.1f} is needed for {_STEP} landmarks"
        )
    sample = min(_SAMPLE[0], train // 2, int(room / 16 / width))
    if solver in ("sketch", "landmarks", "cg"):
        widest = 0 if solver == "sketch" else count
        return LandmarkPlan(count, train, widest, tables.WIDE, room, solver, sample)
    widest = next(c for c in range(max(tables.WIDE, train), 0, -1) if probe_bytes(sequences, c) <= room)
    return LandmarkPlan(count, train, widest, 0, room, "cg" if is_cg else "landmarks", sample, fits)


def draw_landmarks(
    count: int,
    train: Int[np.ndarray, "n_train"],
    validation: Int[np.ndarray, "v"],
    seed: int,
    sample: int | None = None,
) -> Landmarks:
    """So many training rows, drawn without looking at anything, and the rows of the sample; its kernel is empty yet.

    Of the sample's training rows there are at most as many as landmarks, or `sample`.
    """
    random = np.random.default_rng([seed, count])
    order, held_out = random.permutation(train), random.permutation(validation)
    fitted = order[count : count + min(_SAMPLE[0], count if sample is None else sample)]
    scored = held_out[: min(_SAMPLE[1], len(held_out) if sample is None else sample)]
    kernel = np.zeros((len(fitted) + len(scored), len(fitted)), np.float32)
    return Landmarks(np.sort(order[:count]), np.sort(fitted), np.sort(scored), kernel)


def landmark_tables(
    pools: Mapping[str, FittedPool], tokens: ArrayTokens, fit: Fit, seed: int, landmarks: Landmarks, room: float
) -> Iterator[tuple[str, Table]]:
    """The kernel of every pool with the landmarks, of vectors centred and scaled to mean squared norm 1 on these.

    Pools share their passes where `room` bytes allow it. In a job of several processes, which call this together, only
    process 0 gets the tables.

    Raises InputError for NaN or inf in a sequence's vector, with the row's number from 0.
    """
    n, sizes, count = len(tokens), widths(pools, tokens.features), len(landmarks.rows)
    stays = np.concatenate([landmarks.rows, landmarks.fitted])
    every = {name: width + n * count // len(stays) for name, width in sizes.items()}  # numbers for each row that stays
    for group in pool_groups(every, len(stays), room / 2 / GIB):
        chosen = {name: pools[name] for name in group}
        known = {name: np.zeros((len(stays), sizes[name]), np.float32) for name in group}
        place = np.full(n, -1)
        place[stays] = np.arange(len(stays))
        for rows, vectors in each_vector(chosen, tokens, fit, seed, stays):
            for name, block in vectors.items():
                check_finite(name, rows, block)
                known[name][place[rows]] = block
        own = place[tokens.own]
        scales = {}
        for name, table in known.items():
            exchange(table, own[own >= 0])
            scales[name] = _standardise(table, count)
        kernels = {name: np.zeros((n, count), np.float32) for name in group}
        sample = np.concatenate([landmarks.fitted, landmarks.scored])
        exact = {name: np.zeros(landmarks.kernel.shape, np.float32) for name in group}
        place[:] = -1
        place[sample] = np.arange(len(sample))
        for rows, vectors in each_vector(chosen, tokens, fit, seed):
            inside = place[rows] >= 0
            for name, block in vectors.items():
                check_finite(name, rows, block)
                centred = (block - scales[name][0]) / scales[name][1]
                kernels[name][rows] = centred @ known[name][:count].T
                exact[name][place[rows[inside]]] = centred[inside] @ known[name][count:].T
        del known
        own = place[tokens.own]
        for name in group:
            kernel, part = kernels.pop(name), exact.pop(name)
            exchange(kernel, tokens.own)
            exchange(part, own[own >= 0])
            if is_first():
                yield name, Table(kernel, sizes[name], True, dataclasses.replace(landmarks, kernel=part))


def sketch_tables(
    pools: Mapping[str, FittedPool], tokens: ArrayTokens, fit: Fit, seed: int, size: int, sample: Landmarks
) -> Iterator[tuple[str, Table]]:
    """A count sketch of `size` numbers of every pool's vectors, with the exact kernel of the sample's rows.

    In a job of several processes, which call this together, only process 0 gets the tables. Raises as
    `landmark_tables`.
    """
    rows, widest = np.concatenate([sample.fitted, sample.scored]), widths(pools, tokens.features)
    place = np.full(len(tokens), -1)
    place[rows] = np.arange(len(rows))
    own = place[tokens.own]
    for name, pool in pools.items():
        known = np.zeros((len(rows), widest[name]), np.float32)
        for numbers, vectors in each_vector({name: pool}, tokens, fit, seed, rows):
            check_finite(name, numbers, vectors[name])
            known[place[numbers]] = vectors[name]
        exchange(known, own[own >= 0])
        _standardise(known, len(sample.fitted))
        kernel = known @ known[: len(sample.fitted)].T
        del known
        values = pool_tokens(sketched({name: pool}, {name: size}), tokens, fit, seed)[name]
        if is_first():
            yield name, Table(values, size, landmarks=dataclasses.replace(sample, kernel=kernel))


def _standardise(table: Float[np.ndarray, "s p"], count: int) -> tuple[Float[np.ndarray, "p"], np.float32]:
    """Centre and scale on the first `count` rows, in place, as `make_table` does it; both are returned."""
    centre = table[:count].mean(0, dtype=np.float64).astype(np.float32)
    table -= centre
    squares = np.einsum("ij,ij->i", table[:count], table[:count], dtype=np.float64)
    scale = np.float32(np.sqrt(squares.mean()) or 1.0)  # equal rows stay as they are
    table /= scale
    return centre, scale
