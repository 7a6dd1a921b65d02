"""A trained autoencoder on disk: its kind, options and whole state, digests checked when it is read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from covjax import checkpoint
from covjax.autoencoders.arrays import from_arrays, to_arrays
from covjax.autoencoders.registry import make_autoencoder
from covjax.errors import InputError

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
    """Write parameters and statistics under the kind and options that `make_autoencoder` made the module from.

    `data` says what it was trained on (plain JSON; the digest of an encoder's weights among it) and is kept beside.
    """
    manifest: dict[str, Any] = {"autoencoder": kind, "features": features, "options": dict(options)}
    manifest["data"] = None if data is None else dict(data)
    checkpoint.save(path, to_arrays(nnx.state(model)), manifest)


def load_autoencoder(path: str | Path) -> Any:
    """The autoencoder that `save_autoencoder` wrote; its kind must be registered.

    Raises InputError for anything else at `path`, an unknown kind, and changed, truncated or missing files: arrays and
    manifest are compared with their digests.
    """
    manifest = checkpoint.read_manifest(path)
    if manifest is None or "autoencoder" not in manifest:
        raise InputError(f"{path}: no autoencoder is saved there")
    if missing := [name for name in DECIDES if name not in manifest]:
        raise InputError(f"{path}: the manifest lacks {missing[0]}: the file was changed or damaged")
    model = make_autoencoder(manifest["autoencoder"], manifest["features"], **manifest["options"])
    state = nnx.state(model)
    nnx.update(model, from_arrays(state, checkpoint.load(path, state)))
    return model
