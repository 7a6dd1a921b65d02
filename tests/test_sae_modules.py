"""Sparse autoencoders: loss and gradient against NumPy and autodiff in float64, statistics, training, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from covjax import InputError
from covjax.autoencoders.base import Autoencoder, Evaluated, Initialised, make_autoencoder
from covjax.autoencoders.sparse import SparseAutoencoder

B, D, M, K = 40, 6, 16, 3
KINDS = {
    "relu": {"l1": 0.3},
    "topk": {"k": K},
    "batch_topk": {"k": K, "smoothing": 0.25},
    "jumprelu": {"l0": 0.2, "start_threshold": 0.3, "bandwidth": 0.4},
    "matryoshka": {"k": K, "prefixes": (4, 8, M)},
}


def make(kind, rng, **options) -> SparseAutoencoder:
    """An autoencoder whose parameters are all different from their start."""
    module = make_autoencoder(kind, D, latents=M, **(KINDS[kind] | options))
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias"):
        variable = getattr(module, name)
        variable[...] = variable[...] + 0.1 * rng.normal(size=variable.shape)
    module.scale[...] = jnp.float32(0.7)
    return module


def reference(kind, module, x, w):
    """The loss without AuxK by its formula, NumPy in float64; and x̂ in the units of x."""
    we, wd, be, bd = (
        np.asarray(getattr(module, n)[...], np.float64) for n in ("encoder", "decoder", "encoder_bias", "decoder_bias")
    )
    keep, s = w > 0, float(module.scale[...])
    x, w = s * np.where(keep[:, None], x, 0), w / w.sum()
    pre = (x - bd) @ we.T + be
    z, penalty, stops = np.maximum(pre, 0), 0.0, (M,)
    if kind == "relu":
        penalty = 0.3 * w @ (z @ np.linalg.norm(wd, axis=1))
    elif kind == "topk":
        z *= pre >= np.sort(pre, axis=1)[:, -K, None]
    elif kind == "jumprelu":
        z = pre * (pre > 0.3)
        penalty = 0.2 * w @ (z > 0).sum(1)
    else:
        z *= keep[:, None]
        z *= z >= np.sort(z, axis=None)[-K * keep.sum()]
        stops = module.prefixes if kind == "matryoshka" else (M,)
    error = sum(w @ ((x - z[:, :stop] @ wd[:stop] - bd) ** 2).sum(1) for stop in stops)
    return error + penalty, (z @ wd + bd) / s, z


@nnx.jit
def loss_of(module, x, weights=None):
    return module.loss(x, weights)


@nnx.jit
def gradient_of(module, x, weights=None):
    return nnx.grad(lambda m: m.loss(x, weights)[0])(module)


@pytest.fixture
def batch(rng):
    x = rng.normal(size=(B, D)) + 1
    w = rng.uniform(0.5, 2, size=B) * (rng.uniform(size=B) < 0.8)
    return np.where(w[:, None] > 0, x, np.nan).astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_metrics_equal_the_formula(rng, batch, kind):
    module = make(kind, rng, aux_weight=0)
    assert isinstance(module, Autoencoder)
    assert isinstance(module, Initialised)
    assert isinstance(module, Evaluated)
    x, w = batch
    loss, metrics = loss_of(module, x, w)
    expected, reconstruction, z = reference(kind, module, x, w)
    assert loss == pytest.approx(expected, rel=1e-5)
    keep = w > 0
    mean = w[keep] @ x[keep] / w.sum()
    unexplained = w[keep] @ ((x - reconstruction)[keep] ** 2).sum(1) / (w[keep] @ ((x[keep] - mean) ** 2).sum(1))
    assert metrics["fvu"] == pytest.approx(unexplained, rel=1e-5)
    assert metrics["l0"] == pytest.approx(w @ (z > 0).sum(1) / w.sum(), rel=1e-5)
    assert metrics["dead"] == 0
    np.testing.assert_array_equal(module.fired[...], (z[keep] > 0).any(0))


@pytest.mark.parametrize("kind", ["relu", "topk", "matryoshka"])
def test_gradients_are_those_of_the_formula(rng, kind):
    """By differences of the float64 loss, along a random direction, where the active set does not change."""
    with jax.enable_x64(True):
        x = rng.normal(size=(B, D))
        module = make(kind, rng, aux_weight=0)
        for variable in jax.tree.leaves(nnx.state(module), is_leaf=lambda v: isinstance(v, nnx.Variable)):
            if variable.dtype == jnp.float32:
                variable[...] = variable[...].astype(jnp.float64)
        graph, parameters, rest = nnx.split(module, nnx.Param, ...)
        direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), parameters)

        def loss(step):
            moved = jax.tree.map(lambda p, v: p + step * v, parameters, direction)
            return reference(kind, nnx.merge(graph, moved, rest), x, np.ones(B))[0]

        gradient = gradient_of(nnx.merge(graph, parameters, rest), x)
        along = sum(jnp.vdot(g, v) for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        assert along == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-4)


def test_decoder_gradient_is_projected_and_rows_keep_their_norm(rng, batch):
    module = make("topk", rng)
    norms = jnp.linspace(0.5, 2, M)
    module.decoder_norm[...] = norms
    module.decoder[...] = module.decoder[...] * (norms / jnp.linalg.norm(module.decoder[...], axis=1))[:, None]
    rows = np.asarray(module.decoder[...])
    gradient = gradient_of(module, *batch)
    other = np.asarray(gradient["encoder"][...])
    assert np.abs((np.asarray(gradient["decoder"][...]) * rows).sum(1)).max() > 1e-3
    projected = module.project_gradients(gradient)
    np.testing.assert_allclose((np.asarray(projected["decoder"][...]) * rows).sum(1), 0, atol=1e-5)
    np.testing.assert_array_equal(projected["encoder"][...], other)
    module.decoder[...] = module.decoder[...] * 3
    module.after_step(*batch)
    np.testing.assert_allclose(module.decoder[...], rows, rtol=1e-5)


def test_idle_counts_tokens_in_float32_and_auxk_revives_the_dead(rng):
    x = rng.normal(size=(B, D)).astype(np.float32)
    module = make("topk", rng, dead_after=100, aux_k=4)
    module.encoder_bias[...] = module.encoder_bias[...].at[:5].set(-100.0)
    for _ in range(2):
        loss_of(module, x)
        module.after_step(x)
    fired = np.asarray(module.fired[...])
    assert not fired[:5].any()
    np.testing.assert_array_equal(module.idle[...], np.where(fired, 0, 2 * B))
    assert module.idle[...].dtype == jnp.float32
    module.after_step(x, np.arange(B) < 30)
    assert module.idle[0] == 2 * B + 30
    assert loss_of(module, x)[1]["dead"] == pytest.approx((~fired).sum() / M)
    module.encoder_bias[...] = module.encoder_bias[...].at[:5].set(-1.0)
    with_aux = np.asarray(gradient_of(module, x)["decoder"][...])
    module.aux_weight = 0.0
    change = np.abs(with_aux - np.asarray(gradient_of(module, x)["decoder"][...])).max(1)
    assert change[:5].max() > 1e-3
    assert change[fired].max() < 1e-6  # two programs: rounding


def test_batch_topk_threshold_is_the_moving_average_of_the_smallest_active(rng, batch):
    module = make("batch_topk", rng)
    x, w = batch
    smallest = []
    for shift in (0, 0.5, -0.5):
        loss_of(module, x + np.float32(shift), w)
        module.after_step(x, w)
        z = reference("batch_topk", module, x + shift, w)[2]
        smallest.append(z[z > 0].min())
    expected = smallest[0]
    for value in smallest[1:]:
        expected += 0.25 * (value - expected)
    assert module.threshold[...] == pytest.approx(expected, rel=1e-5)
    z = module.encode(x[w > 0])
    np.testing.assert_array_equal(z > 0, module.preactivations(module._scaled(x[w > 0])) > module.threshold[...])


def test_topk_codes_are_encode_without_the_zeros(rng):
    module, x = make("topk", rng), rng.normal(size=(B, D)).astype(np.float32)
    values, indices = module.codes(x)
    np.testing.assert_allclose(np.take_along_axis(np.asarray(module.encode(x)), np.asarray(indices), 1), values)
    np.testing.assert_allclose(module(x), reference("topk", module, x, np.ones(B))[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_explains_tokens_made_of_few_directions(rng, kind):
    directions = rng.normal(size=(12, D))
    codes = rng.uniform(1, 2, size=(512, 12)) * (rng.uniform(size=(512, 12)) < 0.12)
    x = jnp.asarray(codes @ directions + 3, jnp.float32) * 5
    options = {"relu": {"l1": 0.1}, "jumprelu": {"l0": 0.01}, "matryoshka": {"prefixes": (8, 32), "k": K}}
    module = make_autoencoder(kind, D, latents=32, **(options.get(kind) or {"k": K}), dead_after=2000)
    module.initialise([(x[:100], None), (x[100:], np.arange(412) < 300)])
    assert jnp.mean(jnp.linalg.norm(x[:400] * module.scale[...], axis=1)) == pytest.approx(D**0.5, rel=1e-5)
    optimizer = nnx.Optimizer(module, optax.adam(2e-2), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        (loss, _), gradients = nnx.value_and_grad(lambda m: m.loss(x), has_aux=True)(module)
        optimizer.update(module, module.project_gradients(gradients))
        module.after_step(x)
        return loss

    start = module.summarise(module.evaluate(x))["fvu"]
    losses = [step(module, optimizer) for _ in range(150)]
    figures = module.summarise(module.evaluate(x))
    assert losses[-1] < losses[0]
    assert figures["fvu"] < min(0.2, start)
    assert figures["l0"] < 7
    np.testing.assert_allclose(np.linalg.norm(module.decoder[...], axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("topk", {"k": M + 1}, f"k must be .* the number of latents, {M}, got {M + 1}"),
        ("batch_topk", {"k": 0}, "k must be"),
        ("batch_topk", {"smoothing": 0}, "smoothing must be"),
        ("relu", {"l1": -1}, "l1 must be >= 0"),
        ("jumprelu", {"bandwidth": 0}, "bandwidth > 0"),
        ("matryoshka", {"prefixes": (8, 4, M)}, "prefixes must increase"),
        ("matryoshka", {"prefixes": (4, M + 1)}, "prefixes must increase"),
        ("topk", {"aux_k": M + 1}, "aux_k must be"),
        ("topk", {"dead_after": 0}, "dead_after > 0"),
        ("topk", {"latents": 0, "k": 1}, "got 1"),
    ],
)
def test_bad_options_are_named(kind, options, message):
    with pytest.raises(InputError, match=message):
        make_autoencoder(kind, D, **({"latents": M} | KINDS[kind] | options))


def test_bad_tokens_are_named(rng):
    module, x = make("topk", rng), np.ones((B, D), np.float32)
    with pytest.raises(InputError, match=f"x must have {D} features, got {D + 1}"):
        module.loss(np.ones((B, D + 1), np.float32))
    with pytest.raises(TypeError, match="floating-point"):
        module.loss(np.ones((B, D), int))
    bad = x.copy()
    bad[3] = np.nan
    for call in (module.loss, module.encode, module.evaluate, lambda x: module.initialise([(x, None)])):
        with pytest.raises(InputError, match="x must be finite, got 1 tokens"):
            call(bad)
    with pytest.raises(InputError, match=f"x must vary, got {B} equal tokens"):
        module.initialise([(x, None)])
    with pytest.raises(InputError, match="at least one batch"):
        module.initialise([])
    with pytest.raises(InputError, match="weights must have shape"):
        module.loss(x, np.ones(B - 1))
