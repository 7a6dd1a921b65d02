"""Load an autoencoder by name: a folder of covjax or of another library, on disk or on the hub."""

import os
from pathlib import Path
from typing import Any

from covjax.autoencoders.saved import load_autoencoder
from covjax.autoencoders.sparse.saelens import LAYOUTS, load_saelens
from covjax.errors import InputError, shown

_SAVED = "_CHECKPOINT_METADATA"  # in every folder that `save_autoencoder` wrote


def load(name: str | Path) -> Any:
    """Return the autoencoder in a folder on disk or on the hub.

    A folder is one that `save_autoencoder` wrote, or one of `load_saelens`: SAELens, dictionary_learning, sparsify,
    Gemma Scope. "release/sae_id" is the folder sae_id of the folder release, and "owner/repository/sae_id"
    ("google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71") that of a repository of the hub, of which
    huggingface_hub fetches the files of this autoencoder alone into its cache. A folder that is here comes first.

    Raises InputError where there is no autoencoder at that name (naming those in the folders below it), where it
    cannot be fetched, and as `load_autoencoder` and `load_saelens`.
    """
    text = os.fspath(name)
    if os.path.isdir(text):  # not Path's own test, which raises for a name that is too long
        return _read(Path(text), text)
    parts = text.split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise InputError(f"{shown(text)}: no such folder; expected a folder, or owner/repository/folder of the hub")
    repository, inner = "/".join(parts[:2]), "/".join(parts[2:])
    folder = _fetch(repository, inner) / inner
    if not folder.is_dir():
        raise InputError(f"{shown(text)}: the repository {repository} has no autoencoder in {shown(inner)}")
    return _read(folder, text)


def _read(folder: Path, name: str) -> Any:
    if (folder / _SAVED).is_file():
        return load_autoencoder(folder)
    if any((folder / file).is_file() for file in LAYOUTS):
        return load_saelens(folder)
    inside = {file.parent for kind in (_SAVED, *LAYOUTS) for file in folder.rglob(kind)}
    below = sorted(each.relative_to(folder).as_posix() for each in inside)
    more = f"; there are some in {', '.join(below[:5])}{', …' * (len(below) > 5)}" if below else ""
    raise InputError(f"{shown(name)}: no autoencoder: no such file as {', '.join(LAYOUTS)}{more}")


def _fetch(repository: str, inner: str) -> Path:
    """The folder of a repository's files, of which those of one autoencoder are there."""
    from huggingface_hub import snapshot_download

    files = {file for tensors, others in LAYOUTS.items() for file in (tensors, *others)}
    patterns = [f"{inner}/{file}" if inner else file for file in sorted(files)]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # network, authorisation, no such repository: the hub raises many types
        raise InputError(
            f"{shown(repository)} is not a folder and cannot be fetched from the hub: {type(error).__name__}"
        ) from None
