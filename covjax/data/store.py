"""The shards that `train.extract` writes, read back with their digests checked.

A shard is one Orbax checkpoint: pooled features, the rows they belong to, and, where token activations are kept, the
digest of their file. It is written last, so a shard is either whole or not there.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import BFloat16, Float, Int

from covjax import checkpoint
from covjax.errors import InputError


def shard_path(folder: str | Path, shard: int) -> Path:
    """Folder of one shard's checkpoint."""
    return Path(folder) / "shards" / f"{shard:05d}"


def token_path(folder: str | Path, shard: int) -> Path:
    """ArrayRecord file with one shard's token activations."""
    return Path(folder) / "tokens" / f"{shard:05d}.array_record"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_run(folder: str | Path) -> dict[str, Any]:
    """The manifest of an extraction; InputError where there is none or it is damaged."""
    path = Path(folder) / "extraction.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no extraction can be read there: {error}") from None


def _finished(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = read_run(folder)
    manifests = [checkpoint.read_manifest(shard_path(folder, shard)) for shard in range(run["shards"])]
    missing = [shard for shard, manifest in enumerate(manifests) if manifest is None]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {run['shards']} shards are missing; run the extraction again")
    return run, [m for m in manifests if m is not None]


def load_features(folder: str | Path, name: str) -> Float[np.ndarray, "n k"]:
    """Pooled features in the order of the input; `name` is "LAYER/POOLER" as `read_run(folder)["features"]` lists them.

    Raises InputError for an unknown name, missing shards, shards of another run, and changed or truncated files.
    """
    run, _ = _finished(folder)
    if name not in run["features"]:
        raise InputError(f"name: {name!r} is not one of {', '.join(run['features'])}")
    like: dict[str, Any] = {"rows": 0, "features": {key: 0 for key in run["features"]}}
    out = np.empty((run["sequences"], run["features"][name]), np.float32)
    for shard in range(run["shards"]):
        tree = checkpoint.load(shard_path(folder, shard), like, {"run": run["identity"], "shard": shard})
        out[tree["rows"]] = tree["features"][name]
    return out


class TokenStore:
    """Token activations as a random-access source, one item a sequence; works as a source of Grain.

    `store[i]` is (tokens, features) in bfloat16, special tokens and padding left out, of sequence i of the input.
    Raises InputError for a layer that was not kept, missing shards, and token files that do not match their digest
    (all files are read once for that). `run` is the manifest of the extraction, `features` the width of the layer,
    `digest` stands for the content of all token files.
    """

    def __init__(self, folder: str | Path, layer: int):
        from grain.sources import ArrayRecordDataSource

        run, manifests = _finished(folder)
        if layer not in run["token_layers"]:
            raise InputError(f"layer: {layer} is not among the kept ones: {run['token_layers']}")
        paths = [token_path(folder, shard) for shard in range(run["shards"])]
        for path, manifest in zip(paths, manifests):
            if not path.is_file() or file_digest(path) != manifest["tokens"]:
                raise InputError(f"{path}: missing, or does not match its digest: the file was changed or damaged")
        self._place = {row: i for i, row in enumerate(r for m in manifests for r in m["rows"])}
        self._source = ArrayRecordDataSource([str(path) for path in paths])
        self._layers, self._layer = run["token_layers"], layer
        self._widths = run["token_widths"]
        self.run = run
        self.features: int = run["token_widths"][run["token_layers"].index(layer)]
        self.digest = hashlib.sha256("".join(m["tokens"] for m in manifests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._place)

    def lengths(self) -> Int[np.ndarray, "n"]:
        """Tokens of every sequence; reads every record."""
        size = 2 * sum(self._widths)
        return np.array([len(self._source[self._place[row]]) // size for row in range(len(self))])

    def __getitem__(self, row: int) -> BFloat16[np.ndarray, "tokens features"]:
        if not 0 <= row < len(self):
            raise IndexError(row)
        values = np.frombuffer(self._source[self._place[row]], jnp.bfloat16)
        index = self._layers.index(self._layer)
        before, tokens = sum(self._widths[:index]), len(values) // sum(self._widths)
        width = self._widths[index]
        return values[before * tokens : (before + width) * tokens].reshape(tokens, width)


def encode_tokens(layers: Sequence[Float[np.ndarray, "tokens features"]]) -> bytes:
    """One record: the layers' activations in bfloat16, one after the other."""
    return b"".join(np.ascontiguousarray(np.asarray(x).astype(jnp.bfloat16)).tobytes() for x in layers)
