"""What every token adds to the score of a block, in float64: its mean, variance and co-occurrence part.

Linear pools are sums over tokens, so that contributions are exact: ⟨W, Σ⟩ = Σ_i y_iᵀ W y_i / n with y_i = x_i − μ. For
f(S) = √(S + r·I) the derivative G of ⟨W, f(S)⟩ (Daleckii and Krein 1965) stands in the place of W: f is homogeneous of
degree ½, so ⟨G, S + r·I⟩ is half of the score (Euler), and 2 y_iᵀ G y_i / n sum to all of it but 2r tr G. The logarithm
has no such law: G is the mean derivative on the straight path from a reference S̄ to S (integrated gradients,
Sundararajan et al. 2017), the contributions are those to S − S̄, and what the quadrature misses is the residual. Where
tokens are fewer than features, the derivative is 1 / ε at the path's end and small elsewhere: the quadrature's nodes
are dense at both ends (double exponential, Takahasi and Mori 1974).

Tokens are as a block sees them: `Block.project` of standardised ones.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from covjax.explanation.blocks import Block
from covjax.spectral import psd_function

PARTS = ("mean", "variance", "co-occurrence")
COMPLETE = 1e-3  # of the way from the reference's score, or of `spread` where that is longer: what may be left
NODES = (12, 24, 48, 96, 192)  # of the quadrature, until the path is complete


@dataclasses.dataclass(frozen=True)
class Contributions:
    """The score of one sequence and block: `constant` + the sum of `tokens` over tokens and parts + `residual`.

    `tokens` has the parts of `PARTS` last. `constant` is what belongs to no token: the score at the reference, or the
    share of the ridge. `pooled` is f(S), or the vector of a block without a matrix.
    """

    tokens: Float[np.ndarray, "t k 3"]
    constant: Float[np.ndarray, "k"]
    residual: Float[np.ndarray, "k"]
    pooled: Float[np.ndarray, "*shape"]


def statistic(block: Block, x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "*shape"]:
    """What a block pools of its tokens, before its spectral function."""
    mean = x.mean(0)
    if block.of == "mean":
        return mean
    if block.of == "deviation":
        return np.asarray(x.std(0))
    if block.of == "outer":
        return np.outer(mean, mean)
    y = x if block.of == "second_moment" else x - mean
    return y.T @ y / len(y)


def pooled(block: Block, x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "*shape"]:
    """What a block pools: f of its `statistic`, by way of the tokens' singular values, which are few where they are."""
    if block.spectral is None:
        return statistic(block, x)
    y = x if block.of == "second_moment" else x - x.mean(0)
    _, values, vectors = np.linalg.svd(y / np.sqrt(len(y)), full_matrices=False)
    function = np.sqrt if block.spectral == "sqrt" else np.log
    rest = function(block.floor) if len(values) < y.shape[1] else 0.0  # f of the eigenvalues that are 0
    return rest * np.eye(y.shape[1]) + (vectors.T * (function(values**2 + block.floor) - rest)) @ vectors


def score(block: Block, features: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "k"]:
    """The block's part of the score of every label."""
    return block.weights.reshape(len(block.weights), -1) @ features.ravel()


def contributions(
    block: Block,
    x: Float[np.ndarray, "t d"],
    reference: Float[np.ndarray, "d d"] | None = None,
    spread: Float[np.ndarray, "k"] | None = None,
) -> Contributions:
    """Contributions of a block's tokens to its score.

    `reference` is where a logarithm's path starts. Its residual is at most `COMPLETE` of the way from the score there,
    or of `spread`, a scale of scores, where that is larger.
    """
    k, features = len(block.weights), pooled(block, x)
    tokens, zeros = np.zeros((len(x), k, 3)), np.zeros(k)
    if block.of == "mean":
        tokens[..., 0] = x @ block.weights.T / len(x)
        return Contributions(tokens, zeros, zeros, features)
    if block.of == "deviation":
        slope = np.divide(block.weights, features, out=np.zeros_like(block.weights), where=features > 0)
        tokens[..., 1] = (x - x.mean(0)) ** 2 @ slope.T / len(x)
        return Contributions(tokens, zeros, zeros, features)
    if block.spectral is None:
        return Contributions(_of_tokens(block.of, block.weights, x), zeros, zeros, features)
    s, total = statistic(block, x), score(block, features)
    if block.spectral == "sqrt":
        slope = _derivative(s, block.weights, "sqrt", block.floor)
        constant = 2 * block.floor * np.trace(slope, axis1=1, axis2=2)
        tokens = 2 * _of_tokens(block.of, _within_span(block, slope, x), x)
        return Contributions(tokens, constant, total - constant - tokens.sum((0, 2)), features)
    start = np.zeros_like(s) if reference is None else reference
    constant = score(block, _function(start, "log", block.floor))
    way = total - constant
    allowed = COMPLETE * np.maximum(np.abs(way), zeros if spread is None else spread)
    for nodes in NODES:
        slope = _path(start, s, block.weights, block.floor, nodes)
        residual = way - np.einsum("kij,ij->k", slope, s - start)
        if (np.abs(residual) <= allowed).all():
            break
    tokens = _of_tokens(block.of, slope, x)
    diagonal = np.einsum("kii,ii->k", slope, start)
    tokens[..., 1] -= diagonal / len(x)
    tokens[..., 2] -= (np.einsum("kij,ij->k", slope, start) - diagonal) / len(x)
    return Contributions(tokens, constant, residual, features)


