"""What a training of an encoder is asked for, and what is its kind's own: the one loop knows no letters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from covjax.encoders.weights import AskedTensors
from covjax.errors import InputError
from covjax.options import NOTHING, NUMBERS, at_least, check_options, option
from covjax.training.language import TwoSided

NAMES = ("ntv3", "esm")  # of the kinds


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides what a language model is trained on and how."""

    data: str = option("", "genome in FASTA (also .gz); proteins in FASTA, CSV, TSV, Parquet or text", NOTHING)
    kind: str = option(
        "ntv3",
        "ntv3, of DNA, or esm, of proteins: architecture and letters",
        allowed=lambda name: name in NAMES,
        rule="ntv3 (DNA) or esm (proteins)",
    )
    output: str = option("runs/encoder", "folder of the checkpoints, logs, figures and the encoder", NOTHING)
    holdout: str = option("", "held out from training: records, separated by commas; of proteins a share")
    regions: str = option(
        "", "BED of regions (genes, …) of DNA; the held-out figures are also given inside and outside them", NOTHING
    )
    width: int = option(128, "features of a token", **at_least(2))
    blocks: int = option(4, "Transformer blocks", **at_least(1))
    heads: int = option(4, "heads of attention; 2 · heads divides the width of the blocks", **at_least(1))
    downsamples: int = option(2, "blocks of ntv3 that halve the length before the Transformer", **at_least(1))
    length: int = option(
        512, "bases in a window, a multiple of 2^downsamples; of proteins tokens in a row", **at_least(16)
    )
    steps: int = option(3000, "optimiser steps", **at_least(1))
    batch: int = option(48, "windows, or rows of proteins, per step", **at_least(1))
    learning_rate: float = option(2e-3, "peak rate of AdamW", allowed=lambda rate: rate > 0, rule="> 0")
    warmup: int = option(200, "steps over which the rate rises from 0", **at_least(0))
    weight_decay: float = option(0.01, "decay of matrices", allowed=lambda decay: decay >= 0, rule=">= 0")
    seed: int = option(
        0,
        "seed of the windows, the hidden letters, the initial parameters and the share of proteins held out",
        **at_least(0),
    )
    dtype: str = option(
        "float32",
        "float32 or bfloat16: type of the computation; parameters are float32",
        allowed=lambda name: name in ("float32", "bfloat16"),
        rule="float32 or bfloat16",
    )
    held_windows: int = option(512, "held-out windows, or proteins, for the figures", NUMBERS, **at_least(1))
    save_every: int = option(500, "steps between checkpoints", NOTHING, **at_least(1))
    evaluate_every: int = option(500, "steps between evaluations on held-out sequences", NOTHING, **at_least(1))
    log_every: int = option(20, "steps between rows of the log", NOTHING, **at_least(1))
    snapshots: tuple[int, ...] = option(
        (),
        "steps after which the encoder is also written, to snapshots/STEP; 0 is before the first",
        NOTHING,
        allowed=lambda steps: all(step >= 0 for step in steps),
        rule=">= 0",
    )

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        if not self.data:
            raise InputError("data: '' is not allowed; expected a genome, or proteins, in a file")
        check_options(self)
        if not 0 <= self.warmup <= self.steps:
            raise InputError(f"warmup: {self.warmup} is not allowed; 0 to steps")
        if late := [step for step in self.snapshots if step > self.steps]:
            raise InputError(f"snapshots: {late[0]} is not allowed; 0 to steps, {self.steps}")
        if self.width % (2 * self.heads):
            raise InputError(f"heads: {self.width} features cannot be divided by 2 · {self.heads}")


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
