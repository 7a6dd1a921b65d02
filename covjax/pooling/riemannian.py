"""Other second-order poolers: tangent space, Gaussian embedding, bilinear and Newton–Schulz pooling."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.moments import Moments, prepared_moments
from covjax.pooling.base import FunctionPooler, register
from covjax.pooling.distribution import signed_root, unit
from covjax.pooling.fitted import FittedPooler
from covjax.pooling.learned import check_sizes
from covjax.pooling.second_order import apply_spectral, check_spectral
from covjax.spectral import newton_schulz_sqrt, thin_spectral
from covjax.tokens import HIGHEST, MatrixLike, check_matrix
from covjax.vectorize import augmented_moment, vech

Tokens = Float[Array, "tokens features"]
Weights = Float[Array, "tokens"]


def _gaussian(x: Tokens, w: Weights, ridge):
    if x.shape[0] <= x.shape[1]:
        extended = jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)
        return vech(thin_spectral(extended, w, "second_moment", "sqrt", ridge))
    return _gaussian_of(prepared_moments(x, w), ridge)


def _gaussian_of(m: Moments, ridge):
    return vech(apply_spectral(augmented_moment(m), "sqrt", ridge))


@register("gaussian")
def gaussian(*, ridge: float = 1e-6) -> FunctionPooler:
    """vech of ([[M, μ], [μᵀ, 1]] + ridge·I)^½: the Gaussian of the tokens as one matrix; size (d+1)(d+2)/2.

    Wang, Li and Zhang 2017 (G²DeNet).
    """
    options = (("ridge", check_spectral("sqrt", ridge, 1.0)),)
    return FunctionPooler("gaussian", _gaussian, options=options, from_moments=_gaussian_of)


def _signed_sqrt(x: Tokens, w: Weights):
    return _signed_sqrt_of(prepared_moments(x, w))


def _signed_sqrt_of(m: Moments):
    return unit(signed_root(vech(m.second_moment())))


@register("signed_sqrt")
def signed_sqrt() -> FunctionPooler:
    """vech of M, then the signed root of every entry and unit length: a bilinear CNN's pool; size d(d+1)/2.

    Lin, RoyChowdhury and Maji 2015.
    """
    return FunctionPooler("signed_sqrt", _signed_sqrt, from_moments=_signed_sqrt_of)


def _isqrt(x: Tokens, w: Weights, num_iters, ridge):
    return _isqrt_of(prepared_moments(x, w), num_iters, ridge)


def _isqrt_of(m: Moments, num_iters, ridge):
    return vech(newton_schulz_sqrt(m.covariance(), num_iters, ridge)[0])


@register("isqrt_covariance")
def isqrt_covariance(*, num_iters: int = 5, ridge: float = 1e-6) -> FunctionPooler:
    """vech of `num_iters` Newton–Schulz steps towards (Σ + ridge·I)^½, scaled back: iSQRT-COV; size d(d+1)/2.

    Li et al. 2018; a few steps compress the spectrum rather than take its root. The norm is Frobenius'.
    """
    check_sizes(num_iters=num_iters)
    options = (("num_iters", num_iters), ("ridge", check_spectral("sqrt", ridge, 1.0)))
    return FunctionPooler("isqrt_covariance", _isqrt, options=options, from_moments=_isqrt_of)


def _congruent(x: Tokens, w: Weights, whitening, spectral, floor):
    y = jnp.matmul(x, whitening, precision=HIGHEST)
    if spectral is not None and y.shape[0] < y.shape[1]:
        return vech(thin_spectral(y, w, "covariance", spectral, floor))
    return vech(apply_spectral(prepared_moments(y, w).covariance(), spectral, floor))


def _congruent_of(m: Moments, whitening, spectral, floor):
    half = jnp.matmul(m.covariance(), whitening, precision=HIGHEST)
    return vech(apply_spectral(jnp.matmul(whitening.T, half, precision=HIGHEST), spectral, floor))


def _congruence(name: str, whitening: MatrixLike, spectral: str | None, floor: float) -> FittedPooler:
    matrix = jnp.asarray(check_matrix(whitening, "whitening"))
    if not jnp.isfinite(matrix).all():
        raise InputError("whitening must be finite")
    return FittedPooler(
        name,
        _congruent,
        {"whitening": matrix},
        matrix.shape[0],
        from_moments=_congruent_of,
        spectral=spectral,
        floor=floor,
    )


@register("whitened_covariance")
def whitened_covariance(*, whitening: MatrixLike) -> FittedPooler:
    """vech of WᵀΣW for a fitted whitening W (features, rank); size rank(rank + 1)/2."""
    return _congruence("whitened_covariance", whitening, None, 0.0)


@register("tangent_space")
def tangent_space(*, whitening: MatrixLike, eps: float = 0.01) -> FittedPooler:
    """vech of log(G^{-½}(Σ + εG)G^{-½}), the tangent vector at a mean G, W = G^{-½}; size rank(rank + 1)/2.

    Barachant et al. 2012, with the regulariser εG, under which it is log(WᵀΣW + εI). `covjax.frechet` has means and
    `inverse_root`; W (features, rank) may project on fewer features first.
    """
    return _congruence("tangent_space", whitening, "log", check_spectral("log", 0.0, eps))
