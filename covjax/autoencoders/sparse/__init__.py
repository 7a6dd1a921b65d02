"""Sparse autoencoders of tokens: TopK, BatchTopK, ReLU, JumpReLU, Matryoshka."""

from covjax.autoencoders.sparse.dense import BatchTopK, JumpReLU, Matryoshka, ReLU
from covjax.autoencoders.sparse.module import SparseAutoencoder
from covjax.autoencoders.sparse.saelens import load_saelens, save_saelens
from covjax.autoencoders.sparse.topk import TopK

__all__ = ["BatchTopK", "JumpReLU", "Matryoshka", "ReLU", "SparseAutoencoder", "TopK", "load_saelens", "save_saelens"]
