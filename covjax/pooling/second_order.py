"""Second-order poolers: full matrices, projected or sketched ones, and matrices beside the mean."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax import sketch
from covjax.errors import InputError
from covjax.moments import Moments, prepared_moments
from covjax.pooling.base import FunctionPooler, Pooler, get_pooler, moment_function, register
from covjax.projected import projected_moment
from covjax.shrinkage import oas, prepared_effective_count
from covjax.spectral import centred_tokens, psd_function, spectral_factor, thin_spectral
from covjax.tokens import HIGHEST, MatrixLike, TokensLike, WeightsLike, safe_ratio, weighted_mean
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
    return _of_moments(prepared_moments(x, w), statistic, spectral, floor)


def _of_moments(m: Moments, statistic, spectral, floor):
    return vech(apply_spectral(getattr(m, statistic)(), spectral, floor))


def _factor(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], statistic, spectral, floor):
    if statistic == "second_moment" and spectral is None and x.shape[0] >= x.shape[1]:  # M = Σ + μμᵀ needs no more
        covariance = spectral_factor(centred_tokens(x, w, "covariance"), None, 0.0)
        return jnp.concatenate([covariance, weighted_mean(x, w)[:, None]], axis=1)
    return spectral_factor(centred_tokens(x, w, statistic), spectral, floor)


AUTO = 3.0  # ε of eps="auto" over the mean eigenvalue times the share of directions in use (docs/eps.md)
LEAST = 1e-6  # and its least value, for tokens that do not vary


def _relative(trace, square, d: int, eps, rho=0.0):
    """a and f with log((1 − ρ)S + (ρ tr S/d + ε)·I) = log(f)·I + log(I + a·S); `square` is tr S² / (tr S)²."""
    level = trace / d
    if eps == "auto":
        eps = jnp.maximum(AUTO * safe_ratio(level, d * square), LEAST)
    floor = rho * level + eps
    return (1 - rho) / floor, floor


def _unit_square(y, trace):
    """tr S² / (tr S)² of S = YᵀY, and 0 for S = 0."""
    unit = y * jnp.where(trace > 0, jax.lax.rsqrt(jnp.where(trace > 0, trace, 1)), 0)  # squares of squares stay floats
    unit = unit if len(y) >= y.shape[1] else unit.T
    return jnp.sum(jnp.matmul(unit.T, unit, precision=HIGHEST) ** 2)


def _log_by_rule(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], eps, shrink):
    y, d = centred_tokens(x, w, "covariance"), x.shape[1]
    trace = jnp.sum(y * y)
    square = _unit_square(y, trace)
    rho = 0.0 if shrink is None else oas(square, jnp.sign(trace), prepared_effective_count(x, w), d)
    a, floor = _relative(trace, square, d, eps, rho)
    root = jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1)), 0)  # its own derivative at 0 is infinite
    logarithm = _whole(x * root, w, "covariance", "log", 1.0)
    return logarithm + jnp.log(floor) * vech(jnp.eye(d, dtype=x.dtype))


def _log_of_moments(m: Moments, eps, shrink):
    s = m.covariance()
    trace = jnp.trace(s)
    a, floor = _relative(trace, jnp.sum(safe_ratio(s, trace) ** 2), len(s), eps)
    return vech(apply_spectral(a * s, "log", 1.0) + jnp.log(floor) * jnp.eye(len(s), dtype=s.dtype))


def _mean_outer(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]):
    return _outer_of_moments(prepared_moments(x, w))


def _mean_column(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]):
    return weighted_mean(x, w)[:, None]


def _outer_of_moments(m: Moments):
    return vech(jnp.outer(m.mean, m.mean))


def _pooler(name: str, statistic: str, spectral: str | None = None, floor: float = 0.0) -> FunctionPooler:
    options = (("statistic", statistic), ("spectral", spectral), ("floor", floor))
    factor = None if statistic == "correlation" else _factor
    return FunctionPooler(name, _whole, options=options, from_moments=_of_moments, from_factor=factor)


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
    """vech of the correlation matrix, with 0 for constant features; size d(d+1)/2."""
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
def log_covariance(*, eps: float | str = 0.1, shrink: str | None = None) -> FunctionPooler:
    """vech of log(Σ + eps·I); size d(d+1)/2.

    `eps="auto"` is 3 (tr Σ / d) · (r / d), r = (tr Σ)² / tr Σ², and at least 1e-6: thrice the mean eigenvalue times the
    share of the d directions that the tokens use. `shrink="oas"` first moves Σ towards a multiple of I
    (`covjax.shrink`), given how many independent tokens the sequence is worth (`covjax.shrinkage.effective_count`).
    With either, every sequence has its own floor, so a kernel of wide matrices cannot be computed without their
    numbers; `shrink` also needs the tokens themselves. Raises InputError for eps <= 0 and unknown words.
    """
    if shrink not in (None, "oas"):
        raise InputError(f"shrink must be None or 'oas', got {shrink!r}")
    if isinstance(eps, str):
        if eps != "auto":
            raise InputError(f"eps must be > 0 or 'auto', got {eps!r}")
    else:
        eps = check_spectral("log", 0.0, eps)
        if shrink is None:
            return _pooler("log_covariance", "covariance", "log", eps)
    return FunctionPooler(
        "log_covariance",
        _log_by_rule,
        permutation_invariant=shrink is None,
        options=(("eps", eps), ("shrink", shrink)),
        from_moments=_log_of_moments if shrink is None else None,
    )


@register("mean_outer")
def mean_outer() -> FunctionPooler:
    """vech of μμᵀ: the control with the features of a second moment but no co-occurrence; size d(d+1)/2."""
    return FunctionPooler("mean_outer", _mean_outer, from_moments=_outer_of_moments, from_factor=_mean_column)


class Basis(nnx.Variable[Array]):
    """A projection fixed beforehand (PCA, autoencoder, random): saved with the pooler, not trained."""


class ProjectedCovariance(nnx.Module):
    """vech of f(AᵀΣA) for a fixed basis A, the tied "truncated" covariance; size r(r+1)/2."""

    name = "projected_covariance"
    permutation_invariant = True

    def __init__(self, basis: Float[Array, "features rank"], spectral: str | None, floor: float):
        self.basis = Basis(basis)
        self.spectral = spectral
        self.floor = floor

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        c = projected_moment(x, self.basis[...], weights=weights, center="sequence")
        return vech(apply_spectral(c, self.spectral, self.floor))


@register("projected_covariance")
def projected_covariance(
    *, basis: MatrixLike, spectral: str | None = None, ridge: float = 1e-6, eps: float = 0.1
) -> ProjectedCovariance:
    """vech of f(AᵀΣA), f the identity, `"sqrt"` of (· + ridge·I) or `"log"` of (· + eps·I); size r(r+1)/2."""
    basis = jnp.asarray(basis, jnp.float32)
    if basis.ndim != 2:
        raise InputError(f"basis must have shape (features, rank), got {basis.shape}")
    return ProjectedCovariance(basis, spectral, check_spectral(spectral, ridge, eps))


def _sketch(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], function, size, degree, seed):
    phi = function(x, size, jax.random.key(seed), degree)
    return safe_ratio(jnp.matmul(w, phi, precision=HIGHEST), jnp.sum(w))


def _sketch_pooler(name: str, function, size: int, degree: int, seed: int) -> FunctionPooler:
    if size < 1 or degree < 1:
        raise InputError(f"size and degree must be >= 1, got size {size} and degree {degree}")
    options = (("function", function), ("size", size), ("degree", degree), ("seed", seed))
    return FunctionPooler(name, _sketch, options=options)


@register("tensor_sketch")
def tensor_sketch(*, size: int = 1024, degree: int = 2, seed: int = 0) -> FunctionPooler:
    """Mean of the tokens' tensor sketches, an unbiased sketch of the moment of that degree; size `size`."""
    return _sketch_pooler("tensor_sketch", sketch.tensor_sketch, size, degree, seed)


