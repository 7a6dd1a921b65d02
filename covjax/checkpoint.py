"""Orbax checkpoints that say what they hold and notice when it is no longer true.

One folder = one pytree of arrays + one manifest (JSON) + a SHA-256 per leaf. Orbax makes the folder appear whole or not
at all; what it does not do is notice flipped bytes or a checkpoint made under other settings. Both are refused here.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from covjax.errors import InputError

Tree = Any


def leaf_digests(tree: Tree) -> dict[str, str]:
    """SHA-256 of dtype, shape and bytes for every leaf, by its path in the tree.

    Of an array spread over processes they are those of the whole; then all processes must call this together.
    """
    digests = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(whole(leaf))
        digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
        digest.update(array.view(np.uint8).data if array.size and array.ndim else array.tobytes())
        digests[jax.tree_util.keystr(path)] = digest.hexdigest()
    return digests


def whole(leaf: Array | np.ndarray) -> np.ndarray:
    """All of an array on the host, wherever it lies; all processes together where it is spread over them."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


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

    A checkpoint already at `path` is replaced. `manifest` must be plain JSON; a key "digests" is added.
    In a job of several processes this is the business of the one that calls it.
    Raises InputError where the folder cannot be written.
    """
    path = Path(path).resolve()
    flat = {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    record = json.loads(json.dumps(dict(manifest))) | {"digests": leaf_digests(tree)}
    if jax.process_count() == 1:
        write(path, flat, record)
    else:
        from covjax import writer

        writer.write(path, flat, record)


def save_together(path: str | Path, tree: Tree, manifest: Mapping[str, Any]) -> None:
    """`save` by all processes of a job into one checkpoint: each writes what it holds of arrays spread over them.

    All must call it together, with the same manifest, which process 0 writes.
    """
    flat = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    record = json.loads(json.dumps(dict(manifest))) | {"digests": leaf_digests(tree)}
    write(Path(path).resolve(), flat, record)


def write(path: Path, flat: Mapping[str, np.ndarray | Array], record: Mapping[str, Any]) -> None:
    """`save` of what `save` prepared: arrays by name, and the manifest with their digests."""
    from orbax.checkpoint import v1 as ocp  # a second of imports that users of the pure functions never pay

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ocp.save_checkpointables(str(path), {"state": dict(flat), "manifest": dict(record)}, overwrite=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """Manifest of a complete checkpoint; None where there is none (nothing there, or a save that never finished).

    Raises InputError where a checkpoint is there but its manifest is damaged.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(path).resolve()
    if not (path / "_CHECKPOINT_METADATA").is_file():  # Orbax's own test calls an empty folder a checkpoint
        return None
    try:
        with _alone():
            return dict(ocp.load_checkpointables(str(path), {"manifest": None})["manifest"])
    except Exception as error:  # Orbax raises many types here; all mean the same to the user
        raise InputError(f"{path}: the checkpoint's manifest cannot be read: {_first_line(error)}") from None


def load(path: str | Path, like: Tree, manifest: Mapping[str, Any] | None = None) -> Tree:
    """Read a checkpoint back as NumPy arrays in the structure of `like` (whose leaves only name the places).

    With `manifest`, every entry in it must equal the saved one. Raises InputError, naming the leaf or the entry, for a
    missing checkpoint, other settings, a missing or extra leaf, truncation, and flipped bytes.
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

    path = Path(path).resolve()
    saved = read_manifest(path)
    if saved is None:
        return None
    digests = saved.pop("digests")
    if manifest is not None:
        expected = json.loads(json.dumps(dict(manifest)))
        if lines := difference({k: v for k, v in saved.items() if k in expected}, expected):
            raise InputError(f"{path}: saved under other settings: {'; '.join(lines)}")
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(like)]
    if set(paths) != set(digests):
        odd = sorted(set(paths) ^ set(digests))[0]
        raise InputError(f"{path}: leaf {odd} is {'missing from' if odd in paths else 'unexpected in'} the checkpoint")
    try:
        with _alone():
            stored = ocp.checkpointables_metadata(str(path)).metadata["state"]
            # Asked for as NumPy arrays: else Orbax wants the devices that they were saved from.
            wanted = {name: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape) for name, leaf in stored.items()}
            flat = ocp.load_checkpointables(str(path), {"state": wanted})["state"]
    except Exception as error:  # truncated or deleted files; the type depends on the storage driver
        raise InputError(f"{path}: the checkpoint's arrays cannot be read: {_first_line(error)}") from None
    tree = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(flat[name]) for name in paths])
    for name, digest in leaf_digests(tree).items():
        if digests[name] != digest:
            raise InputError(f"{path}: leaf {name} does not match its digest: the file was changed or damaged")
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
