"""Which vectors are compared through a kernel, how its making is planned, and the kernels of pools without factors.

Vectors of a pool without a factor (`covjax.embedding.kernels`) are made whole, a few sequences at a time. All of them
stay in memory or in a file, or only one block of their numbers does, and they are made again for the next one. Those
that are small for all sequences together need no plan (`kernel_sizes`).
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.embedding import tables
from covjax.embedding.kernels import (
    Store,
    factor_columns,
    factor_kernels,
    factored,
    scaled_kernel,
    summed,
    train_first,
)
from covjax.embedding.passes import Rows, check_finite, each_vector
from covjax.embedding.plan import (
    GIB,
    RUNTIME,
    WORK,
    KernelPlan,
    TooLittleMemory,
    VectorGroup,
    VectorPlan,
    plan_kernels,
    plan_vectors,
)
from covjax.embedding.pools import FittedPool, widths
from covjax.embedding.tables import Table
from covjax.jobs.disk import TEMPORARY
from covjax.jobs.distributed import agree, is_first
from covjax.jobs.memory import limit_gib, process_bytes
from covjax.notes import note

Vectors = Callable[[], Iterator[tuple[Rows, dict[str, np.ndarray]]]]


class TablePlan(NamedTuple):
    """How the kernels of wide pools are made: from factors, and of whole vectors; None where there are none."""

    factors: KernelPlan | None
    vectors: VectorPlan | None


def is_wide(width: int, train: int) -> bool:
    """Whether vectors of so many numbers are compared through a kernel."""
    return width > max(tables.WIDE, train)


def kernel_sizes(sizes: Mapping[str, int], with_factor: Collection[str], sequences: int, train: int) -> dict[str, int]:
    """Those of vectors of `sizes` numbers whose kernels are planned: wide ones `with_factor`, or of over 256 MiB.

    Others, the vectors of all sequences together, are pooled with narrow ones, mostly in the same pass over the tokens.
    """
    small = WORK // (4 * sequences)
    return {name: n for name, n in sizes.items() if is_wide(n, train) and (name in with_factor or n > small)}


def plan_settled(
    sizes: Mapping[str, int],
    with_factor: Collection[str],
    tokens: ArrayTokens,
    train: int,
    folder: Path,
    memory: float,
    kernels: int | None = None,
) -> TablePlan:
    """The plan for kernels of vectors of `sizes` numbers, by settings alone, before there are any tokens.

    Those of the names in `with_factor` are made from factors. `memory` is in bytes; `kernels` as in `plan_kernels`.

    Raises TooLittleMemory as `plan_kernels` and `plan_vectors`.
    """
    return _plan(sizes, with_factor, tokens, train, folder, memory, settled_bytes(tokens, memory), kernels)


def settled_bytes(tokens: ArrayTokens, memory: float) -> float:
    """What a run takes before a table is made: the runtime, the encoder's weights, and tokens where these fit."""
    fits = tokens.fits or 2 * tokens.gib * GIB <= memory
    return RUNTIME + GIB * (tokens.weights_gib + (tokens.gib if fits else 0.0))


def plan_tables(
    pools: Mapping[str, FittedPool],
    tokens: ArrayTokens,
    train: int,
    folder: Path,
    memory_gib: float | None,
    kernels: int | None = None,
) -> TablePlan:
    """The plan for the kernels of wide pools, said before the work begins; the same in all processes.

    It goes by what the process takes now, or by `plan_settled` where that is too much. `memory_gib` None is a share of
    the machine's; `kernels` as in `plan_kernels`.

    Raises TooLittleMemory as `plan_settled`.
    """
    memory = limit_gib(memory_gib) * GIB
    # What is taken moves by a little from run to run, and with it the blocks and the last digits.
    used = np.ceil(8 * process_bytes() / GIB) / 8 * GIB
    memory, used = agree(np.array([memory, used])).tolist()
    rest = widths(pools, tokens.features), factored(pools), tokens, train, folder, memory
    try:
        plan = _plan(*rest, used, kernels)
    except TooLittleMemory:
        plan = plan_settled(*rest, kernels)
        more = used - settled_bytes(tokens, memory)
        plan = TablePlan(
            plan.factors and dataclasses.replace(plan.factors, peak=plan.factors.peak + more),
            plan.vectors and dataclasses.replace(plan.vectors, peak=plan.vectors.peak + more),
        )
    for each in plan if is_first() else ():
        if each is not None:
            note(f"plan: {each}")
    return plan


