"""Kernels of whole matrices, d(d + 1)/2 numbers a sequence, without an array of these numbers.

Every such matrix is FFᵀ, up to a multiple of I that all sequences share, with at most as many columns in F as the
sequence has tokens (`FunctionPooler.factor`). F is kept in 16 bits a number, in memory or in a file. From it one block
of rows and columns of all sequences' matrices is made at a time; it is centred, and its inner products add to the
kernel: d²/2 numbers a sequence pass by, and each is made once.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.embedding.passes import check_finite, each_batch
from covjax.embedding.plan import KernelPlan
from covjax.embedding.pools import FittedPool
from covjax.encoders.embed import overlap
from covjax.jobs.disk import TEMPORARY, writing
from covjax.jobs.distributed import exchange, gather, is_first
from covjax.notes import progress
from covjax.pooling.base import FunctionPooler
from covjax.recipes.pairs import PairPooled
from covjax.tokens import HIGHEST

_LARGEST = 32767  # of 16 bits
_STEP = 64  # columns of a factor come in steps of so many: fewer programs are compiled
_ROWS = 2048  # of a kernel's product made at a time


def has_factor(pool: FittedPool) -> bool:
    """Whether a pool's kernel can be made from factors."""
    is_factored = isinstance(pool.pooler, FunctionPooler) and pool.pooler.from_factor is not None
    return is_factored and not isinstance(pool.recipe, PairPooled) and not pool.sketch


def factored(pools: Mapping[str, FittedPool]) -> set[str]:
    """The names of the pools whose kernels can be made from factors."""
    return {name for name, pool in pools.items() if has_factor(pool)}


def factor_columns(tokens: ArrayTokens) -> Float[np.ndarray, "n"]:
    """About how many columns every sequence's factor has; letters count as many tokens as they do in the median."""
    share = tokens.median_tokens() / float(np.median(tokens.lengths))
    return np.minimum(np.ceil(tokens.lengths * share), tokens.features)


def factor_kernels(
    pools: Mapping[str, FittedPool],
    tokens: ArrayTokens,
    fit: Fit,
    seed: int,
    train: Int[np.ndarray, "n_train"],
    plan: KernelPlan,
    folder: Path,
) -> Iterator[tuple[str, Float[np.ndarray, "n n_train"]]]:
    """The kernel of every pool of a plan, as `make_table` would make it of the vectors; `folder` is for files.

    In a job of several processes, which call this together, only process 0 gets kernels.

    Raises InputError for NaN or inf in a sequence's factor, with the row's number from 0, and where the disk is full.
    """
    order = train_first(train, len(tokens))
    place = np.argsort(order)
    pairs = list(combinations_with_replacement(range(plan.blocks), 2))
    for group in plan.groups:
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{TEMPORARY}-") as directory:
            stores = {name: Store(Path(directory) / name if plan.on_disk else None) for name in group}
            chosen = {name: pools[name] for name in group}
            for rows, factors in each_batch(chosen, tokens, fit, seed, "factors", _fixed_point, plan.batch):
                for name, factor in factors.items():
                    _put(stores[name], plan, name, rows, factor)
            for name in group:
                store = stores.pop(name)
                is_thin = all(batch.dtype.kind == "f" for batch in store.batches)  # see `_fixed_point`
                if gather(np.array([is_thin])).all():
                    thin = _thin_factors(store, plan, tokens)
                    kernel = _pair_kernel(thin[order], len(train)) if is_first() else np.empty(0, np.float32)
                else:
                    parts = (_part(store, plan, left, right, place) for left, right in pairs)
                    kernel = summed(parts, len(pairs), tokens, order, len(train))
                if is_first():
                    yield name, scaled_kernel(kernel, order, len(train))


def train_first(train: Int[np.ndarray, "n_train"], count: int) -> Int[np.ndarray, "n"]:
    """The numbers of all rows, training rows first."""
    return np.concatenate([train, np.setdiff1d(np.arange(count), train)])


