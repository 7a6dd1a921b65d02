"""ModernBERT (Warner et al. 2024) in the Hugging Face layout.

Norms before each part, rotary positions, gated MLP; most layers attend to near tokens alone, on either side, with
rotary positions of their own.
"""

from pathlib import Path
from typing import Any

from covjax.encoders.layers import ACTIVATIONS
from covjax.encoders.llama import FULL, SLIDING, layer_kinds
from covjax.encoders.rotary import read_rotary
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import SIZES, Tensors, check_multiple, read_options

PARTS = ("embeddings.", "layers.", "final_norm.")
DEFAULTS: dict[str, Any] = {"hidden_activation": "gelu", "norm_eps": 1e-5, "max_position_embeddings": 8192}
DEFAULTS |= {"norm_bias": False, "attention_bias": False, "mlp_bias": False, "layer_types": None}
DEFAULTS |= {"local_attention": 128, "global_attn_every_n_layers": 3}
DEFAULTS |= {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0}
ALLOWED: dict[str, tuple[Any, ...]] = {"hidden_activation": tuple(ACTIVATIONS)}
ALLOWED |= dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias"), (True, False))
NAMES = Names(
    words="embeddings.tok_embeddings",
    norm_first="embeddings.norm",
    block="layers.{}",
    norm_attention="attn_norm",
    first_unnormed=True,
    qkv=("attn.Wqkv",),
    out="attn.Wo",
    norm_mlp="mlp_norm",
    up=("mlp.Wi",),
    down="mlp.Wo",
    norm_last="final_norm",
)


def modernbert(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder."""
    file, every, near = folder / "config.json", "global_attn_every_n_layers", "local_attention"
    sizes = (*SIZES, "max_position_embeddings", near, every)
    config = read_options(folder, DEFAULTS, ALLOWED, sizes, "norm_eps")
    check_multiple(folder, config, "hidden_size", "num_attention_heads")
    tensors = Tensors(folder, dtype, "model", PARTS)
    count, head = config["num_hidden_layers"], config["hidden_size"] // config["num_attention_heads"]
    tensors.check_blocks(NAMES.block, count)
    config["sliding_window"] = config[near] // 2
    kinds = layer_kinds(folder, config, [SLIDING if i % config[every] else FULL for i in range(count)])
    far_base = config["global_rope_theta"]
    near_base = config["local_rope_theta"] or far_base
    own = {
        FULL: BlockOptions(rotary=read_rotary(file, config, head, far_base, layer=FULL)),
        SLIDING: BlockOptions(
            rotary=read_rotary(file, config, head, near_base, layer=SLIDING), reach=config["sliding_window"]
        ),
    }
    options = Options(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        blocks=tuple(own[kind] for kind in kinds),
        eps=config["norm_eps"],
        activation=config["hidden_activation"],
        order="before",
        norm_bias=config["norm_bias"],
        gated=True,
        qkv_bias=config["attention_bias"],
        out_bias=config["attention_bias"],
        mlp_bias=config["mlp_bias"],
    )
    vocabulary = subword_vocabulary(folder, options.vocabulary, config["max_position_embeddings"])
    return Transformer(name, tensors, NAMES, options, vocabulary)
