"""One training step of a Tucker autoencoder against the form with a tokens × tokens Gram, and its growth with t.

`python -m eval.benchmark autoencoders` rewrites the tables of docs/benchmark-autoencoders.md.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from covjax.autoencoders import tucker_loss
from covjax.comparison.page import markdown_table
from eval.benchmark.common import runner
from eval.benchmark.common.runner import Times, interleave, median_ratio, milliseconds

SHAPE = (8192, 1024, 32)  # tokens, features, rank
GROWTH = tuple(1 << k for k in range(10, 16))
# ratio → (asked for, aimed at)
TARGETS = {"f32: Gram form ÷ covjax": ("15", ""), "bf16: Gram form ÷ covjax": ("15", "40")}
TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
PAGE = "benchmark-autoencoders.md"


def gram_loss(x, left, right, norm: bool = True):
    """‖S − A C Bᵀ‖² from products of tokens with tokens, as one writes it without forming S.

    ‖S‖² = ‖XXᵀ‖²/n² and ⟨S, A C Bᵀ⟩ = ⟨(XA)(XA)ᵀ, (XB)(XB)ᵀ⟩/n². `norm` = False leaves ‖S‖² out: no parameter moves it.
    """
    n = x.shape[0]
    dot = lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32)  # noqa: E731
    y, z = dot(x, left.astype(x.dtype)), dot(x, right.astype(x.dtype))
    c = dot(y.T, z) / n
    decoded = jnp.sum(dot(dot(left.T, left), c) * dot(c, dot(right.T, right)))
    inner = jnp.sum(dot(y, y.T) * dot(z, z.T)) / n**2
    return decoded - 2 * inner + (jnp.sum(jnp.square(dot(x, x.T))) / n**2 if norm else 0)


def training_step(loss: Callable, x, sides) -> Callable[[], object]:
    """A jitted step to call again and again: value, gradient and Adam's update of both sides."""
    adam = optax.adam(1e-3)

    @jax.jit
    def step(x, sides, state):
        value, gradients = jax.value_and_grad(lambda sides: loss(x, *sides))(sides)
        updates, state = adam.update(gradients, state)
        return value, optax.apply_updates(sides, updates), state

    return partial(step, x, sides, adam.init(sides))


def _inputs(t: int, d: int, r: int, dtype) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((t, d), dtype=np.float32), dtype)
    left, right = np.linalg.qr(rng.standard_normal((2, d, r)))[0].astype(np.float32)
    return x, (jnp.asarray(left), jnp.asarray(right))


def compare(shape: tuple[int, int, int], seconds: float) -> tuple[Times, dict[str, float]]:
    """Interleaved times of both forms in both types, and the ratios of TARGETS."""
    forms: dict[str, Callable] = {
        "covjax": tucker_loss,
        "Gram form": gram_loss,
        "Gram form without ‖S‖²": partial(gram_loss, norm=False),
    }
    run = {
        f"{form} {name}": training_step(loss, *_inputs(*shape, dtype))
        for name, dtype in TYPES.items()
        for form, loss in forms.items()
    }
    times = interleave(run, seconds, minimum=3)
    ratios = {
        f"{name}: {form} ÷ covjax": median_ratio(times, f"{form} {name}", f"covjax {name}")
        for form in list(forms)[1:]
        for name in TYPES
    }
    return times, ratios | {"covjax f32 ÷ covjax bf16": median_ratio(times, "covjax f32", "covjax bf16")}


def growth(seconds: float, tokens: tuple[int, ...]) -> dict[int, dict[str, float]]:
    """Milliseconds of a step at 2¹⁰ … 2¹⁵ tokens, interleaved over the lengths."""
    run = {
        f"{t} {name}": training_step(tucker_loss, *_inputs(t, *SHAPE[1:], dtype))
        for name, dtype in TYPES.items()
        for t in tokens
    }
    times = interleave(run, seconds)
    return {t: {name: milliseconds(times, f"{t} {name}") for name in TYPES} for t in tokens}


def main(argv: list[str]) -> int:
    """Run everything and rewrite the generated part of the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark autoencoders", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="timing budget of each part")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder of the page")
    parser.add_argument("--tokens", type=int, default=SHAPE[0], help="tokens of the comparison")
    options = parser.parse_args(argv)
    shape = (options.tokens, *SHAPE[1:])
    times, ratios = compare(shape, options.seconds)
    runner.show(str(shape), times, ratios)
    rows = growth(options.seconds, GROWTH)
    body = [
        f"`python -m eval.benchmark autoencoders`; {runner.versions()}.",
        "One step: value, gradient, Adam's update of A and B. Medians over interleaved rounds; shape is (tokens, "
        "features, rank). The Gram form is the loss from tokens × tokens matrices, in JAX with autodiff, with or "
        "without the constant ‖S‖², which ours leaves out.",
        markdown_table(
            ["ratio", "asked", "aim", str(shape)],
            [[k, *TARGETS.get(k, ("", "")), f"**{v:.1f}**"] for k, v in ratios.items()],
        ),
        "Median milliseconds:",
        runner.times_table({str(shape): times}),
        "Milliseconds of a step by tokens; per 1,024 tokens in brackets, constant where the cost is linear:",
        markdown_table(
            ["tokens", *next(iter(rows.values()))],
            [[f"{t:,}", *(f"{v:.2f} ({v * 1024 / t:.2f})" for v in r.values())] for t, r in rows.items()],
        ),
    ]
    runner.write_page(options.output / PAGE, "Benchmark of autoencoders", body)
    return 0
