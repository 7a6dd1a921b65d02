"""One Transformer for all families: a family says its options and where its tensors stand (see `Options`, `Names`)."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.data.letters import vocabulary_kind
from covjax.encoders.base import layer_index
from covjax.encoders.layers import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    Mask,
    RMSNorm,
    Seen,
    attended,
    attention,
    attention_map,
    places,
    relative_buckets,
    rotate,
)
from covjax.encoders.rotary import Rotary
from covjax.encoders.vocabulary import Vocabulary
from covjax.encoders.weights import Tensors, digest_settings
from covjax.errors import InputError


@dataclass(frozen=True)
class Options:
    """What a Transformer computes. Defaults are those of BERT (Devlin et al. 2019)."""

    vocabulary: int  # embeddings
    width: int
    heads: int
    inner: int  # of the MLP
    blocks: tuple["BlockOptions", ...]
    eps: float  # of the norms
    activation: str = "gelu"  # see `ACTIVATIONS`
    order: Literal["after", "before", "parallel"] = "after"
    norm: Literal["layer", "rms", "rms1"] = "layer"  # rms1: the scale is 1 + the weight
    norm_bias: bool = True
    norm_last_bias: bool | None = None  # of the last norm; None: as the others
    head_norm: Literal["", "head", "whole"] = ""  # queries and keys normalised, each head alone or all heads as one
    key_heads: int | None = None  # of keys and values; None: as many as of queries
    head_width: int | None = None  # None: width / heads
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False  # down(activation(first) ∘ second)
    causal: bool = False
    cap: float | None = None  # of scores: cap tanh(score / cap)
    branch: float = 1.0  # what attention and MLP are multiplied by before they are added
    words_scale: float = 1.0
    positions: int | None = None  # learned ones
    first_position: int = 0
    types: int | None = None  # token types, of which the first is added
    buckets: int | None = None  # of relative positions, one bias for each head, shared by all blocks
    farthest: int = 128
    transposed: bool = False  # matrices are stored (inputs, outputs)
    interleaved: bool = False  # q, k, v of the first head, then of the second, … in one matrix

    def plain(self) -> dict[str, Any]:
        """The same as plain values, frequencies in float32: processors differ in the last bits of float64."""
        blocks = [
            (each.rotary and (each.rotary.array().tolist(), each.rotary.factor), each.reach, each.scale)
            for each in self.blocks
        ]
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"blocks": blocks}


@dataclass(frozen=True)
class BlockOptions:
    """What may differ between the blocks of a Transformer."""

    rotary: Rotary | None = None
    reach: int | None = None  # how many tokens away a token attends to; None: any
    scale: float | None = None  # of scores; None: 1 / sqrt(width of a head)


@dataclass(frozen=True)
class Names:
    """Where tensors stand, `.weight` and `.bias` left out. Those of a block are behind `block` and its number.

    A norm that is None is not computed. One name of `qkv` or, gated, of `up` is one matrix of all parts.
    """

    words: str
    block: str
    qkv: tuple[str, ...]
    out: str
    up: tuple[str, ...]
    down: str
    norm_attention: str | None
    norm_mlp: str | None
    norm_attention_after: str | None = None  # of what attention gives, before it is added
    norm_mlp_after: str | None = None
    norm_queries: str = ""
    norm_keys: str = ""
    first_unnormed: bool = False  # the first block has no `norm_attention`
    frequencies: str = ""  # the file's own rotary frequencies, of a block or, `frequencies_all`, of all
    frequencies_all: tuple[str, ...] = ()
    positions: str = ""
    types: str = ""
    buckets: str = ""
    norm_first: str | None = None  # of the embedding
    norm_last: str | None = None


def uniform(tensors: Tensors, names: Names, count: int, block: BlockOptions) -> tuple[BlockOptions, ...]:
    """Options of `count` blocks that do not differ; raises InputError where the weights do not have them all."""
    tensors.check_blocks(names.block, count)
    return (block,) * count


def norm(tensors: Tensors, name: str | None, width: int, o: Options, bias: bool | None = None) -> Any:
    """The family's norm, None where there is none."""
    if name is None:
        return None
    if o.norm == "layer":
        return LayerNorm(tensors, name, width, o.eps, o.norm_bias if bias is None else bias)
    return RMSNorm(tensors, name, width, o.eps, 1.0 if o.norm == "rms1" else 0.0)


