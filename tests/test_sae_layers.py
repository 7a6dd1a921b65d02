"""Transcoders, crosscoders: formulas in float64, recovery of known dictionaries, several layers of a source."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from covjax import InputError
from covjax.activations.windows import EncodedActivations, join
from covjax.autoencoders import load_autoencoder, make_autoencoder, save_dictionary_learning, save_saelens
from covjax.autoencoders.base import Autoencoder, Evaluated, Initialised
from covjax.autoencoders.sparse.module import geometric_median
from covjax.autoencoders.stability import matched_cosines, random_cosines
from covjax.encoders.unirep import UniRep
from covjax.sweeps import measure
from covjax.training.autoencoder import train_autoencoder
from tests.test_unirep import random_weights
from tests.toy_autoencoders import config

B, S, T, M, K = 40, 5, 3, 16, 3


def wide(variable):
    return np.asarray(variable[...], np.float64)


@nnx.jit
def loss_of(module, x, weights=None):
    return module.loss(x, weights)


def randomise(module, rng):
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias", "source_bias", "skip"):
        if (variable := getattr(module, name, None)) is not None:
            variable[...] = variable[...] + 0.2 * rng.normal(size=variable.shape)
    return module


@pytest.fixture
def batch(rng):
    x = rng.normal(size=(B, S + T)) * ([1.0] * S + [7.0] * T) + 1
    w = rng.uniform(0.5, 2, size=B) * (rng.uniform(size=B) < 0.8)
    return np.where(w[:, None] > 0, x, np.nan).astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_is_its_formula(rng, batch, skip):
    module = make_autoencoder("transcoder", S + T, latents=M, k=K, source=S, skip=skip, aux_weight=0.0)
    for protocol in (Autoencoder, Initialised, Evaluated):
        assert isinstance(module, protocol)
    x, w = batch
    module.initialise([(x, w)])
    keep = w > 0
    scale, own = wide(module.scale), x[keep].astype(np.float64)
    for layer in (slice(0, S), slice(S, S + T)):
        norm = np.linalg.norm(own[:, layer], axis=1).mean()
        np.testing.assert_allclose(scale[layer], own[:, layer].shape[1] ** 0.5 / norm, rtol=1e-5)
    np.testing.assert_allclose(wide(module.source_bias), scale[0] * geometric_median(x[keep][:, :S]), rtol=1e-3)
    randomise(module, rng)
    centred = own[:, :S] * scale[:S] - wide(module.source_bias)
    pre = centred @ wide(module.encoder).T + wide(module.encoder_bias)
    z = np.where(pre >= -np.sort(-pre, axis=1)[:, K - 1 : K], np.maximum(pre, 0), 0)
    out = z @ wide(module.decoder) + wide(module.decoder_bias)
    if skip:
        out += centred @ wide(module.skip)
    share, target = w[keep].astype(np.float64) / w.sum(), own[:, S:] * scale[S:]
    errors = ((target - out) ** 2).sum(1)
    loss, metrics = loss_of(module, x, w)
    assert loss == pytest.approx(share @ errors, rel=1e-5)
    variance = share @ ((target - share @ target) ** 2).sum(1)
    assert metrics["fvu"] == pytest.approx(share @ errors / variance, rel=1e-4)
    np.testing.assert_allclose(module.encode(x[keep]), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(module.encode(x[keep][:, :S]), module.encode(x[keep]))
    np.testing.assert_allclose(module(x[keep]), out / scale[S:], rtol=1e-4, atol=1e-4)
    figures = module.summarise(module.evaluate(x, w))
    assert figures["fvu"] == pytest.approx(share @ errors / variance, rel=1e-4)
    if skip:
        with pytest.raises(InputError, match="skip is on: decode needs the tokens"):
            module.decode(jnp.ones((2, M)))


def test_a_crosscoder_is_batch_topk_of_layers_of_equal_size(rng):
    x = (rng.normal(size=(B, 12)) * np.repeat([1.0, 5.0, 30.0], 4) + 2).astype(np.float32)
    module = make_autoencoder("crosscoder", 12, layers=3, latents=M, k=K, aux_weight=0.0)
    module.initialise([(x, None)])
    norms = [np.linalg.norm(x[:, 4 * i : 4 * i + 4], axis=1).mean() for i in range(3)]
    np.testing.assert_allclose(module.scale[...], np.repeat(2 / np.array(norms), 4), rtol=1e-5)
    plain = make_autoencoder("batch_topk", 12, latents=M, k=K, aux_weight=0.0)
    scale = wide(module.scale)
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias"):
        getattr(plain, name)[...] = getattr(module, name)[...]
    expected, expected_metrics = loss_of(plain, x * scale.astype(np.float32))
    loss, metrics = loss_of(module, x)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert metrics["fvu"] == pytest.approx(float(expected_metrics["fvu"]), rel=1e-5)
    np.testing.assert_allclose(np.square(module.layer_norms()).sum(1), 1, rtol=1e-5)
    scaled, back = x * scale, np.asarray(module(x), np.float64) * scale
    fvu = np.sum((scaled - back) ** 2) / np.sum((scaled - scaled.mean(0)) ** 2)
    assert module.summarise(module.evaluate(x))["fvu"] == pytest.approx(fvu, rel=1e-4)


WIDTH, DIRECTIONS = 16, 24


def two_layers():
    """Sequences of which every token is at most three features; each has a direction in either layer."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, DIRECTIONS, WIDTH))
    first, second = (d / np.linalg.norm(d, axis=1, keepdims=True) for d in (first, second))
    arrays = []
    for _ in range(200):
        z = np.zeros((64, DIRECTIONS))
        for _ in range(3):
            z[np.arange(64), rng.integers(0, DIRECTIONS, 64)] = 1
        z *= rng.uniform(0.5, 1.5, z.shape)
        x = np.concatenate([z @ first, 9 * z @ second], axis=1) + 0.01 * rng.normal(size=(64, 2 * WIDTH))
        arrays.append(x.astype(np.float32))
    return join(arrays, {"two": "layers"}), first, second


