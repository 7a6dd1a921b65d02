"""Gated sparse autoencoders: one part decides whether a latent is active, another how strongly."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.autoencoders.base import register_autoencoder
from covjax.autoencoders.sparse.kinds import Dense, row_norms
from covjax.autoencoders.sparse.module import Forward, token_mean
from covjax.errors import InputError
from covjax.tokens import HIGHEST


@register_autoencoder("gated")
class Gated(Dense):
    """z = H(π + b_gate) relu(eʳ ∘ π + bᵉ) with π = (s·x − b) Wᵉᵀ (Rajamanoharan et al. 2024, Gated).

    What is penalised, l1 · Σ_h relu(π + b_gate)_h ‖W_h‖, are the gates and not the magnitudes, which do not shrink. The
    gates must also reconstruct: the error of relu(π + b_gate) through a decoder without gradient is added to the loss.
    Raises InputError for values out of range.

    Attributes:
        gate_bias, log_magnitude: b_gate and r, (latents,), 0 at the start; `encoder_bias` is that of the magnitudes.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        l1: float = 1.0,
        dead_after: float = 200_000,
        rescale: str = "none",
        seed: int = 0,
    ):
        if not l1 >= 0:
            raise InputError(f"l1 must be >= 0, got {l1}")
        super().__init__(features, latents, seed=seed, dead_after=dead_after, rescale=rescale)
        self.gate_bias = nnx.Param(jnp.zeros(latents))
        self.log_magnitude = nnx.Param(jnp.zeros(latents))
        self.l1 = l1

    def preactivations(self, scaled: Float[Array, "tokens features"]) -> Float[Array, "tokens latents"]:
        """π = (s·x − b) Wᵉᵀ."""
        return jnp.matmul(scaled - self.decoder_bias[...][None], self.encoder[...].T, precision=HIGHEST)

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        magnitude = jax.nn.relu(jnp.exp(self.log_magnitude[...])[None] * pre + self.encoder_bias[...][None])
        return jnp.where(pre + self.gate_bias[...][None] <= 0, 0, magnitude)  # NaN stays NaN

    def train_activate(self, pre, weights):
        """See `Dense`."""
        return self.activate(pre), 0.0

    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """See `SparseAutoencoder.forward`."""
        out = super().forward(x, weights)
        gates = jax.nn.relu(out.pre + self.gate_bias[...][None])
        decoder, bias = jax.lax.stop_gradient((self.decoder[...], self.decoder_bias[...]))
        error = jnp.sum(jnp.square(x - jnp.matmul(gates, decoder, precision=HIGHEST) - bias[None]), axis=1)
        size = jnp.matmul(gates, row_norms(self.decoder[...]), precision=HIGHEST)
        penalty = token_mean(error + self.l1 * size, weights)
        return dataclasses.replace(out, penalty=penalty)
