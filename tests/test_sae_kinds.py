"""Gated, p-anneal and moment-aware autoencoders: their formulas in float64, and recovery of a known dictionary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from covjax import InputError
from covjax.autoencoders import make_autoencoder
from covjax.autoencoders.base import Autoencoder, Evaluated, Initialised
from covjax.autoencoders.sparse.moment_topk import covariance_errors
from covjax.autoencoders.stability import matched_cosines, random_cosines
from covjax.training.state import Step, TrainState, make_optimiser

B, D, M, K = 40, 6, 16, 3


def make(kind, rng, **options):
    module = make_autoencoder(kind, D, latents=M, **options)
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias", "gate_bias", "log_magnitude"):
        if hasattr(module, name):
            variable = getattr(module, name)
            variable[...] = variable[...] + 0.2 * rng.normal(size=variable.shape)
    module.scale[...] = jnp.float32(0.7)
    return module


def wide(variable):
    return np.asarray(variable[...], np.float64)


@nnx.jit
def loss_of(module, x, weights=None):
    return module.loss(x, weights)


@nnx.jit
def advance(module, x, weights=None):
    result = module.loss(x, weights)
    module.after_step(x, weights)
    return result


@pytest.fixture
def batch(rng):
    x = rng.normal(size=(B, D)) + 1
    w = rng.uniform(0.5, 2, size=B) * (rng.uniform(size=B) < 0.8)
    return np.where(w[:, None] > 0, x, np.nan).astype(np.float32), w.astype(np.float32)


def gated_loss(module, x, w, frozen=None):
    """The loss by its formula in float64; `frozen`, a decoder and its bias, stands where no gradient goes."""
    decoder, bias = wide(module.decoder), wide(module.decoder_bias)
    held = (decoder, bias) if frozen is None else frozen
    pre = (x - bias) @ wide(module.encoder).T
    z = (pre + wide(module.gate_bias) > 0) * np.maximum(
        np.exp(wide(module.log_magnitude)) * pre + wide(module.encoder_bias), 0
    )
    gates = np.maximum(pre + wide(module.gate_bias), 0)
    error = ((x - z @ decoder - bias) ** 2).sum(1) + ((x - gates @ held[0] - held[1]) ** 2).sum(1)
    return w / w.sum() @ (error + 0.3 * gates @ np.linalg.norm(decoder, axis=1)), z


def test_gated_is_its_formula(rng, batch):
    module = make("gated", rng, l1=0.3)
    for protocol in (Autoencoder, Initialised, Evaluated):
        assert isinstance(module, protocol)
    x, w = batch
    keep = w > 0
    expected, z = gated_loss(module, 0.7 * x[keep].astype(np.float64), w[keep].astype(np.float64))
    loss, metrics = loss_of(module, x, w)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["l0"] == pytest.approx(w[keep] @ (z > 0).sum(1) / w.sum(), rel=1e-5)
    np.testing.assert_allclose(module.encode(x[keep]), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module.fired[...], (z > 0).any(0))


@pytest.mark.long
def test_the_gates_error_does_not_reach_the_decoder(rng):
    """The derivative along a random direction is that of the formula with the gates' decoder held."""
    with jax.enable_x64(True):
        x = rng.normal(size=(B, D))
        module = make("gated", rng, l1=0.3)
        for variable in jax.tree.leaves(nnx.state(module), is_leaf=lambda v: isinstance(v, nnx.Variable)):
            if variable.dtype == jnp.float32:
                variable[...] = variable[...].astype(jnp.float64)
        module.scale[...] = jnp.ones((), jnp.float64)
        graph, parameters, rest = nnx.split(module, nnx.Param, ...)
        direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), parameters)
        frozen = wide(module.decoder), wide(module.decoder_bias)

        def loss(step):
            moved = jax.tree.map(lambda p, v: p + step * v, parameters, direction)
            return gated_loss(nnx.merge(graph, moved, rest), x, np.ones(B), frozen)[0]

        gradient = nnx.grad(lambda m: m.loss(x)[0])(nnx.merge(graph, parameters, rest))
        along = sum(jnp.vdot(g, v) for g, v in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
        assert along == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-4)


