"""The pass over all tokens that pools every sequence with fitted pools."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from covjax.activations import ArrayTokens, Batch
from covjax.activations.pairs import shuffle_sides
from covjax.activations.tokens import Fit
from covjax.controls import shuffle_features
from covjax.embedding import tables
from covjax.embedding.plan import WORK
from covjax.embedding.pools import FittedPool, sketched, widths
from covjax.encoders.embed import overlap, runs_two, shared_threads
from covjax.errors import InputError
from covjax.jobs.distributed import exchange
from covjax.jobs.memory import trim
from covjax.pooling import Pooler
from covjax.recipes.base import Recipe
from covjax.recipes.pairs import PairPooled
from covjax.standardise import standardise

Rows = Int[np.ndarray, "rows"]
TOKENS = 3 * WORK // 8  # bytes of a batch's float32 tokens: a pass has about ten such arrays, of two batches at once


def check_finite(name: str, rows: Int[np.ndarray, "b"], block: Float[np.ndarray, "b p"]) -> None:
    """Raise InputError for NaN or inf in a batch's vectors, naming the recipe and the row, counted from 0."""
    if len(bad := np.flatnonzero(~np.isfinite(block).all(1))):
        raise InputError(f"recipe {name!r}: NaN or inf, first in row {rows[bad].min()} (counted from 0)")


def each_batch(
    pools: Mapping[str, FittedPool],
    tokens: ArrayTokens,
    fit: Fit,
    seed: int,
    stage: str = "pool",
    apply: Callable[[FittedPool, Array, Array], Any] = FittedPool.__call__,
    most: Callable[[int], int] | None = None,
    only: Rows | None = None,
) -> Iterator[tuple[Rows, dict[str, Any]]]:
    """This process's sequences once: row numbers, and what `apply` makes of pool, tokens and weights, by name.

    Arrays may have more rows than there are row numbers. A batch has at most 96 MiB of float32 tokens, and `most`, of
    the tokens of a padded sequence, sequences, but at least one a device. `only` are the rows that are wanted.
    """
    special = {name for name, pool in pools.items() if pool.pooler is None}
    if special and not tokens.has_special:
        raise InputError(f"recipe: {min(special)!r} needs a special token before the sequence; {tokens.name} has none")
    structure, arrays = _divided(pools)
    keys = _row_keys(seed, len(tokens))

    def run(batch: Batch) -> dict[str, Any]:
        filled = np.resize(batch.rows, len(batch.tokens))  # the last batch of a shape has more rows than sequences
        token = batch.special if batch.special is not None else np.zeros((len(batch.tokens), 1), np.float32)
        given = batch.tokens, batch.weights, keys[filled], token
        return _pool_batch(arrays, fit, *given, structure=structure, apply=apply, mesh=tokens.mesh)

    batches, devices = tokens.walk(stage), 1 if tokens.mesh is None else tokens.mesh.size
    if only is not None:
        batches = _chosen(batches, only, devices)
    batches = _parts(batches, most, devices)
    at_once = 2 if runs_two(tokens.mesh) else devices
    with shared_threads(at_once, numpy=False):  # NumPy keeps its own: the caller multiplies one batch beside the next
        results = overlap(run, batches, lambda batch: (batch.tokens.shape, batch.tokens.dtype), tokens.mesh)
        for number, (batch, blocks) in enumerate(results, 1):
            yield batch.rows, blocks
            if most is not None and number % 16 == 0:  # large batches of ever longer sequences do not fit into what
                trim()  # the ones before have freed: of 5,000 sequences of 1,280 features 4 GiB were left so


Structure = tuple[tuple[str, Recipe, Hashable, int], ...]


