"""√, inverse √, powers and log of positive definite matrices by matrix products alone, with an estimate of their error.

For devices on which products are quick and `eigh` is not; `covjax.spectral` decides where. A matrix is scaled to
eigenvalues in [lowest, 1] and its root found by the coupled Newton–Schulz iteration, Y → √A and Z → 1/√A (Higham 2008,
§6.7), each step scaled so that the interval of eigenvalues shrinks as fast as a cubic lets it. Three roots make the
logarithm short: with h = log(A)/8 and e^h = A^⅛, e^−h = A^−⅛ at hand, h = asinh((e^h − e^−h)/2), a polynomial.
Derivatives of a root are implicit, dY of Y dY + dY Y = dA, by the same iteration; those of the rest follow from it.
All in float32 at full precision.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpy.polynomial import chebyshev

from covjax.tokens import HIGHEST

LOWEST = 1e-7  # eigenvalue, relative to a bound of the largest, from which on everything converges
LOWEST_SLOPE = 1e-5  # the same for `log_slope_by_products`, whose polynomial needs more terms the lower it is
Square = Float[Array, "d d"]


def dot(a: Float[Array, "n m"], b: Float[Array, "m k"]) -> Float[Array, "n k"]:
    """A product at full precision."""
    return jnp.matmul(a, b, precision=HIGHEST)


def _even(a: Square) -> Square:
    return (a + a.T) / 2


def _scales(lowest: float) -> np.ndarray:
    """Scale of every step x → αx(3 − (αx)²)/2 that takes [lowest, 1] to 1: it gives both ends the same value."""
    scales, x = [], lowest
    while 1 - x > 1e-4:
        scales.append(math.sqrt(3 / (1 + x + x * x)))
        x = scales[-1] * x * (3 - (scales[-1] * x) ** 2) / 2
    return np.array([*scales, 1.0], np.float32)


def minus_square(a: Square, root: Square) -> Square:
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
        product = dot(x, y)
        return product + product.T

    small = both(first + second, rest) + dot(second, second) + dot(rest, rest)
    return a - dot(first, first) - both(first, second) - small


def _sylvester(y: Square, g: Square, lowest: float) -> Square:
    """X with YX + XY = G, Y's eigenvalues in [lowest, 1]: from the sign of [[Y, G], [0, −Y]], which is [[I, 2X], …].

    Linear in G and its own transpose, so that it has derivatives of both modes without storing its steps.
    """

    def solve(_, g):
        def step(state, scale):
            q, c = state
            square = dot(q, q)
            across = dot(square, c) + dot(c, square) - dot(dot(q, c), q)
            q, c = (scale * (3 * x - scale**2 * cube) / 2 for x, cube in ((q, dot(square, q)), (c, across)))
            return (_even(q), c), None

        return jax.lax.scan(step, (y, g), _scales(lowest))[0][1] / 2

    return jax.lax.custom_linear_solve(lambda x: dot(y, x) + dot(x, y), g, solve, solve, symmetric=True)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _roots(a: Square, lowest: float, corrected: bool) -> tuple[Square, Square]:
    """√A and 1/√A of a symmetric A with eigenvalues in [lowest, 1].

    `corrected`: √A with one step of residual correction. Rounding of A's size grows with the small eigenvalues during
    the iteration, to about 1e-3 of √A at condition 1e6; the residual is formed without it.
    """
    scales = _scales(math.sqrt(lowest))
    identity = jnp.eye(len(a), dtype=a.dtype)

    def step(state, scale):
        y, z = state
        t = scale * (3 * identity - scale**2 * dot(z, y)) / 2
        return (_even(dot(y, t)), _even(dot(t, z))), None

    (y, z), _ = jax.lax.scan(step, (a, identity), scales)
    return y + _sylvester(y, minus_square(a, y), math.sqrt(lowest)) if corrected else y, z


@_roots.defjvp
def _roots_jvp(lowest, corrected, primals, tangents):
    y, z = _roots(*primals, lowest, corrected)
    dy = _sylvester(y, tangents[0], math.sqrt(lowest))
    return (y, z), (dy, -dot(dot(z, dy), z))


def _polynomial(function, top: float, terms: int) -> np.ndarray:
    """Coefficients in v = 2w/top − 1 of the interpolant of a function of w at Chebyshev's nodes of [0, top]."""
    values = chebyshev.chebinterpolate(lambda v: function(np.maximum(top * (v + 1) / 2, 1e-30)), terms - 1)
    return chebyshev.cheb2poly(values)


def _evaluate(v: Square, coefficients: np.ndarray) -> Square:
    """Σ c_k V^k in about 2√k products (Paterson and Stockmeyer 1973)."""
    size = math.isqrt(len(coefficients) - 1) + 1
    powers = [jnp.eye(len(v), dtype=v.dtype)]
    for _ in range(size):
        powers.append(dot(powers[-1], v) if len(powers) > 1 else v)
    total = jnp.zeros_like(v)
    for start in reversed(range(0, len(coefficients), size)):
        if start + size < len(coefficients):
            total = dot(powers[size], total)
        for coefficient, power in zip(coefficients[start : start + size], powers):
            total = total + float(coefficient) * power
    return total


def _scaled(a: Square) -> tuple[Square, Float[Array, ""]]:
    """A/c and c = √‖A²‖_F, which is at least the largest eigenvalue and at most d^¼ times it."""
    square = jnp.sum(dot(a, a) ** 2) ** 0.25
    bound = jax.lax.stop_gradient(jnp.where(square > 0, square, 1))
    return a / bound, bound


