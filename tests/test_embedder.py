"""Embedder: order, kinds of input, what it fits, its state on disk, scikit-learn's contract, and bad input."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax.embedder import Embedder
from covjax.encoders.unirep import UniRep
from covjax.errors import InputError
from covjax.recipes import recipe_names
from tests.encoders.folders import write_bert
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


@pytest.mark.long
def test_a_cache_serves_what_does_not_fit_in_memory(sequences, tmp_path):
    encoder = Counted(random_weights())
    plain = Embedder(encoder, "log_covariance").fit(sequences).transform(sequences)
    embedder = Embedder(encoder, "log_covariance", max_memory_gib=0, cache=tmp_path)
    np.testing.assert_allclose(embedder.fit(sequences).transform(sequences), plain, rtol=2e-5, atol=1e-5)
    Counted.sequences = 0
    np.testing.assert_allclose(embedder.fit(sequences).transform(sequences), plain, rtol=2e-5, atol=1e-5)
    assert Counted.sequences == 0
    without = Embedder(encoder, "log_covariance", max_memory_gib=0).fit(sequences).transform(sequences)
    np.testing.assert_allclose(without, plain, rtol=2e-5, atol=1e-5)
    with pytest.raises(
        InputError, match="max_memory_gib: too little: 'tucker_covariance_2' needs all token activations in memory"
    ):
        Embedder(encoder, "tucker_covariance_2", max_memory_gib=0).fit(sequences)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sequences", "arrays"])
def test_a_grid_search_over_recipes(arrays, sequences, tmp_path, kind):
    model_selection = pytest.importorskip("sklearn.model_selection")
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    given = arrays if kind == "arrays" else sequences
    target = np.array([len(x) for x in given], float)
    encoder = Counted(random_weights())
    search = model_selection.GridSearchCV(
        make_pipeline(Embedder(encoder, cache=tmp_path), Ridge(1e-3)),
        {"embedder__recipe": ["mean", "covariance"], "embedder__eps": [0.01, 0.1]},
        cv=2,
        error_score="raise",
    )
    Counted.sequences = 0
    search.fit(given, target)
    assert search.best_params_["embedder__recipe"] in ("mean", "covariance")
    assert search.predict(given).shape == (len(given),)
    distinct = len(set(sequences)) if kind == "sequences" else 0
    first_looks = 8  # two sequences, at fit and transform of the first folds: whether there is a special token
    assert Counted.sequences <= 2 * distinct + first_looks * (kind == "sequences")
    if kind == "sequences":
        Counted.sequences = 0
        search.fit(given, target)
        assert Counted.sequences == 0


def test_clone_and_parameters():
    base = pytest.importorskip("sklearn.base")
    embedder = Embedder("unirep-64", "mean", eps=0.5)
    copy = base.clone(embedder)
    assert copy.get_params() == embedder.get_params()
    assert copy.set_params(recipe="covariance") is copy
    assert repr(copy) == "Embedder(encoder='unirep-64', recipe='covariance', eps=0.5)"
    assert "Embedder" in json.dumps(repr(embedder))


@pytest.mark.parametrize("wrap", [tuple, np.array, lambda x: np.array(x, object), iter, lambda x: (s for s in x)])
def test_texts_of_any_kind_give_the_same(sequences, wrap):
    encoder = UniRep(random_weights())
    expected = Embedder(encoder, "mean").fit(sequences).transform(sequences)
    np.testing.assert_array_equal(Embedder(encoder, "mean").fit(wrap(sequences)).transform(wrap(sequences)), expected)
    np.testing.assert_array_equal(Embedder(encoder, "mean").fit_transform(wrap(sequences)), expected)


def test_a_series_of_texts(sequences):
    pandas = pytest.importorskip("pandas")
    embedder = Embedder(UniRep(random_weights()), "mean").fit(sequences)
    series = pandas.Series(sequences, index=range(5, 5 + len(sequences)))
    np.testing.assert_array_equal(embedder.transform(series), embedder.transform(sequences))


class Store:
    """What a `TokenStore` has: bfloat16 records by number, many at a time."""

    def __init__(self, arrays):
        self._arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
        self.lengths, self.features = np.array([len(x) for x in arrays]), 6

    def __getitems__(self, rows):
        return [np.asarray(self._arrays[row]) for row in rows]


def test_a_store_gives_what_its_arrays_give(arrays):
    many = arrays * 9  # more than one reading
    rounded = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in many]
    embedder = Embedder(recipe="covariance").fit(rounded)
    np.testing.assert_array_equal(embedder.transform(Store(many)), embedder.transform(rounded))
    with pytest.raises(InputError, match="max_memory_gib: 0, but the store's tokens take"):
        Embedder(max_memory_gib=0).fit(Store(many))


def test_ragged_arrays_in_an_object_array_and_duplicates(arrays):
    ragged = np.empty(len(arrays), object)
    ragged[:] = arrays
    embedder = Embedder(recipe="mean").fit(arrays)
    np.testing.assert_array_equal(embedder.transform(ragged), embedder.transform(arrays))
    twice = embedder.transform([arrays[0], arrays[1], arrays[0]])
    np.testing.assert_array_equal(twice[0], twice[2])
    for name in ("mean", "log_covariance", "mean+sqrt_covariance"):
        alone = Embedder(recipe=name).fit(arrays[3:4])
        assert np.isfinite(alone.transform(arrays)).all()
        assert np.isfinite(Embedder(recipe=name).fit([arrays[3]] * 4).transform(arrays)).all()


@pytest.mark.long
def test_the_special_token_of_one_sequence(tmp_path, rng):
    write_bert(tmp_path, rng)
    embedder = Embedder(str(tmp_path), "cls").fit(["MKV", "ACDE", "MKV"])
    every = embedder.transform(["MKV", "ACDE"])
    np.testing.assert_allclose(embedder.transform(["MKV"]), every[:1], atol=1e-5)
    np.testing.assert_allclose(embedder.transform(["ACDE", "ACDE"]), every[[1, 1]], atol=1e-5)
    with pytest.raises(InputError, match="'cls' needs a special token before the sequence"):
        embedder.transform([np.ones((3, 16), np.float32)])


def test_a_state_knows_its_encoder_and_layer(tmp_path, rng, monkeypatch):
    (tmp_path / "encoder").mkdir()
    write_bert(tmp_path / "encoder", rng)
    monkeypatch.chdir(tmp_path)
    embedder = Embedder("encoder", "mean", layer=1).fit(["MKV", "ACDE"])
    vectors = embedder.transform(["MKV"])
    embedder.save("state")
    monkeypatch.chdir("/")
    again = Embedder.load(tmp_path / "state")
    np.testing.assert_array_equal(again.transform(["MKV"]), vectors)
    with pytest.raises(InputError, match="layer: 2, but layer 1 was fitted on"):
        again.set_params(layer=2).transform(["MKV"])
    write_bert(tmp_path / "encoder", rng)  # other weights under the same name
    with pytest.raises(InputError, match="the weights of encoder are not those that were fitted on"):
        Embedder.load(tmp_path / "state").transform(["MKV"])
    (tmp_path / "encoder").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="say where that encoder is now"):
        Embedder.load(tmp_path / "state").transform(["MKV"])


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("sae_mean", "sae_cooccurrence")]


@pytest.mark.parametrize("name", [*SLOW, "tucker_covariance_2", "random_sqrt_covariance_2"])
def test_what_takes_training_is_saved_too(arrays, name, tmp_path):
    if name.startswith("sae"):
        pytest.importorskip("grain")
    embedder = Embedder(recipe=name).fit(arrays)
    vectors = embedder.transform(arrays)
    embedder.save(tmp_path / "state")
    np.testing.assert_array_equal(Embedder.load(tmp_path / "state").transform(arrays), vectors)


class Rows(Embedder):
    """An Embedder of sequences with one token each, the rows of a table, which is what scikit-learn's checks give."""

    def _tokens(self, X, mask):
        from sklearn.utils.validation import validate_data

        X = validate_data(self, X, reset=not hasattr(self, "fitted_") or self.fitting, dtype=np.float64)
        return super()._tokens(X.astype(np.float32)[:, None, :], mask)

    def fit(self, X, y=None, *, mask=None):
        self.fitting = True
        try:
            return super().fit(X, y, mask=mask)
        finally:
            del self.fitting

    fitting = False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


