"""Fixtures shared by all tests: where the real data lies, and a seeded generator."""

import gc
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import config, install_import_hook
from threadpoolctl import threadpool_limits

from tests import annotations  # noqa: F401  (the hook below looks it up by name)

ROOT = Path(__file__).resolve().parent.parent
# Compiling takes most of the time of these tests. So it takes a third of it, and the numbers are the same up to
# rounding; what is compared bit by bit comes from equal programs. `XLA_FLAGS= pytest` compiles as a user's run does,
# and so do the slow tests.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


# One compilation cache for all runs on a machine, their workers and the commands that tests start, which compile the
# same programs many times over. Small programs too: reading one takes a sixth of the time of compiling it. It may be
# removed at any time; grown beyond a GiB by many changes of the code, it is.
COMPILED = ROOT / ".pytest_cache" / "compiled"


def pytest_configure(config: pytest.Config) -> None:
    """Before jax and covjax are imported. Commands that tests start have the variables, and no checks, as a user's."""
    # Threads of OpenBLAS wait by spinning: on two cores with two workers that takes many times what they compute.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threadpool_limits(1)  # of NumPy, which a plugin of pytest may have imported
    if "not slow" in config.option.markexpr or config.option.markexpr == "long":
        os.environ.setdefault("XLA_FLAGS", QUICK)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        if sum(path.stat().st_size for path in COMPILED.glob("*/*")) > 2**30:
            shutil.rmtree(COMPILED, ignore_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED / platform.node())
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Every call into covjax checks its annotations, and axes of one name are of one length within a call.
    install_import_hook("covjax", "tests.annotations.check")


def pytest_collection_finish() -> None:
    """What the imports left is looked at no more when garbage is collected."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and small real weights (`COVJAX_SHARED`, default ../shared); skips where it is absent."""
    path = Path(os.environ.get("COVJAX_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"real data folder {path} is absent (set COVJAX_SHARED)")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked: arguments of a wrong type reach covjax, which has a message of its own for them."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
