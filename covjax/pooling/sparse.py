"""Poolers on the latents of a trained sparse autoencoder: their mean, their maximum, and the moment of chosen pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from covjax.errors import InputError
from covjax.pooling.base import register
from covjax.tokens import HIGHEST, TokensLike, WeightsLike, prepare_tokens, safe_ratio

if TYPE_CHECKING:  # autoencoders are imported by those who have one, not by `import covjax`
    from covjax.autoencoders.sparse import SparseAutoencoder

PairsLike = Annotated[Any, Int[np.ndarray, "pairs 2"]]  # checked below, with a message of its own
Given = Union["SparseAutoencoder", str, Path]


class _LatentPool(nnx.Module):
    permutation_invariant = True

    def __init__(self, autoencoder: "SparseAutoencoder"):
        self.autoencoder = autoencoder

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`); the tokens receive a gradient, the autoencoder none."""
        x, w = prepare_tokens(x, weights)
        graph, state = nnx.split(self.autoencoder)
        z = nnx.merge(graph, jax.lax.stop_gradient(state)).encode(x)
        return self.pool(jnp.where(w[:, None] > 0, z, 0), w)

    def pool(self, z: Float[Array, "tokens latents"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        """Latents, 0 for masked tokens, to one vector."""
        raise NotImplementedError


class MeanLatents(_LatentPool):
    """Σ w z / n; size latents."""

    name = "sae_mean"

    def pool(self, z: Float[Array, "tokens latents"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        """See the class."""
        return safe_ratio(jnp.matmul(w, z, precision=HIGHEST), jnp.sum(w))


class MaxLatents(_LatentPool):
    """Largest value of every latent; size latents."""

    name = "sae_max"

    def pool(self, z: Float[Array, "tokens latents"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        """See the class."""
        return jnp.max(z, axis=0)


class Pairs(nnx.Variable[Array]):
    """Pairs of latents chosen beforehand: saved with the pooler, not trained."""


class Cooccurrence(_LatentPool):
    """Σ w z_i z_j / n for chosen pairs, off-diagonal ones times √2; size pairs."""

    name = "sae_cooccurrence"

    def __init__(self, autoencoder: "SparseAutoencoder", pairs: Int[np.ndarray, "pairs 2"]):
        super().__init__(autoencoder)
        self.pairs = Pairs(jnp.asarray(pairs, jnp.int32))

    def pool(self, z: Float[Array, "tokens latents"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        """See the class."""
        left, right = self.pairs[...].T
        rows = z.T  # a latent's tokens side by side: a CPU copies rows, and gathers columns number by number
        product = jnp.matmul(rows[left] * rows[right], w, precision=HIGHEST)
        return safe_ratio(product, jnp.sum(w)) * jnp.where(left == right, 1, 2**0.5)


def _autoencoder(given: Given) -> "SparseAutoencoder":
    from covjax.autoencoders.loading import load
    from covjax.autoencoders.sparse import SparseAutoencoder

    module = load(given) if isinstance(given, (str, Path)) else given
    if not isinstance(module, SparseAutoencoder):
        raise InputError(f"autoencoder must be a sparse one or its folder, got {type(module).__name__}")
    return module


@register("sae_mean")
def sae_mean(*, autoencoder: Given) -> MeanLatents:
    """Mean of the latents of a sparse autoencoder (the module, or a name for `load`); size latents."""
    return MeanLatents(_autoencoder(autoencoder))


@register("sae_max")
def sae_max(*, autoencoder: Given) -> MaxLatents:
    """Maximum of the latents of a sparse autoencoder over the tokens; size latents."""
    return MaxLatents(_autoencoder(autoencoder))


@register("sae_cooccurrence")
def sae_cooccurrence(*, autoencoder: Given, pairs: PairsLike) -> Cooccurrence:
    """Second moment of the latents for given pairs (i, j), as `sparse.cooccurrence.frequent_pairs` chooses them."""
    module, pairs = _autoencoder(autoencoder), np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs) or pairs.dtype.kind not in "iu":
        raise InputError(f"pairs must be whole numbers of shape (pairs, 2), got {pairs.dtype} {pairs.shape}")
    if pairs.min() < 0 or pairs.max() >= module.latents:
        raise InputError(f"pairs must be from 0 to {module.latents - 1}, got {pairs.min()} to {pairs.max()}")
    return Cooccurrence(module, pairs)
