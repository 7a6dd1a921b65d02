"""Everything that computes also does so under the flags that people set globally in JAX."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FLAGS = {
    "float64 by default": ({"JAX_ENABLE_X64": "1"}, ["moments", "probes"]),
    "NaN is an error": ({"JAX_DEBUG_NANS": "1"}, ["moments", "probes"]),
    "no silent broadcasting": ({"JAX_NUMPY_RANK_PROMOTION": "raise"}, ["moments"]),
    "the least precise product": ({"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"}, ["moments"]),
}


@pytest.mark.parametrize(("flag", "parts"), FLAGS.values(), ids=FLAGS)
def test_a_part_of_everything_under_a_flag(flag, parts):
    command = [sys.executable, "-W", "error", "-m", "tests.flags_check", *parts]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | flag, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == parts
