"""Your own model instead of a named encoder: a JAX function, or activations from another program."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.base import Encoder, check_text, layer_index, pad_rows
from covjax.errors import InputError, shown
from covjax.tokens import TokensLike, WeightsLike

Function = Callable[[Int[Array, "t"], Bool[Array, "t"]], Any]


def from_function(
    name: str,
    function: Function,
    encode: Mapping[str, int] | Callable[[str], Sequence[int]],
    pad: int = 0,
    special: Sequence[int] = (),
) -> Encoder:
    """Make an encoder from a JAX function of ONE sequence: (tokens (t,), mask (t,)) → (t, d), or one array per layer.

    `encode` is a mapping from letters to numbers, or a function from a sequence to token ids. Padding has the id `pad`
    and is False in the mask; it must not change the real tokens (`check_padding_invariance`). The ids `special` are
    never pooled. Pass large parameters by `jax.tree_util.Partial(function, parameters)`, which calls the function with
    the parameters first; arrays in the closure of a plain function are compiled into the program. To make it known to
    `load`, use `register_encoder(name, lambda dtype: from_function(…))`. The name stands for the code: caches and runs
    know the parameters' values, but not the function, so another function needs another name. Raises InputError if the
    function returns anything else.
    """
    return _FunctionEncoder(name, function, encode, pad, special)


class _FunctionEncoder:
    def __init__(
        self,
        name: str,
        function: Function,
        encode: Mapping[str, int] | Callable[[str], Sequence[int]],
        pad: int,
        special: Sequence[int],
    ):
        self.name = name
        self._function = function if isinstance(function, jax.tree_util.Partial) else jax.tree_util.Partial(function)
        self._encode, self._pad, self._special = encode, pad, list(special)
        length = 8
        arguments = (jax.ShapeDtypeStruct((length,), jnp.int32), jax.ShapeDtypeStruct((length,), jnp.bool_))
        shapes = _as_layers(jax.eval_shape(self._function, *arguments))
        for layer, shape in enumerate(shapes):
            ok = (
                getattr(shape, "ndim", 0) == 2
                and shape.shape[0] == length
                and jnp.issubdtype(shape.dtype, jnp.floating)
            )
            if not ok:
                raise InputError(
                    f"encoder {name!r}: layer {layer} of {length} tokens is {shape}, "
                    f"expected ({length}, features) floats"
                )
        self._widths = [shape.shape[1] for shape in shapes]
        self.num_layers = len(shapes)
        # Parameters and the arrays a closure holds; the code itself has no digest.
        held = [*jax.tree.leaves(self._function), *jax.make_jaxpr(self._function)(*arguments).consts]
        digest = hashlib.sha256(name.encode())
        for array in map(np.asarray, held):
            digest.update(f"{array.dtype.name}{array.shape}".encode() + array.tobytes())
        self.weights_digest = digest.hexdigest()

    def features(self, layer: int) -> int:
        """Width of one token at a layer."""
        return self._widths[layer_index(layer, self.num_layers)]

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """Token ids; raises InputError for an unknown letter and a sequence of which nothing is pooled."""
        check_text(sequence)
        if isinstance(self._encode, Mapping):
            for position, letter in enumerate(sequence, start=1):
                if letter not in self._encode:
                    raise InputError(f"unknown letter {letter!r} at position {position}")
            ids = np.array([self._encode[letter] for letter in sequence], np.int32)
        else:
            ids = np.asarray(self._encode(sequence))
            if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or not _fits(ids))):
                raise InputError(
                    f"encode: {self.name} gives {ids.dtype} of shape {ids.shape} for {shown(sequence, 20)}; one row of "
                    "whole numbers below 2^31 is needed, a number for every token"
                )
            ids = ids.astype(np.int32)
        if np.isin(ids, self._special).all():
            raise InputError(f"the sequence {sequence[:20]!r} has no token to pool")
        return ids

    def pad(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Tokens, the mask the function sees, the mask to pool."""
        tokens, mask = pad_rows(rows, length, self._pad)
        return tokens, mask, mask & ~np.isin(tokens, self._special)

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t _"]]:
        """The function over the batch, jitted; masked tokens are zeroed."""
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        found = _apply(self._function, tokens, mask)
        return {layer: found[number] for layer, number in numbers.items()}


def _fits(ids: Int[np.ndarray, "t"]) -> bool:
    limits = np.iinfo(np.int32)
    return limits.min <= ids.min() and ids.max() <= limits.max


def _as_layers(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


@jax.jit
def _apply(function: jax.tree_util.Partial, tokens: Array, mask: Array) -> tuple[Array, ...]:
    return tuple(jnp.where(mask[..., None], x, 0) for x in _as_layers(jax.vmap(function)(tokens, mask)))


def from_arrays(
    activations: Iterable[TokensLike],
    masks: Iterable[WeightsLike] | None = None,
    token_budget: int = 16384,
) -> Iterator[tuple[Int[np.ndarray, "rows"], dict[int, Float[np.ndarray, "b t _"]], Bool[np.ndarray, "b t"]]]:
    """Batches like those of `embed`, made from activations, one (t, d) array per sequence, as layer 0.

    Takes a list, an (n, t, d) array or an iterator, which is read once: a batch is yielded as soon as it is full, so
    rows come in no fixed order. `masks` marks the tokens to pool, all by default. Lengths are padded up to powers of
    two, which keeps the shapes few; the last batch of a length is filled up with unpooled zeros. A batch has the widest
    type of its arrays.
    Raises InputError naming the row for another width, a mask of another length or with no token in it, and NaN or
    infinity under the mask; TypeError for integers.
    """
    waiting: dict[int, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    width = None
    given = iter(masks) if masks is not None else None
    for row, array in enumerate(activations):
        x = np.asarray(array)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"activations: row {row} is {x.dtype}, expected floating point")
        mask = np.ones(len(x), bool) if given is None else np.asarray(next(given, ()), bool)
        width = x.shape[-1] if width is None else width
        if x.ndim != 2 or x.shape[1] != width or mask.shape != x.shape[:1] or not mask.any():
            raise InputError(
                f"activations: row {row} is {x.shape} with a mask {mask.shape} of {mask.sum()} tokens, "
                f"expected (tokens, {width}) and a mask of as many tokens, at least one to pool"
            )
        if not np.isfinite(x[mask].astype(np.float32)).all():
            raise InputError(f"activations: row {row} has NaN or infinity")
        length = 1 << (len(x) - 1).bit_length()
        bucket = waiting.setdefault(length, [])
        bucket.append((row, x, mask))
        if (len(bucket) + 1) * length > token_budget:
            yield _batch(waiting.pop(length), length, max(1, token_budget // length))
    for length, bucket in waiting.items():
        yield _batch(bucket, length, max(1, token_budget // length))


def _batch(
    bucket: list[tuple[int, np.ndarray, np.ndarray]], length: int, size: int
) -> tuple[np.ndarray, dict[int, np.ndarray], np.ndarray]:
    dtype = functools.reduce(jnp.promote_types, (x.dtype for _, x, _ in bucket))
    out = np.zeros((size, length, bucket[0][1].shape[1]), dtype)
    pool = np.zeros((size, length), bool)
    for place, (_, x, mask) in enumerate(bucket):
        out[place, : len(x)], pool[place, : len(x)] = np.where(mask[:, None], x, 0), mask
    return np.array([row for row, _, _ in bucket]), {0: out}, pool
