"""A feature that does not vary has deviation 0 from every path, exactly: no statistic is about a rounded mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import get_pooler, moments, pack_blocks, packed_moments, packed_projected_moment
from covjax.autoencoders import moment_norm
from covjax.errors import InputError
from covjax.inputs import exact_mean
from covjax.probes import fit_ridge_blocks, row_space
from covjax.standardise import feature_statistics

VALUES = [1000.1, -3.3, 0.1, 7.7e-5, 123456.7]
LENGTHS = [3, 7, 777, 1001]


@pytest.fixture(params=LENGTHS)
def constant(request):
    return np.tile(np.float32(VALUES), (request.param, 1))


@pytest.fixture
def weights(constant):
    return np.random.default_rng(1).random(len(constant)).astype(np.float32)


def test_poolers(constant, weights):
    """The mean rounds here: 777 · 1000.1 / 777 is not 1000.1 in float32."""
    for name in ("std", "covariance", "correlation"):
        pooler = get_pooler(name)
        for w in (None, weights):
            assert not np.asarray(pooler(constant, w)).any()
            assert not np.asarray(jax.jit(pooler)(constant, w)).any()
            assert not np.asarray(pooler.of_moments(moments(constant, w))).any()
    mean_std = np.asarray(get_pooler("mean_std")(constant))
    np.testing.assert_array_equal(mean_std, np.append(constant[0], np.zeros(5, np.float32)))


def test_spectral_functions_of_few_tokens():
    constant = np.tile(np.float32(VALUES), (3, 1))  # fewer tokens than features: the Gram matrix of the tokens
    assert not np.asarray(get_pooler("sqrt_covariance", ridge=0.0)(constant)).any()


def test_streams_packs_and_members_of_an_axis(constant, weights):
    stream = covjax.streaming_moments([constant[:2], constant[2:]])
    assert not np.asarray(stream.scatter).any()
    tokens, segments, w = pack_blocks([constant, constant[:2]], 4)
    assert not np.asarray(packed_moments(tokens, segments, 2, w).scatter).any()
    eye = np.eye(5, dtype=np.float32)
    assert not np.asarray(packed_projected_moment(tokens, segments, 2, eye, weights=w, center="sequence")).any()
    parts = jax.vmap(lambda x, w: covjax.psum_merge(moments(x, w), "parts"), axis_name="parts")
    rows = len(constant) // 3 * 3
    merged = parts(constant[:rows].reshape(3, -1, 5), weights[:rows].reshape(3, -1))
    assert not np.asarray(merged.scatter).any()
    np.testing.assert_array_equal(merged.mean[0], constant[0])


def test_projected_and_second_moments_about_the_sequence(constant, weights):
    eye = np.eye(5, dtype=np.float32)
    for w in (None, weights):
        assert not np.asarray(covjax.projected_moment(constant, eye, weights=w, center="sequence")).any()
        chunked = covjax.chunked_projected_moment(constant, eye, weights=w, center="sequence", chunk_size=2)
        assert not np.asarray(chunked).any()
        assert moment_norm(constant, w, center="sequence") == 0
    learned = get_pooler("projected", features=5, rank=2)
    x = np.zeros((len(constant), 5), np.float32)
    x[:, 0] = 1000.1
    assert not np.asarray(learned(x)).any()


def test_host_statistics(constant, weights):
    np.testing.assert_array_equal(exact_mean(constant.astype(float), weights.astype(float)), constant[0])
    varied = np.hstack([constant, np.arange(len(constant), dtype=np.float32)[:, None]])
    mean, deviation = feature_statistics([(varied[None, :2], None), (varied[None, 2:], None)])
    np.testing.assert_array_equal(mean[:5], constant[0])
    np.testing.assert_array_equal(deviation[:5], 1)  # what a dead feature gets


def test_equal_samples_are_nothing_to_fit(constant):
    with pytest.raises(InputError, match="training samples are equal"):
        row_space(constant.astype(np.float64) + 0.1)
    y = np.arange(len(constant))
    for route in ("primal", "eigen", "cholesky"):
        with pytest.raises(InputError, match="training samples are equal"):
            fit_ridge_blocks(lambda a, b: constant[a:b], y, [1.0], route=route, block_size=10)


def test_a_corrected_mean_keeps_the_gradient(rng):
    x, w = rng.normal(size=(9, 3)).astype(np.float32), rng.random(9).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(covjax.tokens.weighted_mean(x, w) * jnp.arange(3.0)))(x)
    np.testing.assert_allclose(gradient, (w / w.sum())[:, None] * np.arange(3.0), atol=1e-6)


def test_nan_tokens_and_weights_are_not_taken_for_a_constant():
    x = np.ones((4, 2), np.float32)
    x[1, 0] = np.nan
    std = np.asarray(jax.jit(get_pooler("std"))(x))  # with values at hand NaN is refused
    assert np.isnan(std[0])
    assert std[1] == 0
    masked = jax.jit(lambda x, w: moments(x, w).mean)(np.ones((2, 2), np.float32), np.full(2, np.nan, np.float32))
    assert np.isnan(masked).all()
