"""A model's linear score in blocks: of every pooled matrix each label's quadratic form, of every mean a vector."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.embedding.fitted import FittedRecipe
from covjax.embedding.pools import FittedPool, widths
from covjax.errors import InputError
from covjax.explanation.latents import Latents, make_latents
from covjax.pooling.second_order import ProjectedCovariance
from covjax.probes import LinearProbe, quadratic_form
from covjax.recipes.base import SpecialToken, Trained
from covjax.recipes.pairs import PairPooled

EXPLAINED = (
    *("mean", "mean_std", "second_moment", "covariance", "sqrt_covariance", "log_covariance", "mean_outer"),
    *(
        "mean+sqrt_covariance",
        "mean+log_covariance",
        "mean+mean_outer",
        "pca_covariance_RANK",
        "tucker_covariance_RANK",
        "sae_mean",
        "sae_cooccurrence",
    ),
)
LATENT = ("sae_mean", "sae_cooccurrence")


@dataclasses.dataclass(frozen=True)
class Block:
    """One part of a model's vectors, with the weights of every label on it.

    `of` is what is pooled from the standardised tokens: mean, deviation, outer (μμᵀ), second_moment or covariance.
    `weights` is (k, d) for mean and deviation, else W, (k, d, d) and symmetric: the score is ⟨W, f(S)⟩ with f the
    identity, or √ or log (`spectral`) of S + floor·I. `basis` (features, d) is what the tokens are projected on first,
    or the latents of a sparse autoencoder that stand in their place.
    """

    name: str
    of: str
    weights: Float[np.ndarray, "k *shape"]
    spectral: str | None = None
    floor: float = 0.0
    basis: Float[np.ndarray, "features d"] | Latents | None = None

    @property
    def latents(self) -> Latents | None:
        """The latents that the block pools; None where it pools features."""
        return self.basis if isinstance(self.basis, Latents) else None

    @property
    def is_matrix(self) -> bool:
        """Whether a matrix is pooled, not a vector."""
        return self.weights.ndim == 3

    def project(self, z: Float[np.ndarray, "t features"]) -> Float[np.ndarray, "t d"]:
        """The tokens as this block sees them."""
        if self.basis is None:
            return z
        return self.basis(z) if isinstance(self.basis, Latents) else z @ self.basis


def make_blocks(fitted: FittedRecipe, probe: LinearProbe) -> tuple[tuple[Block, ...], Float[np.ndarray, "k"]]:
    """The blocks of a fitted recipe under a probe on its vectors, and the bias that is left, in float64.

    Principal components and the scale of blocks that stand side by side are folded into the weights.
    Raises InputError, with the remedy, for a recipe whose score is not a function of means and second moments.
    """
    for pool in fitted.pools.values():
        if reason := _refusal(pool):
            raise InputError(
                f"model: recipe {fitted.recipe.name!r} cannot be explained: {reason}; compare with --rows of "
                f"{', '.join(EXPLAINED)} and explain that model"
            )
    weights, bias = np.asarray(probe.weights, np.float64), np.asarray(probe.bias, np.float64)
    if fitted.components is not None:
        turn, offset = fitted.components
        weights, bias = np.asarray(turn, np.float64) @ weights, bias + offset @ weights
    blocks: list[Block] = []
    first = 0
    for name, width in widths(fitted.pools, fitted.features).items():
        part = weights[first : first + width]
        if name in fitted.blocks:
            centre, scale = fitted.blocks[name]
            part = part / np.float64(scale)
            bias = bias - np.asarray(centre, np.float64) @ part
        blocks += _blocks(name, fitted.pools[name].pooler, part, fitted.features)
        first += width
    return tuple(blocks), bias


def _refusal(pool: FittedPool) -> str:
    """Why a pool has no explanation; nothing where it has one."""
    recipe, name = pool.recipe, pool.recipe.name
    if pool.sketch:
        return f"{name} is a random sketch of its numbers, as --solver landmarks or cg is not"
    if isinstance(recipe, Trained):
        return f"{name} is trained on the labels, and its score is not a quadratic form of the tokens"
    if isinstance(recipe, PairPooled):
        return f"{name} multiplies the pools of two sequences"
    if isinstance(recipe, SpecialToken):
        return "it takes one special token, not those of the sequence"
    if getattr(recipe, "shuffled", False):
        return f"{name} shuffles the tokens' features, so that no token has a contribution"
    plain = getattr(pool.pooler, "name", "") in ("mean", "mean_std", *LATENT) or _matrix(pool.pooler) is not None
    return "" if plain else f"{name} is not a function of the mean and the second moment of the tokens alone"


def _matrix(pooler: Any) -> tuple[str, str | None, float, np.ndarray | None] | None:
    """What is pooled, the spectral function, its floor and the basis, of a pool of one whole matrix."""
    if isinstance(pooler, ProjectedCovariance):
        return "covariance", pooler.spectral, pooler.floor, np.asarray(pooler.basis[...], np.float64)
    if pooler.name == "mean_outer":
        return "outer", None, 0.0, None
    options = dict(getattr(pooler, "options", ()))
    if options.get("statistic") not in ("covariance", "second_moment") or "floor" not in options:
        return None
    return options["statistic"], options["spectral"], options["floor"], None


def _blocks(name: str, pooler: Any, weights: Float[np.ndarray, "p k"], features: int) -> list[Block]:
    if (matrix := _matrix(pooler)) is not None:
        of, spectral, floor, basis = matrix
        probe = LinearProbe(weights, np.zeros(weights.shape[1]))
        forms = np.stack([quadratic_form(probe, output) for output in range(weights.shape[1])])
        return [Block(name, of, forms, spectral, floor, basis)]
    if pooler.name in LATENT:
        latents = make_latents(pooler)
        if latents.pairs is None:
            return [Block(name, "mean", weights.T, basis=latents)]
        return [Block(name, "second_moment", latents.form(weights), basis=latents)]
    kinds = {"mean": ("mean",), "mean_std": ("mean", "deviation")}[pooler.name]
    return [Block(name, of, part.T) for of, part in zip(kinds, np.split(weights, len(kinds)), strict=True)]