EXPECTED_FAILURES: dict[str, str] = {}  # check: reason


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # scikit-learn gives __init__ anything at all
def test_scikit_learns_own_checks():
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():  # it inherits nothing of scikit-learn's, which need not be there
        warnings.filterwarnings("ignore", "Estimator Rows does not inherit")
        results = checks.check_estimator(
            Rows(recipe="mean"), expected_failed_checks=EXPECTED_FAILURES, on_fail=None, on_skip=None
        )
    failed = {each["check_name"]: str(each["exception"])[:300] for each in results if each["status"] == "failed"}
    assert failed == {}
    assert sum(each["status"] == "passed" for each in results) > 30
    assert {each["check_name"] for each in results if each["status"] == "xfail"} == set(EXPECTED_FAILURES)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Embedder(eps="small").fit(x), "eps: 'small' is str, a finite number is needed"),
        (lambda x: Embedder(eps=float("inf")).fit(x), "eps: inf is float, a finite number"),
        (lambda x: Embedder(layer="last").fit(x), "layer: 'last' is str, a whole number is needed"),
        (lambda x: Embedder(UniRep(random_weights()), layer=5).fit(["MKV"]), "layer: 5 is not one of -2 … 1"),
        (lambda x: Embedder(seed=-1).fit(x), "seed: -1 is not allowed"),
        (lambda x: Embedder(seed=0.5).fit(x), "seed: 0.5 is float"),
        (lambda x: Embedder(token_budget=0).fit(x), "token_budget: 0 is not allowed; >= 1"),
        (lambda x: Embedder(max_memory_gib=None).fit(x), "max_memory_gib: None is NoneType"),
        (lambda x: Embedder(cache=5).fit(x), "cache: 5 is not a path"),
        (lambda x: Embedder(encoder=5).fit(["MKV"]), "encoder: 5 is not a name"),
        (lambda x: Embedder(recipe=None).fit(x), "recipe: 'None' is not one of"),
        (lambda x: Embedder().fit(5), "X: int holds no sequences"),
        (lambda x: Embedder().fit(None), "X: NoneType holds no sequences"),
        (lambda x: Embedder(UniRep(random_weights())).fit(["MKV", x[0]]), "X: sequence 1 is .*, no text"),
        (lambda x: Embedder(UniRep(random_weights())).fit(["MKV", None]), "X: sequence 1 is None, no text"),
        (lambda x: Embedder().fit([None, None]), "sequence 0 has shape"),
        (lambda x: Embedder(UniRep(random_weights())).fit(["MKV", ""]), "sequence"),
        (lambda x: Embedder().fit(np.stack([y[:4] for y in x]), mask=np.ones((8, 3))), r"mask: shape \(8, 3\)"),
        (lambda x: Embedder().fit(x, mask=np.ones((8, 3))), "mask: only for one array"),
        (lambda x: Embedder().save("/proc/none"), "not fitted yet"),
        (lambda x: Embedder().get_feature_names_out(), "not fitted yet"),
        (lambda x: Embedder(recipe="sqrt_covariance_3_components").fit(x[:1]), "all 1 vectors are equal"),
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
        (lambda x: Embedder().fit([*x, np.full((3, 6), -1e39)]), r"sequence 8 holds 1e\+39, beyond float32"),
        (lambda x: Embedder().fit([*x, x[0].astype(int)]), "sequence 8 is int64"),
        (lambda x: Embedder(recipe="mean").fit(x).transform([a[:, :3] for a in x]), "3 features a token, but 6"),
        (lambda x: Embedder().set_params(colour=1), "no parameter 'colour'"),
        (lambda x: Embedder.load("/proc/none"), "no fitted recipe is saved there"),
    ],
)
def test_bad_input_is_named_with_the_remedy(arrays, make, message):
    with pytest.raises(InputError, match=message):
        make(arrays)


