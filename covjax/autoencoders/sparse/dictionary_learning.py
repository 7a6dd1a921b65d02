"""Folders of the library dictionary_learning, ae.pt and config.json, and of Gemma Scope, params.npz.

There the class decides the function, and `dict_class` names it; other entries of config.json are the trainer's.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from covjax.autoencoders.sparse.published import Published, take
from covjax.errors import InputError, shown
from covjax.jsonfile import read_json
from covjax.tensorfile import StoredTensor, read_npz, read_torch

CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)


def read_dictionary(folder: Path) -> Published:
    """Read ae.pt as the class that config.json names; in use, with the threshold that BatchTopK has learned.

    Raises InputError for another class, for tensors that are not the class's, and where config.json contradicts them.
    """
    file = folder / "config.json"
    trainer = read_json(file).get("trainer")
    kind = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or kind not in CLASSES:
        raise InputError(f"{file}: trainer.dict_class is {shown(kind)}; allowed: {', '.join(CLASSES)}")
    tensors = read_torch(folder / "ae.pt")
    matrix = "W_enc" if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE") else "encoder.weight"
    if matrix not in tensors or len(tensors[matrix].shape) != 2:
        raise InputError(f"{folder}/ae.pt: there is no matrix {matrix} of {kind}")
    latents, features = tensors[matrix].shape[:: -1 if matrix == "W_enc" else 1]
    for name, size in {"activation_dim": features, "dict_size": latents}.items():
        if trainer.get(name, size) != size:
            raise InputError(f"{file}: trainer.{name} is {shown(trainer[name])}, but ae.pt has {size}")
    k = _whole_number(tensors, "k", folder)
    if k is not None and trainer.get("k", k) != k:
        raise InputError(f"{file}: trainer.k is {shown(trainer['k'])}, but ae.pt has {k}")
    groups = tensors.pop("group_sizes", None)
    if groups is not None and (len(groups.shape) != 1 or int(groups.read().sum()) != latents):
        raise InputError(f"{folder}/ae.pt: group_sizes do not add up to the {latents} latents")
    if kind == "AutoEncoderTopK":
        tensors.pop("threshold", None)  # another way of use, off unless asked for
        k = trainer.get("k") if k is None else k
        if type(k) is not int:
            raise InputError(f"{file}: trainer.k is {shown(k)}, expected a whole number")
    if "threshold" not in tensors and kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        raise InputError(f"{folder}/ae.pt: tensor threshold is missing; without it latents depend on their batch")
    shapes = _shapes(kind, features, latents)
    return _convert(kind, take(tensors, shapes, folder / "ae.pt", kind), k)


def _shapes(kind: str, features: int, latents: int) -> dict[str, tuple[int, ...]]:
    linear = {"encoder.weight": (latents, features), "decoder.weight": (features, latents)}
    plain = {"W_enc": (features, latents), "W_dec": (latents, features), "b_enc": (latents,), "b_dec": (features,)}
    gates = dict.fromkeys(("r_mag", "gate_bias", "mag_bias"), (latents,))
    more: dict[str, dict[str, tuple[int, ...]]] = {
        "AutoEncoder": {**linear, "encoder.bias": (latents,), "bias": (features,)},
        "AutoEncoderNew": {**linear, "encoder.bias": (latents,), "decoder.bias": (features,)},
        "AutoEncoderTopK": {**linear, "encoder.bias": (latents,), "b_dec": (features,)},
        "BatchTopKSAE": {**linear, "encoder.bias": (latents,), "b_dec": (features,), "threshold": ()},
        "GatedAutoEncoder": {**linear, **gates, "decoder_bias": (features,)},
        "JumpReluAutoEncoder": {**plain, "threshold": (latents,)},
        "MatryoshkaBatchTopKSAE": {**plain, "threshold": ()},
    }
    return more[kind]


def _convert(kind: str, t: dict[str, Any], k: int | None) -> Published:
    if "W_enc" in t:
        made = Published(t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"])
    else:
        bias = next(t[name] for name in ("bias", "decoder.bias", "b_dec", "decoder_bias") if name in t)
        encoder_bias = t["encoder.bias" if "encoder.bias" in t else "mag_bias"]
        made = Published(t["encoder.weight"].T, t["decoder.weight"].T, encoder_bias, bias)
    if "threshold" in t:
        made.threshold = np.broadcast_to(t["threshold"], made.encoder_bias.shape)
    if kind == "AutoEncoderTopK":
        made.k = k
    if kind == "GatedAutoEncoder":
        made.gate(t["r_mag"], t["gate_bias"], t["mag_bias"])
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        made.move_bias()
    if kind in ("GatedAutoEncoder", "JumpReluAutoEncoder"):
        made.scale_latents()
    return made


def _whole_number(tensors: dict[str, StoredTensor], name: str, folder: Path) -> int | None:
    stored = tensors.pop(name, None)
    if stored is None:
        return None
    if stored.shape != () or stored.dtype.kind not in "iu":
        raise InputError(f"{folder}/ae.pt: {name} is {stored.dtype}{list(stored.shape)}, expected one whole number")
    return int(stored.read())


def read_gemma_scope(folder: Path) -> Published:
    """Read params.npz: JumpReLU over x W_enc + b_enc, the input not centred.

    Raises InputError for a damaged file, one with other arrays, and one whose arrays are larger than what it stores.
    """
    file, tensors = folder / "params.npz", {}
    for name, array in read_npz(file).items():
        today = {"w_enc": "W_enc", "w_dec": "W_dec"}.get(name, name)
        tensors[today] = StoredTensor(array.shape, array.dtype, functools.partial(np.asarray, array))
    matrix = tensors.get("W_enc")
    if matrix is None or len(matrix.shape) != 2:
        raise InputError(f"{file}: there is no matrix w_enc")
    features, latents = matrix.shape
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (features, latents), "W_dec": (latents, features)}
    shapes |= {"b_enc": (latents,), "b_dec": (features,), "threshold": (latents,)}
    t = take(tensors, shapes, file, "Gemma Scope")
    made = Published(t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"], threshold=t["threshold"])
    made.move_bias()
    return made