def _asinh_ratio(w):
    return np.arcsinh(np.sqrt(w)) / np.sqrt(w)


def _log(a: Square) -> tuple[Square, Square]:
    """log A of a matrix with eigenvalues in [LOWEST, 1], and A^−½ A A^−½ − I, about its error."""
    identity = jnp.eye(len(a), dtype=a.dtype)
    y, z, residual = _eighth_roots(a, LOWEST)
    middle = LOWEST**0.0625  # of the eigenvalues of A^⅛, so that h is symmetric about 0
    sinh = (y / middle - z * middle) / 2
    top = 1.3 * math.sinh(math.log(middle)) ** 2
    ratio = _evaluate(2 / top * dot(sinh, sinh) - identity, _polynomial(_asinh_ratio, top, 14))
    return 8 * _even(dot(sinh, ratio)) + math.log(LOWEST) / 2 * identity, residual


def _eighth_roots(a: Square, lowest: float) -> tuple[Square, Square, Square]:
    """A^⅛, A^−⅛ and A^−½ A A^−½ − I."""
    identity = jnp.eye(len(a), dtype=a.dtype)
    y, z = a, identity
    for _ in range(3):
        y, z = _roots(y, lowest, False)
        lowest = math.sqrt(lowest)
    inverse = dot(dot(z, z), dot(z, z))
    return y, z, dot(dot(inverse, a), inverse) - identity


def log_slope_by_products(a: Square, floor: float) -> tuple[Square, Float[Array, ""]]:
    """log(I + A/floor) A⁻¹ of a symmetric A, 1/floor where A is 0, and an estimate of its relative error.

    With M = I + A/floor and h = log(M)/8 it is asinh(s)/s / ((1 + 2s²) √(1 + s²)) M^−½ / floor, s = sinh h: nothing is
    divided by A.
    """
    identity = jnp.eye(len(a), dtype=a.dtype)
    a, bound = _scaled(_even(a) / floor + identity)
    y, z, residual = _eighth_roots(a, LOWEST_SLOPE)
    size = bound**0.125
    sinh = (y * size - z / size) / 2
    top = 1.05 * math.sinh(-math.log(LOWEST_SLOPE) / 8) ** 2
    coefficients = _polynomial(lambda w: _asinh_ratio(w) / ((1 + 2 * w) * np.sqrt(1 + w)), top, 24)
    ratio = _evaluate(2 / top * dot(sinh, sinh) - identity, coefficients)
    quarter = dot(z, z)
    slope = _even(dot(ratio, dot(quarter, quarter)))
    error = _if_near(residual, jnp.linalg.norm(dot(slope, residual)) / jnp.linalg.norm(slope))
    return slope / (floor * jnp.sqrt(bound)), jnp.where(bound < 1 / LOWEST_SLOPE, error, jnp.inf)


def _exp(a: Square, size: float) -> Square:
    """e^A of a symmetric matrix with eigenvalues in [−size, size]: Taylor's series of A/2^k, squared k times."""
    doublings = max(0, math.ceil(math.log2(size)))
    value = _evaluate(a / 2**doublings, np.array([1 / math.factorial(k) for k in range(12)]))
    for _ in range(doublings):
        value = dot(value, value)
    return value


def function_by_products(a: Square, kind: str, floor: float, power: float) -> tuple[Square, Float[Array, ""]]:
    """f(A + floor·I) of a symmetric A, and an estimate of its relative error, NaN or large where it has not converged.

    `kind` is "sqrt", "log" or "power", as in `covjax.spectral`.
    """
    identity = jnp.eye(len(a), dtype=a.dtype)
    a, bound = _scaled(_even(a) + floor * identity)
    if kind == "sqrt" or (kind == "power" and abs(power) == 0.5):
        sign = 1 if kind == "sqrt" or power > 0 else -1
        y, z = _roots(a, LOWEST, sign > 0)
        if sign > 0:
            value, change = y, dot(z, minus_square(a, y))
            size = jnp.sum(change * change.T)  # Σ R_ij² / (y_i y_j), R = A − Y²; the error is R_ij / (y_i + y_j)
        else:
            value, change = z, dot(z, dot(dot(z, a), z) - identity)
            size = jnp.sum(change**2)
        error = jnp.sqrt(jnp.abs(size)) / (2 * jnp.linalg.norm(value))
        return value * jnp.sqrt(bound) ** sign, _if_near(dot(z, y) - identity, error)
    log, residual = _log(a)
    if kind == "log":
        value = log + jnp.log(bound) * identity
        return value, _if_near(residual, jnp.linalg.norm(residual) / jnp.linalg.norm(value))
    half = -power * math.log(LOWEST) / 2  # the exponent is centred, so that half as many doublings are needed
    value = _even(_exp(power * log + half * identity, abs(half) + 1e-3))
    error = abs(power) * jnp.linalg.norm(dot(value, residual)) / jnp.linalg.norm(value)
    return value * (bound**power * math.exp(-half)), _if_near(residual, error)


def _if_near(deviation: Square, error: Float[Array, ""]) -> Float[Array, ""]:
    """The error where every eigenvalue has converged, of which it is a first-order estimate; else infinite."""
    return jnp.where(jnp.linalg.norm(deviation) < 0.3, error, jnp.inf)


@jax.custom_batching.custom_vmap
def any_of_batch(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the flag is set, in a batch: whether it is anywhere in it; so that a `cond` on it runs one branch."""
    return flag


@any_of_batch.def_vmap
def _any_of_batch(axis_size, in_batched, flag):
    return any_of_batch(jnp.any(flag)), False
