"""Second-moment autoencoders: Tucker and CP losses of one sequence in closed form, linear in the number of tokens.

S = Σ w_i (x_i − c)(x_i − c)ᵀ / n of a sequence is encoded by A, B (features, rank) and decoded by the same matrices:
Tucker C = AᵀSB, Ŝ = A C Bᵀ; CP z_h = a_hᵀ S b_h, Ŝ = Σ_h z_h a_h b_hᵀ. With P = AᵀA and Q = BᵀB,
‖S − Ŝ‖² − ‖S‖² is −2‖C‖² + ⟨PC, CQ⟩ and −2‖z‖² + zᵀ(P∘Q)z, so training needs neither S nor ‖S‖², which has no gradient.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import VectorLike
from covjax.moments import largest_size
from covjax.projected import check_center, check_projection, project_tokens
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    check_sequence,
    prepare_tokens,
    safe_ratio,
    token_weights,
    weighted_mean,
)

_dot = partial(jnp.matmul, precision=HIGHEST)
Center = VectorLike | str | None


def tucker_loss(
    x: TokensLike,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: Center = None,
    prefixes: tuple[int, ...] | None = None,
) -> Float[Array, ""]:
    """‖S − A C Bᵀ‖² − ‖S‖², C = AᵀSB: at most 0 for orthonormal A and B, −‖S‖² for perfect reconstruction.

    Its gradient with G = −4C + 2PCQ is ∂A = S B Gᵀ + 2A·CQCᵀ, ∂B = SᵀA G + 2B·CᵀPC, where S B and SᵀA come from
    Xᵀ(X[A|B])/n: O(tokens · features · rank). The tokens and weights are data: they receive no gradient.

    Args:
        x: tokens of one sequence; masked tokens may hold NaN or inf.
        left: A.
        right: B; None ties it to A.
        weights: >= 0, 0 on masked tokens.
        center: c: None (raw moment), a (features,) vector such as the data set's mean, or "sequence" for its own mean.
        prefixes: Matryoshka ordering (Kusupati et al. 2022): increasing ranks; the loss is the mean over the losses of
            the first r columns of A and B. None uses the whole rank alone.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shapes, `center` or `prefixes`; outside `jit` also bad weights. Inside `jit` a fully masked
            sequence yields 0.
    """
    return _checked_loss(_tucker, x, left, right, weights, center, prefixes)


def cp_loss(
    x: TokensLike,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: Center = None,
    prefixes: tuple[int, ...] | None = None,
) -> Float[Array, ""]:
    """‖S − Σ_h z_h a_h b_hᵀ‖² − ‖S‖², z_h = a_hᵀ S b_h: bilinear-autoencoder latents pooled over the sequence.

    Arguments, cost, errors and the treatment of data as constants as in `tucker_loss`; ∂A = S B diag(g) + 2A(zzᵀ∘Q)
    with g = −4z + 2(P∘Q)z.
    """
    return _checked_loss(_cp, x, left, right, weights, center, prefixes)


def cp_latents(
    x: TokensLike,
    left: MatrixLike,
    right: MatrixLike | None = None,
    weights: WeightsLike = None,
    *,
    center: Center = None,
) -> Float[Array, "rank"]:
    """z_h = Σ w_i (a_h·(x_i − c)) (b_h·(x_i − c)) / n, the embedding of CP. Tucker's is `covjax.projected_moment`."""
    x, left, right, weights = _check(x, left, right, weights, center, None)
    matrix = left if right is None else jnp.concatenate([left, right], axis=1)
    y, w, _ = _project(x, matrix, weights, center)
    product = y[:, : left.shape[1]] * y[:, -left.shape[1] :]
    return safe_ratio(jnp.sum(product * w[:, None], axis=0), jnp.sum(w))


def moment_norm(x: TokensLike, weights: WeightsLike = None, *, center: Center = None) -> Float[Array, ""]:
    """‖S‖²_F from the smaller of the tokens × tokens and features × features Gram; for reports, not for training."""
    x, w = prepare_tokens(x, weights)
    check_center(center, x.shape[1])
    n = jnp.sum(w)
    if center is not None:
        shift = weighted_mean(x, w) if isinstance(center, str) else jnp.asarray(center, x.dtype)
        x = x - shift[None]
    x = x * jnp.sqrt(safe_ratio(w, n))[:, None]
    return jnp.sum(jnp.square(_dot(x, x.T) if x.shape[0] < x.shape[1] else _dot(x.T, x)))


def fvu(loss: Float[Array, "*n"], norm: Float[Array, "*n"]) -> Float[Array, ""]:
    """Σ‖S − Ŝ‖² / Σ‖S‖² over sequences, from their losses and `moment_norm`s: 0 perfect, 1 for Ŝ = 0."""
    return 1 + safe_ratio(jnp.sum(loss), jnp.sum(norm))


def _tucker(products: tuple[Array, Array], left, right, masks):
    """Value, ∂A, ∂B from S B and SᵀA. A prefix is C with the other entries 0, so one formula serves all of them.

    The value −2‖C‖² + ⟨PC, CQ⟩ is ½⟨C, G⟩: its two terms, often large and nearly equal, cancel entry by entry.
    """
    by_right, by_left = products
    c = _dot(left.T, by_right)
    p, q = _dot(left.T, left), _dot(right.T, right)
    total, grad_left, grad_right = jnp.zeros((), c.dtype), jnp.zeros_like(left), jnp.zeros_like(right)
    for mask in masks:
        block = mask[:, None] * mask[None]
        ck = c * block
        pc, cq = _dot(p, ck), _dot(ck, q)
        g = block * (-4 * ck + 2 * _dot(pc, q))
        total += jnp.sum(ck * g) / 2
        grad_left += _dot(by_right, g.T) + 2 * _dot(left, _dot(cq, ck.T))
        grad_right += _dot(by_left, g) + 2 * _dot(right, _dot(ck.T, pc))
    return total, grad_left, grad_right


