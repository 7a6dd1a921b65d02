"""From token activations to one table per row of the comparison, kept as Orbax checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covjax import checkpoint
from covjax.activations import ArrayTokens
from covjax.comparison.composition import kmer_frequencies, word_frequencies
from covjax.comparison.config import CompareConfig
from covjax.comparison.reuse import find_complete, load_rest
from covjax.data import Dataset
from covjax.distributed import is_first, wait
from covjax.embedding.pools import FittedPool, fit_pools, pool_groups, pool_tokens, widths
from covjax.embedding.tables import Table, make_table, principal_components, side_by_side
from covjax.notes import note
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import Components, Composition, Pooled, SpecialToken

Tables = dict[str, Table]


def make_features(
    config: CompareConfig, data: Dataset, tokens: ArrayTokens, recipes: tuple[Recipe, ...], output: Path, manifest: dict
) -> Tables:
    """The table of every recipe by name; complete checkpoints in `output/features` are reused.

    In a job of several processes all make the features of their own sequences and call this together; process 0 makes
    the tables and writes them, and all return them.
    A checkpoint made under another manifest is refused with the difference.
    """
    folder, by_name = output / "features", {recipe.name: recipe for recipe in recipes}

    def expected(name: str) -> dict[str, Any]:
        return manifest | {"row": repr(by_name[name])}

    def load(name: str) -> Table | None:
        state = checkpoint.load_complete(folder / name, {"values": 0}, expected(name))
        return None if state is None else Table(state[0]["values"], state[1]["num_features"], state[1]["is_kernel"])

    tables, missing = find_complete(list(by_name), load)
    if not missing:
        note(f"features: all {len(recipes)} complete in {folder}, reused")
    else:
        note(f"features: {len(recipes) - len(missing)} complete and reused, {len(missing)} to make")

        def keep(name: str, table: Table) -> None:
            shape = {"num_features": table.num_features, "is_kernel": table.is_kernel}
            checkpoint.save(folder / name, {"values": table.values}, expected(name) | shape)
            tables[name] = table

        to_make = [by_name[name] for name in missing]
        for name, table in _pooled(config, data, tokens, to_make, output, manifest):
            keep(name, table)
        for recipe in to_make if is_first() else ():
            if isinstance(recipe, Composition):
                keep(recipe.name, _composition(recipe, data))
            elif parts := parts_of(recipe):
                table = side_by_side([tables[part] for part in parts], data.rows("train"))
                if isinstance(recipe, Components):
                    table = principal_components(table, recipe.count, data.rows("train"))
                keep(recipe.name, table)
    wait()
    return load_rest(by_name, tables, load, folder)


def _pooled(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: list[Recipe],
    output: Path,
    manifest: dict[str, Any],
) -> Iterator[tuple[str, Table]]:
    """The table of every recipe on tokens, process 0 alone; wide ones are spent before the next group is pooled."""
    on_tokens = [recipe for recipe in recipes if isinstance(recipe, Pooled | SpecialToken)]
    if not on_tokens:
        return
    train = data.rows("train")
    identity: dict[str, Any] = {key: manifest[key] for key in ("data", "encoder") if key in manifest}
    fit, pools = fit_pools(on_tokens, tokens, train, config.seed, output / "pools", identity, data)
    for group in pool_groups(widths(pools, tokens.features), len(data), config.max_features_gib):
        chosen: dict[str, FittedPool] = {name: pools[name] for name in group}
        features = pool_tokens(chosen, tokens, fit, config.seed)
        for name in group:
            values = features.pop(name)
            if is_first():
                yield name, make_table(values, train)


def _composition(recipe: Composition, data: Dataset) -> Table:
    train = data.rows("train")
    text = data.is_text
    counts = word_frequencies(data.sequences, train) if text else kmer_frequencies(data.sequences, recipe.k)
    return make_table(counts, train)
