"""The page of a sweep: which autoencoders are worth their latents, as one HTML file without scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from covjax.comparison.figures import WIDTH, save_figure
from covjax.comparison.page import Cell, escape, figure, fold, listing, note, number, page, relative, section, table
from covjax.jobs.folder import write_text
from covjax.notes import figure_text

# Column → the words under the table and the key of a member's figure.
WORDS = {
    "FVU": "share of the held-out tokens' variance that the reconstruction leaves unexplained; 0 is perfect",
    "L0": "mean number of latents that are active on a token",
    "dead": "share of the latents that are never active on the held-out tokens",
    "loss recovered": "how much of the encoder's own loss the reconstruction recovers, compared with mean ablation",
    "FVU of Σ": "error of the reconstructed covariance of held-out sequences: how much co-variation is lost",
    "probe": "AUROC of a ridge probe on each sequence's mean latents, averaged over the labels",
    "1 latent": "the same for a logistic probe on the one latent whose mean differs most between the classes",
    "5 latents": "the same for a logistic probe on the five latents whose means differ most",
    "absorbed": "share of a label's direction that is written by latents other than those five. Use it only to compare "
    "members, because every pooled latent leans a little on every direction",
    "stability": "mean cosine of every latent with the nearest latent of a member that differs only in the seed; the "
    "value by chance is in brackets",
}


def write_page(results: Mapping[str, Any], folder: Path) -> None:
    """Write `sweep.html` and `pareto.png` from what `train_sweep` returns."""
    rows = results["members"]
    parts = ["<h1>Autoencoders of a sweep</h1>", f"<p class='answer'>{escape(_answer(rows))}</p>"]
    if any(row["on_front"] is not None for row in rows):
        drawing = save_figure(_draw(rows, results["config"]["sweep"]), "pareto", folder)
        caption = (
            "Held-out FVU against L0. Filled points are on the front: no other member is at least as good in both and "
            "better in one."
        )
        parts.append(section("Error against sparsity", figure(drawing, caption)))
    head, lines = _table(rows)
    words = fold("What the columns are", listing([f"{name}: {WORDS[name]}" for name in head if name in WORDS]))
    parts.append(section("All members", table(head, lines), *_reference(results), words))
    if probed := [row for row in rows if row.get("best_latents")]:
        parts.append(section("The best single latent of each label", _labels(probed)))
    settings = "\n".join(f"{key}: {relative(str(value))}" for key, value in results["config"].items())
    parts.append(section("Manifest", fold("What was trained", f"<pre>{escape(settings)}</pre>")))
    write_text(folder / "sweep.html", page("Sweep of autoencoders", parts))


def _answer(rows: Sequence[Mapping[str, Any]]) -> str:
    front = [row for row in rows if row["on_front"]]
    if not front:
        return f"{len(rows)} autoencoders. None of them has both FVU and L0."
    ends = sorted(front, key=lambda row: row["held_out"]["l0"])
    texts = [f"{_name(row)} (L0 {_l0(row)}, FVU {number(row['held_out']['fvu'])})" for row in (ends[0], ends[-1])]
    count = f"{len(front)} of {len(rows)} autoencoders are on the front of FVU and L0"
    return f"{count}: {texts[0]}." if len(front) == 1 else f"{count}, from {texts[0]} to {texts[1]}."


def _name(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row["values"].items())


def _l0(row: Mapping[str, Any]) -> str:
    return f"{row['held_out']['l0']:.3g}"


def _figures(row: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a member has, as text."""
    held, sparse = row["held_out"], row.get("sparse_probe", {})
    values = {
        "FVU": held.get("fvu"),
        "L0": held.get("l0"),
        "dead": held.get("dead"),
        "loss recovered": row["loss_recovered"],
        "FVU of Σ": row.get("covariance_fvu"),
        "probe": row.get("probe"),
        "1 latent": sparse.get("1"),
        "5 latents": sparse.get("5"),
        "absorbed": row.get("absorption"),
    }
    texts = {name: number(value) for name, value in values.items() if value is not None}
    if "L0" in texts:
        texts["L0"] = _l0(row)
    if (stable := row["stability"]) is not None:
        texts["stability"] = f"{number(stable['mean_max_cosine'])} ({number(stable['by_chance'])})"
    return texts


def _table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str | Cell]]]:
    texts = [_figures(row) for row in rows]
    head = [name for name in WORDS if any(name in each for each in texts)]
    lines: list[list[str | Cell]] = []
    for row, each in zip(rows, texts, strict=True):
        name = Cell(_name(row), "above" * bool(row["on_front"]))
        lines.append([name, *(each.get(column, "–") for column in head)])
    return ["member (green: on the front)", *head], lines


def _reference(results: Mapping[str, Any]) -> list[str]:
    rows = [row for row in results["members"] if "measured" in row]
    texts: list[str] = []
    if rows:
        counts = rows[0]["measured"]
        text = f"FVU of Σ was measured on {counts['held_out_sequences']:,} held-out sequences."
        if counts["labels"]:
            text += (
                f" Probes for {counts['labels']} labels were fitted on {counts['training_sequences']:,} training "
                "sequences."
            )
        texts.append(note(text))
    if reference := results["reference"].get("probe"):
        texts.append(note(f"A ridge probe on the mean of the tokens themselves has {number(reference)}."))
    return texts


def _labels(rows: Sequence[Mapping[str, Any]]) -> str:
    def cell(each: Mapping[str, Any]) -> str:
        return f"{number(each['auroc'])} (latent {each['latent']})"

    lines = [[name, *(cell(row["best_latents"][name]) for row in rows)] for name in rows[0]["best_latents"]]
    return table(["label", *map(_name, rows)], lines, caption="Held-out AUROC of a probe on one latent.")


def _draw(rows: Sequence[Mapping[str, Any]], sweep: Mapping[str, Sequence[Any]]) -> Figure:
    """FVU against L0; one line for the members that differ in the first setting alone."""
    drawing, axes = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    first = next(iter(sweep))
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in (row for row in rows if row["on_front"] is not None):
        rest = ", ".join(f"{key} {value}" for key, value in row["values"].items() if key != first)
        lines.setdefault(rest, []).append(row)
    for rest, own in lines.items():
        own.sort(key=lambda row: row["held_out"]["l0"])
        x, y = ([row["held_out"][name] for row in own] for name in ("l0", "fvu"))
        (line,) = axes.plot(x, y, "-", linewidth=0.8, label=figure_text(rest, 30) if rest else None)
        for each in own:
            fill = line.get_color() if each["on_front"] else "white"
            place = each["held_out"]["l0"], each["held_out"]["fvu"]
            axes.plot(*place, "o", color=line.get_color(), markerfacecolor=fill)
    axes.set(xlabel="L0: active latents per token", ylabel="held-out FVU", xscale="log")
    places = sorted({round(row["held_out"]["l0"], 1) for row in rows if row["on_front"] is not None})
    if len(places) <= 8:
        axes.set_xticks(places, [f"{place:.3g}" for place in places])
        axes.minorticks_off()
    axes.set_ylim(0, 1.08 * max(row["held_out"]["fvu"] for row in rows if row["on_front"] is not None))
    if any(lines):
        drawing.legend(loc="outside upper center", ncols=2)
    return drawing
