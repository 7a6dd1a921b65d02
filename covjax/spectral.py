"""Functions of positive semidefinite matrices: √, powers and log, from the matrix, its tokens or products alone.

The iterations by products alone stand in `covjax.spectral_products`; here is where they are taken.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.moments import prepared_moments
from covjax.spectral_products import (
    any_of_batch,
    dot,
    function_by_products,
    log_slope_by_products,
    minus_square,
)
from covjax.tokens import HIGHEST, MatrixLike, safe_ratio, scaled, weighted_mean
from covjax.vectorize import check_square

# From these sizes on functions are taken by products, but on a CPU never (docs/benchmark-device.md).
SMALLEST, SMALLEST_ON_CUDA = 33, 385
TOLERANCE = 1e-3  # of the estimated relative error; a float32 `eigh` is about ten times worse where products have that


@jax.custom_batching.custom_vmap
def eigh(a: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors in columns; a batch goes matrix by matrix on a CPU.

    There XLA hands a batch to its thread pool from inside that pool and waits: two batches in one program, on two
    cores, wait for each other for ever (JAX 0.10.2, `jax::ParallelBatchMap`). It has no derivative of its own.
    """
    s, v = jnp.linalg.eigh(a)
    return s, v


@eigh.def_vmap
def _eigh_batch(axis_size, in_batched, a):
    def together(a):
        s, v = jnp.linalg.eigh(a)
        return s, v

    # The loop's body is `eigh` again, so that a batch of batches becomes a loop in a loop.
    return jax.lax.platform_dependent(a, cpu=lambda a: jax.lax.map(eigh, a), default=together), (True, True)


def check_symmetric(a: MatrixLike, name: str = "a") -> Float[Array, "d d"]:
    """`a` in float32 or wider; InputError unless square and, where concrete, finite and symmetric up to rounding."""
    a = check_square(a, name)
    if is_concrete(a):
        values = np.asarray(a, np.float64)
        if not np.isfinite(values).all():
            raise InputError(f"{name} must be finite, got {int((~np.isfinite(values)).sum())} entries NaN or inf")
        gap, size = np.abs(values - values.T).max(), np.abs(values).max()
        if gap > 1e-4 * size:
            raise InputError(f"{name} must be symmetric, got max |a - aᵀ| = {gap:.3g} with max |a| = {size:.3g}")
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _eigenvalues(a, ridge):
    s, v = eigh(a)
    return jnp.maximum(s, 0) + ridge, v


def _divided_sqrt(s, _):
    """(√x − √y)/(x − y) = 1/(√x + √y): no difference of eigenvalues. 0 where both are 0 (no ridge)."""
    root = jnp.sqrt(s)
    total = root[:, None] + root[None, :]
    return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)


def _divided_log(s, _):
    """(log x − log y)/(x − y); near ties 2 atanh(r)/(r (x + y)) by its series, r = (x − y)/(x + y)."""
    difference, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
    r2 = (difference / total) ** 2
    near = r2 < 1e-2
    series = 2 / total * (1 + r2 * (1 / 3 + r2 * (1 / 5 + r2 * (1 / 7 + r2 * (1 / 9)))))
    log = jnp.log(s)
    return jnp.where(near, series, (log[:, None] - log[None, :]) / jnp.where(near, 1, difference))


def _divided_power(s, power):
    """(xᵖ − yᵖ)/(x − y); near ties e^{(p−1)m} sinh(ph)/sinh(h), m and h half sum and difference of the logs."""
    zero = s <= 0
    log = jnp.log(jnp.where(zero, 1, s))
    mean, half2 = (log[:, None] + log[None, :]) / 2, ((log[:, None] - log[None, :]) / 2) ** 2
    either = zero[:, None] | zero[None, :]
    near = (half2 < 1e-2) & ~either

    def sinhc(z2):  # sinh(z)/z
        return 1 + z2 / 6 * (1 + z2 / 20 * (1 + z2 / 42 * (1 + z2 / 72)))

    close = jnp.where(near, half2, 0)
    series = power * jnp.exp((power - 1) * jnp.where(near, mean, 0)) * sinhc(power**2 * close) / sinhc(close)
    values = jnp.where(zero, 0, jnp.exp(power * log))
    difference = s[:, None] - s[None, :]
    apart = ~near & (difference != 0)
    quotient = (values[:, None] - values[None, :]) / jnp.where(apart, difference, 1)
    return jnp.where(near, series, jnp.where(apart, quotient, 0))


