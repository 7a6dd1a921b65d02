"""Files of a published model: JSON configs, and tensors in safetensors and PyTorch files.

A file is first read without its tensors: names, shapes and types. What is not asked for is never in memory, and a shape
is known before anything is allocated for it.
"""

import functools
import io
import json
import math
import mmap
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from covjax.errors import InputError, shown


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a file that holds one JSON object, in UTF-8 with or without a byte-order mark.

    Raises InputError, one line that names the file, for one that is missing, a folder, unreadable, empty, cut, nested
    too deep, in another encoding or no object, and for a key that occurs twice in one object.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
    return parse_json(content, str(path))


def parse_json(content: bytes, name: str) -> dict[str, Any]:
    """Parse the bytes of a JSON object; `name` stands for them in messages, and errors are those of `read_json`."""
    if not content.strip():
        raise InputError(f"{name}: not JSON: it is empty")
    try:
        value = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not JSON in UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise InputError(f"{name}: not JSON that can be read: it is nested too deep") from None
    except ValueError as error:
        raise InputError(f"{name}: not JSON: {shown(str(error), 200)[1:-1]}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name}: a JSON {type(value).__name__}, expected an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice, 60)} occurs twice in one object")
    return made


SAFETENSORS: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
}
SAFETENSORS |= {f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)}
STORAGES: dict[str, Any] = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16,
}
STORAGES |= {"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1"}
STORAGES |= {"ByteStorage": "u1", "BoolStorage": "?"}
LEGACY = (0x1950A86A20F9469CFC6C, 1001)  # the mark and version of PyTorch's format before the zip
LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors


class StoredTensor(NamedTuple):
    """A tensor that still lies in its file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def read_safetensors(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file: its tensors by name, none of them in memory yet.

    Raises InputError for a file that is cut, longer than its header says, of another kind, with tensors that overlap
    or leave gaps, with a name that occurs twice, and for a type that NumPy has no arrays of.
    """
    broken = f"{file}: not a complete safetensors file: "
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, LARGEST_HEADER):
                raise InputError(f"{broken}the header is cut")
            content = stream.read(length)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from None
    entries = []
    for name, entry in parse_json(content, f"{broken}the header is not a table of tensors").items():
        if name != "__metadata__":
            entries.append((name, *_entry(name, entry, broken)))
    tensors: dict[str, StoredTensor] = {}
    end = 0
    for name, kind, shape, start, stop in sorted(entries, key=lambda entry: entry[3:]):
        if kind not in SAFETENSORS:
            raise InputError(
                f"{file}: tensor {shown(name)} has type {shown(kind)}; allowed: {', '.join(sorted(SAFETENSORS))}"
            )
        dtype = np.dtype(SAFETENSORS[kind])
        if start != end or stop - start != math.prod(shape) * dtype.itemsize:
            raise InputError(f"{broken}tensor {_plain(name)} is out of place")
        read = functools.partial(_read_bytes, file, dtype, shape, 8 + length + start)
        tensors[name], end = StoredTensor(shape, dtype, read), stop
    if 8 + length + end != size:
        raise InputError(f"{broken}{size} bytes, expected {8 + length + end}")
    return tensors


def _entry(name: str, entry: Any, broken: str) -> tuple[str, tuple[int, ...], int, int]:
    try:
        kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, start, stop]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{broken}the header is not a table of tensors: {shown(name)}") from None
    if not isinstance(kind, str) or any(type(n) is not int or n < 0 for n in numbers):
        raise InputError(f"{broken}the header is not a table of tensors: {shown(name)}")
    return kind, tuple(shape), start, stop


def _read_bytes(file: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
    array = empty(shape, dtype)
    try:
        with open(file, "rb") as stream:
            stream.seek(offset)
            size = stream.readinto(memory(array))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror or type(error).__name__}") from None
    if size != array.nbytes:
        raise InputError(f"{file}: changed while it was read")
    return array


