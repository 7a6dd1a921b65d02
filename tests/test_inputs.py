"""Tokens and other numeric arguments: every form means the same, and what may not come in is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import covjax
from covjax import get_pooler, metrics
from covjax.autoencoders import make_autoencoder
from covjax.errors import InputError
from covjax.inputs import check_table, host_array, patterns
from covjax.probes import (
    fit_ridge_path,
    row_space,
    token_contributions,
)

BINARY = [np.bool_, np.int8, np.int64, np.uint8, np.float16, np.float32, np.float64, object]


def test_pytorch_tensors(rng):
    torch = pytest.importorskip("torch")
    truth = rng.random((60, 3)) < 0.3
    scores = rng.normal(size=(60, 3)) + truth
    for form in (torch.tensor(truth), torch.tensor(truth).to(torch.bfloat16), torch.tensor(truth).int()):
        given = torch.tensor(scores, requires_grad=True)
        np.testing.assert_array_equal(metrics.auroc(form, given), metrics.auroc(truth, scores))
    x = rng.normal(size=(9, 4)).astype(np.float32)
    space = row_space(torch.tensor(x, requires_grad=True))
    probe = fit_ridge_path(space, space.coordinates(torch.tensor(x)), torch.tensor(x[:, 0]), [1e-6])[0]
    np.testing.assert_allclose(probe.scores(torch.tensor(x))[:, 0], x[:, 0], atol=1e-3)
    pooler = get_pooler("covariance")
    np.testing.assert_array_equal(pooler(torch.tensor(x, requires_grad=True)), pooler(x))
    half = torch.tensor(x).bfloat16()
    np.testing.assert_array_equal(pooler(half), pooler(half.float().numpy()))
    np.testing.assert_array_equal(pooler(torch.tensor(x), torch.ones(9, dtype=torch.int64)), pooler(x))
    autoencoder = make_autoencoder("topk", 4, latents=8, k=2)
    np.testing.assert_array_equal(autoencoder.encode(torch.tensor(x)), autoencoder.encode(x))
    np.testing.assert_array_equal(host_array([torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)], "x"), [1, 2])
    # Inside of a transformation there is no tensor to convert, and no message prints one.
    batch = torch.tensor(x)[None]
    with pytest.raises(TypeError) as caught:
        jax.jit(jax.vmap(pooler))(batch)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["mean", "covariance", "sqrt_covariance", "max", "tensor_sketch"])
def test_tokens(rng, name):
    pooler = get_pooler(name)
    x = rng.normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_array_equal(pooler(x.tolist(), [1] * 6), pooler(x))
    for whole in (np.arange(6).reshape(3, 2), [[1, 2], [3, 4]], np.ones((3, 2), bool)):
        with pytest.raises(TypeError, match=r"floating-point array .* numbers: x.astype\(np.float32\)") as caught:
            pooler(whole)
        assert isinstance(caught.value, InputError)
    with pytest.raises(InputError, match=r"x is a list of 2 arrays of different shapes.*\[pooler\(x\) for x in"):
        pooler([x, x[:2]])
    with pytest.raises(InputError, match="x is a list of 2 arrays of different shapes"):
        pooler([[[1.0], [1.0, 2.0]], [[1.0]]])
    with pytest.raises(InputError, match="batches: jax.vmap"):
        pooler([x, x])
    with pytest.raises(InputError, match="weights: numbers or booleans are needed"):
        pooler(x, ["a"] * 6)
    with pytest.raises(InputError, match=r"weights must have shape \(6,\)"):
        pooler(x, [1.0] * 5)


def test_other_public_functions_take_lists_and_whole_numbers():
    matrix = [[2, 1], [1, 2]]
    np.testing.assert_allclose(covjax.psd_sqrt(matrix) @ covjax.psd_sqrt(matrix), matrix, atol=1e-5)
    np.testing.assert_allclose(covjax.unvech(covjax.vech(matrix).tolist()), matrix, atol=1e-6)
    np.testing.assert_allclose(covjax.newton_schulz_sqrt(matrix)[0], covjax.psd_sqrt(matrix), atol=1e-4)
    x = [[1.0, 2.0], [3.0, 5.0]]
    np.testing.assert_allclose(
        covjax.projected_moment(x, matrix),
        (np.array(matrix).T @ np.asarray(covjax.second_moment(x)) @ np.array(matrix)),
    )
    np.testing.assert_allclose(covjax.shrink(matrix, 0.5), [[2, 0.5], [0.5, 2]])
    np.testing.assert_allclose(covjax.gram([x, x])[0, 1], np.sum(np.asarray(covjax.second_moment(x)) ** 2), rtol=1e-6)
    with pytest.raises(InputError, match="a must be finite, got 1 entries"):
        covjax.psd_log([[np.nan, 0], [0, 1.0]], 0.1)
    with pytest.raises(InputError, match="a: numbers or booleans are needed"):
        covjax.vech([["1", "2"], ["2", "1"]])
    with pytest.raises(InputError, match="chunks must have equal features"):
        covjax.streaming_moments([np.ones((2, 3)), np.ones((2, 4))])
    probe = fit_ridge_path(row_space(np.eye(3)), row_space(np.eye(3)).coordinates(np.eye(3)), [1, 2, 3], [1.0])[0]
    score = probe.scores(covjax.vech(covjax.second_moment(x))[None])[0, 0]
    np.testing.assert_allclose(token_contributions(probe, x).sum(), score - probe.bias[0], rtol=1e-5)


def test_masked_arrays_and_traced_values():
    masked = np.ma.masked_array([1.0, 0.0, 1.0], [False, False, True])
    np.testing.assert_array_equal(host_array(masked, "y"), [1, 0, np.nan])
    np.testing.assert_array_equal(host_array(np.ma.masked_array([1, 0]), "y"), [1, 0])
    with pytest.raises(InputError, match="truth: its values are not known inside jit"):
        jax.jit(lambda y: metrics.auroc(y, y))(jnp.ones(3))
    with pytest.raises(InputError, match="y: 2 columns, but 3 are needed"):
        check_table(np.ones((2, 2)), "y", columns=3)


def test_columns_with_the_same_rows_come_together():
    present = np.array([[1, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1]], bool)
    groups = [(rows.astype(int).tolist(), columns.tolist()) for rows, columns in patterns(present)]
    assert groups == [([1, 1, 0], [0, 2]), ([0, 1, 1], [1]), ([1, 0, 1], [3])]


POOLERS = {
    "mean": {},
    "covariance": {},
    "log_covariance": {},
    "attention": {"features": 4},
    "projected": {"features": 4},
}


@pytest.mark.parametrize("name", POOLERS)
def test_tokens_of_any_byte_order_and_container(rng, name):
    pooler, x = get_pooler(name, **POOLERS[name]), rng.normal(size=(7, 4)).astype(np.float32)
    expected = pooler(x)
    for form in (x.astype(">f4"), np.ma.array(x), x.astype(object), x[::-1][::-1]):
        np.testing.assert_allclose(pooler(form), expected, atol=1e-6)


@pytest.mark.parametrize("name", POOLERS)
def test_tokens_that_no_number_comes_of_are_refused(rng, name):
    pooler, x = get_pooler(name, **POOLERS[name]), rng.normal(size=(7, 4)).astype(np.float32)
    hole = np.arange(28).reshape(7, 4) == 9
    bad = [
        (np.where(hole, np.nan, x), "x must be finite, got 1 tokens"),
        (jnp.where(hole, jnp.inf, x), "x must be finite, got 1 tokens"),
        (jnp.where(hole, jnp.nan, x).astype(jnp.bfloat16), "x must be finite, got 1 tokens"),
        (x * np.float32(1e20), r"squares are beyond float32; divide it"),
        (x.astype(np.float64) * 1e300, r"squares are beyond float32; divide it"),
        (x * np.float32(1e-20), r"squares are beyond float32; divide it"),
        (np.ma.array(x, mask=hole), "x has masked entries"),
    ]
    for tokens, message in bad:
        with pytest.raises(InputError, match=message):
            pooler(tokens)
    keep = ~hole.any(1)
    np.testing.assert_allclose(pooler(np.where(hole, np.nan, x), keep), pooler(x, keep), atol=1e-6)
    assert np.isfinite(pooler(np.zeros((3, 4), np.float32))).all()


def test_weights_beyond_float32_are_refused(rng):
    x = rng.normal(size=(3, 2)).astype(np.float32)
    for size in (1e-300, 1e-40, 1e38, 1e300):
        with pytest.raises(InputError, match="weights reach .*; divide them by their largest"):
            covjax.moments(x, np.full(3, size))
    with pytest.raises(InputError, match="weights must be real numbers"):
        covjax.moments(x, jnp.ones(3, jnp.complex64))
    np.testing.assert_allclose(covjax.moments(x, [1.0, 1.0, 1e-300]).mean, x[:2].mean(0), rtol=1e-6)


def test_the_width_of_learned_poolers_is_named(rng):
    x = rng.normal(size=(3, 5)).astype(np.float32)
    for name in ("attention", "light_attention"):
        with pytest.raises(InputError, match="x must have 4 features, got 5"):
            get_pooler(name, features=4)(x)


def test_chunks_must_be_finite(rng):
    x = rng.normal(size=(5, 2)).astype(np.float32)
    for bad in (np.nan, np.inf, 1e30):
        with pytest.raises(InputError, match="chunks must be finite"):
            covjax.streaming_moments([x, np.where(x == x[0, 0], bad, x).astype(np.float32)])


def test_packed_sequences_take_the_widest_type(rng):
    narrow, wide = rng.normal(size=(3, 2)).astype(np.float16), np.full((2, 2), 1e5, np.float32)
    tokens, _, _ = covjax.pack_blocks([narrow, wide], 4)
    assert tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens[4:6], wide)
