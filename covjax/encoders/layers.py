"""Parts of Transformers: dense layers, norms, attention, rotary and relative positions, activation functions."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.weights import Tensors
from covjax.modelfiles import empty

# Added to a score nobody may see: exp gives 0, and no sum overflows where nothing may be seen.
UNSEEN = -1e30
# True where a token is, or several sequences in a row: 1, 2, … the sequence of every token, 0 padding.
Mask = Bool[Array, "b t"] | Int[Array, "b t"]


class Dense(nnx.Module):
    """x W + b, or x W where the checkpoint has no bias, with W stored (inputs, outputs). Products add up in float32.

    Several names make one matrix product whose outputs lie side by side, `outputs` each or one number for each name.
    `transposed`: the file has (inputs, outputs) already. `order`: the outputs of the file in another order.
    """

    def __init__(
        self,
        tensors: Tensors,
        names: Sequence[str],
        inputs: int,
        outputs: int | Sequence[int],
        bias: bool = True,
        transposed: bool = False,
        order: Int[np.ndarray, "outputs"] | None = None,
    ):
        widths = [outputs] * len(names) if isinstance(outputs, int) else list(outputs)
        shapes = [(inputs, width) if transposed else (width, inputs) for width in widths]
        for name, shape in zip(names, shapes, strict=True):
            tensors.check(f"{name}.weight", *shape)  # before anything of that size is allocated
        # Filled name by name, so that beside it only one tensor of the checkpoint is in memory.
        kernel, end = empty((inputs, sum(widths)), tensors.dtype), 0
        for name, shape, width in zip(names, shapes, widths):
            array = tensors.take(f"{name}.weight", *shape)
            array = array if transposed else array.T
            kernel[:, end : end + width] = array if order is None else array[:, order]
            end += width
        self.kernel = nnx.Param(jnp.asarray(kernel))
        shifts = [tensors.take(f"{name}.bias", width) for name, width in zip(names, widths)] if bias else []
        shifts = shifts if order is None else [shift[order] for shift in shifts]
        self.bias = nnx.Param(jnp.asarray(np.concatenate(shifts))) if bias else None

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        """Apply to the last axis."""
        y = jnp.matmul(x, self.kernel[...], preferred_element_type=jnp.float32)
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x − mean) / sqrt(variance + eps) ∘ scale + bias over the last axis (Ba et al. 2016), in float32."""

    def __init__(self, tensors: Tensors, name: str, width: int, eps: float, bias: bool = True):
        self.scale = nnx.Param(jnp.asarray(tensors.take(f"{name}.weight", width)))
        self.bias = nnx.Param(jnp.asarray(tensors.take(f"{name}.bias", width))) if bias else None
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalise the last axis."""
        full = x.astype(jnp.float32)
        centred = full - full.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        y = centred * scale * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / sqrt(mean of x² + eps) ∘ (offset + scale) over the last axis (Zhang and Sennrich 2019), in float32."""

    def __init__(self, tensors: Tensors, name: str, width: int, eps: float, offset: float = 0.0):
        self.scale = nnx.Param(jnp.asarray(tensors.take(f"{name}.weight", width)))
        self.eps, self.offset = eps, offset

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalise the last axis."""
        full = x.astype(jnp.float32)
        full = full * jax.lax.rsqrt((full**2).mean(-1, keepdims=True) + self.eps)
        return (full * (self.scale[...].astype(jnp.float32) + self.offset)).astype(x.dtype)


Seen = Bool[Array, "b _ t"]  # for every query, or one row for all of them: the keys that it attends to


def attention(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t h c"],
    v: Float[Array, "b t h c"],
    seen: Seen,
    scale: float | None = None,
    bias: Float[Array, "h t t"] | None = None,
    cap: float | None = None,
) -> Float[Array, "b t d"]:
    """Dot-product attention (Vaswani et al. 2017), softmax in float32; see `attended` for who sees whom.

    Scores are q · k times `scale` (1 / sqrt(c)), then cap tanh(score / cap), then plus `bias`.
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q * (q.shape[-1] ** -0.5 if scale is None else scale), k, v))
    by_head, whole = (functools.partial(mix, cap=cap) for mix in (_mix_by_head, _mix))
    fused = bias is None and cap is None and _has_fused(q)
    cuda = (lambda q, k, v, seen, _: _fused(q, k, v, seen)) if fused else whole
    mixed = jax.lax.platform_dependent(q, k, v, seen, bias, cpu=by_head, cuda=cuda, default=whole)
    return mixed.swapaxes(1, 2).reshape(q.shape[0], q.shape[2], -1)


