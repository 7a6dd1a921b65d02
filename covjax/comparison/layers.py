"""The layers of a comparison: all are compared on validation, and every row takes its own best one.

The mean and the controls choose as the second-order rows do. A layer that is fixed by one row's validation would favour
that row: its gain over the others would hold what they lose at a layer that is not theirs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from covjax.activations import ArrayTokens, EncodedTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.features import Tables, make_features
from covjax.comparison.mixtures import make_mixtures
from covjax.comparison.probing import Probes, fit_probes, probe_names
from covjax.comparison.results import Results
from covjax.comparison.source import EncoderSource, Source
from covjax.data import Dataset
from covjax.embedding.tables import Table
from covjax.errors import InputError
from covjax.jobs.distributed import agree, is_first
from covjax.notes import note, silence
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import COMPOSITION, SpecialToken, row_name


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a comparison, which is a comparison of that layer alone: what decides it, and where it is kept.

    `number` is None where the comparison has one layer. `recipes` are the rows that this layer can have, `features` is
    the manifest of their features.
    """

    number: int | None
    config: CompareConfig
    tokens: ArrayTokens
    recipes: tuple[Recipe, ...]
    features: dict[str, Any]
    folder: Path

    def fit(self, data: Dataset, recipes: tuple[Recipe, ...] | None = None) -> tuple[Tables, Probes]:
        """Tables and probes of the rows, all by default; what the folder has complete is reused.

        In a job of several processes all call this together.
        """
        chosen = self.recipes if recipes is None else recipes
        self.folder.mkdir(parents=True, exist_ok=True)  # its disk is asked for free space
        tables = make_features(self.config, data, self.tokens, chosen, self.folder, self.features, self.recipes)
        make_mixtures(self.config, data, tables, chosen)
        return tables, fit_probes(self.config, data, tables, self.folder, self.features)


def tokens_by_layer(
    config: CompareConfig, data: Dataset, source: Source, mesh: Mesh | None
) -> Mapping[int | None, ArrayTokens]:
    """The tokens at every layer that is compared; under None where the comparison has one layer.

    Raises InputError for several layers of anything but an encoder.
    """
    if not config.layers:
        return {None: source.tokens(data, mesh)}
    if not isinstance(source, EncoderSource):
        raise InputError(f"layers: {config.layers}, but only an encoder over sequences has several; give --layer N")
    return {layer: tokens for layer, tokens in source.tokens_of_layers(data, mesh).items()}


def split_layers(
    config: CompareConfig,
    tokens: Mapping[int | None, ArrayTokens],
    recipes: Sequence[Recipe],
    features: Mapping[str, Any],
    output: Path,
) -> list[Layer]:
    """The layers of a comparison, several in `output/layers`; rows that see no tokens stand at the first."""
    layers: list[Layer] = []
    for number, each in tokens.items():
        if number is None:
            return [Layer(None, config, each, tuple(recipes), dict(features), output)]
        rows = [recipe for recipe in recipes if each.has_special or not isinstance(recipe, SpecialToken)]
        if layers:
            rows = [recipe for recipe in rows if recipe.role != COMPOSITION]
        encoder = {key: value for key, value in features["encoder"].items() if key != "layers"} | {"layer": number}
        own = dataclasses.replace(config, layer=number, layers="")
        manifest = {**features, "encoder": encoder}
        layers.append(Layer(number, own, each, tuple(rows), manifest, output / "layers" / str(number)))
    return layers


@dataclasses.dataclass(frozen=True)
class Choice:
    """What validation chose: the layer, table and probes of every row.

    `layers` are those compared, none where there was one; `validation` has the first probe's value of every row at each
    of them, None where the row is not there.
    """

    tables: Tables
    probes: Probes
    home: dict[str, Layer]
    layers: tuple[int, ...] = ()
    validation: dict[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)

    def enter(self, results: Results) -> Results:
        """The results with the layer of every row."""
        if not self.layers:
            return results
        rows = [
            dataclasses.replace(row, layer=self.home[row.label].number, layer_validation=self.validation[row.label])
            if row.label in self.validation
            else row
            for row in results.rows
        ]
        return dataclasses.replace(results, rows=tuple(rows), layers=self.layers)

    def tables_of(self, name: str, data: Dataset) -> Tables:
        """The tables of a row and of those that it is made of, at its layer; all processes call this together."""
        if not self.layers:
            return self.tables
        home = self.home[name]
        with silence(True):
            rows = _with_parts(home, [name])
            return make_features(home.config, data, home.tokens, rows, home.folder, home.features, home.recipes)