def _within_span(
    block: Block, forms: Float[np.ndarray, "k d d"], x: Float[np.ndarray, "t d"]
) -> Float[np.ndarray, "k d d"]:
    """The forms on the span of fewer tokens than features, 0 beside it: on the tokens they are the same.

    Beside it the derivative of a root is as large as 1 / √ridge. No token sees that, but its diagonal and the rest,
    variance and co-occurrence, would be large and opposite.
    """
    if len(x) >= x.shape[1]:
        return forms
    _, values, vectors = np.linalg.svd(x if block.of == "second_moment" else x - x.mean(0), full_matrices=False)
    vectors = vectors[values > 1e-9 * values.max()]
    return vectors.T @ (vectors @ forms @ vectors.T) @ vectors


def _of_tokens(of: str, forms: Float[np.ndarray, "k d d"], x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t k 3"]:
    """⟨W, S⟩ by token and part: of μ with itself and with the token, of a feature with itself, of two features."""
    mean = x.mean(0)
    y, turned = x - mean, forms @ mean
    out = np.zeros((len(x), len(forms), 3))
    if of == "outer":
        out[..., 0] = x @ turned.T
    else:
        if of == "second_moment":
            out[..., 0] = (2 * y + mean) @ turned.T
        out[..., 1] = y**2 @ np.diagonal(forms, axis1=1, axis2=2).T
        out[..., 2] = ((y @ forms) * y).sum(-1).T - out[..., 1]
    return out / len(x)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _function_of(s, kind, floor):
    return psd_function(s, kind, floor, 0.5)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _derivative_of(s, forms, kind, floor):
    _, pull = jax.vjp(lambda s: psd_function(s, kind, floor, 0.5), s)
    return jax.lax.map(lambda form: pull(form)[0], forms)


def _function(s: Float[np.ndarray, "d d"], kind: str, floor: float) -> Float[np.ndarray, "d d"]:
    with jax.enable_x64(True):
        return np.asarray(_function_of(jnp.asarray(s), kind, floor))


def _derivative(
    s: Float[np.ndarray, "d d"], forms: Float[np.ndarray, "k d d"], kind: str, floor: float
) -> Float[np.ndarray, "k d d"]:
    """The derivative of ⟨W, f(S)⟩ by S for every W."""
    with jax.enable_x64(True):
        return np.asarray(_derivative_of(jnp.asarray(s), jnp.asarray(forms), kind, floor))


def _path(
    start: Float[np.ndarray, "d d"],
    end: Float[np.ndarray, "d d"],
    forms: Float[np.ndarray, "k d d"],
    floor: float,
    nodes: int,
) -> Float[np.ndarray, "k d d"]:
    """The mean derivative of the logarithm on the straight path."""
    even = np.linspace(-3, 3, nodes)  # at 3 the rest of the path is 2e-14 of it
    way, back = (1 / (1 + np.exp(sign * np.pi * np.sinh(even))) for sign in (-1, 1))
    shares = np.cosh(even) * way * back
    out = np.zeros_like(forms)
    for place, rest, share in zip(way, back, shares / shares.sum()):
        out += share * _derivative(rest * start + place * end, forms, "log", floor)
    return out