def attention_map(
    q: Float[Array, "b t h c"],
    k: Float[Array, "b t h c"],
    seen: Seen,
    scale: float | None = None,
    bias: Float[Array, "h t t"] | None = None,
    cap: float | None = None,
) -> Float[Array, "b h t t"]:
    """The shares that `attention` gives to every key, in float32; rows add up to 1."""
    q, k = (x.swapaxes(1, 2) for x in (q * (q.shape[-1] ** -0.5 if scale is None else scale), k))
    return _shares(q, k, seen, bias, cap)


def _capped(scores: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    return scores if cap is None else jnp.tanh(scores / cap) * cap


def _shares(q: Array, k: Array, seen: Array, bias: Array | None, cap: float | None) -> Float[Array, "b h t t"]:
    scores = _capped(jnp.einsum("bhqc,bhkc->bhqk", q, k, preferred_element_type=jnp.float32), cap)
    scores = scores if bias is None else scores + bias
    return jax.nn.softmax(jnp.where(seen[:, None], scores, jnp.finfo(scores.dtype).min), -1)


def _mix(q: Array, k: Array, v: Array, seen: Array, bias: Array | None, cap: float | None) -> Float[Array, "b h t c"]:
    shares = _shares(q, k, seen, bias, cap).astype(v.dtype)
    return jnp.einsum("bhqk,bhkc->bhqc", shares, v, preferred_element_type=jnp.float32).astype(v.dtype)


def _has_fused(q: Array) -> bool:
    """Whether cuDNN's attention takes these on this process's GPU: two bytes a number, small heads, even lengths."""
    device = jax.devices()[0]
    cuda = "cuda" in device.client.platform_version and float(device.compute_capability) >= 8  # A100 and later
    b, _, t, c = q.shape
    return cuda and b > 0 and q.dtype in (jnp.bfloat16, jnp.float16) and c % 8 == 0 and c <= 128 and t % 2 == 0


def _cudnn(q: Array, k: Array, v: Array, seen: Array) -> Array:
    seen = jnp.broadcast_to(seen[:, None], (q.shape[0], 1, q.shape[2], q.shape[2]))
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, mask=seen, scale=1.0, implementation="cudnn").swapaxes(1, 2)


_whole = functools.partial(_mix, bias=None, cap=None)


def _but_whole_in_a_batch(make: Callable[[Callable[..., Array]], Callable[..., Any]]) -> Callable[..., Any]:
    """`make` of cuDNN's attention, and of `_whole` under `vmap`, which cuDNN's has for masks of every head alone."""
    function = jax.custom_batching.custom_vmap(make(_cudnn))

    @function.def_vmap
    def _(axis_size, in_batched, *arrays):
        result = jax.vmap(make(_whole), in_axes=tuple(0 if each else None for each in in_batched))(*arrays)
        return result, jax.tree.map(lambda _: True, result)

    return function


def _slopes(mix: Callable[..., Array]) -> Callable[..., Any]:
    def slopes(q, k, v, seen, cotangent):
        return jax.vjp(lambda q, k, v: mix(q, k, v, seen), q, k, v)[1](cotangent)

    return slopes


# As `_mix`, by cuDNN, which never writes the scores to memory; under `vmap` by `_mix`. Not for forward mode.
_forward, _backward = _but_whole_in_a_batch(lambda mix: mix), _but_whole_in_a_batch(_slopes)
_fused = jax.custom_vjp(lambda q, k, v, seen: _forward(q, k, v, seen))
_fused.defvjp(
    lambda q, k, v, seen: (_forward(q, k, v, seen), (q, k, v, seen)),
    lambda saved, cotangent: (*_backward(*saved, cotangent), None),
)


