"""GPT-2 (Radford et al. 2019) in the Hugging Face layout: causal, norms before each part, learned positions."""

from pathlib import Path
from typing import Any

from covjax.encoders.heads import LanguageModel, decoder_head
from covjax.encoders.layers import ACTIVATIONS
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import Tensors, check_multiple, check_options, read_options

PARTS = ("wte.", "wpe.", "h.", "ln_f.")
BUFFERS = (r"h\.\d+\.attn\.(bias|masked_bias)",)
SIZES = ("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "vocab_size")
DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "n_positions": 1024,
}
DEFAULTS |= {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
ALLOWED: dict[str, tuple[Any, ...]] = {
    "activation_function": tuple(ACTIVATIONS),
    "scale_attn_weights": (True, False),
    "scale_attn_by_inverse_layer_idx": (True, False),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "is_causal": (True,),
}
NAMES = Names(
    words="wte",
    positions="wpe",
    block="h.{}",
    norm_attention="ln_1",
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    norm_mlp="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    norm_last="ln_f",
)


def gpt2(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder."""
    config = read_options(folder, DEFAULTS, ALLOWED, [], "layer_norm_epsilon")
    if config["n_inner"] is None and type(config.get("n_embd")) is int:
        config["n_inner"] = 4 * config["n_embd"]
    check_options(folder / "config.json", config, {}, SIZES, None)
    check_multiple(folder, config, "n_embd", "n_head")
    tensors = Tensors(folder, dtype, "transformer", PARTS)
    tensors.check_blocks(NAMES.block, config["n_layer"])
    plain = (config["n_embd"] // config["n_head"]) ** -0.5 if config["scale_attn_weights"] else 1.0
    by_layer = config["scale_attn_by_inverse_layer_idx"]
    options = Options(
        vocabulary=config["vocab_size"],
        width=config["n_embd"],
        heads=config["n_head"],
        inner=config["n_inner"],
        blocks=tuple(BlockOptions(scale=plain / (i + 1 if by_layer else 1)) for i in range(config["n_layer"])),
        eps=config["layer_norm_epsilon"],
        activation=config["activation_function"],
        order="before",
        causal=True,
        positions=config["n_positions"],
        transposed=True,
    )
    vocabulary = subword_vocabulary(folder, options.vocabulary, options.positions)
    head = decoder_head(config, tied=True)
    return LanguageModel(name, tensors, NAMES, options, vocabulary, BUFFERS, head=head)
