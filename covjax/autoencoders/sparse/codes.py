"""Sparse codes: exactly the k largest of many latents, also if latents are split over devices.

Left to XLA, a row of a split matrix is found by a masked copy of it and a sum over all devices, once for each of a
token's k places, and the k largest of a token by gathering all of its pre-activations everywhere. Here every device
works on its own latents; (tokens, features) sums and k candidates a device travel.

The mesh is that of JAX's context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), with the axes "data" (tokens) and
"model" (latents), which `covjax.training.state` sets.

A dense product of tokens by latents is needed once, to find the k. Everything after it, and every gradient, touches the
k rows alone: O(tokens · k · features) instead of O(tokens · latents · features). The loops go over the k places, eight
at a time, because XLA on a CPU fuses a gathered row with its use there, but not over a (tokens, k, features) array.
Where the latents are split over devices (see `split`) each device does this for its own.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from covjax.tokens import HIGHEST


def active(latents: int) -> bool:
    """Whether that many latents are split where this is traced."""
    shape = dict(jax.sharding.get_abstract_mesh().shape)
    return "data" in shape and shape.get("model", 1) > 1 and latents % shape["model"] == 0


def apart(local: Callable[..., Any], lies: str, gives: str, *arrays: Array) -> Any:
    """`local` on every device's part of the arrays, which lie by "t" tokens, "l" latents, or "b": tokens × latents.

    One letter for each array and each result. Tokens that cannot be divided over "data" lie on every device.
    """
    rows = _rows(next(array for array, letter in zip(arrays, lies) if letter in "tb").shape[0])
    specs = {"t": PartitionSpec(rows), "l": PartitionSpec("model"), "b": PartitionSpec(rows, "model")}
    out = tuple(specs[letter] for letter in gives)
    # The loops inside begin with zeros, which belong to no device yet: not what the check of varying types expects.
    run = jax.shard_map(
        local, in_specs=tuple(specs[c] for c in lies), out_specs=out if len(out) > 1 else out[0], check_vma=False
    )
    return run(*arrays)


def own(indices: Int[Array, "tokens k"], latents: int) -> tuple[Int[Array, "tokens k"], Bool[Array, "tokens k"]]:
    """Places among this device's `latents`, 0 where it is another's, and where it is this one's; inside `apart`."""
    place = indices - jax.lax.axis_index("model") * latents
    mine = (place >= 0) & (place < latents)
    return jnp.where(mine, place, 0), mine


def over_latents(x: Array) -> Array:
    """The sum over the devices that share the latents; inside `apart`."""
    return jax.lax.psum(x, "model")


def over_tokens(x: Array, tokens: int) -> Array:
    """The sum over the devices that share `tokens` tokens of the whole batch; inside `apart`."""
    return x if _rows(tokens) is None else jax.lax.psum(x, "data")


def largest(pre: Float[Array, "tokens latents"], k: int) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
    """`jax.lax.top_k`: of every device its own k largest, of these the k largest; the first of equal ones."""

    def local(pre):
        values, indices = _top_k(pre, min(k, pre.shape[1]))
        indices += jax.lax.axis_index("model") * pre.shape[1]
        values, indices = (jax.lax.all_gather(a, "model", axis=1, tiled=True) for a in (values, indices))
        values, chosen = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(indices, chosen, axis=1)

    return apart(local, "b", "tt", pre)


def _rows(tokens: int) -> str | None:
    return "data" if tokens % jax.sharding.get_abstract_mesh().shape["data"] == 0 else None


_UNROLL = 8


def preactivations(
    x: Float[Array, "tokens features"], weight: Float[Array, "latents features"], bias: Float[Array, "latents"]
) -> Float[Array, "tokens latents"]:
    """X Wᵀ + b."""
    return jnp.matmul(x, weight.T, precision=HIGHEST) + bias[None]


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
    """The same codes as a dense array, with zeros."""
    if not active(latents):
        return _dense(values, indices, latents)
    each = latents // jax.sharding.get_abstract_mesh().shape["model"]

    def local(values, indices):
        place, mine = own(indices, each)
        return _dense(jnp.where(mine, values, 0), place, each)

    return apart(local, "tt", "b", values, indices)


def _dense(values, indices, latents):
    rows = jnp.arange(values.shape[0])[:, None]
    return jnp.zeros((values.shape[0], latents), values.dtype).at[rows, indices].add(values)


def top_k(pre: Float[Array, "tokens latents"], k: int) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
    """The k largest values of every token and their indices, as `jax.lax.top_k` gives them."""
    return largest(pre, k) if active(pre.shape[1]) else _top_k(pre, k)