_FUNCTIONS = {
    "sqrt": (lambda s, _: jnp.sqrt(s), _divided_sqrt),
    "log": (lambda s, _: jnp.log(s), _divided_log),
    "power": (lambda s, power: jnp.where(s > 0, jnp.where(s > 0, s, 1) ** power, 0), _divided_power),
}


def _with_null(s, ridge):
    """The eigenvalues for a derivative: without a ridge those that rounding alone may have made count as 0."""
    return s if ridge else jnp.where(s > 4 * jnp.finfo(s.dtype).eps * s[-1], s, 0)


def _sandwich(left, middle, right):
    return dot(dot(left, middle), right)


def _root_and_solver(a, ridge):
    """√A and X ↦ the solution of √A X + X √A = G, each with one step of residual correction.

    A float32 `eigh` leaves small eigenvalues with an error that a residual does not have; the correction makes the
    derivative ten times better at condition 1e4. Eigenvalues lost in rounding are left alone. Its eigenvectors are
    orthonormal to a few units of rounding only, which a Newton–Schulz step, V(3I − VᵀV)/2, removes.
    """
    s, v = _eigenvalues(a, ridge)
    v = v + jnp.matmul(v, jnp.eye(len(s), dtype=v.dtype) - jnp.matmul(v.T, v, precision=HIGHEST), precision=HIGHEST) / 2
    table = _divided_sqrt(_with_null(s, ridge), None)
    known = s > 100 * jnp.finfo(s.dtype).eps * s[-1]
    known = known[:, None] | known[None, :]

    def solve(g, only_known=False):
        inner = jnp.where(known, table, 0) if only_known else table
        return _sandwich(v, inner * _sandwich(v.T, g, v), v.T)

    root = jnp.matmul(v * jnp.sqrt(s)[None], v.T, precision=HIGHEST)
    root = (root + root.T) / 2
    shifted = (a + a.T) / 2 + ridge * jnp.eye(len(s), dtype=a.dtype)
    root = root + solve(minus_square(shifted, root), only_known=True)

    def corrected(g):
        x = solve(g)
        half = jnp.matmul(root, x, precision=HIGHEST)
        return x + solve(g - half - half.T, only_known=True)

    return root, corrected


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def by_eigh(a: MatrixLike, kind: str, ridge: float, power: float) -> Float[Array, "d d"]:
    """V f(s) Vᵀ of the symmetric part of `a` with eigenvalues max(s, 0) + ridge.

    The root under a derivative has its residual corrected, which the derivative needs and the root alone does not.
    """
    s, v = _eigenvalues(a, ridge)
    return jnp.matmul(v * _FUNCTIONS[kind][0](s, power)[None], v.T, precision=HIGHEST)


@by_eigh.defjvp
def _by_eigh_jvp(kind, ridge, power, primals, tangents):
    (a,), (da,) = primals, tangents
    da = (da + da.T) / 2
    if kind == "sqrt":
        root, solve = _root_and_solver(a, ridge)
        return root, solve(da)
    s, v = _eigenvalues(a, ridge)
    function, divided = _FUNCTIONS[kind]
    tangent = _sandwich(v, divided(_with_null(s, ridge), power) * _sandwich(v.T, da, v), v.T)
    return jnp.matmul(v * function(s, power)[None], v.T, precision=HIGHEST), tangent


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def by_products(a: MatrixLike, kind: str, ridge: float, power: float) -> Float[Array, "d d"]:
    """The same by products alone, or by `eigh` where their error may be above `TOLERANCE`.

    In a batch one such matrix sends the whole batch to `eigh`: a choice for every matrix would compute both for all.
    """
    value, error = function_by_products(a, kind, ridge, power)
    failed = any_of_batch(~(error <= TOLERANCE))
    return jax.lax.cond(failed, lambda a, _: by_eigh(a, kind, ridge, power), lambda _, value: value, a, value)


