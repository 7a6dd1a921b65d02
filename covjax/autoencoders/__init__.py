"""Autoencoders of tokens (sparse) and of second moments (Tucker, CP): losses, exact solver, state, stability."""

from covjax.autoencoders.second_moment import cp_latents, cp_loss, fvu, moment_norm, tucker_loss

__all__ = ["cp_latents", "cp_loss", "fvu", "moment_norm", "tucker_loss"]