def _identity(x: Array) -> Array:
    return x


class Block(nnx.Module):
    """Attention and MLP. With a = attention and m = MLP, and norms N, N′ of their inputs or outputs, by `order`:

    before: y = x + a(N(x)), then y + m(N′(y)). after: y = N(x + a(x)), then N′(y + m(y)).
    parallel: x + a(N(x)) + m(N′(x)).
    """

    def __init__(self, tensors: Tensors, names: Names, number: int, o: Options):
        own, at = o.blocks[number], names.block.format(number)
        self.heads, self.key_heads, self.order, self.gated = o.heads, o.key_heads or o.heads, o.order, o.gated
        self.head_norm, self.causal, self.cap, self.branch = o.head_norm, o.causal, o.cap, o.branch
        self.activation, self.rotary, self.reach, self.scale = o.activation, own.rotary, own.reach, own.scale
        width = o.head_width or o.width // o.heads
        self.widths = (self.heads * width, self.key_heads * width, self.key_heads * width)
        # Tensors are taken in the order of computation, on which the digest depends.
        stored = [name for name in (f"{at}.{names.frequencies}", *names.frequencies_all) if name in tensors]
        if self.rotary is not None and stored:
            half = len(self.rotary.frequencies)
            array = tensors.take(stored[0], half, again=True, dtype=np.float32)
            self.rotary = Rotary(tuple(array.tolist()), self.rotary.factor)
        inside = {part: name and f"{at}.{name}" for part, name in vars(names).items() if part.startswith("norm_")}
        first = None if names.first_unnormed and number == 0 else inside["norm_attention"]
        if o.order != "after":
            self.norm_attention = norm(tensors, first, o.width, o)
        fused, order = len(names.qkv) == 1, None
        if o.interleaved:
            order = np.arange(3 * self.widths[0]).reshape(o.heads, 3, width).swapaxes(0, 1).ravel()
        qkv, outputs = [f"{at}.{name}" for name in names.qkv], [sum(self.widths)] if fused else self.widths
        self.qkv = Dense(tensors, qkv, o.width, outputs, o.qkv_bias, o.transposed, order)
        if o.head_norm:
            wide = o.head_norm == "whole"
            self.norm_queries = norm(tensors, inside["norm_queries"], self.widths[0] if wide else width, o, False)
            self.norm_keys = norm(tensors, inside["norm_keys"], self.widths[1] if wide else width, o, False)
        self.out = Dense(tensors, [f"{at}.{names.out}"], self.widths[0], o.width, o.out_bias, o.transposed)
        self.norm_attention_after = norm(tensors, inside["norm_attention_after"], o.width, o)
        if o.order == "after":
            self.norm_attention = norm(tensors, first, o.width, o)
        else:
            self.norm_mlp = norm(tensors, inside["norm_mlp"], o.width, o)
        parts, up = (1 + o.gated) // len(names.up), [f"{at}.{name}" for name in names.up]
        self.up = Dense(tensors, up, o.width, parts * o.inner, o.mlp_bias, o.transposed)
        self.down = Dense(tensors, [f"{at}.{names.down}"], o.inner, o.width, o.mlp_bias, o.transposed)
        self.norm_mlp_after = norm(tensors, inside["norm_mlp_after"], o.width, o)
        if o.order == "after":
            self.norm_mlp = norm(tensors, inside["norm_mlp"], o.width, o)

    def __call__(
        self, x: Float[Array, "b t d"], seen: Seen, place: Int[Array, "b t"], bias: Float[Array, "h t t"] | None
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array]]:
        """One block, and its queries and keys, of which `map` makes shares."""
        before = self.norm_attention or _identity
        if self.order == "after":
            y, qk = self._attend(x, seen, place, bias)
            x = before(x + y)
            return self.norm_mlp(x + self._mlp(x)), qk
        y, qk = self._attend(before(x), seen, place, bias)
        y = (self.norm_attention_after or _identity)(y) * self.branch
        mlp_input = x if self.order == "parallel" else x + y
        z = (self.norm_mlp_after or _identity)(self._mlp(self.norm_mlp(mlp_input))) * self.branch
        return x + y + z, qk

    def map(self, qk: tuple[Array, Array], seen: Seen, bias: Array | None) -> Float[Array, "b h t t"]:
        """Attention shares of every query, in float32."""
        return attention_map(*qk, seen, self.scale, bias, self.cap)

    def _attend(
        self, x: Float[Array, "b t d"], seen: Seen, place: Int[Array, "b t"], bias: Float[Array, "h t t"] | None
    ) -> tuple[Float[Array, "b t d"], tuple[Array, Array]]:
        q, k, v = jnp.split(self.qkv(x), np.cumsum(self.widths[:2]), -1)
        if self.head_norm == "whole":
            q, k = self.norm_queries(q), self.norm_keys(k)
        q = q.reshape(*q.shape[:2], self.heads, -1)
        k, v = (part.reshape(*part.shape[:2], self.key_heads, -1) for part in (k, v))
        if self.head_norm == "head":
            q, k = self.norm_queries(q), self.norm_keys(k)
        if self.rotary is not None:
            rotary = self.rotary
            q, k = (rotate(part, rotary.array(), place, rotary.factor) for part in (q, k))
        if self.key_heads < self.heads:
            k, v = (jnp.repeat(part, self.heads // self.key_heads, axis=2) for part in (k, v))
        return self.out(attention(q, k, v, seen, self.scale, bias, self.cap)), (q, k)

    def _mlp(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        hidden = self.up(x)
        if self.gated:
            gate, value = jnp.split(hidden, 2, -1)
            return self.down(ACTIVATIONS[self.activation](gate) * value)
        return self.down(ACTIVATIONS[self.activation](hidden))


class Transformer(nnx.Module):
    """A frozen encoder (see `covjax.encoders.Encoder`) whose layers all have one width.

    Layer 0 is the embedding (after its norm, where there is one), layer i block i; the last one after the final norm.
    `unused` are patterns of tensors that are computed here.
    """

    packs = True  # several sequences in a row: `mask` may be their numbers

    def __init__(
        self,
        name: str,
        tensors: Tensors,
        names: Names,
        options: Options,
        vocabulary: Vocabulary,
        unused: Sequence[str] = (),
    ):
        o = options
        self.name, self.vocabulary, self.width, self.num_layers = name, vocabulary, o.width, len(o.blocks) + 1
        self.causal, self.first_position, self.words_scale = o.causal, o.first_position, o.words_scale
        self.farthest = o.farthest
        self.words = nnx.Param(jnp.asarray(tensors.take(f"{names.words}.weight", o.vocabulary, o.width)))
        tables = {names.positions: o.positions, names.types: o.types}
        rows = {name: tensors.take(f"{name}.weight", size, o.width) for name, size in tables.items() if size}
        self.positions: Any = nnx.Param(jnp.asarray(rows[names.positions])) if o.positions else None
        self.type: Any = nnx.Param(jnp.asarray(rows[names.types][0])) if o.types else None
        self.norm_first = norm(tensors, names.norm_first, o.width, o)
        self.blocks = nnx.List(Block(tensors, names, i, o) for i in range(len(o.blocks)))
        table = tensors.take(f"{names.buckets}.weight", o.buckets, o.heads) if o.buckets else None
        self.bias: Any = None if table is None else nnx.Param(jnp.asarray(table))
        self.norm_last = norm(tensors, names.norm_last, o.width, o, o.norm_last_bias)
        # Before what else a family takes, on which no activation depends: with a head or without, the encoder is one.
        # The options and the vocabulary are in it, without which the same weights give other activations.
        words = sorted(vocabulary.ids.items()), vocabulary.first, vocabulary.last, sorted(vocabulary.special)
        self.weights_digest = digest_settings(tensors.finish(unused), o.plain(), words)

    def embedded(self, tokens: Int[Array, "b t"], mask: Mask) -> Float[Array, "b t d"]:
        """Embeddings of the tokens, without positions."""
        x = self.words[...][tokens]
        return x if self.words_scale == 1 else x * jnp.asarray(self.words_scale, x.dtype)

    def hidden_states(
        self, tokens: Int[Array, "b t"], mask: Mask, maps: bool = False
    ) -> Iterator[tuple[Float[Array, "b t d"], Float[Array, "b h t t"] | None]]:
        """Activations of layer 0, 1, …, each with the attention shares of its block where `maps` asks for them.

        A pure function of the arguments and the parameters.
        """
        place, x = places(mask), self.embedded(tokens, mask)
        if self.positions is not None:
            table = self.positions[...]
            x = x + table[jnp.minimum(place + self.first_position, len(table) - 1)]  # only padding can lie beyond
        if self.type is not None:
            x = x + self.type[...]
        if self.norm_first is not None:
            x = self.norm_first(x)
        x = jnp.where(mask[..., None] > 0, x, 0)
        yield x, None
        bias = None
        if self.bias is not None:
            buckets = relative_buckets(tokens.shape[1], len(self.bias[...]), self.farthest)
            bias = self.bias[...].astype(jnp.float32)[buckets].transpose(2, 0, 1)
        seen = {reach: attended(mask, self.causal, reach) for reach in {block.reach for block in self.blocks}}
        for i, block in enumerate(self.blocks, start=1):
            x, qk = block(x, seen[block.reach], place, bias)
            last = i == len(self.blocks) and self.norm_last is not None
            yield self.norm_last(x) if last else x, block.map(qk, seen[block.reach], bias) if maps else None

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
        """The positions that the model has learned, special tokens included; None where any length goes."""
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

    @overload
    def apply(
        self, tokens: Any, mask: Any, layers: tuple[int, ...], attention: Literal[False] = False
    ) -> dict[int, Array]: ...

    @overload
    def apply(
        self, tokens: Any, mask: Any, layers: tuple[int, ...], attention: Literal[True]
    ) -> tuple[dict[int, Array], dict[int, Array]]: ...

    def apply(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"] | Int[np.ndarray, "b t"],
        layers: tuple[int, ...],
        attention: bool = False,
    ) -> Any:
        """Activations (b, t, d) of the asked layers (−1 the last), jitted; masked tokens are zeroed.

        `mask` may be padded on either side. It may also number the sequences of a row, 1, 2, … with 0 for padding: each
        is then encoded as if alone. With `attention` a second dictionary has, for every layer, the shares (b, heads,
        queries, keys) of the block that ends in it, in float32; rows of masked tokens are 0, others add up to 1.
        Raises InputError where the model has not the layer, and for the shares of layer 0, the embedding.
        """
        numbers = {layer: layer_index(layer, self.num_layers) for layer in layers}
        if attention and 0 in numbers.values():
            raise InputError("layers: layer 0 is the embedding, which has no attention; leave it out")
        states = _apply(*nnx.split(self), tokens, mask, tuple(sorted(set(numbers.values()))), attention)
        asked = {layer: states[number] for layer, number in numbers.items()}
        parts = [{layer: state[i] for layer, state in asked.items()} for i in range(1 + attention)]
        return tuple(parts) if attention else parts[0]


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _apply(
    graph: Any, state: Any, tokens: Array, mask: Array, layers: tuple[int, ...], maps: bool = False
) -> dict[int, tuple[Array, ...]]:
    states = nnx.merge(graph, state).hidden_states(tokens, mask, maps)
    asked = {i: each for i, each in zip(range(max(layers) + 1), states) if i in layers}
    own = jnp.asarray(mask) > 0
    parts: dict[int, tuple[Array, ...]] = {}
    for i, (x, shares) in asked.items():
        parts[i] = (jnp.where(own[..., None], x, 0),)
        if shares is not None:
            parts[i] = (*parts[i], jnp.where(own[:, None, :, None], shares, 0))
    return parts