def _mix_by_head(
    q: Array, k: Array, v: Array, seen: Array, bias: Array | None, cap: float | None
) -> Float[Array, "b h t c"]:
    """As `_mix`, one head of one sequence after the other: its scores stay in a CPU's cache, 3 to 5 times faster."""
    b, h, t, c = q.shape

    def one(head):
        q, k, v, i = head
        scores = _capped(q @ k.T, cap) + jnp.where(seen[i // h], 0, UNSEEN)
        scores = scores if bias is None else scores + bias[i % h]
        shares = jnp.exp(scores - scores.max(-1, keepdims=True))
        return (shares @ v) / shares.sum(-1, keepdims=True)

    heads = (x.reshape(b * h, t, c).astype(jnp.float32) for x in (q, k, v))
    return jax.lax.map(one, (*heads, jnp.arange(b * h))).reshape(b, h, t, c).astype(v.dtype)


def attended(mask: Mask, causal: bool = False, reach: int | None = None) -> Seen:
    """Whom a token attends to: its own sequence, no padding; `causal`: itself and tokens before it; `reach` at most.

    The axis of queries is 1 where all agree.
    """
    if mask.dtype == jnp.bool_:
        seen = mask[:, None, :]
    else:
        seen = (mask[:, :, None] == mask[:, None, :]) & (mask[:, None, :] > 0)
    back = distances(mask.shape[1])
    if causal:
        seen = seen & (back >= 0)
    return seen if reach is None else seen & (abs(back) <= reach)


def distances(length: int) -> Int[Array, "t t"]:
    """Place of the query minus place of the key."""
    return jnp.arange(length)[:, None] - jnp.arange(length)


def places(mask: Mask) -> Int[Array, "b t"]:
    """The place of every token in its own sequence, from 0; padding behind it goes on counting, before it is 0."""
    count = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    if mask.dtype == jnp.bool_:
        return jnp.maximum(count - mask.argmax(1, keepdims=True), 0)
    begins = jnp.pad(mask[:, 1:] != mask[:, :-1], ((0, 0), (1, 0)))
    return count - jax.lax.cummax(jnp.where(begins, count, 0), axis=1)


def relative_buckets(length: int, buckets: int, farthest: int) -> Int[np.ndarray, "t t"]:
    """The bucket of every query and key (Raffel et al. 2020): one half for keys before the query, one for those behind.

    Of each half the first half are single distances, the others grow geometrically up to `farthest`.
    """
    ahead = np.arange(length) - np.arange(length)[:, None]
    half, distance = buckets // 2, np.abs(ahead)
    exact = half // 2
    # Float32, as the authors compute it: where the logarithm is whole, rounding decides.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(farthest / exact)
    )
    large = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int64), half - 1)
    return (ahead > 0) * half + np.where(distance < exact, distance, large)


def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016), as PyTorch computes it.

    `jax.nn.gelu` takes erfc, which costs twice as much and differs where Φ(x) < 1e-7.
    """
    return x * (0.5 * (1 + jax.lax.erf(x * 0.5**0.5)))


GELUS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": gelu, "gelu_new": jax.nn.gelu, "gelu_pytorch_tanh": jax.nn.gelu,  # jax.nn.gelu: the tanh form
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    **GELUS,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}


def split_heads(qkv: Float[Array, "b t n"], heads: int) -> list[Float[Array, "b t h c"]]:
    """Queries, keys and values out of one matrix product."""
    return [part.reshape(*qkv.shape[:2], heads, -1) for part in jnp.split(qkv, 3, -1)]


class Frequencies(nnx.Variable[Array | np.ndarray]):
    """Rotary frequencies: a buffer, saved but not trained, float32 whatever the type of the parameters."""


def rotate(
    x: Float[Array, "b t h c"],
    frequencies: Float[Array, "half"] | Float[np.ndarray, "half"],
    place: Int[Array, "b t"],
    factor: float = 1.0,
) -> Float[Array, "b t h c"]:
    """Rotary positions on half-split pairs (Su et al. 2021) of the first 2 half features, times `factor`."""
    half = len(frequencies)
    angle = jnp.arange(x.shape[1])[:, None] * frequencies
    # Looked up in a table: XLA computes a cosine where it is used, once for every head, unless a gather is in between.
    cos, sin = (table[place][:, :, None] for table in (jnp.cos(angle) * factor, jnp.sin(angle) * factor))
    a, b = x[..., :half], x[..., half : 2 * half]
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
    return turned if 2 * half == x.shape[-1] else jnp.concatenate([turned, x[..., 2 * half :]], -1)
