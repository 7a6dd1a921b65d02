"""GPT-NeoX (Black et al. 2022) in the Hugging Face layout: Pythia. Causal, rotary positions on a part of each head."""

from pathlib import Path
from typing import Any

from covjax.encoders.heads import LanguageModel, decoder_head
from covjax.encoders.layers import ACTIVATIONS
from covjax.encoders.rotary import read_rotary
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer, uniform
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import SIZES, Tensors, check_multiple, read_options

PARTS = ("embed_in.", "layers.", "final_layer_norm.")
BUFFERS = (r"layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "use_parallel_residual": True,
    "attention_bias": True,
}
DEFAULTS |= {"rotary_emb_base": 10000.0, "rotary_pct": 0.25, "max_position_embeddings": 2048}
ALLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": tuple(ACTIVATIONS),
    "use_parallel_residual": (True, False),
    "attention_bias": (True, False),
    "is_causal": (True,),
}
NAMES = Names(
    words="embed_in",
    block="layers.{}",
    norm_attention="input_layernorm",
    qkv=("attention.query_key_value",),
    out="attention.dense",
    norm_mlp="post_attention_layernorm",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    norm_last="final_layer_norm",
)


def gpt_neox(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder."""
    positions = "max_position_embeddings"
    config = read_options(folder, DEFAULTS, ALLOWED, (*SIZES, positions), "layer_norm_eps")
    check_multiple(folder, config, "hidden_size", "num_attention_heads")
    head = config["hidden_size"] // config["num_attention_heads"]
    base, share = config["rotary_emb_base"], config["rotary_pct"]
    rotary = read_rotary(folder / "config.json", config, head, base, share)
    tensors = Tensors(folder, dtype, "gpt_neox", PARTS)
    options = Options(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        blocks=uniform(tensors, NAMES, config["num_hidden_layers"], BlockOptions(rotary=rotary)),
        eps=config["layer_norm_eps"],
        activation=config["hidden_act"],
        order="parallel" if config["use_parallel_residual"] else "before",
        causal=True,
        qkv_bias=config["attention_bias"],
        out_bias=config["attention_bias"],
        interleaved=True,
    )
    vocabulary = subword_vocabulary(folder, options.vocabulary, config[positions])
    head = decoder_head(config, tied=False, decoder="embed_out.weight")
    return LanguageModel(name, tensors, NAMES, options, vocabulary, BUFFERS, head=head)
