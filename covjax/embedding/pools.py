"""What recipes fit on the training tokens; `covjax.embedding.passes` pools every sequence with it."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from covjax.activations import ArrayTokens
from covjax.activations.pairs import both_sides, sides
from covjax.activations.tokens import Fit, standardiser
from covjax.autoencoders import make_autoencoder
from covjax.autoencoders.saved import from_arrays, to_arrays
from covjax.data import Dataset
from covjax.embedding.learned import make_bases, sparse_options, sparse_pools, train_pools
from covjax.embedding.references import Arrays, TrainingTokens, fit_reference, unfitted_reference
from covjax.errors import InputError
from covjax.pooling import Pooler, get_pooler, pooler_options
from covjax.recipes.base import (
    Options,
    Pooled,
    Recipe,
    Referenced,
    SparsePooled,
    SpecialToken,
    Trained,
    Truncated,
    row_name,
)
from covjax.recipes.pairs import PairPooled
from covjax.sketch import count_sketch
from covjax.tokens import HIGHEST


@dataclasses.dataclass(frozen=True)
class FittedPool:
    """A recipe's pooler after all that it fits: standardised tokens and weights of one sequence to one vector.

    `projection` is applied to the tokens first: the principal components that a trained pool sees. `sketch` is the size
    of the vector's count sketch, which then takes its place; 0: none.
    """

    recipe: Recipe
    pooler: Pooler | None  # None: the special token itself
    projection: Float[np.ndarray, "d width"] | None = None
    sketch: int = 0

    def __call__(self, x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        """Pool one sequence."""
        vector = self._vector(x, w)
        return count_sketch(vector, self.sketch, jax.random.key(0)) if self.sketch else vector

    def _vector(self, x: Float[Array, "tokens features"], w: Float[Array, "tokens"]) -> Float[Array, "k"]:
        assert self.pooler is not None
        if self.projection is not None:
            x = jnp.matmul(x, self.projection, precision=HIGHEST)
        if isinstance(self.recipe, PairPooled):
            first, second = sides(w)
            return both_sides(self.pooler(x, first), self.pooler(x, second))
        return self.pooler(x, w)

    def arrays(self) -> dict[str, Any]:
        """Everything that was fitted, as plain arrays; see `restored`."""
        out: dict[str, Any] = {}
        if isinstance(self.pooler, nnx.Module):
            leaves = jax.tree_util.tree_flatten_with_path(to_arrays(nnx.state(self.pooler)))[0]
            out |= {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
        out |= {} if self.projection is None else {"projection": self.projection}
        return out | ({"sketch": np.asarray(self.sketch)} if self.sketch else {})


def restored(recipe: Recipe, features: int, arrays: Mapping[str, np.ndarray]) -> FittedPool:
    """The fitted pool whose `arrays` these are; InputError where they are not a pool's of this recipe."""
    if isinstance(recipe, SpecialToken):
        return FittedPool(recipe, None)
    assert isinstance(recipe, Pooled)
    options: dict[str, Any] = dict(recipe.options)
    if isinstance(recipe, Trained):
        options |= {"features": recipe.width or features, "seed": recipe.seed}
    else:  # a fitted option is a variable of its own name
        named = {name[1]: array for leaf, array in arrays.items() if (name := re.match(r"\['(\w+)'\]", leaf))}
        options |= {name: named[name] for name in pooler_options(recipe.pooler) if name in named}
    if isinstance(recipe, SparsePooled):
        options["autoencoder"] = make_autoencoder("topk", features, **sparse_options(recipe))
    pooler = get_pooler(recipe.pooler, **options)
    if isinstance(pooler, nnx.Module):
        state = nnx.state(pooler)
        leaves, structure = jax.tree_util.tree_flatten_with_path(state)
        if absent := [jax.tree_util.keystr(path) for path, _ in leaves if jax.tree_util.keystr(path) not in arrays]:
            raise InputError(f"recipe {recipe.name}: the saved state lacks {absent[0]}")
        values = [arrays[jax.tree_util.keystr(path)] for path, _ in leaves]
        nnx.update(pooler, from_arrays(state, jax.tree_util.tree_unflatten(structure, values)))
    return FittedPool(recipe, pooler, arrays.get("projection"), int(arrays.get("sketch", 0)))


def unfitted_pools(recipes: Sequence[Recipe]) -> dict[str, FittedPool]:
    """The pools of those recipes that fit nothing beside the standardiser, by name."""
    fitted = Referenced | Truncated | Trained | SparsePooled
    plain = [recipe for recipe in recipes if isinstance(recipe, Pooled) and not isinstance(recipe, fitted)]
    return {recipe.name: FittedPool(recipe, get_pooler(recipe.pooler, **dict(recipe.options))) for recipe in plain}


