"""What a comparison leaves to take away: the chosen row as a model, and every sequence's prediction."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from covjax.activations import ArrayTokens, EncodedTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.model import Model, cells, decide
from covjax.comparison.probing import FittedProbe
from covjax.comparison.tasks import TASKS, predictions
from covjax.data import Dataset
from covjax.data.write import new_text
from covjax.embedder import Embedder
from covjax.embedding.fitted import fit_recipe
from covjax.embedding.tables import Table, primal
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import SideBySide


def make_model(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: Sequence[Recipe],
    name: str,
    table: Table,
    fitted_probe: FittedProbe,
    probe_name: str,
    folder: Path,
    identity: Mapping[str, Any],
) -> Model:
    """The model of one row: its recipe is fitted again on the training tokens, which gives the same state.

    `folder` holds the trained pools and autoencoders of the comparison, made under `identity`. Wide rows, which were
    compared through kernels, get the weights of their probe from one more pass over the training sequences.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    recipe = by_name[name]
    train = data.rows("train")
    parts = [by_name[part] for part in parts_of(recipe)]
    fitted = fit_recipe([*parts, recipe], tokens, train, config.seed, folder, identity, data)
    probe: Any = fitted_probe.probe
    if table.is_kernel:
        training = fitted.transform(tokens)[train]
        probe = primal(probe, table, training, is_raw=not isinstance(recipe, SideBySide))
    embedder = Embedder(
        config.encoder,
        name,
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
        writer.writerows(zip(data.ids, data.splits, *columns, strict=True))
