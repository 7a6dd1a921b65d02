"""Sparse autoencoders in folders of dictionary_learning, read and written.

There the class decides the function, and `dict_class` in config.json names it; other entries are the trainer's. Of its
trainers Standard and PAnneal write AutoEncoder, Gated and GatedAnneal GatedAutoEncoder, and the others their own class.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from covjax.autoencoders.sparse.gated import Gated
from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, Matryoshka, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.published import Published, take
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.modelfiles import StoredTensor, read_json, read_torch

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
    """Read ae.pt as the class that config.json names, with the threshold that BatchTopK has learned.

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
    sizes = _prefixes(tensors.pop("group_sizes", None), latents, folder)
    if kind == "AutoEncoderTopK":
        tensors.pop("threshold", None)  # another way of use, off unless asked for
        k = trainer.get("k") if k is None else k
        if type(k) is not int:
            raise InputError(f"{file}: trainer.k is {shown(k)}, expected a whole number")
    if "threshold" not in tensors and kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        raise InputError(f"{folder}/ae.pt: tensor threshold is missing; without it latents depend on their batch")
    made = _convert(kind, take(tensors, _shapes(kind, features, latents), folder / "ae.pt", kind))
    if kind == "AutoEncoderTopK":
        made.k = k
    if made.threshold is not None and made.threshold.ndim == 0:
        threshold = float(made.threshold)
        if k is None:
            made.threshold = np.full(latents, threshold)
        else:
            made.k, made.threshold, made.batch_threshold = k, None, threshold
            made.prefixes = sizes if kind == "MatryoshkaBatchTopKSAE" else None
    return made


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


def _convert(kind: str, t: dict[str, Any]) -> Published:
    if "W_enc" in t:
        made = Published(t["W_enc"], t["W_dec"], t["b_enc"], t["b_dec"])
    else:
        bias = next(t[name] for name in ("bias", "decoder.bias", "b_dec", "decoder_bias") if name in t)
        encoder_bias = t["encoder.bias" if "encoder.bias" in t else "mag_bias"]
        made = Published(t["encoder.weight"].T, t["decoder.weight"].T, encoder_bias, bias)
    made.threshold = t.get("threshold")
    if kind == "GatedAutoEncoder":
        made.gates = t["r_mag"], t["gate_bias"]
    if kind in ("AutoEncoderNew", "JumpReluAutoEncoder"):
        made.move_bias()
    norms = np.linalg.norm(np.asarray(made.decoder, np.float64), axis=1)
    if kind == "AutoEncoder" and not np.allclose(norms, 1):  # as its `from_pretrained` does
        made.scale_latents()
    return made


def _prefixes(groups: StoredTensor | None, latents: int, folder: Path) -> tuple[int, ...]:
    """How many latents the first groups have together, all of them where there are no groups."""
    if groups is None:
        return (latents,)
    whole = len(groups.shape) == 1 and groups.dtype.kind in "iu"
    sizes = [int(size) for size in groups.read()] if whole else []
    if sum(sizes) != latents or min(sizes, default=0) < 1:
        raise InputError(f"{folder}/ae.pt: group_sizes do not add up to the {latents} latents")
    return tuple(int(total) for total in np.cumsum(sizes))


def _whole_number(tensors: dict[str, StoredTensor], name: str, folder: Path) -> int | None:
    stored = tensors.pop(name, None)
    if stored is None:
        return None
    if stored.shape != () or stored.dtype.kind not in "iu":
        raise InputError(f"{folder}/ae.pt: {name} is {stored.dtype}{list(stored.shape)}, expected one whole number")
    return int(stored.read())


def save_dictionary_learning(folder: str | Path, module: SparseAutoencoder) -> None:
    """Write ae.pt and config.json; needs PyTorch.

    ReLU becomes AutoEncoder, TopK AutoEncoderTopK, BatchTopK BatchTopKSAE, Matryoshka MatryoshkaBatchTopKSAE, Gated
    GatedAutoEncoder and JumpReLU JumpReluAutoEncoder. The input scale is folded into the tensors. JumpReluAutoEncoder
    reads x without its bias, so b is taken out of bᵉ, in float64; the other classes hold the module's numbers. Of an
    AutoEncoder whose rows are not of norm 1 that library gives the latents times the norms, and so does `load`.

    Raises InputError where the folder cannot be written, and for a module that has no class there: one that rescales
    its tokens, or of another kind.
    """
    torch = need("torch", "parity", "writing a folder of dictionary_learning")
    if module.rescale != "none":
        raise InputError(f"module: rescale is {module.rescale}: dictionary_learning has no tokens that are rescaled")
    if np.ndim(module.scale[...]):
        raise InputError(f"module: {type(module).__name__}, of several layers, has no class that is written here")
    t = {
        name: np.asarray(getattr(module, name)[...]) for name in ("encoder", "decoder", "encoder_bias", "decoder_bias")
    }
    scale = np.asarray(module.scale[...])
    encoder, decoder, bias = t["encoder"] * scale, t["decoder"] / scale, t["decoder_bias"] / scale
    linear = {"encoder.weight": encoder, "decoder.weight": decoder.T}
    plain = {"W_enc": encoder.T, "W_dec": decoder, "b_enc": t["encoder_bias"], "b_dec": bias}
    more: dict[str, Any] = {}
    if isinstance(module, Matryoshka):
        kind, more = "MatryoshkaBatchTopKSAE", plain | {"threshold": np.asarray(module.threshold[...])}
        more["group_sizes"] = np.diff(module.prefixes, prepend=0)
    elif isinstance(module, BatchTopK):
        kind, more = "BatchTopKSAE", linear | {"encoder.bias": t["encoder_bias"], "b_dec": bias}
        more["threshold"] = np.asarray(module.threshold[...])
    elif isinstance(module, TopK):
        kind, more = "AutoEncoderTopK", linear | {"encoder.bias": t["encoder_bias"], "b_dec": bias}
        more["threshold"] = np.float32(-1)  # another way of use, which is off below 0
    elif isinstance(module, ReLU):
        kind, more = "AutoEncoder", linear | {"encoder.bias": t["encoder_bias"], "bias": bias}
    elif isinstance(module, Gated):
        gates = {"r_mag": module.log_magnitude, "gate_bias": module.gate_bias, "mag_bias": module.encoder_bias}
        kind, more = "GatedAutoEncoder", linear | {"decoder_bias": bias}
        more |= {name: np.asarray(gate[...]) for name, gate in gates.items()}
    elif isinstance(module, JumpReLU):
        shift = bias.astype(np.float64) @ encoder.T.astype(np.float64)
        kind, more = "JumpReluAutoEncoder", plain | {"threshold": np.asarray(module.threshold[...])}
        more["b_enc"] = (t["encoder_bias"] - shift).astype(np.float32)
    else:
        raise InputError(f"module: {type(module).__name__} has no counterpart in dictionary_learning")
    trainer: dict[str, Any] = {"dict_class": kind, "activation_dim": module.features, "dict_size": module.latents}
    state = {name: torch.from_numpy(np.array(array)) for name, array in more.items()}
    if isinstance(module, TopK | BatchTopK):
        trainer["k"], state["k"] = module.k, torch.tensor(module.k, dtype=torch.int)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}, indent=1) + "\n")
    except (OSError, RuntimeError) as error:  # PyTorch raises the latter for a file that it cannot open
        raise InputError(f"{folder}: cannot be written: {error}") from None
