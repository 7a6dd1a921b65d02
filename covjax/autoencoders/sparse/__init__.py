"""Sparse autoencoders of tokens by kind, transcoders and crosscoders of several layers, and published ones."""

from covjax.autoencoders.sparse.crosscoder import Crosscoder
from covjax.autoencoders.sparse.dictionary_learning import save_dictionary_learning
from covjax.autoencoders.sparse.gated import Gated
from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, Matryoshka, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.moment_topk import MomentTopK
from covjax.autoencoders.sparse.p_anneal import PAnneal
from covjax.autoencoders.sparse.saelens import load_saelens, save_saelens
from covjax.autoencoders.sparse.transcoder import Transcoder

__all__ = [
    "BatchTopK",
    "Crosscoder",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "MomentTopK",
    "PAnneal",
    "ReLU",
    "SparseAutoencoder",
    "TopK",
    "Transcoder",
    "load_saelens",
    "save_dictionary_learning",
    "save_saelens",
]
