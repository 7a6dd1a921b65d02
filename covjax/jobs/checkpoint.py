"""Trees of arrays on disk, whole or not there; one process of several writes through a helper.

One folder = one pytree of arrays + one manifest (JSON) + a SHA-256 per leaf. Orbax makes the folder appear whole or not
at all; what it does not do is notice flipped bytes or a checkpoint made under other settings. Both are refused here.

Orbax 0.12 saves either with all processes of a job or not at all: even where one alone is declared active, it compares
paths with the others and shares its signals with them. The helper belongs to no job. It ends when the pipe from its
parent closes, also where the parent was killed.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt8

from covjax.errors import InputError, shown
from covjax.jobs.disk import TEMPORARY, Damaged, json_digest, put, refuse_address, writing
from covjax.jobs.distributed import gather, once

Tree = Any


DIGEST_FORMAT = 3  # of runs of rows, and of the manifest; others are refused by name, not called damaged
CHECKPOINT = "_CHECKPOINT_METADATA"  # what Orbax writes into every checkpoint
ENTRIES = frozenset(("commit_success.txt", "manifest", "orbax.checkpoint", "state"))  # beside Orbax's metadata
MOST_BLOCKS = 256


# Threads take turns: Orbax's operations share signals, and one that waits for another's never ends.
_ONE = threading.RLock()


def leaf_digests(tree: Tree) -> dict[str, str]:
    """SHA-256 of dtype, shape and content for every leaf, by its path in the tree.

    The content's is that of the SHA-256s of 1, 2, 4 … `MOST_BLOCKS` equal runs of its first axis, as many as divide it:
    devices that hold such runs of an array, in one process or in many, need not send it for this. Of an array spread
    over processes all must call it together.
    """
    digests = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        digest = hashlib.sha256(f"{np.dtype(array.dtype).name}{array.shape}".encode())
        digest.update(_block_digests(array).tobytes())
        digests[jax.tree_util.keystr(path)] = digest.hexdigest()
    return digests


def _block_digests(array: Array | np.ndarray) -> UInt8[np.ndarray, "blocks 32"]:
    count = math.gcd(array.shape[0], MOST_BLOCKS) if array.ndim and array.shape[0] else 1
    step, runs = (0, []) if _is_whole_here(array) else _runs(array)
    size = array.shape[0] // count if array.ndim else 1
    if not step or step % size:
        values = whole(array)
        return np.stack([_sha256(block) for block in (np.split(values, count) if count > 1 else [values])])
    blocks = [
        (start // size, np.array([_sha256(x[i : i + size]) for i in range(0, len(x), size)])) for start, x in runs
    ]
    return _collect(blocks, np.empty((count, 32), np.uint8))


def _sha256(array: np.ndarray) -> UInt8[np.ndarray, "32"]:
    array = np.ascontiguousarray(array)
    content = array.view(np.uint8).data if array.size and array.ndim else array.tobytes()
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


def _is_whole_here(leaf: Array | np.ndarray) -> bool:
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _runs(leaf: Any) -> tuple[int, list[tuple[int, np.ndarray]]]:
    """Of an array spread over processes by its first axis: what divides all borders, (first row, rows) of this process.

    Every row is one process's. 0 and none for an array that is split in another way.
    """
    # The layout is known to all processes, so all take the same way.
    indices = [
        [i.indices(n) for i, n in zip(index, leaf.shape)]
        for index in leaf.sharding.devices_indices_map(leaf.shape).values()
    ]
    if any(i != (0, n, 1) for index in indices for i, n in zip(index[1:], leaf.shape[1:])):
        return 0, []
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    runs = [(shard.index[0].indices(leaf.shape[0])[0], np.asarray(shard.data)) for shard in shards]
    return math.gcd(*(border for index in indices for border in index[0][:2])), runs


def whole(leaf: Array | np.ndarray) -> np.ndarray:
    """All of an array on the host, wherever it lies; all processes together where it is spread over them.

    An array spread by its first axis is sent in pieces: no device need hold it whole.
    """
    if _is_whole_here(leaf):
        return np.asarray(leaf)
    step, runs = _runs(leaf)
    if not step:
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return _collect(runs, np.empty(leaf.shape, leaf.dtype))


def _collect(runs: list[tuple[int, np.ndarray]], out: np.ndarray) -> np.ndarray:
    """Fill `out`, in every process, with the (first row, rows) that all processes hold, each row one's."""
    rows = [np.arange(start, start + len(x)) for start, x in runs]
    out[gather(np.concatenate([np.empty(0, np.int64), *rows]))] = gather(
        np.concatenate([out[:0], *(x for _, x in runs)])
    )
    return out


