"""What a comparison with folds gives to take away: a model of all sequences, and predictions of each as it was test.

The model's row is the one with the best validation value, its penalty the best on the validation path, both in the mean
over folds; a mixture has the shares that most folds chose. Then row and probe are fitted on all sequences.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from covjax.comparison.folds import FoldRows, FoldTables, common_shares, features_of
from covjax.comparison.layers import Choice, Layer
from covjax.comparison.model import cells, decide, keep_winner, true_cells
from covjax.comparison.probing import TASKS, Probes, fit_at, fit_row, predictions, probe_names
from covjax.comparison.results import Results
from covjax.data import Dataset
from covjax.jobs.disk import new_text, text_cell
from covjax.jobs.distributed import is_first
from covjax.notes import silence
from covjax.recipes.base import MIXTURE, Weighted, with_parts


def keep_fold_winner(choice: Choice, data: Dataset, rows: FoldRows, results: Results, output: Path) -> None:
    """Write `model/` of `Results.winner`, fitted on all sequences; `data` has every row in training.

    In a job of several processes all call this together; process 0 writes.
    """
    name = results.winner
    home = choice.home[name]
    kind = probe_names(home.config, data)[0]
    penalty = results.by_label[name].probes[kind].penalty
    with silence(True):
        tables = FoldTables(features_of(home, data), data.rows("train"))
    add_mixtures(name, home, tables, rows, None)
    probes: Probes = {}
    if is_first():
        probes = {name: {kind: fit_at(TASKS[data.task], kind, tables[name], data, penalty)}}
    layer = dataclasses.replace(home, config=dataclasses.replace(home.config, penalties=(penalty,)))
    keep_winner(layer, data, tables, probes, results, output)


def add_mixtures(name: str, layer: Layer, tables: FoldTables, rows: FoldRows, fold: int | None) -> None:
    """Make the mixtures that a row is made of, itself among them: with the shares of one fold, or the most common."""
    for recipe in with_parts(name, {recipe.name: recipe for recipe in layer.recipes}):
        if isinstance(recipe, Weighted):
            each = rows.rows[recipe.name]
            shares = common_shares(each) if fold is None else each[fold].shares
            recipe = dataclasses.replace(recipe, shares=shares)
        if recipe.role == MIXTURE:
            tables.mix(recipe)


def write_fold_predictions(
    path: Path, data: Dataset, folds: Sequence[Dataset], rows: FoldRows, results: Results
) -> None:
    """One line a sequence and repeat: id, repeat, the fold that tested it, truth, what the winner and the mean predict.

    The probes are those of that fold, fitted without the sequence, at the penalty and layer that the fold chose.
    All processes call this together; process 0 writes.
    """
    scores = [_tested(name, data, folds, rows) for name in (results.winner, results.reference)]
    if not is_first():
        return
    assert results.folds is not None
    count, task = results.folds.folds, TASKS[data.task]
    kind = results.probes[0]
    columns = true_cells(data)
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "repeat", "fold", "truth", "prediction", "prediction_of_mean"])
        for repeat in range(results.folds.repeats):
            place = np.empty(len(data), int)
            shown = [np.empty((len(data), data.targets.shape[1])) for _ in scores]
            for fold in range(count):
                test = folds[repeat * count + fold].rows("test")
                place[test] = fold + 1
                for whole, each in zip(shown, scores):
                    whole[test] = predictions(task, kind, each[repeat * count + fold])
            texts = [cells(decide(each, data.task, data.target_names), data.task, data.target_names) for each in shown]
            for line in zip(data.ids, [repeat + 1] * len(data), place.tolist(), columns, *texts, strict=True):
                writer.writerow([text_cell(str(cell)) for cell in line])


def _tested(name: str, data: Dataset, folds: Sequence[Dataset], rows: FoldRows) -> list[Float[np.ndarray, "test k"]]:
    """The first probe's scores of every fold's test rows, fitted again as they were; only in process 0."""
    out: dict[int, np.ndarray] = {}
    for layer in {layer.number: layer for layer in rows.layers[name]}.values():
        with silence(True):
            tables = features_of(layer, data)
        kind = probe_names(layer.config, data)[:1]
        for j, fold in enumerate(folds if is_first() else ()):
            if rows.layers[name][j].number != layer.number:
                continue
            sliced = FoldTables(tables, fold.rows("train"))
            add_mixtures(name, layer, sliced, rows, j)
            out[j] = fit_row(layer.config, fold, kind, sliced[name])[kind[0]].scores[fold.rows("test")]
    return [out[j] for j in sorted(out)]
