"""√ and log of a second moment from its tokens × tokens Gram matrix: cheap where tokens are fewer than features."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.eigen import eigh
from covjax.moments import _moments
from covjax.spectral import psd_function
from covjax.tokens import safe_ratio, weighted_mean

_HIGHEST = jax.lax.Precision.HIGHEST


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def thin_spectral(
    x: Float[Array, "tokens features"], w: Float[Array, "tokens"], statistic: str, kind: str, floor: float
) -> Float[Array, "features features"]:
    """(S + floor·I)^½ or log(S + floor·I) for S = YᵀY, Y = √(w/n) (X − c), from the eigenvectors U of YYᵀ = UsUᵀ.

    f(S) = f(0)·I + Yᵀ U g(s) Uᵀ Y with g(s) = (f(s) − f(0))/s, written without that difference: 1/(√(s + floor) +
    √floor) and log1p(s/floor)/s. Checked, masked tokens only (`prepare_tokens`); `statistic` is "covariance" (c the
    mean) or "second_moment" (c = 0), `kind` "sqrt" or "log". Derivatives are those of the features × features form.
    """
    n = jnp.sum(w)
    center = weighted_mean(x, w) if statistic == "covariance" else 0
    y = (x - jnp.reshape(center, (1, -1))) * jnp.sqrt(safe_ratio(w, n))[:, None]
    s, u = eigh(jnp.matmul(y, y.T, precision=_HIGHEST))
    s = jnp.maximum(s, 0)
    if kind == "sqrt":
        total = jnp.sqrt(s + floor) + floor**0.5
        at_zero, slope = floor**0.5, jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    else:
        ratio = s / floor
        # log1p(r)/r → 1 − r/2: below 1e-4 the next term is lost in float32
        small = ratio < 1e-4
        slope = jnp.where(small, 1 - ratio / 2, jnp.log1p(ratio) / jnp.where(small, 1, ratio)) / floor
        at_zero = jnp.log(floor)
    b = jnp.matmul(y.T, u, precision=_HIGHEST)
    return jnp.matmul(b * slope[None], b.T, precision=_HIGHEST) + at_zero * jnp.eye(x.shape[1], dtype=x.dtype)


@thin_spectral.defjvp
def _thin_spectral_jvp(statistic, kind, floor, primals, tangents):
    def whole(x, w):
        return psd_function(getattr(_moments(x, w), statistic)(), kind, floor, 0.5)

    return jax.jvp(whole, primals, tangents)
