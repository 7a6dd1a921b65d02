"""Explanations: contributions that sum to the score, directions, parts, against plain float64 NumPy."""

import dataclasses

import numpy as np
import pytest

import covjax
from covjax import InputError
from covjax.autoencoders import make_autoencoder
from covjax.comparison.model import Model
from covjax.embedder import Embedder
from covjax.embedding.fitted import FittedRecipe
from covjax.embedding.learned import sparse_options
from covjax.embedding.pools import FittedPool
from covjax.explanation.blocks import Block, make_blocks
from covjax.explanation.contributions import contributions
from covjax.explanation.evidence import latent_contexts
from covjax.explanation.explain import explain
from covjax.explanation.latents import term_name
from covjax.pooling import get_pooler
from covjax.probes import LinearProbe
from covjax.recipes.base import SparsePooled

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


PAIRS = np.array([[1, 7], [2, 2], [2, 9], [7, 9], [0, 11]])


def sparse_model(name, embedder, pairs=PAIRS, labels=("a", "b"), task="multilabel"):
    """A model on the latents of a random TopK autoencoder of 12 latents, 3 of them active in a token."""
    recipe = SparsePooled(
        name=name, title=name, role="baseline", pooler=name, autoencoder=(("latents", 12), ("k", 3), ("steps", 1))
    )
    features = embedder.fitted_.features
    autoencoder = make_autoencoder("topk", features, seed=3, **sparse_options(recipe))
    random = np.random.default_rng(4)
    autoencoder.encoder_bias[...] = random.normal(size=12).astype(np.float32) / 2
    autoencoder.decoder_bias[...] = random.normal(size=features).astype(np.float32) / 2
    options = {"pairs": pairs} if name == "sae_cooccurrence" else {}
    pool = FittedPool(recipe, get_pooler(name, autoencoder=autoencoder, **options))
    embedder.recipe, embedder.fitted_ = (
        name,
        FittedRecipe((recipe,), features, 0, embedder.fitted_.fit, {name: pool}, {}, None),
    )
    width = embedder.fitted_.width
    probe = LinearProbe(random.normal(size=(width, len(labels))), random.normal(size=len(labels)))
    return Model(embedder, probe, "ridge", task, labels)


def plain_latents(model, x):
    """The latents of raw tokens in float64, without covjax."""
    fitted = model.embedder.fitted_
    autoencoder = next(iter(fitted.pools.values())).pooler.autoencoder
    z = (x.astype(np.float64) - fitted.fit[0]) / fitted.fit[1]
    encoder, bias, decoder_bias, scale = (
        np.asarray(getattr(autoencoder, name)[...], np.float64)
        for name in ("encoder", "encoder_bias", "decoder_bias", "scale")
    )
    pre = (scale * z - decoder_bias) @ encoder.T + bias
    least = np.sort(pre, axis=1)[:, [-3]]
    return np.where(pre >= least, np.maximum(pre, 0), 0)


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


@pytest.mark.parametrize("ridge", [1e-2, 1e-4, 1e-6, 1e-8])
def test_few_tokens_beside_many_features_are_complete(ridge, rng):
    """Σ of rank 2: the logarithm's derivative is 1 / ε along its null space, and the path ends there."""
    form = rng.normal(size=(3, 16, 16))
    block = Block("log_covariance", "covariance", form + form.transpose(0, 2, 1), "log", ridge)
    whole = contributions(block, rng.normal(size=(3, 16)), np.eye(16))
    way = np.abs(whole.tokens.sum((0, 2)) + whole.residual)
    assert (np.abs(whole.residual) <= 1e-3 * way).all()


