"""The ESM family in the Hugging Face layout: ESM-2 (Lin et al. 2023), ESM-1b, Nucleotide Transformer v1.

A pre-norm Transformer. Variants by config: rotary or learned positions, the token-dropout rescaling of inference, a
layer norm after the embedding. Layer i is `hidden_states[i]` of transformers: 0 the embedding, the last one after the
final layer norm.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from covjax.encoders.weights import Tensors
from covjax.errors import InputError

# What a checkpoint may hold beside the encoder: heads, buffers that are computed, a pooler that was never trained.
UNUSED = (r"contact_head\..*", r"lm_head\..*", r"pooler\..*", r".*position_ids")
TRAIN_MASK_RATIO = 0.15 * 0.8  # of ESM's pre-training: 15 % of tokens chosen, 80 % of these masked


class Dense(nnx.Module):
    """x W + b, with W stored (inputs, outputs)."""

    def __init__(self, kernel: np.ndarray, bias: np.ndarray):
        self.kernel, self.bias = nnx.Param(jnp.asarray(kernel)), nnx.Param(jnp.asarray(bias))

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        """Apply to the last axis."""
        return x @ self.kernel[...] + self.bias[...]


class LayerNorm(nnx.Module):
    """(x − mean) / sqrt(variance + eps) ∘ scale + bias over the last axis (Ba et al. 2016)."""

    def __init__(self, tensors: Tensors, name: str, width: int, eps: float):
        self.scale = nnx.Param(jnp.asarray(tensors.take(f"{name}.weight", width)))
        self.bias = nnx.Param(jnp.asarray(tensors.take(f"{name}.bias", width)))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Normalise the last axis."""
        centred = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return centred * scale * self.scale[...] + self.bias[...]


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with the exact (erf) GELU."""

    def __init__(self, tensors: Tensors, name: str, config: dict[str, Any]):
        d, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        rotary = config["position_embedding_type"] == "rotary"
        self.frequencies = Frequencies(_frequencies(tensors, name, d // self.heads)) if rotary else None
        self.norm_attention = LayerNorm(tensors, f"{name}.attention.LayerNorm", d, eps)
        # One matrix product for queries, keys and values.
        parts = [_dense(tensors, f"{name}.attention.self.{part}", d, d) for part in ("query", "key", "value")]
        self.qkv = Dense(np.concatenate([k for k, _ in parts], 1), np.concatenate([b for _, b in parts]))
        self.out = Dense(*_dense(tensors, f"{name}.attention.output.dense", d, d))
        self.norm_mlp = LayerNorm(tensors, f"{name}.LayerNorm", d, eps)
        self.up = Dense(*_dense(tensors, f"{name}.intermediate.dense", d, inner))
        self.down = Dense(*_dense(tensors, f"{name}.output.dense", inner, d))

    def __call__(self, x: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
        """One block; masked tokens are attended by none."""
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, -1) for part in jnp.split(self.qkv(self.norm_attention(x)), 3, -1)
        )
        if self.frequencies is not None:
            q, k = _rotate(q, self.frequencies[...]), _rotate(k, self.frequencies[...])
        scores = jnp.einsum("bqhc,bkhc->bhqk", q * q.shape[-1] ** -0.5, k)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores, -1), v)
        x = x + self.out(mixed.reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norm_mlp(x)), approximate=False))


def _dense(tensors: Tensors, name: str, inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    return tensors.take(f"{name}.weight", outputs, inputs).T, tensors.take(f"{name}.bias", outputs)


class Frequencies(nnx.Variable):
    """Rotary frequencies: a buffer, saved but not trained."""


def _frequencies(tensors: Tensors, name: str, width: int) -> np.ndarray:
    """The checkpoint's own frequencies where it has them: ESM-2's are rounded to half precision, as in its training.

    Computed from base 10000 they differ by up to 1e-3 relative, which moves activations by 1e-4. transformers 5 writes
    one buffer for all layers, under a name with a literal asterisk.
    """
    for place in (name, "encoder.layer.*"):
        stored = f"{place}.attention.self.rotary_embeddings.inv_freq"
        if stored in tensors:
            return tensors.take(stored, width // 2, again=True)
    return (10000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)


def _rotate(x: Float[Array, "b t h c"], frequencies: Float[Array, "half"]) -> Float[Array, "b t h c"]:
    """Rotary positions on half-split pairs (Su et al. 2021)."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * frequencies
    cos, sin = jnp.cos(angle)[None, :, None], jnp.sin(angle)[None, :, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class Esm(nnx.Module):
    """The frozen encoder (see `covjax.encoders.Encoder`)."""

    def __init__(self, name: str, tensors: Tensors, config: dict[str, Any], tokenizer: Any):
        d, eps = config["hidden_size"], config["layer_norm_eps"]
        self.name, self.tokenizer = name, tokenizer
        self.pad, self.mask_id = config["pad_token_id"], config["mask_token_id"]
        self.token_dropout, self.width = config["token_dropout"], d
        self.num_layers = config["num_hidden_layers"] + 1
        self.embedding = nnx.Param(
            jnp.asarray(tensors.take("embeddings.word_embeddings.weight", config["vocab_size"], d))
        )
        rotary = config["position_embedding_type"] == "rotary"
        positions = config["max_position_embeddings"]
        self.max_tokens = None if rotary else positions - self.pad - 1
        self.positions = (
            None
            if rotary
            else nnx.Param(jnp.asarray(tensors.take("embeddings.position_embeddings.weight", positions, d)))
        )
        before = config["emb_layer_norm_before"]
        self.norm_before = LayerNorm(tensors, "embeddings.layer_norm", d, eps) if before else None
        self.blocks = nnx.List(Block(tensors, f"encoder.layer.{i}", config) for i in range(config["num_hidden_layers"]))
        self.norm_after = LayerNorm(tensors, "encoder.emb_layer_norm_after", d, eps)
        # Rotary checkpoints converted from older code carry a position table that nothing reads.
        self.weights_digest = tensors.finish((*UNUSED, *([r"embeddings\.position_embeddings\.weight"] * rotary)))

    def features(self, layer: int) -> int:
        """Width of one token, the same at every layer."""
        if not 0 <= layer < self.num_layers:
            raise InputError(f"layer: {layer} is not one of 0 … {self.num_layers - 1}")
        return self.width

    def check_sequence(self, sequence: str) -> None:
        """Raise InputError for an empty sequence, one over the learned positions, or what the vocabulary lacks."""
        ids = self.tokenizer(sequence, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError("the sequence has no token")
        if self.tokenizer.unk_token_id in ids:
            raise InputError(f"token {ids.index(self.tokenizer.unk_token_id) + 1} is not in the model's vocabulary")
        if self.max_tokens is not None and len(ids) + 2 > self.max_tokens:
            raise InputError(f"{len(ids)} tokens, more than the {self.max_tokens - 2} positions the model has learned")

    def tokenize(
        self, sequences: Sequence[str], length: int
    ) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Special tokens around the sequence, padding to `length` letters; special tokens are seen, never pooled."""
        rows = []
        for sequence in sequences:
            self.check_sequence(sequence)
            rows.append(self.tokenizer(sequence)["input_ids"])
        size = max(length + 2, max(map(len, rows)))
        tokens = np.full((len(rows), size), self.pad, np.int32)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        mask = tokens != self.pad
        return tokens, mask, mask & ~np.isin(tokens, self.tokenizer.all_special_ids)

    def apply(
        self, tokens: Int[np.ndarray, "b t"], mask: Bool[np.ndarray, "b t"], layers: tuple[int, ...]
    ) -> dict[int, Float[Array, "b t d"]]:
        """Activations of the asked layers, jitted; masked tokens are zeroed."""
        for layer in layers:
            self.features(layer)
        return _apply(*nnx.split(self), tokens, mask, tuple(layers))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _apply(graph, state, tokens, mask, layers):
    model = nnx.merge(graph, state)
    x = model.embedding[...][tokens]
    if model.token_dropout:
        hidden = tokens == model.mask_id
        x = jnp.where(hidden[..., None], 0, x)
        observed = hidden.sum(-1) / jnp.maximum(mask.sum(-1), 1)
        x = x * ((1 - TRAIN_MASK_RATIO) / (1 - observed))[:, None, None]
    if model.positions is not None:
        # Positions are counted over real tokens only, from pad + 1 on (RoBERTa's convention).
        x = x + model.positions[...][jnp.where(mask, jnp.cumsum(mask, 1) + model.pad, model.pad)]
    if model.norm_before is not None:
        x = model.norm_before(x)
    x = jnp.where(mask[..., None], x, 0)
    out = {0: x}
    for i, block in enumerate(model.blocks, start=1):
        x = block(x, mask)
        out[i] = x
    out[len(model.blocks)] = model.norm_after(x)
    return {layer: jnp.where(mask[..., None], out[layer], 0) for layer in layers}


def load_esm(folder: Path, name: str) -> Esm:
    """Read config.json, vocab.txt and the safetensors of a folder whose model_type is esm.

    Raises InputError for options this encoder does not have (named, never ignored), a vocabulary of another size, and
    whatever `Tensors` raises.
    """
    from transformers import EsmTokenizer

    config = json.loads((folder / "config.json").read_text())
    config = {"position_embedding_type": "absolute", "token_dropout": False, "emb_layer_norm_before": False} | config
    allowed: dict[str, tuple[Any, ...]] = {
        "position_embedding_type": ("rotary", "absolute"),
        "hidden_act": ("gelu",),
        "is_folding_model": (False, None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "add_bias_fnn": (True, None),
        "tie_word_embeddings": (True, False, None),
    }
    for option, values in allowed.items():
        if config.get(option, values[-1]) not in values:
            raise InputError(f"{folder}/config.json: {option} {config[option]!r} is not supported; allowed: {values}")
    tokenizer = EsmTokenizer(str(folder / "vocab.txt"))
    if len(tokenizer.get_vocab()) != config["vocab_size"]:
        size = len(tokenizer.get_vocab())
        raise InputError(f"{folder}/vocab.txt: {size} tokens, but config.json says vocab_size {config['vocab_size']}")
    return Esm(name, Tensors(folder), config, tokenizer)