def _divided(pools: Mapping[str, FittedPool]) -> tuple[Structure, dict[str, Any]]:
    """What of the pools is compiled into a program, and their arrays by name, which it is given.

    Raises InputError for a pooler that is no module and cannot be hashed.
    """
    parts = {name: nnx.split(each.pooler) for name, each in pools.items() if isinstance(each.pooler, nnx.Module)}
    compiled = {name: parts[name][0] if name in parts else each.pooler for name, each in pools.items()}
    for name, each in compiled.items():
        try:
            hash(each)
        except TypeError as error:
            raise InputError(
                f"recipe {name!r}: its pooler cannot be hashed ({error}); give it a hash and hashable options, such as "
                "tuples for lists and arrays, or make it a Flax NNX module"
            ) from None
    structure = ((name, each.recipe, cast(Hashable, compiled[name]), each.sketch) for name, each in pools.items())
    arrays = {name: (parts[name][1] if name in parts else None, each.projection) for name, each in pools.items()}
    return tuple(structure), arrays


def _joined(structure: Structure, arrays: Mapping[str, Any]) -> dict[str, FittedPool]:
    """The pools that were divided."""
    pools = {}
    for name, recipe, pooler, sketch in structure:
        state, projection = arrays[name]
        whole = pooler if state is None else nnx.merge(cast(nnx.GraphDef, pooler), state)
        pools[name] = FittedPool(recipe, cast(Pooler | None, whole), projection, sketch)
    return pools


@partial(jax.jit, static_argnames=("structure", "apply", "mesh"))
def _pool_batch(
    arrays: Mapping[str, Any],
    fit: tuple[Float[Array, "features"], Float[Array, "features"]],
    x: Float[Array, "batch tokens features"],
    w: Float[Array, "batch tokens"],
    keys: Array,
    token: Float[Array, "batch _"],
    *,
    structure: Structure,
    apply: Callable[[FittedPool, Array, Array], Any],
    mesh: Mesh | None,
) -> dict[str, Any]:
    """One program for all data of equal shapes: what was fitted is given to it and not compiled in."""

    def pool_one(arrays, fit, x, w, key, token):
        pools = _joined(structure, arrays)
        shuffled = {name for name, pool in pools.items() if getattr(pool.recipe, "shuffled", False)}
        paired = any(isinstance(pool.recipe, PairPooled) for pool in pools.values())  # then all of them are
        x = standardise(x, w, *fit)
        if shuffled:
            mixed = (shuffle_sides if paired else shuffle_features)(x, w, jax.random.wrap_key_data(key))
        return {
            name: (token - fit[0]) / fit[1] if pool.pooler is None else apply(pool, mixed if name in shuffled else x, w)
            for name, pool in pools.items()
        }

    pool_all = jax.vmap(pool_one, in_axes=(None, None, 0, 0, 0, 0))
    if mesh is not None:  # by hand: XLA would gather a batch of eigendecompositions on one device
        whole, rows = PartitionSpec(), PartitionSpec(mesh.axis_names[0])
        specs = whole, whole, rows, rows, rows, rows
        pool_all = jax.shard_map(pool_all, mesh=mesh, in_specs=specs, out_specs=rows)
    return pool_all(arrays, fit, x, w, keys, token)


def _row_keys(seed: int, rows: int) -> np.ndarray:
    """The data of a random key for every row, on the host, where a batch takes its own without a program."""
    return np.asarray(_keys(jax.random.key(seed), np.arange(1 << max(rows - 1, 0).bit_length())))[:rows]


@jax.jit
def _keys(key: Array, rows: Int[Array, "rows"]) -> Array:
    return jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(key, row)))(rows)


