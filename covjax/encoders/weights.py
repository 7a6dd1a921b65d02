"""Tensors of a Hugging Face folder, one at a time: each asked for once, with its shape, and none left over."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from covjax.errors import InputError


def _plain(name: str) -> str:
    """Without the name of the base model, and with today's names for a layer norm's scale and shift."""
    name = re.sub(r"^(esm|bert)\.", "", name)
    return re.sub(r"\.beta$", ".bias", re.sub(r"\.gamma$", ".weight", name))


class Tensors:
    """The safetensors of a folder, sharded or not, read lazily so that only one tensor is in memory beside the model.

    Raises InputError for a folder without safetensors, an index that names a file that is not there, and a file that is
    cut or not safetensors.
    """

    def __init__(self, folder: Path):
        from safetensors import SafetensorError, safe_open

        index = folder / "model.safetensors.index.json"
        names = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else []
        files = [folder / name for name in names or ["model.safetensors"]]
        self.folder = folder
        self._files = {}
        for file in files:
            if not file.is_file():
                raise InputError(f"{folder}: no file {file.name}")
            try:
                handle = safe_open(str(file), "np")
            except SafetensorError as error:
                raise InputError(f"{file}: not a complete safetensors file: {error}") from None
            self._files.update(dict.fromkeys(handle.keys(), handle))
        self._names = {_plain(name): name for name in self._files}
        if len(self._names) != len(self._files):
            raise InputError(f"{folder}: two tensors have the same name but for its spelling")
        self._left = set(self._names)
        self._digest = hashlib.sha256()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, *shape: int, again: bool = False) -> np.ndarray:
        """The tensor in float32; raises InputError where it is missing, of another shape, or taken before.

        `again` allows a tensor that several layers share.
        """
        if name not in self._names:
            raise InputError(f"{self.folder}: tensor {name} is missing")
        if name not in self._left and not again:
            raise InputError(f"{self.folder}: tensor {name} is asked for twice")
        full = self._names[name]
        array = self._files[full].get_tensor(full)
        if array.shape != shape:
            raise InputError(f"{self.folder}: tensor {name} has shape {array.shape}, expected {shape}")
        self._left.discard(name)
        self._digest.update(f"{name}{array.dtype.name}{array.shape}".encode())
        self._digest.update(np.ascontiguousarray(array).tobytes())
        return array.astype(np.float32)

    def finish(self, unused: Iterable[str]) -> str:
        """Refuse tensors that nobody took, but for the patterns `unused`; return the digest of all that were taken."""
        extra = sorted(name for name in self._left if not any(re.fullmatch(pattern, name) for pattern in unused))
        if extra:
            raise InputError(f"{self.folder}: unexpected tensor {extra[0]} ({len(extra)} in all)")
        return self._digest.hexdigest()
