"""How much of an autoencoder depends on its seed: train it several times, compare what came out.

    python -m eval.stability --config configs/stability_topk.py

For sparse autoencoders: cosines of Hungarian-matched decoder rows beside those of random dictionaries. For
second-moment autoencoders: principal angles between the bases, distance of the embeddings after orthogonal Procrustes.
With a labelled table also the spread of a linear probe's test score over the seeds. Writes stability.json,
stability.png and report.html. A finished or interrupted training in the same folder is used or resumed; other settings
there are refused.
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from covjax.activations.windows import Activations, EncodedActivations, hold, take
from covjax.autoencoders import make_autoencoder
from covjax.autoencoders.sparse import SparseAutoencoder
from covjax.autoencoders.stability import (
    matched_cosines,
    principal_angles,
    procrustes_distance,
    random_cosines,
    share_above,
)
from covjax.comparison.figures import WIDTH, save_figure
from covjax.comparison.glossary import definitions
from covjax.comparison.page import escape, figure, fold, page, relative, section, table
from covjax.comparison.probing import TASKS, metric_value
from covjax.data import Dataset, assign_splits, check_splits, drop_rare, read_table
from covjax.encoders import load
from covjax.errors import InputError
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.folder import RunFolder, claim, write_text
from covjax.notes import silence
from covjax.options import FEATURES, NOTHING, NUMBERS, check_options, decided_by, option
from covjax.pooling import get_pooler
from covjax.probes import fit_ridge_path, row_space
from covjax.training.autoencoder import (
    read_activations,
    refuse_too_large,
    train_autoencoder,
)
from covjax.training.config import AutoencoderConfig


@dataclasses.dataclass(frozen=True)
class StabilityConfig:
    """What is trained, and how often."""

    name: str = option("my-autoencoder", "title of the report", NOTHING)
    output: str = option("runs/stability", "folder of the trainings, the numbers and the report", NOTHING)
    train: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    seeds: tuple[int, ...] = option(
        (0, 1, 2),
        "of the initial parameters and of the order of the examples",
        allowed=lambda seeds: len(set(seeds)) == len(seeds) >= 2 and min(seeds) >= 0,
        rule="two or more different numbers, >= 0",
    )
    table: str = option(
        "", "labelled CSV or TSV (see covjax.comparison.compare): train on its training rows, and probe", NOTHING
    )
    penalties: tuple[float, ...] = option(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "ridge grid, chosen on validation",
        allowed=lambda grid: len(grid) > 0 and min(grid) > 0,
        rule="one or more numbers > 0",
    )

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        check_options(self)
        (dataclasses.replace(self.train, data=self.table, store="") if self.table else self.train).check()


CAPTIONS = {
    "matched_cosines": "Matched decoder rows of two seeds, sorted by cosine; dashed: random dictionaries.",
    "principal_angles": "Principal angles between the bases of two seeds, in degrees; dashed: random bases.",
}


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Write `stability.png` and `report.html`: no network, no scripts."""
    kind = next(kind for kind in CAPTIONS if kind in results)
    svg = save_figure(_draw(kind, results[kind]), "stability", folder)
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
    text = _stays(kind, results[kind])
    parts = [
        f"<h1>{escape(results['name'])}: what stays when the seed changes?</h1>",
        f"<p class='answer'>{escape(text)}</p>",
        section("Two seeds at a time", figure(svg, CAPTIONS[kind]), table(header, rows)),
        section("Held-out tokens", table(["seed", *next(iter(results["held_out"].values()))], held)),
    ]
    if "probe" in results:
        probe = results["probe"]
        scores = [[seed, f"{value:.4f}"] for seed, value in probe["scores"].items()]
        spread = f"mean {probe['mean']:.4f}, largest minus smallest {probe['spread']:.4f}"
        shown = table(["seed", f"test {probe['metric']}"], scores, caption=spread)
        parts.append(section("Linear probe on the pooled embedding", shown))
    parts.append(section("Words", definitions("".join(parts))))
    lines = "\n".join(f"{key}: {relative(str(value))}" for key, value in results["train"].items())
    parts.append(section("Manifest", fold("What was trained", f"<pre>{escape(lines)}</pre>")))
    write_text(folder / "report.html", page(results["name"], parts))


def _stays(kind: str, pairs: dict[str, Any]) -> str:
    """The answer in a sentence, of the pair of seeds that are least alike."""
    own = [found for name, found in pairs.items() if name != "random"]
    if kind == "matched_cosines":
        share, chance = min(found["above_0.7"] for found in own), pairs["random"]["above_0.7"]
        return (
            f"Of the latents of two seeds at least {share:.0%} have a partner with a cosine above 0.7 in the other; of "
            f"random dictionaries {chance:.0%}."
        )
    angle, chance = max(max(found) for found in own), max(pairs["random"])
    return (
        f"The bases of two seeds are at most {np.degrees(angle):.2g}° apart in any direction; random ones "
        f"{np.degrees(chance):.2g}°."
    )