def _parts(batches: Iterator[Batch], most: Callable[[int], int] | None, devices: int) -> Iterator[Batch]:
    """The same sequences in batches small enough, which divide over the devices."""
    for batch in batches:
        whole, length, features = batch.tokens.shape
        size = TOKENS // (4 * length * features)
        size = size if most is None else min(size, most(length))
        size = min(max(size // devices, 1) * devices, whole)
        if size == whole:
            yield batch
            continue
        for first in range(0, len(batch.rows), size):
            yield _places(batch, np.arange(first, min(first + size, len(batch.rows))), size)


def _chosen(batches: Iterator[Batch], only: Rows, devices: int) -> Iterator[Batch]:
    """The wanted rows alone, of each shape in batches as full as the given ones and in a last, smaller one."""
    for (shape, _), group in itertools.groupby(batches, lambda batch: (batch.tokens.shape, batch.tokens.dtype)):
        rest: Batch | None = None
        for batch in group:
            places = np.flatnonzero(np.isin(batch.rows, only))
            while len(places):
                missing = shape[0] - (0 if rest is None else len(rest.rows))
                own = _places(batch, places[:missing], min(missing, len(places)))
                rest, places = own if rest is None else _appended(rest, own), places[missing:]
                if len(rest.rows) == shape[0]:
                    yield rest
                    rest = None
        if rest is not None:
            size = devices << (-(-len(rest.rows) // devices) - 1).bit_length()
            yield _places(rest, np.arange(len(rest.rows)), min(size, shape[0]))


def _appended(first: Batch, second: Batch) -> Batch:
    """The sequences of two batches that have nothing else."""
    rows, tokens = np.concatenate([first.rows, second.rows]), np.concatenate([first.tokens, second.tokens])
    special = None
    if first.special is not None and second.special is not None:
        special = np.concatenate([first.special, second.special])
    return Batch(rows, tokens, np.concatenate([first.weights, second.weights]), special)


def _places(batch: Batch, places: Rows, size: int) -> Batch:
    """Some of a batch's sequences, and as many again under weights of 0 as make `size`."""
    filled = np.resize(places, size)
    weights = batch.weights[filled]
    weights[len(places) :] = 0
    special = None if batch.special is None else batch.special[filled]
    return Batch(batch.rows[places], batch.tokens[filled], weights, special)


def each_vector(
    pools: Mapping[str, FittedPool], tokens: ArrayTokens, fit: Fit, seed: int, only: Rows | None = None
) -> Iterator[tuple[Rows, dict[str, np.ndarray]]]:
    """This process's row numbers and vectors by name, few at a time where these are wide; `only` as in `each_batch`."""
    for rows, blocks in each_batch(pools, tokens, fit, seed, most=batch_limit(pools, tokens.features), only=only):
        yield rows, {name: np.asarray(block)[: len(rows)] for name, block in blocks.items()}


def batch_limit(pools: Mapping[str, FittedPool], features: int) -> Callable[[int], int]:
    """How many sequences' whole vectors are made at a time: by their numbers, and by the largest array on the way."""
    whole = sketched({name: pool for name, pool in pools.items() if pool.pooler is not None}, {})
    total = sum(widths(whole, features).values())

    @cache
    def most(tokens: int) -> int:
        batch = 64  # what all sequences share, such as frequencies, is there once
        x, w = (jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in ((tokens, features), (tokens,)))
        largest = max((_largest(jax.make_jaxpr(jax.vmap(pool))(x, w)) for pool in whole.values()), default=0)
        return max(1, WORK // max(12 * total, 4 * largest // batch, 1))

    return most


def _largest(program: Any) -> int:
    """Numbers of the largest result of one operation in a traced program, those of its inner programs included."""
    if isinstance(program, tuple | list):
        return max(map(_largest, program), default=0)
    if hasattr(program, "jaxpr"):
        return _largest(program.jaxpr)
    operations = getattr(program, "eqns", ())
    inner = (_largest(list(each.params.values())) for each in operations)
    own = (sum(result.aval.size for result in each.outvars) for each in operations)
    return max(*inner, *own, 0, 0)


def pool_tokens(
    pools: Mapping[str, FittedPool], tokens: ArrayTokens, fit: Fit, seed: int
) -> dict[str, Float[np.ndarray, "n _"]]:
    """Every sequence's vector from every pool, in one pass: {name: (n, k) float32}, rows in the order given.

    Raises InputError for NaN or inf in a vector, with the row's number from 0.
    """
    n, sizes = len(tokens), widths(pools, tokens.features)
    out = {name: np.empty((n, width), np.float32) for name, width in sizes.items()}
    wide = {name: pools[name] for name, width in sizes.items() if width > tables.WIDE or pools[name].sketch}
    most = batch_limit(wide, tokens.features) if wide else None
    for rows, blocks in each_batch(pools, tokens, fit, seed, most=most):
        for name, block in blocks.items():
            out[name][rows] = block[: len(rows)]
    for table in out.values():
        exchange(table, tokens.own)
    for name, table in out.items():
        check_finite(name, np.arange(n), table)
    return out
