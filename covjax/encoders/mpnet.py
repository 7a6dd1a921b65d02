"""MPNet (Song et al. 2020) in the Hugging Face layout: BERT with relative positions beside the learned ones."""

import dataclasses
from pathlib import Path
from typing import Any

from covjax.encoders import bert
from covjax.encoders.bert import ALLOWED, bert_options, counted_from_pad
from covjax.encoders.transformer import Transformer
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import Tensors, read_config

PARTS = ("embeddings.", "encoder.")
BUFFERS = (r"embeddings\.position_ids",)
DEFAULTS: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "relative_attention_num_buckets": 32}
DEFAULTS |= {"pad_token_id": 1, "max_position_embeddings": 512}
# The model's code counts positions from 1, whatever the config says, and fills 32 buckets.
OWN: dict[str, tuple[Any, ...]] = {"pad_token_id": (1,), "relative_attention_num_buckets": (32,)}
NAMES = dataclasses.replace(
    bert.NAMES,
    types="",
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    norm_attention="attention.LayerNorm",
    buckets="encoder.relative_attention_bias",
)


def mpnet(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder."""
    config = read_config(folder, DEFAULTS, {**ALLOWED, **OWN})
    tensors = Tensors(folder, dtype, "mpnet", PARTS)
    options = bert_options(config, tensors, NAMES, first_position=2, buckets=32)
    vocabulary = subword_vocabulary(folder, config["vocab_size"], config["max_position_embeddings"] - 2)
    return Transformer(name, tensors, NAMES, options, counted_from_pad(folder, config, vocabulary), BUFFERS)
