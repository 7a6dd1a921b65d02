"""Embedder: order, kinds of input, what it fits, its state on disk, scikit-learn's contract, and bad input."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from covjax.embedder import Embedder
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from covjax.recipes import recipe_names
from tests.test_unirep import random_weights

RECIPES = ("mean", "log_covariance", "mean+sqrt_covariance", "pca_covariance_2", "sqrt_covariance_3_components")


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(n, 6)) * np.arange(1, 7) + 2).astype(np.float32) for n in (5, 9, 4, 30, 12, 7, 9, 21)]


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(1)
    return ["M" + "".join(rng.choice(list("ACDEFGHIKL"), n)) for n in (9, 24, 9, 24, 9, 9)]


def reference(name, arrays, training):
    """The vectors in float64, from the definition."""
    together = np.concatenate(training).astype(np.float64)
    mean, deviation = together.mean(0), together.std(0)

    def pools(x):
        z = (x - mean) / deviation
        sigma = np.cov(z.T, bias=True)
        values, vectors = np.linalg.eigh(sigma)
        rows, columns = np.triu_indices(6)
        vech = lambda s: s[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
        log = vech(vectors * np.log(values.clip(0) + 0.01) @ vectors.T)
        return {
            "mean": z.mean(0),
            "log_covariance": log,
            "sqrt": vech(vectors * np.sqrt(values.clip(0) + 1e-6) @ vectors.T),
        }

    if name == "mean+sqrt_covariance":
        out = []
        for part in ("mean", "sqrt"):
            block, known = (np.array([pools(x)[part] for x in each]) for each in (arrays, training))
            centre = known.mean(0)
            out.append((block - centre) / np.sqrt(((known - centre) ** 2).sum(1).mean()))
        return np.concatenate(out, 1)
    return np.array([pools(x)[name] for x in arrays])


@pytest.mark.parametrize("name", ["mean", "log_covariance", "mean+sqrt_covariance"])
def test_vectors_are_those_of_the_definition_in_the_order_given(arrays, name):
    training = arrays[:5]
    vectors = Embedder(recipe=name).fit(training).encode(arrays)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference(name, arrays, training), atol=2e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_saved_and_loaded_it_gives_the_same_bits(arrays, name, tmp_path):
    embedder = Embedder(recipe=name, eps=0.05).fit(arrays)
    vectors = embedder.transform(arrays)
    embedder.save(tmp_path / "state")
    again = Embedder.load(tmp_path / "state")
    assert again.get_params() == embedder.get_params()
    np.testing.assert_array_equal(again.transform(arrays), vectors)
    assert len(embedder.get_feature_names_out()) == vectors.shape[1]


def test_every_kind_of_activations_gives_the_same(arrays):
    torch = pytest.importorskip("torch")
    equal = [x[:4] for x in arrays]
    stacked = np.stack([np.pad(x, ((0, 3), (0, 0)), constant_values=np.nan) for x in equal])
    mask = np.arange(7) < 4
    embedder = Embedder(recipe="covariance").fit(equal)
    expected = embedder.transform(equal)
    for given in (map(jnp.asarray, equal), iter(equal), [torch.tensor(x, requires_grad=True) for x in equal]):
        np.testing.assert_array_equal(embedder.transform(given), expected)
    for whole in (stacked, jnp.asarray(stacked), torch.tensor(stacked)):
        np.testing.assert_array_equal(embedder.transform(whole, mask=np.tile(mask, (8, 1))), expected)
    half = [torch.tensor(x).bfloat16() for x in equal]
    np.testing.assert_allclose(embedder.transform(half), expected, atol=0.2)


class Counted(UniRep):
    """Counts how many sequences it encodes."""

    sequences = 0

    def encode(self, sequence, *arguments):
        Counted.sequences += 1
        return super().encode(sequence, *arguments)


def test_a_cache_encodes_every_sequence_once(sequences, tmp_path):
    encoder = Counted(random_weights())
    plain = Embedder(encoder, "covariance").fit(sequences).transform(sequences)
    embedder = Embedder(encoder, "covariance", cache=tmp_path)
    np.testing.assert_array_equal(embedder.fit(sequences).transform(sequences), plain)
    Counted.sequences = 0
    np.testing.assert_array_equal(embedder.fit(sequences[:4]).transform(sequences).shape, plain.shape)
    assert Counted.sequences <= 4  # a look at whether there is a special token, at fit and at transform
    (tmp_path / next(tmp_path.rglob("*.npy")).relative_to(tmp_path)).write_bytes(b"cut")
    np.testing.assert_array_equal(embedder.fit(sequences).transform(sequences), plain)


def test_a_grid_search_over_recipes(arrays):
    model_selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    target = np.array([x.mean() for x in arrays])
    search = model_selection.GridSearchCV(
        make_pipeline(Embedder(), Ridge(1e-3)), {"embedder__recipe": ["mean", "covariance"]}, cv=2
    )
    search.fit(arrays, target)
    assert search.best_params_["embedder__recipe"] in ("mean", "covariance")
    assert search.predict(arrays).shape == (8,)


def test_clone_and_parameters():
    base = pytest.importorskip("sklearn.base")
    embedder = Embedder("unirep-64", "mean", eps=0.5)
    copy = base.clone(embedder)
    assert copy.get_params() == embedder.get_params()
    assert copy.set_params(recipe="covariance") is copy
    assert repr(copy) == "Embedder(encoder='unirep-64', recipe='covariance', eps=0.5)"
    assert "Embedder" in json.dumps(repr(embedder))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Embedder(recipe="log-covariance").fit(x), "did you mean log_covariance"),
        (lambda x: Embedder(recipe="composition").fit(x), "counts letters"),
        (lambda x: Embedder(recipe="attention").fit(x), "trained on labels"),
        (lambda x: Embedder(recipe="cls").fit(x), "needs a special token"),
        (lambda x: Embedder(recipe="pca_covariance_9").fit(x), "rank: 9 is more than the 6 features"),
        (lambda x: Embedder(eps=0.0).fit(x), "eps: 0.0 is not allowed; > 0"),
        (lambda x: Embedder().transform(x), "not fitted yet"),
        (lambda x: Embedder().fit([]), "no sequence"),
        (lambda x: Embedder().fit("MKV"), "give a list of sequences"),
        (lambda x: Embedder().fit(x[0]), r"shape \(5, 6\); expected \(n, tokens, features\)"),
        (lambda x: Embedder().fit([*x, x[0][:, :3]]), r"sequence 8 has shape \(5, 3\)"),
        (lambda x: Embedder().fit([*x, x[0] * np.nan]), "sequence 8 holds NaN or inf in 30 of 30 places"),
        (lambda x: Embedder().fit([*x, x[0].astype(int)]), "sequence 8 is int64"),
        (lambda x: Embedder(recipe="mean").fit(x).transform([a[:, :3] for a in x]), "3 features a token, but 6"),
        (lambda x: Embedder().set_params(colour=1), "no parameter 'colour'"),
        (lambda x: Embedder.load("/proc/none"), "no fitted recipe is saved there"),
    ],
)
def test_bad_input_is_named_with_the_remedy(arrays, make, message):
    with pytest.raises(InputError, match=message):
        make(arrays)


def test_every_recipe_without_labels_can_be_fitted(arrays):
    passed_over = ("composition", "cls", "attention", "light_attention", "projected")
    for name in recipe_names():
        if name.startswith(passed_over) or "sae" in name or name.rpartition("_")[2] in ("8", "16", "32", "components"):
            continue
        vectors = Embedder(recipe=name).fit(arrays).transform(arrays)
        assert np.isfinite(vectors).all()
        assert len(vectors) == 8
