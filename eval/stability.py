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
import numpy as np
from jaxtyping import Float

from covjax.autoencoders import make_autoencoder
from covjax.autoencoders.sparse import SparseAutoencoder
from covjax.autoencoders.stability import (
    matched_cosines,
    principal_angles,
    procrustes_distance,
    random_cosines,
    share_above,
)
from covjax.cli import exit_on_input_error, parse
from covjax.comparison.tasks import TASKS, macro
from covjax.data import Dataset, assign_splits, check_splits, drop_rare, read_table
from covjax.data.activations import Activations, EncodedActivations, hold, take
from covjax.encoders import load
from covjax.errors import InputError
from covjax.jobs.folder import RunFolder, claim, write_text
from covjax.notes import silence
from covjax.pooling import get_pooler
from covjax.probes import fit_ridge_path, row_space
from covjax.training.autoencoder import read_activations, refuse_too_large, train_autoencoder
from covjax.training.autoencoder_config import NOT_IN_RESULT, AutoencoderConfig
from eval.stability_config import StabilityConfig
from eval.stability_report import write_report

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
    settings = {key: value for key, value in _plain(train).items() if key not in NOT_IN_RESULT}
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
    sparse = model.examples == "tokens"
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
        return float(macro(np.atleast_1d(metric(data.targets[rows], probe.scores(features[rows])))))

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
    sys.exit(main(sys.argv[1:]))
