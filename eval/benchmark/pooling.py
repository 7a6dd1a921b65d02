"""Pooling against a bare matrix product and plain PyTorch: speed, memory and growth with the number of tokens.

`python -m eval.benchmark pooling` rewrites the tables and the plot of docs/benchmark-pooling.md (about 6 minutes).
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from covjax import (
    chunked_projected_moment,
    pack_blocks,
    packed_projected_moment,
    projected_moment,
    second_moment,
)
from covjax.pooling.learned import attention_covariance_matrices
from eval.benchmark.common import runner
from eval.benchmark.common.runner import Times, interleave, median_ratio, milliseconds

SHAPES = ((64, 512, 384, 32), (16, 1024, 1024, 32), (4, 8192, 1536, 64), (1, 131_072, 1536, 64))
RAGGED = (64, 1024, 32)  # sequences, features, rank; lengths log-normal, median 350, at most 5,000
# operation → (realistic, aimed for), issue targets
TARGETS = {
    "projected moment f32: rate ÷ bare product": (0.75, 0.90),
    "projected moment f32 vs plain PyTorch": (1.5, 2.0),
    "projected moment bf16 vs f32": (2.5, 5.0),
    "attention covariance f32 vs plain PyTorch": (5.0, 8.0),
    "whole XᵀX bf16 vs PyTorch f32": (2.5, 3.3),
    "ragged, packed bf16 vs PyTorch one by one f32": (2.0, 2.7),
}
_OVER_BATCH = (0, None, None, 0)


def _arrays(b: int, t: int, d: int, r: int):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((b, t, d), dtype=np.float32)
    left, right = (rng.standard_normal((d, r), dtype=np.float32) / np.float32(d**0.5) for _ in range(2))
    mask = np.ones((b, t), np.float32)
    mask[:, t - t // 10 :] = 0
    return x, mask, left, right


def _padded(b: int, t: int, d: int, r: int, peer, seconds: float) -> tuple[Times, dict[str, float]]:
    """Times and the ratios of TARGETS for one padded shape; `peer` is None without PyTorch."""
    x, mask, left, right = _arrays(b, t, d, r)
    jx, w, a, bb = (jnp.asarray(v) for v in (x, mask, left, right))
    low, query, joint = jx.astype(jnp.bfloat16), a[:, :1], jnp.concatenate([a, bb], axis=1)
    product = jax.jit(lambda x, m: jnp.matmul(x.reshape(-1, d), m, precision=jax.lax.Precision.HIGHEST))
    moment = jax.jit(jax.vmap(projected_moment, in_axes=_OVER_BATCH))
    chunked = jax.jit(jax.vmap(chunked_projected_moment, in_axes=_OVER_BATCH))
    attention = jax.jit(jax.vmap(attention_covariance_matrices, in_axes=_OVER_BATCH))
    run = {
        "bare product f32": lambda: product(jx, joint),
        "projected f32": lambda: moment(jx, a, bb, w),
        "projected f32, chunked": lambda: chunked(jx, a, bb, w),
        "projected bf16": lambda: moment(low, a, bb, w),
        "attention covariance f32": lambda: attention(jx, query, a, w),
    }
    if peer is not None:
        tx, tm, ta, tb = (peer.torch.from_numpy(v) for v in (x, mask, left, right))
        run["plain PyTorch projected f32"] = lambda: peer.plain_projected_moment(tx, tm, ta, tb)
        run["lean PyTorch projected f32"] = lambda: peer.projected_moment(tx, tm, ta, tb)
        run["plain PyTorch attention covariance f32"] = lambda: peer.plain_attention_covariance(tx, tm, ta[:, :1], ta)
        run["lean PyTorch attention covariance f32"] = lambda: peer.attention_covariance(tx, tm, ta[:, :1], ta)
    times = interleave(run, seconds)
    if peer is not None:
        run = {"attention covariance f32, second round": lambda: attention(jx, query, a, w)}
        by_definition = lambda: peer.whole_attention_covariance(tx, tm, ta[:, :1], ta)  # noqa: E731
        run["PyTorch attention covariance by d × d f32"] = by_definition
        times |= interleave(run, seconds / 2, minimum=3)
    sequences = [(low[i], w[i]) for i in range(b)]
    run = {"whole XᵀX bf16": lambda: [second_moment(*s) for s in sequences]}
    if peer is not None:
        run["PyTorch whole XᵀX f32"] = lambda: peer.second_moment(tx, tm)
    times |= interleave(run, seconds / 2, minimum=3)
    work = 1 + r / (2 * d)  # the products of the projected tokens come on top of the bare product's 2·d·2r per token
    rate = {"projected moment f32: rate ÷ bare product": ("bare product f32", "projected f32")}
    best = {"… the better of flat and chunked": ("bare product f32", "projected f32, chunked")}
    ratios = {name: work * median_ratio(times, *pair) for name, pair in (rate | best).items()}
    ratios["… the better of flat and chunked"] = max(ratios.values())
    ratios["projected moment bf16 vs f32"] = median_ratio(times, "projected f32", "projected bf16")
    if peer is not None:
        for form in ("plain", "lean"):
            for operation, ours in (
                ("projected moment", "projected"),
                ("attention covariance", "attention covariance"),
            ):
                pair = f"{form} PyTorch {ours} f32", f"{ours} f32"
                ratios[f"{operation} f32 vs {form} PyTorch"] = median_ratio(times, *pair)
        pair = "PyTorch attention covariance by d × d f32", "attention covariance f32, second round"
        ratios["attention covariance f32 vs PyTorch by d × d"] = median_ratio(times, *pair)
        ratios["whole XᵀX bf16 vs PyTorch f32"] = median_ratio(times, "PyTorch whole XᵀX f32", "whole XᵀX bf16")
    return times, ratios


def _ragged(peer, seconds: float) -> tuple[Times, dict[str, float]]:
    count, d, r = RAGGED
    rng = np.random.default_rng(1)
    lengths = np.minimum(np.exp(rng.normal(np.log(350), 0.8, count)).astype(int) + 1, 5000)
    x, _, left, right = _arrays(1, int(lengths.sum()), d, r)
    sequences = np.split(x[0], np.cumsum(lengths)[:-1])
    tokens, segments, weights = (jnp.asarray(v) for v in pack_blocks(sequences, 64))
    tokens, a, b = tokens.astype(jnp.bfloat16), jnp.asarray(left), jnp.asarray(right)
    packed = jax.jit(packed_projected_moment, static_argnums=2)
    run = {"packed bf16": lambda: packed(tokens, segments, count, a, b, weights)}
    if peer is None:
        return interleave(run, seconds), {}
    tensors = [peer.torch.from_numpy(s) for s in sequences]
    ta, tb = peer.torch.from_numpy(left), peer.torch.from_numpy(right)
    run["PyTorch one by one f32"] = lambda: peer.projected_moments_one_by_one(tensors, ta, tb)
    times = interleave(run, seconds)
    ratio = median_ratio(times, "PyTorch one by one f32", "packed bf16")
    return times, {"ragged, packed bf16 vs PyTorch one by one f32": ratio}


def growth(seconds: float, d: int = 384, r: int = 32) -> dict[int, dict[str, float]]:
    """Milliseconds of the projected moment of one sequence at t = 2¹⁰ … 2²⁰ tokens."""
    rows = {}
    for t in (1 << k for k in range(10, 21)):
        x, mask, left, right = _arrays(1, t, d, r)
        arguments = jnp.asarray(x[0]), jnp.asarray(left), jnp.asarray(right), jnp.asarray(mask[0])
        low = arguments[0].astype(jnp.bfloat16), *arguments[1:]
        flat, chunked = jax.jit(projected_moment), jax.jit(chunked_projected_moment)
        run = {
            "f32": lambda f=flat, v=arguments: f(*v),
            "f32, chunked": lambda f=chunked, v=arguments: f(*v),
            "bf16": lambda f=flat, v=low: f(*v),
        }
        times = interleave(run, seconds / 4)
        rows[t] = {name: milliseconds(times, name) for name in run}
    return rows


def _peer():
    try:
        import torch

        from eval.benchmark.common import pytorch
    except ImportError:
        print("PyTorch is not installed (extra `parity`): ratios against it are left out", file=sys.stderr)
        return None
    torch.set_grad_enabled(False)
    return pytorch


def main(argv: list[str]) -> int:
    """Run everything and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark pooling", description=__doc__)
    parser.add_argument("--seconds", type=float, default=16.0, help="timing budget for each shape")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page and the plot")
    parser.add_argument("--shapes", type=int, default=len(SHAPES), help="only the first N shapes")
    parser.add_argument("--no-streaming", action="store_true", help="leave out the 3 GiB streaming run")
    options = parser.parse_args(argv)
    peer = _peer()
    ratios: dict[str, dict[str, float]] = {}
    times: dict[str, Times] = {}
    for shape in SHAPES[: options.shapes]:
        times[str(shape)], ratios[str(shape)] = _padded(*shape, peer, options.seconds)
        runner.show(str(shape), times[str(shape)], ratios[str(shape)])
    name = "ragged"
    times[name], ratios[name] = _ragged(peer, options.seconds)
    runner.show(name, times[name], ratios[name])
    memory = runner.measure(streaming=not options.no_streaming)
    print(memory)
    rows = growth(options.seconds)
    runner.write(options.output, TARGETS, ratios, times, memory, rows)
    return 0
