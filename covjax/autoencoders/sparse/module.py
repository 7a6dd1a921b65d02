"""The base class of sparse autoencoders of tokens: initialisation, encoding, decoding, loss and metrics."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Num

from covjax.autoencoders.base import Metrics
from covjax.autoencoders.sparse.codes import auxk, preactivations
from covjax.autoencoders.sparse.rescaling import check_rescaling, rescale_tokens, restore_tokens
from covjax.errors import InputError
from covjax.inputs import is_concrete
from covjax.standardise import Statistic
from covjax.tokens import (
    HIGHEST,
    MatrixLike,
    TokensLike,
    WeightsLike,
    check_matrix,
    check_sequence,
    check_tokens,
    check_weights,
    safe_ratio,
    token_weights,
    weighted_mean,
)


def geometric_median(x: TokensLike, *, tolerance: float = 1e-6, iterations: int = 200) -> Float[Array, "features"]:
    """The point with the least sum of distances to the tokens: outliers pull it no more than their number.

    Weiszfeld's iteration in the form of Vardi and Zhang (2000), which does not stop at a token; ends when a step is
    shorter than `tolerance` times the mean distance.

    Raises TypeError and InputError like `covjax.moments`; InputError for NaN or inf.
    """
    x = check_sample(x)
    x = jnp.asarray(x).astype(jnp.promote_types(jax.dtypes.canonicalize_dtype(x.dtype), jnp.float32))

    def advance(carry):
        y, _, count = carry
        difference = x - y[None]
        distance = jnp.linalg.norm(difference, axis=1)
        away = distance > 0
        inverse = jnp.where(away, 1 / jnp.where(away, distance, 1), 0)
        pull = jnp.sum(difference * inverse[:, None], axis=0)
        move = pull / jnp.maximum(jnp.sum(inverse), jnp.finfo(x.dtype).tiny)
        # Tokens at y hold it with their number; it moves only if the others pull harder.
        strength = jnp.linalg.norm(pull)
        share = jnp.sum(~away) / jnp.maximum(strength, jnp.finfo(x.dtype).tiny)
        move = move * jnp.maximum(1 - share, 0)
        return y + move, jnp.linalg.norm(move) > tolerance * jnp.mean(distance), count + 1

    start = jnp.mean(x, axis=0)
    return jax.lax.while_loop(lambda c: c[1] & (c[2] < iterations), advance, (start, jnp.asarray(True), 0))[0]


def norm_scale(x: TokensLike) -> Float[Array, ""]:
    """√features / mean ‖x‖: the factor after which a token's mean norm is √features. Errors as `geometric_median`."""
    x = check_sample(x)
    return x.shape[1] ** 0.5 / jnp.mean(jnp.linalg.norm(jnp.asarray(x, jnp.float32), axis=1))


def check_sample(x: TokensLike) -> Float[Array | np.ndarray, "tokens features"]:
    """x as an array; TypeError or InputError unless (tokens, features), finite, and not the same in all tokens."""
    x = check_tokens(x)
    if is_concrete(x):
        values = np.asarray(x, np.float32)
        if not (finite := np.isfinite(values).all(1)).all():
            raise InputError(f"x must be finite, got {int((~finite).sum())} tokens with NaN or inf")
        if len(values) > 1 and (values == values[0]).all():
            raise InputError(f"x must vary, got {len(values)} equal tokens")
    return x


