"""DistilBERT (Sanh et al. 2019) in the Hugging Face layout: BERT without token types, by other names."""

from pathlib import Path
from typing import Any

from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer, uniform
from covjax.encoders.vocabulary import bert_vocabulary
from covjax.encoders.weights import Tensors, check_multiple, read_options

PARTS = ("embeddings.", "transformer.")
BUFFERS = (r"embeddings\.position_ids",)
EPS = 1e-12  # of all norms; config.json says none
SIZES = ("dim", "n_layers", "n_heads", "hidden_dim", "vocab_size", "max_position_embeddings")
ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation": ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh", "silu"),
    "pruned_heads": ({}, None),
    "is_decoder": (False, None),
}
NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    norm_first="embeddings.LayerNorm",
    block="transformer.layer.{}",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    norm_attention="sa_layer_norm",
    up=("ffn.lin1",),
    down="ffn.lin2",
    norm_mlp="output_layer_norm",
)


def distilbert(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder."""
    config = read_options(folder, {"activation": "gelu", "max_position_embeddings": 512}, ALLOWED, SIZES, None)
    check_multiple(folder, config, "dim", "n_heads")
    positions = config["max_position_embeddings"]
    tensors = Tensors(folder, dtype, "distilbert", PARTS)
    options = Options(
        vocabulary=config["vocab_size"],
        width=config["dim"],
        heads=config["n_heads"],
        inner=config["hidden_dim"],
        blocks=uniform(tensors, NAMES, config["n_layers"], BlockOptions()),
        eps=EPS,
        activation=config["activation"],
        positions=positions,
    )
    vocabulary = bert_vocabulary(folder / "vocab.txt", config["vocab_size"], positions)
    return Transformer(name, tensors, NAMES, options, vocabulary, BUFFERS)
