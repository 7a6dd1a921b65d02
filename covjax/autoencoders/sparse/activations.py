"""Activation functions of sparse autoencoders on pre-activations (tokens, latents)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.autoencoders.sparse.codes import dense_codes, top_k
from covjax.errors import InputError


def topk(pre: Float[Array, "tokens latents"], k: int) -> Float[Array, "tokens latents"]:
    """The k largest pre-activations of every token, negative ones 0 (Gao et al. 2024, eq. 3); the first of equal ones.

    Raises InputError unless 1 <= k <= latents.
    """
    check_k(k, pre.shape[1])
    values, indices = top_k(pre, k)
    return dense_codes(jax.nn.relu(values), indices, pre.shape[1])


def batch_topk(
    pre: Float[Array, "tokens latents"], k: int, tokens: Float[Array, ""] | int | None = None
) -> tuple[Float[Array, "tokens latents"], Float[Array, ""]]:
    """The k · tokens largest pre-activations of the batch, negative ones 0, and the smallest of them (Bussmann 2024).

    All that equal the smallest are kept. `tokens` is how many rows count (default all); the others must hold no
    positive number. Raises InputError unless 1 <= k <= latents.
    """
    check_k(k, pre.shape[1])
    positive = jax.nn.relu(pre)
    threshold = kth_largest(positive, k * (pre.shape[0] if tokens is None else tokens))
    # Fewer positive numbers than places: the threshold is 0 and all of them stay.
    smallest = jnp.where(threshold > 0, threshold, jnp.min(jnp.where(positive > 0, positive, jnp.inf)))
    return jnp.where(positive >= threshold, positive, 0), jax.lax.stop_gradient(smallest)


def kth_largest(values: Float[Array, "*n"], k: Float[Array, ""] | int) -> Float[Array, ""]:
    """The k-th largest of numbers >= 0, by bisection over bit patterns, whose order is that of the numbers.

    One pass over the data per bit, where sorting or selecting k of them takes many times as long. 0 where there are
    fewer than k numbers. It receives no gradient.
    """
    values = jax.lax.stop_gradient(values)
    kind = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(values, kind)
    top = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), kind)

    def halve(_, span):
        low, high = span  # at least k numbers are >= low, fewer than k are >= high
        middle = low + (high - low) // 2
        enough = jnp.sum(bits >= middle) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, 8 * values.dtype.itemsize - 1, halve, (jnp.zeros_like(top), top))
    return jax.lax.bitcast_convert_type(low, values.dtype)


@jax.custom_vjp
def jumprelu(
    pre: Float[Array, "tokens latents"], threshold: Float[Array, "latents"], bandwidth: Float[Array, ""] | float
) -> Float[Array, "tokens latents"]:
    """pre · H(pre − θ), with the pseudo-derivative −(θ/ε) K((pre − θ)/ε) by θ, K the rectangle of width 1.

    Rajamanoharan et al. 2024 (JumpReLU), eq. 11; the derivative by pre is H(pre − θ).
    """
    return jnp.where(pre <= jnp.reshape(threshold, (1, -1)), 0, pre)  # NaN stays NaN


@jax.custom_vjp
def step(
    pre: Float[Array, "tokens latents"], threshold: Float[Array, "latents"], bandwidth: Float[Array, ""] | float
) -> Float[Array, "tokens latents"]:
    """H(pre − θ), whose sum is L0, with the pseudo-derivative −(1/ε) K((pre − θ)/ε) by θ and 0 by pre (eq. 12)."""
    return (pre > jnp.reshape(threshold, (1, -1))).astype(pre.dtype)


def _forward_of(function):
    return lambda pre, threshold, bandwidth: (function(pre, threshold, bandwidth), (pre, threshold, bandwidth))


def _by_threshold(saved, cotangent, height):
    pre, threshold, bandwidth = saved
    inside = jnp.abs(pre - jnp.reshape(threshold, (1, -1))) < bandwidth / 2
    return jnp.sum(jnp.where(inside, -jnp.reshape(height, (1, -1)) / bandwidth * cotangent, 0), axis=0)


def _jumprelu_backward(saved, cotangent):
    pre, threshold, _ = saved
    return (
        jnp.where(pre > jnp.reshape(threshold, (1, -1)), cotangent, 0),
        _by_threshold(saved, cotangent, threshold),
        None,
    )


def _step_backward(saved, cotangent):
    return jnp.zeros_like(cotangent), _by_threshold(saved, cotangent, 1.0), None


jumprelu.defvjp(_forward_of(jumprelu), _jumprelu_backward)
step.defvjp(_forward_of(step), _step_backward)


def check_k(k: int, latents: int) -> None:
    """Raise InputError unless k is a whole number in 1 … latents."""
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= latents:
        raise InputError(f"k must be a whole number from 1 to the number of latents, {latents}, got {k}")
