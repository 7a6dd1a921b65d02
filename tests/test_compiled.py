"""Compiled programs on disk: where they lie, what switches that off, and that results stay the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from covjax.jobs import compiled

PROGRAM = """
import jax, jax.numpy as jnp
from covjax.jobs.compiled import store_compiled_programs
print(store_compiled_programs())
print(jax.config.jax_compilation_cache_max_size)
print(float(jax.jit(lambda x: jnp.linalg.eigvalsh(x @ x.T).sum())(jnp.arange(36.0).reshape(6, 6))).hex())
"""


def run(cache: Path, **environment: str) -> list[str]:
    """Folder, bound and result of a fresh process, without any other setting of the cache than these."""
    settings = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    settings |= {"XDG_CACHE_HOME": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.long
def test_a_second_process_reads_what_the_first_one_compiled(tmp_path):
    folder, bound, first = run(tmp_path)
    assert Path(folder) == tmp_path / "covjax" / "compiled" / compiled.machine_kind()
    assert int(bound) == compiled.MOST_BYTES
    programs = {path: path.stat().st_mtime_ns for path in Path(folder).glob("*-cache")}
    assert programs
    assert run(tmp_path) == [folder, bound, first]
    assert {path: path.stat().st_mtime_ns for path in Path(folder).glob("*-cache")} == programs  # no second compilation


@pytest.mark.long
def test_what_the_user_set_stays(tmp_path):
    own = tmp_path / "own"
    folder, bound, _ = run(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(own))
    assert folder == "None"
    assert int(bound) == -1
    assert list(own.glob("*-cache"))
    assert not (tmp_path / "cache").exists()
    folder, _, _ = run(tmp_path / "cache", JAX_ENABLE_COMPILATION_CACHE="false")
    assert folder == "None"
    assert not (tmp_path / "cache").exists()
    folder, bound, _ = run(tmp_path / "cache", JAX_COMPILATION_CACHE_MAX_SIZE="1000000")
    assert folder != "None"
    assert bound == "1000000"


def test_a_folder_that_cannot_be_made_changes_nothing(tmp_path):
    (tmp_path / "covjax").write_text("a file")
    assert run(tmp_path)[0] == "None"


def test_the_cache_folder_is_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compiled.cache_folder() == tmp_path / ".cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiled.cache_folder() == tmp_path / "cache"
