"""Batches of eigendecompositions: the same as one by one, and several in one program end on two threads."""

import subprocess
import sys

import jax
import numpy as np

from covjax.spectral import eigh


def test_eigh(rng):
    a = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    a = a + a.swapaxes(-1, -2)
    s, v = jax.jit(jax.vmap(jax.vmap(eigh)))(a)
    np.testing.assert_allclose(s, np.linalg.eigvalsh(a.astype(np.float64)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.einsum("...ij,...j,...kj->...ik", v, s, v), a, atol=1e-5)


PROGRAM = """
import os
os.sched_setaffinity(0, set(list(os.sched_getaffinity(0))[:2]))  # XLA's pool has a thread a core
import jax, jax.numpy as jnp
from covjax import get_pooler
names = ("sqrt_covariance", "log_second_moment", "sqrt_second_moment", "log_covariance")
poolers = [get_pooler(name) for name in names]
pool = jax.jit(jax.vmap(lambda x: [pooler(x) for pooler in poolers]))
x = jax.random.normal(jax.random.key(0), (64, 16, 8))
for _ in range(20):
    jax.block_until_ready(pool(x))
print("done")
"""


def test_several_batches_in_one_program_do_not_wait_for_each_other():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.stdout.split()[-1:] == ["done"], done.stderr[-2000:]
