"""What the device benchmark times of the core: each case with its work, its error against float64, its PyTorch peer."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from covjax import pack_blocks, packed_projected_moment, projected_moment, second_moment
from covjax.autoencoders import tucker_loss
from covjax.autoencoders.sparse import TopK
from covjax.autoencoders.sparse.codes import top_k
from covjax.training.state import Step, TrainState

CHECKED = 4096  # tokens of the comparison with float64, on the host
BLOCK, BATCH = 64, 16  # of packing; sequences of a Tucker step
BANDWIDTH, PEAK = "copy bandwidth", "matrix peak"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Shapes of all cases; `TINY` is for a CPU."""

    tokens: int = 1_048_576
    features: int = 1536
    rank: int = 64
    sequences: int = 1024
    batch: int = 8192
    latents: int = 65_536
    k: int = 32
    matmul: int = 8192
    copy_mebibytes: int = 1024
    proteins: int = 384
    token_budget: int = 16_384
    short: int = 512  # tokens of a row that is shorter than the encoder is wide
    long: int = 2048
    bases: int = 131_072
    matrices: tuple[tuple[int, int], ...] = ((64, 384), (8, 1280))  # how many, and their size
    encoder: tuple[int, ...] = (33, 1280, 20, 5120)  # ESM-2 650M: blocks, width, heads, width inside the MLP
    trained: tuple[int, ...] = (30, 640, 20, 2560)  # ESM-2 150M
    rows: int = 64  # of a training step