def choose_layers(layers: Sequence[Layer], data: Dataset) -> Choice:
    """Fit every row at every layer, and take for each the layer with the highest validation value.

    That is the primary metric of the first probe, the mean over seeds of a trained row; of equal layers the lower one
    is taken. One layer's tables are in memory at a time, and at the end those of the choice. The test set is not looked
    at. All processes of a job call this together.
    """
    first = layers[0]
    if first.number is None:
        tables, probes = first.fit(data)
        return Choice(tables, probes, {recipe.name: first for recipe in first.recipes})
    probe = probe_names(first.config, data)[0]
    names = list(dict.fromkeys(row_name(recipe) for layer in layers for recipe in layer.recipes))
    values = np.full((len(names), len(layers)), np.nan)
    if isinstance(first.tokens, EncodedTokens) and first.tokens.runs > 1:
        note(
            f"layers: their tokens do not fit in memory together, so the encoder runs {first.tokens.runs} times over "
            "the sequences; a larger --max-memory-gib makes these fewer"
        )
    for j, layer in enumerate(layers):
        note(f"layer {layer.number}: {j + 1} of {len(layers)}")
        probes = layer.fit(data)[1]
        for i, name in enumerate(names):
            fits = [probes[each.name][probe] for each in _seeds(layer, name) if is_first()]
            if fits:
                values[i, j] = np.mean([max(fit.validation) for fit in fits])
    values = agree(values)
    place = best_layers(values, [[bool(_seeds(layer, name)) for layer in layers] for name in names])
    chosen_tables: dict[str, Table] = {}
    out: Choice = Choice(chosen_tables, {}, {}, tuple(layer.number for layer in layers if layer.number is not None))
    for j, layer in enumerate(layers):
        chosen = [name for i, name in enumerate(names) if place[i] == j]
        if not chosen:
            continue
        with silence(True):
            tables, probes = layer.fit(data, _with_parts(layer, chosen))
        for each in (each for name in chosen for each in _seeds(layer, name)):
            chosen_tables[each.name], out.home[each.name] = tables[each.name], layer
            out.probes.update({each.name: probes[each.name]} if is_first() else {})
    tokenless = {recipe.name for recipe in first.recipes if recipe.role == COMPOSITION}
    out.validation.update(
        {
            name: tuple(None if math.isnan(value) else float(value) for value in values[i])
            for i, name in enumerate(names)
            if name not in tokenless
        }
    )
    return out


def best_layers(values: Float[np.ndarray, "rows layers"], there: Sequence[Sequence[bool]]) -> list[int]:
    """The place of every row's best layer among those where it is `there`; of equal ones the first.

    A value that is not a number is below every other.
    """
    candidates = np.where(np.array(there), np.nan_to_num(values, nan=-np.finfo(float).max), -np.inf)
    return [int(place) for place in candidates.argmax(1)]


def _seeds(layer: Layer, name: str) -> list[Recipe]:
    """The recipes of a row at a layer: one, several where it is trained with several seeds, or none."""
    return [recipe for recipe in layer.recipes if row_name(recipe) == name]


def _with_parts(layer: Layer, names: Sequence[str]) -> tuple[Recipe, ...]:
    """Recipes of these rows and of what they are made of, in their order."""
    rows = [recipe for name in names for recipe in _seeds(layer, name)]
    wanted = {recipe.name for recipe in rows} | {part for recipe in rows for part in parts_of(recipe)}
    return tuple(recipe for recipe in layer.recipes if recipe.name in wanted)