@register("random_maclaurin")
def random_maclaurin(*, size: int = 1024, degree: int = 2, seed: int = 0) -> FunctionPooler:
    """Mean of random Maclaurin features, an unbiased sketch of the moment of that degree; size `size`."""
    return _sketch_pooler("random_maclaurin", sketch.random_maclaurin, size, degree, seed)


def _random_projection(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], rank, seed):
    y = sketch.random_projection(x, rank, jax.random.key(seed))
    return vech(prepared_moments(y, w).covariance())


@register("random_projection")
def random_projection(*, rank: int = 32, seed: int = 0) -> FunctionPooler:
    """vech of the covariance of randomly projected tokens; size rank(rank + 1)/2."""
    if rank < 1:
        raise InputError(f"rank must be >= 1, got {rank}")
    return FunctionPooler("random_projection", _random_projection, options=(("rank", rank), ("seed", seed)))


class Hybrid(nnx.Module):
    """The parts' vectors one after the other."""

    def __init__(self, parts: Sequence[Pooler]):
        self.parts = nnx.List(parts)
        self.name = "+".join(part.name for part in parts)
        self.permutation_invariant = all(part.permutation_invariant for part in parts)

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        return jnp.concatenate([part(x, weights) for part in self.parts])

    @property
    def of_moments(self) -> Callable[[Moments], Float[Array, "k"]] | None:
        """See `covjax.pooling.base.moment_function`; None where one part needs the tokens."""
        functions = [moment_function(part) for part in self.parts]
        known = [function for function in functions if function is not None]
        return None if len(known) < len(functions) else lambda m: jnp.concatenate([each(m) for each in known])


@register("hybrid")
def hybrid(*, parts: Sequence[str | Pooler]) -> Hybrid:
    """The vectors of several poolers, given by name or as objects, side by side; size: the sum of the parts'."""
    if isinstance(parts, str) or not parts:
        raise InputError(f"parts must be a non-empty list of pooler names or poolers, got {parts!r}")
    return Hybrid([get_pooler(part) if isinstance(part, str) else part for part in parts])
