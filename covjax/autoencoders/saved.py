"""A trained autoencoder on disk: its kind, options and whole state, digests checked when it is read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from covjax import checkpoint
from covjax.autoencoders.arrays import from_arrays, to_arrays
from covjax.autoencoders.registry import make_autoencoder
from covjax.errors import InputError


def save_autoencoder(path: str | Path, model: nnx.Module, kind: str, features: int, options: Mapping[str, Any]) -> None:
    """Write parameters and statistics under the kind and options that `make_autoencoder` made the module from."""
    manifest = {"autoencoder": kind, "features": features, "options": dict(options)}
    checkpoint.save(path, to_arrays(nnx.state(model)), manifest)


def load_autoencoder(path: str | Path) -> Any:
    """The autoencoder that `save_autoencoder` wrote; its kind must be registered.

    Raises InputError for anything else at `path`, an unknown kind, and changed, truncated or missing files.
    """
    manifest = checkpoint.read_manifest(path)
    if manifest is None or "autoencoder" not in manifest:
        raise InputError(f"{path}: no autoencoder is saved there")
    model = make_autoencoder(manifest["autoencoder"], manifest["features"], **manifest["options"])
    state = nnx.state(model)
    nnx.update(model, from_arrays(state, checkpoint.load(path, state)))
    return model
