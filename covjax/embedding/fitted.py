"""A recipe after everything that it fits: tokens of many sequences to one array, and the state on disk."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from covjax.activations import ArrayTokens
from covjax.activations.tokens import Fit
from covjax.data import Dataset
from covjax.embedding.pools import FittedPool, fit_pools, pool_tokens, restored, widths
from covjax.embedding.tables import linear_components, make_block
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import (
    Components,
    Composition,
    Pooled,
    Referenced,
    SideBySide,
    SparsePooled,
    SpecialToken,
    Trained,
    Truncated,
)

KINDS = (Pooled, Truncated, Referenced, SparsePooled, Trained, SpecialToken, SideBySide, Components)
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class FittedRecipe:
    """A recipe with what it fitted on its training sequences, on tokens of `features` numbers.

    `pools` are those of the recipe itself or of its parts; `blocks` holds for each part the centre and scale that set
    it beside the others; `components` the linear map to principal components and its offset.
    """

    recipes: tuple[Recipe, ...]  # the parts, then the recipe itself
    features: int
    seed: int
    fit: Fit
    pools: dict[str, FittedPool]
    blocks: dict[str, tuple[np.ndarray, np.ndarray]]
    components: tuple[np.ndarray, np.ndarray] | None

    @property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return self.recipes[-1]

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        if self.components is not None:
            return len(self.components[1])
        return sum(widths(self.pools, self.features).values())

    def transform(self, tokens: ArrayTokens) -> Float[np.ndarray, "n k"]:
        """One vector a sequence, float32, in the order of `tokens`; InputError for another number of features."""
        if tokens.features != self.features:
            raise InputError(f"activations: {tokens.features} features a token, but {self.features} were fitted on")
        return self._combine(pool_tokens(self.pools, tokens, self.fit, self.seed))

    def _combine(self, vectors: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n k"]:
        parts = [
            (vectors[name] - self.blocks[name][0]) / self.blocks[name][1] if name in self.blocks else vectors[name]
            for name in self.pools
        ]
        joint = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self.components is not None:
            joint = joint.astype(np.float64) @ self.components[0] + self.components[1]
        return joint.astype(np.float32)

    def save(self, path: str | Path, more: Mapping[str, Any] | None = None) -> None:
        """Write the state as one checkpoint; `more` enters its manifest."""
        state = {"fit/mean": self.fit[0], "fit/deviation": self.fit[1]}
        for name, pool in self.pools.items():
            state |= {f"pool/{name}/{leaf}": array for leaf, array in pool.arrays().items()}
        for name, (centre, scale) in self.blocks.items():
            state |= {f"block/{name}/centre": centre, f"block/{name}/scale": scale}
        if self.components is not None:
            state |= {"components/map": self.components[0], "components/offset": self.components[1]}
        manifest = {
            "format": FORMAT,
            "recipes": [{"kind": type(each).__name__, **dataclasses.asdict(each)} for each in self.recipes],
            "features": self.features,
            "seed": self.seed,
            "arrays": sorted(state),
            "more": dict(more or {}),
        }
        checkpoint.save(path, state, manifest)


def fit_recipe(
    recipes: Sequence[Recipe],
    tokens: ArrayTokens,
    train: np.ndarray,
    seed: int,
    folder: Path,
    identity: Mapping[str, Any],
    data: Dataset | None = None,
    seeds: Sequence[Recipe] = (),
) -> FittedRecipe:
    """Fit the last of `recipes`, the others being its parts, on the training rows; arguments as `fit_pools`.

    `seeds` are a trained recipe's other seeds, which share one training and are then left out.

    Raises InputError for a recipe that sees no tokens, and as `fit_pools`.
    """
    recipe = recipes[-1]
    if isinstance(recipe, Composition):
        raise InputError(f"recipe: {recipe.name!r} counts letters and embeds no tokens")
    fit, pools = fit_pools([*recipes, *seeds], tokens, train, seed, folder, identity, data)
    pools = {each.name: pools[each.name] for each in recipes if each.name in pools}
    blocks: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    components = None
    if parts_of(recipe):
        vectors = pool_tokens(pools, tokens, fit, seed)
        if isinstance(recipe, SideBySide):
            blocks = {name: make_block(vectors[name][train]) for name in recipe.parts}
        elif isinstance(recipe, Components):
            components = linear_components(vectors[recipe.part], recipe.count, train)
    return FittedRecipe(tuple(recipes), tokens.features, seed, fit, pools, blocks, components)


def load_fitted(path: str | Path) -> tuple[FittedRecipe, dict[str, Any]]:
    """Read what `FittedRecipe.save` wrote, and what else stands in its manifest; every digest is checked.

    Raises InputError for a folder that holds none, another format, and changed, cut or missing files.
    """
    manifest = checkpoint.read_manifest(path)
    if manifest is None or "recipes" not in manifest:
        raise InputError(f"{path}: no fitted recipe is saved there")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path}: format {manifest['format']}, this version of covjax reads {FORMAT}; fit it again")
    state = checkpoint.load(path, dict.fromkeys(manifest["arrays"], 0))
    recipes = tuple(_recipe(each) for each in manifest["recipes"])
    features = manifest["features"]
    pools, blocks = {}, {}
    for each in recipes:
        if isinstance(each, Pooled | SpecialToken):
            start = f"pool/{each.name}/"
            arrays = {name.removeprefix(start): array for name, array in state.items() if name.startswith(start)}
            pools[each.name] = restored(each, features, arrays)
        if f"block/{each.name}/centre" in state:
            blocks[each.name] = (state[f"block/{each.name}/centre"], state[f"block/{each.name}/scale"])
    components = (state["components/map"], state["components/offset"]) if "components/map" in state else None
    fit = (state["fit/mean"], state["fit/deviation"])
    return FittedRecipe(recipes, features, manifest["seed"], fit, pools, blocks, components), manifest["more"]


def _recipe(described: Mapping[str, Any]) -> Recipe:
    fields = {name: _tuples(value) for name, value in described.items() if name != "kind"}
    kind = next(kind for kind in KINDS if kind.__name__ == described["kind"])
    return kind(**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value
