"""Bases of the truncation against a dense float64 computation, and pools that are trained, on made-up tokens."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from covjax.activations import ArrayTokens, EncodedTokens
from covjax.activations.tokens import standardiser
from covjax.comparison.config import CompareConfig, choose_recipes
from covjax.comparison.features import make_features
from covjax.data import Dataset
from covjax.embedding import learned
from covjax.embedding.learned import make_bases, train_pools
from covjax.embedding.references import TrainingTokens
from covjax.recipes import all_recipes
from covjax.recipes.base import RecipeSettings, Trained
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


def regression(rng):
    """Token arrays of 24 sequences, and their largest numbers as targets."""
    arrays = [rng.normal(size=(length, 4)).astype(np.float32) for length in rng.integers(3, 9, 24)]
    names, targets = tuple(map(str, range(24))), np.array([[x.max()] for x in arrays])
    split = np.array(["train"] * 16 + ["validation"] * 4 + ["test"] * 4)
    return arrays, Dataset("t", "regression", names, names, targets, ("y",), names, split, False)


@pytest.mark.long
def test_seeds_trained_one_after_the_other_are_those_trained_beside_each_other(rng, tmp_path, monkeypatch):
    arrays, dataset = regression(rng)
    tokens = ArrayTokens(arrays)
    settings = RecipeSettings(trained=("attention",), steps=8, seeds=(0, 1, 2))
    recipes = [recipe for recipe in all_recipes(settings) if isinstance(recipe, Trained)]
    rest = dataset, tokens, recipes, standardiser(tokens, dataset.rows("train")), None, 0
    together = train_pools(*rest, tmp_path / "together")
    rate = f"rate-{dict(recipes[0].training)['learning_rates'][0]:g}"
    assert [path.name for path in (tmp_path / "together").iterdir()] == [f"{rate}-seeds-0-1-2"]
    one = 4 * len(dict(recipes[0].training)["weight_decays"]) * (4 + 16 + 4)  # bytes: query, values, readout
    for count, groups in ((1, ["0", "1", "2"]), (2, ["0-1", "2"])):
        monkeypatch.setattr(learned, "TOGETHER", count * one)
        after = train_pools(*rest, tmp_path / str(count))
        for first, second in zip(together, after, strict=True):
            for a, b in zip(*(jax.tree.leaves(nnx.state(pool)) for pool in (first, second)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)
        assert len({np.asarray(pool.values[...]).tobytes() for pool in after}) == 3
        names = sorted(path.name for path in (tmp_path / str(count)).iterdir())
        assert names == [f"{rate}-seeds-{group}" for group in groups]


@pytest.mark.long
def test_a_seed_more_or_less_is_another_training(rng, tmp_path):
    arrays, dataset = regression(rng)
    for seeds in ((0, 1), (0, 1, 2), (0,)):
        settings = RecipeSettings(trained=("attention",), steps=8, seeds=seeds)
        recipes = [recipe for recipe in all_recipes(settings) if isinstance(recipe, Trained)]
        pools = train_pools(
            dataset,
            ArrayTokens(arrays),
            recipes,
            standardiser(ArrayTokens(arrays), dataset.rows("train")),
            None,
            0,
            tmp_path,
        )
        assert len(pools) == len(seeds)


@pytest.mark.long
def test_pools_trained_on_a_basis_are_those_of_projected_tokens(rng, tmp_path):
    arrays, dataset = regression(rng)
    settings = RecipeSettings(trained=("attention",), steps=8, seeds=(0, 1))
    every = [recipe for recipe in all_recipes(settings) if isinstance(recipe, Trained)]
    recipes = [dataclasses.replace(recipe, width=2) for recipe in every]
    tokens, basis = ArrayTokens(arrays), rng.normal(size=(4, 2)).astype(np.float32)
    mean, deviation = fit = standardiser(tokens, dataset.rows("train"))
    projected = ArrayTokens([(x - mean) / deviation @ basis for x in arrays])
    on_basis = train_pools(dataset, tokens, recipes, fit, basis, 0, tmp_path / "basis")
    plain = np.zeros(2, np.float32), np.ones(2, np.float32)
    for first, second in zip(on_basis, train_pools(dataset, projected, recipes, plain, None, 0, tmp_path / "plain")):
        for a, b in zip(*(jax.tree.leaves(nnx.state(pool)) for pool in (first, second)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.long
def test_a_seed_whose_table_is_lost_is_made_again_from_the_training_of_all(rng, tmp_path):
    """As where a run was killed between the tables of two seeds."""
    arrays, dataset = regression(rng)
    rows = ("mean", "covariance", "attention")
    settings = CompareConfig(data="t.csv", rows=rows, trained=("attention",), steps=8, seeds=(0, 1, 2))
    recipes = choose_recipes(settings, 4, False, has_sequences=False)

    def made():
        found = make_features(settings, dataset, ArrayTokens(arrays), recipes, tmp_path, {})
        return {name: found[name].values for name in found}

    first = made()
    assert sorted(first) == ["attention", "attention_seed_1", "attention_seed_2", "covariance", "mean"]
    for lost in (["attention_seed_1"], ["attention", "attention_seed_2"]):
        for name in lost:
            shutil.rmtree(tmp_path / "features" / name)
        for name, values in made().items():
            np.testing.assert_array_equal(values, first[name], err_msg=name)
