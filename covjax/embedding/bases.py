"""Bases to truncate the covariance with, all fitted without labels on the tokens of the training sequences."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from covjax.activations import ArrayTokens
from covjax.activations.standardiser import Fit, train_weights
from covjax.autoencoders import solve_tucker
from covjax.distributed import agree, gather
from covjax.moments import moments
from covjax.notes import note
from covjax.recipes.base import BASES
from covjax.standardise import standardise


def make_bases(
    tokens: ArrayTokens, fit: Fit, train: np.ndarray, wanted: Sequence[tuple[str, int]], seed: int, token_budget: int
) -> dict[tuple[str, int], Float[np.ndarray, "d r"]]:
    """Orthonormal columns for every (basis, rank), the same in all processes, which must call this together.

    pca: the leading eigenvectors of the mean covariance. tucker: the optimum of the tied Tucker autoencoder of the
    covariances that `covjax.autoencoders.solve_tucker` reaches from there; tokens must fit in memory. random: of a
    Gaussian.
    """
    ranks = {kind: sorted({rank for basis, rank in wanted if basis == kind}) for kind in BASES}
    bases: dict[tuple[str, int], np.ndarray] = {}
    if ranks["pca"]:
        every = _pca(tokens, fit, train)
        bases |= {("pca", rank): every[:, :rank] for rank in ranks["pca"]}
    if ranks["tucker"]:
        found = _tucker(tokens, fit, train, ranks["tucker"], token_budget)
        bases |= {("tucker", rank): basis for rank, basis in zip(ranks["tucker"], found)}
    if ranks["random"]:
        gaussian = np.random.default_rng(seed).standard_normal((tokens.features, tokens.features))
        bases |= {("random", rank): np.linalg.qr(gaussian[:, :rank])[0].astype(np.float32) for rank in ranks["random"]}
    return agree(bases)  # an eigenvector's sign may depend on the machine


def _pca(tokens: ArrayTokens, fit: Fit, train: np.ndarray) -> Float[np.ndarray, "d d"]:
    @jax.jit
    def summed(x, w):
        return jax.vmap(lambda x, w: moments(standardise(x, w, *fit), w).covariance())(x, w).sum(0)

    total = np.zeros((tokens.features, tokens.features))
    for batch in tokens.walk("PCA basis"):
        total = total + np.asarray(summed(batch.tokens, train_weights(batch, train)), np.float64)
    total = gather(total[None]).sum(0)  # of all processes
    return np.linalg.eigh(total / len(train))[1][:, ::-1].astype(np.float32)


def _tucker(
    tokens: ArrayTokens, fit: Fit, train: np.ndarray, ranks: Sequence[int], token_budget: int
) -> list[np.ndarray]:
    batches: list[Any] = [
        (np.asarray(standardise(batch.tokens, batch.weights, *fit)), batch.weights)
        for batch in tokens.mixed(train, token_budget)
    ]
    bases = []
    for rank in ranks:
        # One start, PCA, and a loose tolerance: a few passes. Whether other starts end higher is the business of
        # `eval.benchmark autoencoder_quality`.
        found = solve_tucker(batches, rank, center="sequence", starts=1, tolerance=1e-3, max_iterations=100)
        note(f"Tucker basis, rank {rank}: FVU {found.fvu:.4f} after {len(found.objectives[0]) - 1} passes")
        bases.append(found.basis.astype(np.float32))
    return bases
