"""Time and cost of two large jobs on a slice of TPUs, on paper: `python -m eval.scaling` rewrites docs/scaling.md.

Work, memory and collectives are those of the programs that XLA:TPU compiled (`python -m eval.tpu_compile`); the rates
are those that `python -m eval.benchmark device` measured (`--measured device.json`) or, without such a file,
published peaks times assumed utilisations.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

from covjax.comparison.page import markdown_table
from covjax.options import option
from eval import tpu_compile

COMPILED, PAGE = Path("docs/tpu-compile.json"), Path("docs/scaling.md")


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Everything that is not counted by the compiler; the texts say what each is and where it is from."""

    chips: int = option(256, "chips of the slice (v5e-256)")
    matrix_rate: float = option(197e12, "bfloat16 operations per second of a chip: published peak of v5e")
    matrix_use: float = option(0.4, "share of it reached: assumed")
    memory_rate: float = option(819e9, "bytes per second of a chip's memory: published, v5e")
    memory_use: float = option(0.7, "share of it reached: assumed")
    memory: float = option(16e9, "bytes of a chip's memory: published, v5e")
    link_rate: float = option(200e9, "bytes per second between chips: published, v5e, 1,600 Gbit/s")
    link_use: float = option(0.5, "share of it reached in an all-reduce: assumed")
    passes: int = option(6, "bfloat16 passes of a float32 product at full precision (`Precision.HIGHEST`)")
    storage_rate: float = option(1e9, "bytes per second that a host reads from storage: assumed")
    tokens_read: float = option(
        1, "tokens read for each one used: 1 up to 64 hosts where 64 divides a batch (`covjax.training.batches`)"
    )
    chips_per_host: int = option(8, "chips of a host: published, v5e")
    price: float = option(1.2, "US dollars for a chip and hour: assumed, not looked up; put in your own")
    genes: int = option(20_000, "sequences")
    bases: int = option(1_000_000, "bases of each")
    halo: int = option(8192, "bases on either side of a window that are encoded but not pooled: assumed")
    tokens: int = option(1_000_000_000, "tokens seen by the autoencoder, in bfloat16 on storage")


TEXTS = {field.name: field.metadata["help"] for field in dataclasses.fields(Assumptions)}
MEASURED = {"matrix_rate": "matrix_operations_per_second", "memory_rate": "copy_bytes_per_second"}


def with_measured(assumptions: Assumptions, report: dict[str, Any]) -> Assumptions:
    """The rates of a report of the device benchmark in place of published ones; its shares are already in them."""
    rates = {field: max(case.get(key, 0) for case in report["cases"]) for field, key in MEASURED.items()}
    return dataclasses.replace(assumptions, **rates, matrix_use=1.0, memory_use=1.0)


def seconds(program: dict[str, Any], a: Assumptions, passes: int) -> tuple[float, float, float]:
    """Of one run on one device: in products, in memory, in collectives over all chips.

    A ring's all-reduce sends and receives every byte twice, all other collectives once.
    """
    products = passes * program["operations"] / (a.matrix_rate * a.matrix_use)
    memory = program["bytes_accessed"] / (a.memory_rate * a.memory_use)
    sent = sum((2 if kind == "all-reduce" else 1) * size * count for kind, size, count in program["collectives"])
    return products, memory, sent * (a.chips - 1) / a.chips / (a.link_rate * a.link_use)


def encoding(compiled: dict[str, Any], a: Assumptions) -> dict[str, float]:
    """Genes through NTv3-650M in windows, one window a chip at a time, with the whole moment of every gene."""
    windows = a.genes * math.ceil(a.bases / (tpu_compile.WINDOW - 2 * a.halo))
    program = compiled["programs"][tpu_compile.NTV3]
    products, memory, _ = seconds(program, a, 1)
    moment = a.passes * 2 * tpu_compile.WINDOW * tpu_compile.FEATURES**2 / (a.matrix_rate * a.matrix_use)
    return {
        "windows": windows,
        "encoder's products, seconds a window": products,
        "encoder's memory traffic, seconds a window": memory,
        "float32 second moment, seconds a window": moment,
        "share of a chip's memory": program["peak_bytes"] / a.memory,
        "seconds in all": math.ceil(windows / a.chips) * (max(products, memory) + moment),
    }


