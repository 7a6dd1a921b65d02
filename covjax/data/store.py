"""The shards that `covjax.extraction.extract` writes, read back with their digests checked.

A shard is one Orbax checkpoint: pooled features, the rows they belong to, and, where token activations are kept, the
digest of their file and the tokens of every row. It is written last, so a shard is either whole or not there.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import BFloat16, Float

from covjax.errors import InputError
from covjax.extras import need
from covjax.jobs import checkpoint
from covjax.jobs.disk import Damaged, json_digest, read_sealed

FORMAT = 3  # of what is written; in every run's identity


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
        return read_sealed(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; no extraction can be read there") from None
    except Damaged as error:
        other = "or written by another version of covjax"
        raise InputError(f"{error}, {other}; the same command of covjax.extraction.extract makes it again") from None


def read_shard(folder: str | Path, shard: int, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Manifest of a complete shard, None where there is none; InputError for one of another run."""
    path = shard_path(folder, shard)
    manifest = checkpoint.read_manifest(path)
    if manifest is not None and (lines := checkpoint.difference(manifest["run"], run["identity"])):
        raise InputError(f"{path}: made under other settings: {'; '.join(lines)}")
    return manifest


def shard_fault(folder: str | Path, shard: int, run: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard, every byte of which is read: "" where it is not there, None where it is sound.

    Raises InputError for a shard of another run.
    """
    try:
        manifest = read_shard(folder, shard, run)
        if manifest is None:
            return ""
        like: dict[str, Any] = {"rows": 0, "features": {key: 0 for key in run["features"]}}
        checkpoint.load(shard_path(folder, shard), like, {"run": run["identity"], "shard": shard})
        if manifest["tokens"] is not None:
            path = token_path(folder, shard)
            if not path.is_file():
                return f"{path}: missing"
            if file_digest(path) != manifest["tokens"]["digest"]:
                return f"{path}: changed or damaged"
    except Damaged as error:
        return str(error)
    except OSError as error:
        return f"{token_path(folder, shard)}: cannot be read: {error.strerror}"
    return None


def _finished(folder: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = read_run(folder)
    if (found := run["identity"].get("format")) != FORMAT:
        raise InputError(
            f"{folder}: format {found}, written by another version of covjax; run the extraction again with --force "
            "or into another folder"
        )
    manifests = [read_shard(folder, shard, run) for shard in range(run["shards"])]
    missing = [shard for shard, manifest in enumerate(manifests) if manifest is None]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {run['shards']} shards are missing; run the extraction again")
    complete = [m for m in manifests if m is not None]
    rows = sorted(row for manifest in complete for row in manifest["rows"])
    if rows != list(range(run["sequences"])):
        raise InputError(f"{folder}: its shards hold {len(rows)} rows, not each of {run['sequences']} sequences once")
    return run, complete


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
    `run` is the manifest of the extraction, `features` the width of the layer, `lengths` the tokens of every sequence,
    `digest` stands for the content of all token files.

    Opening reads no activations. A record is checked when it is read: ArrayRecord keeps a hash of every chunk, and our
    seal says which run and which sequence it is of. Raises InputError for a layer that was not kept, missing shards
    and files, and, when they are read, for records that are damaged or of another run.
    """

    def __init__(self, folder: str | Path, layer: int):
        sources = need("grain.sources", "store", f"{folder}: reading token activations")

        run, manifests = _finished(folder)
        if layer not in (layers := run["token_layers"]):
            remedy = f"give {layers[0]}" if layers else "extract with --keep-tokens true"
            raise InputError(f"layer: {layer} is not among the kept ones: {layers}; {remedy}")
        self._paths = [token_path(folder, shard) for shard in range(run["shards"])]
        rows = np.concatenate([np.array(m["rows"], np.int64) for m in manifests])
        self._shard = np.repeat(np.arange(len(manifests)), [len(m["rows"]) for m in manifests])
        self._place = np.argsort(rows)  # of every sequence among the records
        self.lengths: np.ndarray = np.concatenate([m["tokens"]["lengths"] for m in manifests])[self._place]
        for path, manifest in zip(self._paths, manifests):
            if (found := _count_records(path)) != len(manifest["rows"]):
                raise InputError(f"{path}: {found} records of {len(manifest['rows'])} sequences: it was changed")
        self._source = sources.ArrayRecordDataSource([str(path) for path in self._paths])
        widths, index = run["token_widths"], run["token_layers"].index(layer)
        self._before, self._total = sum(widths[:index]), sum(widths)
        self._key = record_key(run["identity"])
        self.run = run
        self.features: int = widths[index]
        self.digest = hashlib.sha256("".join(m["tokens"]["digest"] for m in manifests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, row: int) -> BFloat16[np.ndarray, "tokens features"]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[BFloat16[np.ndarray, "_ features"]]:
        """Several sequences, read at the same time."""
        if outside := [row for row in rows if not 0 <= row < len(self)]:
            raise IndexError(outside[0])
        places = self._place[list(rows)]
        try:
            records = self._source.__getitems__(places.tolist()) if len(places) else []
        except RuntimeError:  # which file it is, it does not say
            records = [self._record(place) for place in places.tolist()]
        return [self._layer_of(int(row), int(place), record) for row, place, record in zip(rows, places, records)]

    def _record(self, place: int) -> bytes:
        try:
            return self._source[place]
        except RuntimeError as error:
            raise InputError(f"{self._paths[self._shard[place]]}: damaged: {error}") from None

    def _layer_of(self, row: int, place: int, record: bytes) -> BFloat16[np.ndarray, "tokens features"]:
        tokens = int(self.lengths[row])
        if record[:SEAL] != seal(self._key, row) or len(record) != SEAL + 2 * tokens * self._total:
            raise InputError(f"{self._paths[self._shard[place]]}: holds a record of another run or sequence than {row}")
        start, end = self._before * tokens, (self._before + self.features) * tokens
        return np.frombuffer(record, jnp.bfloat16, offset=SEAL)[start:end].reshape(tokens, self.features)


def _count_records(path: Path) -> int:
    sources = need("grain.sources", "store", f"{path}: reading token activations")
    if not path.is_file():
        raise InputError(f"{path}: missing")
    try:
        return len(sources.ArrayRecordDataSource([str(path)]))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: damaged: {error}") from None


SEAL = 16  # bytes at the start of a record


def record_key(identity: dict[str, Any]) -> bytes:
    """What the records of one extraction have in common."""
    return bytes.fromhex(json_digest(identity))


def seal(key: bytes, row: int) -> bytes:
    """The first bytes of the record of sequence `row` of an extraction."""
    return hashlib.blake2b(int(row).to_bytes(8, "big"), digest_size=SEAL, key=key).digest()


def encode_tokens(layers: Sequence[Float[np.ndarray, "tokens _"]], key: bytes, row: int) -> bytes:
    """One record: the seal, then the layers' activations in bfloat16, one after the other."""
    return seal(key, row) + b"".join(np.ascontiguousarray(np.asarray(x).astype(jnp.bfloat16)).tobytes() for x in layers)
