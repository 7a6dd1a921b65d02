"""What a comparison leaves to take away: the chosen row as a model, and every sequence's prediction."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations import EncodedTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model, cells, decide
from covjax.comparison.probing import TASKS, FittedProbe, Probes, predictions, probe_names
from covjax.data import Dataset
from covjax.embedder import Embedder
from covjax.embedding.fitted import FittedRecipe, fit_recipe
from covjax.embedding.primal import Sums, centred_probe
from covjax.embedding.tables import Table
from covjax.jobs.disk import new_text, text_cell
from covjax.jobs.distributed import agree, is_first
from covjax.notes import note
from covjax.probes import DualProbe, LinearProbe
from covjax.recipes import Recipe, parts_of


def fit_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: EncodedTokens,
    recipes: Sequence[Recipe],
    name: str,
    folder: Path,
    identity: Mapping[str, Any],
) -> FittedRecipe:
    """Fit the recipe of one row again on the training tokens, which gives the state that the comparison had.

    `folder` holds the trained pools and autoencoders of the comparison, made under `identity`.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    parts = [by_name[part] for part in parts_of(by_name[name])]
    seeds = [recipe for recipe in recipes if getattr(recipe, "replica_of", "") == name]
    made_under = {key: identity[key] for key in ("data", "encoder")}
    train = data.rows("train")
    chosen, memory = [*parts, by_name[name]], config.memory_gib
    return fit_recipe(chosen, tokens, train, config.seed, folder, made_under, data, seeds, memory)


def make_model(
    config: CompareConfig,
    data: Dataset,
    tokens: EncodedTokens,
    fitted: FittedRecipe,
    fitted_probe: FittedProbe,
    probe_name: str,
    tables: Mapping[str, Table],
    sums: Sums | None,
) -> Model:
    """The model of one row of the comparison.

    The probe of a wide row, which was compared through a kernel, gets its weights from `sums` of the training vectors.
    """
    probe: Any = fitted_probe.probe
    if sums is not None:
        # A sum of the parts' kernels is of blocks as they are; that of one matrix is of its centred and scaled rows.
        is_sum = any(tables[part].is_kernel for part in parts_of(fitted.recipe))
        probe = LinearProbe(sums.weighted, probe.bias) if is_sum else centred_probe(probe, sums)
    embedder = Embedder(
        config.encoder,
        fitted.recipe.name,
        layer=config.layer,
        eps=config.eps,
        ridge=config.ridge,
        token_budget=config.token_budget,
        max_memory_gib=config.memory_gib / 2,
        seed=config.seed,
    )
    embedder.adopt(fitted, tokens.encoder.weights_digest, tokens.layer)
    return Model(embedder, probe, probe_name, data.task, data.target_names)


def keep_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: EncodedTokens,
    recipes: Sequence[Recipe],
    tables: Mapping[str, Table],
    probes: Probes,
    results: Mapping[str, Any],
    identity: Mapping[str, Any],
    output: Path,
) -> None:
    """Write `model/` of the second-order row that validation chose, and `predictions.csv`; a model that is there stays.

    In a job of several processes all call this together; process 0, which alone has probes and results, writes.
    """
    names = [recipe.name for recipe in recipes]
    place = names.index(results["best_second_order"]) if is_first() else 0
    name = names[int(agree(np.int64(place)))]
    kind = probe_names(config, data)[0]
    path = output / "model"
    made_of = dict(identity) | {"row": repr(recipes[names.index(name)]), "penalties": list(config.penalties)}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    done = is_first() and Model.made_of(path) == digest
    if not agree(np.int64(done)):
        note(f"model: {name}, {kind} probe")
        fitted = fit_winner(config, data, tokens, recipes, name, output / "pools", identity)
        train, sums = data.rows("train"), None
        if tables[name].is_kernel:
            alpha = np.zeros((len(train), data.targets.shape[1]))
            if is_first():
                probe = probes[name][kind].probe
                assert isinstance(probe, DualProbe)
                alpha = np.asarray(probe.alpha, np.float64)
            sums = fitted.sums(tokens, train, agree(alpha))
        if is_first():
            model = make_model(config, data, tokens, fitted, probes[name][kind], kind, tables, sums)
            size = model.save(path, digest)
            note(f"model: {path}, {size / 2**20:.1f} MiB; covjax predict {path} new.fasta")
    if is_first():
        write_predictions(
            output / "predictions.csv", data, kind, probes[name][kind], probes[results["reference"]][kind]
        )


def write_predictions(path: Path, data: Dataset, probe_name: str, chosen: FittedProbe, reference: FittedProbe) -> None:
    """One line a sequence: id, split, truth, and what the chosen row and the mean predict for it.

    Sequences of the training and validation split are there too; their predictions are not a test of anything.
    """
    task = TASKS[data.task]
    truth = data.targets
    if data.task == "multiclass":
        truth = np.array(data.target_names, dtype=object)[data.targets.argmax(1)]
    elif data.targets.shape[1] == 1:
        truth = data.targets[:, 0]
    columns = [cells(truth, data.task, data.target_names)]
    for fit in (chosen, reference):
        scores = predictions(task, probe_name, fit.scores)
        columns.append(cells(decide(scores, data.task, data.target_names), data.task, data.target_names))
    assert data.splits is not None
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "split", "truth", "prediction", "prediction_of_mean"])
        writer.writerows(map(text_cell, map(str, row)) for row in zip(data.ids, data.splits, *columns, strict=True))
