"""The contract of an encoder and the table of names that `load` knows."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from covjax.errors import InputError


@runtime_checkable
class Encoder(Protocol):
    """What every encoder offers. The model and the pool have different masks.

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
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Encoded rows padded to at least `length` tokens, the mask for the model, and the mask for the pool.

        Raises InputError where a row is longer than `length`.
        """

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t _"]]:
        """Activations of the layers asked for, by the layer numbers as they were given."""


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
    rows: Sequence[Shaped[np.ndarray, "_"]], length: int, pad: int
) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """Rows filled up with `pad` to exactly `length` tokens, and the mask of the tokens that are not padding."""
    tokens = np.full((len(rows), length), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        if len(ids) > length:
            raise InputError(f"length: {length} is shorter than row {row} with {len(ids)} tokens")
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids)] = True
    return tokens, mask


def check_text(sequence: Any) -> None:
    """InputError unless it is one text: an encoder's `encode` gives token ids, and other libraries' gives vectors."""
    if not isinstance(sequence, str):
        raise InputError(
            f"sequence: one text is needed, got {type(sequence).__name__}; encode gives the token ids of one sequence, "
            "covjax.Embedder(encoder).fit_transform(sequences) a vector for each of many"
        )


def nucleotide_ids(sequence: str, numbers: Mapping[str, int]) -> Int[np.ndarray, "t"]:
    """The number of every nucleotide, lower case read as upper case.

    Raises InputError for an empty sequence, and for any other letter. The message has its position, counted from 1, and
    says what to write for U and for IUPAC's ambiguity codes.
    """
    check_text(sequence)
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


LOADERS: dict[str, Callable[[Any], Encoder]] = {}


class Requirement(NamedTuple):
    """Packages that a registered encoder needs besides covjax (import names), and the command to install them."""

    packages: tuple[str, ...]
    install: str


REQUIREMENTS: dict[str, Requirement] = {}


def register_encoder(
    name: str, loader: Callable[[Any], Encoder], packages: tuple[str, ...] = (), install: str = ""
) -> None:
    """Register an encoder under `name`: `load(name, dtype)` returns `loader(dtype)`; InputError if the name is taken.

    `covjax info` shows `packages`, which the encoder needs, and the command that installs them. To make an encoder from
    your own model, see `covjax.encoders.from_function`.
    """
    if name in LOADERS:
        raise InputError(f"encoder {name!r} is already registered")
    LOADERS[name] = loader
    REQUIREMENTS[name] = Requirement(packages, install)


def digest_weights(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
