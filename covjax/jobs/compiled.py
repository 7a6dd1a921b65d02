"""Compiled programs stay on disk between commands, so that only the first run compiles them."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Any

import jax

MOST_BYTES = 1 << 29  # programs used longest ago make room
SECONDS = 0.2  # what compiles faster is not stored
SETTINGS: dict[str, int | float] = {
    "jax_compilation_cache_max_size": MOST_BYTES,
    "jax_persistent_cache_min_compile_time_secs": SECONDS,
}


def store_compiled_programs() -> Path | None:
    """Switch on JAX's persistent compilation cache in the user's cache folder; returns its part for this machine.

    `covjax/compiled` in `$XDG_CACHE_HOME` (`~/.cache`), at most 512 MiB a kind of machine. Settings of JAX that the
    user made stay (`JAX_COMPILATION_CACHE_DIR`, …). None, and nothing changes, where the user named a folder or
    switched the cache off (`JAX_ENABLE_COMPILATION_CACHE=false`), and where the folder cannot be written.
    """
    config: Any = jax.config  # whose settings jax's own types do not name
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    folder = cache_folder() / "covjax" / "compiled" / machine_kind()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    config.update("jax_compilation_cache_dir", str(folder))
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            config.update(name, value)
    return folder


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME`, or `~/.cache` where it is not set or no absolute path."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path(os.path.expanduser("~")) / ".cache"


def machine_kind() -> str:
    """A name of the processor and its instructions: programs compiled for one CPU may not run on another.

    JAX's own key of a program does not have them, and a home folder is often shared by machines of several kinds.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    facts = {line.split(":")[0].strip(): line for line in lines if line.startswith(wanted)}  # one of each, cores alike
    text = "\n".join([platform.machine(), platform.processor(), *facts.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
