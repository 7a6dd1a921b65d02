"""A folder of checkpoints, one per saved step: the newest complete one is where a killed run goes on."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from covjax import checkpoint
from covjax.distributed import once

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
    In a job of several processes all call it together, and `tree` holds JAX arrays that lie on all of them.
    Raises InputError where the folder cannot be written.
    """
    save = checkpoint.save if jax.process_count() == 1 else checkpoint.save_together
    save(checkpoint_path(folder, step), tree, manifest)
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
    return checkpoint.load_complete(checkpoint_path(folder, steps[-1]), like, manifest) if steps else None
