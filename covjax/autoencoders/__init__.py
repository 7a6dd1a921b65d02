"""Autoencoders of tokens (sparse) and of second moments (Tucker, CP): losses, exact solver, state, stability."""

from covjax.autoencoders import sparse  # noqa: F401  (registers its architectures)
from covjax.autoencoders.base import (
    autoencoder_kinds,
    autoencoder_options,
    make_autoencoder,
    register_autoencoder,
)
from covjax.autoencoders.bench import absorption_fraction, covariance_fvu
from covjax.autoencoders.loading import load
from covjax.autoencoders.moment_modules import CPAutoencoder, TuckerAutoencoder
from covjax.autoencoders.saved import load_autoencoder, save_autoencoder
from covjax.autoencoders.second_moment import (
    cp_latents,
    cp_loss,
    fvu,
    moment_norm,
    tucker_loss,
)
from covjax.autoencoders.solver import Solution, evaluate_fvu, pca_basis, solve_tucker
from covjax.autoencoders.sparse import load_saelens, save_dictionary_learning, save_saelens

__all__ = [
    "CPAutoencoder",
    "Solution",
    "TuckerAutoencoder",
    "absorption_fraction",
    "autoencoder_kinds",
    "autoencoder_options",
    "covariance_fvu",
    "cp_latents",
    "cp_loss",
    "evaluate_fvu",
    "fvu",
    "load",
    "load_autoencoder",
    "load_saelens",
    "make_autoencoder",
    "moment_norm",
    "pca_basis",
    "register_autoencoder",
    "save_autoencoder",
    "save_dictionary_learning",
    "save_saelens",
    "solve_tucker",
    "tucker_loss",
]
