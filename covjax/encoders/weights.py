"""Configs and weights of published encoders, every tensor read once.

A family declares what its implementation reads to compute hidden states. Every other key (training, generation, heads,
bookkeeping) is ignored, whatever its name, because nothing computes with it. A model of the same `model_type` with
code of its own is told apart by its tensors, all of which must be taken with the shapes expected, and by the keys that
published ones are known by, which the family declares too.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covjax.errors import InputError, shown
from covjax.modelfiles import StoredTensor, memory, read_index, read_json, read_safetensors, read_torch

__all__ = ["SIZES", "check_options", "read_config", "read_json", "read_options"]

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def read_config(folder: Path, defaults: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Read the options that decide, over the family's defaults, by the names of BERT and of most families.

    `allowed` names the values of every option that changes the computation. Raises InputError for another value and for
    a size, an epsilon or a token number that is missing or impossible.
    """
    sizes = [*SIZES, "max_position_embeddings"] + ["type_vocab_size"] * ("type_vocab_size" in defaults)
    config = read_options(folder, defaults, allowed, sizes, "layer_norm_eps")
    check_multiple(folder, config, "hidden_size", "num_attention_heads")
    pad = config.get("pad_token_id")
    if not is_token(pad, config["vocab_size"]):
        raise InputError(
            f"{folder}/config.json: pad_token_id is {shown(pad)}, expected a number from 0 to vocab_size − 1"
        )
    return config


def read_options(
    folder: Path,
    defaults: Mapping[str, Any],
    allowed: Mapping[str, tuple[Any, ...]],
    sizes: Sequence[str],
    eps: str | None,
) -> dict[str, Any]:
    """config.json over the family's defaults, by the family's own names of its options, its sizes and its epsilon.

    Raises InputError as `check_options`.
    """
    file = folder / "config.json"
    config = {**defaults, **read_json(file)}
    check_options(file, config, allowed, sizes, eps)
    return config


def is_token(number: Any, vocabulary: int) -> bool:
    """Whether a value is the number of a token."""
    return type(number) is int and 0 <= number < vocabulary


def check_multiple(folder: Path, config: Mapping[str, Any], size: str, heads: str) -> None:
    """Raise InputError where a size is no multiple of another."""
    if config[size] % config[heads]:
        of = f"{config[heads]} heads" if heads == "num_attention_heads" else f"{heads} {config[heads]}"
        raise InputError(f"{folder}/config.json: {size} {config[size]} is not a multiple of {of}")


def check_options(
    file: Path,
    config: Mapping[str, Any],
    allowed: Mapping[str, tuple[Any, ...]],
    sizes: Sequence[str],
    eps: str | None = "layer_norm_eps",
) -> None:
    """Raise InputError for an option outside `allowed`, a size that is no positive integer, an impossible epsilon."""
    for option, values in allowed.items():
        if option in config and config[option] not in values:
            raise InputError(f"{file}: {option} {shown(config[option])} is not supported; allowed: {values}")
    for size in sizes:
        if type(config.get(size)) is not int or config[size] < 1:
            raise InputError(f"{file}: {size} is {shown(config.get(size))}, expected a positive integer")
    value = None if eps is None else config.get(eps)
    if eps and (not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1):
        raise InputError(f"{file}: {eps} is {shown(value)}, expected a number between 0 and 1")


