"""The kinds of sparse autoencoders: TopK, BatchTopK, ReLU, JumpReLU, Matryoshka, with their activations."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from covjax.autoencoders.base import register_autoencoder
from covjax.autoencoders.sparse.codes import affine_at, decode_codes, dense_codes, preactivations, top_k
from covjax.autoencoders.sparse.module import Forward, SparseAutoencoder, token_mean
from covjax.errors import InputError
from covjax.standardise import Statistic
from covjax.tokens import HIGHEST, TokensLike, WeightsLike

Tokens = Float[Array, "tokens features"]
Latents = Float[Array, "tokens latents"]
Weights = Float[Array, "tokens"]


def topk(pre: Float[Array, "tokens latents"], k: int) -> Float[Array, "tokens latents"]:
    """The k largest pre-activations of every token, negative ones 0 (Gao et al. 2024, eq. 3); ties go to the first.

    Raises InputError unless 1 <= k <= latents.
    """
    check_k(k, pre.shape[1])
    values, indices = top_k(pre, k)
    return dense_codes(jax.nn.relu(values), indices, pre.shape[1])


def batch_topk(
    pre: Float[Array, "tokens latents"], k: int, tokens: Num[Array, ""] | int | None = None
) -> tuple[Float[Array, "tokens latents"], Float[Array, ""]]:
    """The k · tokens largest pre-activations of the batch, negative ones 0, and the smallest of them (Bussmann 2024).

    All that equal the smallest are kept. `tokens` is how many rows count (default all); the others must hold no
    positive number. Raises InputError unless 1 <= k <= latents.
    """
    check_k(k, pre.shape[1])
    positive = jax.nn.relu(pre)
    threshold = kth_largest(positive, k * (pre.shape[0] if tokens is None else tokens))
    # Fewer positive numbers than places: the threshold is 0 and all of them stay.
    smallest = jnp.where(threshold > 0, threshold, jnp.min(jnp.where(positive > 0, positive, jnp.inf)))
    return jnp.where(positive >= threshold, positive, 0), jax.lax.stop_gradient(smallest)


def kth_largest(values: Float[Array, "*n"], k: Num[Array, ""] | int) -> Float[Array, ""]:
    """The k-th largest of numbers >= 0, by bisection over their bit patterns, which have the same order.

    One pass over the data per bit, where sorting or selecting k of them takes many times as long. 0 where there are
    fewer than k numbers. It receives no gradient.
    """
    values = jax.lax.stop_gradient(values)
    kind = jnp.dtype(f"int{8 * values.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(values, kind)
    top = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), kind)

    def halve(_, span):
        low, high = span  # at least k numbers are >= low, fewer than k are >= high
        middle = low + (high - low) // 2
        enough = jnp.sum(bits >= middle) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, 8 * values.dtype.itemsize - 1, halve, (jnp.zeros_like(top), top))
    return jax.lax.bitcast_convert_type(low, values.dtype)


@jax.custom_vjp
def jumprelu(
    pre: Float[Array, "tokens latents"], threshold: Float[Array, "latents"], bandwidth: Float[Array, ""] | float
) -> Float[Array, "tokens latents"]:
    """pre · H(pre − θ), with the pseudo-derivative −(θ/ε) K((pre − θ)/ε) by θ, K the rectangle of width 1.

    Rajamanoharan et al. 2024 (JumpReLU), eq. 11; the derivative by pre is H(pre − θ).
    """
    return jnp.where(pre <= jnp.reshape(threshold, (1, -1)), 0, pre)  # NaN stays NaN


@jax.custom_vjp
def step(
    pre: Float[Array, "tokens latents"], threshold: Float[Array, "latents"], bandwidth: Float[Array, ""] | float
) -> Float[Array, "tokens latents"]:
    """H(pre − θ), whose sum is L0, with the pseudo-derivative −(1/ε) K((pre − θ)/ε) by θ and 0 by pre (eq. 12)."""
    return (pre > jnp.reshape(threshold, (1, -1))).astype(pre.dtype)


def _forward_of(function):
    return lambda pre, threshold, bandwidth: (function(pre, threshold, bandwidth), (pre, threshold, bandwidth))


def _by_threshold(saved, cotangent, height):
    pre, threshold, bandwidth = saved
    inside = jnp.abs(pre - jnp.reshape(threshold, (1, -1))) < bandwidth / 2
    return jnp.sum(jnp.where(inside, -jnp.reshape(height, (1, -1)) / bandwidth * cotangent, 0), axis=0)


def _jumprelu_backward(saved, cotangent):
    pre, threshold, _ = saved
    return (
        jnp.where(pre > jnp.reshape(threshold, (1, -1)), cotangent, 0),
        _by_threshold(saved, cotangent, threshold),
        None,
    )


def _step_backward(saved, cotangent):
    return jnp.zeros_like(cotangent), _by_threshold(saved, cotangent, 1.0), None


jumprelu.defvjp(_forward_of(jumprelu), _jumprelu_backward)
step.defvjp(_forward_of(step), _step_backward)


def row_norms(rows: Float[Array, "latents features"]) -> Float[Array, "latents"]:
    """ℓ2 norm of every row; the derivative of a row of zeros, which has none, is 0."""
    square = jnp.sum(rows * rows, axis=1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def check_k(k: int, latents: int) -> None:
    """Raise InputError unless k is a whole number in 1 … latents."""
    if not isinstance(k, (int, np.integer)) or not 1 <= k <= latents:
        raise InputError(f"k must be a whole number from 1 to the number of latents, {latents}, got {k}")


class Largest(SparseAutoencoder):
    """An autoencoder of the `k` largest pre-activations of every token; one dense product a step, none in its gradient.

    `k` is set by the subclass.
    """

    k: int

    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """See `SparseAutoencoder.forward`."""
        centred = self.centre(x)
        pre, values, indices = self._codes(centred)
        reconstruction = decode_codes(values, indices, self.decoder[...]) + self.offset(centred)
        active = values > 0
        counted = active & (weights > 0)[:, None]
        fired = jnp.zeros(self.latents, bool).at[indices].max(counted)
        return Forward(reconstruction, centred, pre, jnp.sum(active, axis=1), fired, 0.0)

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return topk(pre, self.k)

    def codes(self, x: TokensLike) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
        """Values and indices of the active latents: `encode` without the zeros."""
        x, _ = self._check(x, None)
        return self._codes(self.centre(self._scaled(x)))[1:]

    def offset(self, centred: Float[Array, "tokens read"]) -> Float[Array, "#tokens written"]:
        """The decoder's bias, to which the latents are added."""
        return self.decoder_bias[...][None]

    def _codes(self, centred):
        encoder, bias = self.encoder[...], self.encoder_bias[...]
        pre = jax.lax.stop_gradient(preactivations(centred, encoder, bias))
        _, indices = top_k(pre, self.k)
        return pre, jax.nn.relu(affine_at(centred, encoder, bias, pre, indices)), indices