def fit_pools(
    recipes: Sequence[Recipe],
    tokens: ArrayTokens,
    train: np.ndarray,
    seed: int,
    folder: Path,
    identity: Mapping[str, Any],
    data: Dataset | None = None,
) -> tuple[Fit, dict[str, FittedPool]]:
    """Fit the standardiser and what every recipe needs on the tokens of the training rows: {name: pool}.

    Recipes that are made of others, or count letters, are passed over. `folder` keeps what takes long (autoencoders,
    trained pools) for a run that goes on, under `identity`; `data` has the labels that trained recipes need.
    In a job of several processes all call this together.

    Raises InputError for a recipe that needs tokens in memory where they are not, and for a trained one without `data`.
    """
    pooled = [recipe for recipe in recipes if isinstance(recipe, Pooled | SpecialToken)]
    trained: dict[str, list[Trained]] = {}
    sparse: dict[Options, list[SparsePooled]] = {}
    for recipe in pooled:
        if isinstance(recipe, SpecialToken) and not tokens.has_special:
            raise InputError(
                f"recipe: {recipe.name!r} needs a special token before the sequence; {tokens.name} has none"
            )
        if isinstance(recipe, Trained):
            if data is None:
                raise InputError(f"recipe: {recipe.name!r} is trained on labels; take it from a comparison's best()")
            trained.setdefault(row_name(recipe), []).append(recipe)
        elif isinstance(recipe, SparsePooled):
            sparse.setdefault(recipe.autoencoder, []).append(recipe)
    in_memory: list[Recipe] = [each for group in trained.values() for each in group]
    in_memory += [each for part in sparse.values() for each in part]
    in_memory += [recipe for recipe in pooled if isinstance(recipe, Truncated) and recipe.basis == "tucker"]
    for each in in_memory:
        is_trained = isinstance(each, Trained)
        other = "leave out all that are trained on labels, --trained ''" if is_trained else "choose another recipe"
        tokens.require_kept(repr(each.name), f", or {other}")
    fit = standardiser(tokens, train)
    if in_memory:
        tokens.collect()
    wanted = [(recipe.basis, recipe.rank or 0) for recipe in pooled if isinstance(recipe, Truncated)]
    wanted += [("pca", group[0].width) for group in trained.values() if group[0].width]
    if large := [rank for _, rank in wanted if rank > tokens.features]:
        raise InputError(f"rank: {large[0]} is more than the {tokens.features} features of a token")
    training = TrainingTokens(tokens, fit, train, seed)
    bases = make_bases(training, wanted, tokens.token_budget)
    references: dict[tuple[str, Options], Arrays] = {}
    pools: dict[str, FittedPool] = {}
    plain = unfitted_pools(pooled)
    for recipe in pooled:
        if isinstance(recipe, SpecialToken):
            pools[recipe.name] = FittedPool(recipe, None)
        elif isinstance(recipe, Referenced):
            key = recipe.reference, recipe.fitting
            if key not in references:
                references[key] = fit_reference(recipe.reference, training, dict(recipe.fitting))
            pools[recipe.name] = FittedPool(
                recipe, get_pooler(recipe.pooler, **dict(recipe.options), **references[key])
            )
        elif isinstance(recipe, Truncated):
            basis = bases[recipe.basis, recipe.rank or 0]
            pools[recipe.name] = FittedPool(recipe, get_pooler(recipe.pooler, basis=basis, **dict(recipe.options)))
        elif recipe.name in plain:
            pools[recipe.name] = plain[recipe.name]
    for name, group in trained.items():
        projection = bases["pca", group[0].width] if group[0].width else None
        modules = train_pools(cast(Dataset, data), tokens, group, fit, projection, seed, folder / name)
        pools |= {each.name: FittedPool(each, cast(Pooler, pool), projection) for each, pool in zip(group, modules)}
    for settings, parts in sparse.items():
        where = folder / "_".join(["sae", *(f"{name}_{value}" for name, value in settings)])
        poolers = sparse_pools(tokens, train, parts, fit, dict(identity), seed, where)
        pools |= {each.name: FittedPool(each, pool) for each, pool in zip(parts, poolers)}
    return fit, pools


def sketched(pools: Mapping[str, FittedPool], sizes: Mapping[str, int]) -> dict[str, FittedPool]:
    """The pools, with a count sketch of so many numbers in place of the vectors of those in `sizes`."""
    return {name: dataclasses.replace(pool, sketch=sizes.get(name, 0)) for name, pool in pools.items()}


def widths(pools: Mapping[str, FittedPool], features: int) -> dict[str, int]:
    """How many numbers a sequence gets from each pool."""
    return {name: features if pool.pooler is None else _width(pool, features) for name, pool in pools.items()}


def _width(pool: Callable[[Array, Array], Array], features: int) -> int:
    token, weight = jax.ShapeDtypeStruct((4, features), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.float32)
    return jax.eval_shape(pool, token, weight).size


@functools.lru_cache(maxsize=16)
def expected_widths(recipes: tuple[Recipe, ...], features: int) -> Mapping[str, int]:
    """How many numbers a sequence will get from each recipe on tokens, at most; nothing is fitted, no token is seen."""
    plain = unfitted_pools(recipes)
    out = widths(plain, features)
    for recipe in recipes:
        if not isinstance(recipe, Pooled) or recipe.name in plain:
            continue
        options: dict[str, Any] = dict(recipe.options)
        if isinstance(recipe, SparsePooled):
            out[recipe.name] = options.get("pairs", dict(recipe.autoencoder)["latents"])
            continue
        if isinstance(recipe, Trained):
            out[recipe.name] = out.get(recipe.replica_of) or _trained_width(recipe, features)
            continue
        if isinstance(recipe, Referenced):
            options |= unfitted_reference(recipe.reference, features, dict(recipe.fitting))
        elif isinstance(recipe, Truncated):
            options["basis"] = np.ones((features, recipe.rank or 0), np.float32)
        out[recipe.name] = _width(FittedPool(recipe, get_pooler(recipe.pooler, **options)), features)
    return out


def _trained_width(recipe: Trained, features: int) -> int:
    """Its parameters are made where shapes alone are computed: to draw them would take seconds."""
    width = recipe.width or features
    options = dict(recipe.options) | {"features": width, "seed": recipe.seed}
    return _width(lambda x, w: get_pooler(recipe.pooler, **options)(x, w), width)
