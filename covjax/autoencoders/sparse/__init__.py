"""Sparse autoencoders of tokens: TopK, BatchTopK, ReLU, JumpReLU, Matryoshka, Gated, PAnneal, MomentTopK."""

from covjax.autoencoders.sparse.dictionary_learning import save_dictionary_learning
from covjax.autoencoders.sparse.gated import Gated
from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, Matryoshka, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.moment_topk import MomentTopK
from covjax.autoencoders.sparse.p_anneal import PAnneal
from covjax.autoencoders.sparse.saelens import load_saelens, save_saelens

__all__ = [
    "BatchTopK",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "MomentTopK",
    "PAnneal",
    "ReLU",
    "SparseAutoencoder",
    "TopK",
    "load_saelens",
    "save_dictionary_learning",
    "save_saelens",
]