# In the order in which transformers looks for them.
LAYOUTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Tensors:
    """The weights of an encoder in a folder: safetensors or PyTorch's format, in one file or sharded with an index.

    The encoder's own tensors are those whose names begin with one of `parts`, behind `base` and a dot in a checkpoint
    that holds it under a head. Every one of them is to be taken; what stands outside (heads, poolers, buffers of a
    head) decides no activation and may have any name. Of two layouts in one folder the one that transformers would read
    counts. Tensors are read, not mapped: mapped pages stay in memory beside the model until the file is closed. One
    tensor is in memory beside the model.

    Raises InputError for a folder without weights, a file that is cut or of another kind, an index that names a file
    that is not there, and a tensor that is not in the file that the index names.
    """

    def __init__(self, folder: Path, dtype: Any = np.float32, base: str = "", parts: tuple[str, ...] = ("",)):
        self.folder, self.dtype, self._parts = folder, np.dtype(dtype), parts
        stored = _stored(folder)
        behind = f"{base}." if base else ""
        prefixed = bool(base) and any(name.startswith(tuple(behind + part for part in parts)) for name in stored)
        self._tensors: dict[str, StoredTensor] = {}
        for name in sorted(stored, key=lambda name: not name.startswith(behind)):
            plain = _today(name.removeprefix(behind))
            if plain in self._tensors and plain.startswith(parts):
                raise InputError(f"{folder}: two tensors have the same name but for its spelling: {_text(name)}")
            if prefixed and plain.startswith(parts) and not name.startswith(behind):
                continue  # a head's own, beside the encoder's under `base`
            self._tensors.setdefault(plain, stored[name])
        self._left = set(self._tensors)
        self._digest = hashlib.sha256()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __iter__(self) -> Any:
        return iter(self._tensors)

    def check(self, name: str, *shape: int) -> None:
        """Raise InputError where a tensor is missing, of another shape or no floating-point one; nothing is read."""
        if name not in self._tensors:
            raise InputError(f"{self.folder}: tensor {_text(name)} is missing")
        tensor = self._tensors[name]
        if tensor.shape != shape:
            raise InputError(f"{self.folder}: tensor {_text(name)} has shape {tensor.shape}, expected {shape}")
        if tensor.dtype.kind in "iub":
            raise InputError(f"{self.folder}: tensor {_text(name)} is {tensor.dtype}, expected floating point")

    def check_blocks(self, block: str, count: int) -> None:
        """Raise InputError where one of `count` blocks has no tensor; `block` is their prefix, {} the number."""
        for number in range(count):
            name = f"{block.format(number)}."
            if not any(each.startswith(name) for each in self._tensors):
                raise InputError(f"{self.folder}: tensor {name}* is missing")

    def take(self, name: str, *shape: int, again: bool = False, dtype: Any = None) -> np.ndarray:
        """The tensor in the model's type, or in `dtype`.

        `again` allows a tensor that several layers share. Raises InputError as `check`, and where it was taken before.
        """
        self.check(name, *shape)
        if name not in self._left and not again:
            raise InputError(f"{self.folder}: tensor {_text(name)} is asked for twice")
        array = self._tensors[name].read()
        self._left.discard(name)
        self._digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        self._digest.update(memory(np.ascontiguousarray(array)))
        return array.astype(self.dtype if dtype is None else dtype, copy=False)

    def finish(self, unused: Iterable[str] = ()) -> str:
        """Refuse tensors of the encoder that nobody took, but for the patterns `unused`; the digest of what was taken.

        Raises InputError that names the first of them.
        """
        own = (name for name in self._left if name.startswith(self._parts))
        extra = sorted(name for name in own if not any(re.fullmatch(pattern, name) for pattern in unused))
        if extra:
            raise InputError(f"{self.folder}: unexpected tensor {_text(extra[0])} ({len(extra)} in all)")
        return self._digest.hexdigest()


def digest_settings(weights: str, *settings: Any) -> str:
    """A digest of weights and of what else decides what they compute: plain values, or dataclasses of these."""
    return hashlib.sha256(repr((weights, *settings)).encode()).hexdigest()


class AskedTensors(Tensors):
    """Stands in for `Tensors` where there is no file: every tensor that an encoder asks for is made by `draw`.

    `shapes` lists what was asked for, by the names of the published layout, in the order in which it was. Heads of
    masked prediction are there where `heads` says so; what an encoder can compute itself is not.
    """

    def __init__(self, draw: Callable[[str, tuple[int, ...]], np.ndarray], dtype: Any = np.float32, heads: bool = True):
        self.draw, self.dtype, self.heads = draw, np.dtype(dtype), heads
        self.shapes: dict[str, tuple[int, ...]] = {}

    def __contains__(self, name: str) -> bool:
        return self.heads and "lm_head." in name

    def __iter__(self) -> Any:
        return iter(self.shapes)

    def check(self, name: str, *shape: int) -> None:
        """Every tensor is there, in the shape that is asked for, but for a head where there is none."""
        if "lm_head." in name and not self.heads:
            raise InputError(f"{name}: heads were not asked for")

    def check_blocks(self, block: str, count: int) -> None:
        """Every block is there."""

    def take(self, name: str, *shape: int, again: bool = False, dtype: Any = None) -> np.ndarray:
        """The tensor that `draw` makes."""
        self.shapes[name] = shape
        return self.draw(name, shape).astype(self.dtype if dtype is None else dtype, copy=False)

    def finish(self, unused: Iterable[str] = ()) -> str:
        """No digest: there is no file."""
        return ""


def _today(name: str) -> str:
    """With today's names for a layer norm's scale and shift."""
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


def _text(name: str) -> str:
    return shown(name, 200)[1:-1]


def _stored(folder: Path) -> dict[str, StoredTensor]:
    layout = next((name for name in LAYOUTS if (folder / name).is_file()), None)
    if layout is None:
        shards = sorted(file.name for pattern in ("model-*", "pytorch_model-*") for file in folder.glob(pattern))
        rest = f"; {shown(shards[0])} is a part, and its index is missing" if shards else ", and no other weights"
        raise InputError(f"{folder}: no file {LAYOUTS[0]}{rest}")
    index = read_index(folder / layout) if layout.endswith(".index.json") else {}
    read = read_torch if ".bin" in layout else read_safetensors
    stored: dict[str, StoredTensor] = {}
    where: dict[str, str] = {}
    for file in sorted({*index.values()}) or [layout]:
        if not (folder / file).is_file():
            raise InputError(f"{folder}: no file {_text(file)}")
        for name, tensor in read(folder / file).items():
            if name in stored:
                raise InputError(f"{folder}: tensor {_text(name)} is in two files")
            stored[name], where[name] = tensor, file
    for name, file in index.items():
        if where.get(name) != file:
            place = f"in {_text(where[name])}" if name in where else "in no file"
            raise InputError(f"{folder}: {layout} says that {_text(name)} is in {_text(file)}; it is {place}")
    return stored