def _plan(
    sizes: Mapping[str, int],
    with_factor: Collection[str],
    tokens: ArrayTokens,
    train: int,
    folder: Path,
    memory: float,
    used: float,
    kernels: int | None,
) -> TablePlan:
    disk = float(agree(np.array(shutil.disk_usage(folder).free / 2)))
    rest = train, memory, used, disk, len(sizes) if kernels is None else kernels
    names = [name for name in sizes if name in with_factor]
    others = {name: size for name, size in sizes.items() if name not in with_factor}
    return TablePlan(
        plan_kernels(names, factor_columns(tokens), tokens.features, *rest) if names else None,
        plan_vectors(others, len(tokens), *rest) if others else None,
    )


def kernel_tables(
    pools: Mapping[str, FittedPool],
    tokens: ArrayTokens,
    fit: Fit,
    seed: int,
    train: Int[np.ndarray, "n_train"],
    plan: TablePlan,
    folder: Path,
) -> Iterator[tuple[str, Table]]:
    """The kernel of every wide pool, as `make_table` would make it of the vectors; files are in `folder` meanwhile.

    In a job of several processes, which call this together, only process 0 gets the tables.

    Raises InputError for NaN or inf in a sequence's factor or vector, with the row's number from 0, and where the disk
    is full.
    """
    rest = tokens, fit, seed, train
    if plan.factors is not None:
        for name, kernel in factor_kernels(pools, *rest, plan.factors, folder):
            yield name, Table(kernel, tokens.features * (tokens.features + 1) // 2, is_kernel=True)
    if plan.vectors is not None:
        for name, kernel in _vector_kernels(pools, *rest, plan.vectors, folder):
            yield name, Table(kernel, plan.vectors.sizes[name], is_kernel=True)


def _vector_kernels(
    pools: Mapping[str, FittedPool],
    tokens: ArrayTokens,
    fit: Fit,
    seed: int,
    train: Int[np.ndarray, "n_train"],
    plan: VectorPlan,
    folder: Path,
) -> Iterator[tuple[str, Float[np.ndarray, "n n_train"]]]:
    order = train_first(train, len(tokens))
    place = np.argsort(order)
    for group in plan.groups:
        chosen = {name: pools[name] for name in group.names}

        def vectors(chosen: Mapping[str, FittedPool] = chosen) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
            for rows, blocks in each_vector(chosen, tokens, fit, seed):
                for name, block in blocks.items():
                    check_finite(name, rows, block)
                yield rows, blocks

        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{TEMPORARY}-") as directory:
            blocks = _BLOCKS[group.place](group, plan.sizes, place, vectors, Path(directory))
            for name in group.names:
                parts = (blocks(name, number) for number in range(group.blocks))
                kernel = summed(parts, group.blocks, tokens, order, len(train))
                if is_first():
                    yield name, scaled_kernel(kernel, order, len(train))


Blocks = Callable[[str, int], Float[np.ndarray, "n side"]]


def _in_memory(
    group: VectorGroup, sizes: Mapping[str, int], place: Int[np.ndarray, "n"], vectors: Vectors, folder: Path
) -> Blocks:
    """Whole vectors as one block; each is given away once."""
    whole = {name: np.empty((len(place), sizes[name]), np.float32) for name in group.names}
    for rows, batch in vectors():
        for name, block in batch.items():
            whole[name][place[rows]] = block
    return lambda name, number: whole.pop(name)


def _on_disk(
    group: VectorGroup, sizes: Mapping[str, int], place: Int[np.ndarray, "n"], vectors: Vectors, folder: Path
) -> Blocks:
    """Vectors in files, from which a block is read."""
    stores = {name: Store(folder / name) for name in group.names}
    for rows, batch in vectors():
        for name, block in batch.items():
            side = group.side(sizes[name])
            padded = np.pad(block, ((0, 0), (0, side * group.blocks - block.shape[1])))
            stores[name].put(rows, padded.reshape(len(rows), group.blocks, side).swapaxes(0, 1))

    def read(name: str, number: int) -> Float[np.ndarray, "n side"]:
        out = np.empty((len(place), group.side(sizes[name])), np.float32)
        for batch in stores[name].batches:
            out[place[batch.rows]] = stores[name].block(batch, number)
        return out

    return read


def _again(
    group: VectorGroup, sizes: Mapping[str, int], place: Int[np.ndarray, "n"], vectors: Vectors, folder: Path
) -> Blocks:
    """A pass over the tokens for every block."""

    def pooled(name: str, number: int) -> Float[np.ndarray, "n side"]:
        side = group.side(sizes[name])
        columns = slice(*np.minimum([number * side, (number + 1) * side], sizes[name]))
        out = np.empty((len(place), columns.stop - columns.start), np.float32)
        for rows, batch in vectors():
            out[place[rows]] = batch[name][:, columns]
        return out

    return pooled


_BLOCKS = {"memory": _in_memory, "disk": _on_disk, "again": _again}
