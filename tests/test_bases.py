"""Bases of the truncation against a dense float64 computation, on made-up tokens."""

import numpy as np
import pytest

from covjax.activations import EncodedTokens
from covjax.activations.tokens import standardiser
from covjax.embedding.learned import make_bases
from covjax.embedding.references import TrainingTokens
from tests.test_tokens import bert, data  # noqa: F401  (fixtures)


@pytest.fixture
def tokens(bert, data):  # noqa: F811
    return EncodedTokens(bert, data.sequences, 1, 64, 1.0)


def covariances(tokens, fit, train):
    out = []
    for x in tokens.kept(train):
        z = (x.astype(np.float64) - fit[0]) / fit[1]
        z -= z.mean(0)
        out.append(z.T @ z / len(z))
    return np.array(out)


def captured(basis, matrices):
    """Σ ‖UᵀSU‖², what the Tucker autoencoder maximises."""
    return sum(np.sum((basis.T @ s @ basis) ** 2) for s in matrices)


def test_make_bases(tokens):
    train = np.array([0, 1, 2, 4])
    fit = standardiser(tokens, train)
    wanted = [("pca", 3), ("tucker", 3), ("random", 3), ("random", 2)]
    bases = make_bases(TrainingTokens(tokens, fit, train, seed=0), wanted, token_budget=64)
    matrices = covariances(tokens, fit, train)
    for (_, rank), basis in bases.items():
        np.testing.assert_allclose(basis.T @ basis, np.eye(rank), atol=1e-5)
    expected = np.linalg.eigh(matrices.mean(0))[1][:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(np.sum(bases["pca", 3] * expected, axis=0)), 1, atol=1e-4)
    scores = {name: captured(bases[name, 3], matrices) for name in ("pca", "tucker", "random")}
    assert scores["tucker"] >= scores["pca"] * (1 - 1e-6)
    assert scores["pca"] > scores["random"]


def test_each_basis_is_the_same_whatever_else_is_wanted(tokens):
    train = np.array([0, 1, 2, 4])
    fit = standardiser(tokens, train)
    training = TrainingTokens(tokens, fit, train, seed=0)
    alone = make_bases(training, [("random", 2)], token_budget=64)
    beside = make_bases(training, [("random", 2), ("random", 3), ("pca", 2)], token_budget=64)
    np.testing.assert_array_equal(alone["random", 2], beside["random", 2])
