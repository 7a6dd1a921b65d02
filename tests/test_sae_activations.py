"""Activation functions, sparse codes, AuxK and the start of sparse autoencoders against float64 and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from covjax import InputError
from covjax.autoencoders.sparse import TopK
from covjax.autoencoders.sparse.codes import affine_at, auxk, decode_codes, dense_codes, preactivations, top_k
from covjax.autoencoders.sparse.kinds import batch_topk, jumprelu, kth_largest, step, topk
from covjax.autoencoders.sparse.module import geometric_median, norm_scale

B, D, M, K = 30, 7, 20, 6


def by_sorting(pre, k):
    """Stable sort: the first of equal ones wins."""
    out = np.zeros_like(pre)
    for row, values in enumerate(pre):
        keep = np.argsort(-values, kind="stable")[:k]
        out[row, keep] = np.maximum(values[keep], 0)
    return out


def test_topk_by_hand_and_against_sorting(rng):
    pre = jnp.array([[1.0, 3.0, 2.0, -1.0], [-4.0, -3.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(topk(pre, 2), [[0, 3, 2, 0], [0, 0, 1, 0], [2, 2, 0, 0]])
    pre = rng.integers(-5, 6, size=(50, M)).astype(np.float32)  # with many ties
    for k in (1, 5, M):
        np.testing.assert_array_equal(topk(jnp.asarray(pre), k), by_sorting(pre, k))


@pytest.mark.parametrize(("tokens", "latents", "k"), [(7, 5000, 3), (3, 65536, 32), (5, 4099, 1), (2, 100, 100)])
def test_the_largest_of_many_latents_by_runs_are_those_of_lax(rng, tokens, latents, k):
    pre = rng.normal(size=(tokens, latents)).astype(np.float32)
    few = np.where(rng.random(pre.shape) < 5e-4, pre, -np.inf).astype(np.float32)  # as AuxK's, less than k of a token
    broken = pre.copy()
    broken[:, latents // 2] = np.nan
    lost = np.full_like(pre, -np.nan)
    for each in (pre, np.round(pre), few, broken, lost, pre[:0]):
        for result, expected in zip(jax.jit(top_k, static_argnums=1)(each, k), jax.lax.top_k(each, k)):
            np.testing.assert_array_equal(result, expected)


def test_topk_gradient_goes_to_the_kept_and_positive_alone():
    pre = jnp.array([[1.0, 3.0, 2.0], [-4.0, -3.0, 1.0]])
    gradient = jax.grad(lambda p: jnp.sum(topk(p, 2) * jnp.arange(1.0, 4.0)))(pre)
    np.testing.assert_array_equal(gradient, [[0, 2, 3], [0, 0, 3]])


def test_batch_topk_by_hand():
    pre = jnp.array([[5.0, 4.0, 3.0], [1.0, -2.0, 2.0]])
    z, smallest = batch_topk(pre, 2)
    np.testing.assert_array_equal(z, [[5, 4, 3], [0, 0, 2]])
    assert smallest == 2
    z, smallest = batch_topk(pre, 3)  # six places, five positive numbers
    np.testing.assert_array_equal(z, [[5, 4, 3], [1, 0, 2]])
    assert smallest == 1
    z, smallest = batch_topk(pre.at[1].set(0), 2, tokens=1)  # the second row does not count
    np.testing.assert_array_equal(z, [[5, 4, 0], [0, 0, 0]])
    assert smallest == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kth_largest_against_sorting(rng, dtype):
    with jax.enable_x64(dtype is np.float64):
        values = np.maximum(rng.normal(size=500) * 10.0 ** rng.integers(-30, 30, 500), 0).astype(dtype)
        descending = np.sort(values)[::-1]
        for k in (1, 2, 100, 400, 500):
            assert kth_largest(jnp.asarray(values), k) == descending[k - 1]
        assert kth_largest(jnp.asarray(values), 501) == 0


def test_jumprelu_and_step_follow_the_papers_formulas(rng):
    pre = rng.normal(size=(B, M))
    threshold, epsilon = rng.uniform(0.1, 1, size=M), 0.4
    cotangent = rng.normal(size=(B, M))
    above, near = pre > threshold, np.abs(pre - threshold) < epsilon / 2
    with jax.enable_x64(True):
        z, back = jax.vjp(lambda p, t: jumprelu(p, t, epsilon), jnp.asarray(pre), jnp.asarray(threshold))
        by_pre, by_threshold = back(jnp.asarray(cotangent))
        np.testing.assert_allclose(z, pre * above)
        np.testing.assert_allclose(by_pre, cotangent * above)
        np.testing.assert_allclose(by_threshold, -(threshold / epsilon) * (near * cotangent).sum(0), rtol=1e-12)
        h, back = jax.vjp(lambda p, t: step(p, t, epsilon), jnp.asarray(pre), jnp.asarray(threshold))
        by_pre, by_threshold = back(jnp.asarray(cotangent))
        np.testing.assert_array_equal(h, above)
        assert not np.asarray(by_pre).any()
        np.testing.assert_allclose(by_threshold, -(near * cotangent).sum(0) / epsilon, rtol=1e-12)
    assert near.any()
    assert not near.all()


@pytest.mark.parametrize("k", [1, 6, 16])
def test_codes_and_their_gradients_equal_the_dense_form(rng, k):
    x, weight, decoder = rng.normal(size=(B, D)), rng.normal(size=(M, D)), rng.normal(size=(M, D))
    bias, target = rng.normal(size=M), rng.normal(size=(B, D))

    def sparse(x, weight, bias, decoder):
        pre = jax.lax.stop_gradient(preactivations(x, weight, bias))
        indices = jax.lax.top_k(pre, k)[1]
        values = jax.nn.relu(affine_at(x, weight, bias, pre, indices))
        return jnp.sum((decode_codes(values, indices, decoder) - target) ** 3)

    def dense(x, weight, bias, decoder):
        return jnp.sum((topk(x @ weight.T + bias, k) @ decoder - target) ** 3)

    with jax.enable_x64(True):
        arguments = tuple(map(jnp.asarray, (x, weight, bias, decoder)))
        ours, theirs = (jax.jit(jax.value_and_grad(f, (0, 1, 2, 3)))(*arguments) for f in (sparse, dense))
        for mine, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(mine, reference, rtol=1e-10, atol=1e-10 * np.abs(reference).max())


def test_training_a_topk_step_multiplies_by_the_dense_latents_once():
    graph, state = nnx.split(TopK(64, latents=2048, k=8, aux_weight=0))

    def gradient(state, x):
        return nnx.grad(lambda module: module.loss(x)[0])(nnx.merge(graph, state))

    program = jax.jit(gradient).lower(state, jnp.ones((512, 64))).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line and "512" in line and "2048" in line]
    assert len(products) == 1


def test_dense_codes_put_every_value_in_its_place():
    z = dense_codes(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([[3, 0], [1, 2]]), 4)
    np.testing.assert_array_equal(z, [[2, 0, 0, 1], [0, 3, 0, 0]])


@pytest.mark.long
def test_auxk_equals_its_definition_and_touches_dead_latents_only(rng):
    x, encoder, decoder = rng.normal(size=(B, D)), rng.normal(size=(M, D)), rng.normal(size=(M, D))
    bias, residual, dead = rng.normal(size=M), rng.normal(size=(B, D)), rng.uniform(size=M) < 0.4

    def ours(encoder, bias, decoder, dead, k):
        return jnp.sum(
            auxk(jnp.asarray(residual), jnp.asarray(x), encoder, bias, x @ encoder.T + bias, decoder, dead, k)
        )

    def reference(encoder, bias, decoder, k):
        pre = jnp.where(dead, x @ encoder.T + bias, -1.0)
        return jnp.sum((residual - topk(pre, k) @ decoder) ** 2)

    with jax.enable_x64(True):
        parameters = tuple(map(jnp.asarray, (encoder, bias, decoder)))
        for k in (2, int(dead.sum()) + 3):  # the second asks for more than are dead
            both = jax.jit(jax.value_and_grad(ours, (0, 1, 2)), static_argnums=4)
            value, gradients = both(*parameters, jnp.asarray(dead), k)
            expected, theirs = jax.value_and_grad(reference, (0, 1, 2))(*parameters, k)
            assert value == pytest.approx(float(expected), rel=1e-12)
            for mine, other in zip(gradients, theirs, strict=True):
                np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-9)
                assert not np.asarray(mine)[~dead].any()
        assert ours(*parameters, jnp.zeros(M, bool), 2) == 0


def test_geometric_median_minimises_the_sum_of_distances(rng):
    x = rng.normal(size=(101, 5))
    x[:20] += 1e4  # outliers that carry the mean 2,000 away
    with jax.enable_x64(True):
        median = np.asarray(geometric_median(x, tolerance=1e-12, iterations=2000))
    distance = np.linalg.norm(x - median, axis=1)
    assert np.linalg.norm(((x - median) / distance[:, None]).sum(0)) < 1e-6  # the condition of the minimum
    assert np.linalg.norm(median) < 3
    line = np.array([[0.0], [1.0], [2.0], [10.0], [100.0]], np.float32)  # on a line it is the median, here a token
    assert geometric_median(line)[0] == pytest.approx(2, abs=1e-3)
    cross = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], np.float32)  # the start is itself a token
    np.testing.assert_allclose(geometric_median(cross), 0, atol=1e-6)


def test_norm_scale_gives_mean_norm_root_of_features(rng):
    x = rng.normal(size=(B, D)) * 13
    norms = np.linalg.norm(x * np.asarray(norm_scale(x), np.float64), axis=1)
    assert norms.mean() == pytest.approx(D**0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: topk(jnp.ones((2, 3)), 4), "k must be a whole number from 1 to the number of latents, 3, got 4"),
        (lambda: topk(jnp.ones((2, 3)), 0), "got 0"),
        (lambda: batch_topk(jnp.ones((2, 3)), 4), "got 4"),
        (lambda: geometric_median(np.full((4, 3), 2.0)), "x must vary, got 4 equal tokens"),
        (lambda: geometric_median(np.array([[1.0, np.nan], [1, 1]])), "x must be finite, got 1 tokens"),
        (lambda: norm_scale(np.ones((0, 3))), "x must have shape"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
