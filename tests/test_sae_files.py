"""SAELens' layout: exact round trips, the same function by NumPy from the tensors, and every fault named."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from covjax import InputError
from covjax.autoencoders import load_autoencoder, save_autoencoder
from covjax.autoencoders.base import make_autoencoder
from covjax.autoencoders.sparse.saelens import load_saelens, save_saelens
from covjax.jobs import checkpoint

D, M = 5, 12
KINDS = {
    "relu": {},
    "topk": {"k": 3},
    "jumprelu": {},
    "batch_topk": {"k": 3},
    "matryoshka": {"prefixes": (4, M), "k": 3},
    "gated": {},
    "p_anneal": {},
}


def make(kind, rng):
    module = make_autoencoder(kind, D, latents=M, **KINDS[kind])
    for name in ("encoder", "decoder", "encoder_bias", "decoder_bias"):
        variable = getattr(module, name)
        variable[...] = jnp.asarray(rng.normal(size=variable.shape), jnp.float32)
    if kind == "gated":
        for variable in (module.gate_bias, module.log_magnitude):
            variable[...] = jnp.asarray(rng.normal(size=M), jnp.float32)
    if hasattr(module, "threshold"):
        module.threshold[...] = jnp.asarray(rng.uniform(0.2, 0.6, size=module.threshold.shape), jnp.float32)
    module.scale[...] = jnp.float32(0.37)
    return module


def by_the_layout(folder, x):
    """What the layout says the tensors mean, in float64."""
    t = {name: np.asarray(v, np.float64) for name, v in load_file(folder / "sae_weights.safetensors").items()}
    config = json.loads((folder / "cfg.json").read_text())
    pre = (x - t["b_dec"]) @ t["W_enc"]
    if config["architecture"] == "gated":
        z = (pre + t["b_gate"] > 0) * np.maximum(pre * np.exp(t["r_mag"]) + t["b_mag"], 0)
        return z, z @ t["W_dec"] + t["b_dec"]
    pre = pre + t["b_enc"]
    z = np.maximum(pre, 0)
    if config["architecture"] == "topk":
        z *= pre >= np.sort(pre, axis=1)[:, -config["k"], None]
    if config["architecture"] == "jumprelu":
        z *= pre > t["threshold"]
    return z, z @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_folded_and_the_round_trip_exact(rng, tmp_path, kind):
    module, x = make(kind, rng), rng.normal(size=(20, D)).astype(np.float32) * 3
    save_saelens(tmp_path / "a", module, {"model_name": "esm2", "hook_layer": 4})
    z, reconstruction = by_the_layout(tmp_path / "a", x)
    np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)
    again = load_saelens(tmp_path / "a")
    np.testing.assert_allclose(again.encode(x), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again(x), reconstruction, rtol=1e-4, atol=1e-4)
    save_saelens(tmp_path / "b", again, {"model_name": "esm2", "hook_layer": 4})
    for name in ("sae_weights.safetensors", "cfg.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a" / "cfg.json").read_text())["metadata"]["hook_layer"] == 4


def test_training_on_keeps_the_decoders_norms(rng, tmp_path):
    save_saelens(tmp_path, make("topk", rng))
    module = load_saelens(tmp_path)
    before = np.asarray(module.decoder[...])
    module.after_step(jnp.ones((2, D)))
    np.testing.assert_allclose(module.decoder[...], before, rtol=1e-6)


def test_the_older_form_of_topk_is_read(rng, tmp_path):
    save_saelens(tmp_path, make("topk", rng))
    config = json.loads((tmp_path / "cfg.json").read_text())
    config |= {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": config.pop("k")}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert load_saelens(tmp_path).k == 3


def drop(tensors, _):
    del tensors["b_enc"]


def extra(tensors, _):
    tensors["W_gate"] = np.zeros((D, M), np.float32)


def misshape(tensors, _):
    tensors["W_enc"] = np.ascontiguousarray(tensors["W_enc"].T)


def double(tensors, _):
    tensors["b_dec"] = tensors["b_dec"].astype(np.float64)


def poison(tensors, _):
    tensors["W_dec"][1, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"tensor b_enc \(12,\) is missing"),
        (extra, r"unexpected tensor W_gate \(5, 12\) in architecture topk"),
        (misshape, r"tensor W_enc has shape \(12, 5\), expected \(5, 12\)"),
        (double, "tensor b_dec is float64, expected float32"),
        (poison, "tensor W_dec holds NaN or inf"),
        (
            lambda _, c: c.update(architecture="transcoder"),
            "architecture is 'transcoder'; allowed: 'standard', 'topk', 'jumprelu', 'gated', ",
        ),
        (lambda _, c: c.update(normalize_activations="zca"), "normalize_activations is 'zca'"),
        (lambda _, c: c.update(apply_b_dec_to_input="no"), "apply_b_dec_to_input is 'no'"),
        (lambda _, c: c.update(shrink=0.5), r"the field 'shrink' \(0.5\) is not known"),
        (lambda _, c: c.update(k=M + 1), "k must be a whole number from 1"),
        (lambda _, c: c.update(k=None), "k is None, expected a whole number"),
        (lambda _, c: c.pop("d_in"), "d_in is None, expected a whole number"),
    ],
)
def test_every_fault_is_named(rng, tmp_path, change, message):
    save_saelens(tmp_path, make("topk", rng))
    tensors = load_file(tmp_path / "sae_weights.safetensors")
    config = json.loads((tmp_path / "cfg.json").read_text())
    change(tensors, config)
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_saelens(tmp_path)


def test_missing_and_damaged_files_are_named(rng, tmp_path):
    with pytest.raises(InputError, match="none: no autoencoder: no such file as sae_weights.safetensors"):
        load_saelens(tmp_path / "none")
    save_saelens(tmp_path, make("jumprelu", rng))
    file = tmp_path / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="sae_weights.safetensors: not a complete safetensors file"):
        load_saelens(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_saelens(tmp_path / "file", make("relu", rng))


def test_a_saved_autoencoder_says_what_it_was_trained_on(rng, tmp_path):
    save_autoencoder(tmp_path / "a", make("topk", rng), "topk", D, {"latents": M, "k": 3}, data={"weights": "abc"})
    assert checkpoint.read_manifest(tmp_path / "a")["data"] == {"weights": "abc"}
    assert load_autoencoder(tmp_path / "a").k == 3
