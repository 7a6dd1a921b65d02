"""The contract of an encoder and the table of names that `load` knows."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.errors import InputError


@runtime_checkable
class Encoder(Protocol):
    """What every encoder offers. The mask the model sees and the mask the pool sees are different things."""

    name: str
    num_layers: int
    weights_digest: str

    def features(self, layer: int) -> int:
        """Width of one token at a layer, 0 … num_layers − 1."""

    def check_sequence(self, sequence: str) -> None:
        """Raise InputError naming the letter and its position where the sequence cannot be encoded."""

    def tokenize(
        self, sequences: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Tokens padded for sequences of at most `length` letters, the mask of real tokens, the mask to pool."""

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers."""


_LOADERS: dict[str, Callable[[], Encoder]] = {}


def register_encoder(name: str, loader: Callable[[], Encoder]) -> None:
    """Enter an encoder under `name` for `load`; raises InputError where the name is taken."""
    if name in _LOADERS:
        raise InputError(f"encoder {name!r} is already registered")
    _LOADERS[name] = loader


def load(name: str) -> Encoder:
    """Return the encoder registered under `name`, its weights read; raises InputError for an unknown name."""
    from covjax.encoders import unirep  # noqa: F401  (registers itself)

    if name not in _LOADERS:
        raise InputError(f"encoder: {name!r} is not known; allowed: {', '.join(sorted(_LOADERS))}")
    return _LOADERS[name]()


def digest_weights(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
