"""Figures of sparse autoencoders: limits of FVU, independence of the batch size, densities, loss recovered."""

from itertools import pairwise

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

from covjax import InputError
from covjax.autoencoders.sparse.module import (
    Sums,
    dead_share,
    density_histogram,
    fvu,
    l0,
    loss_recovered,
    token_sums,
)
from covjax.training.log import draw_density

B, D, M = 60, 4, 8


@pytest.fixture
def data(rng):
    x = (rng.normal(size=(B, D)) + 100).astype(np.float32)
    z = np.maximum(rng.normal(size=(B, M)), 0).astype(np.float32)
    z[:, :2] = 0
    return x, (x + rng.normal(size=(B, D)) / 3).astype(np.float32), z


def test_the_mean_scores_one_and_perfection_zero(data):
    x, _, z = data
    mean = np.broadcast_to(x.astype(np.float64).mean(0), x.shape)
    for shift in (x[0], x.mean(0)):
        assert fvu(token_sums(x, mean, z, shift)) == pytest.approx(1, abs=1e-4)
        assert fvu(token_sums(x, x, z, shift)) == 0


def test_figures_are_those_of_the_definition_at_any_batch_size(rng, data):
    x, reconstruction, z = data
    w = (rng.uniform(size=B) * (rng.uniform(size=B) < 0.7)).astype(np.float32)
    x64, r64, keep = x.astype(np.float64), reconstruction.astype(np.float64), w > 0
    mean = w @ x64 / w.sum()
    expected = w @ ((x64 - r64) ** 2).sum(1) / (w @ ((x64 - mean) ** 2).sum(1))
    dirty = np.where(keep[:, None], x, np.nan)
    for size in (1, 7, B):
        parts = [slice(i, i + size) for i in range(0, B, size) if w[i : i + size].any()]
        sums = sum(
            (token_sums(dirty[p], reconstruction[p], z[p], jnp.full(D, 100.0), w[p]) for p in parts[1:]),
            token_sums(dirty[parts[0]], reconstruction[parts[0]], z[parts[0]], jnp.full(D, 100.0), w[parts[0]]),
        )
        assert fvu(sums) == pytest.approx(expected, rel=1e-4)
        assert l0(sums) == pytest.approx(w @ (z > 0).sum(1) / w.sum(), rel=1e-5)
        assert dead_share(sums) == 2 / M
        np.testing.assert_allclose(sums.fired, w @ (z > 0), rtol=1e-5)


def test_density_histogram_by_hand():
    fired = jnp.array([0.0, 1000, 100, 99, 10, 1, 1e-5, 999])
    sums = Sums(jnp.asarray(1000.0), jnp.zeros(()), jnp.zeros(D), jnp.zeros(()), fired)
    assert density_histogram(sums, decades=4) == {"0": 1, "1e-4": 1, "1e-3": 1, "1e-2": 2, "1e-1": 3}


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ((3, 0, 0, 0, 0, 7, 1, 2), ["never", "≥ 1e-3", "≥ 1e-2", "≥ 1e-1"]),
        ((0, 1, 0, 0, 0, 0, 0, 20_000), ["never", *(f"≥ 1e-{n}" for n in range(7, 0, -1))]),
        ((4, 0, 0, 0, 0, 0, 0, 0), ["never", "≥ 1e-1"]),
    ],
)
def test_the_figure_of_densities_begins_with_the_rarest_latents_and_its_labels_stand_apart(
    tmp_path, monkeypatch, counts, names
):
    drawn = []
    close = plt.close
    monkeypatch.setattr(plt, "close", drawn.append)
    draw_density(dict(zip(("0", *(f"1e-{n}" for n in range(7, 0, -1))), counts)), tmp_path / "density.png")
    (figure,) = drawn
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == names
    assert all(a.get_window_extent().x1 < b.get_window_extent().x0 for a, b in pairwise(labels))
    close(figure)


def test_loss_recovered_by_hand():
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    head = lambda a: jnp.sum(jnp.square(a - x))
    half = loss_recovered(head, x, x / 2, jnp.array([2.0, 3.0]))
    assert half["original"] == 0
    assert half["reconstructed"] == pytest.approx(30 / 4)
    assert half["zero"] == 30
    assert half["mean"] == 4
    assert half["recovered_from_zero"] == pytest.approx(0.75)
    assert half["recovered_from_mean"] == pytest.approx(1 - 7.5 / 4)
    assert loss_recovered(head, x, x, jnp.zeros(2))["recovered_from_mean"] == 1
    with pytest.raises(InputError, match="zero ablation leaves it at 1.0"):
        loss_recovered(lambda a: jnp.ones(()), x, x, jnp.zeros(2))


def test_wrong_shapes_are_named(data):
    x, reconstruction, z = data
    for bad in (
        (x, reconstruction[:, 1:], z, x[0]),
        (x, reconstruction, z[1:], x[0]),
        (x, reconstruction, z, x[0, 1:]),
    ):
        with pytest.raises(InputError, match="do not fit"):
            token_sums(*bad)
