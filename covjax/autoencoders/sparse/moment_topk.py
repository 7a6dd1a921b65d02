"""TopK autoencoders of tokens that also preserve each sequence's covariance: which features vary together."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.autoencoders.base import Metrics, register_autoencoder
from covjax.autoencoders.sparse.kinds import TopK
from covjax.autoencoders.sparse.module import Sums
from covjax.errors import InputError
from covjax.tokens import HIGHEST, BatchLike, BatchWeightsLike, check_batch, safe_ratio, weighted_mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceSums(Sums):
    """`Sums` over the tokens, and over the sequences those of ‖Σ̂ − Σ‖² and ‖Σ‖²."""

    moment_error: Float[Array, ""]
    moment_norm: Float[Array, ""]


def covariance_errors(
    x: Float[Array, "sequences tokens features"],
    y: Float[Array, "sequences tokens features"],
    w: Float[Array, "sequences tokens"],
) -> tuple[Float[Array, "sequences"], Float[Array, "sequences"]]:
    """‖Σ̂ − Σ‖²_F and ‖Σ‖²_F of every sequence, Σ the covariance of its tokens x and Σ̂ of their reconstructions y.

    Each is about its own mean. Tokens of weight 0 must be finite; a sequence of such tokens alone gives 0.
    """

    def covariance(x, w):
        x = (x - weighted_mean(x, w)[None]) * jnp.sqrt(safe_ratio(w, jnp.sum(w)))[:, None]
        return jnp.matmul(x.T, x, precision=HIGHEST)

    def errors(x, y, w):
        first, second = covariance(x, w), covariance(y, w)
        return jnp.sum(jnp.square(second - first)), jnp.sum(jnp.square(first))

    return jax.vmap(errors)(x, y, w)


@register_autoencoder("moment_topk")
class MomentTopK(TopK):
    """TopK whose loss adds moment_weight/features · mean ‖Σ̂ − Σ‖²_F over the sequences of a batch.

    Σ is the covariance of a sequence's scaled tokens, Σ̂ that of their reconstructions; scaled tokens have a mean norm
    of √features, so neither the width nor the units of the tokens change what a weight means. With 0 it is TopK, on
    batches of whole sequences. `encode` and `__call__` take the tokens of one sequence.

    Raises InputError for values out of range.
    """

    examples = "sequences"

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        k: int = 32,
        moment_weight: float = 1.0,
        aux_weight: float = 1 / 32,
        aux_k: int | None = None,
        dead_after: float = 200_000,
        rescale: str = "none",
        seed: int = 0,
    ):
        if not moment_weight >= 0:
            raise InputError(f"moment_weight must be >= 0, got {moment_weight}")
        super().__init__(
            features,
            latents=latents,
            k=k,
            aux_weight=aux_weight,
            aux_k=aux_k,
            dead_after=dead_after,
            rescale=rescale,
            seed=seed,
        )
        self.moment_weight = moment_weight

    def initialise(self, batches: Sequence[tuple[BatchLike, BatchWeightsLike]]) -> None:
        """See `SparseAutoencoder.initialise`; the batches are of sequences."""
        super().initialise([_tokens(x, weights) for x, weights in batches])

    def loss(self, x: BatchLike, weights: BatchWeightsLike = None) -> tuple[Float[Array, ""], Metrics]:
        """See `SparseAutoencoder.loss`; the metrics also have moment_fvu, Σ‖Σ̂ − Σ‖² / Σ‖Σ‖² of the batch."""
        x, w = _checked(x, weights)
        tokens, flat = _tokens(x, w)
        scaled = self._scaled(self._check(jnp.where(flat[:, None] > 0, tokens, 0), flat)[0])
        total, metrics, reconstruction = self.token_loss(scaled, flat)
        errors, norms = covariance_errors(scaled.reshape(x.shape), reconstruction.reshape(x.shape), w)
        count = jnp.sum(jnp.any(w > 0, axis=1))
        total += self.moment_weight / self.features * safe_ratio(jnp.sum(errors), count)
        return total, {**metrics, "moment_fvu": safe_ratio(jnp.sum(errors), jnp.sum(norms))}

    def after_step(self, x: BatchLike, weights: BatchWeightsLike = None) -> None:
        """See `SparseAutoencoder.after_step`."""
        super().after_step(*_tokens(x, weights))

    def evaluate(self, x: BatchLike, weights: BatchWeightsLike = None) -> SequenceSums:
        """See `SparseAutoencoder.evaluate`."""
        x, w = _checked(x, weights)
        tokens, flat = _tokens(x, w)
        tokens = jnp.where(flat[:, None] > 0, tokens, 0)
        sums = super().evaluate(tokens, flat)
        errors, norms = covariance_errors(tokens.reshape(x.shape), self(tokens).reshape(x.shape), w)
        return SequenceSums(**vars(sums), moment_error=jnp.sum(errors), moment_norm=jnp.sum(norms))

    def summarise(self, sums: Any) -> Mapping[str, float]:
        """See `SparseAutoencoder.summarise`; also moment_fvu, Σ‖Σ̂ − Σ‖² / Σ‖Σ‖²."""
        unexplained = float(safe_ratio(sums.moment_error, sums.moment_norm))
        return {**super().summarise(sums), "moment_fvu": unexplained}


def _checked(x, weights):
    x, weights = check_batch(x, weights)
    x = jnp.asarray(x).astype(jnp.promote_types(x.dtype, jnp.float32))
    w = jnp.ones(x.shape[:2]) if weights is None else jnp.asarray(weights, jnp.float32)
    return x, w.astype(x.dtype)


def _tokens(x, weights):
    return x.reshape(-1, x.shape[-1]), None if weights is None else weights.reshape(-1)
