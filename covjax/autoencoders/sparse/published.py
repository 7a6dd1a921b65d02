"""Published sparse autoencoders: tensors under the names of others, and folders of dictionary_learning.

Every conversion here is an identity of real numbers: rows scaled in the encoder and back in the decoder, a bias moved,
a gate with tied weights written as the threshold it is. They are computed in float64, and only where one is needed.

There the class decides the function, and `dict_class` names it; other entries of config.json are the trainer's.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.autoencoders.sparse.kinds import JumpReLU, ReLU, TopK
from covjax.errors import InputError, shown
from covjax.modelfiles import StoredTensor, read_json, read_npz, read_torch

FLOATS = ("float32", "float16", "bfloat16")


@dataclasses.dataclass
class Published:
    """z = act((x − b) Wᵉ + bᵉ), x̂ = z W + b: act is TopK with `k`, JumpReLU with `threshold`, or else ReLU.

    Of a negative threshold ReLU∘JumpReLU leaves what threshold 0 does, which takes its place.
    """

    encoder: Float[np.ndarray, "features latents"]
    decoder: Float[np.ndarray, "latents features"]
    encoder_bias: Float[np.ndarray, "latents"]
    decoder_bias: Float[np.ndarray, "features"]
    threshold: Float[np.ndarray, "latents"] | None = None
    k: int | None = None

    def move_bias(self) -> None:
        """From an encoder that reads x to one that reads x − b."""
        self.encoder_bias = self.encoder_bias + _wide(self.decoder_bias) @ _wide(self.encoder)

    def scale_latents(self) -> None:
        """From latents that are used as they are to latents times the norms of their decoder's rows, which become 1.

        A row of zeros says nothing in either form; its latent becomes 0.
        """
        norms = np.linalg.norm(_wide(self.decoder), axis=1)
        self.encoder, self.encoder_bias = self.encoder * norms, self.encoder_bias * norms
        self.decoder = self.decoder / np.where(norms > 0, norms, 1)[:, None]
        self.threshold = None if self.threshold is None else self.threshold * norms

    def gate(
        self,
        magnitude: Float[np.ndarray, "latents"],
        gate_bias: Float[np.ndarray, "latents"],
        magnitude_bias: Float[np.ndarray, "latents"],
    ) -> None:
        """From x Wᵉ to the gated latents H(x Wᵉ + b_gate) relu(eʳ ∘ x Wᵉ + b_mag) (Rajamanoharan et al. 2024, Gated).

        The gate is open where the magnitude is over b_mag − eʳ b_gate: a JumpReLU. Raises InputError where eʳ is so
        small beside b_mag that float32 could not tell the two sides of that threshold apart.
        """
        scale = np.exp(_wide(magnitude))
        if (np.abs(magnitude_bias) > 1e4 * scale).any():
            raise InputError("r_mag: a magnitude is too small beside its bias to be written as a threshold in float32")
        self.encoder = _wide(self.encoder) * scale
        self.encoder_bias = magnitude_bias
        self.threshold = _wide(magnitude_bias) - scale * gate_bias

    def module(self, source: Path) -> TopK | ReLU | JumpReLU:
        """The module in float32; its decoder's rows keep their norms in further training.

        Raises InputError, naming `source`, where a conversion overflows float32 or k is out of range.
        """
        features, latents = self.encoder.shape
        module: TopK | ReLU | JumpReLU
        if self.k is not None:
            if not 1 <= self.k <= latents:
                raise InputError(f"{source}: k must be a whole number from 1 to {latents}, got {shown(self.k)}")
            module = TopK(features, latents=latents, k=self.k)
        elif self.threshold is not None:
            module = JumpReLU(features, latents=latents)
            module.threshold[...] = _single(source, np.maximum(self.threshold, 0))
        else:
            module = ReLU(features, latents=latents)
        module.encoder[...] = _single(source, self.encoder.T)
        module.decoder[...] = _single(source, self.decoder)
        module.encoder_bias[...] = _single(source, self.encoder_bias)
        module.decoder_bias[...] = _single(source, self.decoder_bias)
        module.decoder_norm[...] = jnp.linalg.norm(module.decoder[...], axis=1)
        return module


def _wide(array: np.ndarray) -> Float[np.ndarray, "*n"]:
    return np.asarray(array, np.float64)


def _single(source: Path, array: np.ndarray) -> Float[Array, "*n"]:
    with np.errstate(over="ignore"):
        single = np.asarray(array, np.float32)
    if not np.isfinite(single).all():
        raise InputError(f"{source}: its numbers overflow float32 where scales and biases are folded in")
    return jnp.asarray(single)


def take(
    tensors: dict[str, StoredTensor], shapes: dict[str, tuple[int, ...]], source: Path, what: str
) -> dict[str, Float[np.ndarray, "..."]]:
    """Read exactly the tensors that `shapes` names, in float32.

    Raises InputError, naming the tensor and its shape, for a missing, extra, misshapen or non-finite one, and for
    another type than float32, float16 and bfloat16, whose values float32 holds unchanged.
    """
    for name in sorted(shapes.keys() | tensors.keys()):
        label = shown(name)[1:-1]
        if name not in tensors:
            raise InputError(f"{source}: tensor {label} {shapes[name]} is missing")
        stored = tensors[name]
        if name not in shapes:
            raise InputError(f"{source}: unexpected tensor {label} {stored.shape} in {what}")
        if stored.shape != shapes[name]:
            raise InputError(f"{source}: tensor {label} has shape {stored.shape}, expected {shapes[name]}")
        if stored.dtype.name not in FLOATS:
            raise InputError(f"{source}: tensor {label} is {stored.dtype}, expected {', '.join(FLOATS)}")
    arrays = {name: tensors[name].read().astype(np.float32) for name in shapes}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{source}: tensor {name} holds NaN or inf")
    return arrays


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
