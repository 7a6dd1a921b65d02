"""Autoencoders as folders: arrays, kind and options."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from covjax.autoencoders.base import autoencoder_kinds, make_autoencoder, source_file
from covjax.errors import InputError, shown
from covjax.jobs import checkpoint
from covjax.jobs.checkpoint import whole
from covjax.jobs.distributed import agree


def plain(state: nnx.State) -> Any:
    """The state as a pytree of JAX arrays on their devices; random keys become their data."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, state)


def to_arrays(state: nnx.State) -> Any:
    """The state as a pytree of plain NumPy arrays: random keys become their data. See `checkpoint.whole`."""
    return jax.tree.map(whole, plain(state))


def from_arrays(like: nnx.State, arrays: Any) -> nnx.State:
    """The state with the structure and types of `like` from `to_arrays`' arrays.

    Raises InputError naming the leaf whose shape or type differs.
    """

    def place(path, leaf, array):
        check_leaf(path, leaf, array)
        if is_key(leaf):
            return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return jnp.array(array)

    return jax.tree_util.tree_map_with_path(place, like, arrays)


def agree_module(module: nnx.Module) -> None:
    """Give the module in every process the arrays of process 0; all processes must call this together."""
    if jax.process_count() > 1:
        state = nnx.state(module)
        nnx.update(module, from_arrays(state, agree(to_arrays(state))))


def check_leaf(path: Any, leaf: Any, array: Any) -> None:
    """Raise InputError that names a leaf of a state if its shape or type differs from that of its array."""
    data = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    if (data.shape, data.dtype) != (array.shape, array.dtype):
        raise InputError(
            f"checkpoint: leaf {jax.tree_util.keystr(path)} is {array.dtype}{list(array.shape)}, "
            f"expected {data.dtype}{list(data.shape)}"
        )


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# What decides, beside the arrays, which have digests of their own, what the autoencoder computes.
DECIDES = ("autoencoder", "features", "options")


def save_autoencoder(
    path: str | Path,
    model: nnx.Module,
    kind: str,
    features: int,
    options: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> None:
    """Write parameters and statistics, with the kind and options that `make_autoencoder` was given.

    `data` says what it was trained on (plain JSON; the digest of an encoder's weights among it) and is kept beside; so
    is the file of a kind that is not covjax's own.
    """
    manifest: dict[str, Any] = {"autoencoder": kind, "features": features, "options": dict(options)}
    if kind in autoencoder_kinds() and (source := source_file(kind)):
        manifest["source"] = str(source)
    manifest["data"] = None if data is None else dict(data)
    checkpoint.save(path, to_arrays(nnx.state(model)), manifest)


def load_autoencoder(path: str | Path) -> Any:
    """The autoencoder that `save_autoencoder` wrote; its kind must be registered.

    Raises InputError for anything else at `path`, a kind that is not registered (naming the file that registers it),
    and changed, truncated or missing files: arrays and manifest are compared with their digests.
    """
    manifest = checkpoint.read_manifest(path)
    if manifest is None or "autoencoder" not in manifest:
        raise InputError(f"{path}: no autoencoder is saved there")
    if missing := [name for name in DECIDES if name not in manifest]:
        raise InputError(f"{path}: the manifest lacks {missing[0]}: the file was changed or damaged")
    if (kind := manifest["autoencoder"]) not in autoencoder_kinds():
        file = manifest.get("source")
        where = f"import {Path(file).stem} first, {file}" if file else "import the file that registers it first"
        raise InputError(f"{path}: the kind {shown(kind)} is not registered here; {where}")
    model = make_autoencoder(kind, manifest["features"], **manifest["options"])
    state = nnx.state(model)
    nnx.update(model, from_arrays(state, checkpoint.load(path, state)))
    return model
