"""Sparse autoencoders in SAELens' layout: a folder with sae_weights.safetensors and cfg.json.

W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc (d_sae,), b_dec (d_in,), and `threshold` (d_sae,) for jumprelu, in
z = act((x − b_dec) W_enc + b_enc), x̂ = z W_dec + b_dec. The input scale is folded into the tensors: nothing is left to
apply to the activations. What is read is written again bit by bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from covjax.autoencoders.sparse.dense import BatchTopK, JumpReLU, ReLU
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.topk import TopK
from covjax.errors import InputError

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"


def save_saelens(folder: str | Path, module: SparseAutoencoder, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a folder. TopK becomes "topk", ReLU "standard"; JumpReLU, BatchTopK and Matryoshka become "jumprelu".

    `metadata` (model_name, hook_name, …) goes into cfg.json under that name.
    Raises InputError where the folder cannot be written or there is no such architecture in that layout.
    """
    scale = np.asarray(module.scale[...])
    tensors = {
        "W_enc": np.asarray(module.encoder[...]).T * scale,
        "W_dec": np.asarray(module.decoder[...]) / scale,
        "b_enc": np.asarray(module.encoder_bias[...]),
        "b_dec": np.asarray(module.decoder_bias[...]) / scale,
    }
    config: dict[str, Any] = {"d_in": module.features, "d_sae": module.latents, "dtype": "float32", "device": "cpu"}
    config |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    if isinstance(module, TopK):
        config |= {"architecture": "topk", "k": module.k, "rescale_acts_by_decoder_norm": False}
    elif isinstance(module, ReLU):
        config["architecture"] = "standard"
    elif isinstance(module, (JumpReLU, BatchTopK)):
        config["architecture"] = "jumprelu"
        tensors["threshold"] = np.broadcast_to(np.asarray(module.threshold[...]), (module.latents,))
    else:
        raise InputError(f"module: {type(module).__name__} has no counterpart in SAELens")
    config["metadata"] = dict(metadata or {})
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None


def load_saelens(folder: str | Path) -> TopK | ReLU | JumpReLU:
    """Read a folder of architecture standard, topk or jumprelu (also SAELens 5: `activation_fn_str` "topk").

    The decoder's rows keep their norms in further training. Raises InputError, naming the tensor and its shape or the
    field and its value, for a missing, extra, misshapen or non-finite tensor and for settings that do something else.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS}: cannot be read: {error}") from None
    features, latents, architecture = config["d_in"], config["d_sae"], config["architecture"]
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (features, latents), "W_dec": (latents, features)}
    shapes |= {"b_enc": (latents,), "b_dec": (features,)}
    if architecture == "jumprelu":
        shapes["threshold"] = (latents,)
    for name in sorted(shapes.keys() | tensors.keys()):
        if name not in tensors:
            raise InputError(f"{folder}: tensor {name} {shapes[name]} is missing")
        if name not in shapes:
            raise InputError(f"{folder}: unexpected tensor {name} {tensors[name].shape} in architecture {architecture}")
        if tensors[name].shape != shapes[name]:
            raise InputError(f"{folder}: tensor {name} has shape {tensors[name].shape}, expected {shapes[name]}")
        if tensors[name].dtype != np.float32:
            raise InputError(f"{folder}: tensor {name} is {tensors[name].dtype}, expected float32")
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{folder}: tensor {name} holds NaN or inf")
    module: TopK | ReLU | JumpReLU
    if architecture == "topk":
        module = TopK(features, latents=latents, k=config["k"])
    elif architecture == "jumprelu":
        if tensors["threshold"].min() < 0:
            raise InputError(f"{folder}: tensor threshold holds {tensors['threshold'].min()}, expected >= 0")
        module = JumpReLU(features, latents=latents)
        module.threshold[...] = jnp.asarray(tensors["threshold"])
    else:
        module = ReLU(features, latents=latents)
    module.encoder[...] = jnp.asarray(tensors["W_enc"].T)
    module.decoder[...] = jnp.asarray(tensors["W_dec"])
    module.encoder_bias[...] = jnp.asarray(tensors["b_enc"])
    module.decoder_bias[...] = jnp.asarray(tensors["b_dec"])
    module.decoder_norm[...] = jnp.linalg.norm(module.decoder[...], axis=1)
    return module


def _config(path: Path) -> dict[str, Any]:
    """cfg.json with the fields that decide the function checked."""
    try:
        config = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if config.get("architecture", "standard") == "standard" and config.get("activation_fn_str") == "topk":
        arguments = config.get("activation_fn_kwargs") or {}
        config |= {"architecture": "topk", "k": arguments.get("k"), "activation_fn_str": "relu"}
    config.setdefault("architecture", "standard")
    allowed: dict[str, tuple] = {
        "architecture": ("standard", "topk", "jumprelu"),
        "apply_b_dec_to_input": (True,),
        "normalize_activations": ("none", None),
        "reshape_activations": ("none", None),
        "rescale_acts_by_decoder_norm": (False,),
        "activation_fn_str": ("relu", "topk"),
        "finetuning_scaling_factor": (False, None),
    }
    for name, values in allowed.items():
        if name in config and config[name] not in values:
            raise InputError(f"{path}: {name} is {config[name]!r}; allowed: {', '.join(map(repr, values))}")
    for name in ("d_in", "d_sae") + (("k",) if config["architecture"] == "topk" else ()):
        if not isinstance(config.get(name), int):
            raise InputError(f"{path}: {name} is {config.get(name)!r}, expected a whole number")
    return config