@pytest.mark.parametrize("name", ["sae_mean", "sae_cooccurrence"])
def test_latents_are_explained_exactly(name, arrays):
    model = sparse_model(name, Embedder(recipe="covariance").fit(arrays))
    explained = explain(model, arrays)
    latents = [plain_latents(model, x) for x in arrays]
    left, right = PAIRS.T
    scale = np.where(left == right, 1, np.sqrt(2))
    vectors = np.stack(
        [z.mean(0) if name == "sae_mean" else scale * (z[:, left] * z[:, right]).mean(0) for z in latents]
    )
    scores = vectors @ model.probe.weights + model.probe.bias
    np.testing.assert_allclose(explained.scores, scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(model.scores(arrays), scores, rtol=0, atol=1e-4)
    sums = np.stack([each.sum(0) for each in explained.contributions])
    np.testing.assert_allclose(explained.bias + sums, scores, rtol=0, atol=1e-5)
    for label in range(2):
        terms = explained.latent_terms(label)
        assert len(terms) == vectors.shape[1]
        shares = [each.share for each in terms]
        np.testing.assert_allclose(sum(shares), 1, rtol=1e-9)
        np.testing.assert_allclose(sum(each.share for each in explained.directions(label)), 1, rtol=1e-9)
        assert np.abs(shares).tolist() == sorted(np.abs(shares), reverse=True)
        names = [(i,) for i in range(12)] if name == "sae_mean" else list(map(tuple, PAIRS.tolist()))
        for term in terms:
            place = names.index(term.latents)
            np.testing.assert_allclose(term.values, vectors[:, place] * model.probe.weights[place, label], atol=1e-5)
        assert [each.latents for each in explained.latent_terms(label, 2)] == [each.latents for each in terms[:2]]
    if name == "sae_cooccurrence":  # one token: xᵀ W x / n
        weights, z = model.probe.weights[:, 1], latents[3]
        token = (z[5, left] * z[5, right] * scale) @ weights / len(z)
        np.testing.assert_allclose(explained.contributions[3][5, 1], token, rtol=0, atol=1e-5)


def test_contexts_are_where_a_latent_is_largest(arrays):
    model = sparse_model("sae_cooccurrence", Embedder(recipe="covariance").fit(arrays))
    tokens = model.embedder.tokens(arrays)
    explained = explain(model, tokens)
    latents = [plain_latents(model, x) for x in arrays]
    for each in latent_contexts(model.embedder.fitted_, tokens, explained, [2, 7], count=3, reach=4):
        peaks = [z[:, each.latent].max() for z in latents]
        assert [context.row for context in each.contexts] == np.argsort(-np.array(peaks), kind="stable")[:3].tolist()
        assert each.density == pytest.approx(np.mean(np.concatenate(latents)[:, each.latent] > 0))
        for context in each.contexts:
            line = latents[context.row][:, each.latent]
            assert context.place == np.argmax(line)
            np.testing.assert_allclose(context.value, line.max(), rtol=1e-5)
            window = line[max(context.place - 4, 0) : context.place + 5]
            np.testing.assert_allclose(context.values, window, atol=1e-5)
    assert [term_name(each) for each in ((3,), (3, 3), (812, 97))] == [
        *("latent 3", "latent 3 squared", "latent 812 with 97")
    ]


def test_no_latents_no_terms(arrays):
    explained = explain(make_model("covariance", arrays), arrays[:2])
    assert explained.latent_terms(0) == []
    assert explained.moments == (None,)


@pytest.mark.parametrize("ridge", [1e-4, 1e-8])
def test_the_parts_of_a_root_of_few_tokens_do_not_depend_on_the_ridge(ridge, rng):
    """Beside the span of the tokens the derivative goes to infinity with 1 / √ridge; no token sees that."""
    form, z = rng.normal(size=(2, 16, 16)), rng.normal(size=(4, 16))
    block = Block("sqrt_covariance", "covariance", form + form.transpose(0, 2, 1), "sqrt", ridge)
    whole = contributions(block, z)
    y = z - z.mean(0)
    _, s, v = np.linalg.svd(y / 2, full_matrices=False)
    s, v = s[:3], v[:3]
    inner = (v @ block.weights @ v.T) / (s[:, None] + s)  # Daleckii–Krein at ridge 0, on the span
    slope = v.T @ inner @ v
    variance = 2 * np.einsum("ti,kii->tk", y**2, slope) / 4
    np.testing.assert_allclose(whole.tokens[..., 1], variance, rtol=0, atol=30 * ridge)
    np.testing.assert_allclose(
        whole.tokens.sum(2), np.einsum("ti,kij,tj->tk", y, slope, y) / 2, rtol=0, atol=30 * ridge
    )
    total = whole.constant + whole.tokens.sum((0, 2))
    np.testing.assert_allclose(total, np.einsum("kij,ij->k", block.weights, whole.pooled), rtol=1e-9)


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
        ("sae_max", "sae_max is not a function"),
        ("mean+sqrt_covariance", ""),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(recipe, reason, arrays):
    if recipe == "sae_max":
        model = sparse_model(recipe, Embedder(recipe="covariance").fit(arrays))
    else:
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
