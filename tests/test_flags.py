"""Everything that computes also does so under the flags that people set globally in JAX."""

import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from covjax import get_pooler
from covjax.autoencoders import make_autoencoder
from covjax.training.state import Step, TrainState
from tests.conftest import ROOT

# Flags that do not touch each other share a process: most of its time is compiling.
FLAGS = {
    "float64 by default, no silent broadcasting, the most precise product": (
        {
            "JAX_ENABLE_X64": "1",
            "JAX_NUMPY_RANK_PROMOTION": "raise",
            "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        },
        ["moments", "poolers", "probes", "autoencoders", "embedder"],
    ),
    "NaN is an error, the least precise product": (
        {"JAX_DEBUG_NANS": "1", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
        ["moments", "poolers", "probes"],
    ),
}


@pytest.mark.long
@pytest.mark.parametrize(("flags", "parts"), FLAGS.values(), ids=FLAGS)
def test_a_part_of_everything_under_flags(flags, parts):
    command = [sys.executable, "-W", "error", "-m", "tests.flags_check", *parts]
    environment = os.environ | flags
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == parts


def test_a_compiled_pooler_moves_nothing_between_host_and_device(rng):
    host = rng.normal(size=(9, 4)).astype(np.float32)
    x, w = jax.device_put((host, np.ones(9, np.float32)))
    for name in ("mean", "log_covariance", "sqrt_covariance", "covariance"):
        pool = jax.jit(get_pooler(name))
        expected = jax.device_get(pool(x, w))
        with jax.transfer_guard("disallow"):
            np.testing.assert_array_equal(jax.device_get(pool(x, w)), expected)
            with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
                pool(host, w)


def test_a_training_step_moves_nothing_between_host_and_device(rng):
    x = jax.device_put(rng.normal(size=(32, 4)).astype(np.float32))
    graph, state = nnx.split(TrainState(make_autoencoder("topk", 4, latents=8, k=2), optax.adam(1e-3)))
    step = Step(graph)
    state, _ = step(state, x, None)
    with jax.transfer_guard("disallow"):
        _, metrics = step(state, x, None)
    assert np.isfinite(float(metrics["loss"]))
