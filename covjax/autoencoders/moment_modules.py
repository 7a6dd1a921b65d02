"""Tucker and CP autoencoders of second moments as Flax NNX modules: one sequence in, one small embedding out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.autoencoders.base import Metrics, register_autoencoder
from covjax.autoencoders.second_moment import cp_latents, cp_loss, moment_norm, tucker_loss
from covjax.autoencoders.solver import pca_basis
from covjax.errors import InputError
from covjax.projected import projected_moment
from covjax.standardise import Batch, Statistic, feature_statistics
from covjax.tokens import BatchLike, BatchWeightsLike, TokensLike, WeightsLike, check_batch, check_sequence
from covjax.vectorize import vech


class SecondMomentAutoencoder(nnx.Module):
    """The common part of Tucker and CP; a subclass defines its loss and its embedding.

    Args:
        features: width of a token.
        rank: columns of A and B.
        tied: B = A. For Tucker a B of its own gains nothing at the optimum (see `solve_tucker`).
        center: S is about "none" (0), "sequence" (the sequence's own mean) or "data" (the mean over the tokens that
            `initialise` sees).
        standardise: divide every feature by its deviation over the tokens `initialise` sees.
        prefixes: Matryoshka ordering of the rank, see `tucker_loss`.
        init: "random" (orthonormal) or "pca" of the mean S; both A and B start there.
        seed: of the random start.

    The data's mean and deviation are measured by `initialise` and saved with the module, so it takes raw tokens.
    Raises InputError naming the argument for a rank outside 1 … features and unknown values.
    """

    examples = "sequences"
    permutation_invariant = True
    loss_function: Callable[..., Array]

    def __init__(
        self,
        features: int,
        *,
        rank: int = 32,
        tied: bool = True,
        center: str = "none",
        standardise: bool = False,
        prefixes: Sequence[int] | None = None,
        init: str = "random",
        seed: int = 0,
    ):
        if not 1 <= rank <= features:
            raise InputError(f"rank: {rank!r} is not in 1 … {features} (features)")
        if center not in ("none", "sequence", "data"):
            raise InputError(f"center: {center!r} is not one of none, sequence, data")
        if init not in ("random", "pca"):
            raise InputError(f"init: {init!r} is not one of random, pca")
        if prefixes is not None and (not prefixes or list(prefixes) != sorted({*prefixes} & {*range(1, rank + 1)})):
            raise InputError(f"prefixes: {prefixes} are not increasing ranks in 1 … {rank} (rank)")
        self.center, self.init, self.standardise = center, init, standardise
        self.prefixes = None if prefixes is None else tuple(prefixes)
        gaussian = np.random.default_rng(seed).standard_normal((2, features, rank))
        left, right = jnp.asarray(np.linalg.qr(gaussian)[0], jnp.float32)
        self.left = nnx.Param(left)
        self.right = None if tied else nnx.Param(right)
        self.mean = Statistic(jnp.zeros(features))
        self.deviation = Statistic(jnp.ones(features))

    def initialise(self, batches: Sequence[Batch]) -> None:
        """Measure the mean and deviation of the features, and start from PCA if asked (see `Initialised`)."""
        mean, deviation = feature_statistics(batches)
        if self.center == "data":
            self.mean[...] = jnp.asarray(mean)
        if self.standardise:
            self.deviation[...] = jnp.asarray(deviation)
        if self.init == "pca":
            inputs = [(self._inputs(x), weights) for x, weights in batches]
            basis = jnp.asarray(pca_basis(inputs, self.left.shape[1], center=self._center()), jnp.float32)
            self.left[...] = basis
            if self.right is not None:
                self.right[...] = basis

    def loss(self, x: BatchLike, weights: BatchWeightsLike = None) -> tuple[Float[Array, ""], Metrics]:
        """Mean over the batch of ‖S − Ŝ‖² − ‖S‖²; the FVU needs ‖S‖² and belongs to `evaluate`."""
        x, weights = check_batch(x, weights)
        return jnp.mean(self._losses(x, weights)), {}

    def evaluate(self, x: BatchLike, weights: BatchWeightsLike = None) -> dict[str, Array]:
        """Σ (‖S − Ŝ‖² − ‖S‖²) and Σ ‖S‖² of a batch, at full rank (see `Evaluated`)."""
        x, weights = check_batch(x, weights)
        inputs = self._inputs(x)
        losses = self._losses(x, weights, whole=True)
        axes = (0, None if weights is None else 0)
        norms = jax.vmap(lambda x, w: moment_norm(x, w, center=self._center()), axes)(inputs, weights)
        return {"loss": jnp.sum(losses), "norm": jnp.sum(norms)}

    def summarise(self, sums: dict[str, Any]) -> dict[str, float]:
        """FVU = Σ‖S − Ŝ‖² / Σ‖S‖²: 0 perfect, 1 for Ŝ = 0."""
        if not float(sums["norm"]):
            raise InputError("x: no sequence with a second moment above 0, so no share of it is explained")
        return {"fvu": 1 + float(sums["loss"]) / float(sums["norm"])}

    def project_gradients(self, gradients: Any) -> Any:
        """Nothing to project."""
        return gradients

    def after_step(self, x: Array, weights: Array | None = None) -> None:
        """Do nothing: only the parameters change."""

    def embed(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """The embedding of one sequence; batches by `jax.vmap`."""
        raise NotImplementedError

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """`embed`: a module is a pooler (see `covjax.pooling.Pooler`)."""
        return self.embed(x, weights)

    def _right(self) -> Array | None:
        return None if self.right is None else self.right[...]

    def _center(self) -> Array | str | None:
        if self.center == "data":
            return self.mean[...] / self.deviation[...]
        return None if self.center == "none" else "sequence"

    def _inputs(self, x: Array | np.ndarray) -> Array:
        x = jnp.asarray(x)
        if not self.standardise:
            return x
        return (x / jnp.expand_dims(self.deviation[...], range(x.ndim - 1))).astype(x.dtype)

    def _losses(
        self, x: Array | np.ndarray, weights: Array | np.ndarray | None, whole: bool = False
    ) -> Float[Array, "b"]:
        prefixes = None if whole else self.prefixes
        one = lambda x, w: type(self).loss_function(  # noqa: E731
            x, self.left[...], self._right(), w, center=self._center(), prefixes=prefixes
        )
        return jax.vmap(one, (0, None if weights is None else 0))(self._inputs(x), weights)


@register_autoencoder("tucker")
class TuckerAutoencoder(SecondMomentAutoencoder):
    """C = AᵀSB, Ŝ = A C Bᵀ (`tucker_loss`). Embedding: C flattened, rank²; tied: vech(C), rank(rank + 1)/2."""

    name = "tucker"
    loss_function = staticmethod(tucker_loss)

    def embed(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """The core C of one sequence as a vector; raises like `projected_moment`."""
        x, weights = check_sequence(x, weights)
        c = projected_moment(self._inputs(x), self.left[...], self._right(), weights, center=self._center())
        return vech(c) if self.right is None else c.reshape(-1)


@register_autoencoder("cp")
class CPAutoencoder(SecondMomentAutoencoder):
    """z_h = a_hᵀ S b_h, Ŝ = Σ_h z_h a_h b_hᵀ (`cp_loss`): bilinear latents pooled. Embedding: z, rank."""

    name = "cp"
    loss_function = staticmethod(cp_loss)

    def embed(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "rank"]:
        """The latents z of one sequence; raises like `cp_latents`."""
        x, weights = check_sequence(x, weights)
        return cp_latents(self._inputs(x), self.left[...], self._right(), weights, center=self._center())
