"""Llama (Touvron et al. 2023), Mistral, Qwen2, Qwen3 in the Hugging Face layout.

Causal unless `is_causal` says not, as for embedding models; root-mean-square norms before each part, rotary positions,
gated MLP, fewer heads of keys and values than of queries. Qwen2 has biases of queries, keys and values; Qwen3
normalises queries and keys head by head.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from covjax.encoders.heads import LanguageModel, decoder_head
from covjax.encoders.layers import ACTIVATIONS
from covjax.encoders.rotary import read_rotary
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer
from covjax.encoders.vocabulary import subword_vocabulary
from covjax.encoders.weights import SIZES, Tensors, check_multiple, check_options, read_options
from covjax.errors import InputError, shown

PARTS = ("embed_tokens.", "layers.", "norm.")
BUFFERS = (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",)
DEFAULTS: dict[str, Any] = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "head_dim": None}
DEFAULTS |= {"num_key_value_heads": None, "attention_bias": False, "mlp_bias": False, "layer_types": None}
DEFAULTS |= {"sliding_window": None, "use_sliding_window": False, "max_window_layers": 28, "is_causal": True}
FULL, SLIDING = "full_attention", "sliding_attention"
ALLOWED: dict[str, tuple[Any, ...]] = {
    "hidden_act": tuple(ACTIVATIONS),
    "attention_bias": (True, False, None),
    "mlp_bias": (True, False, None),
    "use_sliding_window": (True, False, None),
    "is_decoder": (True, False, None),
    "is_causal": (True, False),
}
NAMES = Names(
    words="embed_tokens",
    block="layers.{}",
    norm_attention="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    norm_queries="self_attn.q_norm",
    norm_keys="self_attn.k_norm",
    out="self_attn.o_proj",
    norm_mlp="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    norm_last="norm",
)


def read_llama(
    folder: Path, defaults: dict[str, Any], allowed: dict[str, tuple[Any, ...]], eps: str | None = "rms_norm_eps"
) -> dict[str, Any]:
    """A config.json in Llama's names, with what it leaves out filled in; raises InputError as `read_options`."""
    config = read_options(folder, {**DEFAULTS, **defaults}, {**ALLOWED, **allowed}, SIZES, eps)
    heads = config["num_attention_heads"]
    if config["head_dim"] is None:
        check_multiple(folder, config, "hidden_size", "num_attention_heads")
        config["head_dim"] = config["hidden_size"] // heads
    if config["num_key_value_heads"] is None:
        config["num_key_value_heads"] = heads
    sizes = ["head_dim", "num_key_value_heads", "max_position_embeddings"]
    check_options(folder / "config.json", config, {}, sizes, None)
    check_multiple(folder, config, "num_attention_heads", "num_key_value_heads")
    return config


def layer_kinds(folder: Path, config: dict[str, Any], default: Sequence[str]) -> list[str]:
    """Of every layer whether it attends to all tokens or to near ones; raises InputError for another kind or number."""
    kinds, file = config["layer_types"], folder / "config.json"
    kinds = list(default) if kinds is None else kinds
    known = isinstance(kinds, list) and all(kind in (FULL, SLIDING) for kind in kinds)
    if not known or len(kinds) != config["num_hidden_layers"]:
        raise InputError(
            f"{file}: layer_types is {shown(kinds)}, expected {FULL} or {SLIDING} for each of "
            f"{config['num_hidden_layers']} layers"
        )
    if SLIDING in kinds:
        check_options(file, config, {}, ["sliding_window"], None)
    return kinds


def llama_options(config: dict[str, Any], blocks: tuple[BlockOptions, ...], **more: Any) -> Options:
    """The options that a config.json gives by Llama's names."""
    given: dict[str, Any] = {
        "vocabulary": config["vocab_size"],
        "width": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "key_heads": config["num_key_value_heads"],
        "head_width": config["head_dim"],
        "inner": config["intermediate_size"],
        "blocks": blocks,
        "order": "before",
        "norm": "rms",
        "gated": True,
        "causal": config["is_causal"],
        "qkv_bias": bool(config["attention_bias"]),
        "out_bias": bool(config["attention_bias"]),
        "mlp_bias": bool(config["mlp_bias"]),
    }
    return Options(**given | more)


def llama(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder."""
    return _decoder(name, folder, dtype, {})


def mistral(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder; all layers attend to the last `sliding_window` tokens, where that is set."""
    return _decoder(name, folder, dtype, {"sliding_window": 4096}, whole_window=True)


def qwen2(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder."""
    return _decoder(name, folder, dtype, {"sliding_window": 4096}, qkv_bias=True, out_bias=False)


def qwen3(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen decoder of a folder."""
    return _decoder(name, folder, dtype, {"sliding_window": 4096, "head_dim": 128}, head_norm="head")


def _decoder(
    name: str, folder: Path, dtype: Any, defaults: dict[str, Any], whole_window: bool = False, **more: Any
) -> Transformer:
    config = read_llama(folder, defaults, {"layer_types": (None,)} if whole_window else {})
    tensors = Tensors(folder, dtype, "model", PARTS)
    count = config["num_hidden_layers"]
    tensors.check_blocks(NAMES.block, count)
    from_layer = 0 if whole_window else config["max_window_layers"]
    slides = config["sliding_window"] is not None and (whole_window or bool(config["use_sliding_window"]))
    default = [SLIDING if slides and i >= from_layer else FULL for i in range(count)]
    kinds = layer_kinds(folder, config, default)
    if SLIDING in kinds and not config["is_causal"]:
        raise InputError(f"{folder / 'config.json'}: is_causal false goes with {FULL} alone, and a layer is {SLIDING}")
    rotary = read_rotary(folder / "config.json", config, config["head_dim"], config["rope_theta"])
    reach = {FULL: None, SLIDING: (config["sliding_window"] or 1) - 1}
    blocks = tuple(BlockOptions(rotary=rotary, reach=reach[kind]) for kind in kinds)
    options = llama_options(config, blocks, eps=config["rms_norm_eps"], activation=config["hidden_act"], **more)
    vocabulary = subword_vocabulary(folder, options.vocabulary, config["max_position_embeddings"])
    head = decoder_head(config, tied=False) if options.causal else None
    return LanguageModel(name, tensors, NAMES, options, vocabulary, BUFFERS, head=head)
