"""Poolers on sparse latents and sparse co-occurrence against the dense second moment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covjax import InputError, get_pooler
from covjax.activations.windows import HeldActivations
from covjax.autoencoders import save_autoencoder
from covjax.autoencoders.sparse import TopK
from covjax.autoencoders.sparse.cooccurrence import cooccurrence, cooccurrence_kernel, frequent_pairs, stack
from covjax.embedding.learned import find_pairs

T, D, M, K = 25, 6, 40, 4


@pytest.fixture(scope="module")
def module():
    module = TopK(D, latents=M, k=K, seed=3)
    module.decoder_bias[...] = jnp.linspace(-1, 1, D)
    return module


@pytest.fixture
def sequences(rng):
    """Tokens and weights, some 0."""
    x = [rng.normal(size=(t, D)).astype(np.float32) for t in (T, 7, 12, 1)]
    return [(v, np.where(np.arange(len(v)) % 5 == 1, 0, rng.uniform(0.5, 1, len(v))).astype(np.float32)) for v in x]


def dense(module, x, w):
    z = np.asarray(module.encode(x), np.float64)
    return (z * w[:, None]).T @ z / w.sum()


def codes(module, sequences):
    return [cooccurrence(*module.codes(x), M, w) for x, w in sequences]


def test_cooccurrence_by_hand():
    values, indices = np.array([[2.0, 3.0], [1.0, 0.0]]), np.array([[4, 1], [4, 0]])
    keys, moment = cooccurrence(values, indices, 5, np.array([1, 3]))
    assert list(keys) == [1 * 5 + 1, 1 * 5 + 4, 4 * 5 + 4]
    np.testing.assert_allclose(moment, [9 / 4, 6 / 4, (4 + 3) / 4])


@pytest.mark.long
def test_cooccurrence_equals_the_dense_second_moment(module, sequences):
    for (x, w), (keys, value) in zip(sequences, codes(module, sequences), strict=True):
        found = np.zeros((M, M))
        found[keys // M, keys % M] = value
        expected = dense(module, x, w)
        np.testing.assert_allclose(found, np.triu(expected), rtol=1e-5, atol=1e-7)
        assert len(keys) == np.count_nonzero(np.triu(expected)) <= (w > 0).sum() * K * (K + 1) / 2


def test_kernel_equals_that_of_the_dense_moments_and_of_the_tokens(module, sequences):
    stacked = stack(codes(module, sequences), M)
    z = [np.asarray(module.encode(x), np.float64) * np.sqrt(w / w.sum())[:, None] for x, w in sequences]
    expected = [[((a @ b.T) ** 2).sum() for b in z] for a in z]
    np.testing.assert_allclose(cooccurrence_kernel(stacked), expected, rtol=1e-5)
    np.testing.assert_allclose(cooccurrence_kernel(stacked[:2], stacked), np.array(expected)[:2], rtol=1e-5)
    assert stacked.nnz < sum(len(x) for x, _ in sequences) * K * (K + 1) / 2


def test_chosen_pairs_are_the_most_frequent_and_the_pooler_gives_the_same_features(module, sequences):
    stacked = stack(codes(module, sequences), M)
    pairs = frequent_pairs(stacked, 10, M)
    number = (stacked != 0).sum(0).A1 if hasattr((stacked != 0).sum(0), "A1") else np.asarray((stacked != 0).sum(0))[0]
    keys = pairs[:, 0] * M + pairs[:, 1]
    assert number[keys].min() >= np.delete(number, keys).max()
    pool = jax.jit(get_pooler("sae_cooccurrence", autoencoder=module, pairs=pairs))
    for i, (x, w) in enumerate(sequences):
        expected = stacked[i].toarray()[0, keys]
        np.testing.assert_allclose(pool(np.where(w[:, None] > 0, x, np.nan), w), expected, rtol=1e-4, atol=1e-6)


def test_pairs_of_sequences_of_any_lengths_take_one_program(module, rng, caplog):
    def find(*lengths):
        tokens = rng.normal(size=(sum(lengths), module.features)).astype(np.float32)
        pairs = find_pairs(module, HeldActivations(tokens, lengths, {}), module.latents, 3)
        assert pairs.shape == (3, 2)

    find(5, 9)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        find(9, 3, 7, 4, 6)
    assert len([text for text in caplog.messages if text.startswith("Compiling")]) == 1


def test_mean_and_max_of_latents_also_from_a_saved_autoencoder(module, sequences, tmp_path):
    options = {"latents": M, "k": K}
    save_autoencoder(tmp_path / "sae", module, "topk", D, options)
    x, w = sequences[0]
    z = np.asarray(module.encode(x), np.float64)
    for given in (module, str(tmp_path / "sae")):
        mean = get_pooler("sae_mean", autoencoder=given)(x, w)
        np.testing.assert_allclose(mean, w @ z / w.sum(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(get_pooler("sae_max", autoencoder=given)(x, w), z[w > 0].max(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: get_pooler("sae_mean", autoencoder=3), "must be a sparse one or its folder, got int"),
        (lambda m: get_pooler("sae_cooccurrence", autoencoder=m, pairs=np.ones((3, 3), int)), "pairs must be whole"),
        (
            lambda m: get_pooler("sae_cooccurrence", autoencoder=m, pairs=np.array([[0, M]])),
            f"0 to {M - 1}, got 0 to {M}",
        ),
        (lambda m: cooccurrence(np.ones((2, 3)), np.ones((2, 2), int), M), "do not fit"),
        (lambda m: cooccurrence(np.ones((2, 2)), np.full((2, 2), M), M), f"indices must be from 0 to {M - 1}"),
        (lambda m: cooccurrence(np.ones((2, 2)), np.ones((2, 2), int), M, np.zeros(2)), "not all 0"),
        (lambda m: stack([], M), "none given"),
        (
            lambda m: frequent_pairs(stack([(np.array([1]), np.array([2.0]))], M), 2, M),
            "number of active pairs, 1, got 2",
        ),
    ],
)
def test_bad_input_is_named(module, call, message):
    with pytest.raises(InputError, match=message):
        call(module)
