"""Frozen encoders: letters in, one vector per token out."""

from covjax.encoders.base import Encoder, register_encoder, tokenize
from covjax.encoders.checks import check_padding_invariance, norm_report
from covjax.encoders.custom import from_arrays, from_function
from covjax.encoders.embed import embed, replicate, windowed_moments, windows
from covjax.encoders.loading import load
from covjax.encoders.pytorch import from_torch

__all__ = [
    "Encoder",
    "check_padding_invariance",
    "embed",
    "from_arrays",
    "from_function",
    "from_torch",
    "load",
    "norm_report",
    "register_encoder",
    "replicate",
    "tokenize",
    "windowed_moments",
    "windows",
]