def memory(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array, whatever its type."""
    return array.reshape(-1).view(np.uint8).data


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array to fill; a large one in pages of its own.

    Such pages go back to the system as soon as the array is dropped, where the allocator would keep them, and are
    aligned, so that JAX on a CPU takes the array over without a copy.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < 1 << 20:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


def read_torch(file: Path) -> dict[str, StoredTensor]:
    """Read what tensors a PyTorch state dict holds, by name; no code of the file is run.

    Raises InputError for anything else than a dictionary of tensors, and as `read_torch_values`.
    """
    state, broken = read_torch_values(file), f"{file}: not a state dict of tensors: "
    if not isinstance(state, dict) or not all(isinstance(tensor, StoredTensor) for tensor in state.values()):
        raise InputError(f"{broken}it holds something else than tensors")
    if not all(isinstance(name, str) for name in state):
        raise InputError(f"{broken}a tensor has no name")
    return dict(state)


def read_torch_values(file: Path) -> Any:
    """Read what `torch.save` wrote: dictionaries, lists, texts, numbers and tensors; no code of the file is run.

    The zip format (since PyTorch 1.6) and the one before it are both read without PyTorch. Raises InputError for a
    damaged file and for objects of other kinds; reading a tensor that is larger than what the file stores of it (a
    repeating view) is refused then.
    """
    try:
        with open(file, "rb") as stream:
            begins_as_zip = stream.read(4) == b"PK\x03\x04"  # a cut one is no zip file, and not the older format
        if not begins_as_zip and not zipfile.is_zipfile(file):
            return _read_legacy(file)
        with zipfile.ZipFile(file) as archive:
            (pickled,) = (name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"])
            if archive.getinfo(pickled).file_size > LARGEST_HEADER:
                raise ValueError("its list of tensors is over 100 MB")
            order = pickled.removesuffix("data.pkl") + "byteorder"
            if order in archive.namelist() and archive.read(order) != b"little":
                raise ValueError("its numbers are big-endian; load and save it on a machine of today")
            folder = pickled.removesuffix("data.pkl")
            storages = functools.partial(_zip_storage, file, archive, folder)
            return _Unpickler(io.BytesIO(archive.read(pickled)), storages).load()
    except InputError:
        raise
    except Exception as error:  # a damaged or foreign pickle: zipfile and pickle raise many types
        what = shown(str(error), 150)[1:-1]
        raise InputError(f"{file}: not a state dict of tensors: {type(error).__name__}: {what}") from None


class _Storage(NamedTuple):
    file: Path
    read: Callable[[], bytes]
    dtype: np.dtype
    size: int  # numbers


class _Unpickler(pickle.Unpickler):
    """Builds ordered dictionaries of tensors and refuses every other class or function that a pickle names."""

    def __init__(self, stream: io.BufferedIOBase, storages: Callable[[str, np.dtype, int], _Storage]):
        super().__init__(stream)
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, key: Any) -> _Storage:
        kind, dtype, number, _, size, *view = key
        if kind != "storage" or not isinstance(number, str) or type(size) is not int or size < 0 or any(view):
            raise pickle.UnpicklingError(f"{shown(str(key), 60)} is not a storage of tensors")
        return self.storages(number, dtype, size)


def _zip_storage(
    file: Path, archive: zipfile.ZipFile, folder: str, number: str, dtype: np.dtype, size: int
) -> _Storage:
    """A storage of the zip format, which is an entry of its own."""
    entry = archive.getinfo(f"{folder}data/{number}")
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != size * dtype.itemsize:
        raise pickle.UnpicklingError(f"storage {number} is {entry.file_size} bytes, expected {size} × {dtype}")
    return _Storage(file, functools.partial(_read_entry, file, entry.filename), dtype, size)


def _read_entry(file: Path, entry: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(entry)


def _read_legacy(file: Path) -> Any:
    """What the format before PyTorch 1.6 holds: pickles in a row, and then the storages in the order of their names.

    They are a mark, a version, the machine's byte order, the value, and the names.
    """
    storages: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def storage(number: str, dtype: np.dtype, size: int) -> _Storage:
        def read() -> bytes:
            with open(file, "rb") as again:
                again.seek(places[number])
                return again.read(size * dtype.itemsize)

        made = storages.setdefault(number, _Storage(file, read, dtype, size))
        if (made.dtype, made.size) != (dtype, size):
            raise pickle.UnpicklingError(f"storage {number} is {made.size} × {made.dtype}, and {size} × {dtype}")
        return made

    end = file.stat().st_size
    with open(file, "rb") as stream:
        mark, version = _Unpickler(stream, storage).load(), _Unpickler(stream, storage).load()
        if (mark, version) != LEGACY:
            raise ValueError("it begins like no file of torch.save")
        if not _Unpickler(stream, storage).load()["little_endian"]:
            raise ValueError("its numbers are big-endian; load and save it on a machine of today")
        value, names = _Unpickler(stream, storage).load(), _Unpickler(stream, storage).load()
        if sorted(names) != sorted(storages):
            raise ValueError("its list of storages is another than that of its tensors")
        for name in names:
            size, places[name] = int.from_bytes(stream.read(8), "little"), stream.tell()
            if size != storages[name].size:
                raise ValueError(f"storage {name} is {size} numbers, expected {storages[name].size}")
            stream.seek(size * storages[name].dtype.itemsize, io.SEEK_CUR)
        if stream.tell() != end:
            raise ValueError(f"it has {end} bytes, expected {stream.tell()}")
    return value


def _rebuild(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> StoredTensor:
    if not isinstance(storage, _Storage) or any(type(n) is not int for n in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor's shape is not made of whole numbers")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min(offset, *strides, *shape, 0) < 0 or (0 not in shape and last >= storage.size):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} reaches over its storage")
    return StoredTensor(tuple(shape), storage.dtype, functools.partial(_read_strided, storage, offset, shape, strides))


def _read_strided(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    check_view(storage.file, shape, storage.size)
    try:
        numbers = np.frombuffer(storage.read(), storage.dtype)
    except Exception as error:  # a flipped bit shows in the check sum
        what = shown(str(error), 150)[1:-1]
        raise InputError(f"{storage.file}: not a state dict of tensors: {type(error).__name__}: {what}") from None
    steps = [stride * storage.dtype.itemsize for stride in strides]
    return np.array(np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps))


def check_view(file: Path, shape: tuple[int, ...], size: int) -> None:
    """Refuse a tensor with more numbers than the `size` that its file stores of it: a small file may ask for much."""
    if math.prod(shape) > size:
        raise InputError(f"{file}: a tensor of shape {tuple(shape)} repeats the {size} numbers that are stored of it")


def _plain(name: str) -> str:
    return shown(name, 200)[1:-1]


def read_index(file: Path) -> dict[str, str]:
    """Read which file of a sharded checkpoint holds which tensor, by the tensors' names.

    Raises InputError for what is no such index and for a file outside the index's own folder.
    """
    shards = read_json(file).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{file}: not an index of tensors: no `weight_map` from their names to files")
    for shard in shards.values():
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise InputError(f"{file}: {shown(shard)} is not the name of a file beside the index")
    return shards


def read_npz(file: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file; no code of the file is run.

    Raises InputError for a damaged file, and for an array that is larger than what the file stores of it, or packed so
    tightly (over 100 to 1 for more than 1 MB) that a small file would fill the memory.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        for entry in entries:
            if entry.file_size > 1 << 20 and entry.file_size > 100 * entry.compress_size:
                raise ValueError(f"{entry.filename} is packed {entry.file_size // max(entry.compress_size, 1)} to 1")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("a name occurs twice")
        with np.load(file, allow_pickle=False) as arrays:
            for entry in entries:
                with arrays.zip.open(entry) as stream:
                    _check_npy(entry.filename, entry.file_size, stream)
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged archive: NumPy and zipfile raise many types
        what = shown(str(error), 150)[1:-1]
        raise InputError(f"{file}: cannot be read: {type(error).__name__}: {what}") from None


def parse_npy(content: bytes) -> np.ndarray:
    """Parse the bytes of an .npy file; ValueError for a damaged one, and for Python objects, which would run code."""
    stream = io.BytesIO(content)
    _check_npy("the array", len(content), stream)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _check_npy(name: str, size: int, stream: Any) -> None:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not read; save one plain array")
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"{name} is larger than what is stored of it")
