"""Functions of symmetric positive semi-definite matrices with the exact derivative, also at repeated eigenvalues."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.eigen import eigh
from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.vectorize import check_square

_HIGHEST = jax.lax.Precision.HIGHEST


def check_symmetric(a: Float[Array, "d d"], name: str = "a") -> Float[Array, "d d"]:
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


def _sandwich(left, middle, right):
    return jnp.matmul(jnp.matmul(left, middle, precision=_HIGHEST), right, precision=_HIGHEST)


def _minus_square(a: Float[Array, "d d"], root: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A − R², R symmetric, as if R² had been formed with 32 bits: what is left of A is as small as A's rounding.

    R is cut into fixed-point slices of 8 bits, whose products add up without rounding (Ozaki et al. 2012); the largest
    is subtracted first.
    """
    unit = jnp.ldexp(jnp.ones((), root.dtype), jnp.frexp(jnp.max(jnp.abs(root)))[1] - 8)  # a power of two, exactly
    slices, rest = [], root
    for scale in (unit, unit / 256):
        slices.append(jnp.round(rest / scale) * scale)
        rest = rest - slices[-1]
    first, second = slices

    def both(x, y):
        product = jnp.matmul(x, y, precision=_HIGHEST)
        return product + product.T

    def square(x):
        return jnp.matmul(x, x, precision=_HIGHEST)

    small = both(first + second, rest) + square(second) + square(rest)
    return a - square(first) - both(first, second) - small


def _root_and_solver(a, ridge):
    """√A and X ↦ the solution of √A X + X √A = G, each with one step of residual correction.

    A float32 `eigh` leaves the small eigenvalues with an error that a residual, one product, does not have: at
    condition 1e4 the correction makes the derivative ten times better. Eigenvalues lost in rounding are left alone.
    Its eigenvectors are orthonormal to a few units of rounding only; a Newton–Schulz step, V(3I − VᵀV)/2, removes that.
    """
    s, v = _eigenvalues(a, ridge)
    v = (
        v
        + jnp.matmul(v, jnp.eye(len(s), dtype=v.dtype) - jnp.matmul(v.T, v, precision=_HIGHEST), precision=_HIGHEST) / 2
    )
    table = _divided_sqrt(s, None)
    known = s > 100 * jnp.finfo(s.dtype).eps * s[-1]
    known = known[:, None] | known[None, :]

    def solve(g, only_known=False):
        inner = jnp.where(known, table, 0) if only_known else table
        return _sandwich(v, inner * _sandwich(v.T, g, v), v.T)

    root = jnp.matmul(v * jnp.sqrt(s)[None], v.T, precision=_HIGHEST)
    root = (root + root.T) / 2
    shifted = (a + a.T) / 2 + ridge * jnp.eye(len(s), dtype=a.dtype)
    root = root + solve(_minus_square(shifted, root), only_known=True)

    def corrected(g):
        x = solve(g)
        half = jnp.matmul(root, x, precision=_HIGHEST)
        return x + solve(g - half - half.T, only_known=True)

    return root, corrected


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def psd_function(a, kind: str, ridge: float, power: float):
    """V f(s) Vᵀ of the symmetric part of `a` with eigenvalues max(s, 0) + ridge; no checks (see the public names).

    The root under a derivative has its residual corrected, which the derivative needs and the root alone does not.
    """
    s, v = _eigenvalues(a, ridge)
    return jnp.matmul(v * _FUNCTIONS[kind][0](s, power)[None], v.T, precision=_HIGHEST)


@psd_function.defjvp
def _psd_function_jvp(kind, ridge, power, primals, tangents):
    (a,), (da,) = primals, tangents
    da = (da + da.T) / 2
    if kind == "sqrt":
        root, solve = _root_and_solver(a, ridge)
        return root, solve(da)
    s, v = _eigenvalues(a, ridge)
    function, divided = _FUNCTIONS[kind]
    tangent = _sandwich(v, divided(s, power) * _sandwich(v.T, da, v), v.T)
    return jnp.matmul(v * function(s, power)[None], v.T, precision=_HIGHEST), tangent


def _check(a, value: float, name: str, minimum_open: bool) -> Float[Array, "d d"]:
    a = check_symmetric(a)
    if not (value > 0 if minimum_open else value >= 0):
        raise InputError(f"{name} must be {'>' if minimum_open else '>='} 0, got {value}")
    return a


def psd_sqrt(a: Float[Array, "d d"], ridge: float = 0.0) -> Float[Array, "d d"]:
    """(A + ridge·I)^½ by `eigh`, eigenvalues below 0 (rounding) taken as 0.

    The derivative is Daleckii–Krein, V[(VᵀGV)_ij/(√s_i + √s_j)]Vᵀ: exact at repeated eigenvalues. It is infinite at
    eigenvalue 0; with ridge > 0 it is bounded by 1/(2√ridge), with ridge = 0 the null space gets gradient 0.

    Raises:
        InputError: not square, outside `jit` not symmetric, or ridge < 0.
    """
    return psd_function(_check(a, ridge, "ridge", False), "sqrt", ridge, 0.5)


def psd_log(a: Float[Array, "d d"], eps: float) -> Float[Array, "d d"]:
    """log(A + eps·I) by `eigh` with the Daleckii–Krein derivative, bounded by 1/eps.

    Raises:
        InputError: not square, outside `jit` not symmetric, or eps <= 0.
    """
    return psd_function(_check(a, eps, "eps", True), "log", eps, 0.0)


def psd_power(a: Float[Array, "d d"], power: float, ridge: float = 0.0) -> Float[Array, "d d"]:
    """(A + ridge·I)^power by `eigh` with the Daleckii–Krein derivative; gradient 0 on the null space if ridge is 0.

    Raises:
        InputError: not square, outside `jit` not symmetric, ridge < 0, or power <= 0 without a ridge.
    """
    if power <= 0 and ridge <= 0:
        raise InputError(f"power must be > 0 unless ridge > 0, got power {power} and ridge {ridge}")
    return psd_function(_check(a, ridge, "ridge", False), "power", ridge, power)
