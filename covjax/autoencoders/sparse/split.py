"""Latents split over the devices of a mesh: what is looked up by a latent's number is looked up where it lies.

Left to XLA, a row of a split matrix is found by a masked copy of it and a sum over all devices, once for each of a
token's k places, and the k largest of a token by gathering all of its pre-activations everywhere. Here every device
works on its own latents; (tokens, features) sums and k candidates a device travel.

The mesh is that of JAX's context (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`), with the axes "data" (tokens) and
"model" (latents), which `covjax.training.state` sets.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int


def active(latents: int) -> bool:
    """Whether that many latents are split where this is traced."""
    shape = dict(jax.sharding.get_abstract_mesh().shape)
    return "data" in shape and shape.get("model", 1) > 1 and latents % shape["model"] == 0


def apart(local: Callable[..., Any], lies: str, gives: str, *arrays: Array) -> Any:
    """`local` on every device's part of the arrays, which lie by "t" tokens, "l" latents, or "b": tokens × latents.

    One letter for each array and each result. Tokens that cannot be divided over "data" lie on every device.
    """
    rows = _rows(next(array for array, letter in zip(arrays, lies) if letter in "tb").shape[0])
    specs = {"t": PartitionSpec(rows), "l": PartitionSpec("model"), "b": PartitionSpec(rows, "model")}
    out = tuple(specs[letter] for letter in gives)
    # The loops inside begin with zeros, which belong to no device yet: not what the check of varying types expects.
    run = jax.shard_map(
        local, in_specs=tuple(specs[c] for c in lies), out_specs=out if len(out) > 1 else out[0], check_vma=False
    )
    return run(*arrays)


def own(indices: Int[Array, "tokens k"], latents: int) -> tuple[Int[Array, "tokens k"], Bool[Array, "tokens k"]]:
    """Places among this device's `latents`, 0 where it is another's, and where it is this one's; inside `apart`."""
    place = indices - jax.lax.axis_index("model") * latents
    mine = (place >= 0) & (place < latents)
    return jnp.where(mine, place, 0), mine


def over_latents(x: Array) -> Array:
    """The sum over the devices that share the latents; inside `apart`."""
    return jax.lax.psum(x, "model")


def over_tokens(x: Array, tokens: int) -> Array:
    """The sum over the devices that share `tokens` tokens of the whole batch; inside `apart`."""
    return x if _rows(tokens) is None else jax.lax.psum(x, "data")


def largest(pre: Float[Array, "tokens latents"], k: int) -> tuple[Float[Array, "tokens k"], Int[Array, "tokens k"]]:
    """`jax.lax.top_k`: of every device its own k largest, of these the k largest; the first of equal ones."""

    def local(pre):
        values, indices = jax.lax.top_k(pre, min(k, pre.shape[1]))
        indices += jax.lax.axis_index("model") * pre.shape[1]
        values, indices = (jax.lax.all_gather(a, "model", axis=1, tiled=True) for a in (values, indices))
        values, chosen = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(indices, chosen, axis=1)

    return apart(local, "b", "tt", pre)


def _rows(tokens: int) -> str | None:
    return "data" if tokens % jax.sharding.get_abstract_mesh().shape["data"] == 0 else None
