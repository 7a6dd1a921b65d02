"""The encoder of T5 (Raffel et al. 2020) in the Hugging Face layout: ProtT5, ProstT5, Ankh, sentence-T5.

Root-mean-square norms before each part, no biases, scores without a scale, relative positions in buckets that all
blocks share. The decoder, where a file has it, decides nothing here.
"""

from pathlib import Path
from typing import Any

from covjax.encoders.residues import residue_vocabulary
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer, uniform
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import Tensors, read_options

PARTS = ("shared.", "encoder.")
SIZES: tuple[str, ...] = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")
SIZES += ("relative_attention_num_buckets", "relative_attention_max_distance")
DEFAULTS: dict[str, Any] = {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6}
DEFAULTS |= {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
ACTIVATION = {"relu": "relu", "gelu": "gelu", "silu": "silu", "gated-relu": "relu", "gated-silu": "silu"}
ACTIVATION["gated-gelu"] = "gelu_new"  # not "gelu", in the authors' code and in transformers
ALLOWED: dict[str, tuple[Any, ...]] = {"feed_forward_proj": tuple(ACTIVATION), "is_decoder": (False, None)}


def _names(words: str, gated: bool) -> Names:
    return Names(
        words=words,
        block="encoder.block.{}",
        norm_attention="layer.0.layer_norm",
        qkv=tuple(f"layer.0.SelfAttention.{part}" for part in "qkv"),
        out="layer.0.SelfAttention.o",
        norm_mlp="layer.1.layer_norm",
        up=tuple(f"layer.1.DenseReluDense.wi{part}" for part in (("_0", "_1") if gated else ("",))),
        down="layer.1.DenseReluDense.wo",
        buckets="encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        norm_last="encoder.final_layer_norm",
    )


def t5(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder."""
    config = read_options(folder, DEFAULTS, ALLOWED, SIZES, "layer_norm_epsilon")
    tensors = Tensors(folder, dtype, "transformer", PARTS)
    gated = config["feed_forward_proj"].startswith("gated-")
    # One matrix under two names, of which a file has either or both.
    words = "shared" if "shared.weight" in tensors else "encoder.embed_tokens"
    names = _names(words, gated)
    options = Options(
        vocabulary=config["vocab_size"],
        width=config["d_model"],
        heads=config["num_heads"],
        head_width=config["d_kv"],
        inner=config["d_ff"],
        blocks=uniform(tensors, names, config["num_layers"], BlockOptions(scale=1.0)),
        eps=config["layer_norm_epsilon"],
        activation=ACTIVATION[config["feed_forward_proj"]],
        order="before",
        norm="rms",
        gated=gated,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        buckets=config["relative_attention_num_buckets"],
        farthest=config["relative_attention_max_distance"],
    )
    vocabulary = residue_vocabulary(folder, options.vocabulary)
    vocabulary = vocabulary or subword_vocabulary(folder, options.vocabulary, None)
    return Transformer(name, tensors, names, options, vocabulary, (r"encoder\.embed_tokens\.weight",))