def test_p_falls_and_its_coefficient_keeps_the_size_of_the_penalty(rng, batch):
    options = {"end_p": 0.2, "anneal_start": 2, "anneal_end": 6, "updates": 2, "window": 3}
    module = make("p_anneal", rng, l1=0.3, **options)
    x, w = batch
    keep, s = w > 0, 0.7
    share = w[keep].astype(np.float64) / w.sum()

    def penalty(p):
        pre = (s * x[keep] - wide(module.decoder_bias)) @ wide(module.encoder).T + wide(module.encoder_bias)
        size = np.maximum(pre, 0) * np.linalg.norm(wide(module.decoder), axis=1)
        return share @ np.where(size > 0, np.where(size > 0, size, 1) ** p, 0).sum(1)

    def error():
        z = module.encode(x[keep])
        return share @ np.sum((s * (x[keep] - np.asarray(module.decode(z)))) ** 2, axis=1)

    module.decoder_norm[...] = jnp.linalg.norm(module.decoder[...], axis=1)
    exponents, coefficient = [1.0, 1.0, 1.0, 1.0, 0.6, 0.6, 0.2, 0.2], 0.3
    for step, p in enumerate(exponents):
        assert float(module.p) == pytest.approx(p)
        loss, _ = advance(module, x, w)
        assert loss == pytest.approx(error() + coefficient * penalty(p), rel=1e-5)
        if step + 1 < len(exponents) and exponents[step + 1] < p:  # nothing else changes here, so the last steps agree
            coefficient *= penalty(p) / penalty(exponents[step + 1])
        assert float(module.coefficient[...]) == pytest.approx(coefficient, rel=1e-5)
    assert int(module.steps[...]) == len(exponents)


def moments(x, w):
    mean = w @ x / w.sum()
    return (x - mean).T @ (w[:, None] * (x - mean)) / w.sum()


@pytest.mark.long
def test_moment_topk_is_topk_and_the_covariances_difference(rng):
    x = (rng.normal(size=(4, 10, D)) + 1).astype(np.float32)
    w = (rng.uniform(0.5, 2, size=(4, 10)) * (rng.uniform(size=(4, 10)) < 0.7)).astype(np.float32)
    w[3] = 0  # a padded sequence
    x = np.where(w[..., None] > 0, x, np.nan)
    plain = make("topk", rng, k=K, aux_weight=0.0)
    module = make_autoencoder("moment_topk", D, latents=M, k=K, aux_weight=0.0, moment_weight=2.0)
    nnx.update(module, nnx.state(plain))
    assert isinstance(module, Autoencoder)
    assert module.examples == "sequences"
    loss, metrics = loss_of(module, x, w)
    flat, flat_w = x.reshape(-1, D), w.reshape(-1)
    expected, plain_metrics = loss_of(plain, flat, flat_w)
    errors, norms = [], []
    for xs, ws in zip(x[:3], w[:3], strict=True):
        keep = ws > 0
        y = np.asarray(module(xs[keep]), np.float64)
        first, second = (0.49 * moments(a.astype(np.float64), ws[keep]) for a in (xs[keep], y))
        errors.append(np.sum((second - first) ** 2))
        norms.append(np.sum(first**2))
    assert loss == pytest.approx(float(expected) + 2 / D * np.mean(errors), rel=1e-4)
    assert metrics["moment_fvu"] == pytest.approx(np.sum(errors) / np.sum(norms), rel=1e-4)
    assert metrics["fvu"] == pytest.approx(float(plain_metrics["fvu"]), rel=1e-5)
    sums = module.evaluate(x, w)
    figures = module.summarise(sums)
    assert figures["moment_fvu"] == pytest.approx(np.sum(errors) / np.sum(norms), rel=1e-4)
    halves = jax.tree.map(jnp.add, module.evaluate(x[:2], w[:2]), module.evaluate(x[2:], w[2:]))
    assert module.summarise(halves) == pytest.approx(figures, rel=1e-5)
    module.after_step(x, w)
    assert float(module.idle[...].max()) == pytest.approx(w.sum(), rel=1e-5)


def test_covariances_of_masked_sequences_are_nothing():
    errors, norms = covariance_errors(jnp.ones((2, 3, D)), jnp.zeros((2, 3, D)), jnp.zeros((2, 3)))
    assert float(jnp.sum(errors) + jnp.sum(norms)) == 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gated", {"l1": -1.0}, "l1 must be >= 0, got -1.0"),
        ("p_anneal", {"end_p": 0.0}, "end_p must be above 0 and at most 1, got 0.0"),
        ("p_anneal", {"anneal_start": 5, "anneal_end": 5}, "anneal_start must be >= 0 and before anneal_end, got 5"),
        ("p_anneal", {"anneal_start": 0, "anneal_end": 5}, r"updates must be from 1 to 5 \(steps\)"),
        ("moment_topk", {"k": 3, "moment_weight": -1.0}, "moment_weight must be >= 0"),
    ],
)
def test_bad_options_are_named(kind, options, message):
    with pytest.raises(InputError, match=message):
        make_autoencoder(kind, D, latents=M, **options)


