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
from covjax.embedding.passes import each_vector, pool_tokens
from covjax.embedding.pools import FittedPool, fit_pools, restored, sketched, widths
from covjax.embedding.tables import Sums, Table, TrainingSums, block_of, centred_probe, first_components, make_table
from covjax.embedding.wide import is_wide, kernel_tables, plan_tables
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.distributed import agree, share
from covjax.probes import DualProbe, LinearProbe, RowSpace
from covjax.probes.coordinates import SampleSpace, row_blocks
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import (
    Components,
    Composition,
    Pooled,
    Probed,
    Referenced,
    SideBySide,
    SparsePooled,
    SpecialToken,
    Trained,
    Truncated,
    Weighted,
)
from covjax.recipes.pairs import PairPooled

KINDS = (
    *(Pooled, PairPooled, Truncated, Referenced, SparsePooled, Trained, SpecialToken),
    *(SideBySide, Weighted, Components),
)
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

    def check(self, tokens: ArrayTokens) -> None:
        """Raise InputError for another number of features than was fitted on."""
        if tokens.features != self.features:
            raise InputError(f"activations: {tokens.features} features a token, but {self.features} were fitted on")

    def transform(self, tokens: ArrayTokens) -> Float[np.ndarray, "n k"]:
        """One vector a sequence, float32, in the order of `tokens`; InputError for another number of features."""
        self.check(tokens)
        return self._combine(pool_tokens(self.pools, tokens, self.fit, self.seed))

    def sums(self, tokens: ArrayTokens, train: np.ndarray, alpha: Float[np.ndarray, "n_train k"]) -> Sums:
        """Σ α_i v_i over the vectors v of the rows `train`, their mean and mean square, without all of them in memory.

        In a job of several processes all call this together.
        """
        sums = TrainingSums(train, alpha, self.width)
        for rows, vectors in each_vector(self.pools, tokens, self.fit, self.seed, only=train):
            sums.add(rows, self._combine(vectors))
        return sums.total()

    def _combine(self, vectors: Mapping[str, np.ndarray]) -> Float[np.ndarray, "n k"]:
        parts = [
            (vectors[name] - self.blocks[name][0]) / self.blocks[name][1] if name in self.blocks else vectors[name]
            for name in self.pools
        ]
        joint = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if self.components is not None:
            joint = joint.astype(np.float64) @ self.components[0] + self.components[1]
        return joint.astype(np.float32, copy=False)

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
    memory_gib: float | None = None,
    tables: Mapping[str, Table] | None = None,
    kernel_rows: np.ndarray | None = None,
    sketches: Mapping[str, int] | None = None,
) -> FittedRecipe:
    """Fit the last of `recipes`, the others being its parts, on the training rows; arguments as `fit_pools`.

    `seeds` are a trained recipe's other seeds, which share one training and are then left out. `memory_gib` is the
    memory that the process may take, by default a share of the machine's. `tables` are those of the parts that are made
    already, by the same pools of the same rows, in every process. `kernel_rows` are those that a part's kernel is with,
    by default the training rows. `sketches` are the sizes of the parts that are sketched.

    Raises InputError for a recipe that sees no tokens, for a mixture without shares, and as `fit_pools`.
    """
    recipe = recipes[-1]
    if isinstance(recipe, Composition):
        raise InputError(f"recipe: {recipe.name!r} counts letters and embeds no tokens")
    if isinstance(recipe, Probed):
        raise InputError(f"recipe: {recipe.name!r} is a probe of {recipe.part!r}, whose vectors are the embedding")
    beside = next((each for each in recipes if isinstance(each, SideBySide)), None)
    if isinstance(beside, Weighted) and not beside.shares:
        raise InputError(
            f"recipe: the shares of {beside.name!r} are chosen on labels; take it from a comparison's best()"
        )
    fit, pools = fit_pools([*recipes, *seeds], tokens, train, seed, folder, identity, data)
    pools = sketched({each.name: pools[each.name] for each in recipes if each.name in pools}, sketches or {})
    blocks: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if beside is not None:
        sizes, rows = widths(pools, tokens.features), train if kernel_rows is None else kernel_rows
        sums = {name: TrainingSums(rows, np.zeros((len(rows), 0)), sizes[name]) for name in parts_of(beside)}
        rest = {name: pools[name] for name in sums}
        for name in sums:
            table = None if tables is None else tables.get(name)
            if table is not None and not table.is_kernel:
                del rest[name]
                numbers = rows[share(len(rows))]
                for part in row_blocks(len(numbers), sizes[name]):
                    sums[name].add(numbers[part], table.values[numbers[part]])
            del table  # before the next one is read
        for numbers, vectors in each_vector(rest, tokens, fit, seed, only=rows) if rest else ():
            for name in rest:
                sums[name].add(numbers, vectors[name])
        blocks = {name: block_of(running.total()) for name, running in sums.items()}
    if isinstance(beside, Weighted):
        shares = dict(zip(beside.parts, beside.shares, strict=True))
        blocks = {
            name: (centre, np.asarray(scale / np.sqrt(shares[name] / beside.steps)))
            for name, (centre, scale) in blocks.items()
        }
    fitted = FittedRecipe(tuple(recipes), tokens.features, seed, fit, pools, blocks, None)
    if isinstance(recipe, Components):
        table = None if tables is None else tables.get(recipe.part)
        probe = _components(fitted, tokens, train, recipe.count, folder, memory_gib, table)
        fitted = dataclasses.replace(fitted, components=(probe.weights, probe.bias))
    return fitted


def _components(
    fitted: FittedRecipe,
    tokens: ArrayTokens,
    train: np.ndarray,
    count: int,
    folder: Path,
    memory_gib: float | None,
    table: Table | None,
) -> LinearProbe:
    """The first principal components of the fitted vectors as a linear map of these and its offset."""
    pools, fit, seed = fitted.pools, fitted.fit, fitted.seed
    if table is None and len(pools) == 1 and is_wide(fitted.width, len(train)):
        plan = plan_tables(pools, tokens, len(train), folder, memory_gib)
        made = dict(kernel_tables(pools, tokens, fit, seed, train, plan, folder))
        table = next(iter(made.values()), None)  # of process 0 alone
    elif table is None:
        table = make_table(fitted.transform(tokens), train)
    space = None if table is None else first_components(table.space(train), count)
    size = 0 if space is None else len(space.eigenvalues)
    if isinstance(space, RowSpace | SampleSpace):
        return space.probe(LinearProbe(np.eye(size), np.zeros(size)))
    # A kernel is process 0's alone, whose weights of its rows all then sum the vectors with.
    size = int(agree(np.int64(size)))
    rows = train if table is None else table.kernel_rows(train)
    dual, offset = np.zeros((len(rows), size)), np.zeros(size)
    if space is not None and table is not None:
        dual, offset = table.row_weights(space.dual), space.offset
    probe = DualProbe(*agree((dual, offset)))
    return centred_probe(probe, fitted.sums(tokens, rows, probe.alpha))


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
