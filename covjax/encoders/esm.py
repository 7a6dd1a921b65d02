"""The ESM family in the Hugging Face layout: ESM-2 (Lin et al. 2023), ESM-1b, Nucleotide Transformer v1 and v2.

A pre-norm Transformer. Variants by config: rotary or learned positions, the token-dropout rescaling of inference, a
layer norm after the embedding, and the gated MLP without biases of the Nucleotide Transformer v2 (Dalla-Torre et al.
2024; `add_bias_fnn: false`). Layer i is `hidden_states[i]` of transformers: 0 the embedding, the last one after the
final layer norm.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.transformer import (
    Dense,
    Frequencies,
    LayerNorm,
    Mask,
    Transformer,
    attended,
    attention,
    gelu,
    places,
    rotate,
    split_heads,
)
from covjax.encoders.vocabulary import esm_vocabulary
from covjax.encoders.weights import Tensors, read_config
from covjax.errors import InputError, shown

# Where the encoder's tensors stand; transformers 5 keeps the frequencies of all layers in a buffer of the model.
PARTS = ("embeddings.", "encoder.", "rotary_embeddings.")
BUFFERS = (r"embeddings\.position_ids",)
MASKED_SHARE = 0.15  # of the tokens, in the objective of masked prediction (Devlin et al. 2019)
TRAIN_MASK_RATIO = 0.15 * 0.8  # of ESM's pre-training: 15 % of tokens chosen, 80 % of these masked
DEFAULTS = {
    "position_embedding_type": "absolute",
    "token_dropout": False,
    "emb_layer_norm_before": False,
    "add_bias_fnn": True,
    "max_position_embeddings": 1026,
    "layer_norm_eps": 1e-12,
}
# What decides: the options that transformers' EsmModel computes hidden states with, `add_bias_fnn` of the Nucleotide
# Transformer's own code, and `hidden_act` and `rope_scaling`, which EsmModel does not read but others of that name do.
ALLOWED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("rotary", "absolute"),
    "token_dropout": (True, False, None),
    "emb_layer_norm_before": (True, False, None),
    "add_bias_fnn": (True, False),
    "hidden_act": ("gelu",),
    "rope_theta": (10000.0, None),
    "rope_scaling": (None,),
    "head_dim": (None,),
    "is_folding_model": (False, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
}


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    The MLP has the exact (erf) GELU, or is gated: silu(first half of up(x)) ∘ second half, then down, no biases.
    """

    def __init__(self, tensors: Tensors, name: str, config: dict[str, Any]):
        d, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads, self.gated = config["num_attention_heads"], not config["add_bias_fnn"]
        rotary = config["position_embedding_type"] == "rotary"
        self.frequencies = Frequencies(_frequencies(tensors, name, d // self.heads)) if rotary else None
        self.norm_attention = LayerNorm(tensors, f"{name}.attention.LayerNorm", d, eps)
        self.qkv = Dense(tensors, [f"{name}.attention.self.{part}" for part in ("query", "key", "value")], d, d)
        self.out = Dense(tensors, [f"{name}.attention.output.dense"], d, d)
        self.norm_mlp = LayerNorm(tensors, f"{name}.LayerNorm", d, eps)
        self.up = Dense(tensors, [f"{name}.intermediate.dense"], d, inner * (1 + self.gated), bias=not self.gated)
        self.down = Dense(tensors, [f"{name}.output.dense"], inner, d, bias=not self.gated)

    def __call__(self, x: Float[Array, "b t d"], mask: Mask) -> Float[Array, "b t d"]:
        """One block; masked tokens are attended by none."""
        q, k, v = split_heads(self.qkv(self.norm_attention(x)), self.heads)
        if self.frequencies is not None:
            place = places(mask)
            q, k = (rotate(part, self.frequencies[...], place) for part in (q, k))
        x = x + self.out(attention(q, k, v, mask))
        hidden = self.up(self.norm_mlp(x))
        if self.gated:
            gate, value = jnp.split(hidden, 2, -1)
            return x + self.down(jax.nn.silu(gate) * value)
        return x + self.down(gelu(hidden))


def _is_token(number: Any, vocabulary: int) -> bool:
    return type(number) is int and 0 <= number < vocabulary


def _frequencies(tensors: Tensors, name: str, width: int) -> np.ndarray:
    """The checkpoint's own frequencies where it has them: ESM-2's are rounded to half precision, as in its training.

    Computed from base 10000 they differ by up to 1e-3 relative, which moves activations by 1e-4. transformers 5 keeps
    one buffer for all layers, and saves it under a name with a literal asterisk.
    """
    inner = "attention.self.rotary_embeddings.inv_freq"
    for stored in (f"{name}.{inner}", f"encoder.layer.*.{inner}", "rotary_embeddings.inv_freq"):
        if stored in tensors:
            return tensors.take(stored, width // 2, again=True, dtype=np.float32)
    return (10000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)


class Head(nnx.Module):
    """Logits of the token that was masked: norm(gelu(x W + b)) Eᵀ + c, E the embedding or the head's own matrix."""

    NEEDED = tuple(
        f"lm_head.{n}" for n in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
    )

    def __init__(self, tensors: Tensors, vocabulary: int, width: int, eps: float):
        self.dense = Dense(tensors, ["lm_head.dense"], width, width)
        self.norm = LayerNorm(tensors, "lm_head.layer_norm", width, eps)
        self.bias = nnx.Param(jnp.asarray(tensors.take("lm_head.bias", vocabulary)))
        own = "lm_head.decoder.weight"
        self.decoder = nnx.Param(jnp.asarray(tensors.take(own, vocabulary, width))) if own in tensors else None

    def __call__(self, x: Float[Array, "b t d"], embedding: Float[Array, "v d"]) -> Float[Array, "b t v"]:
        """In float32."""
        decoder = embedding if self.decoder is None else self.decoder[...]
        hidden = self.norm(gelu(self.dense(x)))
        return jnp.matmul(hidden, decoder.T, preferred_element_type=jnp.float32) + self.bias[...]


class Esm(Transformer):
    """The frozen encoder (see `covjax.encoders.Encoder`); its head of masked prediction where the folder has it."""

    def __init__(self, name: str, folder: Path, dtype: Any):
        config = read_config(folder, DEFAULTS, ALLOWED)
        if config["token_dropout"] and not _is_token(config.get("mask_token_id"), config["vocab_size"]):
            mask = shown(config.get("mask_token_id"))
            raise InputError(
                f"{folder}/config.json: mask_token_id is {mask}; token_dropout needs the mask token's number"
            )
        tensors = Tensors(folder, dtype, "esm", PARTS)
        d, eps = config["hidden_size"], config["layer_norm_eps"]
        rotary = config["position_embedding_type"] == "rotary"
        positions = config["max_position_embeddings"]
        self.name, self.width = name, d
        self.pad_id: int = config["pad_token_id"]
        self.mask_id: Any = config.get("mask_token_id")
        self.token_dropout = bool(config["token_dropout"])
        self.num_layers = config["num_hidden_layers"] + 1
        self.vocabulary = esm_vocabulary(
            folder, config["vocab_size"], max_tokens=None if rotary else positions - self.pad_id - 1
        )
        own_pad = self.vocabulary.ids[self.vocabulary.pad]
        if not rotary and own_pad != self.pad_id:
            raise InputError(
                f"{folder}/config.json: pad_token_id is {self.pad_id}, but {self.vocabulary.pad} is token {own_pad}; "
                "learned positions are counted from it"
            )
        self.embedding = nnx.Param(
            jnp.asarray(tensors.take("embeddings.word_embeddings.weight", config["vocab_size"], d))
        )
        table = "embeddings.position_embeddings.weight"
        self.positions: Any = None if rotary else nnx.Param(jnp.asarray(tensors.take(table, positions, d)))
        before = config["emb_layer_norm_before"]
        self.norm_before = LayerNorm(tensors, "embeddings.layer_norm", d, eps) if before else None
        self.blocks = nnx.List(Block(tensors, f"encoder.layer.{i}", config) for i in range(config["num_hidden_layers"]))
        self.norm_after = LayerNorm(tensors, "encoder.emb_layer_norm_after", d, eps)
        # Before the head, on which no activation depends: with it or without, a folder is the same encoder.
        self.weights_digest = tensors.digest
        headed = _is_token(self.mask_id, config["vocab_size"]) and all(n in tensors for n in Head.NEEDED)
        self.head: Any = Head(tensors, config["vocab_size"], d, eps) if headed else None
        # Rotary checkpoints converted from older code carry a position table that nothing reads.
        tensors.finish((*BUFFERS, *([r"embeddings\.position_embeddings\.weight"] * rotary)))

    def hidden_states(self, tokens: Int[Array, "b t"], mask: Mask) -> Iterator[Float[Array, "b t d"]]:
        """The embedding, the blocks, the last one after the final layer norm."""
        x = self.embedding[...][tokens]
        if self.token_dropout:
            hidden = tokens == self.mask_id
            own = attended(mask)
            observed = (own & hidden[:, None]).sum(-1) / jnp.maximum(own.sum(-1), 1)
            scale = ((1 - TRAIN_MASK_RATIO) / (1 - observed))[..., None]
            x = (jnp.where(hidden[..., None], 0, x) * scale).astype(x.dtype)
        if self.positions is not None:
            # Positions are counted over real tokens only, from pad + 1 on (RoBERTa's convention).
            x = x + self.positions[...][jnp.where(mask > 0, places(mask) + self.pad_id + 1, self.pad_id)]
        if self.norm_before is not None:
            x = self.norm_before(x)
        x = jnp.where(mask[..., None] > 0, x, 0)
        yield x
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, mask)
            yield x if i < len(self.blocks) else self.norm_after(x)

    @property
    def has_head(self) -> bool:
        """Whether the folder has the head of masked prediction."""
        return self.head is not None

    def objective(
        self,
        tokens: Int[np.ndarray, "b t"],
        mask: Bool[np.ndarray, "b t"],
        pool: Bool[np.ndarray, "b t"],
        rng: np.random.Generator,
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """15 % of the pooled tokens of every sequence are masked, at least one; see `HeadedEncoder`."""
        draw = np.where(pool, rng.random(tokens.shape), np.inf)
        hidden = pool & ((draw < MASKED_SHARE) | (draw == draw.min(1, keepdims=True)))
        return np.where(hidden, self.mask_id, tokens), tokens, hidden

    def logits(
        self, activations: Float[Array | np.ndarray, "b t d"], mask: Bool[np.ndarray, "b t"], layer: int
    ) -> Float[Array, "b t classes"]:
        """Of every token of the vocabulary, through the blocks above `layer`, jitted; see `HeadedEncoder`."""
        return _logits(*nnx.split(self), activations, mask, layer)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _logits(graph: Any, state: Any, activations: Array, mask: Array, layer: int) -> Array:
    model = nnx.merge(graph, state)
    embedding = model.embedding[...]
    x = activations.astype(embedding.dtype)
    for block in model.blocks[layer:]:
        x = block(x, mask)
    return model.head(x if layer == len(model.blocks) else model.norm_after(x), embedding)
