"""The shards that `covjax extract` writes, read back with their digests checked.

A shard is one Orbax checkpoint: pooled features, the rows they belong to, and, where token activations are kept, the
digest of their file and the tokens of every row. It is written last, so a shard is either whole or not there.
A record of tokens also holds the sequence and where its tokens stand in it; those of format 3 do not.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import BFloat16, Float, Int

from covjax.errors import InputError
from covjax.extras import need
from covjax.jobs import checkpoint
from covjax.jobs.disk import Damaged, json_digest, read_sealed

FORMAT = 3  # of what is written; in every run's identity
TOKEN_FORMAT = 4  # of a run that keeps tokens


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


def input_digest(ids: Sequence[str], sequences: Sequence[str]) -> str:
    """The digest that identifies the sequences of an extraction and their ids."""
    digest = hashlib.sha256()
    for entry in zip(ids, sequences):
        digest.update(repr(entry).encode())
    return digest.hexdigest()


def read_run(folder: str | Path) -> dict[str, Any]:
    """The manifest of an extraction; InputError if it is missing or damaged."""
    path = Path(folder) / "extraction.json"
    try:
        return read_sealed(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; no extraction can be read there") from None
    except Damaged as error:
        other = "or written by another version of covjax"
        raise InputError(f"{error}, {other}; the same command of covjax extract makes it again") from None


def read_shard(folder: str | Path, shard: int, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """Manifest of a complete shard, None if there is none; InputError if it is of another run."""
    path = shard_path(folder, shard)
    manifest = checkpoint.read_manifest(path)
    if manifest is not None and (lines := checkpoint.difference(manifest["run"], run["identity"])):
        raise InputError(f"{path}: made under other settings: {'; '.join(lines)}")
    return manifest


def shard_fault(folder: str | Path, shard: int, run: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard, after reading every byte: "" if it is missing, None if it is sound.

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
    if (found := run["identity"].get("format")) not in (FORMAT, TOKEN_FORMAT):
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
    """Pooled features in the order of the input; `name` is "LAYER/POOLER", of `read_run(folder)["features"]`.

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


class Text(NamedTuple):
    """A sequence, and the start and end in it of each of its tokens; None where what they stand for is not known."""

    letters: str
    spans: Int[np.ndarray, "tokens 2"] | None


class TokenStore:
    """Token activations with random access, one item per sequence; also works as a source for Grain.

    `store[i]` is the array (tokens, features) of sequence i of the input, in bfloat16, without special tokens and
    padding. `run` is the manifest of the extraction, `layer` and `features` the layer and its width, `lengths` the
    number of tokens of every sequence, and `digest` a digest of all token files.

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
        self.run, self.layer = run, layer
        self.features: int = widths[index]
        self.digest = hashlib.sha256("".join(m["tokens"]["digest"] for m in manifests).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, row: int) -> BFloat16[np.ndarray, "tokens features"]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[BFloat16[np.ndarray, "_ features"]]:
        """Several sequences, read at the same time."""
        return [self._layer_of(int(row), record) for row, record in zip(rows, self._records(rows))]

    def read_texts(self, rows: Sequence[int]) -> list[tuple[BFloat16[np.ndarray, "_ features"], Text]]:
        """Several sequences' activations with their letters.

        Raises InputError for a store of an earlier version of covjax, which has no letters in it.
        """
        if self.run["identity"]["format"] < TOKEN_FORMAT:
            raise InputError(
                f"{self._paths[0].parents[1]}: its records have no letters: an earlier version of covjax wrote it; run "
                "covjax extract --keep-tokens true again, with --force or into another folder"
            )
        records = self._records(rows)
        return [(self._layer_of(row, record), self._text_of(row, record)) for row, record in zip(rows, records)]

    def _records(self, rows: Sequence[int]) -> list[bytes]:
        if outside := [row for row in rows if not 0 <= row < len(self)]:
            raise IndexError(outside[0])
        places = self._place[list(rows)]
        try:
            return self._source.__getitems__(places.tolist()) if len(places) else []
        except RuntimeError:  # which file it is, it does not say
            return [self._record(place) for place in places.tolist()]

    def _record(self, place: int) -> bytes:
        try:
            return self._source[place]
        except RuntimeError as error:
            raise InputError(f"{self._paths[self._shard[place]]}: damaged: {error}") from None

    def _layer_of(self, row: int, record: bytes) -> BFloat16[np.ndarray, "tokens features"]:
        tokens = int(self.lengths[row])
        size = SEAL + 2 * tokens * self._total
        if self.run["identity"]["format"] == TOKEN_FORMAT:  # then the letters, as `encode_tokens` writes them
            spans, letters = np.frombuffer(record[size : size + 8].ljust(8, b"\xff"), np.int32).tolist()
            size += 8 + 8 * spans + letters if spans in (0, tokens) and letters >= 0 else -size
        if record[:SEAL] != seal(self._key, row) or len(record) != size:
            path = self._paths[self._shard[self._place[row]]]
            raise InputError(f"{path}: holds a record of another run or sequence than {row}")
        start, end = self._before * tokens, (self._before + self.features) * tokens
        numbers = np.frombuffer(record, jnp.bfloat16, tokens * self._total, SEAL)
        return numbers[start:end].reshape(tokens, self.features)

    def _text_of(self, row: int, record: bytes) -> Text:
        place = SEAL + 2 * int(self.lengths[row]) * self._total
        count, size = np.frombuffer(record, np.int32, 2, place).tolist()
        spans = np.frombuffer(record, np.int32, 2 * count, place + 8).reshape(count, 2) if count else None
        return Text(record[len(record) - size :].decode(), spans)


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
    """The key that the records of one extraction share."""
    return bytes.fromhex(json_digest(identity))


def seal(key: bytes, row: int) -> bytes:
    """The first bytes of the record of sequence `row` of an extraction."""
    return hashlib.blake2b(int(row).to_bytes(8, "big"), digest_size=SEAL, key=key).digest()


def encode_tokens(layers: Sequence[Float[np.ndarray, "tokens _"]], key: bytes, row: int, text: Text) -> bytes:
    """One record: the seal, the layers' activations in bfloat16, one after the other, and the text.

    Of the text: how many spans (all tokens', or none) and bytes it has, the spans, and the letters in UTF-8.
    """
    numbers = b"".join(np.ascontiguousarray(np.asarray(x).astype(jnp.bfloat16)).tobytes() for x in layers)
    spans = np.empty((0, 2), np.int32) if text.spans is None else text.spans.astype(np.int32)
    letters = text.letters.encode()
    return (
        seal(key, row) + numbers + np.array([len(spans), len(letters)], np.int32).tobytes() + spans.tobytes() + letters
    )
