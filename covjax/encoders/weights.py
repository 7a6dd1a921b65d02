"""Tensors of a Hugging Face folder, one at a time: each asked for once, with its shape, and none left over."""

import functools
import hashlib
import json
import mmap
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from covjax.errors import InputError
from covjax.extras import need

TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
TYPES |= {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}
LARGEST_HEADER = 100_000_000  # bytes, the limit of the format


def _plain(name: str) -> str:
    """Without the name of the base model, and with today's names for a layer norm's scale and shift."""
    name = re.sub(r"^(esm|bert)\.", "", name)
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


class Tensors:
    """The weights of a folder: safetensors, sharded or not, or pytorch_model.bin where PyTorch is installed.

    Safetensors are read, not mapped: mapped pages stay in memory beside the model until the file is closed. One tensor
    is in memory beside the model. Raises InputError for a folder without weights, an index that names a file that is
    not there, and a file that is cut or of another kind.
    """

    def __init__(self, folder: Path, dtype: Any = np.float32):
        self.folder, self.dtype = folder, np.dtype(dtype)
        readers: dict[str, Callable[[], np.ndarray]] = {}
        for file in _files(folder):
            for name, reader in (_torch_tensors if file.suffix == ".bin" else _safetensors)(file).items():
                if name in readers:
                    raise InputError(f"{folder}: tensor {name} is in two files")
                readers[name] = reader
        self._readers = {_plain(name): reader for name, reader in readers.items()}
        if len(self._readers) != len(readers):
            raise InputError(f"{folder}: two tensors have the same name but for its spelling")
        self._left = set(self._readers)
        self._digest = hashlib.sha256()

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def take(self, name: str, *shape: int, again: bool = False, dtype: Any = None) -> np.ndarray:
        """The tensor in the model's type, or in `dtype`.

        `again` allows a tensor that several layers share. Raises InputError where the tensor is missing, of another
        shape, no floating-point one, or taken before.
        """
        if name not in self._readers:
            raise InputError(f"{self.folder}: tensor {name} is missing")
        if name not in self._left and not again:
            raise InputError(f"{self.folder}: tensor {name} is asked for twice")
        array = self._readers[name]()
        if array.shape != shape:
            raise InputError(f"{self.folder}: tensor {name} has shape {array.shape}, expected {shape}")
        if array.dtype.kind in "iub":
            raise InputError(f"{self.folder}: tensor {name} is {array.dtype}, expected floating point")
        self._left.discard(name)
        self._digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        self._digest.update(_bytes(array))
        return array.astype(self.dtype if dtype is None else dtype, copy=False)

    @property
    def digest(self) -> str:
        """Of all tensors taken so far."""
        return self._digest.hexdigest()

    def finish(self, unused: Iterable[str]) -> str:
        """Refuse tensors that nobody took, but for the patterns `unused`; return the digest of all that were taken."""
        extra = sorted(name for name in self._left if not any(re.fullmatch(pattern, name) for pattern in unused))
        if extra:
            raise InputError(f"{self.folder}: unexpected tensor {extra[0]} ({len(extra)} in all)")
        return self.digest


def _files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{index}: not an index of safetensors") from None
    elif not (folder / "model.safetensors").is_file() and (folder / "pytorch_model.bin").is_file():
        names = ["pytorch_model.bin"]
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no file {name}")
    return [folder / name for name in names]


def _safetensors(file: Path) -> dict[str, Callable[[], np.ndarray]]:
    """A reader for each tensor: the header is 8 bytes of length and JSON, the tensors follow without gaps."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise InputError(f"{file}: not a complete safetensors file: the header is cut")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            entries = {
                name: (entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]) for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: not a complete safetensors file: the header is no table of tensors") from None
    readers: dict[str, Callable[[], np.ndarray]] = {}
    end = 0
    for name, (kind, shape, start, stop) in sorted(entries.items(), key=lambda entry: entry[1][2:]):
        if kind not in TYPES:
            raise InputError(f"{file}: tensor {name} has type {kind}; allowed: {', '.join(TYPES)}")
        bytes_ = int(np.prod(shape, dtype=np.int64)) * np.dtype(TYPES[kind]).itemsize
        if start != end or stop - start != bytes_:
            raise InputError(f"{file}: not a complete safetensors file: tensor {name} is out of place")
        readers[name], end = _Reader(file, TYPES[kind], shape, 8 + length + start), stop
    if 8 + length + end != size:
        raise InputError(f"{file}: not a complete safetensors file: {size} bytes, expected {8 + length + end}")
    return readers


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array, whatever its type."""
    return array.reshape(-1).view(np.uint8).data


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to fill; a large one in pages of its own.

    Such pages go back to the system as soon as the array is dropped, where the allocator would keep them, and are
    aligned, so that JAX on a CPU takes the array over without a copy.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size < 1 << 20:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


class _Reader:
    def __init__(self, file: Path, dtype: Any, shape: tuple[int, ...], offset: int):
        self.file, self.dtype, self.shape, self.offset = file, dtype, shape, offset

    def __call__(self) -> np.ndarray:
        array = empty(self.shape, self.dtype)
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            if stream.readinto(_bytes(array)) != array.nbytes:
                raise InputError(f"{self.file}: changed while it was read")
        return array


def _torch_tensors(file: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Readers over a state dict; only tensors are unpickled, no code."""
    torch = need("torch", "parity", f"{file}: a file of PyTorch weights")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: functools.partial(_to_numpy, tensor) for name, tensor in state.items()}
    except Exception as error:  # a damaged or foreign pickle: torch raises many types
        raise InputError(f"{file}: not a state dict of tensors: {type(error).__name__}") from None


def _to_numpy(tensor: Any) -> np.ndarray:
    # NumPy has no bfloat16 of its own, and PyTorch does not know ml_dtypes'.
    return tensor.float().numpy() if str(tensor.dtype) == "torch.bfloat16" else tensor.contiguous().numpy()
