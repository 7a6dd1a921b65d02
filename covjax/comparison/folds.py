"""Repeated grouped folds: features once over all sequences, probes and every choice inside each fold.

What makes the features sees no label, so it is fitted on all sequences, and a kernel of them all holds that of every
fold's training rows. A fold is a comparison of its own: its test rows take part in no choice.
"""

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int

from covjax.comparison.config import CompareConfig
from covjax.comparison.features import Tables, make_features
from covjax.comparison.layers import Choice, Layer, best_layers
from covjax.comparison.mixtures import chosen_mixture, mixture_table
from covjax.comparison.probing import TASKS, FittedProbe, fit_row, predictions, probe_names, two_threads
from covjax.comparison.results import dump, load
from covjax.data import Dataset
from covjax.data.folds import all_training, check_folds, drop_rare_in_folds
from covjax.data.splits import assign_folds
from covjax.embedding.landmarks import probe_bytes
from covjax.embedding.tables import Table
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.disk import json_digest, read_sealed
from covjax.jobs.distributed import agree, is_first, share, wait
from covjax.jobs.folder import write_sealed
from covjax.notes import note, progress, silence
from covjax.probes.nonlinear import DECAYS, MULTIPLES
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import COMPOSITION, MIXTURE, Probed, Weighted


@dataclasses.dataclass(frozen=True)
class FoldProbe:
    """A probe of a row in one fold: the penalty that validation chose, and test metrics, a value a target or one."""

    penalty: float
    validation: tuple[float, ...]
    converged: bool
    test: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class FoldRow:
    """A row in one fold; `made_of` is a digest of its features, `shares` are those that a mixture got there."""

    made_of: str
    num_features: int
    probes: dict[str, FoldProbe]
    shares: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class FoldFile:
    """What stands in the file of one fold; `settings` is a digest of its splits and of the probes' options."""

    settings: str
    rows: dict[str, FoldRow]


@dataclasses.dataclass(frozen=True)
class FoldRows:
    """Every row in every fold, in their order, and the layer that it took there; `constant` rows have equal vectors."""

    rows: dict[str, tuple[FoldRow, ...]]
    layers: dict[str, tuple[Layer, ...]]
    constant: frozenset[str]


def fold_data(config: CompareConfig, data: Dataset) -> tuple[Dataset, list[Dataset]]:
    """The data with every row in training, and once for each fold with its split, repeat after repeat.

    Raises InputError for a split that the file gave, fewer groups than folds, and a fold that cannot be scored.
    """
    folds = assign_folds(data, config.folds, config.repeats, config.shares, config.seed)
    folds = drop_rare_in_folds(folds, config.min_positives)
    check_folds(folds, config.folds)
    return all_training(folds), folds


