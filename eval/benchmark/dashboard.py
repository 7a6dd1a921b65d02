"""A dashboard of many latents over many tokens: time of the processors, largest memory, and size of what is written.

`python -m eval.benchmark dashboard` makes a store of random proteins and a TopK autoencoder in a temporary folder
(2 GiB), then measures `covjax dashboard` with labels, annotations and another seed. `--tokens 50000` is a twentieth.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covjax.autoencoders import save_autoencoder
from covjax.autoencoders.sparse import TopK
from covjax.encoders import from_function, register_encoder
from covjax.extraction.config import ExtractConfig
from covjax.extraction.extract import extract

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
K = 32
AIM_MINUTES, AIM_GIB = 10, 4


def encoder(features: int) -> Any:
    """A random vector a letter, and smaller ones of the letters up to three before and behind."""
    table = jax.random.normal(jax.random.key(0), (7, len(LETTERS) + 1, features))

    def function(tokens, mask):
        shifts = [jnp.roll(table[shift + 3][tokens], shift, 0) / (1 + abs(shift)) for shift in range(-3, 4)]
        return jnp.where(mask[:, None], sum(shifts), 0)

    return from_function("synthetic", function, {letter: i for i, letter in enumerate(LETTERS, 1)})


def write_inputs(folder: Path, tokens: int, features: int, latents: int) -> list[str]:
    """Store, autoencoders, labels and annotations; the arguments of the command."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 500, 1 + tokens // 50)
    lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), tokens)) + 1]
    lengths[-1] -= lengths.sum() - tokens
    sequences = ["".join(rng.choice(list(LETTERS), n)) for n in lengths if n > 0]
    (folder / "x.fasta").write_text("".join(f">s{i}\n{s}\n" for i, s in enumerate(sequences)))
    labels = "".join(f"s{i},{'ab'[i % 2]}{i % 10}\n" for i in range(len(sequences)))
    (folder / "labels.csv").write_text(f"id,label\n{labels}")
    stretches = [(i, int(rng.integers(0, len(s) - 5))) for i, s in enumerate(sequences) if len(s) > 5]
    (folder / "x.bed").write_text("".join(f"s{i}\t{start}\t{start + 5}\tkind{i % 20}\n" for i, start in stretches))
    register_encoder("synthetic", lambda dtype: encoder(features))
    options = {"latents": latents, "k": K}
    for seed in range(2):
        module = TopK(features, latents=latents, k=K, seed=seed)
        save_autoencoder(folder / f"sae{seed}", module, "topk", features, options)
    config = ExtractConfig(
        data=str(folder / "x.fasta"), encoder="synthetic", poolers=(), keep_tokens=True, output=str(folder / "store")
    )
    extract(config)
    argv = [str(folder / "sae0"), "--store", str(folder / "store"), "--labels", str(folder / "labels.csv")]
    argv += ["--annotations", str(folder / "x.bed"), "--compare", str(folder / "sae1")]
    return [*argv, "--output", str(folder / "out")]


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark dashboard", description=__doc__)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--features", type=int, default=320, help="width of a token; 320 is that of ESM-2 8M")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = write_inputs(folder, options.tokens, options.features, options.latents)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "covjax", "dashboard", *arguments], check=True)
        seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        sizes = {path.name: path.stat().st_size for path in (folder / "out").iterdir() if path.is_file()}
        sizes["neuronpedia"] = sum(path.stat().st_size for path in (folder / "out" / "neuronpedia").iterdir())
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    print(f"{options.latents:,} latents, k = {K}, {options.tokens:,} tokens of {options.features} features")
    print(f"{(used.ru_utime + used.ru_stime) / 60:.1f} CPU minutes in {seconds / 60:.1f} min; peak {peak:.2f} GiB")
    print(f"aims: {AIM_MINUTES} min on two cores, {AIM_GIB} GiB")
    print(", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sorted(sizes.items())))
    return 0
