"""Sweeps: several autoencoders trained in one pass over the data, measured, and compared on one page."""

from covjax.sweeps.measures import Measured, measure
from covjax.sweeps.sweep import Member, members, train_sweep

__all__ = ["Measured", "Member", "measure", "members", "train_sweep"]
