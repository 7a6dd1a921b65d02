"""Layouts beside SAELens' own: sparsify, dictionary_learning both ways, names, and the packages themselves."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from covjax import InputError, get_pooler
from covjax.autoencoders import (
    load,
    load_saelens,
    make_autoencoder,
    save_autoencoder,
    save_dictionary_learning,
    save_saelens,
)
from tests.test_sae_files import KINDS, D, M, make
from tests.test_sae_published import by_dictionary_learning, relu, top


def write_sparsify(folder, rng, dtype=np.float32, **fields):
    folder.mkdir(exist_ok=True)
    shapes = {"encoder.weight": (M, D), "encoder.bias": (M,), "W_dec": (M, D), "b_dec": (D,)}
    tensors = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, folder / "sae.safetensors")
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": M, "k": 3}
    config |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps(config | fields))
    return tensors


def by_sparsify(t, k, x):
    """Latents and reconstruction as sparsify computes them, in float64."""
    t = {name: tensor.astype(np.float64) for name, tensor in t.items()}
    z = top(relu((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]), k)
    return z, z @ t["W_dec"] + t["b_dec"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_sparsify_equals_float64(rng, tmp_path, dtype):
    t, x = write_sparsify(tmp_path, rng, dtype), rng.normal(size=(50, D)).astype(np.float32)
    module = load(tmp_path)
    z, reconstruction = by_sparsify(t, 3, x)
    np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax'; allowed: 'topk'"),
        ({"transcode": True}, "transcode is True; allowed: False"),
        ({"skip_connection": True}, "skip_connection is True; allowed: False"),
        ({"signed": True}, "signed is True; allowed: False"),
        ({"k": True}, "k is True, expected a whole number"),
        ({"k": M + 1}, "k must be a whole number from 1 to 12"),
        ({"scale": 2}, r"the field 'scale' \(2\) is not known in sparsify"),
        ({"num_latents": 0}, r"W_dec has shape \(12, 5\), expected \(160, 5\)"),
    ],
)
def test_what_sparsify_would_compute_otherwise_is_refused(rng, tmp_path, fields, message):
    write_sparsify(tmp_path, rng, **fields)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


CLASS_OF = {
    "relu": "AutoEncoder",
    "p_anneal": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "batch_topk": "BatchTopKSAE",
    "matryoshka": "MatryoshkaBatchTopKSAE",
    "gated": "GatedAutoEncoder",
    "jumprelu": "JumpReluAutoEncoder",
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_for_dictionary_learning_is_read_as_written(rng, tmp_path, kind):
    torch = pytest.importorskip("torch")
    module, x = make(kind, rng), rng.normal(size=(50, D)).astype(np.float32) * 3
    save_dictionary_learning(tmp_path / "a", module)
    trainer = json.loads((tmp_path / "a" / "config.json").read_text())["trainer"]
    assert (trainer["dict_class"], trainer["activation_dim"], trainer["dict_size"]) == (CLASS_OF[kind], D, M)
    state = {name: tensor.numpy() for name, tensor in torch.load(tmp_path / "a" / "ae.pt").items()}
    z, reconstruction = by_dictionary_learning(trainer["dict_class"], state, x)
    again = load(tmp_path / "a")
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.encode(x), z, rtol=1e-4, atol=1e-4)
    if trainer["dict_class"] == "AutoEncoder":  # there latents come back times the norms of their rows
        norms = np.linalg.norm(np.asarray(module.decoder[...]), axis=1) / float(module.scale[...])
        np.testing.assert_allclose(z, module.encode(x) * norms, rtol=1e-4, atol=1e-4)
    else:
        np.testing.assert_allclose(z, module.encode(x), rtol=1e-4, atol=1e-4)
        assert type(again) is type(module)
    save_dictionary_learning(tmp_path / "b", again)
    twice = load(tmp_path / "b")
    if trainer["dict_class"] == "JumpReluAutoEncoder":  # which has another bias, so that there is rounding
        np.testing.assert_allclose(twice(x), again(x), rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(twice(x), again(x))
        np.testing.assert_array_equal(twice.encode(x), again.encode(x))
    if kind == "matryoshka":
        assert again.prefixes == module.prefixes
    if kind == "batch_topk":
        assert again.k == module.k


def test_a_module_without_a_class_there_is_refused(tmp_path):
    pytest.importorskip("torch")
    with pytest.raises(InputError, match="rescale is layer_norm: dictionary_learning has no tokens"):
        save_dictionary_learning(tmp_path, make_autoencoder("relu", D, latents=M, rescale="layer_norm"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_dictionary_learning(tmp_path / "file", make_autoencoder("relu", D, latents=M))


@pytest.mark.parametrize("rescale", ["layer_norm", "constant_norm"])
@pytest.mark.parametrize("kind", ["relu", "gated", "topk", "jumprelu", "batch_topk"])
def test_rescaled_tokens_survive_both_layouts(rng, tmp_path, kind, rescale):
    options = {"latents": M, "rescale": rescale} | ({"k": 3} if "topk" in kind else {})
    module, x = make_autoencoder(kind, D, **options), rng.normal(size=(30, D)).astype(np.float32) * 5 + 1
    module.initialise([(x, None)])
    module.encoder_bias[...] = jnp.asarray(rng.normal(size=M), jnp.float32)
    save_saelens(tmp_path / "a", module)
    np.testing.assert_allclose(load(tmp_path / "a")(x), module(x), rtol=1e-4, atol=1e-4)
    save_autoencoder(tmp_path / "b", module, kind, D, options)
    np.testing.assert_array_equal(load(tmp_path / "b")(x), module(x))
    sums = module.evaluate(x)
    assert module.summarise(sums)["fvu"] == pytest.approx(
        float(jnp.sum((x - module(x)) ** 2) / jnp.sum((x - x.mean(0)) ** 2)), rel=1e-4
    )


def test_rescaling_is_checked(rng):
    module = make_autoencoder("relu", D, latents=M, rescale="constant_norm")
    with pytest.raises(InputError, match=r"decode needs the tokens \(2, 5\) themselves, got none"):
        module.decode(jnp.ones((2, M)))
    np.testing.assert_array_equal(module(jnp.zeros((1, D))), jnp.zeros((1, D)))
    with pytest.raises(InputError, match="rescale must be one of none, layer_norm, constant_norm, got 'zca'"):
        make_autoencoder("relu", D, latents=M, rescale="zca")
    with pytest.raises(InputError, match="layer_norm needs at least 2 features"):
        make_autoencoder("topk", 1, latents=M, k=2, rescale="layer_norm")


def test_a_release_and_an_id_name_a_folder_here_and_on_the_hub(rng, tmp_path, monkeypatch):
    import huggingface_hub

    release, inner = tmp_path / "release", "blocks.3.hook_resid_pre/width_12"
    module, x = make("jumprelu", rng), rng.normal(size=(9, D)).astype(np.float32)
    save_saelens(release / inner, module)
    expected = load_saelens(release / inner)(x)
    np.testing.assert_array_equal(load(f"{release}/{inner}")(x), expected)
    pool = get_pooler("sae_mean", autoencoder=release / inner)
    np.testing.assert_allclose(pool(x), np.mean(module.encode(x), axis=0), rtol=1e-4, atol=1e-5)

    asked = []

    def fetch(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        if repository != "owner/release":
            raise OSError("no network")
        return str(release)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(load(f"owner/release/{inner}")(x), expected)
    assert f"{inner}/sae_weights.safetensors" in asked[0][1]
    assert all(pattern.startswith(f"{inner}/") for pattern in asked[0][1])
    with pytest.raises(InputError, match="no autoencoder: .*there are some in blocks.3.hook_resid_pre/width_12"):
        load("owner/release")
    with pytest.raises(InputError, match="owner/release has no autoencoder in 'blocks.4'"):
        load("owner/release/blocks.4")
    with pytest.raises(InputError, match="'other/release' is not a folder and cannot be fetched from the hub: OSError"):
        load("other/release/blocks.4")
    for name in ("nothing", "../up", "/abs/olute", "a//b"):
        with pytest.raises(InputError, match="no such folder; expected a folder, or owner/repository/folder"):
            load(name)


def randomise(torch, module):
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.copy_(torch.randn_like(tensor).abs() if "threshold" in name else torch.randn_like(tensor))


SAE_LENS = {
    "standard": {},
    "gated": {},
    "topk": {"k": 3, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {},
    "batchtopk": {"k": 3},
    "matryoshka_batchtopk": {"k": 3, "matryoshka_widths": [4, M]},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", SAE_LENS)
def test_parity_with_the_package_of_saelens_both_ways(rng, tmp_path, architecture, norm):
    torch = pytest.importorskip("torch")
    sae_lens = pytest.importorskip("sae_lens")
    registry = pytest.importorskip("sae_lens.registry")

    find = registry.get_sae_training_class if "batch" in architecture else registry.get_sae_class
    kind, settings = find(architecture)
    sae = kind(settings(d_in=D, d_sae=M, normalize_activations=norm, **SAE_LENS[architecture]))
    randomise(torch, sae)
    x = rng.normal(size=(50, D)).astype(np.float32) * 2
    sae.save_model(tmp_path / "a")
    if "batch" in architecture:  # in use it is what it saves for use
        sae.save_inference_model(tmp_path / "use")
        sae = sae_lens.SAE.load_from_disk(tmp_path / "use")
    module = load(tmp_path / "a")
    save_saelens(tmp_path / "b", module)
    for theirs in (sae, sae_lens.SAE.load_from_disk(tmp_path / "b")):
        with torch.no_grad():
            z, reconstruction = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
        assert 0 < (z > 0).mean() < 1
        np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=5e-5)
        np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=2e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_parity_with_the_package_of_dictionary_learning(rng, tmp_path, kind):
    torch = pytest.importorskip("torch")
    places = ("dictionary", *(f"trainers.{name}" for name in ("top_k", "batch_top_k", "matryoshka_batch_top_k")))
    modules = [pytest.importorskip(f"dictionary_learning.{place}") for place in places]
    module, x = make(kind, rng), rng.normal(size=(50, D)).astype(np.float32)
    save_dictionary_learning(tmp_path, module)
    name = CLASS_OF[kind]
    their_class = next(getattr(each, name) for each in modules if hasattr(each, name))
    theirs = their_class.from_pretrained(str(tmp_path / "ae.pt"))
    with torch.no_grad():
        z, reconstruction = theirs.encode(torch.from_numpy(x)).numpy(), theirs(torch.from_numpy(x)).numpy()
    again = load(tmp_path)
    np.testing.assert_allclose(again.encode(x), z, rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(again(x), reconstruction, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=2e-4)
