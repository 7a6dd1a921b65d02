"""What the Transformer families share: dense layers, layer norm, attention, and the contract of an encoder."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.data.letters import vocabulary_kind
from covjax.encoders.base import layer_index
from covjax.encoders.vocabulary import Vocabulary
from covjax.encoders.weights import Tensors
from covjax.modelfiles import empty

# Added to a score nobody may see: exp gives 0, and no sum overflows where nothing may be seen.
UNSEEN = -1e30
# True where a token is, or several sequences in a row: 1, 2, … the sequence of every token, 0 padding.
Mask = Bool[Array, "b t"] | Int[Array, "b t"]


class Dense(nnx.Module):
    """x W + b, or x W where the checkpoint has no bias, with W stored (inputs, outputs). Products add up in float32.

    Several names make one matrix product whose outputs lie side by side.
    """

    def __init__(self, tensors: Tensors, names: Sequence[str], inputs: int, outputs: int, bias: bool = True):
        for name in names:
            tensors.check(f"{name}.weight", outputs, inputs)  # before anything of that size is allocated
        # Filled name by name, so that beside it only one tensor of the checkpoint is in memory.
        kernel = empty((inputs, outputs * len(names)), tensors.dtype)
        for i, name in enumerate(names):
            kernel[:, i * outputs : (i + 1) * outputs] = tensors.take(f"{name}.weight", outputs, inputs).T
        self.kernel = nnx.Param(jnp.asarray(kernel))
        shifts = [tensors.take(f"{name}.bias", outputs) for name in names] if bias else []
        self.bias = nnx.Param(jnp.asarray(np.concatenate(shifts))) if bias else None

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        """Apply to the last axis."""
        y = jnp.matmul(x, self.kernel[...], preferred_element_type=jnp.float32)
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x − mean) / sqrt(variance + eps) ∘ scale + bias over the last axis (Ba et al. 2016), in float32."""

    def __init__(self, tensors: Tensors, name: str, width: int, eps: float):
        self.scale = nnx.Param(jnp.asarray(tensors.take(f"{name}.weight", width)))
        self.bias = nnx.Param(jnp.asarray(tensors.take(f"{name}.bias", width)))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalise the last axis."""
        full = x.astype(jnp.float32)
        centred = full - full.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return (centred * scale * self.scale[...] + self.bias[...]).astype(x.dtype)


def attention(
    q: Float[Array, "b t h c"], k: Float[Array, "b t h c"], v: Float[Array, "b t h c"], mask: Mask
) -> Float[Array, "b t d"]:
    """Scaled dot-product attention (Vaswani et al. 2017), softmax in float32; see `attended` for who sees whom."""
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    mixed = jax.lax.platform_dependent(q, k, v, attended(mask), cpu=_mix_by_head, default=_mix)
    return mixed.swapaxes(1, 2).reshape(*mask.shape, -1)


def _mix(
    q: Float[Array, "b h t c"], k: Float[Array, "b h t c"], v: Float[Array, "b h t c"], sees: Bool[Array, "b _ t"]
) -> Float[Array, "b h t c"]:
    scores = jnp.einsum("bhqc,bhkc->bhqk", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(sees[:, None], scores, jnp.finfo(scores.dtype).min)
    shares = jax.nn.softmax(scores, -1).astype(v.dtype)
    return jnp.einsum("bhqk,bhkc->bhqc", shares, v, preferred_element_type=jnp.float32).astype(v.dtype)


def _mix_by_head(
    q: Float[Array, "b h t c"], k: Float[Array, "b h t c"], v: Float[Array, "b h t c"], sees: Bool[Array, "b _ t"]
) -> Float[Array, "b h t c"]:
    """As `_mix`, one head of one sequence after the other: its scores stay in a CPU's cache, 3 to 5 times faster."""
    b, h, t, c = q.shape

    def one(head):
        q, k, v, i = head
        scores = q @ k.T + jnp.where(sees[i // h], 0, UNSEEN)
        shares = jnp.exp(scores - scores.max(-1, keepdims=True))
        return (shares @ v) / shares.sum(-1, keepdims=True)

    heads = (x.reshape(b * h, t, c).astype(jnp.float32) for x in (q, k, v))
    return jax.lax.map(one, (*heads, jnp.arange(b * h))).reshape(b, h, t, c).astype(v.dtype)


def attended(mask: Mask) -> Bool[Array, "b queries keys"]:
    """Whom a token attends to: its own sequence, no padding. The axis of queries is 1 where all agree."""
    if mask.dtype == jnp.bool_:
        return mask[:, None, :]
    return (mask[:, :, None] == mask[:, None, :]) & (mask[:, None, :] > 0)


def places(mask: Mask) -> Int[Array, "b t"]:
    """The place of every token in its own sequence, from 0; padding goes on counting."""
    count = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
    if mask.dtype == jnp.bool_:
        return count
    begins = jnp.pad(mask[:, 1:] != mask[:, :-1], ((0, 0), (1, 0)))
    return count - jax.lax.cummax(jnp.where(begins, count, 0), axis=1)


def gelu(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """x Φ(x), Φ the normal distribution function (Hendrycks and Gimpel 2016), as PyTorch computes it.

    `jax.nn.gelu` takes erfc, which costs twice as much and differs where Φ(x) < 1e-7.
    """
    return x * (0.5 * (1 + jax.lax.erf(x * 0.5**0.5)))


def split_heads(qkv: Float[Array, "b t n"], heads: int) -> list[Float[Array, "b t h c"]]:
    """Queries, keys and values out of one matrix product."""
    return [part.reshape(*qkv.shape[:2], heads, -1) for part in jnp.split(qkv, 3, -1)]


class Frequencies(nnx.Variable):
    """Rotary frequencies: a buffer, saved but not trained, float32 whatever the type of the parameters."""


def rotate(
    x: Float[Array, "b t h c"], frequencies: Float[Array, "half"], place: Int[Array, "b t"]
) -> Float[Array, "b t h c"]:
    """Rotary positions on half-split pairs (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * frequencies
    # Looked up in a table: XLA computes a cosine where it is used, once for every head, unless a gather is in between.
    cos, sin = (table[place][:, :, None] for table in (jnp.cos(angle), jnp.sin(angle)))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)


class Transformer(nnx.Module):
    """A frozen encoder (see `covjax.encoders.Encoder`) whose layers all have one width.

    A family sets the attributes and says what its layers are: `hidden_states`, layer 0 the embedding.
    """

    name: str
    num_layers: int
    weights_digest: str
    width: int
    vocabulary: Vocabulary
    packs = True  # several sequences in a row: `mask` may be their numbers

    def hidden_states(self, tokens: Int[Array, "b t"], mask: Mask) -> Iterator[Float[Array, "b t d"]]:
        """Activations of layer 0, 1, …; a pure function of the arguments and the parameters."""
        raise NotImplementedError

    def features(self, layer: int) -> int:
        """Width of one token, the same at every layer; raises InputError for a layer the model does not have."""
        layer_index(layer, self.num_layers)
        return self.width

    def encode(self, sequence: str) -> Int[np.ndarray, "t"]:
        """Token ids with the special ones; see `Vocabulary.encode`."""
        return self.vocabulary.encode(sequence)

    def encode_any_length(self, sequence: str) -> Int[np.ndarray, "t"]:
        """Token ids as `encode`, also beyond the learned positions: to be cut into windows."""
        return self.vocabulary.encode(sequence, any_length=True)

    @property
    def frame(self) -> tuple[int, int]:
        """How many special tokens stand before and behind a sequence."""
        return len(self.vocabulary.first), len(self.vocabulary.last)

    @property
    def max_tokens(self) -> int | None:
        """The learned positions, special tokens included; None where any length goes."""
        return self.vocabulary.max_tokens

    @property
    def letters(self) -> str | None:
        """What the vocabulary reads: "protein", "dna" or "text"; None where it does not say."""
        return vocabulary_kind(set(self.vocabulary.ids) - self.vocabulary.special)

    def pad(
        self, rows: Sequence[Int[np.ndarray, "_"]], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Tokens, the mask the model sees, the mask to pool; see `Vocabulary.fill`."""
        return self.vocabulary.fill(rows, length)

    def apply(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"] | Int[np.ndarray, "b t"],
        layers: tuple[int, ...],
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers (−1 the last), jitted; masked tokens are zeroed.

        `mask` may also number the sequences of a row, 1, 2, … with 0 for padding: each is then encoded as if alone.
        """
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        found = _apply(*nnx.split(self), tokens, mask, tuple(sorted(set(numbers.values()))))
        return {layer: found[number] for layer, number in numbers.items()}


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(graph: Any, state: Any, tokens: Array, mask: Array, layers: tuple[int, ...]) -> dict[int, Array]:
    states = nnx.merge(graph, state).hidden_states(tokens, mask)
    return {i: jnp.where(mask[..., None] > 0, x, 0) for i, x in zip(range(max(layers) + 1), states) if i in layers}
