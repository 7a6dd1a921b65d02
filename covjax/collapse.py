"""Second-order collapse: how much of the difference between two sequences' tokens their means hide.

The measure is SOCM of Hara, Kurita, Imaizumi, Inui and Yokoi 2026, "Why Mean Pooling Works: Quantifying Second-Order
Collapse in Text Embeddings" (ACL 2026, arXiv 2604.27398).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.spectral import centred_tokens
from covjax.tokens import HIGHEST, TokensLike, WeightsLike, prepare_tokens, weighted_mean


class Cloud(NamedTuple):
    """The tokens of a sequence over the norm of their mean: the mean, and a factor F of their covariance, Σ = FᵀF."""

    mean: Float[Array, "features"]
    factor: Float[Array, "columns features"]

    @property
    def concentration(self) -> Float[Array, ""]:
        """The trace of Σ: tr Σ / ‖μ‖² of the tokens as they were, small where they lie close to their mean."""
        return jnp.sum(self.factor**2)


class Collapse(NamedTuple):
    """Of two sequences: the distance of their means, that of their covariances, and SOCM, (1 − the first) · the second.

    d_μ = ‖μ₁ − μ₂‖² / 4 is in [0, 1]. d_Σ is in [0, (tr Σ₁ + tr Σ₂) / 4], and reaches the upper end where the two
    covariances share no direction. So d_Σ and SOCM are at most 1 where the two traces sum to at most 4; the paper gives
    [0, 1] for all, but nothing else bounds them.
    """

    mean_distance: Float[Array, ""]
    covariance_distance: Float[Array, ""]
    socm: Float[Array, ""]


# One matrix at a time under `jax.vmap`: two batches of them in one program may wait for each other for ever on a CPU
# (`covjax.spectral.eigh`).
@jax.custom_batching.sequential_vmap
def _triangle(y: Float[Array, "tokens features"]) -> Float[Array, "columns features"]:
    """R with RᵀR = YᵀY, of min(tokens, features) rows."""
    return jnp.linalg.qr(y, mode="r")


@jax.custom_batching.sequential_vmap
def _nuclear_norm(a: Float[Array, "rows columns"]) -> Float[Array, ""]:
    return jnp.sum(jnp.linalg.svd(a, compute_uv=False))


def token_cloud(x: TokensLike, weights: WeightsLike = None) -> Cloud:
    """Mean and covariance of tokens that are divided by the norm of their mean.

    The factor has min(tokens, features) rows. Masked tokens do not count. Tokens whose mean is 0 have no such cloud:
    its numbers are NaN or infinite.

    Raises:
        TypeError, InputError: as `covjax.moments`.
    """
    x, w = prepare_tokens(x, weights)
    mean = weighted_mean(x, w)
    norm = jnp.linalg.norm(mean)
    factor = centred_tokens(x, w, "covariance") / norm
    if factor.shape[0] > factor.shape[1]:
        factor = _triangle(factor)
    return Cloud(mean / norm, factor)


def cloud_collapse(first: Cloud, second: Cloud) -> Collapse:
    """Second-order collapse between two sequences whose clouds are known.

    tr (Σ₁^½ Σ₂ Σ₁^½)^½ is the sum of the singular values of F₁F₂ᵀ, which is tokens × tokens for short sequences. No
    root of a matrix is taken, so covariances without full rank lose no digits.
    """
    apart = jnp.sum((first.mean - second.mean) ** 2) / 4
    overlap = _nuclear_norm(jnp.matmul(first.factor, second.factor.T, precision=HIGHEST))
    spread = jnp.maximum(first.concentration + second.concentration - 2 * overlap, 0) / 4  # rounding may go below 0
    return Collapse(apart, spread, (1 - apart) * spread)


def second_order_collapse(
    x1: TokensLike, x2: TokensLike, weights1: WeightsLike = None, weights2: WeightsLike = None
) -> Collapse:
    """How much mean pooling hides of the difference between two sequences' tokens (SOCM, Hara et al. 2026).

    With each sequence's tokens divided by the norm of their own mean: d_μ = ‖μ₁ − μ₂‖² / 4, d_Σ = tr(Σ₁ + Σ₂ −
    2 (Σ₁^½ Σ₂ Σ₁^½)^½) / 4, a quarter of the squared Bures–Wasserstein distance, and SOCM = (1 − d_μ) d_Σ. d_μ + d_Σ is
    a quarter of the squared Wasserstein distance of two normal distributions. SOCM is large where the means are near
    and the covariances are not. The paper averages it over pairs of texts; it says that all three are at most 1, which
    d_Σ and SOCM are only as `Collapse` says.

    Args:
        x1: tokens of the first sequence, (tokens, features).
        x2: tokens of the second, of the same features; the numbers of tokens may differ.
        weights1: weights of the first sequence's tokens, 0 for masked ones.
        weights2: weights of the second's.

    Raises:
        TypeError, InputError: as `covjax.moments`, and for different numbers of features.
    """
    first, second = token_cloud(x1, weights1), token_cloud(x2, weights2)
    if first.mean.shape != second.mean.shape:
        raise InputError(
            f"x2 has {len(second.mean)} features, x1 has {len(first.mean)}; give tokens of one encoder and layer"
        )
    return cloud_collapse(first, second)