@by_products.defjvp
def _by_products_jvp(kind, ridge, power, primals, tangents):
    _, error = function_by_products(primals[0], kind, ridge, power)
    failed = any_of_batch(~(error <= TOLERANCE))  # derivatives through iterations that failed would be NaN

    def tangent(function):
        return lambda a, da: jax.jvp(function, (a,), (da,))

    reference = tangent(lambda a: by_eigh(a, kind, ridge, power))
    products = tangent(lambda a: function_by_products(a, kind, ridge, power)[0])
    return jax.lax.cond(failed, reference, products, *primals, *tangents)


def psd_function(a: MatrixLike, kind: str, ridge: float, power: float) -> Float[Array, "d d"]:
    """f of the symmetric part of `a` with eigenvalues max(s, 0) + ridge; no checks (see the public names).

    By `eigh` on a CPU, in float64, for small matrices (up to 384 on CUDA) and for powers beyond ±1, else by products.
    """
    reference = partial(by_eigh, kind=kind, ridge=ridge, power=power)
    if a.shape[0] < SMALLEST or a.dtype != jnp.float32 or abs(power) > 1:
        return reference(a)
    products = partial(by_products, kind=kind, ridge=ridge, power=power)
    return _by_platform(reference, products, a)


def _by_platform(reference: Callable[..., Array], products: Callable[..., Array], a: Array, *rest: Array) -> Array:
    """`reference` or `products` of a matrix that is large enough for products somewhere, and what else they need."""
    cuda = reference if a.shape[0] < SMALLEST_ON_CUDA else products
    return jax.lax.platform_dependent(a, *rest, cpu=reference, cuda=cuda, default=products)


def _check(a, value: float, name: str, minimum_open: bool) -> Float[Array, "d d"]:
    a = check_symmetric(a)
    if not (value > 0 if minimum_open else value >= 0):
        raise InputError(f"{name} must be {'>' if minimum_open else '>='} 0, got {value}")
    return a


def psd_sqrt(a: MatrixLike, ridge: float = 0.0) -> Float[Array, "d d"]:
    """(A + ridge·I)^½, eigenvalues below 0 (rounding) taken as 0; by `eigh` or by products, as `psd_function` says.

    The derivative is Daleckii–Krein, V[(VᵀGV)_ij/(√s_i + √s_j)]Vᵀ: exact at repeated eigenvalues. With ridge > 0 it is
    bounded by 1/(2√ridge); with ridge = 0 the null space, of eigenvalues up to 4·eps·s_max, gets gradient 0.

    Raises:
        InputError: not square, outside `jit` not symmetric, or ridge < 0.
    """
    return psd_function(_check(a, ridge, "ridge", False), "sqrt", ridge, 0.5)


def psd_log(a: MatrixLike, eps: float) -> Float[Array, "d d"]:
    """log(A + eps·I), by `eigh` or products as `psd_sqrt`; its Daleckii–Krein derivative is bounded by 1/eps.

    Raises:
        InputError: not square, outside `jit` not symmetric, or eps <= 0.
    """
    return psd_function(_check(a, eps, "eps", True), "log", eps, 0.0)