class FoldTables(Mapping[str, Table]):
    """The tables of all sequences as a fold sees them: inner products with its training rows alone."""

    def __init__(self, tables: Tables, train: Int[np.ndarray, "n_train"]):
        self._tables, self.train, self.mixtures = tables, train, dict[str, Table]()

    def __getitem__(self, name: str) -> Table:
        if name in self.mixtures:
            return self.mixtures[name]
        table = self._tables[name]
        return dataclasses.replace(table, values=table.values[:, self.train]) if table.is_kernel else table

    def __contains__(self, name: object) -> bool:
        return name in self.mixtures or name in self._tables

    def mix(self, recipe: Recipe) -> None:
        """Make the table of a mixture with its shares, or of a mixture's components."""
        self.mixtures[recipe.name] = mixture_table(recipe, self, self.train)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def fit_folds(layers: Sequence[Layer], data: Dataset, folds: Sequence[Dataset]) -> tuple[FoldRows, Choice]:
    """Every row in every fold, at the layer that is best there on validation; complete files are reused.

    The choice holds the layer that is best on validation in the mean over folds, which is that of a model. `data` has
    every row in training. In a job of several processes all call this together; each fits its share of the folds.
    """
    config = layers[0].config
    probe = probe_names(config, data)[0]
    runs, constant = [], set[str]()
    for layer in layers:
        run, equal = _fit_layer(layer, data, folds)
        runs.append(run)
        constant |= equal
    names = list(dict.fromkeys(recipe.name for layer in layers for recipe in layer.recipes))
    there = [[name in run[0] for run in runs] for name in names]
    values = np.full((len(folds), len(names), len(layers)), np.nan)
    for j, i, k in np.ndindex(values.shape):
        if there[i][k]:
            values[j, i, k] = max(runs[k][j][names[i]].probes[probe].validation)
    places = [best_layers(each, there) for each in values]
    rows = {name: tuple(runs[place[i]][j][name] for j, place in enumerate(places)) for i, name in enumerate(names)}
    taken = {name: tuple(layers[place[i]] for place in places) for i, name in enumerate(names)}
    means = values.mean(0)
    home = {name: layers[place] for name, place in zip(names, best_layers(means, there))}
    choice = Choice({}, {}, home)
    if layers[0].number is not None:
        tokenless = {recipe.name for recipe in layers[0].recipes if recipe.role == COMPOSITION}
        validation = {
            name: tuple(None if np.isnan(value) else float(value) for value in row)
            for name, row in zip(names, means)
            if name not in tokenless
        }
        numbers = tuple(layer.number for layer in layers if layer.number is not None)
        choice = Choice({}, {}, home, numbers, validation)
    return FoldRows(rows, taken, frozenset(constant)), choice


def _fit_layer(layer: Layer, data: Dataset, folds: Sequence[Dataset]) -> tuple[list[dict[str, FoldRow]], set[str]]:
    """The rows of one layer by name, for every fold, and the names of rows whose vectors are all equal."""
    config, recipes = layer.config, layer.recipes
    if layer.number is not None:
        note(f"layer {layer.number}")
    tables = features_of(layer, data)
    made_of, constant, columns = _digests(tables, recipes, data)
    folder = layer.folder / "folds" / str(config.folds)
    paths = [folder / f"repeat-{1 + j // config.folds}-fold-{1 + j % config.folds}.json" for j in range(len(folds))]
    names = probe_names(config, data)
    settings = [json_digest([list(config.penalties), list(names), config.seed, fold.fingerprint()]) for fold in folds]
    runs = [_read(path, digest) for path, digest in zip(paths, settings)]
    missing = [[name for name in made_of if name not in run or run[name].made_of != made_of[name]] for run in runs]
    complete = agree(np.array([not each for each in missing]))  # as process 0 sees it, before anyone writes
    to_do = np.flatnonzero(~complete)
    if len(to_do):
        note(f"folds: {len(folds) - len(to_do)} of {len(folds)} complete and reused, {len(to_do)} to fit")
    else:
        note(f"folds: all {len(folds)} complete in {folder}, reused")
    own = [to_do[i] for i in share(len(to_do))]
    with two_threads(config, probe_bytes(len(data), columns)) as threads:
        for j in progress(own, desc=f"{'fit folds':>12}", unit="fold", disable=not is_first()):
            sliced = FoldTables(tables, folds[j].rows("train"))
            shares = _mix(config, folds[j], recipes, sliced, missing[j])
            place = f"repeat {1 + j // config.folds}, fold {1 + j % config.folds}"
            fit = partial(_fit, config, folds[j], names, sliced, place)
            for name, (size, probes) in zip(missing[j], threads.map(fit, missing[j])):
                runs[j][name] = FoldRow(made_of[name], size, probes, shares.get(name, ()))
            rows = {name: runs[j][name] for name in sorted(runs[j])}
            write_sealed(paths[j], dump(FoldFile(settings[j], rows)))
    wait()
    for j in to_do:
        if j not in own:
            runs[j] = _read(paths[j], settings[j])
            if not made_of.keys() <= runs[j].keys():
                raise InputError(f"output: process {jax.process_index()} does not see {folder}")
    return runs, constant


