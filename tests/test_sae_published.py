"""Published sparse autoencoders: each as its library computes it, in float64, and every refusal by field."""

import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from covjax import InputError
from covjax.autoencoders import load_saelens, save_saelens

D, M, K = 6, 10, 3


def relu(x):
    return np.maximum(x, 0)


def top(pre, k=K):
    return relu(pre) * (pre >= np.sort(pre, axis=1)[:, -k, None])


def arrays(rng, **more):
    shapes = {"W_enc": (D, M), "W_dec": (M, D), "b_enc": (M,), "b_dec": (D,)} | more
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items() if shape is not None}


def write_saelens(folder, tensors, fields):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": M} | fields))
    return folder


def by_saelens(tensors, fields, x):
    """Latents and reconstruction as SAELens computes them, in float64."""
    t = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    architecture = fields.get("architecture", "standard")
    shift, size = 0.0, 1.0
    if fields.get("normalize_activations") == "layer_norm":
        shift, size = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        x = (x - shift) / (size + 1e-5)
    if fields.get("normalize_activations") == "constant_norm_rescale":
        size = np.linalg.norm(x, axis=1, keepdims=True) / x.shape[1] ** 0.5
        x = x / size
    centred = x - t["b_dec"] * fields.get("apply_b_dec_to_input", True)
    norms = np.linalg.norm(t["W_dec"], axis=1) if fields.get("rescale_acts_by_decoder_norm") else 1.0
    if architecture == "gated":
        is_open = centred @ t["W_enc"] + t["b_gate"] > 0
        z = is_open * relu(centred @ (t["W_enc"] * np.exp(t["r_mag"])) + t["b_mag"])
    else:
        pre = (centred @ t["W_enc"] + t["b_enc"]) * norms
        name = fields.get("activation_fn", fields.get("activation_fn_str", "relu"))
        z = top(pre) if architecture == "topk" or name == "topk" else relu(pre)
        z = z * (pre > t["threshold"]) if architecture == "jumprelu" else z
        z = z * (pre > t["topk_threshold"]) if "batchtopk" in architecture else z
    factor = 1.0
    if fields.get("finetuning_scaling_factor"):
        factor = t.get("scaling_factor", t.get("finetuning_scaling_factor"))
    back = (z / np.where(norms > 0, norms, 1) * factor) @ t["W_dec"] + t["b_dec"]
    return z, back * size + shift


