"""Poolers on a second moment between projections: a given basis here, learned ones in `learned`."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.pooling.base import register
from covjax.pooling.second_order import apply_spectral, check_spectral
from covjax.projected import projected_moment
from covjax.vectorize import vech


class Basis(nnx.Variable):
    """A projection fixed beforehand (PCA, autoencoder, random): saved with the pooler, not trained."""


class ProjectedCovariance(nnx.Module):
    """vech of f(AᵀΣA) for a fixed basis A, the tied "truncated" covariance; size r(r+1)/2."""

    name = "projected_covariance"
    permutation_invariant = True

    def __init__(self, basis: Float[Array, "features rank"], spectral: str | None, floor: float):
        self.basis = Basis(basis)
        self.spectral = spectral
        self.floor = floor

    def __call__(
        self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None
    ) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        c = projected_moment(x, self.basis[...], weights=weights, center="sequence")
        return vech(apply_spectral(c, self.spectral, self.floor))


@register("projected_covariance")
def projected_covariance(
    *, basis: Float[Array, "features rank"], spectral: str | None = None, ridge: float = 1e-6, eps: float = 0.1
) -> ProjectedCovariance:
    """vech of f(AᵀΣA), f the identity, `"sqrt"` of (· + ridge·I) or `"log"` of (· + eps·I); size r(r+1)/2."""
    basis = jnp.asarray(basis, jnp.float32)
    if basis.ndim != 2:
        raise InputError(f"basis must have shape (features, rank), got {basis.shape}")
    return ProjectedCovariance(basis, spectral, check_spectral(spectral, ridge, eps))
