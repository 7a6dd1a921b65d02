"""Sparse codes: of every token the indices and values of its k active latents.

A dense product of tokens by latents is needed once, to find the k. Everything after it, and every gradient, touches the
k rows alone: O(tokens · k · features) instead of O(tokens · latents · features). The loops go over the k places, eight
at a time, because XLA on a CPU fuses a gathered row with its use there, but not over a (tokens, k, features) array.
Where the latents are split over devices (see `split`) each device does this for its own.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from covjax.autoencoders.sparse import split

_HIGHEST = jax.lax.Precision.HIGHEST
_UNROLL = 8


def preactivations(
    x: Float[Array, "tokens features"], weight: Float[Array, "latents features"], bias: Float[Array, "latents"]
) -> Float[Array, "tokens latents"]:
    """X Wᵀ + b."""
    return jnp.matmul(x, weight.T, precision=_HIGHEST) + bias[None]


@jax.custom_vjp
def affine_at(
    x: Float[Array, "tokens features"],
    weight: Float[Array, "latents features"],
    bias: Float[Array, "latents"],
    pre: Float[Array, "tokens latents"],
    indices: Int[Array, "tokens k"],
) -> Float[Array, "tokens k"]:
    """Entries `indices` of pre = `preactivations(x, weight, bias)`, given and itself without a gradient."""
    return _take(pre, indices)


def _affine_forward(x, weight, bias, pre, indices):
    return affine_at(x, weight, bias, pre, indices), (x, weight, bias, indices)


def _affine_backward(saved, cotangent):
    x, weight, bias, indices = saved
    rows = _add_rows(cotangent, indices, x, weight)
    return _sum_rows(cotangent, indices, weight), rows, jnp.zeros_like(bias).at[indices].add(cotangent), None, None


affine_at.defvjp(_affine_forward, _affine_backward)


@jax.custom_vjp
def decode_codes(
    values: Float[Array, "tokens k"], indices: Int[Array, "tokens k"], decoder: Float[Array, "latents features"]
) -> Float[Array, "tokens features"]:
    """Σ_j v_j W[i_j] for every token."""
    return _sum_rows(values, indices, decoder)


def _decode_forward(values, indices, decoder):
    return decode_codes(values, indices, decoder), (values, indices, decoder)


def _decode_backward(saved, cotangent):
    values, indices, decoder = saved
    return _dot_rows(cotangent, indices, decoder), None, _add_rows(values, indices, cotangent, decoder)


decode_codes.defvjp(_decode_forward, _decode_backward)


def dense_codes(
    values: Float[Array, "tokens k"], indices: Int[Array, "tokens k"], latents: int
) -> Float[Array, "tokens latents"]:
    """The same codes with their zeros."""
    if not split.active(latents):
        return _dense(values, indices, latents)
    each = latents // jax.sharding.get_abstract_mesh().shape["model"]

    def local(values, indices):
        place, mine = split.own(indices, each)
        return _dense(jnp.where(mine, values, 0), place, each)

    return split.apart(local, "tt", "b", values, indices)


def _dense(values, indices, latents):
    rows = jnp.arange(values.shape[0])[:, None]
    return jnp.zeros((values.shape[0], latents), values.dtype).at[rows, indices].add(values)


def top_k(pre: Float[Array, "tokens latents"], k: int) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
    """The k largest of every token and which they are, as `jax.lax.top_k`."""
    return split.largest(pre, k) if split.active(pre.shape[1]) else jax.lax.top_k(pre, k)


def _take(pre, indices):
    """(tokens, k): P[t, i_tj]."""
    if not split.active(pre.shape[1]):
        return jnp.take_along_axis(pre, indices, axis=1)

    def local(pre, indices):
        place, mine = split.own(indices, pre.shape[1])
        return split.over_latents(jnp.where(mine, jnp.take_along_axis(pre, place, axis=1), 0))

    return split.apart(local, "bt", "t", pre, indices)


def _sum_rows(values, indices, matrix):
    """(tokens, features): Σ_j v_j M[i_j]."""
    if not split.active(len(matrix)):
        return _sum(values, indices, matrix)

    def local(values, indices, matrix):
        place, mine = split.own(indices, len(matrix))
        return split.over_latents(_sum(jnp.where(mine, values, 0), place, matrix))

    return split.apart(local, "ttl", "t", values, indices, matrix)


def _sum(values, indices, matrix):
    def add(total, place):
        for v, i in zip(*place):
            total = total + v[:, None] * matrix[i]
        return total, None

    width = next(c for c in (_UNROLL, 4, 2, 1) if values.shape[1] % c == 0)
    places = tuple(a.T.reshape(-1, width, a.shape[0]) for a in (values, indices))
    zero = jnp.zeros((values.shape[0], matrix.shape[1]), jnp.result_type(values, matrix))
    return jax.lax.scan(add, zero, places)[0]


def _dot_rows(x, indices, matrix):
    """(tokens, k): x · M[i_j]. The sum over features is a product with ones, which a CPU does in vectors."""
    if not split.active(len(matrix)):
        return _dot(x, indices, matrix)

    def local(x, indices, matrix):
        place, mine = split.own(indices, len(matrix))
        return split.over_latents(jnp.where(mine, _dot(x, place, matrix), 0))

    return split.apart(local, "ttl", "t", x, indices, matrix)


def _dot(x, indices, matrix):
    ones = jnp.ones(x.shape[1], x.dtype)

    def dot(_, i):
        return None, jnp.matmul(x * matrix[i], ones, precision=_HIGHEST)

    return jax.lax.scan(dot, None, indices.T)[1].T


def _add_rows(values, indices, x, like):
    """(latents, features): row i is the sum of v_j x over the tokens and places with i_j = i."""
    if not split.active(len(like)):
        return _add(values, indices, x, like)

    def local(values, indices, x, like):
        place, mine = split.own(indices, len(like))
        return split.over_tokens(_add(jnp.where(mine, values, 0), place, x, like), tokens)

    tokens = len(x)
    return split.apart(local, "tttl", "l", values, indices, x, like)


def _add(values, indices, x, like):
    def add(total, place):
        v, i = place
        return total.at[i].add(v[:, None] * x), None

    return jax.lax.scan(add, jnp.zeros_like(like), (values.T, indices.T))[0]
