"""The contract of an encoder and the table of names that `load` knows."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
    """Return a frozen encoder: a registered name, a folder in the Hugging Face layout, or a model id of the hub.

    A folder's `model_type` (config.json) decides the family. A hub id ("facebook/esm2_t6_8M_UR50D") is fetched by
    huggingface_hub into its cache and then read like any folder.
    Raises InputError for an unknown name, an unsupported model_type or option, and damaged or missing files.
    """
    from covjax.encoders import unirep  # noqa: F401  (registers itself)

    if name in _LOADERS:
        return _LOADERS[name]()
    folder = Path(name) if Path(name).is_dir() else _fetch(name)
    if not (folder / "config.json").is_file():
        raise InputError(f"encoder: {name}: no config.json in the folder")
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if kind != "esm":
        raise InputError(f"encoder: {name}: model_type {kind!r} is not supported; allowed: esm")
    from covjax.encoders.esm import load_esm

    return load_esm(folder, Path(name).name if Path(name).is_dir() else name)


def _fetch(name: str) -> Path:
    if name.count("/") != 1:
        raise InputError(
            f"encoder: {name!r} is not known; allowed: {', '.join(sorted(_LOADERS))}, "
            "a folder, or owner/model of the hub"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except Exception as error:  # network, authorisation, no such model: the hub raises many types
        raise InputError(f"encoder: {name!r} is no folder and cannot be fetched: {type(error).__name__}") from None


def digest_weights(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