@pytest.mark.long
def test_both_find_the_known_directions_of_both_layers(tmp_path):
    data, first, second = two_layers()
    options = {"latents": DIRECTIONS, "k": 3}
    settings = {"batch": 512, "steps": 400, "warmup": 20, "save_every": 400, "evaluate_every": 400, "decay": 0.3}
    chance = random_cosines(DIRECTIONS, WIDTH).mean()
    cross = train_autoencoder(config(tmp_path / "a", kind="crosscoder", options=options, **settings), data)
    rows = np.asarray(cross.model.decoder[...])
    for layer, directions in ((rows[:, :WIDTH], first), (rows[:, WIDTH:], second)):
        assert matched_cosines(layer, directions).mean() > chance + 0.3
    assert cross.held_out["fvu"] < 0.25
    np.testing.assert_allclose(np.median(cross.model.layer_norms(), axis=0), 0.5**0.5, atol=0.15)
    trans = train_autoencoder(config(tmp_path / "b", kind="transcoder", options=options, **settings), data)
    assert matched_cosines(np.asarray(trans.model.decoder[...]), second).mean() > chance + 0.3
    assert trans.held_out["fvu"] < 0.35
    again = load_autoencoder(tmp_path / "b" / "autoencoder")
    x = data.read([0])[0]
    np.testing.assert_array_equal(again(x), trans.model(x))
    assert again(x).shape == (64, WIDTH)
    labels = np.arange(200)[:, None] % 2 == 0
    figures = measure(again, data, np.arange(150), np.arange(150, 200), labels).figures
    assert figures["measured"]["labels"] == 1
    y = np.stack([np.cov(np.asarray(again(data.read([row])[0]), np.float64).T, bias=True) for row in range(150, 200)])
    s = np.stack([np.cov(data.read([row])[0][:, WIDTH:].astype(np.float64).T, bias=True) for row in range(150, 200)])
    assert figures["covariance_fvu"] == pytest.approx(np.sum((y - s) ** 2) / np.sum(s**2), rel=1e-4)
    for save in (save_saelens, save_dictionary_learning):
        for model in (again, cross.model):
            with pytest.raises(InputError, match="of several layers, has no"):
                save(tmp_path / "c", model)


def test_layers_stand_side_by_side_in_their_order(rng):
    encoder = UniRep(random_weights(layers=3))
    proteins = ["MKV", "MKVLAT", "GG"]
    one = [EncodedActivations(encoder, proteins, layer, 64, 2) for layer in (0, -1)]
    both = EncodedActivations(encoder, proteins, (0, -1), 64, 2)
    assert both.features == 16
    for x, first, last in zip(both.read([2, 1]), one[0].read([2, 1]), one[1].read([2, 1]), strict=True):
        np.testing.assert_array_equal(x, np.concatenate([first, last], axis=1))
    assert both.identity["layer"] == [0, 2]
    assert one[1].identity["layer"] == 2
    with pytest.raises(InputError, match="none, or one twice"):
        EncodedActivations(encoder, proteins, (1, 1), 64, 2)


@pytest.mark.parametrize(
    ("kind", "features", "options", "message"),
    [
        ("transcoder", 7, {}, "source: 7 features are not two layers of one width"),
        ("transcoder", 8, {"source": 8}, "source must be from 1 to 7, the width of the layer that is read, got 8"),
        ("crosscoder", 8, {"layers": 3}, "layers: 8 features are not 3 layers of one width"),
    ],
)
def test_widths_that_do_not_fit_are_named(kind, features, options, message):
    with pytest.raises(InputError, match=message):
        make_autoencoder(kind, features, latents=M, k=K, **options)