_NAMES = ("x", "reconstruction", "latents")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over weighted tokens (a pytree): those of two batches, taken with the same shift, are added leaf by leaf.

    count: Σw; error: Σw‖x − x̂‖²; offset: Σw(x − c); spread: Σw‖x − c‖²; fired: for each latent, Σw over the tokens in
    which it is active. c is any point near the mean: without it the variance would be lost to rounding, as in
    `covjax.moments`, and with it the sums stay plain sums.
    """

    __no_type_check__ = True  # JAX also builds it of shapes, of axes and of placeholders

    count: Float[Array, ""]
    error: Float[Array, ""]
    offset: Float[Array, "features"]
    spread: Float[Array, ""]
    fired: Float[Array, "latents"]

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


def token_sums(
    x: TokensLike,
    reconstruction: MatrixLike,
    latents: MatrixLike,
    shift: Float[Array | np.ndarray, "features"],
    weights: WeightsLike = None,
) -> Sums:
    """Sums of one batch; rows of weight 0 may hold anything. Raises InputError for shapes that do not fit."""
    x, reconstruction, latents = (check_matrix(a, name) for a, name in zip((x, reconstruction, latents), _NAMES))
    if not (x.shape == reconstruction.shape and latents.shape[0] == x.shape[0] and shift.shape == x.shape[1:]):
        shapes = f"{x.shape}, {reconstruction.shape}, {latents.shape}, {shift.shape}"
        raise InputError(f"x, reconstruction, latents and shift do not fit: {shapes}")
    weights = check_weights(weights, x.shape[0])
    w, keep = token_weights(x, weights)
    x, reconstruction = (jnp.where(keep[:, None], jnp.asarray(a).astype(w.dtype), 0) for a in (x, reconstruction))
    deviation = jnp.where(keep[:, None], x - shift[None], 0)
    return Sums(
        count=jnp.sum(w),
        error=jnp.sum(w * jnp.sum(jnp.square(x - reconstruction), axis=1)),
        offset=jnp.sum(w[:, None] * deviation, axis=0),
        spread=jnp.sum(w * jnp.sum(jnp.square(deviation), axis=1)),
        fired=jnp.sum(jnp.where(keep[:, None] & (latents > 0), w[:, None], 0), axis=0),
    )


def fvu(sums: Sums) -> Float[Array, ""]:
    """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖²: 1 for x̂ = x̄, 0 for x̂ = x."""
    variance = sums.spread - safe_ratio(jnp.sum(jnp.square(sums.offset)), sums.count)
    return safe_ratio(sums.error, variance)


def l0(sums: Sums) -> Float[Array, ""]:
    """Mean number of active latents."""
    return safe_ratio(jnp.sum(sums.fired), sums.count)


def dead_share(sums: Sums) -> Float[Array, ""]:
    """Share of the latents that are never active on the tokens."""
    return jnp.mean(sums.fired == 0)


@jax.jit  # one program, not one for every operation
def _figures(sums: Sums) -> dict[str, Float[Array, ""]]:
    return {"fvu": fvu(sums), "l0": l0(sums), "dead": dead_share(sums)}


def density_histogram(sums: Sums, decades: int = 7) -> dict[str, int]:
    """Number of latents by the share of tokens on which they are active, in bins of a factor of ten; "0": never.

    "1e-3" counts shares in [1e-3, 1e-2); the lowest bin, "1e-<decades>", also what is below it; 1 is in "1e-1".
    """
    density = np.asarray(safe_ratio(sums.fired, sums.count), np.float64)
    # A power of ten in float32 may lie just below itself.
    exponent = np.floor(np.log10(np.where(density > 0, density, 1)) + 1e-6).clip(-decades, -1)
    counts = {f"1e-{n}": int(np.sum((density > 0) & (exponent == -n))) for n in range(decades, 0, -1)}
    return {"0": int(np.sum(density == 0))} | counts


def loss_recovered(
    loss: Callable[[Float[Any, "tokens features"]], Float[Array, ""]],
    x: Float[Any, "tokens features"],
    reconstruction: Float[Any, "tokens features"],
    mean: Float[Any, "features"],
) -> dict[str, float]:
    """Loss of the encoder's head on original, reconstructed, zero and mean activations, and the shares recovered.

    Recovered is (ablated − reconstructed) / (ablated − original): 1 as good as the original, 0 as bad as the ablation.

    Args:
        loss: what follows the layer, from activations of all tokens to one number.
        x, reconstruction: activations and what the autoencoder makes of them.
        mean: the activation that stands for every token in mean ablation.

    Raises InputError where an ablation does not change the loss, so that nothing could be recovered.
    """
    ablated = {"zero": jnp.zeros_like(x), "mean": jnp.broadcast_to(mean, x.shape)}
    losses = {"original": x, "reconstructed": reconstruction, **ablated}
    out = {name: float(loss(activations)) for name, activations in losses.items()}
    for name in ablated:
        if out[name] == out["original"]:
            raise InputError(f"loss: {name} ablation leaves it at {out[name]}: it does not depend on the activations")
        share = (out[name] - out["reconstructed"]) / (out[name] - out["original"])
        out[f"recovered_from_{name}"] = share
    return out


@dataclasses.dataclass(frozen=True)
class Forward:
    """One batch through an autoencoder: what its loss and its counters need."""

    reconstruction: Float[Array, "tokens features"]
    centred: Float[Array, "tokens read"]  # what the encoder sees
    pre: Float[Array, "tokens latents"]
    active: Num[Array, "tokens"]  # number of active latents
    fired: Bool[Array, "latents"]  # in any token of the batch that counts
    penalty: Float[Array, ""] | float  # added to the loss


def token_mean(each: Float[Array, "tokens"], weights: Float[Array, "tokens"]) -> Float[Array, ""]:
    """The weighted mean of one number a token; 0 where all weights are 0."""
    return safe_ratio(jnp.sum(weights * each), jnp.sum(weights))


class SparseAutoencoder(nnx.Module):
    """z = act((s·x − b) Wᵉᵀ + bᵉ), x̂ = (z W + b)/s; loss mean ‖s·x − s·x̂‖² + penalty + aux_weight · AuxK.

    A subclass brings `forward` (training) and `activate` (use). The rows of W keep their norm (1 at the start):
    gradients are projected off them, and steps rescaled. The other methods are the contract of
    `covjax.autoencoders.base`.
    With `rescale` x is a token divided by its own deviation or norm (`covjax.autoencoders.sparse.rescaling`).

    Attributes:
        encoder, decoder: (latents, features); tied at the start, W random of unit norm.
        encoder_bias (latents,), decoder_bias (features,): start at 0; the latter at the geometric median of a sample.
        scale: s, 1 at the start; `initialise` sets √features over the mean norm, so that penalties mean the same.
        idle: float32, tokens seen since a latent last fired; dead is > `dead_after`.
    """

    examples = "tokens"

    def __init__(
        self,
        features: int,
        latents: int,
        *,
        seed: int,
        aux_weight: float = 0.0,
        aux_k: int | None = None,
        dead_after: float,
        rescale: str = "none",
    ):
        if features < 1 or latents < 1:
            raise InputError(f"features and latents must be >= 1, got {features} and {latents}")
        if not (aux_weight >= 0 and dead_after > 0):
            raise InputError(f"aux_weight must be >= 0, dead_after > 0, got {aux_weight} and {dead_after}")
        if aux_k is not None and not 1 <= aux_k <= latents:
            raise InputError(f"aux_k must be from 1 to the number of latents, {latents}, got {aux_k}")
        check_rescaling(rescale, features)
        rows = jax.random.normal(jax.random.key(seed), (latents, features))
        rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
        self.decoder = nnx.Param(rows)
        self.encoder = nnx.Param(jnp.array(rows))  # a copy: a donated step may not own one buffer twice
        self.encoder_bias = nnx.Param(jnp.zeros(latents))
        self.decoder_bias = nnx.Param(jnp.zeros(features))
        self.scale = Statistic(jnp.ones(()))
        self.decoder_norm = Statistic(jnp.ones(latents))
        self.idle = Statistic(jnp.zeros(latents))
        self.fired = Statistic(jnp.zeros(latents, bool))
        self.aux_weight = aux_weight
        self.aux_k = min(max(features // 2, 1), latents) if aux_k is None else aux_k
        self.dead_after = dead_after
        self.rescale = rescale

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.encoder.shape[0]

    @property
    def features(self) -> int:
        """Width of a token."""
        return self.encoder.shape[1]

    @property
    def dead(self) -> Bool[Array, "latents"]:
        """Latents that have not been active for more than `dead_after` tokens."""
        return self.idle[...] > self.dead_after

    def initialise(self, batches: Sequence[tuple[TokensLike, WeightsLike]]) -> None:
        """Set the scale and the decoder's bias from batches (x, weights) of training tokens.

        Raises TypeError and InputError for tokens of the wrong type or width, with NaN or inf, or all equal.
        """
        sample = rescale_tokens(self._sample(batches), self.rescale)
        self.scale[...] = norm_scale(sample)
        self.decoder_bias[...] = geometric_median(sample) * self.scale[...]

    def _sample(self, batches):
        rows = []
        for x, weights in batches:
            x, weights = self._check(x, weights)
            rows.append(np.asarray(x, np.float32)[slice(None) if weights is None else np.asarray(weights) > 0])
        if not rows:
            raise InputError("batches must hold at least one batch")
        return jnp.asarray(np.concatenate(rows))

    def forward(self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"]) -> Forward:
        """Scaled tokens through the autoencoder as in training; rows of weight 0 are 0."""
        raise NotImplementedError

    def activate(self, pre: Float[Array, "tokens latents"]) -> Float[Array, "tokens latents"]:
        """The activation function in use, after training."""
        raise NotImplementedError

    def encode(self, x: TokensLike) -> Float[Array, "tokens latents"]:
        """Latents of tokens, with their zeros; errors as `loss`."""
        x, _ = self._check(x, None)
        return self.activate(self.preactivations(self._scaled(x)))

    def centre(self, scaled: Float[Array, "tokens features"]) -> Float[Array, "tokens read"]:
        """The input of the encoder for scaled tokens: s·x − b."""
        return scaled - self.decoder_bias[...][None]

    def target(self, x: Float[Array | np.ndarray, "tokens features"]) -> Float[Array | np.ndarray, "tokens written"]:
        """What the autoencoder is to reconstruct, scaled or not: the tokens themselves."""
        return x

    def decode(self, z: MatrixLike, x: TokensLike | None = None) -> Float[Array, "tokens features"]:
        """Tokens from latents; with `rescale`, the original tokens x are needed to restore the units.

        Raises InputError where z or x has another shape, and where x is needed and not given.
        """
        z = check_matrix(z, "z")
        if z.shape[1] != self.latents:
            raise InputError(f"z must have {self.latents} latents, got {z.shape[1]}")
        z = jnp.matmul(z, self.decoder[...], precision=HIGHEST)
        y = (z + self.decoder_bias[...][None]) / jnp.reshape(self.scale[...], (1, -1))
        if self.rescale == "none":
            return y
        if x is None or np.shape(x) != y.shape:
            size = "none" if x is None else str(np.shape(x))
            raise InputError(f"x: rescale is {self.rescale}: decode needs the tokens {y.shape} themselves, got {size}")
        return restore_tokens(y, jnp.asarray(x).astype(y.dtype), self.rescale)

    def __call__(self, x: TokensLike) -> Float[Array, "tokens features"]:
        """Reconstructed tokens."""
        return self.decode(self.encode(x), x)

    def preactivations(self, scaled: Float[Array, "tokens features"]) -> Float[Array, "tokens latents"]:
        """(s·x − b) Wᵉᵀ + bᵉ."""
        return preactivations(self.centre(scaled), self.encoder[...], self.encoder_bias[...])

    def loss(self, x: TokensLike, weights: WeightsLike = None) -> tuple[Float[Array, ""], Metrics]:
        """Mean over the tokens that count; also notes which latents fired, for `after_step`.

        Metrics: fvu (of the batch), l0, dead (share of latents).
        Raises TypeError and InputError for wrong types, shapes and weights, outside `jit` also for NaN or inf.
        """
        x, weights = self._check(x, weights)
        w, keep = token_weights(x, weights)
        return self.token_loss(self._scaled(jnp.where(keep[:, None], x, 0)), w)[:2]

    def token_loss(
        self, x: Float[Array, "tokens features"], w: Float[Array, "tokens"]
    ) -> tuple[Float[Array, ""], Metrics, Float[Array, "tokens written"]]:
        """`loss` of scaled tokens, those of weight 0 set to 0; its metrics; and the scaled reconstruction."""
        out, x = self.forward(x, w), jnp.asarray(self.target(x))
        self.fired[...] = out.fired
        n, residual = jnp.sum(w), x - out.reconstruction
        error = safe_ratio(jnp.sum(w * jnp.sum(jnp.square(residual), axis=1)), n)
        total = error + out.penalty
        dead = self.dead
        if self.aux_weight:
            parameters = self.encoder[...], self.encoder_bias[...], out.pre, self.decoder[...]
            revived = auxk(residual, out.centred, *parameters, dead, self.aux_k)
            total += self.aux_weight * safe_ratio(jnp.sum(w * revived), n)
        spread = jnp.sum(jnp.square(x - weighted_mean(x, w)[None]), axis=1)
        unexplained = safe_ratio(error, safe_ratio(jnp.sum(w * spread), n))
        metrics = {"fvu": unexplained, "l0": safe_ratio(jnp.sum(w * out.active), n), "dead": jnp.mean(dead)}
        return total, metrics, out.reconstruction

    def project_gradients(self, gradients: Any) -> Any:
        """Remove the part of the decoder's gradient along each row, which would only change the row's norm."""
        rows, gradient = self.decoder[...], gradients["decoder"]
        along = safe_ratio(jnp.sum(rows * gradient[...], axis=1), jnp.sum(jnp.square(rows), axis=1))
        gradient[...] = gradient[...] - along[:, None] * rows
        return gradients

    def after_step(self, x: TokensLike, weights: WeightsLike = None) -> None:
        """Restore the norms of the decoder's rows, and update how long every latent has been inactive."""
        rows = self.decoder[...]
        self.decoder[...] = rows * safe_ratio(self.decoder_norm[...], jnp.linalg.norm(rows, axis=1))[:, None]
        count = jnp.sum(token_weights(x, weights)[0])
        self.idle[...] = jnp.where(self.fired[...], 0, self.idle[...] + count)

    def evaluate(self, x: TokensLike, weights: WeightsLike = None) -> Sums:
        """Sums of a batch in use (after training), to be added over batches; errors as `loss`."""
        x, weights = self._check(x, weights)
        z = self.activate(self.preactivations(self._scaled(x)))
        return token_sums(x, self.decode(z, x), z, self.decoder_bias[...] / self.scale[...], weights)

    def summarise(self, sums: Sums) -> Mapping[str, float]:
        """fvu, l0, and dead: the share of latents active in none of the tokens."""
        return {name: float(value) for name, value in _figures(sums).items()}

    def _scaled(self, x: Float[Array | np.ndarray, "tokens features"]) -> Float[Array, "tokens features"]:
        x = jnp.asarray(x).astype(jnp.promote_types(x.dtype, jnp.float32))
        return rescale_tokens(x, self.rescale) * jnp.reshape(self.scale[...], (1, -1))

    def _check(self, x, weights):
        x, weights = check_sequence(x, weights)
        if x.shape[1] != self.features:
            raise InputError(f"x must have {self.features} features, got {x.shape[1]}")
        return x, weights
