"""Mixtures: how much of each block, chosen on validation by ridge on sums of the blocks' kernels."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from jaxtyping import Int

from covjax.comparison.config import CompareConfig
from covjax.comparison.probing import TASKS, best_ridge_value
from covjax.comparison.tablefiles import TableFiles, load_whole
from covjax.data import Dataset
from covjax.embedding.tables import Table, block_kernel, principal_components, side_by_side
from covjax.errors import InputError
from covjax.jobs.distributed import is_first, wait
from covjax.notes import note, progress
from covjax.probes import kernel_space
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import MIXTURE, Components, Weighted

MOST_ROWS = 1024  # training rows that the choice is made with: every mixture costs an eigendecomposition of so many


def make_mixtures(config: CompareConfig, data: Dataset, tables: TableFiles, recipes: Sequence[Recipe]) -> None:
    """Put the table of every mixture and of its components to `tables`, of the other rows there; no pass over tokens.

    Those that are there are left as they are. In a job of several processes all call this together; process 0 chooses,
    makes and writes.

    Raises InputError where a part's kernel is with landmarks.
    """
    train = data.rows("train")
    for recipe in recipes if is_first() else ():
        if recipe.role != MIXTURE or load_whole(tables.find, recipe.name) is not None:
            continue
        if isinstance(recipe, Weighted):
            if any(tables[part].landmarks is not None for part in recipe.parts):
                raise InputError(
                    f"landmarks: the shares of {recipe.name!r} are chosen on all inner products; leave it out, or give "
                    "--landmarks 0, with more --max-memory-gib where they do not fit, and another --output"
                )
            recipe = chosen_mixture(recipe, tables, data, config)
            note(f"{recipe.name}: {described(recipe.parts, recipe.shares)}, chosen on validation")
        tables.put(recipe.name, mixture_table(recipe, tables, train))
    wait()


def chosen_mixture(recipe: Weighted, tables: Mapping[str, Table], data: Dataset, config: CompareConfig) -> Weighted:
    """The mixture with the shares that validation chooses; see `choose_shares`."""
    blocks = [tables[part] for part in recipe.parts]
    return dataclasses.replace(recipe, shares=choose_shares(blocks, recipe.steps, data, config))


def mixture_table(recipe: Recipe, tables: Mapping[str, Table], train: Int[np.ndarray, "n_train"]) -> Table:
    """The table of a mixture with its shares, or of a mixture's components, from those of its parts."""
    if isinstance(recipe, Components):
        return next(principal_components(tables[recipe.part], [recipe.count], train))
    assert isinstance(recipe, Weighted)
    parts, shares = parts_of(recipe), [share for share in recipe.shares if share]
    weights = [share / recipe.steps for share in shares]
    joint = side_by_side([tables[part] for part in parts], train, weights)
    return dataclasses.replace(joint, shares=recipe.shares)


def simplex(blocks: int, steps: int) -> list[tuple[int, ...]]:
    """All shares of so many blocks that sum to `steps`; those of fewer blocks, then of earlier ones, come first."""
    every = [shares for shares in product(range(steps + 1), repeat=blocks) if sum(shares) == steps]
    return sorted(every, key=lambda shares: (np.count_nonzero(shares), [-share for share in shares]))


def choose_shares(blocks: Sequence[Table], steps: int, data: Dataset, config: CompareConfig) -> tuple[int, ...]:
    """The shares whose ridge probe is best on validation, by the primary metric at the best of the penalties.

    Coarse to fine: first the mixtures in parts of 2 / `steps`, then the neighbours of the best, one part of it moved
    from one block to another. `steps` is even. Where there are more than `MOST_ROWS` training rows, as many are drawn
    with `config.seed`. Ties go to fewer blocks, and then to the earlier ones; blocks that are equal for all these rows
    get no share; where all are, the first has all of it.
    """
    train, validation = data.rows("train"), data.rows("validation")
    places = np.arange(len(train))
    if len(train) > MOST_ROWS:
        places = np.sort(np.random.default_rng(config.seed).choice(len(train), MOST_ROWS, replace=False))
    rows, n = np.concatenate([train[places], validation]), len(places)
    kernels = np.array([block_kernel(table, train)[np.ix_(rows, places)] for table in blocks])
    varied = np.array([np.ptp(kernel[:n]) > 0 for kernel in kernels])
    if not varied.any():
        return (steps, *[0] * (len(blocks) - 1))
    targets = data.targets[train[places]], data.targets[validation]

    def validation_value(shares: tuple[int, ...]) -> float:
        kernel = np.tensordot(np.array(shares, np.float32) / np.float32(steps), kernels, 1)
        return best_ridge_value(TASKS[data.task], kernel_space(kernel[:n]), kernel, *targets, config.penalties)

    fine = [shares for shares in simplex(len(blocks), steps) if not np.any(np.array(shares)[~varied])]
    values: dict[tuple[int, ...], float] = {}
    for grid in ("coarse", "fine"):
        best = max(values, key=lambda shares: values[shares], default=None)
        near = [each for each in fine if each not in values and _is_near(each, best)]
        for shares in progress(near, desc=f"{f'mix, {grid}':>12}", unit="mixture"):
            values[shares] = validation_value(shares)
    return max((shares for shares in fine if shares in values), key=lambda shares: values[shares])


def _is_near(shares: tuple[int, ...], best: tuple[int, ...] | None) -> bool:
    """Whether one part moved makes the best mixture of these shares; before there is one, whether all are even."""
    if best is None:
        return not np.any(np.array(shares) % 2)
    return int(np.abs(np.subtract(shares, best)).sum()) == 2


def described(parts: Sequence[str], shares: Sequence[int]) -> str:
    """The shares in words: `1/4 mean + 3/4 log_covariance`."""
    return " + ".join(f"{share}/{sum(shares)} {part}" for part, share in zip(parts, shares, strict=True) if share)


def resolved(recipe: Recipe, tables: Mapping[str, Table]) -> Recipe:
    """A mixture with the shares of its table; any other recipe as it is."""
    if isinstance(recipe, Weighted):
        return dataclasses.replace(recipe, shares=tables[recipe.name].shares)
    return recipe
