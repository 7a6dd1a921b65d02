"""Sparse autoencoders in SAELens' layout: a folder with sae_weights.safetensors and cfg.json.

W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc (d_sae,), b_dec (d_in,), and `threshold` (d_sae,) for jumprelu, in
z = act((x − b_dec) W_enc + b_enc), x̂ = z W_dec + b_dec. The input scale is folded into the tensors: nothing is left to
apply to the activations. What is read is written again bit by bit.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from covjax.autoencoders.sparse.dense import BatchTopK, JumpReLU, ReLU
from covjax.autoencoders.sparse.dictionary_learning import read_dictionary, read_gemma_scope
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.published import Published, take
from covjax.autoencoders.sparse.saelens_config import read_fields
from covjax.autoencoders.sparse.topk import TopK
from covjax.errors import InputError
from covjax.tensorfile import read_safetensors

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
    from safetensors import SafetensorError  # not where autoencoders alone are wanted
    from safetensors.numpy import save_file

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None


def load_saelens(folder: str | Path) -> TopK | ReLU | JumpReLU:
    """Read a published sparse autoencoder: a folder of SAELens 3 to 6, of dictionary_learning or of Gemma Scope.

    SAELens (cfg.json, sae_weights.safetensors): the architectures standard, topk, jumprelu and gated, in float32,
    float16 or bfloat16. dictionary_learning (ae.pt, config.json): all classes but crosscoders. Gemma Scope:
    params.npz. Scales, decoder norms, a gate and the bias of an input that is not centred are folded into the tensors,
    in float64: the latents are those of the library that wrote the folder, up to rounding. The decoder's rows keep
    their norms in further training.

    Raises InputError, naming the tensor and its shape or the field and its value, for a missing, extra, misshapen or
    non-finite tensor, for settings that do something else, and for a field that is not known.
    """
    folder = Path(folder)
    readers = {CONFIG: _read_saelens, "ae.pt": read_dictionary, "params.npz": read_gemma_scope}
    for name, read in readers.items():
        if (folder / name).is_file():
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused at the end
                return read(folder).module(folder)
    raise InputError(f"{folder / CONFIG}: cannot be read: no such file, nor ae.pt or params.npz")


def _read_saelens(folder: Path) -> Published:
    fields = read_fields(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS)
    features, latents, architecture = fields["d_in"], fields["d_sae"], fields["architecture"]
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (features, latents), "W_dec": (latents, features)}
    shapes |= {"b_dec": (features,)}
    if architecture == "gated":
        shapes |= dict.fromkeys(("b_gate", "b_mag", "r_mag"), (latents,))
    else:
        shapes["b_enc"] = (latents,)
    if architecture == "jumprelu":
        shapes["threshold"] = (latents,)
    # Written for a time with every autoencoder, as ones; in use where the field says so.
    factor = next((name for name in ("scaling_factor", "finetuning_scaling_factor") if name in tensors), None)
    if factor or fields["finetuning_scaling_factor"]:
        shapes[factor or "finetuning_scaling_factor"] = (latents,)
    t = take(tensors, shapes, folder, f"architecture {architecture}")
    made = Published(t["W_enc"], t["W_dec"], t["b_mag" if architecture == "gated" else "b_enc"], t["b_dec"])
    made.threshold, made.k = t.get("threshold"), fields["k"] if fields["activation_fn"] == "topk" else None
    if architecture == "gated":
        made.gate(t["r_mag"], t["b_gate"], t["b_mag"])
    if not fields["apply_b_dec_to_input"]:
        made.move_bias()
    if fields["rescale_acts_by_decoder_norm"]:
        made.scale_latents()
    if factor and (t[factor] != 1).any():
        if not fields["finetuning_scaling_factor"]:
            raise InputError(f"{folder}: tensor {factor} is not all ones, but finetuning_scaling_factor is off")
        made.decoder = np.asarray(made.decoder, np.float64) * t[factor][:, None]
    return made
