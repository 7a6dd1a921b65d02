"""Eigendecomposition of symmetric matrices that survives `vmap` on a CPU."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_batching.custom_vmap
def eigh(a: Float[Array, "d d"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Eigenvalues, ascending, and eigenvectors in columns; a batch goes matrix by matrix on a CPU.

    There XLA hands a batch to its thread pool from inside that pool and waits: two batches in one compiled program, on
    two cores, wait for each other for ever (seen with JAX 0.10.2, `jax::ParallelBatchMap`). One matrix runs where it
    is. Has no derivative of its own; `covjax.spectral` defines them.
    """
    s, v = jnp.linalg.eigh(a)
    return s, v


@eigh.def_vmap
def _eigh_batch(axis_size, in_batched, a):
    def together(a):
        s, v = jnp.linalg.eigh(a)
        return s, v

    # The loop's body is `eigh` again, so that a batch of batches becomes a loop in a loop.
    return jax.lax.platform_dependent(a, cpu=lambda a: jax.lax.map(eigh, a), default=together), (True, True)
