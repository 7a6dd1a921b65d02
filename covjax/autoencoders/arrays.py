"""The state of a module as plain arrays, which is what checkpoints hold, and back."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from covjax.checkpoint import whole
from covjax.distributed import agree
from covjax.errors import InputError


def plain(state: nnx.State) -> Any:
    """The state as a pytree of JAX arrays, where they lie: random keys become their data."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, state)


def to_arrays(state: nnx.State) -> Any:
    """The state as a pytree of plain NumPy arrays: random keys become their data. See `checkpoint.whole`."""
    return jax.tree.map(whole, plain(state))


def from_arrays(like: nnx.State, arrays: Any) -> nnx.State:
    """The state with the structure and types of `like` from `to_arrays`' arrays.

    Raises InputError naming the leaf whose shape or type differs.
    """

    def place(path, leaf, array):
        check_leaf(path, leaf, array)
        if is_key(leaf):
            return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(leaf))
        return jnp.array(array)

    return jax.tree_util.tree_map_with_path(place, like, arrays)


def agree_module(module: nnx.Module) -> None:
    """Give a module process 0's arrays in every process of a job; all must call it together."""
    if jax.process_count() > 1:
        state = nnx.state(module)
        nnx.update(module, from_arrays(state, agree(to_arrays(state))))


def check_leaf(path: Any, leaf: Any, array: Any) -> None:
    """Raise InputError naming a leaf of a state whose shape or type is not that of the array meant for it."""
    data = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
    if (data.shape, data.dtype) != (array.shape, array.dtype):
        raise InputError(
            f"checkpoint: leaf {jax.tree_util.keystr(path)} is {array.dtype}{list(array.shape)}, "
            f"expected {data.dtype}{list(data.shape)}"
        )


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