def psd_power(a: MatrixLike, power: float, ridge: float = 0.0) -> Float[Array, "d d"]:
    """(A + ridge·I)^power, by `eigh` or, for powers up to ±1, products as `psd_sqrt`.

    The Daleckii–Krein derivative; gradient 0 on the null space if ridge is 0.

    Raises:
        InputError: not square, outside `jit` not symmetric, ridge < 0, or power <= 0 without a ridge.
    """
    if power <= 0 and ridge <= 0:
        raise InputError(f"power must be > 0 unless ridge > 0, got power {power} and ridge {ridge}")
    return psd_function(_check(a, ridge, "ridge", False), "power", ridge, power)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def thin_spectral(
    x: Float[Array, "tokens features"], w: Float[Array, "tokens"], statistic: str, kind: str, floor: float
) -> Float[Array, "features features"]:
    """(S + floor·I)^½ or log(S + floor·I) for S = YᵀY, Y = √(w/n) (X − c), from the eigenvectors U of YYᵀ = UsUᵀ.

    f(S) = f(0)·I + Yᵀ U g(s) Uᵀ Y with g(s) = (f(s) − f(0))/s, written without that difference: 1/(√(s + floor) +
    √floor) and log1p(s/floor)/s. Checked, masked tokens only (`prepare_tokens`); `statistic` is "covariance" (c the
    mean) or "second_moment" (c = 0), `kind` "sqrt" or "log". Derivatives are those of the features × features form.
    """
    y = centred_tokens(x, w, statistic)
    gram = jnp.matmul(y, y.T, precision=HIGHEST)
    reference = partial(_thin_by_eigh, kind=kind, floor=floor)
    if kind == "log" and x.shape[0] >= SMALLEST and x.dtype == jnp.float32:
        thin = _by_platform(reference, partial(_thin_log_by_products, floor=floor), gram, y)
    else:
        thin = reference(gram, y)
    at_zero = floor**0.5 if kind == "sqrt" else jnp.log(floor)
    return thin + at_zero * jnp.eye(x.shape[1], dtype=x.dtype)


def centred_tokens(
    x: Float[Array, "tokens features"], w: Float[Array, "tokens"], statistic: str
) -> Float[Array, "tokens features"]:
    """Y = √(w/n) (X − c), so that YᵀY is the statistic: "covariance" (c the mean) or "second_moment" (c = 0)."""
    center = weighted_mean(x, w) if statistic == "covariance" else 0
    return (x - jnp.reshape(center, (1, -1))) * jnp.sqrt(safe_ratio(w, jnp.sum(w)))[:, None]


def spectral_factor(
    y: Float[Array, "tokens features"], kind: str | None, floor: float
) -> Float[Array, "features columns"]:
    """F with f(YᵀY) = f(0)·I + FFᵀ, of min(tokens, features) columns, the longest last; f as of `thin_spectral`.

    `kind` None is f(S) = S. From tokens × tokens or features × features, whichever is smaller.
    """
    if y.shape[0] < y.shape[1]:
        if kind is None:
            return y[jnp.argsort(jnp.sum(y * y, axis=1))].T
        b, slope = _thin(jnp.matmul(y, y.T, precision=HIGHEST), y, kind, floor)
        return b * jnp.sqrt(slope)[None]
    s, v = eigh(jnp.matmul(y.T, y, precision=HIGHEST))
    s = jnp.maximum(s, 0)
    return v * jnp.sqrt(s if kind is None else s * _slope(s, kind, floor))[None]


def _thin(gram, y, kind, floor):
    """YᵀU and g(s) of `thin_spectral`."""
    s, u = eigh(gram)
    return jnp.matmul(y.T, u, precision=HIGHEST), _slope(jnp.maximum(s, 0), kind, floor)


def _thin_by_eigh(gram, y, kind, floor):
    """Yᵀ U g(s) Uᵀ Y of `thin_spectral`."""
    b, slope = _thin(gram, y, kind, floor)
    return jnp.matmul(b * slope[None], b.T, precision=HIGHEST)


def _slope(s: Float[Array, "columns"], kind: str, floor: float) -> Float[Array, "columns"]:
    """g(s) of `thin_spectral`: how f grows above f(0), over s."""
    if kind == "sqrt":
        total = jnp.sqrt(s + floor) + floor**0.5
        return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    ratio = s / floor
    # log1p(r)/r → 1 − r/2: below 1e-4 the next term is lost in float32
    small = ratio < 1e-4
    return jnp.where(small, 1 - ratio / 2, jnp.log1p(ratio) / jnp.where(small, 1, ratio)) / floor


