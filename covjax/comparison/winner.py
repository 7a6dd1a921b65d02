"""What a comparison leaves to take away: the chosen row as a model, and every sequence's prediction."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations import ArrayTokens, EncodedTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model, cells, decide
from covjax.comparison.probing import TASKS, FittedProbe, Probes, predictions, probe_names
from covjax.data import Dataset
from covjax.embedder import Embedder
from covjax.embedding.fitted import FittedRecipe, fit_recipe
from covjax.embedding.tables import Table, primal
from covjax.jobs.disk import new_text, text_cell
from covjax.jobs.distributed import agree, is_first
from covjax.notes import note
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import SideBySide


def fit_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
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
    made_under = {key: identity[key] for key in ("data", "encoder")}
    return fit_recipe([*parts, by_name[name]], tokens, data.rows("train"), config.seed, folder, made_under, data)


def make_model(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    fitted: FittedRecipe,
    table: Table,
    fitted_probe: FittedProbe,
    probe_name: str,
) -> Model:
    """The model of one row of the comparison.

    Wide rows, which were compared through kernels, get the weights of their probe from one more pass over the tokens.
    """
    probe: Any = fitted_probe.probe
    if table.is_kernel:
        training = fitted.transform(tokens)[data.rows("train")]
        probe = primal(probe, table, training, is_raw=not isinstance(fitted.recipe, SideBySide))
    embedder = Embedder(
        config.encoder,
        fitted.recipe.name,
        layer=config.layer,
        eps=config.eps,
        ridge=config.ridge,
        token_budget=config.token_budget,
        max_memory_gib=config.max_memory_gib,
        seed=config.seed,
    )
    embedder.fitted_ = fitted
    embedder.encoder_digest_ = tokens.encoder.weights_digest if isinstance(tokens, EncodedTokens) else None
    embedder.n_features_in_ = 1
    return Model(embedder, probe, probe_name, data.task, data.target_names)


def keep_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
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
        if is_first():
            model = make_model(config, data, tokens, fitted, tables[name], probes[name][kind], kind)
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
