"""The ESM family in the Hugging Face layout: ESM-2 (Lin et al. 2023), ESM-1b, Nucleotide Transformer v1 and v2.

A pre-norm Transformer. Variants by config: rotary or learned positions, the token-dropout rescaling of inference, a
layer norm after the embedding, and the gated MLP without biases of the Nucleotide Transformer v2 (Dalla-Torre et al.
2024; `add_bias_fnn: false`). Layer i is `hidden_states[i]` of transformers: 0 the embedding, the last one after the
final layer norm.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from covjax.encoders.bert import counted_from_pad
from covjax.encoders.heads import ROBERTA_HEAD, LanguageModel
from covjax.encoders.layers import Mask, attended
from covjax.encoders.rotary import Rotary
from covjax.encoders.transformer import BlockOptions, Names, Options, uniform
from covjax.encoders.vocabulary import esm_vocabulary
from covjax.encoders.weights import Tensors, digest_settings, is_token, read_config
from covjax.errors import InputError, shown

# ESM-2's tokens in the order of their numbers: special ones, the amino acids by frequency, rare and unknown residues.
VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>")
# Where the encoder's tensors stand; transformers 5 keeps the frequencies of all layers in a buffer of the model.
PARTS = ("embeddings.", "encoder.", "rotary_embeddings.")
BUFFERS = (r"embeddings\.position_ids",)
TRAIN_MASK_RATIO = 0.15 * 0.8  # of ESM's pre-training: 15 % of tokens chosen, 80 % of these masked
DEFAULTS: dict[str, Any] = {
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


# The checkpoint's own frequencies count where it has them: ESM-2's are rounded to half precision, as in its training.
# Computed from base 10000 they differ by up to 1e-3 relative, which moves activations by 1e-4. transformers 5 keeps one
# buffer for all layers, and saves it under a name with a literal asterisk.
INNER = "attention.self.rotary_embeddings.inv_freq"
NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    norm_first="embeddings.layer_norm",
    block="encoder.layer.{}",
    frequencies=INNER,
    frequencies_all=(f"encoder.layer.*.{INNER}", "rotary_embeddings.inv_freq"),
    norm_attention="attention.LayerNorm",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    norm_mlp="LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    norm_last="encoder.emb_layer_norm_after",
)


def _options(config: dict[str, Any], tensors: Tensors) -> Options:
    gated, rotary = not config["add_bias_fnn"], config["position_embedding_type"] == "rotary"
    head = config["hidden_size"] // config["num_attention_heads"]
    turns = Rotary(tuple((10000.0 ** (-np.arange(0, head, 2) / head)).tolist())) if rotary else None
    return Options(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        blocks=uniform(tensors, NAMES, config["num_hidden_layers"], BlockOptions(rotary=turns)),
        eps=config["layer_norm_eps"],
        activation="silu" if gated else "gelu",
        order="before",
        gated=gated,
        mlp_bias=not gated,
        positions=None if rotary else config["max_position_embeddings"],
        first_position=config["pad_token_id"] + 1,
    )


class Esm(LanguageModel):
    """The frozen encoder (see `covjax.encoders.Encoder`); its head of masked prediction where the folder has it."""

    def __init__(self, name: str, folder: Path, dtype: Any, tensors: Tensors | None = None):
        config = read_config(folder, DEFAULTS, ALLOWED)
        if config["token_dropout"] and not is_token(config.get("mask_token_id"), config["vocab_size"]):
            mask = shown(config.get("mask_token_id"))
            raise InputError(
                f"{folder}/config.json: mask_token_id is {mask}; token_dropout needs the mask token's number"
            )
        tensors = Tensors(folder, dtype, "esm", PARTS) if tensors is None else tensors
        options = _options(config, tensors)
        most = None if options.positions is None else options.positions - options.first_position
        vocabulary = esm_vocabulary(folder, config["vocab_size"], max_tokens=most)
        if options.positions is not None:
            counted_from_pad(folder, config, vocabulary)
        names = NAMES if config["emb_layer_norm_before"] else dataclasses.replace(NAMES, norm_first=None)
        mask_id = config.get("mask_token_id") if is_token(config.get("mask_token_id"), options.vocabulary) else None
        self.token_dropout = bool(config["token_dropout"])
        # Rotary checkpoints converted from older code carry a position table that nothing reads.
        rotary = options.positions is None
        unused = (*BUFFERS, *([r"embeddings\.position_embeddings\.weight"] * rotary))
        super().__init__(name, tensors, names, options, vocabulary, unused, head=ROBERTA_HEAD, mask_id=mask_id)
        self.weights_digest = digest_settings(self.weights_digest, self.token_dropout, mask_id)

    def embedded(self, tokens: Int[Array, "b t"], mask: Mask) -> Float[Array, "b t d"]:
        """Embeddings of the tokens, rescaled for those that are masked where the model was trained so."""
        x = super().embedded(tokens, mask)
        if not self.token_dropout:
            return x
        hidden = tokens == self.mask_id
        own = attended(mask)
        observed = (own & hidden[:, None]).sum(-1) / jnp.maximum(own.sum(-1), 1)
        scale = ((1 - TRAIN_MASK_RATIO) / (1 - observed))[..., None]
        return (jnp.where(hidden[..., None], 0, x) * scale).astype(x.dtype)
