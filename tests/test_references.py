"""What recipes fit on training tokens: against NumPy, whatever the batches, and through a saved file."""

import numpy as np
import pytest

from covjax import Embedder, InputError
from covjax.activations import ArrayTokens
from covjax.activations.tokens import standardiser
from covjax.embedding import references
from covjax.embedding.references import TrainingTokens, fit_reference, reference
from covjax.frechet import inverse_root
from covjax.moments import moments
from covjax.recipes import all_recipes
from covjax.recipes.base import Pooled, RecipeSettings, Trained

D = 4
LENGTHS = (5, 40, 9, 17, 33, 21, 6, 12)
TRAIN = np.array([0, 2, 3, 5, 7])
SETTINGS = RecipeSettings(ranks=(2,), trained=())
NAMES = [
    recipe.name
    for recipe in all_recipes(SETTINGS)
    if isinstance(recipe, Pooled) and not isinstance(recipe, Trained) and (recipe.optional or "reg" in recipe.name)
]


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(D, D))
    return [(rng.normal(size=(t, D)) @ mix + rng.normal(size=D)).astype(np.float32) for t in LENGTHS]


def training(token_budget=16384, given=None):
    tokens = ArrayTokens(arrays() if given is None else given, token_budget)
    return TrainingTokens(tokens, standardiser(tokens, TRAIN), TRAIN, seed=0)


def standardised():
    whole = np.concatenate([arrays()[row] for row in TRAIN]).astype(np.float64)
    return [(arrays()[row] - whole.mean(0)) / whole.std(0) for row in TRAIN]


def test_sums_samples_and_parts_are_of_training_tokens_whatever_the_batches():
    expected = standardised()
    results = []
    for budget in (16384, 64):
        one = training(budget)
        total, count = one.total(lambda x, w: (moments(x, w).covariance(), w.sum()), "test")
        np.testing.assert_allclose(total, sum(np.cov(x.T, bias=True) for x in expected), rtol=1e-4, atol=1e-5)
        assert count == sum(map(len, expected))
        results.append((one.sample, one.each(lambda x, w: moments(x, w).mean, "test")))
        np.testing.assert_allclose(results[-1][1], [x.mean(0) for x in expected], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6, atol=1e-6)
    order = lambda x: x[np.lexsort(x.T)]
    np.testing.assert_allclose(order(results[0][0]), order(np.concatenate(expected)), rtol=1e-4, atol=1e-5)


def test_a_sample_is_drawn_evenly(monkeypatch):
    monkeypatch.setattr(references, "SAMPLE", 600)
    given = [np.full((1000, 1), i, np.float32) + np.zeros((1, D), np.float32) for i in range(8)]
    drawn = training(given=given)
    sample = drawn.sample * drawn.fit[1] + drawn.fit[0]
    assert sample.shape == (600, D)
    numbers, counts = np.unique(np.round(sample[:, 0]), return_counts=True)
    assert numbers.tolist() == TRAIN.tolist()
    assert (abs(counts - 120) < 40).all()


@pytest.mark.long
def test_references_against_numpy():
    tokens, one = standardised(), training()
    whole = np.concatenate(tokens)
    covariances = [np.cov(x.T, bias=True) for x in tokens]

    def log(a):
        s, v = np.linalg.eigh(a)
        return (v * np.log(s)) @ v.T

    fitted = fit_reference("token_covariance", one, {"ridge": 0.1})
    expected = inverse_root(np.cov(whole.T, bias=True) + 0.1 * np.eye(D))
    np.testing.assert_allclose(fitted["whitening"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fitted["center"], np.zeros(D), atol=1e-5)
    fitted = fit_reference("mean_covariance", one, {"ridge": 0.1})
    expected = inverse_root(np.mean(covariances, axis=0) + 0.1 * np.eye(D))
    np.testing.assert_allclose(fitted["whitening"], expected, rtol=1e-4, atol=1e-5)
    fitted = fit_reference("log_euclidean_mean", one, {"eps": 0.1})
    mean = np.mean([log(c + 0.1 * np.eye(D)) for c in covariances], axis=0)
    s, v = np.linalg.eigh(mean)
    np.testing.assert_allclose(fitted["whitening"], (v * np.exp(-s / 2)) @ v.T, rtol=1e-3, atol=1e-4)
    distances = [np.linalg.norm(a - b) for i, a in enumerate(whole) for b in whole[:i]]
    assert fit_reference("median_distance", one, {})["bandwidth"] == pytest.approx(np.median(distances), rel=1e-4)
    # At the affine-invariant mean the training sequences' tangent vectors add up to 0, on all components or on two.
    for rank in (D, 2):
        whitening = fit_reference("frechet_mean", one, {"eps": 0.1, "rank": rank})["whitening"].astype(np.float64)
        basis = np.linalg.qr(whitening)[0]
        regular = [basis.T @ c @ basis + 0.1 * np.eye(rank) for c in covariances]
        tangent = np.mean([log(whitening.T @ basis @ c @ basis.T @ whitening) for c in regular], axis=0)
        assert whitening.shape == (D, rank)
        assert np.linalg.norm(tangent) < 1e-3


def test_the_mean_covariance_is_the_same_by_numpy_and_on_a_device(monkeypatch):
    expected = np.mean([np.cov(x.T, bias=True) for x in standardised()], axis=0)
    for backend, other in (("cpu", "_whole"), ("gpu", "_half")):
        with monkeypatch.context() as patch:
            patch.setattr(references.jax, "default_backend", lambda backend=backend: backend)
            patch.setattr(references, other, None)
            for budget in (40, 16384):
                np.testing.assert_allclose(training(budget).mean_covariance, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_saves_and_loads(name, tmp_path):
    embedder = Embedder(recipe=name).fit([arrays()[row] for row in TRAIN])
    vectors = embedder.transform(arrays(1))
    assert np.isfinite(vectors).all()
    assert vectors.shape == (len(LENGTHS), embedder.fitted_.width)
    assert vectors.std(0).max() > 0
    embedder.save(tmp_path / "state")
    np.testing.assert_array_equal(Embedder.load(tmp_path / "state").transform(arrays(1)), vectors)


@pytest.mark.parametrize("name", ["vlad", "fisher_vector", "kernel_mean", "affine_tangent_space", "whitened_mean"])
def test_few_tokens_are_enough(name):
    for given in ([np.ones((1, D), np.float32) * np.arange(D)] * 2, [x[:2] for x in arrays()]):
        given = [x + np.float32(0.5) * i for i, x in enumerate(given)]
        assert np.isfinite(Embedder(recipe=name).fit_transform(given)).all()


def test_references_are_registered_once_and_unknown_ones_named():
    with pytest.raises(InputError, match="reference 'kmeans' is already registered"):
        reference("kmeans", lambda features: {})(lambda training: {})
    with pytest.raises(InputError, match="reference: 'kmens' is unknown; there are frechet_mean, "):
        fit_reference("kmens", training(), {})
