"""Explanations: contributions that sum to the score, directions, parts, against plain float64 NumPy."""

import dataclasses

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.comparison.model import Model
from covjax.embedder import Embedder
from covjax.explanation.blocks import Block, make_blocks
from covjax.explanation.contributions import contributions
from covjax.explanation.explain import explain
from covjax.probes import LinearProbe

D = 5
LINEAR = ["mean", "mean_std", "second_moment", "covariance", "mean_outer", "mean+mean_outer", "pca_covariance_4"]
ROOTS = ["sqrt_covariance", "mean+sqrt_covariance", "pca_sqrt_covariance_4"]
LOGS = ["log_covariance", "mean+log_covariance"]


@pytest.fixture(scope="module")
def arrays():
    random = np.random.default_rng(0)
    mix = random.normal(size=(12, D, D))
    return [(random.normal(size=(8 + 3 * i, D)) @ mix[i] + random.normal(size=D)).astype(np.float32) for i in range(12)]


def make_model(recipe, arrays, outputs=2):
    embedder = Embedder(recipe=recipe).fit(arrays)
    width = embedder.fitted_.width
    random = np.random.default_rng(1)
    probe = LinearProbe(random.normal(size=(width, outputs)) / np.sqrt(width), random.normal(size=outputs))
    return Model(embedder, probe, "ridge", "multilabel", tuple("ab"[:outputs]))


def plain_vector(recipe, model, x):
    """The recipe's vector from raw tokens, in float64 and without covjax's pooling."""
    fitted = model.embedder.fitted_
    z = (x.astype(np.float64) - fitted.fit[0]) / fitted.fit[1]

    def vech(a):
        rows, columns = np.triu_indices(len(a))
        return a[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))

    def spectral(a, function):
        s, v = np.linalg.eigh(a)
        return (v * function(np.maximum(s, 0))) @ v.T

    def one(name):
        mean, sigma = z.mean(0), np.cov(z.T, bias=True)
        if name.startswith("pca"):
            basis = np.asarray(fitted.pools[name].pooler.basis[...], np.float64)
            sigma = basis.T @ sigma @ basis
        return {
            "mean": lambda: mean,
            "mean_std": lambda: np.concatenate([mean, z.std(0)]),
            "second_moment": lambda: vech(z.T @ z / len(z)),
            "mean_outer": lambda: vech(np.outer(mean, mean)),
            "covariance": lambda: vech(sigma),
            "pca_covariance_4": lambda: vech(sigma),
            "sqrt_covariance": lambda: vech(spectral(sigma, lambda s: np.sqrt(s + 1e-6))),
            "pca_sqrt_covariance_4": lambda: vech(spectral(sigma, lambda s: np.sqrt(s + 1e-6))),
            "log_covariance": lambda: vech(spectral(sigma, lambda s: np.log(s + 0.01))),
        }[name]()

    parts = [(one(name) - c) / s for name, (c, s) in fitted.blocks.items()] or [one(recipe)]
    return np.concatenate(parts)


@pytest.mark.parametrize("recipe", [*LINEAR, *ROOTS, *LOGS])
def test_contributions_sum_to_the_score_of_plain_numpy(recipe, arrays):
    model = make_model(recipe, arrays)
    explained = explain(model, arrays, reference=arrays[:6])
    vectors = np.stack([plain_vector(recipe, model, x) for x in arrays])
    scores = vectors @ model.probe.weights + model.probe.bias
    np.testing.assert_allclose(explained.scores, scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.scores(arrays), scores, rtol=0, atol=2e-3)  # float32 spectra
    sums = np.stack([each.sum(0) for each in explained.contributions])
    np.testing.assert_allclose(explained.bias + explained.constant + sums + explained.residual, scores, atol=1e-5)
    assert [len(each) for each in explained.tokens] == [len(x) for x in arrays]
    spread = scores.std(0)
    if recipe in LINEAR:
        np.testing.assert_allclose(explained.bias + sums, scores, rtol=0, atol=1e-5)
    elif recipe in ROOTS:
        assert (np.abs(explained.residual) < 1e-9).all()
        assert (np.abs(explained.constant) < 1e-2).all()
    else:
        way = np.abs(scores - explained.bias - explained.constant)
        assert (np.abs(explained.residual) <= 1e-3 * np.maximum(way, spread) + 1e-9).all()
        assert np.abs(explained.residual).max() > 0


@pytest.mark.parametrize("recipe", [*LINEAR, *ROOTS, *LOGS])
def test_directions_and_parts_are_all_of_the_score(recipe, arrays):
    explained = explain(make_model(recipe, arrays), arrays)
    for label in range(2):
        directions = explained.directions(label)
        np.testing.assert_allclose(sum(each.share for each in directions), 1, rtol=1e-9)
        averages = sum(each.average for each in directions) + explained.bias[label]
        np.testing.assert_allclose(averages, explained.scores[:, label].mean(), rtol=1e-9)
        assert [abs(each.share) for each in directions] == sorted((abs(e.share) for e in directions), reverse=True)
        np.testing.assert_allclose(sum(explained.shares(label).values()), 1, rtol=1e-9)
    assert len(explained.directions(0, 3)) == min(3, len(explained.directions(0)))