GATES = {"b_enc": None, "b_gate": (M,), "b_mag": (M,), "r_mag": (M,)}
FACTOR, JUMP = {"finetuning_scaling_factor": (M,)}, {"threshold": (M,)}
LAYOUTS = {
    "v3 standard": ({}, {"activation_fn_str": "relu", "activation_fn_kwargs": {}, "hook_point": "blocks.0.hook_z"}),
    "v3, the run's fields": ({}, {"l1_coefficient": 8e-5, "wandb_project": "x", "lp_norm": 1, "noise_scale": 0.0}),
    "v5 normalisation off": ({}, {"normalize_activations": False, "dtype": "torch.float32"}),
    "v5 topk by its function": ({}, {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
    "topk, the other spelling": ({}, {"activation_fn": "topk", "activation_fn_kwargs": {"k": K}}),
    "v5 topk": ({}, {"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
    "v6 topk": ({}, {"architecture": "topk", "k": K, "metadata": {"sae_lens_version": "6.1.0", "anything": 1}}),
    "v6 topk by decoder norm": ({}, {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}),
    "topk, input not centred": ({}, {"architecture": "topk", "k": K, "apply_b_dec_to_input": False}),
    "jumprelu": (JUMP, {"architecture": "jumprelu", "normalize_activations": "none"}),
    "jumprelu, input not centred": (JUMP, {"architecture": "jumprelu", "apply_b_dec_to_input": False}),
    "hook_z": (JUMP, {"architecture": "jumprelu", "reshape_activations": "hook_z"}),
    "gated": (GATES, {"architecture": "gated"}),
    "gated, input not centred": (GATES, {"architecture": "gated", "apply_b_dec_to_input": False}),
    "fine-tuned scales": (FACTOR, {"finetuning_scaling_factor": True}),
    "fine-tuned scales, older name": ({"scaling_factor": (M,)}, {"finetuning_scaling_factor": True}),
    "layer norm": ({}, {"normalize_activations": "layer_norm"}),
    "layer norm, jumprelu": (JUMP, {"architecture": "jumprelu", "normalize_activations": "layer_norm"}),
    "layer norm, input not centred": ({}, {"normalize_activations": "layer_norm", "apply_b_dec_to_input": False}),
    "constant norm": ({}, {"normalize_activations": "constant_norm_rescale"}),
    "constant norm, topk": ({}, {"architecture": "topk", "k": K, "normalize_activations": "constant_norm_rescale"}),
    "constant norm, gated": (GATES, {"architecture": "gated", "normalize_activations": "constant_norm_rescale"}),
    "batchtopk in training": (
        {"topk_threshold": ()},
        {"architecture": "batchtopk", "k": 2.5, "rescale_acts_by_decoder_norm": True, "topk_threshold_lr": 0.01},
    ),
    "matryoshka in training": (
        {"topk_threshold": ()},
        {"architecture": "matryoshka_batchtopk", "k": 2.0, "matryoshka_widths": [4, M]},
    ),
    "fine-tuned gated": (GATES | FACTOR, {"architecture": "gated", "finetuning_scaling_factor": True}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_layout_of_saelens_equals_float64(rng, tmp_path, layout, dtype):
    more, fields = LAYOUTS[layout]
    tensors = {name: array.astype(dtype) for name, array in arrays(rng, **more).items()}
    if "topk_threshold" in more:
        tensors["topk_threshold"] = np.array(0.75)
    x = rng.normal(size=(50, D)).astype(np.float32) * 2
    module = load_saelens(write_saelens(tmp_path / "a", tensors, fields))
    z, reconstruction = by_saelens(tensors, fields, x)
    assert 0 < (z > 0).mean() < 1
    np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)
    save_saelens(tmp_path / "b", module)
    np.testing.assert_array_equal(load_saelens(tmp_path / "b").encode(x), module.encode(x))


def test_a_scaling_factor_of_ones_is_the_one_saelens_wrote_everywhere(rng, tmp_path):
    tensors = arrays(rng) | {"scaling_factor": np.ones(M, np.float32)}
    x = rng.normal(size=(9, D)).astype(np.float32)
    for fields in ({"finetuning_scaling_factor": False}, {}, {"finetuning_scaling_factor": True}):
        module = load_saelens(write_saelens(tmp_path / "a", tensors, fields))
        np.testing.assert_allclose(module(x), by_saelens(tensors, {}, x)[1], rtol=1e-4, atol=1e-5)
    tensors["scaling_factor"][2] = 2
    with pytest.raises(InputError, match="scaling_factor is not all ones, but finetuning_scaling_factor is off"):
        load_saelens(write_saelens(tmp_path / "a", tensors, {"finetuning_scaling_factor": False}))
    with pytest.raises(InputError, match=r"tensor finetuning_scaling_factor \(10,\) is missing"):
        load_saelens(write_saelens(tmp_path / "a", arrays(rng), {"finetuning_scaling_factor": True}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation_fn": "tanh-relu"}, "activation_fn is 'tanh-relu'; allowed: 'relu', 'topk'"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn is 'tanh-relu'"),
        (
            {"activation_fn": "topk", "activation_fn_str": "relu"},
            "is 'topk', but activation_fn_str 'relu'",
        ),
        ({"architecture": "topk", "activation_fn": "relu", "k": 3}, "activation_fn is 'relu' in the architecture topk"),
        ({"architecture": "topk", "k": 3, "activation_fn_kwargs": {"k": 4}}, "k is 3, but activation_fn_kwargs has 4"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": 3, "postact_fn": "x"}}, "'postact_fn' is not known"),
        ({"activation_fn": "topk", "activation_fn_kwargs": [3]}, r"activation_fn_kwargs is \[3\], expected an object"),
        ({"activation_fn": "topk", "activation_fn_kwargs": {"k": True}}, "k is True, expected a whole number"),
        ({"k": 3}, "k is 3, but activation_fn is relu"),
        ({"normalize_activations": "expected_average_only_in"}, "expected_average_only_in.*is not in the folder"),
        ({"normalize_activations": True}, "normalize_activations is True.*is not in the folder"),
        ({"normalize_activations": "covariance_whitening"}, "'covariance_whitening'.*fold_activation_whitening"),
        ({"normalize_activations": 0}, "normalize_activations is 0; allowed"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm is True; allowed with topk alone"),
        ({"architecture": "transcoder"}, "architecture is 'transcoder'.*does not give back the tokens that it reads"),
        ({"architecture": "matching_pursuit", "max_iterations": 3}, "'matching_pursuit'.*one after the other"),
        ({"architecture": "temporal"}, "'temporal'.*depend on the tokens before"),
        ({"architecture": "abstopk", "k": 3}, "'abstopk'.*may be negative"),
        ({"architecture": "batchtopk", "k": 3}, "topk_threshold is missing, expected one number"),
        ({"architecture": ["topk"]}, r"architecture is \['topk'\]"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"reshape_activations": "other"}, "reshape_activations is 'other'"),
        ({"post_scale": 2.0}, r"the field 'post_scale' \(2.0\) is not known; it may change the activations"),
        ({"d_in": 10**12}, r"tensor W_dec has shape \(10, 6\), expected \(10, 1000000000000\)"),
        ({"d_sae": 10.0}, "d_sae is 10.0, expected a whole number"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_field(rng, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        load_saelens(write_saelens(tmp_path / "a", arrays(rng), fields))


def test_a_magnitude_next_to_nothing_is_read_and_one_that_overflows_refused(rng, tmp_path):
    tensors, x = arrays(rng, **GATES), rng.normal(size=(50, D)).astype(np.float32)
    tensors["r_mag"][0] = -40
    module = load_saelens(write_saelens(tmp_path / "a", tensors, {"architecture": "gated"}))
    np.testing.assert_allclose(module.encode(x), by_saelens(tensors, {"architecture": "gated"}, x)[0], rtol=1e-4)
    tensors["r_mag"][0] = 200
    with pytest.raises(InputError, match="overflow float32"):
        load_saelens(write_saelens(tmp_path / "a", tensors, {"architecture": "gated"}))


def by_dictionary_learning(kind, t, x):
    """Latents and reconstruction as dictionary_learning computes them, in float64."""
    t = {name: np.asarray(array, np.float64) for name, array in t.items()}
    if "W_enc" in t:
        encoder, decoder, bias = t["W_enc"], t["W_dec"], t["b_dec"]
    else:
        encoder, decoder = t["encoder.weight"].T, t["decoder.weight"].T
        bias = next(t[name] for name in ("bias", "decoder.bias", "b_dec", "decoder_bias") if name in t)
    centred = x if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else x - bias
    norms = np.linalg.norm(decoder, axis=1)
    if kind == "GatedAutoEncoder":
        pre = centred @ encoder
        z = (pre + t["gate_bias"] > 0) * relu(np.exp(t["r_mag"]) * pre + t["mag_bias"])
        return z, z @ decoder + bias
    pre = centred @ encoder + (t["b_enc"] if "b_enc" in t else t["encoder.bias"])
    if kind == "JumpReluAutoEncoder":
        z = relu(pre * (pre > t["threshold"]))
        return z, z @ decoder + bias
    if kind == "AutoEncoderTopK":
        z = top(pre)
    elif kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        z = relu(pre) * (relu(pre) > t["threshold"])
    else:
        z = relu(pre)
    return z * norms if kind == "AutoEncoder" else z, z @ decoder + bias  # its from_pretrained makes the norms 1


LINEAR = {"encoder.weight": (M, D), "decoder.weight": (D, M)}
PLAIN = {"W_enc": (D, M), "W_dec": (M, D), "b_enc": (M,), "b_dec": (D,)}
CLASSES = {
    "AutoEncoder": LINEAR | {"encoder.bias": (M,), "bias": (D,)},
    "AutoEncoderNew": LINEAR | {"encoder.bias": (M,), "decoder.bias": (D,)},
    "AutoEncoderTopK": LINEAR | {"encoder.bias": (M,), "b_dec": (D,), "threshold": ()},
    "BatchTopKSAE": LINEAR | {"encoder.bias": (M,), "b_dec": (D,), "threshold": ()},
    "GatedAutoEncoder": LINEAR | dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (M,)) | {"decoder_bias": (D,)},
    "JumpReluAutoEncoder": PLAIN | {"threshold": (M,)},
    "MatryoshkaBatchTopKSAE": PLAIN | {"threshold": ()},
}


def write_dictionary(folder, rng, kind, **trainer):
    torch = pytest.importorskip("torch")
    folder.mkdir(exist_ok=True)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in CLASSES[kind].items()}
    tensors = {name: np.abs(array) if name == "threshold" else array for name, array in tensors.items()}
    more = {"k": torch.tensor(K, dtype=torch.int)} if "TopK" in kind else {}
    if kind.startswith("Matryoshka"):
        more["group_sizes"] = torch.tensor([4, M - 4])
    torch.save({name: torch.from_numpy(np.array(a)) for name, a in tensors.items()} | more, folder / "ae.pt")
    config = {"trainer": {"dict_class": kind, "activation_dim": D, "dict_size": M, "k": K, "lr": 1e-4} | trainer}
    (folder / "config.json").write_text(json.dumps(config | {"buffer": {"d_submodule": D}}))
    return tensors


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_of_dictionary_learning_equals_float64_without_pytorch(rng, tmp_path, monkeypatch, kind):
    tensors = write_dictionary(tmp_path, rng, kind)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    module, x = load_saelens(tmp_path), rng.normal(size=(50, D)).astype(np.float32) * 2
    z, reconstruction = by_dictionary_learning(kind, tensors, x)
    assert 0 < (z > 0).mean() < 1
    np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)


def test_dictionaries_that_contradict_themselves_are_refused(rng, tmp_path):
    torch = pytest.importorskip("torch")

    for trainer, message in {
        ("dict_class", "CrossCoder"): "trainer.dict_class is 'CrossCoder'; allowed: AutoEncoder, ",
        ("dict_class", "AutoEncoder"): r"unexpected tensor b_dec \(6,\) in AutoEncoder",
        ("dict_size", M + 1): "trainer.dict_size is 11, but ae.pt has 10",
        ("k", K + 1): "trainer.k is 4, but ae.pt has 3",
    }.items():
        write_dictionary(tmp_path, rng, "BatchTopKSAE", **dict([trainer]))
        with pytest.raises(InputError, match=message):
            load_saelens(tmp_path)
    write_dictionary(tmp_path, rng, "BatchTopKSAE")
    state = torch.load(tmp_path / "ae.pt")
    torch.save({name: tensor for name, tensor in state.items() if name != "threshold"}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match="threshold is missing; without it latents depend on their batch"):
        load_saelens(tmp_path)


def test_gemma_scope_equals_float64(rng, tmp_path):
    tensors = arrays(rng, threshold=(M,))
    tensors["threshold"] = np.abs(tensors["threshold"])
    stored = {name.replace("W_", "w_"): array for name, array in tensors.items()}
    np.savez(tmp_path / "params.npz", **stored)
    module, x = load_saelens(tmp_path), rng.normal(size=(50, D)).astype(np.float32)
    fields = {"architecture": "jumprelu", "apply_b_dec_to_input": False}
    z, reconstruction = by_saelens(tensors, fields, x)
    np.testing.assert_allclose(module.encode(x), z, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(module(x), reconstruction, rtol=1e-4, atol=1e-4)
    for content, message in ((b"", "cannot be read"), (b"PK\x05\x06" + bytes(18), "there is no matrix w_enc")):
        (tmp_path / "params.npz").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_saelens(tmp_path)


def test_a_small_archive_that_would_fill_the_memory_is_refused(rng, tmp_path):
    file = tmp_path / "params.npz"
    np.savez_compressed(file, w_enc=np.zeros((2000, 2000), np.float32))
    assert file.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"w_enc.npy is packed \d+ to 1"):
        load_saelens(tmp_path)
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000), }".ljust(
        117
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w_enc.npy", header + b"\n")
    with pytest.raises(InputError, match=r"w_enc.npy is larger than what is stored of it"):
        load_saelens(tmp_path)
