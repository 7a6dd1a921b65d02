"""TopK sparse autoencoder (Gao et al. 2024): k latents a token, decoded and trained as sparse codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from covjax.autoencoders.registry import register_autoencoder
from covjax.autoencoders.sparse.activations import check_k, topk
from covjax.autoencoders.sparse.codes import affine_at, decode_codes, preactivations, top_k
from covjax.autoencoders.sparse.module import Forward, SparseAutoencoder


@register_autoencoder("topk")
class TopK(SparseAutoencoder):
    """The k largest pre-activations of every token; one dense product a step, none in its gradient.

    Raises InputError for k > latents and other values out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        k: int = 32,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        check_k(k, latents)
        super().__init__(features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after)
        self.k = k

    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """See `SparseAutoencoder.forward`."""
        centred = x - self.decoder_bias[...][None]
        pre, values, indices = self._codes(centred)
        reconstruction = decode_codes(values, indices, self.decoder[...]) + self.decoder_bias[...][None]
        active = values > 0
        counted = active & (weights > 0)[:, None]
        fired = jnp.zeros(self.latents, bool).at[indices].max(counted)
        return Forward(reconstruction, centred, pre, jnp.sum(active, axis=1), fired, 0.0)

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return topk(pre, self.k)

    def codes(self, x: Float[Array, "tokens features"]) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
        """Values and indices of the active latents: `encode` without the zeros."""
        x, _ = self._check(x, None)
        return self._codes(self._scaled(x) - self.decoder_bias[...][None])[1:]

    def _codes(self, centred):
        encoder, bias = self.encoder[...], self.encoder_bias[...]
        pre = jax.lax.stop_gradient(preactivations(centred, encoder, bias))
        _, indices = top_k(pre, self.k)
        return pre, jax.nn.relu(affine_at(centred, encoder, bias, pre, indices)), indices
