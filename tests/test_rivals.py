"""Poolers of order, distribution and Riemannian geometry against NumPy, SciPy, scikit-learn and pyriemann."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.stats
from flax import nnx
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from covjax import InputError, get_pooler, unvech
from covjax.frechet import frechet_mean, inverse_root, log_euclidean_mean, symmetric_exp

D = 5


def tokens(rng, t=24):
    return (rng.normal(size=(t, D)) @ np.diag(np.arange(1, D + 1) / 2) + 0.5).astype(np.float32)


def close(a, b, tol=1e-5):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * max(1.0, float(np.abs(b).max())))


def masked(x):
    """The same tokens between and behind tokens that do not exist."""
    wide = np.full((2 * len(x) + 3, D), np.nan, np.float32)
    wide[1 : 2 * len(x) : 2] = x
    return wide, np.isfinite(wide[:, 0]).astype(np.float32)


def vech64(a):
    upper = np.triu_indices(len(a))
    return a[upper] * np.where(upper[0] == upper[1], 1, np.sqrt(2))


# Order


def test_regions_are_parts_of_equal_length(rng):
    x = tokens(rng)
    expected = np.concatenate([part.mean(0) for part in np.split(x.astype(np.float64), 4)])
    close(get_pooler("regional")(x), expected)
    close(get_pooler("regional")(*masked(x)), expected)
    roots = get_pooler("regional", pool="sqrt_covariance", bins=2, options={"ridge": 0.1})(x)
    close(roots, np.concatenate([get_pooler("sqrt_covariance", ridge=0.1)(part) for part in np.split(x, 2)]))
    given = get_pooler("regional", pool=get_pooler("max"), bins=3)
    close(given(x), np.concatenate([part.max(0) for part in np.split(x, 3)]))


def test_a_token_on_a_boundary_counts_in_part(rng):
    x = tokens(rng, 3).astype(np.float64)
    expected = np.concatenate([(x[0] + x[1] / 2) / 1.5, (x[1] / 2 + x[2]) / 1.5])
    close(get_pooler("regional", bins=2)(x.astype(np.float32)), expected)
    one = tokens(rng, 1)
    close(get_pooler("regional", bins=4)(one), np.tile(one[0], 4))
    two = tokens(rng, 2)
    close(get_pooler("regional", bins=4)(two), np.repeat(two, 2, axis=0).reshape(-1))


def test_regions_of_a_long_sequence_hold_every_token_once(rng):
    x = rng.normal(size=(9973, D)).astype(np.float32)
    edges = np.arange(8) * 9973 / 7
    parts = []
    for low, high in itertools.pairwise(edges):
        share = np.clip(np.minimum(np.arange(1, 9974), high) - np.maximum(np.arange(9973), low), 0, None)
        parts.append(share @ x.astype(np.float64) / share.sum())
    close(get_pooler("regional", bins=7)(x), np.concatenate(parts))


def test_lagged_covariance_against_a_loop(rng):
    x = tokens(rng)
    deviation = x.astype(np.float64) - x.astype(np.float64).mean(0)
    expected = [deviation[:-lag].T @ deviation[lag:] / (len(x) - lag) for lag in (1, 3)]
    vector = get_pooler("lagged_covariance", lags=(1, 3))(x)
    close(vector, np.concatenate(expected).reshape(-1))
    close(get_pooler("lagged_covariance", lags=(1, 3))(*masked(x)), vector)
    assert not get_pooler("lagged_covariance", lags=(24,))(x).any()
    close(get_pooler("lagged_covariance", lags=(23,))(x), np.outer(deviation[0], deviation[-1]).reshape(-1))


def test_dct_is_that_of_scipy_whatever_the_length(rng):
    for t in (24, 3000):
        x = tokens(rng, t)
        j = np.arange(4)[:, None]
        scale = np.where(j > 0, 2**0.5, 1) * np.sinc(j / (2 * t)) / (2 * t)
        expected = scipy.fft.dct(x.astype(np.float64), type=2, axis=0)[:4] * scale
        close(get_pooler("dct")(x), expected.reshape(-1))
        close(get_pooler("dct")(*masked(x)), expected.reshape(-1))


# Distribution


def test_power_means_and_standardised_moments(rng):
    x = tokens(rng)
    x64 = x.astype(np.float64)
    expected = [x64.mean(0), np.sqrt((x64**2).mean(0)), np.cbrt((x64**3).mean(0)), x64.max(0), x64.min(0)]
    close(get_pooler("power_means")(*masked(x)), np.concatenate(expected))
    expected = [scipy.stats.skew(x64), scipy.stats.kurtosis(x64, fisher=False)]
    close(get_pooler("standardised_moments")(*masked(x)), np.concatenate(expected))
    assert not get_pooler("standardised_moments")(np.full((7, D), 0.1, np.float32)).any()


@pytest.mark.long
def test_distances_of_quantiles_are_wasserstein_distances(rng):
    x, y = tokens(rng), tokens(rng) + 1
    directions = np.asarray(jax.random.normal(jax.random.key(3), (D, 6)), np.float64)
    directions /= np.linalg.norm(directions, axis=0)
    pool = get_pooler("sliced_wasserstein", slices=6, points=24, seed=3)
    distances = np.abs(np.asarray(pool(x) - pool(*masked(y)), np.float64)).reshape(6, 24).mean(1)
    slices = [(x.astype(np.float64) @ one, y.astype(np.float64) @ one) for one in directions.T]
    close(distances, [scipy.stats.wasserstein_distance(*pair) for pair in slices])
    # Weights that are whole numbers of parts: 24 parts resolve 12 tokens of which 4 count three times.
    w = np.array([3.0] * 4 + [1.5] * 8, np.float32)
    distances = np.abs(np.asarray(pool(x[:12], w) - pool(y), np.float64)).reshape(6, 24).mean(1)
    expected = [scipy.stats.wasserstein_distance(a[:12], b, w) for a, b in slices]
    assert (distances <= np.array(expected) + 1e-5).all()  # parts that are averages are never further apart
    w = np.array([4.0] * 4 + [1.0] * 8, np.float32)
    distances = np.abs(np.asarray(pool(x[:12], w) - pool(y), np.float64)).reshape(6, 24).mean(1)
    close(distances, [scipy.stats.wasserstein_distance(a[:12], b, w) for a, b in slices])


@pytest.mark.long
def test_learned_slices_are_trained(rng):
    pool = get_pooler("sliced_wasserstein", slices=3, points=4, features=D)
    gradient = nnx.grad(lambda pool: jnp.sum(pool(tokens(rng)) ** 2))(pool)
    assert np.abs(gradient["directions"][...]).min() > 0


def test_kernel_mean_estimates_the_kernel(rng):
    x, y = tokens(rng).astype(np.float64), tokens(rng).astype(np.float64) + 1
    distances = ((x[:, None] - y[None]) ** 2).sum(2)
    kernel = np.exp(-distances / (2 * 3.0**2)).mean()
    pool = get_pooler("kernel_mean", bandwidth=3.0, frequencies=20_000)
    estimate = pool(x.astype(np.float32)) @ pool(y.astype(np.float32))
    assert estimate == pytest.approx(kernel, abs=0.02)
    directions = np.asarray(jax.random.normal(jax.random.key(0), (D, 7)), np.float64) / 3
    expected = np.concatenate([np.cos(x @ directions), np.sin(x @ directions)], axis=1).mean(0) / 7**0.5
    close(get_pooler("kernel_mean", bandwidth=3.0, frequencies=7)(*masked(x.astype(np.float32))), expected)


def _normalised(parts):
    vector = np.concatenate([np.reshape(part, -1) for part in parts])
    vector = np.sign(vector) * np.sqrt(np.abs(vector))
    return vector / np.linalg.norm(vector)


def test_vlad_takes_the_clusters_of_scikit_learn(rng):
    x = tokens(rng)
    fitted = KMeans(3, n_init=1, random_state=0).fit(tokens(rng, 200))
    centres = fitted.cluster_centers_.astype(np.float32)
    member = fitted.predict(x)
    parts = [(x[member == k].astype(np.float64) - centres[k]).sum(0) / len(x) for k in range(3)]
    close(get_pooler("vlad", centres=centres)(*masked(x)), _normalised(parts))


def test_fisher_vector_is_the_gradient_of_the_mixture_of_scikit_learn(rng):
    x = tokens(rng)
    fitted = GaussianMixture(3, covariance_type="diag", random_state=0).fit(tokens(rng, 400).astype(np.float64))
    shares, means, variances = fitted.weights_, fitted.means_, fitted.covariances_
    member, x64 = fitted.predict_proba(x.astype(np.float64)), x.astype(np.float64)
    z = (x64[:, None] - means) / np.sqrt(variances)
    first = np.einsum("tk,tkd->kd", member, z) / np.sqrt(shares)[:, None] / len(x)
    second = np.einsum("tk,tkd->kd", member, z**2 - 1) / np.sqrt(2 * shares)[:, None] / len(x)
    pool = get_pooler("fisher_vector", shares=shares, means=means, variances=variances)
    close(pool(*masked(x)), _normalised([first, second]))
    # The first part is the derivative of the likelihood by a mean, over its Fisher information: a difference quotient.
    step = np.zeros_like(means)
    step[1, 2] = 1e-5
    fitted.means_ = means + step
    above = fitted.score(x64)
    fitted.means_ = means - step
    derivative = (above - fitted.score(x64)) / 2e-5
    assert derivative * np.sqrt(variances[1, 2] / shares[1]) == pytest.approx(first[1, 2], rel=1e-4)


def test_whitening(rng):
    x = tokens(rng, 200)
    covariance = np.cov(x.astype(np.float64).T, bias=True)
    whitening = inverse_root(covariance)
    np.testing.assert_allclose(whitening @ covariance @ whitening, np.eye(D), atol=1e-12)
    close(get_pooler("whitened_mean", center=x.mean(0), whitening=whitening)(x), np.zeros(D))
    close(get_pooler("whitened_covariance", whitening=whitening)(x), vech64(np.eye(D)))
    with pytest.raises(InputError, match="a must be positive definite, got eigenvalues from 0"):
        inverse_root(np.diag([1.0, 0.0]))


# Second order


def test_gaussian_signed_root_and_newton_schulz(rng):
    for x in (tokens(rng), tokens(rng, 4)):
        x64 = x.astype(np.float64)
        extended = np.concatenate([x64, np.ones((len(x), 1))], axis=1)
        expected = scipy.linalg.sqrtm(extended.T @ extended / len(x) + 1e-2 * np.eye(D + 1))
        close(get_pooler("gaussian", ridge=1e-2)(*masked(x)), vech64(expected.real))
        moment = vech64(x64.T @ x64 / len(x))
        expected = np.sign(moment) * np.sqrt(np.abs(moment))
        close(get_pooler("signed_sqrt")(*masked(x)), expected / np.linalg.norm(expected))
    covariance = np.cov(x64.T, bias=True) + 0.1 * np.eye(D)
    root = get_pooler("isqrt_covariance", num_iters=20, ridge=0.1)(x)
    close(root, vech64(scipy.linalg.sqrtm(covariance).real))
    few = np.linalg.eigvalsh(np.asarray(unvech(get_pooler("isqrt_covariance", ridge=1e-6)(x))))
    assert 0 < few.max() < 2 * np.sqrt(np.linalg.eigvalsh(covariance).max())


@pytest.fixture(scope="module")
def matrices():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 30, D)) * rng.uniform(0.3, 2, size=(12, 1, D))
    return np.einsum("nti,ntj->nij", x, x) / 30


@pytest.mark.usefixtures("unchecked")  # one matrix reaches the message of covjax
def test_means_of_matrices_are_those_of_pyriemann(matrices):
    means = pytest.importorskip("pyriemann.utils.mean")
    close(log_euclidean_mean(matrices.astype(np.float32)), means.mean_logeuclid(matrices))
    mean, residual = frechet_mean(matrices.astype(np.float32), tolerance=1e-6)
    close(mean, means.mean_riemann(matrices, tol=1e-10))
    assert residual < 1e-5
    mean, residual = frechet_mean(matrices.astype(np.float32), max_iterations=1)
    close(mean, means.mean_logeuclid(matrices))  # where it began, and how far from the end that is
    assert residual > 1e-3
    with jax.enable_x64(True):
        mean, residual = frechet_mean(matrices, tolerance=1e-11)
        np.testing.assert_allclose(mean, means.mean_riemann(matrices, tol=1e-12), rtol=1e-8)
        assert residual <= 1e-11
    close(symmetric_exp(matrices[0].astype(np.float32)), scipy.linalg.expm(matrices[0]))
    with pytest.raises(InputError, match=r"matrices must have shape \(n, d, d\), got \(5, 5\)"):
        frechet_mean(matrices[0])


def test_tangent_space_is_that_of_pyriemann(rng, matrices):
    tangent = pytest.importorskip("pyriemann.utils.tangentspace")
    reference, x = matrices.mean(0), tokens(rng)
    for t in (24, 3):
        covariance = np.cov(x[:t].astype(np.float64).T, bias=True)
        expected = tangent.tangent_space((covariance + 0.1 * reference)[None], reference, metric="riemann")[0]
        close(get_pooler("tangent_space", whitening=inverse_root(reference), eps=0.1)(*masked(x[:t])), expected)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("regional", {"bins": 0}, "bins must be an integer >= 1, got 0"),
        ("regional", {"pool": get_pooler("mean"), "options": {"ridge": 1}}, "options are for a pool given by name"),
        ("regional", {"pool": "medain"}, "unknown pooler 'medain'"),
        ("lagged_covariance", {"lags": ()}, "lags must be a non-empty list"),
        ("lagged_covariance", {"lags": (1, 0)}, "lags must be an integer >= 1, got 0"),
        ("dct", {"k": 0}, "k must be an integer >= 1"),
        ("power_means", {"powers": (1, 0.5)}, "powers must be whole numbers >= 1, or inf and -inf, got 0.5"),
        ("standardised_moments", {"orders": (2,)}, "orders must be a non-empty list of whole numbers >= 3"),
        ("sliced_wasserstein", {"points": 0}, "points must be an integer >= 1"),
        ("kernel_mean", {"bandwidth": 0.0}, "bandwidth must be one number > 0, got 0.0"),
        ("kernel_mean", {}, "needs the option 'bandwidth'"),
        ("vlad", {"centres": np.ones(3)}, r"centres must have shape \(centres, features\), got \(3,\)"),
        (
            "fisher_vector",
            {"shares": np.ones(2), "means": np.ones((2, 3)), "variances": np.ones((2, 4))},
            r"variances must have shape \(2, 3\), got \(2, 4\)",
        ),
        (
            "fisher_vector",
            {"shares": np.ones(2), "means": np.ones((2, 3)), "variances": np.zeros((2, 3))},
            "variances must be > 0, got 0",
        ),
        ("whitened_mean", {"center": np.ones(2), "whitening": np.eye(3)}, r"center must have shape \(3,\)"),
        ("tangent_space", {"whitening": np.full((2, 2), np.nan)}, "whitening must be finite"),
        ("isqrt_covariance", {"num_iters": 0}, "num_iters must be an integer >= 1"),
        ("attention", {"features": 4, "queries": 0}, "queries must be an integer >= 1"),
    ],
)
def test_bad_options_are_named(name, options, match):
    with pytest.raises(InputError, match=match):
        get_pooler(name, **options)


def test_another_number_of_features_is_named(rng):
    with pytest.raises(InputError, match="x must have 3 features, got 5"):
        get_pooler("vlad", centres=np.ones((2, 3)))(tokens(rng))