TINY = Sizes(
    **{"tokens": 64, "features": 16, "rank": 4, "sequences": 3, "batch": 16, "latents": 32, "k": 4, "matmul": 32},
    **{"copy_mebibytes": 1, "proteins": 6, "token_budget": 128, "short": 32, "long": 64, "bases": 256},
    matrices=((3, 8), (2, 12)),
    encoder=(2, 48, 2, 64),
    trained=(1, 16, 2, 24),
    rows=4,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to check and, unless `run` is None, to time.

    read: bytes that must be read at least once. products: multiplications and additions of the matrix products that
    cannot be avoided. bound: which of the two the time is compared with; None where neither is. items: what one run
    goes through, such as tokens. error: against a better computation, relative, over `tolerance` is a failure; None
    where nothing is there to compare with. forms: other ways of ours, peers: PyTorch's, each timed beside `run`.
    """

    name: str
    shape: str
    run: Callable[[], object] | None
    error: float | None
    tolerance: float
    read: int = 0
    products: int = 0
    bound: str | None = None
    items: tuple[int, str] | None = None
    forms: Mapping[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    peers: Mapping[str, Callable[[], object]] = dataclasses.field(default_factory=dict)
    note: str = ""


def projected(sizes: Sizes, peer) -> Case:
    """(XA)ᵀ(XA)/n of one long sequence."""
    t, d, r = sizes.tokens, sizes.features, sizes.rank
    left, function = _basis(d, r), jax.jit(lambda x, w, a: projected_moment(x, a, None, w))
    x, w = _tokens(t, d), _weights(t)
    few, some = x[:CHECKED], _weights(min(t, CHECKED))
    y = wide(few) @ wide(left.astype(jnp.bfloat16))
    error = relative_error(function(few, some, left), (y * wide(some)[:, None]).T @ y / wide(some).sum())
    return Case(
        "projected moment",
        f"{t:,} × {d}, rank {r}",
        functools.partial(function, x, w, left),
        read=x.nbytes,
        products=2 * t * r * (d + r),
        bound=BANDWIDTH,
        error=error,
        tolerance=1e-3,
        peers={} if peer is None else peer.statistic("weighted_projected_moment", x, w, left),
    )


def whole(sizes: Sizes, peer) -> Case:
    """XᵀX/n of one long sequence."""
    t, d, function = sizes.tokens, sizes.features, jax.jit(second_moment)
    x = _tokens(t, d)
    few = x[:CHECKED]
    return Case(
        "whole moment",
        f"{t:,} × {d}",
        functools.partial(function, x),
        read=x.nbytes,
        products=2 * t * d * d,
        bound=PEAK,
        error=relative_error(function(few), wide(few).T @ wide(few) / len(few)),
        tolerance=1e-3,
        peers={} if peer is None else peer.statistic("whole_second_moment", x),
    )


def masked_whole(sizes: Sizes, peer) -> Case:
    """The same with weights."""
    t, d, function = sizes.tokens, sizes.features, jax.jit(second_moment)
    x, w = _tokens(t, d), _weights(t)
    few, some = x[:CHECKED], _weights(min(t, CHECKED))
    exact = (wide(few) * wide(some)[:, None]).T @ wide(few) / wide(some).sum()
    return Case(
        "whole moment, masked tokens",
        f"{t:,} × {d}",
        functools.partial(function, x, w),
        read=x.nbytes,
        products=2 * t * d * d,
        bound=PEAK,
        error=relative_error(function(few, some), exact),
        tolerance=1e-3,
        peers={} if peer is None else peer.statistic("masked_second_moment", x, w),
    )


def packed(sizes: Sizes, peer) -> Case:
    """(XA)ᵀ(XA)/n of every sequence of a packed array; PyTorch pads."""
    d, r, count = sizes.features, sizes.rank, sizes.sequences
    rng = np.random.default_rng(0)
    lengths = np.minimum(np.exp(rng.normal(np.log(350), 0.8, count)).astype(int) + 1, 5000)
    _, segments, weights = map(jnp.asarray, pack_blocks([np.zeros((n, 1), np.float32) for n in lengths], BLOCK))
    x, left, total = _tokens(len(weights), d), _basis(d, r), int(lengths.sum())
    function = jax.jit(lambda x, s, w, a: packed_projected_moment(x, s, count, a, None, w))
    moments, start, error = function(x, segments, weights, left), 0, 0.0
    for i, n in enumerate(lengths[:8]):
        y = wide(x[start : start + n]) @ wide(left.astype(jnp.bfloat16))
        error = max(error, relative_error(moments[i], y.T @ y / n))
        start += -(-n // BLOCK) * BLOCK
    peers = {}
    if peer is not None:
        mask = jnp.arange(lengths.max())[None] < jnp.asarray(lengths)[:, None]
        padded = _tokens(mask.size, d).reshape(*mask.shape, d)
        peers = peer.statistic("padded_projected_moments", padded, mask, left)
    return Case(
        "packed moment",
        f"{count:,} sequences, {total:,} tokens × {d}, rank {r}",
        functools.partial(function, x, segments, weights, left),
        read=2 * total * d,
        products=2 * total * r * (d + r),
        bound=BANDWIDTH,
        error=error,
        tolerance=1e-3,
        peers=peers,
    )


def tucker(sizes: Sizes, peer) -> Case:
    """Loss, gradient and Adam on a basis."""
    d, r, t = sizes.features, sizes.rank, -(-sizes.tokens // BATCH)
    left, x, adam = _basis(d, r), _tokens(BATCH * t, d).reshape(BATCH, t, d), optax.adam(1e-3)

    def loss(left, x):
        return jnp.mean(jax.vmap(lambda x: tucker_loss(x, left))(x))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(left, state, x):
        value, gradient = jax.value_and_grad(loss)(left, x)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(left, updates), state, value

    few = x[:2, :CHECKED]
    exact = [_tucker_in_float64(wide(left), wide(one)) for one in few]
    value, gradient = jax.jit(jax.value_and_grad(loss))(left, few)
    values, gradients = (np.mean(each, axis=0) for each in zip(*exact, strict=True))
    error = max(relative_error(value, values), relative_error(gradient, gradients))
    state: list = [jnp.array(left), adam.init(left)]

    def run():
        state[0], state[1], value = step(*state, x)
        return value

    return Case(
        "Tucker step",
        f"{BATCH} × {t:,} × {d}, rank {r}",
        run,
        read=x.nbytes,
        products=4 * BATCH * t * d * r,
        bound=BANDWIDTH,
        error=error,
        tolerance=2e-2,  # the projections are rounded to the tokens' bfloat16
        peers={} if peer is None else peer.tucker(left, x),
    )


def _tucker_in_float64(left, x):
    """Loss and gradient from S itself."""
    s = x.T @ x / len(x)
    c, p = left.T @ s @ left, left.T @ left
    value = np.sum((p @ c) * (c @ p)) - 2 * np.sum(c * c)
    return value, 2 * s @ left @ (2 * p @ c @ p - 4 * c) + 4 * left @ c @ p @ c


def largest_latents(sizes: Sizes, peer) -> Case:
    """The k largest latents of every token."""
    pre = jax.random.normal(jax.random.key(0), (sizes.batch, sizes.latents))
    values, _ = top_k(pre[:64], sizes.k)
    return Case(
        "largest latents",
        f"{sizes.k} of {sizes.latents:,}, {sizes.batch:,} tokens",
        functools.partial(jax.jit(top_k, static_argnums=1), pre, sizes.k),
        error=relative_error(values, -np.sort(-wide(pre[:64]), axis=1)[:, : sizes.k]),
        tolerance=1e-7,
        forms={"jax.lax.top_k": functools.partial(jax.jit(jax.lax.top_k, static_argnums=1), pre, sizes.k)},
    )


def sparse(features: int, sizes: Sizes, peer) -> Case:
    """A TopK step at so many features, float32 throughout, as PyTorch computes by default."""
    b, d, latents, k = sizes.batch, features, sizes.latents, sizes.k
    module, x = TopK(d, latents=latents, k=k, aux_weight=0), _tokens(b, d)
    rows, few = module.decoder[...], x[:64]
    pre = wide(few) @ wide(rows).T
    pre[pre < np.partition(pre, -k, axis=1)[:, -k, None]] = 0
    residual = wide(few) - np.maximum(pre, 0) @ wide(rows)
    loss = nnx.jit(lambda module, x: module.loss(x)[0])(module, few)
    peers = {} if peer is None else peer.sparse(rows, k, x)
    graph, state = nnx.split(TrainState(module, optax.adam(1e-3)))
    current, step = [state], Step(graph, None)

    def run():
        current[0], metrics = step(current[0], x, None)
        return metrics["loss"]

    return Case(
        f"TopK step, {d} features",
        f"{b:,} tokens, {latents:,} latents, k {k}, float32",
        run,
        read=6 * rows.nbytes,  # two matrices and their moments in Adam
        products=2 * b * d * latents,
        bound=PEAK,
        error=relative_error(loss, np.mean(np.sum(residual**2, axis=1))),
        tolerance=1e-4,
        peers=peers,
    )


def _tokens(count: int, features: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (count, features), jnp.bfloat16)


def _weights(count: int) -> jax.Array:
    """The last hundredth of the tokens is padding."""
    return jnp.asarray(np.arange(count) < count - count // 100, jnp.float32)


def _basis(features: int, rank: int) -> jax.Array:
    return jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(features, rank)))[0], jnp.float32)


def wide(array) -> np.ndarray:
    """In float64, on the host."""
    return np.asarray(array).astype(np.float64)


def relative_error(result, exact) -> float:
    """‖result − exact‖ / ‖exact‖."""
    return float(np.linalg.norm(wide(result) - exact) / np.linalg.norm(exact))
