"""Fixtures shared by all tests: where the real data lies, and a seeded generator."""

import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


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
