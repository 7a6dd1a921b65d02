"""The core on one GPU or TPU against what that device can do, and against PyTorch where it is installed.

`python -m eval.benchmark accelerator` needs jax, flax, optax, numpy and jaxtyping alone, and writes accelerator.json
and accelerator.md. Tokens are bfloat16 but for the TopK step, which is float32 here and in PyTorch. Every case is first
compared with float64 on the host (exit status 1 where it is off), then timed in turns with a copy, a bfloat16 matrix
product and PyTorch (eager, torch.compile). On a CPU it is a smoke test: sizes must be given small, and no figure is one
of an accelerator.
"""

import argparse
import dataclasses
import gc
import json
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from covjax.comparison.page import markdown_table
from eval.benchmark import _runner
from eval.benchmark._accelerator_cases import BANDWIDTH, PEAK, Case, Sizes, make_cases
from eval.benchmark._runner import Timed, Times, interleave_queued, median_ratio, milliseconds

OURS, FORMS = "covjax", ("eager", "torch.compile")
SMOKE = "CPU smoke, not an accelerator figure"
# Case, what is asked of it, least value; on one H200-class GPU.
TARGETS = (
    ("projected moment", f"share of {BANDWIDTH}", 0.80),
    ("whole moment", f"share of {PEAK}", 0.70),
    ("TopK step", "PyTorch eager ÷ covjax", 1.2),
)


def yardsticks(copy_mebibytes: int, n: int) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """A copy and two matrix products (float32 and bfloat16 results), and the bytes or operations of each."""
    x = jnp.ones(copy_mebibytes << 19, jnp.bfloat16)
    a = jax.random.normal(jax.random.key(0), (n, n), jnp.bfloat16)
    negate = jax.jit(jnp.negative)
    run: dict[str, Callable[[], object]] = {"copy": partial(negate, x)}
    for dtype in ("float32", "bfloat16"):
        product = jax.jit(partial(jnp.matmul, preferred_element_type=dtype))
        run[f"matrix product to {dtype}"] = partial(product, a, a)
    return run, {name: 2.0 * (x.nbytes if name == "copy" else n**3) for name in run}


def figures(case: Case, times: Times, work: dict[str, float], smoke: bool) -> dict[str, Any]:
    """One case's row: medians, and per round the share of the yardstick and the ratio to each peer."""
    products = [name for name in work if name != "copy"]
    yardstick = "copy" if case.bound == BANDWIDTH else min(products, key=lambda name: statistics.median(times[name]))
    amount = case.read if case.bound == BANDWIDTH else case.products
    share = median_ratio(times, yardstick, OURS) * amount / work[yardstick]
    rates = {name: work[name] / statistics.median(times[name]) for name in work}
    return {
        "case": case.name,
        "shape": case.shape,
        "milliseconds": milliseconds(times, OURS),
        "rounds": len(times[OURS]),
        "bound": case.bound,
        "share": None if smoke else share,
        "bytes_read": case.read,
        "operations": case.products,
        "copy_bytes_per_second": None if smoke else rates["copy"],
        "matrix_operations_per_second": None if smoke else max(rates[name] for name in products),
        "error": case.error,
        "tolerance": case.tolerance,
        "peers": {form: milliseconds(times, form) for form in case.peers},
        "ratios": {} if smoke else {form: median_ratio(times, form, OURS) for form in case.peers},
    }


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every target with its value; None on a CPU and where there was no peer."""
    found = []
    for name, what, least in TARGETS:
        row = next(row for row in rows if row["case"] == name)
        value = row["ratios"].get("eager") if "PyTorch" in what else row["share"]
        met = None if value is None else value >= least
        found.append({"case": name, "what": what, "least": least, "value": value, "met": met})
    return found


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    show = lambda value, form: "" if value is None else format(value, form)  # noqa: E731
    rows = [
        [
            *(r["case"], r["shape"], f"{r['milliseconds']:.3f}", str(r["rounds"]), show(r["share"], ".2f"), r["bound"]),
            *(f"{r['error']:.1e}", *(show(r["ratios"].get(form), ".2f") for form in FORMS)),
        ]
        for r in report["cases"]
    ]
    met = {None: "not measured", True: "met", False: "missed"}
    wanted = [
        [t["case"], t["what"], f"{t['least']:g}", show(t["value"], ".2f"), met[t["met"]]] for t in report["targets"]
    ]
    header = ["case", "shape", "ms", "rounds", "share", "of measured", "error to float64"]
    return "\n\n".join(
        [
            "# Accelerator benchmark",
            *([f"**{SMOKE}.**"] if report["smoke"] else []),
            f"`{report['command']}`; {report['device']}; {report['versions']}.",
            markdown_table(header + [f"PyTorch {form} ÷ covjax" for form in FORMS], rows),
            "Medians over interleaved rounds. A share counts the tokens' bytes once, or the products that cannot be "
            "avoided, against a copy or a bfloat16 product of the same rounds; for the TopK step that is the encoder's "
            "product alone, in float32.",
            "Targets on one H200-class GPU:",
            markdown_table(["case", "what", "at least", "value", ""], wanted),
        ]
    )


def _peer(platform: str):
    try:
        from eval.benchmark import _torch
    except ImportError:
        print("PyTorch is not installed: ratios against it are left out", file=sys.stderr)
        return None, None
    where = _torch.device(platform)
    if where is None:
        print(f"PyTorch does not see the {platform}: ratios against it are left out", file=sys.stderr)
        return None, None
    return _torch.Peer(where, compiles=platform != "cpu"), _torch.wait


def main(argv: list[str]) -> int:
    """Run everything, write both files; exit status 1 where a result is off."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory on the same device
    parser = argparse.ArgumentParser(prog="python -m eval.benchmark accelerator", description=__doc__)
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, help="default %(default)s")
    parser.add_argument("--copy-mebibytes", type=int, default=1024, help="size of the copied array")
    parser.add_argument("--seconds", type=float, default=20.0, help="timing budget of a case")
    parser.add_argument("--batch-seconds", type=float, default=0.05, help="least time between two waits")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"), help="folder of the report")
    options = parser.parse_args(argv)
    platform = jax.default_backend()
    smoke = platform == "cpu"
    peer, torch_wait = _peer(platform)
    yards, work = yardsticks(options.copy_mebibytes, options.matmul)
    rows = []
    sizes = Sizes(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Sizes)})
    for case in make_cases(sizes, peer):
        functions = {name: Timed(run, jax.block_until_ready) for name, run in [*yards.items(), (OURS, case.run)]}
        functions |= {form: Timed(run, torch_wait) for form, run in case.peers.items()}
        times = interleave_queued(functions, options.seconds, options.batch_seconds)
        rows.append(figures(case, times, work, smoke))
        _runner.show(f"{case.name}, {case.shape}, error {case.error:.1e}", times, rows[-1]["ratios"])
        del case, functions
        gc.collect()  # the next case needs the memory
    report = {
        "command": " ".join(["python -m eval.benchmark accelerator", *argv]),
        "device": jax.devices()[0].device_kind,
        "versions": _runner.versions(),
        "smoke": smoke,
        "note": SMOKE if smoke else "",
        "cases": rows,
        "targets": targets(rows),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "accelerator.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (options.output / "accelerator.md").write_text(page(report) + "\n")
    print(page(report))
    off = [row["case"] for row in rows if not row["error"] <= row["tolerance"]]
    if off:
        print(f"not equal to float64: {', '.join(off)}", file=sys.stderr)
    return 1 if off else 0
