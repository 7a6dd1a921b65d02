"""Curves of a run from its log."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_training(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """One panel per logged figure against steps, training and held-out; written to `path`."""
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
        axis.set(xlabel="step", title=name)
        axis.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