def _cp(products: tuple[Array, Array], left, right, masks):
    by_right, by_left = products
    z = jnp.sum(left * by_right, axis=0)
    p, q = _dot(left.T, left), _dot(right.T, right)
    total, grad_left, grad_right = jnp.zeros((), z.dtype), jnp.zeros_like(left), jnp.zeros_like(right)
    for mask in masks:
        zk = z * mask
        g = mask * (-4 * zk + 2 * _dot(p * q, zk))
        total += jnp.sum(zk * g) / 2
        outer = zk[:, None] * zk[None]
        grad_left += by_right * g[None] + 2 * _dot(left, outer * q)
        grad_right += by_left * g[None] + 2 * _dot(right, outer * p)
    return total, grad_left, grad_right


def _checked_loss(kind: Callable, x, left, right, weights, center, prefixes) -> Array:
    x, left, right, weights = _check(x, left, right, weights, center, prefixes)
    own = isinstance(center, str)
    prefixes = prefixes or (left.shape[1],)
    return _loss(kind, prefixes, own, left, right, jnp.asarray(x), weights, None if own else center)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _loss(kind: Callable, prefixes: tuple[int, ...], own: bool, left, right, x, weights, center) -> Array:
    return _loss_and_gradients(kind, prefixes, own, left, right, x, weights, center)[0]


def _loss_and_gradients(kind, prefixes, own, left, right, x, weights, center):
    """The gradients come with the value from the same two products, so the backward pass only scales them."""
    a = left.astype(jnp.promote_types(left.dtype, jnp.float32))
    b = a if right is None else right.astype(a.dtype)
    matrix = a if right is None else jnp.concatenate([a, b], axis=1)
    y, w, shift = _project(x, matrix, weights, "sequence" if own else center)
    products = safe_ratio(_moment_products(x, y * w[:, None], weights, shift), jnp.sum(w)).astype(a.dtype)
    sides = (products, products) if right is None else (products[:, a.shape[1] :], products[:, : a.shape[1]])
    masks = jnp.asarray([[i < r for i in range(a.shape[1])] for r in prefixes], a.dtype)
    total, grad_left, grad_right = (v / len(prefixes) for v in kind(sides, a, b, masks))
    if right is None:
        return total, (grad_left + grad_right).astype(left.dtype), None
    return total, grad_left.astype(left.dtype), grad_right.astype(right.dtype)


def _forward(kind, prefixes, own, left, right, x, weights, center):
    value, *gradients = _loss_and_gradients(kind, prefixes, own, left, right, x, weights, center)
    return value, gradients


def _backward(kind, prefixes, own, gradients, cotangent):
    left, right = gradients
    return cotangent * left, None if right is None else cotangent * right, None, None, None


_loss.defvjp(_forward, _backward)


def _project(x, matrix, weights, center):
    """X matrix, centred, masked rows 0; the weights; and the vector that centres the tokens, if it is the user's."""
    w, keep = token_weights(x, weights)
    y, shift = jnp.where(keep[:, None], project_tokens(jnp.asarray(x), matrix), 0), None
    if isinstance(center, str):
        y = jnp.where(keep[:, None], y - weighted_mean(y, w)[None], 0)
    elif center is not None:
        shift = jnp.asarray(center, y.dtype)
        rounded = matrix.astype(jnp.asarray(x).dtype).astype(y.dtype)  # as the tokens met it
        y = jnp.where(keep[:, None], y - _dot(shift, rounded), 0)
    return y, w, shift


def _moment_products(x, y, weights, shift) -> Float[Array, "features rank"]:
    """(X − c)ᵀY with the centre taken out afterwards; for the sequence's own mean Y sums to 0 and nothing is left."""
    if weights is not None:
        x = jnp.where((weights > 0)[:, None], x, 0)
    # (YᵀX)ᵀ with the narrow operand transposed for itself: a product over the rows of bfloat16 arrays is slow on CPU.
    scale = largest_size(y) if x.dtype == jnp.float16 else 1
    rows = jax.lax.optimization_barrier((y / scale).astype(x.dtype).T)
    product = scale * jnp.matmul(rows, x, precision=HIGHEST, preferred_element_type=y.dtype).T
    return product if shift is None else product - shift[:, None] * jnp.sum(y, axis=0)


def _check(x, left, right, weights, center, prefixes) -> tuple:
    x, weights = check_sequence(x, weights)
    left = check_projection(left, x.shape[1], "left")
    right = None if right is None else check_projection(right, x.shape[1], "right")
    if right is not None and right.shape != left.shape:
        raise InputError(f"right must have the shape of left, {tuple(left.shape)}, got {tuple(right.shape)}")
    check_center(center, x.shape[1])
    if prefixes is not None and (list(prefixes) != sorted({*prefixes}) or min(prefixes, default=0) < 1):
        raise InputError(f"prefixes must be increasing ranks >= 1, got {prefixes}")
    if prefixes is not None and prefixes[-1] > left.shape[1]:
        raise InputError(f"prefixes must not exceed the rank {left.shape[1]}, got {prefixes}")
    return x, left, right, weights
