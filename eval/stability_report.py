"""The figure and the page of `eval.stability`, from its results alone."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from covjax.comparison.report import page_start
from covjax.jobs.folder import write_text
from covjax.visible import page_text

CAPTIONS = {
    "matched_cosines": "Matched decoder rows of two seeds, sorted by cosine; dashed: random dictionaries.",
    "principal_angles": "Principal angles between the bases of two seeds, in degrees; dashed: random bases.",
}


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write `stability.png` and `report.html`: no network, no scripts."""
    kind = next(kind for kind in CAPTIONS if kind in results)
    _draw(kind, results[kind], folder / "stability.png")
    rows = []
    if kind == "matched_cosines":
        header = ["seeds", "mean cosine", "above 0.7", "above 0.9", *(f"quantile {q}" for q in _quantiles(results))]
        for name, found in results[kind].items():
            shares = [f"{found['above_0.7']:.1%}", f"{found['above_0.9']:.1%}"]
            rows.append([name, f"{found['mean']:.3f}", *shares, *(f"{v:.3f}" for v in found["quantiles"].values())])
    else:
        header = ["seeds", "largest principal angle, rad", "median, rad", "Procrustes distance of embeddings"]
        for name, angles in results[kind].items():
            distance = results["procrustes"].get(name)
            shown = "" if distance is None else f"{distance:.2e}"
            rows.append([name, f"{max(angles):.2e}", f"{np.median(angles):.2e}", shown])
    held = [[seed, *(f"{value:.4g}" for value in found.values())] for seed, found in results["held_out"].items()]
    parts = [
        page_start(results["name"]),
        f"<h1>{page_text(results['name'])}: what stays when the seed changes?</h1>",
        _table(header, rows),
        f"<figure><img src='stability.png' alt='{CAPTIONS[kind]}' style='width:100%'>",
        f"<figcaption>{CAPTIONS[kind]}</figcaption></figure>",
        "<h2>Held-out tokens</h2>",
        _table(["seed", *next(iter(results["held_out"].values()))], held),
    ]
    if "probe" in results:
        probe = results["probe"]
        scores = [[seed, f"{value:.4f}"] for seed, value in probe["scores"].items()]
        parts += [
            "<h2>Linear probe on the pooled embedding</h2>",
            _table(["seed", f"test {probe['metric']}"], scores),
            f"<p>mean {probe['mean']:.4f}, largest minus smallest {probe['spread']:.4f}</p>",
        ]
    write_text(folder / "report.html", "\n".join([*parts, "</body></html>"]) + "\n")


def _quantiles(results: dict[str, Any]) -> list[str]:
    return list(next(iter(results["matched_cosines"].values()))["quantiles"])


def _table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{page_text(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{page_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _draw(kind: str, found: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, values in found.items():
        y = np.asarray(values["sorted"])[::-1] if kind == "matched_cosines" else np.degrees(values)
        x = np.linspace(0, 1, len(y)) if kind == "matched_cosines" else np.arange(1, len(y) + 1)
        label, style = ("random", "k--") if name == "random" else (f"seeds {name}", "-")
        axes.plot(x, y, style, label=label)
    if kind == "matched_cosines":
        for threshold in (0.7, 0.9):
            axes.axhline(threshold, color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.set(xlabel="share of latents", ylabel="cosine of matched decoder rows", xlim=(0, 1), ylim=(None, 1.02))
    else:
        axes.set(xlabel="index", ylabel="principal angle, degrees", ylim=(-2, 92))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