def test_parts_are_mean_variance_and_cooccurrence(arrays):
    """A score of one diagonal entry is variance, one off the diagonal co-occurrence, one of the mean the mean's."""
    model = make_model("covariance", arrays)
    rows, columns = np.triu_indices(D)
    weights = np.stack([(rows == 1) & (columns == 1), (rows == 0) & (columns == 3)], 1).astype(float)
    explained = explain(dataclasses.replace(model, probe=LinearProbe(weights, np.zeros(2))), arrays)
    assert explained.shares(0) == pytest.approx({**dict.fromkeys(explained.shares(0), 0), "variance": 1})
    assert explained.shares(1) == pytest.approx({**dict.fromkeys(explained.shares(1), 0), "co-occurrence": 1})
    fitted = model.embedder.fitted_
    z = (arrays[4].astype(np.float64) - fitted.fit[0]) / fitted.fit[1]
    y = z - z.mean(0)
    np.testing.assert_allclose(explained.contributions[4][:, 0], y[:, 1] ** 2 / len(y), rtol=1e-9)
    np.testing.assert_allclose(explained.contributions[4][:, 1], np.sqrt(2) * y[:, 0] * y[:, 3] / len(y), rtol=1e-9)
    assert explain(make_model("mean", arrays), arrays).shares(0)["mean"] == pytest.approx(1)


def test_the_root_is_explained_by_its_derivative_up_to_euler(rng):
    """Contributions are twice the directional derivatives along every token's share of Σ, by finite differences."""
    form = rng.normal(size=(1, D, D))
    form += form.transpose(0, 2, 1)
    block = Block("sqrt_covariance", "covariance", form, "sqrt", 0.0)
    z = rng.normal(size=(9, D))
    tokens = contributions(block, z).tokens.sum(2)[:, 0]
    y = z - z.mean(0)

    def value(s):
        eigenvalues, v = np.linalg.eigh(s)
        return np.sum(form[0] * ((v * np.sqrt(eigenvalues)) @ v.T))

    for i in range(9):
        step = 1e-6 * np.outer(y[i], y[i]) / 9
        slope = (value(y.T @ y / 9 + step) - value(y.T @ y / 9 - step)) / 2e-6
        np.testing.assert_allclose(tokens[i], 2 * slope, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tokens.sum(), value(y.T @ y / 9), rtol=1e-10)


def test_a_logarithm_at_its_reference_has_no_contributions_and_no_residual(rng):
    form = np.eye(D)[None]
    block = Block("log_covariance", "covariance", form, "log", 0.01)
    z = rng.normal(size=(20, D))
    whole = contributions(block, z, np.cov(z.T, bias=True))
    np.testing.assert_allclose(whole.tokens.sum((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(whole.residual, 0, atol=1e-12)
    np.testing.assert_allclose(whole.constant, np.linalg.slogdet(np.cov(z.T, bias=True) + 0.01 * np.eye(D))[1])


def test_few_tokens_beside_many_features_are_complete(rng):
    """Σ of rank 2: the logarithm's derivative is 100 along its null space, and the path ends there."""
    form = rng.normal(size=(3, 16, 16))
    block = Block("log_covariance", "covariance", form + form.transpose(0, 2, 1), "log", 0.01)
    whole = contributions(block, rng.normal(size=(3, 16)), np.eye(16))
    way = np.abs(whole.tokens.sum((0, 2)) + whole.residual)
    assert (np.abs(whole.residual) <= 1e-3 * way).all()


def test_components_are_folded_into_the_weights(arrays):
    model = make_model("covariance", arrays)
    fitted = model.embedder.fitted_
    turn, offset = np.random.default_rng(2).normal(size=(fitted.width, 3)), np.array([0.3, -1.0, 2.0])
    probe = LinearProbe(np.random.default_rng(3).normal(size=(3, 2)), np.array([0.1, 0.2]))
    blocks, bias = make_blocks(dataclasses.replace(fitted, components=(turn, offset)), probe)
    (plain,), _ = make_blocks(fitted, LinearProbe(turn @ probe.weights, np.zeros(2)))
    np.testing.assert_allclose(blocks[0].weights, plain.weights, rtol=1e-12)
    np.testing.assert_allclose(bias, probe.bias + offset @ probe.weights)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("max", "max is not a function of the mean and the second moment"),
        ("shuffled_covariance", "shuffles the tokens' features"),
        ("regional_mean", "regional_mean is not a function"),
        ("gaussian", "gaussian is not a function"),
        ("mean+sqrt_covariance", ""),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(recipe, reason, arrays):
    model = make_model(recipe, arrays)
    if not reason:
        assert len(explain(model, arrays[:2]).blocks) == 2
        return
    with pytest.raises(InputError, match=f"recipe '{recipe}' cannot be explained: .*{reason}.*--rows of mean, "):
        explain(model, arrays)


def test_wrong_arguments_are_named(arrays):
    model = make_model("mean", arrays)
    with pytest.raises(InputError, match="labels: 'c' is none of the model's: 'a, b'"):
        explain(model, arrays, labels=["c"])
    with pytest.raises(InputError, match="labels: 'a' is one text"):
        explain(model, arrays, labels="a")
    with pytest.raises(InputError, match="4 features a token, but 5 were fitted on"):
        explain(model, [x[:, :4] for x in arrays])
    with pytest.raises(InputError, match="model: it is of pairs"):
        explain(dataclasses.replace(model, pair={"kind": "both", "window": None}), arrays)
    with pytest.raises(InputError, match="no model is saved there"):
        covjax.explain("nowhere", arrays)
    one = explain(model, arrays, labels=["b"])
    np.testing.assert_allclose(one.scores[:, 0], explain(model, arrays).scores[:, 1])
