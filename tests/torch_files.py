"""Files of `torch.save` in the zip format, written without PyTorch."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage"}
STORAGES["int64"] = "LongStorage"


class _Name:
    """A class or function of PyTorch, which need not be there."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):
    def __init__(self, stream, arrays):
        super().__init__(stream, protocol=2)
        self.arrays = arrays

    def save(self, value, *rest):
        if isinstance(value, _Name):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        elif isinstance(value, np.ndarray):
            strides = tuple(stride // value.itemsize for stride in value.strides)
            kind = _Name("torch", STORAGES[value.dtype.name])
            storage = ("storage", kind, str(len(self.arrays)), "cpu", value.size)
            self.arrays.append(value)
            self.save(_Name("torch._utils", "_rebuild_tensor_v2"))
            self.write(pickle.MARK)
            self.save(storage)
            self.write(pickle.BINPERSID)
            for part in (0, value.shape, strides, False, OrderedDict()):
                self.save(part)
            self.write(pickle.TUPLE + pickle.REDUCE)
        else:
            super().save(value, *rest)


def write_torch(file: Path, value) -> None:
    """What `torch.save(value, file)` writes, for dictionaries, lists, numbers, texts, and contiguous arrays."""
    stream, arrays = io.BytesIO(), []
    _Pickler(stream, arrays).dump(value)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{file.stem}/data.pkl", stream.getvalue())
        archive.writestr(f"{file.stem}/byteorder", "little")
        for number, array in enumerate(arrays):
            archive.writestr(f"{file.stem}/data/{number}", array.tobytes())
        archive.writestr(f"{file.stem}/version", "3\n")
