"""Transcoders: latents that read one layer's tokens and predict another layer's."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.autoencoders.base import register_autoencoder
from covjax.autoencoders.sparse.kinds import Largest, check_k
from covjax.autoencoders.sparse.module import Sums, geometric_median, norm_scale, token_sums
from covjax.errors import InputError
from covjax.standardise import Statistic
from covjax.tokens import HIGHEST, MatrixLike, TokensLike, WeightsLike, check_matrix


@register_autoencoder("transcoder")
class Transcoder(Largest):
    """z = top_k((s·x − b) Wᵉᵀ + bᵉ), ŷ = (z W + c)/t: the k largest latents of a layer's token x write another's y.

    Tokens are both layers side by side, (tokens, source + target): first what is read, then what is written (Dunefsky
    et al. 2024). With `skip` ŷ also has (s·x − b) A, A trained from 0 (Paulo et al. 2025). The loss is of y alone, and
    so are fvu and `__call__`. `encode` takes both layers or the first alone.

    Raises InputError for values out of range.

    Attributes:
        encoder (latents, source), source_bias b; decoder (latents, target), its rows of norm 1, decoder_bias c.
        scale: (source + target,), s and t, so that both layers' mean norm is the root of their width.
        skip: A (source, target), where asked for.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        k: int = 32,
        source: int | None = None,
        skip: bool = False,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        seed: int = 0,
    ):
        check_k(k, latents)
        if source is None and features % 2:
            raise InputError(f"source: {features} features are not two layers of one width; give that of the first")
        source = features // 2 if source is None else source
        if not 1 <= source < features:
            raise InputError(
                f"source must be from 1 to {features - 1}, the width of the layer that is read, got {source}"
            )
        width = features - source
        super().__init__(width, latents, seed=seed, aux_weight=aux_weight, aux_k=aux_k, dead_after=dead_after)
        rows = jax.random.normal(jax.random.fold_in(jax.random.key(seed), 1), (latents, source))
        self.encoder = nnx.Param(rows / jnp.linalg.norm(rows, axis=1, keepdims=True))
        self.source_bias = nnx.Param(jnp.zeros(source))
        self.scale = Statistic(jnp.ones(features))
        self.skip = nnx.Param(jnp.zeros((source, width))) if skip else None
        self.k = k

    @property
    def source(self) -> int:
        """Width of the layer that is read."""
        return self.encoder.shape[1]

    @property
    def features(self) -> int:
        """Width of both layers."""
        return self.source + self.decoder.shape[1]

    def initialise(self, batches: Sequence[tuple[TokensLike, WeightsLike]]) -> None:
        """See `SparseAutoencoder.initialise`; each of the two layers gets its own scale and bias."""
        sample = self._sample(batches)
        layers = sample[:, : self.source], sample[:, self.source :]
        for layer, bias in zip(layers, (self.source_bias, self.decoder_bias), strict=True):
            bias[...] = geometric_median(layer) * norm_scale(layer)
        self.scale[...] = jnp.concatenate([jnp.full(layer.shape[1], norm_scale(layer)) for layer in layers])

    def centre(self, scaled: Float[Array, "tokens features"]) -> Float[Array, "tokens source"]:
        """See `SparseAutoencoder.centre`."""
        return scaled[:, : self.source] - self.source_bias[...][None]

    def target(self, x: Float[Array | np.ndarray, "tokens features"]) -> Float[Array | np.ndarray, "tokens target"]:
        """The layer that is written."""
        return x[:, self.source :]

    def offset(self, centred: Float[Array, "tokens source"]) -> Float[Array, "#tokens target"]:
        """See `Largest.offset`."""
        base = self.decoder_bias[...][None]
        return base if self.skip is None else base + jnp.matmul(centred, self.skip[...], precision=HIGHEST)

    def encode(self, x: TokensLike) -> Float[Array, "tokens latents"]:
        """Latents of tokens of both layers, or of the first alone; errors as `loss`."""
        return self.activate(self.preactivations(self._scaled(self._both(x))))

    def decode(self, z: MatrixLike, x: TokensLike | None = None) -> Float[Array, "tokens target"]:
        """The second layer from latents; with `skip`, the original tokens x are needed too.

        Raises InputError where z or x has another shape, and where x is needed and not given.
        """
        z = check_matrix(z, "z")
        if z.shape[1] != self.latents:
            raise InputError(f"z must have {self.latents} latents, got {z.shape[1]}")
        if x is None and self.skip is not None:
            raise InputError("x: skip is on: decode needs the tokens themselves")
        return self._write(z, None if x is None else self._scaled(self._both(x)))

    def evaluate(self, x: TokensLike, weights: WeightsLike = None) -> Sums:
        """See `SparseAutoencoder.evaluate`; of the second layer."""
        x, weights = self._check(x, weights)
        scaled = self._scaled(x)
        z = self.activate(self.preactivations(scaled))
        shift = self.decoder_bias[...] / self.scale[self.source :]
        return token_sums(self.target(x), self._write(z, scaled), z, shift, weights)

    def _write(self, z, scaled):
        base = self.decoder_bias[...][None] if scaled is None else self.offset(self.centre(scaled))
        return (jnp.matmul(z, self.decoder[...], precision=HIGHEST) + base) / self.scale[self.source :][None]

    def _both(self, x):
        x = jnp.asarray(x)
        if x.ndim == 2 and x.shape[1] == self.source:
            x = jnp.pad(x, ((0, 0), (0, self.features - self.source)))
        return self._check(x, None)[0]
