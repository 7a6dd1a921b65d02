"""Figures of a run: curves from its log, the density of its latents."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from covjax.visible import figure_text


def draw_training(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """One panel per logged figure against steps, training and held-out; written to `path`, unless nothing is logged."""
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in dict.fromkeys(k for row in rows for k in row) if name not in ("step", "split", "seconds")]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained", squeeze=False)
    for name, axis in zip(names, axes[0]):
        for split in ("train", "held-out"):
            points = [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
            if points:
                axis.plot(*zip(*points), marker="o" if split == "held-out" else None, label=split)
        axis.set(xlabel="step", title=figure_text(name, 40))
        axis.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_density(histogram: Mapping[str, int], path: str | Path) -> None:
    """Number of latents by the share of tokens in which they are active (see `density_histogram`)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = ["never", *(f"≥ {name}" for name in list(histogram)[1:])]
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    axis.bar_label(axis.bar(names, list(histogram.values())), fontsize=8)
    axis.set(xlabel="share of held-out tokens in which a latent is active", ylabel="latents")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
