"""Moments against float64 NumPy, in every way of putting them together."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import covjax.tokens
from covjax import InputError, Moments, merge, moments, psum_merge, streaming_moments


def reference(x, w=None):
    """Count, mean, second moment and covariance in float64."""
    x = np.asarray(x, np.float64)
    w = np.ones(len(x)) if w is None else np.asarray(w, np.float64)
    mean = w @ x / w.sum()
    deviation = x - mean
    return w.sum(), mean, (x * w[:, None]).T @ x / w.sum(), (deviation * w[:, None]).T @ deviation / w.sum()


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def tokens(rng, t, d, mean=0.0):
    mix = rng.normal(size=(d, d)) / np.sqrt(d)
    return (rng.normal(size=(t, d)) @ mix + mean).astype(np.float32)


@pytest.mark.parametrize("t", [1, 7, 1000, 131_072])
@pytest.mark.parametrize("jit", [False, True])
def test_second_moment_and_covariance_match_float64(rng, t, jit):
    x = tokens(rng, t, 32, mean=0.5)
    m = (jax.jit(moments) if jit else moments)(x)
    count, mean, second, covariance = reference(x)
    assert m.count == count
    np.testing.assert_allclose(m.mean, mean, rtol=1e-5, atol=1e-6)
    assert relative(m.second_moment(), second) < 1e-6
    if t > 1:
        assert relative(m.covariance(), covariance) < 1e-6
        np.testing.assert_allclose(m.covariance(ddof=1), np.cov(x.T.astype(np.float64)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(m.correlation(), np.corrcoef(x.T.astype(np.float64)), atol=2e-5)


def test_large_mean_keeps_the_covariance_where_one_pass_loses_it(rng):
    x = tokens(rng, 131_072, 16, mean=100.0)
    covariance = reference(x)[3]
    assert relative(moments(x).covariance(), covariance) < 5e-6
    one_pass = x.T @ x / len(x) - np.outer(x.mean(0), x.mean(0))
    assert relative(one_pass, covariance) > 1e-4


def test_bfloat16_costs_no_more_than_rounding_the_input(rng):
    x = jnp.asarray(tokens(rng, 4096, 16, mean=1.0), jnp.bfloat16)
    m = moments(x)
    _, mean, second, covariance = reference(x.astype(jnp.float32))
    assert m.scatter.dtype == jnp.float32
    assert relative(m.mean, mean) < 1e-6
    assert relative(m.second_moment(), second) < 1e-6
    assert relative(m.covariance(), covariance) < 1e-6


def test_weights_count_repetitions_and_masks_hide_garbage(rng):
    x = tokens(rng, 50, 6)
    w = rng.integers(0, 4, 50)
    m = moments(np.where(w[:, None] > 0, x, np.nan), w)
    repeated = moments(np.repeat(x, w, axis=0))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), m, repeated)


@pytest.mark.parametrize("cuts", [[1], [999], [500], [10, 20, 700], list(range(1, 1000, 37))])
def test_merge_in_any_grouping(rng, cuts):
    x = tokens(rng, 1000, 12, mean=3.0)
    w = rng.uniform(0.1, 2.0, 1000).astype(np.float32)
    parts = [moments(a, b) for a, b in zip(np.split(x, cuts), np.split(w, cuts))]
    left = functools.reduce(merge, parts, Moments.zeros(12))
    right = functools.reduce(lambda a, b: merge(b, a), reversed(parts))
    _, mean, second, covariance = reference(x, w)
    for m in (left, right):
        assert relative(m.mean, mean) < 1e-6
        assert relative(m.second_moment(), second) < 1e-6
        assert relative(m.covariance(), covariance) < 1e-6


@pytest.mark.long
def test_scan_vmap_psum_and_shard_map_agree_with_one_call(rng):
    x = jnp.asarray(tokens(rng, 960, 8, mean=2.0))
    chunks = x.reshape(6, 160, 8)
    covariance = reference(x)[3]
    scanned, _ = jax.lax.scan(lambda s, c: (merge(s, moments(c)), None), Moments.zeros(8), chunks)
    mapped = jax.vmap(lambda c: psum_merge(moments(c), "chunks"), axis_name="chunks")(chunks)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.shard_map(
        lambda c: psum_merge(moments(c), "data"), mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False
    )(x)
    for m in (scanned, jax.tree.map(lambda leaf: leaf[3], mapped), sharded):
        assert m.count == 960
        assert relative(m.covariance(), covariance) < 1e-6


def test_streaming_equals_one_call_with_ragged_and_masked_chunks(rng):
    x = tokens(rng, 1000, 8, mean=5.0)
    w = (rng.uniform(size=1000) < 0.7).astype(np.float32)
    w[300:600] = 0
    _, mean, _, covariance = reference(x, w)
    dirty = np.where(w[:, None] > 0, x, np.inf)
    m = streaming_moments((dirty[i : i + 300], w[i : i + 300]) for i in range(0, 1000, 300))
    assert relative(m.mean, mean) < 1e-6
    assert relative(m.covariance(), covariance) < 1e-6


def test_an_empty_left_side_leaves_the_mean_as_it_is():
    """0 + 1 · (μ₂ − 0) is μ₂, but what stands in an empty side's mean must not reach the result by rounding."""
    right = moments(np.float32([[1e-6, 3.0], [3e-6, 5.0]]))
    empty = Moments(jnp.float32(0), jnp.float32([1e3, -7.0]), jnp.zeros((2, 2)))
    for left in (empty, Moments.zeros(2)):
        m = merge(left, right)
        np.testing.assert_array_equal(m.mean, right.mean)
        np.testing.assert_array_equal(m.scatter, right.scatter)
        assert m.count == 2


