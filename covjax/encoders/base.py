"""The contract of an encoder and the table of names that `load` knows."""

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.errors import InputError, shown
from covjax.modelfiles import read_json


@runtime_checkable
class Encoder(Protocol):
    """What every encoder offers. The mask the model sees and the mask the pool sees are different things.

    An encoder may also say what it reads, `letters: str`: "protein", "dna" or "text" (`covjax.data.letters`).
    """

    name: str
    num_layers: int
    weights_digest: str

    def features(self, layer: int) -> int:
        """Width of one token at a layer, 0 … num_layers − 1, or counted from the last one, −1 … −num_layers."""

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """Token ids of a sequence, special tokens included; raises InputError naming what cannot be encoded."""

    def pad(
        self, rows: Sequence[Int[np.ndarray, "t"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Encoded rows padded to `length` tokens or just over, the mask the model sees, the mask to pool.

        Raises InputError where a row is longer than `length`.
        """

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers, under the numbers that were asked."""


def tokenize(
    encoder: Encoder, sequences: Sequence[str], length: int | None = None
) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """Encode and pad to `length` tokens, by default to the longest sequence; see `Encoder.encode` and `Encoder.pad`."""
    rows = [encoder.encode(sequence) for sequence in sequences]
    return encoder.pad(rows, max(map(len, rows), default=0) if length is None else length)


def layer_index(layer: int, num_layers: int) -> int:
    """The layer counted from 0; raises InputError where the model does not have it."""
    if not -num_layers <= layer < num_layers:
        raise InputError(f"layer: {layer} is not one of {-num_layers} … {num_layers - 1}")
    return layer % num_layers


def pad_rows(
    rows: Sequence[Int[np.ndarray, "t"]], length: int, pad: int
) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """Rows filled up with `pad` to exactly `length` tokens, and the mask of what is not filling."""
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        if len(ids) > length:
            raise InputError(f"length: {length} is shorter than row {row} with {len(ids)} tokens")
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask


def nucleotide_ids(sequence: str, numbers: Mapping[str, int]) -> Int[np.ndarray, "t"]:
    """The number of every nucleotide, lower case read as upper case.

    Raises InputError for an empty sequence, and for another letter: named with its position, counted from 1, and with
    what to write for U and for IUPAC's ambiguity codes.
    """
    if not sequence:
        raise InputError("the sequence is empty")
    upper = sequence.upper()
    for position, letter in enumerate(upper, start=1):
        if letter not in numbers:
            instead = "T" if letter == "U" else "N" if letter in "RYSWKMBDHV" else ""
            remedy = f"; write {instead} for it" if instead else ""
            letters = "".join(numbers)
            raise InputError(f"unknown nucleotide {letter!r} at position {position}; allowed: {letters}{remedy}")
    return np.array([numbers[letter] for letter in upper], np.int32)


_LOADERS: dict[str, Callable[[Any], Encoder]] = {}
# model_type of config.json: the module and the class, called with (name, folder, dtype).
FAMILIES = {
    "bert": ("covjax.encoders.bert", "Bert"),
    "esm": ("covjax.encoders.esm", "Esm"),
    "ntv3": ("covjax.encoders.ntv3", "NTv3"),
}
FILES = {suffix: ("covjax.encoders.spliceai", "SpliceAI") for suffix in (".pt", ".h5")}  # models of one file
DTYPES = ("float32", "bfloat16")


class Requirement(NamedTuple):
    """Packages that a registered encoder needs beside covjax, as Python imports them, and the line that installs."""

    packages: tuple[str, ...]
    install: str


_REQUIREMENTS: dict[str, Requirement] = {}


def register_encoder(
    name: str, loader: Callable[[Any], Encoder], packages: tuple[str, ...] = (), install: str = ""
) -> None:
    """Enter an encoder under `name`: `load(name, dtype)` returns `loader(dtype)`; InputError where the name is taken.

    `packages` with the line that installs them are what `covjax info` says that it needs.
    A model of one's own: see `covjax.encoders.from_function`.
    """
    if name in _LOADERS:
        raise InputError(f"encoder {name!r} is already registered")
    _LOADERS[name] = loader
    _REQUIREMENTS[name] = Requirement(packages, install)


def requirements() -> dict[str, Requirement]:
    """What every registered encoder needs, by its name, in alphabetical order."""
    from covjax.encoders import bert, unirep  # noqa: F401  (they register the models that packages bring)

    return dict(sorted(_REQUIREMENTS.items()))


def load(name: str, dtype: Any = jnp.float32) -> Encoder:
    """Return a frozen encoder: a registered name, a file, a folder in the Hugging Face layout or a model id of the hub.

    A file is a model of SpliceAI or OpenSpliceAI (.h5, .pt). A folder's `model_type` (config.json) decides the family.
    A hub id ("facebook/esm2_t6_8M_UR50D") is fetched by huggingface_hub into its cache and then read like any folder.
    `dtype`, float32 or bfloat16, is the type of the parameters, of the computation and of the activations; layer norm
    and softmax are computed in float32, and matrix products add up in it.
    Raises InputError for an unknown name, an unsupported model_type, option or dtype, and damaged or missing files.
    """
    from covjax.encoders import bert, unirep  # noqa: F401  (they register the models that packages bring)

    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise InputError(f"dtype: {dtype!r} is no type; allowed: {' and '.join(DTYPES)}") from None
    if dtype.name not in DTYPES:
        raise InputError(f"dtype: {dtype.name} is not supported; allowed: {' and '.join(DTYPES)}")
    if isinstance(name, str) and name in _LOADERS:
        return _LOADERS[name](dtype)
    if not isinstance(name, str | os.PathLike):
        raise InputError(f"encoder: {shown(name)} is no name and no path")
    name = os.fspath(name)
    is_folder = os.path.isdir(name)  # not Path's own test, which raises for a name that is too long
    if Path(name).suffix in FILES and not is_folder:
        if not os.path.isfile(name):
            raise InputError(f"encoder: there is no file {shown(name, 300)[1:-1]}")
        module, family = FILES[Path(name).suffix]
        return getattr(importlib.import_module(module), family)(Path(name).stem, Path(name), dtype)
    folder = Path(name) if is_folder else _fetch(name)
    if not (folder / "config.json").is_file():
        raise InputError(f"encoder: {name}: no config.json in the folder")
    kind = read_json(folder / "config.json").get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        allowed = ", ".join(sorted(FAMILIES))
        raise InputError(f"encoder: {name}: model_type {shown(kind)} is not supported; allowed: {allowed}")
    module, family = FAMILIES[kind]
    return getattr(importlib.import_module(module), family)(folder.name if is_folder else name, folder, dtype)


def _fetch(name: str) -> Path:
    if name.count("/") != 1:
        raise InputError(
            f"encoder: {shown(name)} is not known; allowed: {', '.join(sorted(_LOADERS))}, "
            "a folder, or owner/model of the hub"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
        if not any((folder / file).is_file() for file in ("model.safetensors", "model.safetensors.index.json")):
            # Older models (DNABERT, ESM-2 15B) have PyTorch's format alone, the largest in parts.
            snapshot_download(name, allow_patterns=["pytorch_model.bin", "pytorch_model-*.bin"])
        return folder
    except Exception as error:  # network, authorisation, no such model: the hub raises many types
        raise InputError(f"encoder: {shown(name)} is no folder and cannot be fetched: {type(error).__name__}") from None


def digest_weights(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
