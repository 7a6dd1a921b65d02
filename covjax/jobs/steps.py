"""A folder of checkpoints, one per saved step: the newest complete one is where a killed run goes on."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.disk import Damaged
from covjax.jobs.distributed import agree, once

_STEP = re.compile(r"\d{8}")


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return Path(folder) / f"{step:08d}"


def saved_steps(folder: str | Path) -> list[int]:
    """Steps with a complete checkpoint, ascending; saves that never finished do not count."""
    paths = Path(folder).iterdir() if Path(folder).is_dir() else ()
    return sorted(int(p.name) for p in paths if _STEP.fullmatch(p.name) and (p / "_CHECKPOINT_METADATA").is_file())


def save_step(folder: str | Path, step: int, tree: Any, manifest: Mapping[str, Any], keep: int = 2) -> None:
    """Write a step's checkpoint, then remove all but the newest `keep` and what killed saves left behind.

    The old ones go only after the new one is whole, so there is a complete checkpoint at every moment.
    In a job of several processes this is the business of the one that calls it.
    Raises InputError where the folder cannot be written.
    """
    checkpoint.save(checkpoint_path(folder, step), tree, manifest)
    _remove_old(folder, keep)


def save_step_together(folder: str | Path, step: int, tree: Any, manifest: Mapping[str, Any], keep: int = 2) -> None:
    """`save_step` by all processes of a job, together; `tree` holds JAX arrays that lie on all of them."""
    if jax.process_count() == 1:
        return save_step(folder, step, tree, manifest, keep)
    checkpoint.save_together(checkpoint_path(folder, step), tree, manifest)
    once(lambda: _remove_old(folder, keep))


def _remove_old(folder: str | Path, keep: int) -> None:
    kept = {checkpoint_path(folder, s).name for s in saved_steps(folder)[-keep:]}
    for path in Path(folder).iterdir():
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def load_newest(folder: str | Path, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Tree and manifest of the newest checkpoint, or None where there is none.

    Raises InputError like `checkpoint.load`, naming the folder: other settings or other data (with the difference),
    flipped bytes, truncated files. An older checkpoint is never taken silently in its place.
    """
    steps = saved_steps(folder)
    return _load_newest(folder, steps[-1], like, manifest) if steps else None


def load_newest_together(folder: str | Path, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict] | None:
    """`load_newest` by all processes of a job: the newest checkpoint that process 0 sees, in every one of them.

    A listing of a shared folder may be a moment old; processes that go on from different steps would mix their batches.
    """
    newest = int(agree(np.int32(max(saved_steps(folder), default=-1))))
    return None if newest < 0 else _load_newest(folder, newest, like, manifest)


def _load_newest(folder: str | Path, step: int, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        return load_step(folder, step, like, manifest)
    except Damaged as error:
        older = [each for each in saved_steps(folder) if each < step]
        where = f"from step {older[-1]:,}" if older else "from the start"
        raise Damaged(f"{error}; remove that folder, and the same command goes on {where}") from None


def load_step(folder: str | Path, step: int, like: Any, manifest: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Tree and manifest of one step's checkpoint; raises InputError like `checkpoint.load`, also where it is absent."""
    path = checkpoint_path(folder, step)
    if (found := checkpoint.load_complete(path, like, manifest)) is None:
        raise InputError(f"{path}: process {jax.process_index()} does not see this checkpoint")
    return found
