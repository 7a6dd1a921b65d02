"""Windows: every token in one core, the halo seen, and statistics merged to those of one pass."""

import jax.numpy as jnp
import numpy as np
import pytest

from covjax.encoders import Encoder, from_function, load, windowed_moments, windows
from covjax.errors import InputError
from tests.test_bert import RESIDUES, peer_folder
from tests.test_spliceai import random_weights, write_torch

REACH = 3  # tokens on each side that the toy encoder sees
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)


def local_encoder():
    def function(tokens, mask):
        x = jnp.pad(jnp.where(mask[:, None], TABLE[tokens], 0), ((REACH, REACH), (0, 0)))
        return sum((1 + k) * x[k : k + len(tokens)] for k in range(2 * REACH + 1))

    return from_function("local", function, {"A": 1, "C": 2, "G": 3, "T": 4})


def letters(n, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), n))


@pytest.mark.parametrize(("before", "after", "grid"), [(0, 0, 1), (1, 1, 1), (1, 0, 1), (0, 0, 8)])
@pytest.mark.parametrize("length", [1, 30, 47, 48, 49, 50, 51, 97, 1000])
@pytest.mark.parametrize("halo", [0, 7])
def test_every_token_is_in_one_core(before, after, grid, length, halo):
    class Framed(Encoder):
        frame, multiple = (before, after), grid

        def encode(self, sequence):
            return np.array([-1] * before + list(range(len(sequence))) + [-2] * after)

    cut = windows(Framed(), "A" * length, 50, halo)
    if len(cut) == 1:
        assert length + before + after <= 50
        np.testing.assert_array_equal(cut[0].tokens[cut[0].core], Framed().encode("A" * length))
        return
    assert length + before + after > 50
    np.testing.assert_array_equal(np.concatenate([w.tokens[w.core] for w in cut]), np.arange(length))
    cores = [int(w.core.sum()) for w in cut]
    assert max(cores) - min(cores) <= 2 * grid - 1
    for w in cut:
        assert len(w.tokens) <= 50
        inner = w.tokens[before : len(w.tokens) - after]
        assert inner[0] % grid == 0
        assert (np.diff(inner) == 1).all()
        assert w.tokens[w.core][0] - inner[0] >= min(halo, w.tokens[w.core][0])
        assert inner[-1] - w.tokens[w.core][-1] >= min(halo, length - 1 - w.tokens[w.core][-1])
        assert (w.tokens[:before] == -1).all()
        assert (w.tokens[len(w.tokens) - after :] == -2).all()


@pytest.mark.parametrize(("halo", "exact"), [(REACH, True), (REACH - 1, False)])
def test_merged_moments_are_those_of_one_pass_where_the_halo_covers_the_reach(halo, exact):
    encoder, sequence = local_encoder(), letters(501)
    tokens, mask, _ = encoder.pad([encoder.encode(sequence)], 501)
    x = np.asarray(encoder.apply(tokens, mask, (0,))[0][0], np.float64)
    found = windowed_moments(encoder, sequence, (0,), 40, halo, token_budget=128)[0]
    assert float(found.count) == 501
    error = np.abs(found.covariance() - np.cov(x.T, ddof=0)).max() / x.var()
    assert (error < 1e-5) == exact
    if exact:
        np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-5, atol=1e-5)


def test_spliceai_in_windows_equals_one_pass(tmp_path, rng):
    write_torch(tmp_path / "m.pt", random_weights(rng, 1))
    encoder, sequence = load(str(tmp_path / "m.pt")), letters(700)
    whole = windowed_moments(encoder, sequence, (-1, 2), 1000, 40)
    cut = windowed_moments(encoder, sequence, (-1, 2), 200, encoder.context // 2)
    for layer in whole:
        scale = np.abs(whole[layer].scatter).max()
        np.testing.assert_allclose(cut[layer].scatter / scale, whole[layer].scatter / scale, atol=1e-5)


@pytest.mark.slow
def test_beyond_the_learned_positions(tmp_path):
    peer_folder(tmp_path, RESIDUES)
    encoder = load(str(tmp_path))
    sequence = "ACDEFGHIKL" * 30
    most = encoder.max_tokens
    assert most < len(sequence)
    with pytest.raises(InputError, match=f"more than the {most - 2} positions"):
        encoder.encode(sequence)
    cut = windows(encoder, sequence, most, 4)
    np.testing.assert_array_equal(
        np.concatenate([w.tokens[w.core] for w in cut]), np.concatenate([encoder.encode("ACDEFGHIKL")[1:-1]] * 30)
    )
    assert float(windowed_moments(encoder, sequence, (-1,), most, 4)[-1].count) == 300
    with pytest.raises(InputError, match=f"window: {most + 1} is more than the {most} positions"):
        windows(encoder, sequence, most + 1, 4)


@pytest.mark.parametrize(("window", "halo", "message"), [(8, 4, "window: 8 leaves no core"), (8, -1, "halo: -1")])
def test_windows_without_a_core_are_refused(window, halo, message):
    with pytest.raises(InputError, match=message):
        windows(local_encoder(), "ACGT", window, halo)