def difference(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: saved -> wanted` for every entry in which two manifests differ; nested entries by dotted key."""
    lines = []
    for key in sorted(saved.keys() | wanted.keys()):
        a, b = saved.get(key, "(absent)"), wanted.get(key, "(absent)")
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {_short(a)} -> {_short(b)}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def save(path: str | Path, tree: Tree, manifest: Mapping[str, Any]) -> None:
    """Write `tree` (arrays in dicts, lists, dataclass pytrees) and `manifest` to a new folder, whole or not at all.

    A checkpoint already at `path` is replaced. `manifest` must be plain JSON; "digests",
    "digest_format" and "seal" are added.
    In a job of several processes this is the business of the one that calls it.
    Raises InputError where the folder cannot be written, or `path` is an address such as `gs://…`.
    """
    refuse_address("path", path)
    path = Path(path).resolve()
    flat = {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    if jax.process_count() == 1:
        write(path, flat, _record(tree, manifest))
    else:
        write_in_helper(path, flat, _record(tree, manifest))


def save_together(path: str | Path, tree: Tree, manifest: Mapping[str, Any]) -> None:
    """`save` by all processes of a job into one checkpoint: each writes what it holds of arrays spread over them.

    All must call it together, with the same manifest, which process 0 writes.
    """
    flat = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    write(Path(path).resolve(), flat, _record(tree, manifest))


def _record(tree: Tree, manifest: Mapping[str, Any]) -> dict[str, Any]:
    record = json.loads(json.dumps(dict(manifest)))
    record |= {"digests": leaf_digests(tree), "digest_format": DIGEST_FORMAT}
    return record | {"seal": json_digest(record)}


def write(path: Path, flat: Mapping[str, np.ndarray | Array], record: Mapping[str, Any]) -> None:
    """`save` of what `save` prepared: arrays by name, and the manifest with their digests."""
    from orbax.checkpoint import v1 as ocp  # a second of imports that users of the pure functions never pay

    temporary = path.with_name(f"{path.name}.{TEMPORARY}")
    _refuse_others(path)
    try:
        with writing(path, sum(leaf.nbytes for leaf in flat.values())):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Where no folder can be made Orbax fails too, but leaves threads behind that the process waits for.
            tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{TEMPORARY}-").cleanup()
            context = ocp.Context()
            context.checkpointables.registry = ocp.handlers.local_registry()
            # By default Orbax stores a dictionary as a tree of arrays, entry by entry.
            context.checkpointables.registry.add(ocp.handlers.JsonHandler, checkpointable_name="manifest")
            with _ONE, context:
                ocp.save_checkpointables(
                    str(temporary), {"state": dict(flat), "manifest": dict(record)}, overwrite=True
                )
            once(lambda: put(temporary, path))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if jax.process_count() == 1:  # else others may be at work on it
            for unfinished in path.parent.glob(f"{temporary.name}*"):
                shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_others(path: Path) -> None:
    """InputError where a folder that is no checkpoint of ours has the checkpoint's name and files in it."""
    if not path.is_dir() or ((path / CHECKPOINT).is_file() and (path / "manifest").exists()):
        return
    if others := sorted({each.name for each in path.iterdir()} - ENTRIES):
        raise InputError(
            f"{path}: a folder with other files is there ({shown(others[0], 60)}), which a checkpoint would replace; "
            "give another path, or remove it yourself"
        )


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """Manifest of a complete checkpoint; None where there is none (nothing there, or a save that never finished).

    Raises Damaged, an InputError, where a checkpoint is there but its manifest is not as written.
    """
    from orbax.checkpoint import v1 as ocp

    refuse_address("path", path)
    path = Path(path).resolve()
    if not (path / CHECKPOINT).is_file():  # Orbax's own test calls an empty folder a checkpoint
        return None
    try:
        with _ONE, _alone():
            record = dict(ocp.load_checkpointables(str(path), {"manifest": None})["manifest"])
    except Exception as error:  # Orbax raises many types here; all mean the same to the user
        raise Damaged(f"{path}: the checkpoint's manifest cannot be read: {_first_line(error)}") from None
    if (version := record.get("digest_format")) != DIGEST_FORMAT:
        raise InputError(
            f"{path}: digests of format {shown(version)}, written by another version of covjax; make it again"
        )
    if record.pop("seal", None) != json_digest(record):
        raise Damaged(f"{path}: the checkpoint's manifest was changed or damaged")
    return record


def load(path: str | Path, like: Tree, manifest: Mapping[str, Any] | None = None) -> Tree:
    """Read a checkpoint back as NumPy arrays in the structure of `like` (whose leaves only name the places).

    With `manifest`, every entry in it must equal the saved one. Raises InputError, naming the leaf or the entry, for a
    missing checkpoint, other settings, a missing or extra leaf, and Damaged for truncation and flipped bytes.
    """
    found = load_complete(path, like, manifest)
    if found is None:
        raise InputError(f"{Path(path).resolve()}: no complete checkpoint")
    return found[0]


def load_complete(
    path: str | Path, like: Tree, manifest: Mapping[str, Any] | None = None
) -> tuple[Tree, dict[str, Any]] | None:
    """Tree and manifest of a complete checkpoint, None where there is none; else as `load`."""
    from orbax.checkpoint import v1 as ocp

    saved = read_manifest(path)
    path = Path(path).resolve()
    if saved is None:
        return None
    digests = saved.pop("digests")
    del saved["digest_format"]
    if manifest is not None:
        expected = json.loads(json.dumps(dict(manifest)))
        if lines := difference({k: v for k, v in saved.items() if k in expected}, expected):
            raise InputError(f"{path}: saved under other settings: {'; '.join(lines)}")
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(like)]
    if set(paths) != set(digests):
        odd = sorted(set(paths) ^ set(digests))[0]
        raise InputError(f"{path}: leaf {odd} is {'missing from' if odd in paths else 'unexpected in'} the checkpoint")
    try:
        with _ONE, _alone():
            stored = ocp.metadata(str(path), "state").metadata
            # Asked for as NumPy arrays: else Orbax wants the devices that they were saved from.
            wanted = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in stored.items()}
            flat = ocp.load_checkpointables(str(path), {"state": wanted})["state"]
    except Exception as error:  # truncated or deleted files; the type depends on the storage driver
        raise Damaged(f"{path}: the checkpoint's arrays cannot be read: {_first_line(error)}") from None
    tree = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(flat[name]) for name in paths])
    for name, digest in leaf_digests(tree).items():
        if digests[name] != digest:
            raise Damaged(f"{path}: leaf {name} does not match its digest: the file was changed or damaged")
    return tree, saved


