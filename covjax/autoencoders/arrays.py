"""The state of a module as plain arrays, which is what checkpoints hold, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from covjax.errors import InputError


def to_arrays(state: nnx.State) -> Any:
    """The state as a pytree of plain NumPy arrays: random keys become their data."""

    def plain(leaf):
        return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)

    return jax.tree.map(plain, state)


def from_arrays(like: nnx.State, arrays: Any) -> nnx.State:
    """The state with the structure and types of `like` from `to_arrays`' arrays.

    Raises InputError naming the leaf whose shape or type differs.
    """

    def place(path, leaf, array):
        plain = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        if (plain.shape, plain.dtype) != (array.shape, array.dtype):
            raise InputError(
                f"checkpoint: leaf {jax.tree_util.keystr(path)} is {array.dtype}{list(array.shape)}, "
                f"expected {plain.dtype}{list(plain.shape)}"
            )
        if _is_key(leaf):
            return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return jnp.array(array)

    return jax.tree_util.tree_map_with_path(place, like, arrays)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
