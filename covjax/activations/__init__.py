"""Where token activations come from, and the one pass over them."""

from covjax.activations.encoded import EncodedTokens
from covjax.activations.given import GivenActivations, GivenTokens, read_activations
from covjax.activations.pairs import PairTokens
from covjax.activations.tokens import ArrayTokens, Batch

__all__ = [
    "ArrayTokens",
    "Batch",
    "EncodedTokens",
    "GivenActivations",
    "GivenTokens",
    "PairTokens",
    "read_activations",
]
