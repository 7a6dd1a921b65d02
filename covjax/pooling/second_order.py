"""Poolers on the whole second moment: M, Σ, correlation, their spectral functions, and the μμᵀ control."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.moments import Moments, _moments
from covjax.pooling.base import FunctionPooler, register
from covjax.spectral import psd_function
from covjax.thin import thin_spectral
from covjax.vectorize import vech


def apply_spectral(s: Float[Array, "d d"], spectral: str | None, floor: float) -> Float[Array, "d d"]:
    """S, (S + floor·I)^½ or log(S + floor·I) for `spectral` None, "sqrt" or "log"."""
    return s if spectral is None else psd_function(s, spectral, floor, 0.5)


def check_spectral(spectral: str | None, ridge: float, eps: float) -> float:
    """The floor added to the spectrum; InputError for an unknown function or a floor its gradient does not survive."""
    if spectral not in (None, "sqrt", "log"):
        raise InputError(f"spectral must be None, 'sqrt' or 'log', got {spectral!r}")
    if not ridge >= 0:
        raise InputError(f"ridge must be >= 0, got {ridge}")
    if not eps > 0:
        raise InputError(f"eps must be > 0, got {eps}")
    return float(eps if spectral == "log" else ridge)


def _whole(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], statistic, spectral, floor):
    if spectral is not None and x.shape[0] < x.shape[1]:
        return vech(thin_spectral(x, w, statistic, spectral, floor))
    return _of_moments(_moments(x, w), statistic, spectral, floor)


def _of_moments(m: Moments, statistic, spectral, floor):
    return vech(apply_spectral(getattr(m, statistic)(), spectral, floor))


def _mean_outer(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]):
    return _outer_of_moments(_moments(x, w))


def _outer_of_moments(m: Moments):
    return vech(jnp.outer(m.mean, m.mean))


def _pooler(name: str, statistic: str, spectral: str | None = None, floor: float = 0.0) -> FunctionPooler:
    options = (("statistic", statistic), ("spectral", spectral), ("floor", floor))
    return FunctionPooler(name, _whole, options=options, from_moments=_of_moments)


@register("second_moment")
def second_moment() -> FunctionPooler:
    """vech of M = Σ w_i x_i x_iᵀ / n; size d(d+1)/2."""
    return _pooler("second_moment", "second_moment")


@register("covariance")
def covariance() -> FunctionPooler:
    """vech of Σ = M − μμᵀ; size d(d+1)/2."""
    return _pooler("covariance", "covariance")


@register("correlation")
def correlation() -> FunctionPooler:
    """vech of the correlation, 0 for constant features; size d(d+1)/2."""
    return _pooler("correlation", "correlation")


@register("sqrt_second_moment")
def sqrt_second_moment(*, ridge: float = 1e-6) -> FunctionPooler:
    """vech of (M + ridge·I)^½; size d(d+1)/2."""
    return _pooler("sqrt_second_moment", "second_moment", "sqrt", check_spectral("sqrt", ridge, 1.0))


@register("log_second_moment")
def log_second_moment(*, eps: float = 0.1) -> FunctionPooler:
    """vech of log(M + eps·I); size d(d+1)/2."""
    return _pooler("log_second_moment", "second_moment", "log", check_spectral("log", 0.0, eps))


@register("sqrt_covariance")
def sqrt_covariance(*, ridge: float = 1e-6) -> FunctionPooler:
    """vech of (Σ + ridge·I)^½; size d(d+1)/2."""
    return _pooler("sqrt_covariance", "covariance", "sqrt", check_spectral("sqrt", ridge, 1.0))


@register("log_covariance")
def log_covariance(*, eps: float = 0.1) -> FunctionPooler:
    """vech of log(Σ + eps·I); size d(d+1)/2."""
    return _pooler("log_covariance", "covariance", "log", check_spectral("log", 0.0, eps))


@register("mean_outer")
def mean_outer() -> FunctionPooler:
    """vech of μμᵀ: the control with the features of a second moment but no co-occurrence; size d(d+1)/2."""
    return FunctionPooler("mean_outer", _mean_outer, from_moments=_outer_of_moments)
