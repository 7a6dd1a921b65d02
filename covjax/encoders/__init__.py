"""Frozen encoders: letters in, one vector per token out."""

from covjax.encoders.base import Encoder, load, register_encoder, tokenize
from covjax.encoders.embed import embed

__all__ = ["Encoder", "embed", "load", "register_encoder", "tokenize"]
