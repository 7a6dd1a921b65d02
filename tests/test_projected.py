"""Projected moments: one call, chunked, packed, batched, all against float64; memory by the compiler's own account."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import (
    InputError,
    chunked_projected_moment,
    pack_blocks,
    packed_moments,
    packed_projected_moment,
    projected_moment,
    second_moment,
)

D, RA, RB = 24, 5, 3


def reference(x, a, b=None, w=None, center=None):
    x, a = np.asarray(x, np.float64), np.asarray(a, np.float64)
    b = a if b is None else np.asarray(b, np.float64)
    w = np.ones(len(x)) if w is None else np.asarray(w, np.float64)
    shift = 0 if center is None else w @ x / w.sum() if isinstance(center, str) else center
    return ((x - shift) @ a * w[:, None]).T @ ((x - shift) @ b) / w.sum()


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


@pytest.fixture
def problem(rng):
    x = (rng.normal(size=(301, D)) + 2).astype(np.float32)
    w = rng.uniform(size=301).astype(np.float32) * (rng.uniform(size=301) < 0.8)
    a, b = rng.normal(size=(D, RA)).astype(np.float32), rng.normal(size=(D, RB)).astype(np.float32)
    return np.where(w[:, None] > 0, x, np.nan), x, w, a, b


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("center", [None, "sequence", "vector"])
def test_matches_float64_with_garbage_in_masked_tokens(problem, rng, tied, center):
    dirty, x, w, a, b = problem
    b = None if tied else b
    center = rng.normal(size=D).astype(np.float32) if center == "vector" else center
    expected = reference(x, a, b, w, center)
    assert relative(projected_moment(dirty, a, b, w, center=center), expected) < 2e-6
    if not isinstance(center, np.ndarray):
        for chunk_size in (64, 301, 1000, 7):
            chunked = chunked_projected_moment(dirty, a, b, w, center=center, chunk_size=chunk_size)
            assert relative(chunked, expected) < 2e-6


def test_large_mean_cancels_before_the_product(rng):
    x = (rng.normal(size=(20_000, D)) + 100).astype(np.float32)
    a = rng.normal(size=(D, RA)).astype(np.float32)
    for function in (projected_moment, chunked_projected_moment):
        assert relative(function(x, a, center="sequence"), reference(x, a, center="sequence")) < 5e-6


@pytest.mark.parametrize("center", [None, "sequence"])
def test_bfloat16_is_as_good_as_its_rounding(problem, center):
    _, x, w, a, b = problem
    x16, a16, b16 = (jnp.asarray(v, jnp.bfloat16) for v in (x, a, b))
    expected = reference(x16.astype(jnp.float32), a16.astype(jnp.float32), b16.astype(jnp.float32), w, center)
    for function in (projected_moment, chunked_projected_moment):
        c = function(x16, a, b, w, center=center)
        assert c.dtype == jnp.float32
        assert relative(c, expected) < 2e-6


def test_gradients_match_float64_and_survive_masked_nan(problem, rng):
    dirty, x, w, a, b = problem
    upstream = rng.normal(size=(RA, RB))

    def loss(x, a, b):
        return jnp.vdot(projected_moment(x, a, b, w), jnp.asarray(upstream, jnp.float32))

    by_x, by_a, by_b = jax.grad(loss, argnums=(0, 1, 2))(dirty, a, b)
    m = np.where(w[:, None] > 0, x, 0).astype(np.float64) * (w / w.sum())[:, None]
    assert relative(by_a, m.T @ x @ b @ upstream.T) < 1e-5
    assert relative(by_b, x.T @ m @ a @ upstream) < 1e-5
    assert relative(by_x, (w / w.sum())[:, None] * (x @ b @ upstream.T @ a.T + x @ a @ upstream @ b.T)) < 1e-5


def test_transient_memory_is_that_of_the_projected_tokens():
    b, t, d, r = 4, 2048, 512, 32
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((b, t, d), (d, r), (d, r), (b, t))]
    batched = jax.vmap(projected_moment, in_axes=(0, None, None, 0))
    compiled = jax.jit(batched).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * b * t * 2 * r * 4  # X itself is 8 times Y
    assert compiled.memory_analysis().temp_size_in_bytes < b * t * d * 4 / 2
    for dtype, limit in ((jnp.float32, 8 * 2**20), (jnp.bfloat16, 72 * 2**20)):  # X is 128 MiB and 64 MiB
        x, w = jax.ShapeDtypeStruct((1 << 16, d), dtype), jax.ShapeDtypeStruct((1 << 16,), jnp.float32)
        chunked = jax.jit(chunked_projected_moment).lower(x, *shapes[1:3], w).compile()
        assert chunked.memory_analysis().temp_size_in_bytes < limit


@pytest.mark.parametrize("center", [None, "sequence"])
def test_packed_equals_one_by_one(rng, center):
    sequences = [(rng.normal(size=(t, D)) + 3).astype(np.float32) for t in (5, 130, 64, 1, 77)]
    a, b = rng.normal(size=(D, RA)).astype(np.float32), rng.normal(size=(D, RB)).astype(np.float32)
    tokens, segments, weights = pack_blocks(sequences, block_size=32, num_blocks=20)
    tokens[weights == 0] = np.nan
    for right in (None, b):
        c = packed_projected_moment(tokens, segments, 6, a, right, weights, center=center)
        for i, x in enumerate(sequences):
            assert np.abs(c[i] - reference(x, a, right, center=center)).max() < 1e-5 * np.abs(c[i]).max() + 1e-6
        assert not np.any(c[5])


def test_packed_moments_equal_one_by_one(rng):
    sequences = [(rng.normal(size=(t, D)) + 50).astype(np.float32) for t in (5, 130, 64)]
    tokens, segments, weights = pack_blocks(sequences, block_size=32, num_blocks=9)
    tokens[weights == 0] = np.inf
    shuffled = rng.permutation(9)  # the blocks of a sequence need not be neighbours
    tokens, weights = (v.reshape(9, 32, -1)[shuffled].reshape(v.shape) for v in (tokens, weights))
    m = jax.jit(packed_moments, static_argnums=2)(tokens, segments[shuffled], 4, weights)
    for i, x in enumerate(sequences):
        assert m.count[i] == len(x)
        assert relative(m.mean[i], x.mean(0, dtype=np.float64)) < 1e-6
        assert relative(m.scatter[i] / len(x), np.cov(x.T.astype(np.float64), bias=True)) < 5e-6
    assert not np.any(m.scatter[3])
    gradient = jax.grad(lambda t: jnp.sum(packed_moments(t, segments[shuffled], 4, weights).scatter))(tokens)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_raw_second_moment(rng, dtype):
    x = jnp.asarray(rng.normal(size=(5000, D)) + 1, dtype)
    w = (rng.uniform(size=5000) < 0.7).astype(np.float32)
    dirty = jnp.where(w[:, None] > 0, x, jnp.nan)
    x64 = np.asarray(x.astype(jnp.float32), np.float64) * w[:, None]
    assert relative(second_moment(dirty, w), x64.T @ x64 / w.sum()) < 1e-6
    assert relative(jax.jit(second_moment)(dirty, w), x64.T @ x64 / w.sum()) < 1e-6
    assert np.isfinite(jax.grad(lambda x: jnp.sum(second_moment(x, w)))(dirty)).all()


X, A, W = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32), np.ones(4, np.float32)
INTS = np.zeros(2, np.int32)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: projected_moment(X.astype(int), A), TypeError, "x must be a floating-point"),
        (lambda: projected_moment(X, A.T), InputError, r"left must have shape \(features 3, rank\), got \(2, 3\)"),
        (lambda: projected_moment(X, A, A.T), InputError, "right must have shape"),
        (lambda: projected_moment(X, A, weights=-W), InputError, "weights must be finite and >= 0"),
        (lambda: projected_moment(X, A, weights=0 * W), InputError, "weights must not all be 0"),
        (lambda: projected_moment(X, A, center="batch"), InputError, "center must be None.*'batch'"),
        (lambda: projected_moment(X, A, center=np.ones(2)), InputError, r"center must have shape \(3,\)"),
        (lambda: chunked_projected_moment(X, A.T), InputError, "left must have shape"),
        (lambda: chunked_projected_moment(X, A, A.T), InputError, "right must have shape"),
        (lambda: chunked_projected_moment(X, A, chunk_size=0), InputError, "chunk_size must be >= 1"),
        (lambda: chunked_projected_moment(X, A, center="x"), InputError, "center must be"),
        (lambda: packed_moments(X, np.zeros(3, np.int32), 1), InputError, "block_segments must have shape"),
        (lambda: packed_moments(X, np.zeros(2, np.float32), 1), TypeError, "block_segments must be integers"),
        (lambda: packed_moments(X, INTS, 1, -W), InputError, "weights must be finite"),
        (lambda: packed_projected_moment(X, INTS, 1, A.T), InputError, "left must have shape"),
        (lambda: packed_projected_moment(X, INTS, 1, A, A.T), InputError, "right must have shape"),
        (lambda: packed_projected_moment(X, INTS, 1, A, center="x"), InputError, "center must be"),
        (lambda: packed_projected_moment(X.astype(int), INTS, 1, A), TypeError, "tokens must be a floating"),
        (lambda: pack_blocks([]), InputError, "sequences must be a non-empty list"),
        (lambda: pack_blocks([X, A]), InputError, "equal features"),
        (lambda: pack_blocks([X], 0), InputError, "block_size must be >= 1"),
        (lambda: pack_blocks([X, X], 2, 3), InputError, "num_blocks must be >= 4 .* got 3"),
        (lambda: second_moment(X.astype(int)), TypeError, "x must be a floating-point"),
        (lambda: second_moment(X, -W), InputError, "weights must be finite"),
    ],
)
def test_bad_input_names_the_argument(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_centre_is_projected_as_the_tokens_are(rng, dtype):
    x, left = np.full((50, 64), 16.0), rng.normal(size=(64, 2)).astype(np.float32)
    moment = projected_moment(jnp.asarray(x, dtype), left, center=np.full(64, 16.0, np.float32))
    assert np.abs(np.asarray(moment)).max() < 1e-9