def test_the_scatter_is_about_the_mean_wherever_the_shift_lies(rng, monkeypatch):
    """Two passes: what the first one's rounding leaves between shift and mean is taken off by the second."""
    x = tokens(rng, 40, 5, mean=2.0)
    w = rng.uniform(0.5, 2, 40).astype(np.float32)
    _, mean, _, covariance = reference(x, w)
    first_pass = covjax.tokens.weighted_mean
    monkeypatch.setattr(sys.modules["covjax.moments"], "weighted_mean", lambda x, w: first_pass(x, w) + 0.5)
    m = moments(x, w)
    assert relative(m.mean, mean) < 1e-6
    assert relative(m.covariance(), covariance) < 1e-5


def test_degenerate_sequences_stay_finite(rng):
    single = moments(tokens(rng, 1, 5))
    assert np.abs(single.covariance()).max() == 0
    assert np.abs(single.correlation()).max() == 0
    constant = moments(np.full((9, 3), 0.1, np.float32))
    assert np.abs(constant.correlation()).max() == 0
    assert np.abs(moments(np.zeros((4, 3), np.float32)).second_moment()).max() == 0
    masked = jax.jit(moments)(np.full((4, 3), np.nan, np.float32), np.zeros(4, np.float32))
    for statistic in (masked.mean, masked.second_moment(), masked.covariance(), masked.correlation()):
        assert np.abs(statistic).max() == 0


def test_gradient_is_exact_and_finite_beside_masked_nan(rng):
    x = tokens(rng, 12, 4, mean=3.0)
    w = np.array([1, 0.5] * 5 + [0, 0], np.float32)
    probe = jnp.asarray(rng.normal(size=(4, 4)).astype(np.float32))
    dirty = np.where(w[:, None] > 0, x, np.nan)
    gradient = jax.grad(lambda x: jnp.vdot(moments(x, w).covariance(), probe))(dirty)
    _, mean, _, _ = reference(x, w)
    expected = w[:, None] * ((x - mean) @ np.asarray(probe + probe.T, np.float64)) / w.sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "weights", "error", "match"),
    [
        (np.ones((3, 2), np.int32), None, TypeError, "x must be a floating-point.*int32"),
        (np.ones((3,), np.float32), None, InputError, r"x must have shape.*\(3,\)"),
        (np.ones((0, 2), np.float32), None, InputError, "x must have shape"),
        (np.ones((3, 2), np.float32), np.ones(4), InputError, r"weights must have shape \(3,\).*\(4,\)"),
        (np.ones((3, 2), np.float32), np.array([1.0, -2, 1]), InputError, "weights must be finite and >= 0.*-2"),
        (np.ones((3, 2), np.float32), np.array([1.0, np.nan, 1]), InputError, "weights must be finite"),
        (np.ones((3, 2), np.float32), np.array([1.0, np.inf, 1]), InputError, "weights must be finite.*inf"),
        (np.ones((3, 2), np.float32), np.zeros(3), InputError, "weights must not all be 0"),
    ],
)
def test_bad_input_names_the_argument(x, weights, error, match):
    with pytest.raises(error, match=match):
        moments(x, weights)


