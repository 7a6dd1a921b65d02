"""What the training of an autoencoder or of an encoder is asked for; read without JAX."""

import dataclasses
from typing import Any

from covjax.errors import InputError, shown
from covjax.options import NOTHING, NUMBERS, at_least, check_options, one_of, option

NAMES = ("ntv3", "esm")  # of the kinds


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides what an autoencoder is trained on and how.

    Store, data and encoder stand in the identity of the activations by their content, what memory does to the order of
    tokens in the manifest's "order": as options they decide nothing, and a run may go on with other values of them.
    """

    output: str = option(
        "runs/autoencoder", "folder of the checkpoints, logs, figures and the trained autoencoder", NOTHING
    )
    store: str = option("", "folder that covjax extract --keep-tokens true wrote; or give --data", NOTHING)
    data: str = option("", "sequences to encode here: FASTA, CSV, TSV, text (each also .gz), Parquet", NOTHING)
    encoder: str = option(
        "", "name, folder or hub id; with --store the one it was extracted with, for the loss recovered", NOTHING
    )
    sequences: str = option("", "the file extracted, for the loss recovered of a store of an earlier version", NOTHING)
    layer: int = option(-1, "layer of the encoder; with --store, a layer that it has")
    layers: tuple[int, ...] = option(
        (), "several layers side by side, in place of one: for a transcoder (read, written) or a crosscoder", NOTHING
    )
    kind: str = option("tucker", "registered autoencoder: tucker, cp, …")
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "options of the kind, such as rank=32:tied=true:prefixes=[8,32]"}
    )
    steps: int = option(2000, "optimiser steps", **at_least(1))
    batch: int | None = option(
        None,
        "examples per step; none: 16 sequences, or 4096 tokens for autoencoders of tokens, fewer where there are fewer",
        allowed=lambda size: size is None or size >= 1,
        rule=">= 1 or none",
    )
    learning_rate: float = option(1e-3, "peak rate of Adam", allowed=lambda rate: rate > 0, rule="> 0")
    warmup: int = option(100, "steps over which the rate rises from 0")
    decay: float = option(
        0.2,
        "share of the steps at the end over which the rate falls to 0",
        allowed=lambda share: 0 <= share <= 1,
        rule="0 to 1",
    )
    clip: float | None = option(
        None, "largest global norm of the gradient", allowed=lambda norm: norm is None or norm > 0, rule="> 0 or none"
    )
    seed: int = option(0, "seed of the order of the examples and of the initial parameters", **at_least(0))
    split_seed: int = option(
        0,
        "seed of the held-out split and of the batches read before the first step",
        **at_least(0),
    )
    held_out: float = option(
        0.1, "share of the sequences kept for evaluation", allowed=lambda share: 0 < share < 1, rule="between 0 and 1"
    )
    init_batches: int = option(
        8,
        "training batches that the autoencoder may read before the first step",
        **at_least(1),
    )
    dtype: str = option(
        "float32",
        "float32 or bfloat16: type of the activations in a batch",
        **one_of("float32", "bfloat16"),
    )
    max_shapes: int = option(4, "most input shapes to compile, for batches of sequences", **at_least(1))
    token_budget: int = option(8192, "tokens per encoder batch, with --data", **at_least(1))
    max_memory_gib: float = option(4.0, "activations kept in memory; the rest is read when it is needed", NOTHING)
    mix_tokens: int = option(
        262144,
        "tokens kept and mixed at a time if not all fit in memory",
        NOTHING,
        **at_least(1),
    )
    model_parallel: int = option(
        1,
        "devices over which the latents of a sparse autoencoder are split",
        NOTHING,
        **at_least(1),
    )
    save_every: int = option(500, "steps between checkpoints", NOTHING, **at_least(1))
    evaluate_every: int = option(500, "steps between evaluations on the held-out sequences", NOTHING, **at_least(1))
    log_every: int = option(20, "steps between rows of the log", NOTHING, **at_least(1))
    wandb: str = option("", "project of Weights & Biases; empty: not used", NOTHING)
    sweep: dict[str, tuple[Any, ...]] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "values to train at, each with each: k=16,32; may be repeated", "decides": NOTHING},
    )
    labels: str = option("", "with --sweep: a labelled table of the same ids, for probes of the latents", NOTHING)

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        if bool(self.store) == bool(self.data):
            raise InputError(
                f"store: {shown(self.store)} is not allowed; expected either --store FOLDER or --data FILE"
            )
        if not (self.encoder or self.store):
            raise InputError(f"encoder: {self.encoder!r} is not allowed; expected an encoder for --data")
        if self.layers and self.layer != AutoencoderConfig.layer:
            raise InputError(f"layer: {self.layer} beside layers {','.join(map(str, self.layers))}; give one of them")
        if self.sequences and not (self.store and self.encoder):
            raise InputError(f"sequences: {shown(self.sequences)} goes with --store and --encoder; give all three")
        check_options(self)
        if not 0 <= self.warmup <= self.steps:
            raise InputError(f"warmup: {self.warmup} is not allowed; 0 to steps")


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
        **one_of("float32", "bfloat16"),
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