# A dictionary that is known: every token is the sum of at most 3 of 24 directions in 16 dimensions.
FEATURES, DIRECTIONS, LENGTH, STEPS = 16, 24, 32, 400
BENCH = {
    "relu": {"l1": 1.5},
    "p_anneal": {"l1": 1.5, "end_p": 0.5, "anneal_start": 100, "anneal_end": 300},
    "gated": {"l1": 1.5},
    "jumprelu": {"l0": 0.5, "bandwidth": 0.5, "start_threshold": 0.3},
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "prefixes": (8, DIRECTIONS)},
    "moment_topk": {"k": 3, "moment_weight": 1.0},
}


def draw(rng, sequences, directions):
    tokens = sequences * LENGTH
    active = np.zeros((tokens, DIRECTIONS))
    for _ in range(3):
        active[np.arange(tokens), rng.integers(0, DIRECTIONS, tokens)] = 1
    z = active * rng.uniform(0.5, 1.5, active.shape)
    x = z @ directions + 0.01 * rng.normal(size=(tokens, FEATURES))
    return x.reshape(sequences, LENGTH, FEATURES).astype(np.float32)


def train(kind, directions, held, first, batches):
    """An autoencoder after those batches of 512 tokens, and its figures on the sequences that are held out."""
    model = make_autoencoder(kind, FEATURES, latents=DIRECTIONS, seed=1, **BENCH[kind])

    def shape(x):
        return x if model.examples == "sequences" else x.reshape(-1, FEATURES)

    def weights(x):
        return np.ones(shape(x).shape[:-1], np.float32)

    model.initialise([(shape(first), weights(first))])
    graph, state = nnx.split(TrainState(model, make_optimiser(STEPS, 1e-2, 20, 0.3, None)))
    step = Step(graph, None)
    for x in batches:
        state, _ = step(state, jnp.asarray(shape(x)), jnp.asarray(weights(x)))
    model = nnx.merge(graph, state).model
    figures = dict(model.summarise(model.evaluate(shape(held), weights(held))))
    back = model(held.reshape(-1, FEATURES)).reshape(held.shape)
    errors, norms = covariance_errors(jnp.asarray(held), back, jnp.ones(held.shape[:2]))
    cosines = matched_cosines(np.asarray(model.decoder[...]), directions)
    return figures | {"covariance": float(errors.sum() / norms.sum()), "recovery": float(cosines.mean())}


@pytest.mark.long
def test_what_is_found_of_a_known_dictionary():
    directions = np.random.default_rng(0).normal(size=(DIRECTIONS, FEATURES))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rng = np.random.default_rng(3)
    held, first = draw(rng, 64, directions), draw(rng, 64, directions)
    batches = [draw(rng, 16, directions) for _ in range(STEPS)]
    bench = {kind: train(kind, directions, held, first, batches) for kind in BENCH}
    chance = random_cosines(DIRECTIONS, FEATURES).mean()
    for kind, figures in bench.items():
        assert figures["recovery"] > chance + 0.3, (kind, figures)
        assert figures["fvu"] < 0.25, (kind, figures)
    fvu = {kind: figures["fvu"] for kind, figures in bench.items()}
    # L1 shrinks what it keeps: less so with a power below 1, not at all behind a gate or with the k largest alone.
    assert fvu["gated"] < fvu["p_anneal"] < fvu["relu"]
    assert fvu["topk"] < fvu["relu"]
    assert fvu["batch_topk"] < fvu["relu"]
    assert fvu["batch_topk"] < fvu["matryoshka"]  # whose first latents must do without the others
    assert bench["p_anneal"]["l0"] < bench["relu"]["l0"]
    assert bench["moment_topk"]["covariance"] < bench["topk"]["covariance"]


@pytest.mark.parametrize("kind", ["relu", "gated", "p_anneal"])
def test_a_decoder_row_of_zeros_has_a_finite_gradient(kind, rng):
    module = make_autoencoder(kind, 4, latents=3)
    module.decoder[...] = module.decoder[...].at[0].set(0)
    x = jnp.asarray(rng.normal(size=(16, 4)), jnp.float32)
    gradients = nnx.grad(lambda module: module.loss(x)[0])(module)
    assert all(bool(jnp.isfinite(each).all()) for each in jax.tree.leaves(gradients))