def training(compiled: dict[str, Any], a: Assumptions) -> dict[str, float]:
    """TopK steps with the tokens divided over all chips and the state whole on each."""
    step = compiled["programs"]["TopK step, tokens sharded"]
    batch = tpu_compile.BATCH // 8 * a.chips
    steps = math.ceil(a.tokens / batch)
    products, memory, links = seconds(step, a, a.passes)
    reading = a.tokens * a.tokens_read * tpu_compile.FEATURES * 2 / (a.storage_rate * a.chips / a.chips_per_host)
    return {
        "tokens of a step": batch,
        "steps": steps,
        "products, seconds a step": products,
        "memory, seconds a step": memory,
        "collectives, seconds a step": links,
        "share of a chip's memory": step["peak_bytes"] / a.memory,
        "reading from storage, seconds in all": reading,
        "seconds in all": max(steps * (max(products, memory) + links), reading),
    }


def page(compiled: dict[str, Any], a: Assumptions, source: str) -> str:
    """The page."""
    programs = compiled["programs"]
    jobs = {
        f"{a.genes:,} genes × {a.bases:,} bases, NTv3-650M": encoding(compiled, a),
        f"TopK autoencoder, {tpu_compile.LATENTS:,} latents, {a.tokens:,} tokens": training(compiled, a),
    }
    counted = [
        [
            *(name, _number(p["operations"])),
            *(f"{p[k] / 1e9:.3f}" for k in ("bytes_accessed", "argument_bytes", "peak_bytes")),
            ", ".join(f"{n} {kind} of {size / 1e6:.3g} MB" for kind, size, n in _largest(p)) or "none",
        ]
        for name, p in programs.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in compiled["versions"].items())
    hours = {name: job["seconds in all"] / 3600 for name, job in jobs.items()}
    parts = [
        "# Scaling on paper",
        "No TPU was available, so no time on this page is measured. `python -m eval.scaling` recomputes the page from "
        f"docs/tpu-compile.json; rates: {source}.",
        markdown_table(
            ["job", "minutes", "chip-hours", "US dollars"],
            [[n, f"{60 * h:.1f}", f"{a.chips * h:.0f}", f"{a.price * a.chips * h:.0f}"] for n, h in hours.items()],
        ),
        "The time of a step, or of a window, is that of its products or of its memory traffic, whichever is longer, "
        "plus that of its collectives (communication between chips), which nothing overlaps. Merging the windows' "
        "moments, start, compilation, failures and tokenisation are left out.",
        *(
            f"## {n}\n\n" + markdown_table(["", ""], [[k, _number(v)] for k, v in job.items()])
            for n, job in jobs.items()
        ),
        "## Assumptions\n\n"
        + markdown_table(["", "value", "what it is"], [[k, _number(getattr(a, k)), TEXTS[k]] for k in TEXTS])
        + "\n\nEach is an option of the command, such as `--matrix-use 0.5`.",
        "## What the compiler counts\n\n"
        f"`python -m eval.tpu_compile` compiles for one device of {compiled['slice']} with "
        f"XLA:TPU ({versions}), without a TPU. Bodies of loops are counted once, and collectives in both branches of a "
        "condition (such as AuxK) are counted too; the three largest collectives are shown.",
        markdown_table(
            ["program", "operations", "GB accessed", "GB of arguments", "GB at the peak", "collectives"], counted
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _largest(program: dict[str, Any]) -> list[list[Any]]:
    return sorted(program["collectives"], key=lambda c: c[1] * c[2], reverse=True)[:3]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 1e10 else f"{value:.3g}"


def main(argv: list[str]) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m eval.scaling", description=__doc__)
    parser.add_argument("--compiled", type=Path, default=COMPILED, help="written by eval.tpu_compile")
    parser.add_argument("--measured", type=Path, help="device.json of eval.benchmark device")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page")
    for field in dataclasses.fields(Assumptions):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default, help=TEXTS[field.name])
    options = parser.parse_args(argv)
    assumptions = Assumptions(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Assumptions)})
    source = "published peaks times assumed utilisations, listed below"
    if options.measured is not None:
        report = json.loads(options.measured.read_text())
        if report["smoke"]:
            parser.error(f"--measured: {options.measured} is a CPU smoke test, not a measurement of an accelerator")
        if not all(any(key in case for case in report["cases"]) for key in MEASURED.values()):
            parser.error(
                f"--measured: {options.measured} has no rates: its cases against a copy and a product are needed"
            )
        assumptions, source = with_measured(assumptions, report), f"measured on one {report['device']}"
    options.output.write_text(page(json.loads(options.compiled.read_text()), assumptions, source))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
