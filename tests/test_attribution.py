"""Contributions of tokens sum to the probe's score on the pooled features, for every linear second-order pool."""

import jax.numpy as jnp
import numpy as np
import pytest

from covjax import get_pooler, projected_moment, unvech
from covjax.autoencoders.second_moment import cp_latents
from covjax.errors import InputError
from covjax.probes import LinearProbe, plot_contributions, quadratic_form, token_contributions, top_feature_pairs

D, R = 7, 3


@pytest.fixture
def tokens(rng):
    x = (rng.normal(size=(25, D)) + 2).astype(np.float32)
    w = rng.uniform(0.2, 2, 25).astype(np.float32)
    w[[0, 9, 24]] = 0
    x[9] = np.nan
    return x, w


def poolings(rng):
    a, b = rng.normal(size=(2, D, R)).astype(np.float32)
    c = rng.normal(size=D).astype(np.float32)
    return {
        "M": (lambda x, w: get_pooler("second_moment")(x, w), {}),
        "Σ": (lambda x, w: get_pooler("covariance")(x, w), {"center": "sequence"}),
        "tied": (
            lambda x, w: get_pooler("projected_covariance", basis=a)(x, w),
            {"left": a, "center": "sequence"},
        ),
        "untied": (
            lambda x, w: projected_moment(x, a, b, w, center=c).reshape(-1),
            {"left": a, "right": b, "center": c},
        ),
        "CP": (lambda x, w: cp_latents(jnp.nan_to_num(x), a, b, w), {"left": a, "right": b}),
    }


@pytest.mark.parametrize("name", ["M", "Σ", "tied", "untied", "CP"])
def test_contributions_sum_to_the_score(rng, tokens, name):
    x, w = tokens
    pool, options = poolings(rng)[name]
    features = np.asarray(pool(x, w))
    probe = LinearProbe(rng.normal(size=(len(features), 2)), np.array([0.5, -1.0]))
    for output in range(2):
        parts = token_contributions(probe, x, w, output=output, **options)
        assert parts.shape == (25,)
        assert (parts[w == 0] == 0).all()
        score = probe.scores(features[None])[0, output]
        np.testing.assert_allclose(parts.sum() + probe.bias[output], score, rtol=1e-5)


def test_a_contribution_is_the_form_of_its_token(rng, tokens):
    x, w = tokens
    probe = LinearProbe(rng.normal(size=(D * (D + 1) // 2, 1)), np.zeros(1))
    form = quadratic_form(probe)
    np.testing.assert_allclose(form, unvech(probe.weights[:, 0]), rtol=1e-6)
    keep = w > 0
    mean = (w[keep] @ x[keep].astype(np.float64)) / w.sum(dtype=np.float64)
    deviation = x[3].astype(np.float64) - mean
    expected = w[3] * deviation @ form @ deviation / w.sum(dtype=np.float64)
    np.testing.assert_allclose(token_contributions(probe, x, w, center="sequence")[3], expected, rtol=1e-6)


def test_top_pairs_are_the_largest_weights_in_the_score(rng):
    form = rng.normal(size=(5, 5))
    form = form + form.T
    form[1, 3] = form[3, 1] = -20
    form[2, 2] = 30
    pairs = top_feature_pairs(form, 15)
    assert pairs[:2] == [(1, 3, -40.0), (2, 2, 30.0)]
    s = rng.normal(size=(5, 5))
    s = s + s.T
    np.testing.assert_allclose(sum(value * s[i, j] for i, j, value in pairs), (form * s).sum())
    assert len(top_feature_pairs(form, 3)) == 3
    with pytest.raises(InputError, match="must be a symmetric matrix"):
        top_feature_pairs(rng.normal(size=(3, 3)))


@pytest.mark.parametrize("sequence", ["MKVLAAGIV" * 15, ["what", "is", "the", "capital", "of", "France", "?"]])
def test_plot_has_a_bar_for_every_token(rng, tmp_path, sequence):
    plot_contributions(sequence, rng.normal(size=len(sequence)), tmp_path / "a.png", title="score 1.2")
    assert (tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(InputError, match=r"must be \(\d+,\), one for each token"):
        plot_contributions(sequence, np.ones(3), tmp_path / "b.png")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output": 2}, "output: 2 must lie in 0 to 1"),
        ({"left": np.ones((D, 4))}, "28 weights, but the tied rank 4 has 10"),
        ({"left": np.ones((D, 4)), "right": np.ones((D, 4))}, "28 weights are neither 4 × 4"),
        ({"right": np.ones((D, 4))}, "left is needed"),
        ({"center": "data"}, "center must be None"),
        ({"center": np.ones(3)}, r"center must have shape \(7,\)"),
    ],
)
def test_bad_input_is_named(rng, tokens, options, match):
    probe = LinearProbe(rng.normal(size=(28, 2)), np.zeros(2))
    with pytest.raises(InputError, match=match):
        token_contributions(probe, *tokens, **options)
    with pytest.raises(InputError, match="28 weights are for 7 features, x has 6"):
        token_contributions(probe, tokens[0][:, :6], *tokens[1:])
