"""What a language model predicts, as a function of the activations of any of its layers: the heads of pre-training."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.layers import ACTIVATIONS, Dense, LayerNorm, Mask, attended, places, relative_buckets
from covjax.encoders.transformer import Names, Options, Transformer
from covjax.encoders.vocabulary import Vocabulary
from covjax.encoders.weights import Tensors
from covjax.errors import InputError

MASKED_SHARE = 0.15  # of the tokens, in the objective of masked prediction (Devlin et al. 2019)


@dataclasses.dataclass(frozen=True)
class HeadNames:
    """Where a head's tensors stand: the matrix of all tokens, and what may come before it and be added to it."""

    decoder: str  # (vocabulary, width); where the file has none it is the embedding, if `tied`
    transform: str = ""  # a dense layer and
    norm: str = ""  # its norm
    bias: str = ""
    activation: str = "gelu"  # of the dense layer
    cap: float | None = None  # of the logits: cap tanh(logit / cap)
    tied: bool = True


BERT_HEAD = HeadNames(
    decoder="cls.predictions.decoder.weight",
    transform="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    bias="cls.predictions.bias",
)
ROBERTA_HEAD = HeadNames(  # ESM's too
    decoder="lm_head.decoder.weight", transform="lm_head.dense", norm="lm_head.layer_norm", bias="lm_head.bias"
)


def decoder_head(
    config: Mapping[str, Any], tied: bool, decoder: str = "lm_head.weight", cap: float | None = None
) -> HeadNames:
    """The head of a decoder by its config.json; `tied` says whether the embedding is its matrix where that does not.

    A tied head is no tensor of its own: it is there where `architectures` names a model with one.
    """
    tied = bool(config.get("tie_word_embeddings", tied))
    whole = any("LMHead" in name or "CausalLM" in name for name in config.get("architectures") or ())
    return HeadNames(decoder=decoder, tied=tied and whole, cap=cap)


class Head(nnx.Module):
    """Logits of every token of the vocabulary: norm(act(x W + b)) Eᵀ + c, without the parts that a family lacks."""

    def __init__(self, tensors: Tensors, names: HeadNames, vocabulary: int, width: int, eps: float):
        self.activation, self.cap = names.activation, names.cap
        self.dense = Dense(tensors, [names.transform], width, width) if names.transform else None
        self.norm = LayerNorm(tensors, names.norm, width, eps) if names.norm else None
        self.bias = nnx.Param(jnp.asarray(tensors.take(names.bias, vocabulary))) if names.bias else None
        own = names.decoder in tensors
        self.decoder = nnx.Param(jnp.asarray(tensors.take(names.decoder, vocabulary, width))) if own else None

    def __call__(self, x: Float[Array, "b t d"], embedding: Float[Array, "v d"]) -> Float[Array, "b t v"]:
        """In float32."""
        decoder = embedding if self.decoder is None else self.decoder[...]
        if self.dense is not None:
            x = ACTIVATIONS[self.activation](self.dense(x))
        if self.norm is not None:
            x = self.norm(x)
        logits = jnp.matmul(x, decoder.T, preferred_element_type=jnp.float32)
        if self.bias is not None:
            logits = logits + self.bias[...]
        return logits if self.cap is None else self.cap * jnp.tanh(logits / self.cap)


def has_head(tensors: Tensors, names: HeadNames | None, vocabulary: int, width: int) -> bool:
    """Whether a file has all of a head in this model's shapes, its matrix or one that the embedding lends among it.

    A head of other shapes is that of a model of another kind, whose encoder is none the worse for it.
    """
    if names is None:
        return False
    shapes: dict[str, tuple[int, ...]] = {names.bias: (vocabulary,)} if names.bias else {}
    if names.transform:
        shapes |= {f"{names.transform}.weight": (width, width), f"{names.transform}.bias": (width,)}
    if names.norm:
        shapes |= {f"{names.norm}.weight": (width,), f"{names.norm}.bias": (width,)}
    if names.decoder in tensors or not names.tied:
        shapes[names.decoder] = (vocabulary, width)
    try:
        for name, shape in shapes.items():
            tensors.check(name, *shape)
    except InputError:
        return False
    return True


class LanguageModel(Transformer):
    """A Transformer with the head of its pre-training, where its folder has one (see `HeadedEncoder`).

    Causal models predict the next token; the others a share of the tokens that are masked, `mask_id` in their place.
    """

    def __init__(
        self,
        name: str,
        tensors: Tensors,
        names: Names,
        options: Options,
        vocabulary: Vocabulary,
        unused: Sequence[str] = (),
        *,
        head: HeadNames | None,
        mask_id: int | None = None,
    ):
        super().__init__(name, tensors, names, options, vocabulary, unused)
        self.mask_id: Any = mask_id
        there = (self.causal or mask_id is not None) and has_head(tensors, head, options.vocabulary, options.width)
        self.head: Any = Head(tensors, head, options.vocabulary, self.width, options.eps) if there and head else None

    @property
    def has_head(self) -> bool:
        """Whether the folder has the head of its pre-training."""
        return self.head is not None

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """The next token of every pooled one; or 15 % of a sequence's pooled tokens, at least one, masked."""
        if self.causal:
            return next_tokens(tokens, mask, pool)
        return masked_tokens(tokens, pool, self.mask_id, rng)

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """Of every token of the vocabulary, through the blocks above `layer`, jitted; see `HeadedEncoder`."""
        return _logits(*nnx.split(self), activations, mask, layer)

    def token_logits(self, tokens: Int[Array, "b t"], mask: Mask) -> Float[Array, "b t classes"]:
        """Of every token of the vocabulary, in float32; a pure function of the arguments and the parameters.

        Only of models whose folder has the head of masked prediction.
        """
        *_, (x, _) = self.hidden_states(tokens, mask)
        return self.head(x, self.words[...])

    def last_layer(self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"], layer: int) -> Float[Array, "b t d"]:
        """The last layer's activations from those of `layer`; a pure function of the arguments and the parameters."""
        place, bias, above = places(mask), None, self.blocks[layer:]
        if self.bias is not None:
            buckets = relative_buckets(x.shape[1], len(self.bias[...]), self.farthest)
            bias = self.bias[...].astype(jnp.float32)[buckets].transpose(2, 0, 1)
        seen = {reach: attended(mask, self.causal, reach) for reach in {block.reach for block in above}}
        for block in above:
            x, _ = block(x, seen[block.reach], place, bias)
        return x if not above or self.norm_last is None else self.norm_last(x)


def masked_tokens(
    tokens: Int[np.ndarray, "b t"], pool: Bool[np.ndarray, "b t"], mask_id: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """The objective of masked prediction: 15 % of a sequence's pooled tokens, at least one, with the mask's token."""
    draw = np.where(pool, rng.random(tokens.shape), np.inf)
    hidden = pool & ((draw < MASKED_SHARE) | (draw == draw.min(1, keepdims=True)))
    return np.where(hidden, mask_id, tokens), tokens, hidden


def next_tokens(
    tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], pool: Bool[np.ndarray, "b t"]
) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
    """The objective of a causal model: every pooled token with a real one behind it predicts that one."""
    after, real = np.roll(tokens, -1, 1), np.roll(mask, -1, 1)
    real[:, -1] = False
    return tokens, np.where(real, after, 0), pool & real


@functools.partial(jax.jit, static_argnums=(0, 4))
def _logits(graph: Any, state: Any, activations: Array, mask: Array, layer: int) -> Array:
    model = nnx.merge(graph, state)
    x = model.last_layer(activations.astype(model.words[...].dtype), mask, layer)
    return model.head(x, model.words[...])
