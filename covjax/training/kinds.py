"""What a training of an encoder is asked for, and what is its kind's own: the one loop knows no letters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from covjax.encoders.weights import AskedTensors
from covjax.training.config import EncoderConfig
from covjax.training.language import TwoSided

# x holds four rows for every window: the tokens that are shown (`mask` where one is hidden), those that stand there,
# the class of every position, 1 in a region, and the number of its sequence, 1, 2, …, 0 for padding. Weights are 0
# where a token is not asked for, else what it counts for.
Batch = tuple[Int32[np.ndarray, "b 4 t"], Float32[np.ndarray, "b t"]]


class Examples(Protocol):
    """Batches of a data set; what one holds depends on the seed and its number alone, so a run goes on anywhere."""

    def batch(self, size: int, seed: int, number: int) -> Batch:
        """Batch `number` of a training, of `size` windows."""

    def held_out(self, count: int, size: int, seed: int) -> Iterator[Batch]:
        """Batches of at most `size` windows to judge by, made of at most `count` pieces of what was held out."""


class Corpus(NamedTuple):
    """What a run reads: windows to train on and to judge by, the counting models, and what identifies them."""

    train: Examples
    held: Examples
    rivals: TwoSided
    digest: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """A family of encoders and what it is trained on."""

    encoder: Callable[[str, Path, Any, AskedTensors], Any]
    files: Callable[[EncoderConfig], Mapping[str, str]]  # of the encoder's folder, beside its weights
    stored: Callable[[str], str]  # the name that its file gives to a tensor
    read: Callable[[EncoderConfig], Corpus]
    tokens: tuple[str, ...]  # by their numbers
    letters: str  # those that are hidden, in the order of their codes
    letter: str  # what one is called