def _quantiles(results: dict[str, Any]) -> list[str]:
    return list(next(iter(results["matched_cosines"].values()))["quantiles"])


def _draw(kind: str, found: dict[str, Any]) -> Figure:
    drawing, axes = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
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
    drawing.legend(loc="outside upper center", ncols=3)
    return drawing


COMMAND = "python -m eval.stability"
OWNS = ("stability.json", "stability.png", "report.html", "seed-*/")
READ = 1 << 16  # tokens read at a time
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def stability(
    config: StabilityConfig,
    activations: Activations | None = None,
    data: Dataset | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Train at every seed and compare; returns what also stands in `stability.json`.

    `activations`, with `data` (splits assigned) if they are labelled, stand in for the config's table, store or data.
    With `force` trainings found in the folder are made again.
    Raises InputError for everything a user can put right.
    """
    config.check()
    with claim(config.output, COMMAND, OWNS) as folder:
        return _stability(config, activations, data, force, folder)


def _stability(
    config: StabilityConfig, activations: Activations | None, data: Dataset | None, force: bool, folder: RunFolder
) -> dict[str, Any]:
    train = config.train
    if config.table and activations is None:
        data = read_table(config.table)
        for note in data.notes:
            print(f"note: {data.name}: {note}")
        data = drop_rare(assign_splits(data))
        for warning in data.warnings:
            print(f"warning: {data.name}: {warning}")
        check_splits(data)
        train = dataclasses.replace(train, data=config.table, store="")
        source: Activations = EncodedActivations(
            load(train.encoder), data.sequences, train.layer, train.token_budget, train.max_shapes
        )
    else:
        source = read_activations(train) if activations is None else activations
    activations = hold(source, np.dtype(jax.numpy.dtype(train.dtype)), train.max_memory_gib)
    part = activations if data is None else take(activations, data.rows("train"))
    refuse_too_large(train, activations.features)
    model = make_autoencoder(train.kind, activations.features, **train.options)
    sparse = _is_sparse(model, train.kind, probed=data is not None)
    models: dict[str, Any] = {}
    held_out: dict[str, dict[str, float]] = {}
    settings = {k: v for k, v in decided_by(train, FEATURES, NUMBERS).items() if k != "seed"}
    inputs = {"store": train.store, "data": train.data, "table": config.table, "encoder": train.encoder}
    folder.begin({"config": settings, "data": part.identity}, force, inputs)
    for seed in config.seeds:
        one = dataclasses.replace(train, seed=seed, output=str(folder.path / f"seed-{seed}"))
        models[str(seed)], held_out[str(seed)], _ = train_autoencoder(one, part)
    results: dict[str, Any] = {"name": config.name, "command": COMMAND, "seeds": list(config.seeds)}
    results |= {"train": _plain(train), "held_out": held_out}
    embeddings = {
        name: embed_all(get_pooler("sae_mean", autoencoder=model) if sparse else model, activations)
        for name, model in models.items()
        if data is not None or not sparse  # dictionaries are compared by their rows
    }
    results |= compare_dictionaries(models) if sparse else compare_bases(models, embeddings)
    if data is not None:
        scores = {seed: probe_score(x, data, config.penalties) for seed, x in embeddings.items()}
        values = list(scores.values())
        results["probe"] = {"metric": TASKS[data.task].metrics[TASKS[data.task].primary][0], "scores": scores}
        results["probe"] |= {"mean": float(np.mean(values)), "spread": max(values) - min(values)}
    write_text(folder.path / "stability.json", json.dumps(results, indent=1) + "\n")
    write_report(results, folder.path)
    return results


def _is_sparse(model: Any, kind: str, probed: bool) -> bool:
    """Whether seeds are compared by decoder rows rather than by bases; InputError where a kind has neither."""
    sparse = isinstance(model, SparseAutoencoder) or model.examples == "tokens"
    if sparse and probed and not isinstance(model, SparseAutoencoder):
        raise InputError(f"kind: {kind} has no pool of its latents to probe; leave --table away")
    if not hasattr(model, "decoder" if sparse else "left"):
        raise InputError(
            f"kind: {kind} has no attribute to compare; a dictionary of tokens needs `decoder` (latents, features), "
            "an autoencoder of sequences `left` (features, rank)"
        )
    return sparse


def compare_dictionaries(models: dict[str, Any]) -> dict[str, Any]:
    """Matched cosines of the decoders of every two seeds, and of random dictionaries of their size."""
    rows = {seed: np.asarray(model.decoder[...]) for seed, model in models.items()}
    pairs = {f"{a}–{b}": matched_cosines(rows[a], rows[b]) for a, b in itertools.combinations(rows, 2)}
    pairs["random"] = random_cosines(*next(iter(rows.values())).shape)
    return {"matched_cosines": {name: _distribution(cosines) for name, cosines in pairs.items()}}


def _distribution(cosines: Float[np.ndarray, "latents"]) -> dict[str, Any]:
    return {
        "mean": float(cosines.mean()),
        "above_0.7": share_above(cosines, 0.7),
        "above_0.9": share_above(cosines, 0.9),
        "quantiles": {str(q): float(np.quantile(cosines, q)) for q in QUANTILES},
        "sorted": [round(float(c), 5) for c in np.sort(cosines)],
    }


def compare_bases(models: dict[str, Any], embeddings: dict[str, np.ndarray]) -> dict[str, Any]:
    """Principal angles between the bases A (and B, where untied) of every two seeds, Procrustes distance of embeddings.

    By chance: Gaussian bases; the second seed's embeddings of the sequences in another order.
    """
    rng, angles = np.random.default_rng(0), {}
    for name, side in (("", "left"), (", B", "right")):
        sides = {seed: getattr(model, side, None) for seed, model in models.items()}
        bases = {seed: np.asarray(basis[...]) for seed, basis in sides.items() if basis is not None}
        for a, b in itertools.combinations(bases, 2):
            angles[f"{a}–{b}{name}"] = principal_angles(bases[a], bases[b]).tolist()
    shape = np.shape(next(iter(models.values())).left[...])
    angles["random"] = principal_angles(*rng.normal(size=(2, *shape))).tolist()
    distances = {
        f"{a}–{b}": procrustes_distance(embeddings[a], embeddings[b]) for a, b in itertools.combinations(embeddings, 2)
    }
    first, second, *_ = embeddings.values()
    distances["random"] = procrustes_distance(first, rng.permutation(second))  # embeddings of other sequences
    return {"principal_angles": angles, "procrustes": distances}


def embed_all(pool: Any, activations: Activations) -> Float[np.ndarray, "n k"]:
    """The pooled vector of every sequence; lengths are rounded up to powers of two, one compiled program each."""
    compiled = jax.jit(pool)
    out: dict[int, np.ndarray] = {}
    order = np.argsort(activations.lengths, kind="stable")  # neighbours in length share the encoder's batches
    cuts = np.flatnonzero(np.diff(np.cumsum(activations.lengths[order]) // READ)) + 1
    for part in np.split(order, cuts):
        for row, x in zip(part, activations.read([int(i) for i in part])):
            length = max(32, 1 << (len(x) - 1).bit_length())
            padded = np.zeros((length, x.shape[1]), np.float32)
            padded[: len(x)] = x
            out[int(row)] = np.asarray(compiled(padded, (np.arange(length) < len(x)).astype(np.float32)))
    return np.stack([out[row] for row in range(len(order))])


def probe_score(features: Float[np.ndarray, "n k"], data: Dataset, penalties: tuple[float, ...]) -> float:
    """Test value of the task's primary metric for ridge, its penalty chosen on validation."""
    train, validation, test = (data.rows(split) for split in ("train", "validation", "test"))
    space = row_space(features[train])
    probes = fit_ridge_path(space, space.coordinates(features[train]), data.targets[train], penalties)
    task = TASKS[data.task]
    metric = task.metrics[task.primary][1]

    def score(probe, rows):
        return metric_value(metric, data.targets[rows], probe.scores(features[rows]))

    return score(max(probes, key=lambda probe: score(probe, validation)), test)


def _plain(train: AutoencoderConfig) -> dict[str, Any]:
    settings = {k: v for k, v in dataclasses.asdict(train).items() if k not in ("seed", "output")}
    return json.loads(json.dumps(settings))


def main(argv: Sequence[str]) -> int:
    """The command; exit status 2 and one line for a user's error."""
    with exit_on_input_error(COMMAND):
        config, flags = parse(COMMAND, __doc__ or "", StabilityConfig, argv)
        with silence(flags.quiet):
            results = stability(config, force=flags.force)
        for name, found in results.get("matched_cosines", {}).items():
            shares = f"above 0.7 {found['above_0.7']:.1%}, above 0.9 {found['above_0.9']:.1%}"
            print(f"{name}: mean matched cosine {found['mean']:.3f}, {shares}")
        for name, angles in results.get("principal_angles", {}).items():
            print(f"{name}: largest principal angle {max(angles):.2e}")
        print(f"report: {Path(config.output) / 'report.html'}")
    return 0


if __name__ == "__main__":
    from eval.stability import main as imported  # a config file makes the settings of this module, not of `__main__`

    sys.exit(imported(sys.argv[1:]))