@register_autoencoder("topk")
class TopK(Largest):
    """The k largest pre-activations of every token (Gao et al. 2024).

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
        rescale: str = "none",
        seed: int = 0,
    ):
        check_k(k, latents)
        super().__init__(
            features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after, rescale=rescale
        )
        self.k = k


class Dense(SparseAutoencoder):
    """An autoencoder that computes all of its latents; a subclass defines `train_activate` and `activate`."""

    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """See `SparseAutoencoder.forward`."""
        pre = self.preactivations(x)
        z, penalty = self.train_activate(pre, weights)
        reconstruction, nested = self.reconstruct(x, z, weights)
        active = z > 0
        fired = jnp.any(active & (weights > 0)[:, None], axis=0)
        centred = x - self.decoder_bias[...][None]
        return Forward(reconstruction, centred, pre, jnp.sum(active, axis=1), fired, penalty + nested)

    def train_activate(self, pre: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """Latents in training, and the penalty on them."""
        raise NotImplementedError

    def reconstruct(self, x: Tokens, z: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """The scaled reconstruction, and the term that its parts add to the loss."""
        return jnp.matmul(z, self.decoder[...], precision=HIGHEST) + self.decoder_bias[...][None], 0.0


@register_autoencoder("relu")
class ReLU(Dense):
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
        rescale: str = "none",
        seed: int = 0,
    ):
        if not l1 >= 0:
            raise InputError(f"l1 must be >= 0, got {l1}")
        super().__init__(
            features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after, rescale=rescale
        )
        self.l1 = l1

    def train_activate(self, pre: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """See `Dense`."""
        z = jax.nn.relu(pre)
        each = jnp.matmul(z, row_norms(self.decoder[...]), precision=HIGHEST)
        return z, self.l1 * token_mean(each, weights)

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jax.nn.relu(pre)


@register_autoencoder("jumprelu")
class JumpReLU(Dense):
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
        rescale: str = "none",
        seed: int = 0,
    ):
        if not (l0 >= 0 and bandwidth > 0 and start_threshold >= 0):
            numbers = f"{l0}, {bandwidth} and {start_threshold}"
            raise InputError(f"l0 and start_threshold must be >= 0, bandwidth > 0, got {numbers}")
        super().__init__(
            features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after, rescale=rescale
        )
        self.threshold = nnx.Param(jnp.full(latents, start_threshold, jnp.float32))
        self.l0 = l0
        self.bandwidth = bandwidth

    def train_activate(self, pre: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """See `Dense`."""
        each = jnp.sum(step(pre, self.threshold[...], self.bandwidth), axis=1)
        penalty = self.l0 * token_mean(each, weights)
        return jumprelu(pre, self.threshold[...], self.bandwidth), penalty

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jnp.where(pre <= jnp.reshape(self.threshold[...], (1, -1)), 0, pre)  # NaN stays NaN

    def after_step(self, x: TokensLike, weights: WeightsLike = None) -> None:
        """See `SparseAutoencoder.after_step`; also keeps θ >= 0."""
        super().after_step(x, weights)
        self.threshold[...] = jax.nn.relu(self.threshold[...])


@register_autoencoder("batch_topk")
class BatchTopK(Dense):
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
        rescale: str = "none",
        seed: int = 0,
    ):
        check_k(k, latents)
        if not 0 < smoothing <= 1:
            raise InputError(f"smoothing must be above 0 and at most 1, got {smoothing}")
        super().__init__(
            features, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after, rescale=rescale
        )
        self.k = k
        self.smoothing = smoothing
        self.threshold = Statistic(jnp.zeros(()))  # 0 until the first batch
        self.batch_threshold = Statistic(jnp.zeros(()))

    def train_activate(self, pre: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """See `Dense`."""
        counted = jnp.where((weights > 0)[:, None], pre, 0)
        z, smallest = batch_topk(counted, self.k, jnp.sum(weights > 0))
        self.batch_threshold[...] = jnp.where(jnp.isfinite(smallest), smallest, self.threshold[...])
        return z, 0.0

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """See `SparseAutoencoder.activate`."""
        return jnp.where(pre <= jnp.reshape(self.threshold[...], (1, -1)), 0, pre)  # NaN stays NaN

    def after_step(self, x: TokensLike, weights: WeightsLike = None) -> None:
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
        prefixes: Sequence[int] = (256, 512, 1024, 2048, 4096),
        k: int = 32,
        smoothing: float = 0.01,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        rescale: str = "none",
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
            rescale=rescale,
            seed=seed,
        )
        self.prefixes = prefixes

    def reconstruct(self, x: Tokens, z: Latents, weights: Weights) -> tuple[Array, Array | float]:
        """See `Dense`: every prefix adds its own latents to the one before, so all cost one product together."""
        nested, start = jnp.zeros((), x.dtype), 0
        total = jnp.broadcast_to(self.decoder_bias[...], x.shape)
        for stop in self.prefixes:
            if start:
                squared = jnp.sum(jnp.square(x - total), axis=1)
                nested += token_mean(squared, weights)
            total += jnp.matmul(z[:, start:stop], self.decoder[start:stop], precision=HIGHEST)
            start = stop
        return total, nested
