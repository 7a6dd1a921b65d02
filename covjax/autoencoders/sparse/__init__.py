"""Sparse autoencoders of tokens: TopK, BatchTopK, ReLU, JumpReLU, Matryoshka."""

from covjax.autoencoders.sparse.kinds import BatchTopK, JumpReLU, Matryoshka, ReLU, TopK
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.saelens import load_saelens, save_saelens

__all__ = ["BatchTopK", "JumpReLU", "Matryoshka", "ReLU", "SparseAutoencoder", "TopK", "load_saelens", "save_saelens"]
