"""How kernels of wide vectors are made within a limit of memory: in how many blocks, what is kept where."""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from covjax.errors import InputError

GIB = 2**30
SMALLEST = 64  # features of a block: smaller ones would make matrix products slow
WORK = 2**28  # bytes of one batch of factors in the making; two are at a time
RUNTIME = 0.75 * GIB  # of Python, JAX and programs
SPARE = 1.25  # room for every byte that is planned beside what is used: allocators keep what was freed
_STEPS, _DIRECTIONS = 20, 16  # of conjugate gradients, as they usually are
_EIGH = 40  # the time of a c × c eigendecomposition, in products of c³, where the choice must not depend on the moment
_LARGEST_EIGH = 512  # columns of one that is timed


class TooLittleMemory(InputError):
    """Not even one block fits; `needed` bytes would do."""

    def __init__(self, message: str, needed: float):
        super().__init__(message)
        self.needed = needed


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """Features in `blocks` of `side`, recipes whose factors are kept at a time, and what that takes."""

    groups: tuple[tuple[str, ...], ...]
    features: int
    blocks: int
    on_disk: bool
    factors: float  # bytes, of the largest group
    peak: float  # bytes, with what is there already
    products: float  # operations, multiplications with additions counted as two
    cubes: float  # of the columns of every factor: what eigendecompositions take
    columns: int  # of a factor, in the median

    @property
    def side(self) -> int:
        """Features of a block."""
        return -(-self.features // self.blocks)

    def batch(self, tokens: int) -> int:
        """Sequences of so many tokens that are factored at a time."""
        d, recipes = self.features, max(map(len, self.groups))
        factors = 4 * (tokens * d * (6 + recipes) + 4 * d * d * (tokens >= d))
        return max(1, WORK // max(factors, 12 * self.side**2))

    def __str__(self) -> str:
        d, count = self.features, sum(map(len, self.groups))
        place = "on disk" if self.on_disk else "in memory"
        return (
            f"{count} kernels of {d * (d + 1) // 2:,} features, {self.blocks} x {self.blocks} blocks of {self.side}; "
            f"factors {place}, 16 bits a number, {self.factors / GIB:.2g} GiB at a time, {len(self.groups)} passes "
            f"over the tokens; memory at most {self.peak / GIB:.2g} GiB, about {_duration(self.seconds())} at the "
            "speed of the machine now, without reading, standardising and what is trained"
        )

    def seconds(self) -> float:
        """Of products and eigendecompositions, at rates measured here and now."""
        return self.products / speed() + self.cubes * eigh_seconds(min(self.columns, _LARGEST_EIGH))


def plan_kernels(
    names: Sequence[str],
    columns: Float[np.ndarray, "n"],
    features: int,
    train: int,
    memory: float,
    used: float,
    disk: float,
    kernels: int | None = None,
) -> KernelPlan:
    """The plan with the largest blocks that take at most half of the memory left; the other half is for factors.

    Those of as many recipes as fit are made in one pass over the tokens. If not even one recipe's fit, all are on disk.

    Args:
        names: recipes, those that share eigenvectors side by side.
        columns: of the factor of every sequence, the smaller of tokens and features.
        features: of a token.
        train: training sequences.
        memory: bytes that the process may take, `used` of which it takes already; a fifth of the rest stays free for
            what allocators keep, if the smallest block fits beside it.
        disk: bytes that may be written.
        kernels: how many are in memory at the end; by default those of `names`.

    Raises TooLittleMemory where not even one block fits, with the memory that would do.
    """
    n, d = len(columns), features
    fixed = _fixed(n, train, len(names) if kernels is None else kernels)
    smallest = 8.0 * n * min(d, SMALLEST) ** 2
    room = _room(memory, used, fixed, smallest, f"{n:,} sequences of {d:,} features")
    factor = 2 * d * float(np.minimum(columns + 32, d + 1).sum())  # columns come in steps of 64
    blocks = next(count for count in range(1, d + 1) if _block(n, d, count) <= room / 2 or d / count <= SMALLEST)
    beside = int((room - _block(n, d, blocks)) // factor)
    on_disk = beside < 1
    if on_disk:
        beside = int(disk // factor)
    if beside < 1:
        needed = used + SPARE * (fixed + factor + max(factor, smallest))
        raise TooLittleMemory(
            f"max_memory_gib: {memory / GIB:.2g}, and {disk / GIB:.2g} GiB of disk, are too little for the factors of "
            f"{n:,} sequences of {d:,} features; {_tenths(needed)} GiB of memory, or {_tenths(factor)} of disk, are "
            "enough",
            needed,
        )
    groups = tuple(tuple(names[i : i + beside]) for i in range(0, len(names), beside))
    store = factor * max(map(len, groups))
    peak = used + SPARE * (fixed + _block(n, d, blocks) + (0 if on_disk else store))
    products = len(names) * (_features(columns, d) + _inner_products(n, d, train))
    cubes = len(names) * float((columns**3.0).sum())
    return KernelPlan(groups, d, blocks, on_disk, store, peak, products, cubes, max(1, int(np.median(columns))))


class VectorGroup(NamedTuple):
    """Recipes whose vectors are pooled in one pass, and kept in `place`; blocks of them are in memory one at a time."""

    names: tuple[str, ...]
    place: str  # memory, disk, or again: nowhere, they are pooled again for every block
    blocks: int

    def side(self, size: int) -> int:
        """How many numbers of a vector of `size` are in a block; the last ones may have fewer, or none."""
        return -(-size // self.blocks)


@dataclasses.dataclass(frozen=True)
class VectorPlan:
    """Where the vectors of every recipe in `sizes`, of so many numbers, stay while their kernels are made."""

    groups: tuple[VectorGroup, ...]
    sizes: Mapping[str, int]
    store: float  # bytes on disk, of the largest group
    peak: float  # bytes, with what is there already
    products: float  # operations, multiplications with additions counted as two

    def __str__(self) -> str:
        passes = sum(group.blocks if group.place == "again" else 1 for group in self.groups)
        return (
            f"{len(self.sizes)} kernels of up to {max(self.sizes.values()):,} numbers: "
            f"{'; '.join(map(self._described, self.groups))}; {passes} passes over the tokens; memory at most "
            f"{self.peak / GIB:.2g} GiB, about {_duration(self.products / speed())} for the products at the speed of "
            "the machine now"
        )

    def _described(self, group: VectorGroup) -> str:
        names = ", ".join(group.names)
        if group.place == "disk":
            return f"{names} in {group.blocks} blocks, vectors on disk, {self.store / GIB:.2g} GiB at a time"
        return names + (" in memory" if group.place == "memory" else f" pooled again for each of {group.blocks} blocks")


def plan_vectors(
    sizes: Mapping[str, int],
    sequences: int,
    train: int,
    memory: float,
    used: float,
    disk: float,
    kernels: int | None = None,
) -> VectorPlan:
    """The plan with the fewest passes over the tokens that keeps within `memory` bytes; arguments as `plan_kernels`.

    Vectors of `sizes` numbers stay in memory if all sequences' fit there, else on disk; if they do not fit there
    either, they are pooled once for every block of them.

    Raises TooLittleMemory where not even one block fits, with the memory that would do.
    """
    fixed = _fixed(sequences, train, len(sizes) if kernels is None else kernels)
    number = 4.0 * sequences + 16  # bytes of one number of every sequence, and of its mean
    smallest = number * min(max(sizes.values()), SMALLEST**2)
    room = _room(memory, used, fixed, smallest, f"{sequences:,} sequences of {max(sizes.values()):,} numbers")
    limits = {"memory": room, "disk": disk, "again": math.inf}
    place = {name: next(p for p in limits if number * size <= limits[p]) for name, size in sizes.items()}
    groups = [
        VectorGroup(tuple(names), each, max(math.ceil(number * sizes[name] / room) for name in names))
        for each, limit in limits.items()
        for names in pool_groups(
            {name: size for name, size in sizes.items() if place[name] == each},
            sequences,
            0 if each == "again" else limit / GIB,
        )
    ]
    totals = [number * sum(sizes[name] for name in group.names) for group in groups]
    store = max([total for total, group in zip(totals, groups) if group.place == "disk"], default=0.0)
    blocks = [number * max(sizes[name] for name in group.names) / group.blocks for group in groups]
    peak = max(total if group.place == "memory" else block for total, block, group in zip(totals, blocks, groups))
    products = sum(2.0 * size * train * (sequences - train / 2) for size in sizes.values())
    return VectorPlan(tuple(groups), dict(sizes), store, used + SPARE * (fixed + peak), products)


def pool_groups(sizes: Mapping[str, int], n: int, max_gib: float) -> Iterator[list[str]]:
    """Names pooled in one pass: one program shares moments, eigenvectors and the shuffle; the limit is its output."""
    group: list[str] = []
    gib = 0.0
    for name, width in sizes.items():
        size = 4 * n * width / 2**30
        if group and gib + size > max_gib:
            yield group
            group, gib = [], 0.0
        group.append(name)
        gib += size
    if group:
        yield group


def _fixed(sequences: int, train: int, kernels: int) -> float:
    """Bytes of so many kernels with two in the making, and two batches."""
    return 4.0 * sequences * train * (kernels + 2) + 2 * WORK


def _room(memory: float, used: float, fixed: float, smallest: float, what: str) -> float:
    """Bytes beside what is `used` and `fixed`; a fifth of the rest is left to allocators if the smallest block fits."""
    room = (memory - used) / SPARE - fixed
    if room < smallest:  # rather all of the limit than an error; `peak` says what that may come to
        room = memory - used - fixed
    if room < smallest:
        needed = used + SPARE * (fixed + smallest)
        raise TooLittleMemory(
            f"max_memory_gib: {memory / GIB:.2g} is too little for kernels of {what}; {_tenths(needed)} is needed",
            needed,
        )
    return room


def _tenths(size: float) -> float:
    return math.ceil(10 * size / GIB) / 10  # GiB, never less


def _block(n: int, d: int, blocks: int) -> float:
    """Bytes of one block of all sequences, and of its mean."""
    side = -(-d // blocks)
    numbers = side * (side + 1) / 2 if blocks == 1 else side**2
    return 4.0 * n * numbers + 16 * numbers


def _features(columns: np.ndarray, d: int) -> float:
    """Operations that make the numbers of one recipe's symmetric matrices, and before these their Gram matrices."""
    return float((columns * d * (d + np.minimum(columns, d))).sum())


def _inner_products(n: int, d: int, train: int) -> float:
    """Operations of one kernel; train x train is symmetric."""
    return float(d) * d * train * (n - train / 2)


def cg_pays(columns: Float[np.ndarray, "n"], features: int, train: int) -> bool:
    """Whether conjugate gradients, which make all vectors twice a step, take no longer than the exact kernel would."""
    n, made = len(columns), _features(columns, features) + _EIGH * float((columns**3.0).sum())
    step = 2 * made + 4 * _DIRECTIONS * float(features) ** 2 * n
    return _STEPS * step <= made + _inner_products(n, features, train)


def speed() -> float:
    """Operations a second of a float32 matrix product here, now."""
    a = np.ones((1024, 1024), np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    return 2.0 * len(a) ** 3 / (time.perf_counter() - start)


def eigh_seconds(columns: int) -> float:
    """Seconds of a float32 eigendecomposition of so many columns here, now, over their cube."""
    a = np.random.default_rng(0).normal(size=(columns, columns)).astype(np.float32)
    a += a.T
    np.linalg.eigh(a)
    start = time.perf_counter()
    np.linalg.eigh(a)
    return (time.perf_counter() - start) / columns**3


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
