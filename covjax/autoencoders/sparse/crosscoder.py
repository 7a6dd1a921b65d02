"""Crosscoders: one dictionary for several layers, each latent with a direction in every layer."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.autoencoders.base import register_autoencoder
from covjax.autoencoders.sparse.kinds import BatchTopK
from covjax.autoencoders.sparse.module import Sums, geometric_median, norm_scale, token_sums
from covjax.errors import InputError
from covjax.standardise import Statistic
from covjax.tokens import TokensLike, WeightsLike


@register_autoencoder("crosscoder")
class Crosscoder(BatchTopK):
    """BatchTopK of several layers' tokens side by side, (tokens, layers · width), each layer with a scale of its own.

    A latent reads all layers and writes all of them (Lindsey et al. 2024); instead of their L1 penalty the k · tokens
    largest latents of a batch are active. A latent's decoder row has norm 1 over the layers together, so the share of a
    layer in it says where the feature lives: `layer_norms`. Loss and fvu are of scaled tokens: all layers count alike.

    Raises InputError for values out of range, and features that are not `layers` layers of one width.
    """

    def __init__(
        self,
        features: int,
        *,
        layers: int = 2,
        latents: int = 4096,
        k: int = 32,
        smoothing: float = 0.01,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        if layers < 1 or features % layers:
            raise InputError(f"layers: {features} features are not {layers} layers of one width")
        super().__init__(
            features,
            latents=latents,
            k=k,
            smoothing=smoothing,
            aux_weight=aux_weight,
            aux_k=aux_k,
            dead_after=dead_after,
            seed=seed,
        )
        self.layers = layers
        self.scale = Statistic(jnp.ones(features))

    def initialise(self, batches: Sequence[tuple[TokensLike, WeightsLike]]) -> None:
        """See `SparseAutoencoder.initialise`; every layer gets its own scale."""
        sample = self._sample(batches)
        scales = [norm_scale(layer) for layer in jnp.split(sample, self.layers, axis=1)]
        self.scale[...] = jnp.repeat(jnp.stack(scales), self.features // self.layers)
        self.decoder_bias[...] = geometric_median(sample * self.scale[...][None])

    def layer_norms(self) -> Float[Array, "latents layers"]:
        """Norm of every latent's direction in every layer; their squares sum to 1 over the layers."""
        rows = self.decoder[...].reshape(self.latents, self.layers, -1)
        return jnp.linalg.norm(rows, axis=2)

    def evaluate(self, x: TokensLike, weights: WeightsLike = None) -> Sums:
        """See `SparseAutoencoder.evaluate`; of scaled tokens."""
        x, weights = self._check(x, weights)
        scaled = self._scaled(x)
        z = self.activate(self.preactivations(scaled))
        return token_sums(scaled, self.decode(z) * self.scale[...][None], z, self.decoder_bias[...], weights)
