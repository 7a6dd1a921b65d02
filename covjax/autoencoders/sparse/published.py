"""Published sparse autoencoders under one form, whatever their files call things: exact conversions, and the module.

Every conversion here is an identity of real numbers: rows scaled in the encoder and back in the decoder, a bias moved,
a gate with tied weights written as the threshold it is. They are computed in float64, and only where one is needed.
"""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.autoencoders.sparse.dense import JumpReLU, ReLU
from covjax.autoencoders.sparse.topk import TopK
from covjax.errors import InputError, shown
from covjax.tensorfile import StoredTensor

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
) -> dict[str, Float[np.ndarray, "*n"]]:
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