@pytest.mark.parametrize("recipe", ["pca_covariance_2", "whitened_mean"])
def test_a_second_fit_of_equal_shapes_is_not_the_first(arrays, recipe):
    """One compiled program serves both, and is given what was fitted."""
    others = [(array * [6, 1, 5, 2, 4, 3] + array[:, ::-1]).astype(np.float32) for array in arrays]
    first = Embedder(recipe=recipe).fit_transform(arrays)
    second = Embedder(recipe=recipe).fit(others).transform(arrays)
    jax.clear_caches()
    np.testing.assert_array_equal(Embedder(recipe=recipe).fit(others).transform(arrays), second)
    assert np.abs(second - first).max() > 0.1


@pytest.mark.long
def test_every_recipe_without_labels_can_be_fitted(arrays):
    arrays = [arrays[3][i : i + 21] for i in range(8)]  # one length, so that few programs are compiled
    passed_over = (
        "composition",
        "cls",
        "attention",
        "light_attention",
        "projected",
        "learned_",
        "auto",
        "mean_rbf",
        "mean_mlp",
    )
    for name in recipe_names():
        if name.startswith(passed_over) or "sae" in name or name.rpartition("_")[2] in ("8", "16", "32", "components"):
            continue
        vectors = Embedder(recipe=name).fit(arrays).transform(arrays)
        assert np.isfinite(vectors).all()
        assert len(vectors) == 8