def test_bad_calls_name_the_argument(rng):
    m = moments(tokens(rng, 1, 3))
    with pytest.raises(InputError, match="ddof must be smaller than the count"):
        m.covariance(ddof=1)
    with pytest.raises(InputError, match="equal numbers of features"):
        merge(m, Moments.zeros(4))
    with pytest.raises(InputError, match="chunks must hold"):
        streaming_moments([])
    with pytest.raises(InputError, match="weights must be finite"):
        streaming_moments([(np.ones((2, 2), np.float32), np.array([1, -1]))])


def test_vech_keeps_inner_products_and_inverts(rng):
    a, b = (m + m.T for m in rng.normal(size=(2, 5, 5)).astype(np.float32))
    np.testing.assert_allclose(covjax.vech(a) @ covjax.vech(b), np.vdot(a, b), rtol=1e-5)
    np.testing.assert_allclose(covjax.unvech(covjax.vech(a)), a, rtol=1e-6)
    with pytest.raises(InputError, match=r"v must be a vector of length d\(d\+1\)/2"):
        covjax.unvech(np.ones(5, np.float32))
    with pytest.raises(InputError, match="a must be a square"):
        covjax.vech(np.ones((2, 3), np.float32))


def test_augmented_moment_is_the_second_moment_of_tokens_with_a_one(rng):
    x = tokens(rng, 20, 4, mean=1.0)
    augmented = np.concatenate([x, np.ones((20, 1), np.float32)], axis=1)
    np.testing.assert_allclose(covjax.augmented_moment(moments(x)), reference(augmented)[2], rtol=1e-5, atol=1e-6)
    assert not np.asarray(covjax.augmented_moment(Moments.zeros(4))).any()  # no token, no 1 either


@pytest.mark.parametrize("segments", [3, 4])  # 4: as many as features, which a broadcast would take in silence
def test_statistics_of_several_sequences_are_those_of_each(rng, segments):
    x = rng.normal(size=(12 * segments, 4)).astype(np.float32)
    weights = rng.random(len(x)).astype(np.float32)
    packed = covjax.packed_moments(x, np.repeat(np.arange(segments), 3), segments, weights)
    for name in ("second_moment", "covariance", "correlation"):
        whole = getattr(packed, name)()
        for i in range(segments):
            own = slice(12 * i, 12 * i + 12)
            expected = getattr(moments(x[own], weights[own]), name)()
            np.testing.assert_allclose(whole[i], expected, rtol=1e-4, atol=1e-5)


def test_a_count_may_be_a_plain_number():
    scatter = np.diag([4.0, 8.0]).astype(np.float32)
    np.testing.assert_allclose(Moments(4.0, np.zeros(2, np.float32), scatter).covariance(), np.diag([1.0, 2.0]))


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0, 1e6])
def test_weights_of_float16_tokens_may_have_any_scale(rng, scale):
    x, w = rng.normal(size=(100, 4)).astype(np.float16), rng.random(100).astype(np.float32) + 0.5
    expected = (x.astype(np.float64) * w[:, None]).T @ x / w.sum()
    np.testing.assert_allclose(covjax.second_moment(x, w * np.float32(scale)), expected, rtol=0, atol=2e-3)
    jitted = jax.jit(covjax.second_moment)(x, w * np.float32(scale))
    np.testing.assert_allclose(jitted, expected, rtol=0, atol=2e-3)
