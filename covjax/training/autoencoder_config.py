"""The options of `covjax.training.autoencoder`."""

import dataclasses
from typing import Any

from covjax.errors import InputError
from covjax.options import option

# These decide where and how often something is written, not what comes out: a run may go on with other values of them.
# Store, data and encoder stand in the identity of the activations by their content, what memory does to the order of
# tokens in the manifest's "order".
NOT_IN_RESULT = (
    "output",
    "save_every",
    "evaluate_every",
    "log_every",
    "wandb",
    "store",
    "data",
    "encoder",
    "model_parallel",
    "max_memory_gib",
    "mix_tokens",
)


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides what an autoencoder is trained on and how."""

    output: str = option("runs/autoencoder", "folder of the checkpoints, logs, figures and the trained autoencoder")
    store: str = option("", "folder that covjax extract --keep-tokens true wrote; or give --data")
    data: str = option("", "sequences to encode here: FASTA, CSV, TSV, text (each also .gz), Parquet")
    encoder: str = option("", "name, folder or hub id; with --store only a check that the store is of this encoder")
    layer: int = option(-1, "layer of the encoder; of a store, one that it keeps")
    kind: str = option("tucker", "registered autoencoder: tucker, cp, …")
    options: dict[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "options of the kind, rank=32:tied=true:prefixes=[8,32]"}
    )
    steps: int = option(2000, "optimiser steps")
    batch: int = option(16, "examples a step: sequences, or tokens for autoencoders of tokens")
    learning_rate: float = option(1e-3, "peak rate of Adam")
    warmup: int = option(100, "steps over which the rate rises from 0")
    decay: float = option(0.2, "share of the steps at the end over which the rate falls to 0")
    clip: float | None = option(None, "largest global norm of the gradient")
    seed: int = option(0, "seed of the order of the examples and of the initial parameters")
    split_seed: int = option(0, "seed of the held-out split and of the batches looked at before the first step")
    held_out: float = option(0.1, "share of the sequences kept for evaluation")
    init_batches: int = option(8, "training batches that the autoencoder may look at before the first step")
    dtype: str = option("float32", "float32 or bfloat16: type of the activations in a batch")
    max_shapes: int = option(4, "compiled shapes of batches of sequences")
    token_budget: int = option(8192, "tokens per encoder batch, with --data")
    max_memory_gib: float = option(4.0, "activations kept in memory; what does not fit is read when it is needed")
    mix_tokens: int = option(262144, "tokens kept and mixed at a time, of those that do not all fit in memory")
    model_parallel: int = option(1, "devices that share the latents of a sparse autoencoder between them")
    save_every: int = option(500, "steps between checkpoints")
    evaluate_every: int = option(500, "steps between evaluations on the held-out sequences")
    log_every: int = option(20, "steps between rows of the log")
    wandb: str = option("", "project of Weights & Biases; empty: not used")

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        checks = {
            "store": (bool(self.store) != bool(self.data), "either --store FOLDER or --data FILE"),
            "encoder": (bool(self.encoder or self.store), "an encoder for --data"),
            "steps": (self.steps >= 1, ">= 1"),
            "batch": (self.batch >= 1, ">= 1"),
            "learning_rate": (self.learning_rate > 0, "> 0"),
            "warmup": (0 <= self.warmup <= self.steps, "0 … steps"),
            "decay": (0 <= self.decay <= 1, "0 … 1"),
            "clip": (self.clip is None or self.clip > 0, "> 0 or none"),
            "seed": (self.seed >= 0, ">= 0"),
            "split_seed": (self.split_seed >= 0, ">= 0"),
            "held_out": (0 < self.held_out < 1, "between 0 and 1"),
            "init_batches": (self.init_batches >= 1, ">= 1"),
            "dtype": (self.dtype in ("float32", "bfloat16"), "float32 or bfloat16"),
            "max_shapes": (self.max_shapes >= 1, ">= 1"),
            "token_budget": (self.token_budget >= 1, ">= 1"),
            "mix_tokens": (self.mix_tokens >= 1, ">= 1"),
            "model_parallel": (self.model_parallel >= 1, ">= 1"),
            "save_every": (self.save_every >= 1, ">= 1"),
            "evaluate_every": (self.evaluate_every >= 1, ">= 1"),
            "log_every": (self.log_every >= 1, ">= 1"),
        }
        for name, (ok, allowed) in checks.items():
            if not ok:
                raise InputError(f"{name}: {getattr(self, name)!r} is not allowed; expected {allowed}")
