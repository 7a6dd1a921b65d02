"""Latents of a sparse autoencoder as a block's features."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from covjax.autoencoders.sparse import SparseAutoencoder

SHORTEST = 32  # tokens: sequences are padded to this times a power of two, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class Latents:
    """Those latents of a sparse autoencoder that a pool looks at.

    `numbers` are theirs in the autoencoder, ascending. `pairs` are the places in `numbers` whose products are pooled;
    None where the latents' means are.
    """

    autoencoder: SparseAutoencoder
    numbers: Int[np.ndarray, "d"]
    pairs: Int[np.ndarray, "pairs 2"] | None = None

    def __call__(self, z: Float[np.ndarray, "t features"]) -> Float[np.ndarray, "t d"]:
        """The latents of standardised tokens, in float64 of what the autoencoder gives in float32."""
        length = SHORTEST
        while length < len(z):
            length *= 2
        x = np.zeros((length, z.shape[1]), np.float32)
        x[: len(z)] = z
        return np.asarray(_encode(self.autoencoder, x))[: len(z), self.numbers].astype(np.float64)

    def form(self, weights: Float[np.ndarray, "pairs k"]) -> Float[np.ndarray, "k d d"]:
        """The symmetric matrices W for which ⟨W, M⟩ is the weights times M's entries at the pairs, the others √2."""
        assert self.pairs is not None
        left, right = self.pairs.T
        out = np.zeros((weights.shape[1], len(self.numbers), len(self.numbers)))
        out[:, left, right] = np.where(left == right, 1, 0.5**0.5) * weights.T
        out[:, right, left] = out[:, left, right]
        return out

    @property
    def names(self) -> list[tuple[int, ...]]:
        """The latents' numbers of every term: one of a mean, two of a pair (twice the same for its square)."""
        if self.pairs is None:
            return [(int(number),) for number in self.numbers]
        return [(int(self.numbers[i]), int(self.numbers[j])) for i, j in self.pairs]

    def weights(self, block_weights: Float[np.ndarray, "k *shape"]) -> Float[np.ndarray, "k terms"]:
        """What multiplies the mean latent, or the mean product of two, in the score of every label."""
        if self.pairs is None:
            return block_weights
        left, right = self.pairs.T
        return block_weights[:, left, right] * np.where(left == right, 1, 2)

    def moments(self, statistic: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "terms"]:
        """One sequence's mean latents, or the mean products of its pairs, out of what its block pools."""
        return statistic if self.pairs is None else statistic[tuple(self.pairs.T)]


@nnx.jit
def _encode(autoencoder: SparseAutoencoder, x: Float[Array | np.ndarray, "t features"]) -> Float[Array, "t latents"]:
    return autoencoder.encode(x)


def make_latents(pooler: Any) -> Latents:
    """The latents of the poolers `sae_mean` and `sae_cooccurrence`."""
    if pooler.name == "sae_mean":
        return Latents(pooler.autoencoder, np.arange(pooler.autoencoder.latents))
    numbers, places = np.unique(np.asarray(pooler.pairs[...]), return_inverse=True)
    return Latents(pooler.autoencoder, numbers, places.reshape(-1, 2))


def term_name(latents: Sequence[int]) -> str:
    """`latent 812`, `latent 812 with 97`, or `latent 812 squared`."""
    first, *others = latents
    if not others:
        return f"latent {first}"
    return f"latent {first} squared" if others[0] == first else f"latent {first} with {others[0]}"