class _Factor(NamedTuple):
    """F = numbers · scale, column by column, of a sequence with so many `tokens`."""

    numbers: Array  # (features, columns)
    scale: Array  # (columns,)
    tokens: Array


def _fixed_point(pool: FittedPool, x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> _Factor:
    """F in whole numbers up to ±32,767, each column with its scale; a thin one, for a kernel by pairs, as it is.

    A half-precision number has 11 bits, one of these up to 16, and rounds about five times less of a usual column.
    """
    assert isinstance(pool.pooler, FunctionPooler)
    factor = pool.pooler.factor(x, w)
    largest = jnp.max(jnp.abs(factor), axis=0)
    if _is_thin(factor.shape[1], factor.shape[0]):
        return _Factor(factor, jnp.where(jnp.isfinite(largest), 1, jnp.nan), jnp.sum(w > 0))
    scale = jnp.where(largest == 0, 1, largest / _LARGEST)
    return _Factor(jnp.round(factor / scale).astype(jnp.int16), scale, jnp.sum(w > 0))


def _is_thin(columns: int, features: int) -> bool:
    """Whether (F_iᵀF_j)² in float64 is at most a quarter of the work of d²/2 products in float32."""
    return 16 * columns**2 <= features


class _Batch(NamedTuple):
    rows: Int[np.ndarray, "b"]
    scale: Float[np.ndarray, "b columns"] | None
    place: Any  # the array (blocks, b, side, ...), or where it begins in the file
    shape: tuple[int, ...]
    dtype: np.dtype


class Store:
    """Arrays of all sequences, batch by batch, in memory or in a file, that give a block of features at a time."""

    def __init__(self, file: Path | None):
        self.file, self.batches, self._end = file, list[_Batch](), 0

    def put(self, rows: Int[np.ndarray, "b"], array: Num[np.ndarray, "blocks b side *rest"], scale: Any = None) -> None:
        """Keep the blocks of a batch's rows.

        Raises InputError where the disk is full.
        """
        place: Any = array
        if self.file is not None:
            place, self._end = self._end, self._end + array.nbytes
            with writing(self.file), open(self.file, "ab") as file:
                file.write(np.ascontiguousarray(array).data)
        self.batches.append(_Batch(rows, scale, place, array.shape, array.dtype))

    def block(self, batch: _Batch, number: int) -> Num[np.ndarray, "b side *rest"]:
        """One block of features of a batch."""
        if self.file is None:
            return batch.place[number]
        size = int(np.prod(batch.shape[1:]))
        start = batch.place + number * size * batch.dtype.itemsize
        return np.fromfile(self.file, batch.dtype, size, offset=start).reshape(batch.shape[1:])


def _put(store: Store, plan: KernelPlan, name: str, rows: Int[np.ndarray, "b"], factor: _Factor) -> None:
    """Keep the factors of a batch's rows."""
    count, width = len(rows), factor.numbers.shape[2]
    columns = min(width, -(-int(np.asarray(factor.tokens)[:count].max()) // _STEP) * _STEP)
    scale = np.asarray(factor.scale)[:count, -columns:]
    check_finite(name, rows, scale)
    numbers = np.asarray(factor.numbers)
    array = np.empty((plan.blocks, count, plan.side, columns), numbers.dtype)
    for block, place in enumerate(array):
        part = numbers[:count, block * plan.side : (block + 1) * plan.side, -columns:]
        place[:, : part.shape[1]] = part
        place[:, part.shape[1] :] = 0
    store.put(rows, array, scale)


def summed(
    parts: Iterable[Float[np.ndarray, "n _"]], count: int, tokens: ArrayTokens, order: np.ndarray, train: int
) -> Float[np.ndarray, "n n_train"]:
    """The inner products of centred rows with the training rows, which are first in `order`, over all `count` parts.

    Each part has all rows, in this order, and is spent. In a job of several processes every one gives its own rows,
    and process 0 gets the sum.
    """
    place = np.argsort(order)
    kernel = np.zeros((len(order), train) if is_first() else 0, np.float32)
    with progress(total=count, desc=f"{'kernel':>12}", unit="block", disable=not is_first()) as bar:
        for part in parts:
            exchange(part, place[tokens.own])
            if is_first():
                _add_products(kernel, part, train)
            del part  # before the next one is made
            bar.update()
    return kernel


def scaled_kernel(
    kernel: Float[np.ndarray, "n n_train"], order: Int[np.ndarray, "n"], train: int
) -> Float[np.ndarray, "n n_train"]:
    """A kernel of centred rows in the order of their numbers, scaled to a mean square of 1 on the training rows."""
    kernel /= np.float32(np.trace(kernel[:train], dtype=np.float64) / train or 1.0)  # equal rows stay as they are
    return kernel[np.argsort(order)]


def _part(
    store: Store, plan: KernelPlan, left: int, right: int, place: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n numbers"]:
    """One block of every sequence's matrix: half of it where it lies on the diagonal, else times √2 for both sides."""
    side = plan.side
    part = np.empty((len(place), side * (side + 1) // 2 if left == right else side**2), np.float32)

    def run(batch: _Batch) -> Array:
        first = store.block(batch, left)
        second = None if left == right else store.block(batch, right)
        return _products(first, second, batch.scale)

    for batch, products in overlap(run, store.batches, lambda batch: batch.shape):
        part[place[batch.rows]] = products
    return part


@jax.jit
def _products(
    left: Num[Array, "b side columns"], right: Num[Array, "b side columns"] | None, scale: Float[Array, "b columns"]
) -> Float[Array, "b numbers"]:
    rows, columns = np.triu_indices(left.shape[1])
    weight = np.where(rows == columns, 1, np.sqrt(2)).astype(np.float32)

    def one(each):
        x, y, s = each
        product = jnp.matmul(x.astype(jnp.float32) * s**2, y.astype(jnp.float32).T, precision=HIGHEST)
        return product[rows, columns] * weight if right is None else product.ravel() * np.float32(np.sqrt(2))

    return jax.lax.map(one, (left, left if right is None else right, scale))


def _add_products(kernel: Float[np.ndarray, "n m"], part: Float[np.ndarray, "n numbers"], train: int) -> None:
    """Add the inner products of centred rows with the training rows, which are the first; `part` is spent."""
    known = part[:train]
    part -= known.mean(0, dtype=np.float64).astype(np.float32)  # in float64 the difference takes three times as long
    kernel[:train] += known @ known.T  # NumPy sees that this is symmetric and computes one half
    for first in range(train, len(part), _ROWS):
        kernel[first : first + _ROWS] += part[first : first + _ROWS] @ known.T


def _thin_factors(store: Store, plan: KernelPlan, tokens: ArrayTokens) -> Float[np.ndarray, "n features columns"]:
    width = max((batch.shape[-1] for batch in store.batches), default=0)
    width = int(gather(np.array([width])).max())
    factors = np.zeros((len(tokens), plan.features, width), np.float32)
    for batch in store.batches:
        whole = np.concatenate([store.block(batch, number) for number in range(plan.blocks)], axis=1)
        factors[batch.rows, :, : batch.shape[-1]] = whole[:, : plan.features]
    exchange(factors, tokens.own)
    return factors


def _pair_kernel(factors: Float[np.ndarray, "n features columns"], train: int) -> Float[np.ndarray, "n m"]:
    """Σ_ab (f_a·f_b)², which is ⟨F_iF_iᵀ, F_jF_jᵀ⟩, centred on the training rows; float64 until then."""
    n, d, columns = factors.shape
    known = factors[:train].transpose(0, 2, 1).reshape(-1, d).astype(np.float64)
    kernel = np.empty((n, train))
    step = max(1, _ROWS // columns**2)
    for first in range(0, n, step):
        rows = factors[first : first + step].transpose(0, 2, 1).reshape(-1, d).astype(np.float64)
        squares = np.square(rows @ known.T).reshape(-1, columns, train, columns)
        kernel[first : first + step] = squares.sum((1, 3))
    kernel -= kernel[:, :train].mean(1, keepdims=True)
    kernel -= kernel[:train].mean(0)
    return kernel.astype(np.float32)
