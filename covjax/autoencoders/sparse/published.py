"""Published sparse autoencoders: other libraries' tensor names, and folders of Gemma Scope and sparsify.

Every conversion here is an identity of real numbers: rows scaled in the encoder and back in the decoder, a bias moved.
They are computed in float64, and only where one is needed.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.autoencoders.sparse.gated import Gated
from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, Matryoshka, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.errors import InputError, shown
from covjax.modelfiles import StoredTensor, read_json, read_npz, read_safetensors

FLOATS = ("float32", "float16", "bfloat16")


@dataclasses.dataclass
class Published:
    """z = act((x − b) Wᵉ + bᵉ), x̂ = z W + b; which of the fields below are given decides act.

    `gates` (r, b_gate): Gated, bᵉ being the bias of the magnitudes. `batch_threshold` with `k`: BatchTopK, or with
    `prefixes` Matryoshka. `k` alone: TopK. `threshold`: JumpReLU. None of them: ReLU. Of a negative threshold
    ReLU∘JumpReLU leaves what threshold 0 does, which takes its place. `rescale` as in
    `covjax.autoencoders.sparse.rescaling`.
    """

    encoder: Float[np.ndarray, "features latents"]
    decoder: Float[np.ndarray, "latents features"]
    encoder_bias: Float[np.ndarray, "latents"]
    decoder_bias: Float[np.ndarray, "features"]
    threshold: Float[np.ndarray, "latents"] | None = None
    k: int | None = None
    gates: tuple[Float[np.ndarray, "latents"], Float[np.ndarray, "latents"]] | None = None
    batch_threshold: float | None = None
    prefixes: tuple[int, ...] | None = None
    rescale: str = "none"

    def move_bias(self) -> None:
        """From an encoder that reads x to one that reads x − b."""
        shift = _wide(self.decoder_bias) @ _wide(self.encoder)
        factor: Any = 1.0
        if self.gates is not None:
            factor = np.exp(_wide(self.gates[0]))
            self.gates = self.gates[0], self.gates[1] + shift
        self.encoder_bias = self.encoder_bias + factor * shift

    def scale_latents(self) -> None:
        """From latents that are used as they are to latents times the norms of their decoder's rows, which become 1.

        A row of zeros says nothing in either form; its latent becomes 0. A threshold is that of the latents used.
        """
        norms = np.linalg.norm(_wide(self.decoder), axis=1)
        self.encoder, self.encoder_bias = self.encoder * norms, self.encoder_bias * norms
        self.decoder = self.decoder / np.where(norms > 0, norms, 1)[:, None]

    def module(self, source: Path) -> SparseAutoencoder:
        """The module in float32; its decoder's rows keep their norms in further training.

        Raises InputError, naming `source`, where a conversion overflows float32 or k is out of range.
        """
        features, latents = self.encoder.shape
        if self.k is not None and not 1 <= self.k <= latents:
            raise InputError(f"{source}: k must be a whole number from 1 to {latents}, got {shown(self.k)}")
        module = self._empty(features, latents, source)
        module.encoder[...] = _single(source, self.encoder.T)
        module.decoder[...] = _single(source, self.decoder)
        module.encoder_bias[...] = _single(source, self.encoder_bias)
        module.decoder_bias[...] = _single(source, self.decoder_bias)
        module.decoder_norm[...] = jnp.linalg.norm(module.decoder[...], axis=1)
        return module

    def _empty(self, features: int, latents: int, source: Path) -> SparseAutoencoder:
        """A module of the right kind with all but the four tensors that every kind has."""
        sizes: dict[str, Any] = {"latents": latents, "rescale": self.rescale}
        if self.gates is not None:
            gated = Gated(features, **sizes)
            gated.log_magnitude[...], gated.gate_bias[...] = (_single(source, gate) for gate in self.gates)
            _single(source, np.exp(_wide(self.gates[0])))  # a magnitude that overflows is none
            return gated
        if self.batch_threshold is not None:
            sizes["k"] = self.k
            if self.prefixes is None:
                batch = BatchTopK(features, **sizes)
            else:
                batch = Matryoshka(features, prefixes=self.prefixes, **sizes)
            batch.threshold[...] = jnp.float32(max(self.batch_threshold, 0))
            return batch
        if self.k is not None:
            return TopK(features, k=self.k, **sizes)
        if self.threshold is not None:
            jump = JumpReLU(features, **sizes)
            jump.threshold[...] = _single(source, np.maximum(self.threshold, 0))
            return jump
        return ReLU(features, **sizes)


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


# What deciding fields of sparsify's cfg.json must be; the others are the training's.
SPARSIFY: dict[str, tuple[Any, ...]] = {
    "activation": ("topk",),
    "skip_connection": (False,),
    "transcode": (False,),
    "signed": (False,),  # of its first versions
}
_SPARSIFY_SIZES = ("d_in", "num_latents", "expansion_factor", "k")
_SPARSIFY_TRAINING = ("normalize_decoder", "multi_topk")


def read_sparsify(folder: Path) -> Published:
    """Read cfg.json and sae.safetensors of EleutherAI's sparsify: TopK of (x − b) Wᵉ + bᵉ.

    Raises InputError, naming the field and its value or the tensor, for a transcoder, a skip connection, another
    activation, a field that is not known, and tensors that do not fit.
    """
    file = folder / "cfg.json"
    config = read_json(file)
    for name, value in config.items():
        allowed = SPARSIFY.get(name)
        if allowed is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise InputError(f"{file}: {name} is {shown(value)}; allowed: {', '.join(map(repr, allowed))}")
        if allowed is None and name not in (*_SPARSIFY_SIZES, *_SPARSIFY_TRAINING):
            raise InputError(
                f"{file}: the field {shown(name, 60)} ({shown(value, 60)}) is not known in sparsify's layout"
            )
    sizes = {"expansion_factor": 32, "num_latents": 0} | config
    for name in _SPARSIFY_SIZES:
        if type(sizes.get(name)) is not int or sizes[name] < (name != "num_latents"):
            raise InputError(f"{file}: {name} is {shown(sizes.get(name))}, expected a whole number")
    features = sizes["d_in"]
    latents = sizes["num_latents"] or features * sizes["expansion_factor"]
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (latents, features), "encoder.bias": (latents,)}
    shapes |= {"W_dec": (latents, features), "b_dec": (features,)}
    t = take(read_safetensors(folder / "sae.safetensors"), shapes, folder, "sparsify")
    return Published(t["encoder.weight"].T, t["W_dec"], t["encoder.bias"], t["b_dec"], k=sizes["k"])