def _thin_log_by_products(gram, y, floor):
    slope, error = log_slope_by_products(gram, floor)
    return jax.lax.cond(
        any_of_batch(~(error <= TOLERANCE)),
        lambda gram, y, _: _thin_by_eigh(gram, y, "log", floor),
        lambda _, y, slope: _sandwich(y.T, slope, y),
        *(gram, y, slope),
    )


@thin_spectral.defjvp
def _thin_spectral_jvp(statistic, kind, floor, primals, tangents):
    def whole(x, w):
        return psd_function(getattr(prepared_moments(x, w), statistic)(), kind, floor, 0.5)

    return jax.jvp(whole, primals, tangents)


def _iterate(a: Float[Array, "d d"], num_iters: int) -> Float[Array, "d d"]:
    """Coupled iteration Y ← Y(3I − ZY)/2, Z ← (3I − ZY)Z/2 from Y = A/‖A‖_F, Z = I; returns Y √‖A‖_F."""
    if num_iters < 1:
        raise InputError(f"num_iters must be >= 1, got {num_iters}")
    a, scale = scaled(a)
    square = jnp.sum(a * a)  # the norm's own derivative is NaN at 0
    norm = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    identity = jnp.eye(a.shape[0], dtype=a.dtype)

    def step(_, state):
        y, z = state
        t = 1.5 * identity - 0.5 * dot(z, y)
        return dot(y, t), dot(t, z)

    y, _ = jax.lax.fori_loop(0, num_iters, step, (safe_ratio(a, norm), identity))
    return y * jnp.sqrt(jnp.where(norm > 0, norm, 1)) * jnp.sqrt(scale)


def newton_schulz_sqrt(
    a: MatrixLike, num_iters: int = 15, ridge: float = 0.0
) -> tuple[Float[Array, "d d"], Float[Array, ""]]:
    """(A + ridge·I)^½ of a symmetric PSD matrix and the residual ‖Y² − A‖_F / ‖A‖_F (Higham 2008, §6.3).

    Frobenius pre-normalisation. Eigenvalues below about 2.25^−num_iters ‖A‖_F have not converged; 3 to 5 iterations
    compress the spectrum rather than take its root (6 to 26 % off at condition 1e4). Without a ridge, many iterations
    on a rank-deficient matrix amplify rounding in its null space to NaN.

    Raises:
        InputError: not square, outside `jit` not symmetric, num_iters < 1 or ridge < 0.
    """
    a = check_symmetric(a)
    if not ridge >= 0:
        raise InputError(f"ridge must be >= 0, got {ridge}")
    a = (a + a.T) / 2 + ridge * jnp.eye(a.shape[0], dtype=a.dtype)
    y = _iterate(a, num_iters)
    unit, scale = scaled(a)
    residual = safe_ratio(jnp.linalg.norm(dot(y, y) / scale - unit), jnp.linalg.norm(unit))
    return y, jax.lax.stop_gradient(residual)


def spectral_compression(c: MatrixLike, num_iters: int, eps: float) -> Float[Array, "d d"]:
    """The published probes' normalisation of a cross-moment: `num_iters` Newton–Schulz steps on C + eps·I.

    Frobenius pre-normalisation, the result scaled back by √‖C + eps·I‖_F. If C is not symmetric this is a polynomial
    that compresses the spectrum; it may diverge where C + eps·I has eigenvalues with negative real part.

    Raises:
        InputError: `c` is not square, num_iters < 1 or eps < 0.
    """
    c = check_square(c, "c")
    if not eps >= 0:
        raise InputError(f"eps must be >= 0, got {eps}")
    c = c.astype(jnp.promote_types(c.dtype, jnp.float32))
    return _iterate(c + eps * jnp.eye(c.shape[0], dtype=c.dtype), num_iters)
