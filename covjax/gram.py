"""Kernels between sequences: a linear probe on the whole second moment without a matrix of d² features per sequence.

⟨M_i, M_j⟩_F = Σ_ab w_a w_b (x_a·y_b)² / (n_i n_j): ridge in the dual needs only this N × N matrix.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.moments import prepared_moments
from covjax.tokens import HIGHEST, TokensLike, check_sequence, prepare_tokens, safe_ratio
from covjax.vectorize import vech

_KERNELS = ("second_moment", "covariance", "polynomial", "rbf")
Tokens = Sequence[TokensLike]


def gram(
    sequences: Tokens,
    others: Tokens | None = None,
    *,
    kernel: str = "second_moment",
    weights: Sequence[Any] | None = None,
    other_weights: Sequence[Any] | None = None,
    degree: int = 2,
    bandwidth: float = 1.0,
    num_features: int = 2048,
    key: Array | None = None,
    block_size: int = 32,
) -> Float[np.ndarray, "n m"]:
    """Kernel matrix between sequences of any lengths, on the host in float32, block by block.

    Args:
        sequences: N arrays (tokens, features).
        others: M arrays; None for the symmetric N × N matrix.
        kernel: "second_moment" ⟨M_i, M_j⟩; "covariance" ⟨Σ_i, Σ_j⟩; "polynomial" mean_ab (x_a·y_b)^degree; "rbf"
            ⟨φ̄_i, φ̄_j⟩ with random Fourier features φ of exp(−‖x − y‖²/(2 bandwidth²)) (Rahimi, Recht 2007), the
            kernel mean embeddings of the token clouds.
        weights: one array (tokens,) or None for each of `sequences`.
        other_weights: the same for `others`.
        degree: of the polynomial.
        bandwidth: of the RBF kernel, in the tokens' units.
        num_features: random Fourier features.
        key: for "rbf" (required there).
        block_size: sequences featurised at a time; memory is 2 · block_size · d²/2 numbers for the first two kernels.
            Column blocks are featurised again for every row block.

    Raises:
        TypeError: tokens that are not floating point.
        InputError: unknown kernel, missing key, wrong shapes, weights that do not match.
    """
    if kernel not in _KERNELS:
        raise InputError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
    for name, value in (("degree", degree), ("bandwidth", bandwidth), ("block_size", block_size)):
        if not value > 0:
            raise InputError(f"{name} must be > 0, got {value}")
    rows = _checked(sequences, weights, "sequences", "weights")
    columns = rows if others is None else _checked(others, other_weights, "others", "other_weights")
    if rows[0][0].shape[1] != columns[0][0].shape[1]:
        raise InputError(
            f"others must have {rows[0][0].shape[1]} features like sequences, got {columns[0][0].shape[1]}"
        )
    if kernel == "polynomial":
        prepare: Callable = lambda x, w: (x, w)  # noqa: E731
        block: Callable = partial(_polynomial, degree=degree)
    else:
        prepare, block = _embedding(kernel, rows[0][0].shape[1], bandwidth, num_features, key), _inner
    result = np.empty((len(rows), len(columns)), np.float32)
    for i, left in _blocks(rows, block_size, prepare):
        for j, right in _blocks(columns, block_size, prepare, start=i if others is None else 0):
            values = np.asarray(block(left, right))[: len(rows) - i, : len(columns) - j]
            result[i : i + len(values), j : j + values.shape[1]] = values
            if others is None:
                result[j : j + values.shape[1], i : i + len(values)] = values.T
    return result


def _checked(sequences, weights, name: str, weights_name: str) -> list[tuple]:
    if len(sequences) == 0 or (weights is not None and len(weights) != len(sequences)):
        raise InputError(f"{name} must not be empty and {weights_name} must have one entry for each of them")
    pairs = list(zip(sequences, weights if weights is not None else [None] * len(sequences)))
    checked = []
    for x, w in pairs:
        x, w = check_sequence(x, w, name)
        checked.append((x, w))
        if x.shape[1] != checked[0][0].shape[1]:
            raise InputError(f"{name} must have equal features, got {checked[0][0].shape[1]} and {x.shape[1]}")
    return checked


def _embedding(kernel: str, features: int, bandwidth: float, num_features: int, key) -> Callable:
    """Jitted (B, t, d), (B, t) → (B, k): one vector for each sequence, whose inner products are the kernel."""
    if kernel == "rbf":
        if key is None:
            raise InputError("key is needed by kernel 'rbf': a jax.random.key")
        frequency_key, phase_key = jax.random.split(key)
        frequencies = jax.random.normal(frequency_key, (features, num_features), jnp.float32) / bandwidth
        phases = jax.random.uniform(phase_key, (num_features,), jnp.float32, maxval=2 * jnp.pi)

        def one(x, w):
            phi = jnp.cos(jnp.matmul(x, frequencies, precision=HIGHEST) + phases[None]) * (2 / num_features) ** 0.5
            return safe_ratio(jnp.matmul(w, phi, precision=HIGHEST), jnp.sum(w))
    else:

        def one(x, w):
            return vech(getattr(prepared_moments(x, w), kernel)())

    return jax.jit(jax.vmap(lambda x, w: one(*prepare_tokens(x, w))))


def _blocks(pairs, block_size: int, prepare: Callable, start: int = 0) -> Iterator[tuple[int, Array]]:
    """Blocks of sequences, padded to a power of two of tokens so that few shapes are compiled."""
    for i in range(start, len(pairs), block_size):
        block = pairs[i : i + block_size]
        length = 1 << max(max(len(x) for x, _ in block) - 1, 15).bit_length()
        tokens = np.zeros((block_size, length, block[0][0].shape[1]), np.float32)
        weights = np.zeros((block_size, length), np.float32)
        for k, (x, w) in enumerate(block):
            tokens[k, : len(x)] = x
            weights[k, : len(x)] = 1 if w is None else w
        yield i, prepare(tokens, weights)


@jax.jit
def _inner(left, right):
    return jnp.matmul(left, right.T, precision=HIGHEST)


@partial(jax.jit, static_argnames="degree")
def _polynomial(left, right, degree: int):
    (x, w), (y, v) = (jax.vmap(prepare_tokens)(*side) for side in (left, right))
    w, v = (safe_ratio(a, jnp.sum(a, axis=1, keepdims=True)) for a in (w, v))

    def row(one):  # one sequence against the block: t · block tokens of products at a time
        products = jnp.einsum("td,bsd->bts", one[0], y, precision=HIGHEST) ** degree
        return jnp.einsum("t,bts,bs->b", one[1], products, v, precision=HIGHEST)

    return jax.lax.map(row, (x, w))
