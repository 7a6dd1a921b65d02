"""Sparse autoencoders whose number of active latents varies by token: ReLU, JumpReLU, BatchTopK, Matryoshka."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.autoencoders.registry import register_autoencoder
from covjax.autoencoders.sparse.activations import batch_topk, check_k, jumprelu, step
from covjax.autoencoders.sparse.module import Forward, SparseAutoencoder
from covjax.autoencoders.statistics import Statistic
from covjax.errors import InputError
from covjax.tokens import safe_ratio

_HIGHEST = jax.lax.Precision.HIGHEST


class _Dense(SparseAutoencoder):
    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """See `SparseAutoencoder.forward`."""
        pre = self.preactivations(x)
        z, penalty = self.train_activate(pre, weights)
        reconstruction, nested = self.reconstruct(x, z, weights)
        active = z > 0
        fired = jnp.any(active & (weights > 0)[:, None], axis=0)
        centred = x - self.decoder_bias[...][None]
        return Forward(reconstruction, centred, pre, jnp.sum(active, axis=1), fired, penalty + nested)

    def train_activate(self, pre, weights):
        """Latents in training, and the penalty on them."""
        raise NotImplementedError

    def reconstruct(self, x, z, weights):
        """Scaled reconstruction, and what is added to the loss for its parts."""
        return jnp.matmul(z, self.decoder[...], precision=_HIGHEST) + self.decoder_bias[...][None], 0.0


@register_autoencoder("relu")
class ReLU(_Dense):
    """relu with the penalty l1 · Σ_h z_h ‖W_h‖ (Bricken et al. 2023; ‖W_h‖: their update of April 2024).

    Raises InputError for values out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        l1: float = 1.0,
        aux_weight: float = 0.0,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        if not l1 >= 0:
            raise InputError(f"l1 must be >= 0, got {l1}")
        super().__init__(features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after)
        self.l1 = l1

    def train_activate(self, pre, weights):
        """See `_Dense`."""
        z = jax.nn.relu(pre)
        each = jnp.matmul(z, jnp.linalg.norm(self.decoder[...], axis=1), precision=_HIGHEST)
        return z, self.l1 * safe_ratio(jnp.sum(weights * each), jnp.sum(weights))

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jax.nn.relu(pre)


@register_autoencoder("jumprelu")
class JumpReLU(_Dense):
    """pre · H(pre − θ) with the penalty l0 · L0, trained through pseudo-derivatives (Rajamanoharan et al. 2024).

    The parameter is θ itself, kept >= 0, where the paper trains log θ: tensors then go in and out unchanged.
    Raises InputError for values out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        l0: float = 0.1,
        bandwidth: float = 0.05,
        start_threshold: float = 0.05,
        aux_weight: float = 0.0,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        if not (l0 >= 0 and bandwidth > 0 and start_threshold >= 0):
            numbers = f"{l0}, {bandwidth} and {start_threshold}"
            raise InputError(f"l0 and start_threshold must be >= 0, bandwidth > 0, got {numbers}")
        super().__init__(features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after)
        self.threshold = nnx.Param(jnp.full(latents, start_threshold, jnp.float32))
        self.l0 = l0
        self.bandwidth = bandwidth

    def train_activate(self, pre, weights):
        """See `_Dense`."""
        each = jnp.sum(step(pre, self.threshold[...], self.bandwidth), axis=1)
        penalty = self.l0 * safe_ratio(jnp.sum(weights * each), jnp.sum(weights))
        return jumprelu(pre, self.threshold[...], self.bandwidth), penalty

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jnp.where(pre <= jnp.reshape(self.threshold[...], (1, -1)), 0, pre)  # NaN stays NaN

    def after_step(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None) -> None:
        """See `SparseAutoencoder.after_step`; also keeps θ >= 0."""
        super().after_step(x, weights)
        self.threshold[...] = jax.nn.relu(self.threshold[...])


@register_autoencoder("batch_topk")
class BatchTopK(_Dense):
    """The k · tokens largest pre-activations of the batch; in use, those above a threshold (Bussmann et al. 2024).

    The threshold is the moving average over batches of the smallest active pre-activation, with weight `smoothing` on
    the new batch. Raises InputError for k > latents and other values out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        k: int = 32,
        smoothing: float = 0.01,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        check_k(k, latents)
        if not 0 < smoothing <= 1:
            raise InputError(f"smoothing must be above 0 and at most 1, got {smoothing}")
        super().__init__(features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after)
        self.k = k
        self.smoothing = smoothing
        self.threshold = Statistic(jnp.zeros(()))  # 0 until the first batch
        self.batch_threshold = Statistic(jnp.zeros(()))

    def train_activate(self, pre, weights):
        """See `_Dense`."""
        counted = jnp.where((weights > 0)[:, None], pre, 0)
        z, smallest = batch_topk(counted, self.k, jnp.sum(weights > 0))
        self.batch_threshold[...] = jnp.where(jnp.isfinite(smallest), smallest, self.threshold[...])
        return z, 0.0

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jnp.where(pre <= jnp.reshape(self.threshold[...], (1, -1)), 0, pre)  # NaN stays NaN

    def after_step(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None) -> None:
        """See `SparseAutoencoder.after_step`; also moves the threshold."""
        super().after_step(x, weights)
        old, new = self.threshold[...], self.batch_threshold[...]
        self.threshold[...] = jnp.where(old > 0, old + self.smoothing * (new - old), new)


@register_autoencoder("matryoshka")
class Matryoshka(BatchTopK):
    """BatchTopK whose first latents must reconstruct alone (Bussmann et al. 2025).

    The loss is the sum over `prefixes`, increasing numbers of latents that end with all of them, of the error of the
    reconstruction from the first latents. Raises InputError for bad prefixes and values out of range.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        prefixes: tuple[int, ...] = (256, 512, 1024, 2048, 4096),
        k: int = 32,
        smoothing: float = 0.01,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        prefixes = tuple(prefixes)
        if list(prefixes) != sorted({*prefixes}) or min(prefixes, default=0) < 1 or prefixes[-1] != latents:
            raise InputError(f"prefixes must increase from >= 1 to the number of latents, {latents}, got {prefixes}")
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
        self.prefixes = prefixes

    def reconstruct(self, x, z, weights):
        """See `_Dense`: every prefix adds its own latents to the one before, so all cost one product together."""
        nested, start = jnp.zeros((), x.dtype), 0
        total = jnp.broadcast_to(self.decoder_bias[...], x.shape)
        for stop in self.prefixes:
            if start:
                squared = jnp.sum(jnp.square(x - total), axis=1)
                nested += safe_ratio(jnp.sum(weights * squared), jnp.sum(weights))
            total += jnp.matmul(z[:, start:stop], self.decoder[start:stop], precision=_HIGHEST)
            start = stop
        return total, nested