def remove(path: str | Path) -> None:
    """Delete a checkpoint folder if it is there."""
    shutil.rmtree(path, ignore_errors=True)


def _alone() -> contextlib.AbstractContextManager:
    """For Orbax: what follows is this process's business; without it Orbax waits for all processes of a job."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    return context


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def write_in_helper(path: Path, flat: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """`checkpoint.write` in the helper; raises InputError like it."""
    helper = _helper()
    assert helper.stdin is not None
    assert helper.stdout is not None
    pickle.dump((path, dict(flat), dict(record)), helper.stdin, pickle.HIGHEST_PROTOCOL)
    helper.stdin.flush()
    if message := pickle.load(helper.stdout):
        raise InputError(message)


@functools.cache
def _helper() -> subprocess.Popen:
    command = [sys.executable, "-c", "from covjax.jobs import checkpoint; checkpoint.serve()"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}  # the accelerators are its parent's, and so is Ctrl-C
    helper = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
    )
    atexit.register(lambda: (helper.stdin and helper.stdin.close(), helper.wait()))
    return helper


def serve() -> None:
    """Write what comes through standard input until it ends, and answer each with "" or the user's error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get among the answers
    while True:
        try:
            path, flat, record = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            write(path, flat, record)
            message = ""
        except InputError as error:
            message = str(error)
        pickle.dump(message, answers)
        answers.flush()
