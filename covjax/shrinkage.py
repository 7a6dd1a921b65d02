"""Linear shrinkage of a covariance towards a multiple of the identity, and how many samples tokens are worth."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.spectral import centred_tokens, check_symmetric
from covjax.tokens import (
    MatrixLike,
    TokensLike,
    WeightsLike,
    prepare_tokens,
    safe_ratio,
    scaled,
    weighted_mean,
)


def shrink(
    s: MatrixLike,
    method: str | float | Float[Array, ""] = "ledoit_wolf",
    *,
    count: float | Float[Array, ""] | None = None,
    x: TokensLike = None,
    weights: WeightsLike = None,
) -> Float[Array, "d d"]:
    """(1 − ρ) S + ρ (tr S / d) I.

    Args:
        s: covariance with ddof 0.
        method: ρ itself, in [0, 1]; "oas" (Chen, Wiesel, Eldar, Hero 2010, eq. 23, with the paper's 2/d terms) from
            `count`; "ledoit_wolf" (Ledoit, Wolf 2004) from the tokens `x` and `weights` that made `s`.
        count: number of independent samples. Neighbouring tokens are correlated: the effective number
            (`effective_count`) is smaller than the number of tokens, and passing the latter shrinks too little.
        x: tokens, for "ledoit_wolf".
        weights: their weights, for "ledoit_wolf".

    Raises:
        InputError: not square, outside `jit` not symmetric, unknown method, ρ outside [0, 1], or a missing
            `count` or `x`.
    """
    s = check_symmetric(s, "s")
    d = s.shape[0]
    trace = jnp.trace(s)
    unit, scale = scaled(s)  # ρ has fourth powers of the tokens, and does not depend on their scale
    if method == "oas":
        if count is None:
            raise InputError("count is needed by method 'oas': the number of independent samples")
        rho = oas(jnp.sum(unit * unit), (trace / scale) ** 2, jnp.asarray(count, s.dtype), d)
    elif method == "ledoit_wolf":
        if x is None:
            raise InputError("x is needed by method 'ledoit_wolf': the tokens that made s")
        x, w = prepare_tokens(x, weights)
        rho = _ledoit_wolf(unit, x / jnp.sqrt(scale), w)
    elif isinstance(method, str):
        raise InputError(f"method must be 'ledoit_wolf', 'oas' or a number in [0, 1], got {method!r}")
    else:
        if is_concrete(method) and not 0 <= method <= 1:
            raise InputError(f"method as a number must lie in [0, 1], got {method}")
        rho = jnp.asarray(method, s.dtype)
    return (1 - rho) * s + rho * trace / d * jnp.eye(d, dtype=s.dtype)


def _clip(numerator, denominator):
    """Ratio in [0, 1]; 1 where the denominator is 0 (S is already a multiple of the identity)."""
    return jnp.where(denominator > 0, jnp.clip(safe_ratio(numerator, denominator), 0, 1), 1)


def oas(square: Float[Array, ""], trace2: Float[Array, ""], count: Float[Array, ""], features: int) -> Float[Array, ""]:
    """ρ of method "oas" of `shrink`, from tr S², (tr S)² and the number of independent samples; no checks."""
    d = features
    return _clip((1 - 2 / d) * square + trace2, (count + 1 - 2 / d) * (square - trace2 / d))


def _ledoit_wolf(s, x, w):
    count = jnp.sum(w)
    deviation = x - weighted_mean(x, w)[None]
    square = jnp.sum(s * s)
    fourth = safe_ratio(jnp.sum(w * jnp.sum(deviation**2, axis=1) ** 2), count)
    return _clip(safe_ratio(fourth - square, count), square - jnp.trace(s) ** 2 / s.shape[0])


def effective_count(x: TokensLike, weights: WeightsLike = None) -> Float[Array, ""]:
    """Number of independent samples that the tokens of one sequence are worth: n / (1 + 2 Σ_k r_k), from 1 to n.

    r_k = Σ_i ⟨y_i, y_{i+k}⟩ / Σ_i ⟨y_i, y_i⟩ with y_i = √w_i (x_i − μ) is the autocorrelation at lag k, averaged over
    the features by their variance. Lags count up to the first whose r_k is not positive (Geyer 1992 sums pairs of
    lags). n = Σ w_i, taken as 1 where it is less; masked tokens are left out, so that their neighbours are next to each
    other. 1 token, or tokens that do not vary, are worth n.

    Raises:
        TypeError, InputError: as `covjax.moments`.
    """
    return prepared_effective_count(*prepare_tokens(x, weights))


def prepared_effective_count(x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, ""]:
    """`effective_count` of tokens that `prepare_tokens` has checked."""
    count = jnp.maximum(jnp.sum(w), 1)
    y = centred_tokens(x, w, "covariance")[jnp.argsort(w <= 0, stable=True)]  # masked tokens, 0, behind the others
    length = len(w)
    spectrum = jnp.fft.rfft(y, 2 * length, axis=0)
    power = jnp.sum(spectrum.real**2 + spectrum.imag**2, axis=1)
    products = jnp.fft.irfft(power, 2 * length)[:length]
    r = safe_ratio(products[1:], products[0])
    positive = jnp.cumprod(r > 0)  # until the first that is not
    return jnp.clip(count / (1 + 2 * jnp.sum(r * positive)), 1, count)
