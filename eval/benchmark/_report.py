"""The page of a benchmark: generated tables between two marks, a person's words around them."""

import os
import platform
from pathlib import Path

import jax

from eval.benchmark._timing import Times, milliseconds

_START, _END = "<!-- generated: start -->", "<!-- generated: end -->"
_COMMAND = "python -m eval.benchmark pooling"


def show(name: str, times: Times, ratios: dict[str, float]) -> None:
    """Print one shape's medians and ratios."""
    print(name)
    for key in times:
        print(f"  {key:45s} {milliseconds(times, key):10.1f} ms  ({len(times[key])} rounds)")
    for key, value in ratios.items():
        print(f"  {key:50s} {value:6.2f}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def versions() -> str:
    """Machine, cores and the versions of what is compared."""
    try:
        import torch

        peer = f", PyTorch {torch.__version__}"
    except ImportError:
        peer = ""
    return f"{platform.machine()}, {os.cpu_count()} cores, JAX {jax.__version__} on {jax.default_backend()}{peer}"


def times_table(times: dict[str, Times]) -> str:
    """Median milliseconds, one column a shape."""
    return table(
        ["", *times],
        [
            [name, *(f"{milliseconds(t, name):.1f}" if name in t else "" for t in times.values())]
            for name in dict.fromkeys(k for t in times.values() for k in t)
        ],
    )


def write_page(page: Path, title: str, body: list[str]) -> None:
    """Replace the generated part of a page, made if absent; the words around it stay."""
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page.read_text() if page.exists() else f"# {title}\n\n{_START}\n{_END}\n"
    before, after = text.split(_START)[0], text.split(_END)[1]
    page.write_text(before + _START + "\n" + "\n\n".join(body) + "\n" + _END + after)


def write(folder: Path, targets, ratios, times: dict[str, Times], memory: dict[str, str], rows) -> None:
    """Replace the generated part of `folder`/benchmark-pooling.md (made if absent) and the plot beside it."""
    shapes = list(ratios)
    order = [*targets, *sorted({k for r in ratios.values() for k in r} - set(targets))]
    body = [
        f"`{_COMMAND}`; {versions()}.",
        "Medians over interleaved rounds; ratios above 1 mean faster. Shapes are (sequences, tokens, features, rank).",
        table(
            ["ratio", "realistic", "aim", *shapes],
            [
                [
                    name,
                    *(f"{v:g}" for v in targets.get(name, ())),
                    *([] if name in targets else ["", ""]),
                    *(f"**{ratios[s][name]:.2f}**" if name in ratios[s] else "" for s in shapes),
                ]
                for name in order
                if any(name in r for r in ratios.values())
            ],
        ),
        "Median milliseconds:",
        times_table(times),
        table(["memory", "measured"], [list(item) for item in memory.items()]),
        "Projected moment of one sequence, 384 features, rank 32, milliseconds by tokens:",
        table(
            ["tokens", *next(iter(rows.values()))],
            [[f"{t:,}", *(f"{v:.2f}" for v in r.values())] for t, r in rows.items()],
        ),
        "![Milliseconds against tokens, both logarithmic](benchmark-pooling.png)",
    ]
    write_page(folder / "benchmark-pooling.md", "Pooling benchmark", body)
    _plot(folder / "benchmark-pooling.png", rows)


def _plot(path: Path, rows) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tokens = list(rows)
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for name in rows[tokens[0]]:
        axes.loglog(tokens, [rows[t][name] for t in tokens], marker="o", label=name)
    first = min(rows[tokens[-1]].values()) / tokens[-1]
    axes.loglog(tokens, [first * t for t in tokens], "k:", label="linear")
    axes.set(xlabel="tokens", ylabel="milliseconds", title="Projected moment, 384 features, rank 32")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