def _top_k(pre, k):
    """Of runs of neighbouring latents, the k with the largest maxima hold the k largest latents.

    They are in the order of the latents, so that the first of equal values is still the first. A selection looks at
    latents / run + k · run numbers instead of at all latents, which are only read once, for the maxima.
    """
    latents = pre.shape[1]
    # The least for √(latents / k); XLA's maxima of 64 numbers are slow on a CPU.
    run = min(32, 1 << int(math.log2(latents / k) / 2))
    if latents < 16 * k * run:
        values, indices = jax.lax.top_k(pre, k)
        return values, indices
    # Of whole numbers in the same order, since on a CPU XLA's maximum of floating-point numbers may pass over NaN. Bits
    # that are all 1 come last in it.
    bits = jax.lax.bitcast_convert_type(pre, f"int{8 * pre.dtype.itemsize}")
    bits = jnp.pad(bits, ((0, 0), (0, -latents % run)), constant_values=-1).reshape(len(pre), -(-latents // run), run)
    runs = jax.lax.bitcast_convert_type(bits, pre.dtype)
    maxima = jax.lax.bitcast_convert_type(_in_order(jnp.max(_in_order(bits), axis=2)), pre.dtype)
    chosen = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1)
    candidates = jnp.take_along_axis(runs, chosen[:, :, None], axis=1).reshape(len(pre), k * run)
    values, places = jax.lax.top_k(candidates, k)
    return values, jnp.take_along_axis(chosen, places // run, axis=1) * run + places % run


def _in_order(bits):
    """The bits of floating-point numbers as whole numbers with their order, and back again."""
    return jnp.where(bits < 0, bits ^ jnp.iinfo(bits.dtype).max, bits)


def _take(pre, indices):
    """(tokens, k): P[t, i_tj]."""
    if not active(pre.shape[1]):
        return jnp.take_along_axis(pre, indices, axis=1)

    def local(pre, indices):
        place, mine = own(indices, pre.shape[1])
        return over_latents(jnp.where(mine, jnp.take_along_axis(pre, place, axis=1), 0))

    return apart(local, "bt", "t", pre, indices)


def _sum_rows(values, indices, matrix):
    """(tokens, features): Σ_j v_j M[i_j]."""
    if not active(len(matrix)):
        return _sum(values, indices, matrix)

    def local(values, indices, matrix):
        place, mine = own(indices, len(matrix))
        return over_latents(_sum(jnp.where(mine, values, 0), place, matrix))

    return apart(local, "ttl", "t", values, indices, matrix)


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
    if not active(len(matrix)):
        return _dot(x, indices, matrix)

    def local(x, indices, matrix):
        place, mine = own(indices, len(matrix))
        return over_latents(jnp.where(mine, _dot(x, place, matrix), 0))

    return apart(local, "ttl", "t", x, indices, matrix)


def _dot(x, indices, matrix):
    ones = jnp.ones(x.shape[1], x.dtype)

    def dot(_, i):
        return None, jnp.matmul(x * matrix[i], ones, precision=HIGHEST)

    return jax.lax.scan(dot, None, indices.T)[1].T


def _add_rows(values, indices, x, like):
    """(latents, features): row i is the sum of v_j x over the tokens and places with i_j = i."""
    if not active(len(like)):
        return _add(values, indices, x, like)

    def local(values, indices, x, like):
        place, mine = own(indices, len(like))
        return over_tokens(_add(jnp.where(mine, values, 0), place, x, like), tokens)

    tokens = len(x)
    return apart(local, "tttl", "l", values, indices, x, like)


def _add(values, indices, x, like):
    def add(total, place):
        v, i = place
        return total.at[i].add(v[:, None] * x), None

    return jax.lax.scan(add, jnp.zeros_like(like), (values.T, indices.T))[0]


def auxk(
    residual: Float[Array, "tokens written"],
    x: Float[Array, "tokens features"],
    encoder: Float[Array, "latents features"],
    bias: Float[Array, "latents"],
    pre: Float[Array, "tokens latents"],
    decoder: Float[Array, "latents written"],
    dead: Bool[Array, "latents"],
    k: int,
) -> Float[Array, "tokens"]:
    """‖e − ê‖² of every token, with ê from its k largest dead latents; 0 if none is dead.

    Args:
        residual: e = x − x̂ of the live latents; a constant to the gradient.
        x: what the encoder sees, its pre-activations being `pre` = x encoderᵀ + bias.
        encoder, bias, pre, decoder: of the autoencoder; the gradient goes to all but `pre`, through k latents a token.
        dead: which latents are dead.
        k: latents used for a token, at most those that are dead and positive there.
    """

    def error():
        _, indices = top_k(jnp.where(dead, pre, -jnp.inf), k)
        values = jax.nn.relu(jnp.where(dead[indices], affine_at(x, encoder, bias, pre, indices), 0))
        return jnp.sum(jnp.square(residual - decode_codes(values, indices, decoder)), axis=1)

    residual, pre = jax.lax.stop_gradient((residual, pre))
    return jax.lax.cond(jnp.any(dead), error, lambda: jnp.zeros(x.shape[0], x.dtype))