def features_of(layer: Layer, data: Dataset) -> Tables:
    """The tables of a layer's rows over all sequences, without mixtures; all processes call this together."""
    layer.folder.mkdir(parents=True, exist_ok=True)
    return make_features(layer.config, data, layer.tokens, layer.recipes, layer.folder, layer.features)


def _digests(tables: Tables, recipes: Sequence[Recipe], data: Dataset) -> tuple[dict[str, str], set[str], int]:
    """A digest of what every row is made of, the rows whose vectors are all equal, and the most columns."""
    made_of: dict[str, str] = {}
    constant, columns = set[str](), 0
    for recipe in sorted(recipes, key=lambda recipe: recipe.role == MIXTURE):  # after their parts
        if recipe.role == MIXTURE:
            content = [made_of[part] for part in parts_of(recipe)]
        else:
            table = tables[recipe.name]
            content = [checkpoint.leaf_digests({"values": table.values})["['values']"]]
            content += [table.probe, repr((MULTIPLES, DECAYS))] if isinstance(recipe, Probed) else []
            columns = max(columns, table.values.shape[1])
            if table.is_constant(data.rows("train")):
                constant.add(recipe.name)
            del table  # before the next one is read
        made_of[recipe.name] = json_digest([repr(recipe), *content])
    return {recipe.name: made_of[recipe.name] for recipe in recipes}, constant, columns


def _mix(
    config: CompareConfig, fold: Dataset, recipes: Sequence[Recipe], sliced: FoldTables, missing: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Make the tables of mixtures where one is missing; the shares that the fold's validation chose."""
    mixtures = [recipe for recipe in recipes if recipe.role == MIXTURE]
    shares: dict[str, tuple[int, ...]] = {}
    if not any(recipe.name in missing for recipe in mixtures):
        return shares
    for recipe in mixtures:
        if isinstance(recipe, Weighted):
            with silence(True):
                recipe = chosen_mixture(recipe, sliced, fold, config)
            shares[recipe.name] = recipe.shares
        sliced.mix(recipe)
    return shares


def _fit(
    config: CompareConfig, fold: Dataset, names: tuple[str, ...], tables: FoldTables, place: str, label: str
) -> tuple[int, dict[str, FoldProbe]]:
    """How many numbers the row has, and its probes."""
    table = tables[label]
    try:
        fits = fit_row(config, fold, names, table)
    except InputError as error:
        raise InputError(f"{fold.name}: pooler {label!r}, {place}: {error}") from None
    return table.num_features, {name: _tested(fold, name, fit) for name, fit in fits.items()}


def _tested(fold: Dataset, name: str, fit: FittedProbe) -> FoldProbe:
    task, test = TASKS[fold.task], fold.rows("test")
    shown, truth = predictions(task, name, fit.scores[test]), fold.targets[test]
    scores = {key: metric(truth, shown) for key, (_, metric) in task.metrics.items()}
    values = {key: tuple(np.atleast_1d(each).astype(float).tolist()) for key, each in scores.items()}
    return FoldProbe(fit.penalty, tuple(map(float, fit.validation)), bool(fit.converged), values)


def _read(path: Path, settings: str) -> dict[str, FoldRow]:
    """The rows of a fold's file; none where it is not there, damaged, or of other settings."""
    try:
        file = load(FoldFile, read_sealed(path), str(path))
    except FileNotFoundError:
        return {}
    except InputError as error:
        print(f"note: {error}; made again", file=sys.stderr)
        return {}
    return dict(file.rows) if file.settings == settings else {}


def common_shares(rows: Sequence[FoldRow]) -> tuple[int, ...]:
    """The shares that most folds gave a mixture; of equally many those of the earlier fold."""
    return Counter(row.shares for row in rows).most_common(1)[0][0]
