"""Features of every row, composition among them, made once and found again."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax.activations import ArrayTokens
from covjax.activations.pairs import both_sides
from covjax.comparison.config import RETRIEVAL, CompareConfig
from covjax.comparison.tablefiles import TableFiles, find_complete
from covjax.data import Dataset
from covjax.embedding.conjugate import conjugate_table
from covjax.embedding.kernels import factor_columns, factored
from covjax.embedding.landmarks import LandmarkPlan, draw_landmarks, landmark_tables, plan_landmarks, sketch_tables
from covjax.embedding.passes import pool_tokens
from covjax.embedding.plan import GIB, RUNTIME, TooLittleMemory, cg_pays, pool_groups
from covjax.embedding.pools import FittedPool, expected_widths, fit_pools, unfitted_pools, widths
from covjax.embedding.tables import WIDE, Landmarks, Table, make_table, principal_components, side_by_side
from covjax.embedding.wide import is_wide, kernel_sizes, kernel_tables, plan_settled, plan_tables, settled_bytes
from covjax.errors import InputError
from covjax.jobs.distributed import is_first, wait
from covjax.notes import note
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import (
    MIXTURE,
    Components,
    Composition,
    Covariates,
    Pooled,
    Probed,
    SideBySide,
    SpecialToken,
    row_name,
)

MIN_COUNT = 2  # training occurrences of a word; one that occurs once can only be remembered


def kmer_frequencies(sequences: tuple[str, ...], k: int) -> Float[np.ndarray, "sequences kmers"]:
    """Share of every k-mer over the letters that occur in the data, each row summing to 1 (0 if shorter than k)."""
    letters = sorted(set().union(*sequences))
    column = {"".join(kmer): j for j, kmer in enumerate(product(letters, repeat=k))}
    table = np.zeros((len(sequences), len(column)), np.float32)
    for i, sequence in enumerate(sequences):
        counts = Counter(sequence[j : j + k] for j in range(len(sequence) - k + 1))
        for kmer, count in counts.items():
            table[i, column[kmer]] = count / max(len(sequence) - k + 1, 1)
    return table


def word_frequencies(
    sequences: tuple[str, ...], train_rows: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "sequences words"]:
    """Share of every known word among all words of the text: the bag of words, without weights.

    A word is a run of letters, digits and underscores, or a single other sign; case does not count. Known are the words
    that occur at least twice in the texts of `train_rows`, in alphabetical order; the others count in the length, so a
    row sums to at most 1.

    Raises InputError where no word occurs twice.
    """
    bags = [Counter(re.findall(r"\w+|[^\w\s]", sequence.lower())) for sequence in sequences]
    total: Counter[str] = Counter()
    for i in train_rows:
        total.update(bags[i])
    column = {word: j for j, word in enumerate(sorted(word for word, n in total.items() if n >= MIN_COUNT))}
    if not column:
        raise InputError(f"sequences: no word occurs {MIN_COUNT} times in the {len(train_rows)} training texts")
    table = np.zeros((len(sequences), len(column)), np.float32)
    for i, bag in enumerate(bags):
        for word, count in bag.items():
            if word in column:
                table[i, column[word]] = count / bag.total()
    return table


Tables = Mapping[str, Table]


def make_features(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: tuple[Recipe, ...],
    output: Path,
    manifest: dict[str, Any],
    every: tuple[Recipe, ...] | None = None,
) -> TableFiles:
    """The table of every recipe by name; complete checkpoints in `output/features` are reused.

    Those of mixtures are made by `covjax.comparison.mixtures`. `every` are all rows of the comparison, which decide how
    wide ones are compared; by default those of `recipes`.

    In a job of several processes all make the features of their own sequences and call this together; process 0 makes
    the tables and writes them, and all return them.
    A checkpoint made under another manifest is refused with the difference. Before the encoder runs, InputError is
    raised if there is too little memory for exact tables and nothing may take their place.
    """
    every = recipes if every is None else every
    folder, by_name = output / "features", {recipe.name: recipe for recipe in recipes}
    mixtures = [recipe for recipe in recipes if recipe.role == MIXTURE]
    train, memory = data.rows("train"), config.memory_gib * GIB
    ridge_alone = data.task == "regression" or config.probes == ("ridge",)
    ridge_alone = ridge_alone and not any(isinstance(recipe, Components) for recipe in every)
    sizes = expected_widths(every, tokens.features)

    def pays() -> bool:
        allowed = ridge_alone and config.protocol != RETRIEVAL
        return allowed and cg_pays(factor_columns(tokens), tokens.features, len(train))

    def route(given: int | None, solver: str, memory: float) -> LandmarkPlan:
        size = len(data), len(train), tokens.features, memory, settled_bytes(tokens, memory) - RUNTIME
        makes_kernels = partial(_makes_kernels, every, sizes, tokens, len(train), memory, output)
        return plan_landmarks(given, *size, solver, pays, makes_kernels, max(sizes.values(), default=0))

    plan = route(config.landmarks, config.solver, memory)
    landmarks: Landmarks | None = None
    if plan.count:
        drawn = (0, plan.sample) if plan.solver == "sketch" else (plan.count, None)
        landmarks = draw_landmarks(drawn[0], train, data.rows("validation"), config.seed, drawn[1])

    def expected(name: str) -> dict[str, Any]:
        penalties = {"penalties": list(config.penalties)} if by_name[name] in mixtures else {}  # they chose the shares
        return manifest | {"row": repr(by_name[name])} | penalties

    spare = max(plan.room - 2 * plan.most_bytes(len(data), sizes.values()), 0)  # beside two that probes are fitted on
    tables = TableFiles(folder, list(by_name), expected, landmarks, min(memory / 4, spare), plan.solver, plan.count)
    to_find = [name for name in by_name if by_name[name] not in mixtures]
    missing = find_complete(to_find, lambda name: None if tables.find(name) is None else True)[1]
    complete = [by_name[name] for name in to_find if name not in missing]
    if config.landmarks or config.solver not in ("auto", "kernel"):
        wide = [recipe.name for recipe in complete if plan.covers(sizes.get(recipe.name, 0))]
        if exact := [name for name in wide if not tables[name].solver]:
            note(f"plan: {', '.join(exact)}: exact in {folder}, where an earlier run made them, and reused so")
    if not missing:
        note(f"features: all {len(to_find)} complete in {folder}, reused")
    else:
        note(f"features: {len(to_find) - len(missing)} complete and reused, {len(missing)} to make")
        to_make = [by_name[name] for name in missing]
        through = [name for name in missing if plan.covers(sizes.get(name, 0))]
        needed = partial(_least_gib, lambda gib: not route(None, "auto", gib * GIB).count, config.memory_gib)
        _refuse_landmarks(config, plan, through, to_make, mixtures, ridge_alone, needed)
        others = {name: sizes[name] for name in missing if name in sizes and name not in through}
        _plan_exact(to_make, others, tokens, len(train), memory, output)
        _refuse_unsolved(to_make, complete, tables.find, folder)
        args = config, data, tokens, [*to_make, *mixtures], output, manifest, plan, landmarks
        for name, table in _pooled(*args, tables.find, recipes):
            tables.put(name, table)
            del table  # before the next one is made
        for recipe in to_make if is_first() else ():
            if isinstance(recipe, Composition):
                tables.put(recipe.name, _composition(recipe, data, tokens.kind))
            elif isinstance(recipe, Covariates):
                tables.put(recipe.name, _covariates(data))
            elif isinstance(recipe, Probed):
                tables.put(recipe.name, dataclasses.replace(tables[recipe.part], probe=recipe.probe))
            elif isinstance(recipe, Components):
                same = [each for each in to_make if isinstance(each, Components) and each.part == recipe.part]
                if recipe is same[0]:  # one eigendecomposition for all of them
                    whole, counts = side_by_side([tables[recipe.part]], train), [each.count for each in same]
                    for table, each in zip(principal_components(whole, counts, train), same):
                        tables.put(each.name, table)
                    del whole  # before the parts of the next one are read
            elif parts := parts_of(recipe):
                tables.put(recipe.name, side_by_side([tables[part] for part in parts], train))
    wait()
    return tables


def _refuse_landmarks(
    config: CompareConfig,
    plan: LandmarkPlan,
    through: list[str],
    to_make: list[Recipe],
    mixtures: list[Recipe],
    ridge_alone: bool,
    needed: Callable[[], float],
) -> None:
    """InputError, before the encoder runs, where landmarks stand for training rows whose inner products are needed.

    `through` are the recipes that they are for; `needed` gives the limit in GiB under which there are none.
    """

    def remedy() -> str:
        if config.landmarks:
            return "leave --landmarks out"
        if config.solver != "auto":
            return f"leave --solver {config.solver} out"
        return f"give --max-memory-gib {needed():g}, or leave the row out"

    if through and plan.solver == "cg" and config.protocol != RETRIEVAL and not ridge_alone:
        components = [recipe.name for recipe in to_make if isinstance(recipe, Components)]
        what = (
            f"not the principal components of {components[0]!r}; leave the row out"
            if components
            else "not logistic; add --probes ridge"
        )
        raise InputError(f"solver: cg fits ridge alone, {what}, or use --solver landmarks")
    if through and config.protocol == RETRIEVAL:
        raise InputError(
            f"landmarks: retrieval needs all inner products of {through[0]!r}, not {plan.count:,}; {remedy()}"
        )
    for recipe in mixtures:
        if parts := [part for part in parts_of(recipe) if part in through]:
            raise InputError(f"landmarks: {recipe.name!r} needs all inner products of {parts[0]!r}; {remedy()}")


def _plan_exact(
    recipes: Iterable[Recipe], sizes: Mapping[str, int], tokens: ArrayTokens, train: int, memory: float, folder: Path
) -> None:
    """Plan the kernels of vectors of `sizes` numbers that need it; raises TooLittleMemory, before the encoder runs."""
    names = factored(unfitted_pools(list(recipes)))
    if wide := kernel_sizes(sizes, names, len(tokens), train):
        plan_settled(wide, names, tokens, train, folder, memory, _kernels(sizes, recipes, len(tokens), train, memory))


def _makes_kernels(*arguments: Any) -> bool:
    """Whether there is memory for `_plan_exact`."""
    try:
        _plan_exact(*arguments)
    except TooLittleMemory:
        return False
    return True


def _kernels(sizes: Mapping[str, int], recipes: Iterable[Recipe], sequences: int, train: int, memory: float) -> int:
    """How many kernels are in memory at the end; the others lie in files."""
    wide = {name for name, size in sizes.items() if is_wide(size, train)}
    most = len(wide) + sum(not wide.isdisjoint(parts_of(recipe)) for recipe in recipes)
    return min(most, 1 + int(memory / 4 // (4 * sequences * train)))


def _least_gib(fits: Callable[[float], bool], gib: float) -> float:
    """About the least memory from `gib` on that fits."""
    while not fits(gib):
        gib = math.ceil(10.5 * gib) / 10
    return gib


def _refuse_unsolved(
    to_make: list[Recipe], complete: list[Recipe], find: Callable[[str], Table | None], folder: Path
) -> None:
    """InputError where a row would be beside conjugate gradients that an earlier run ended without solving it."""
    there = {recipe.name for recipe in complete}
    for recipe in to_make:
        for part in there.intersection(parts_of(recipe)):
            table = find(part)
            directions = None if table is None else table.directions
            if directions is not None and recipe.name not in directions.beside:
                raise InputError(
                    f"rows: {part!r} in {folder} was solved by conjugate gradients without {recipe.name!r}; leave the "
                    "row out, or use --output OTHER"
                )


def _pooled(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: list[Recipe],
    output: Path,
    manifest: dict[str, Any],
    plan: LandmarkPlan,
    landmarks: Landmarks | None,
    find: Callable[[str], Table | None],
    every: tuple[Recipe, ...],
) -> Iterator[tuple[str, Table]]:
    """The table of every recipe on tokens, process 0 alone; wide ones are spent before the next group is pooled.

    `find` gives the tables that the folder has, and those yielded, of `every` recipe.
    """
    on_tokens = [recipe for recipe in recipes if isinstance(recipe, Pooled | SpecialToken)]
    if not on_tokens:
        return
    train = data.rows("train")
    identity: dict[str, Any] = {key: manifest[key] for key in ("data", "encoder") if key in manifest}
    rows = {row_name(recipe) for recipe in on_tokens}
    to_fit = [recipe for recipe in every if row_name(recipe) in rows]  # all seeds of a row, which share one training
    fit, pools = fit_pools(to_fit, tokens, train, config.seed, output / "pools", identity, data)
    pools = {recipe.name: pools[recipe.name] for recipe in on_tokens}
    sizes = {name: size for name, size in widths(pools, tokens.features).items() if not plan.covers(size)}
    many = {name: pool for name, pool in pools.items() if name not in sizes}
    if wide := {name: pools[name] for name in kernel_sizes(sizes, factored(pools), len(data), len(train))}:
        count = _kernels(sizes, recipes, len(data), len(train), config.memory_gib * GIB)
        kernels = plan_tables(wide, tokens, len(train), output, config.memory_gib, count)
    if many:
        note(f"plan: {_route(plan, len(many), len(data), config)}")
    elif config.landmarks or config.solver not in ("auto", "kernel"):
        reason = (
            f"none has more than {max(WIDE, plan.widest):,} numbers"
            if plan.count
            else f"there are {len(train):,} training sequences"
        )
        solver = "landmarks" if config.solver == "auto" else config.solver
        note(f"plan: no recipe through {solver}: {reason}")
    gib = min(config.max_features_gib, config.memory_gib / 4)
    for group in pool_groups({name: size for name, size in sizes.items() if name not in wide}, len(data), gib):
        chosen: dict[str, FittedPool] = {name: pools[name] for name in group}
        features = pool_tokens(chosen, tokens, fit, config.seed)
        for name in group if is_first() else ():
            yield name, make_table(features.pop(name), train)
    if wide:
        yield from kernel_tables(wide, tokens, fit, config.seed, train, kernels, output)
    if not many:
        return
    assert landmarks is not None
    if plan.solver == "sketch":
        yield from sketch_tables(many, tokens, fit, config.seed, plan.count, landmarks)
    elif plan.solver == "landmarks":
        yield from landmark_tables(many, tokens, fit, config.seed, landmarks, plan.room)
    targets = data.targets[train].astype(np.float64)
    for name, pool in many.items() if plan.solver == "cg" else ():
        table = dict(landmark_tables({name: pool}, tokens, fit, config.seed, landmarks, plan.room)).get(name)
        beside: dict[str, Table] = {}
        for row in every:
            others = [part for part in parts_of(row) if part != name]
            pairs = isinstance(row, SideBySide) and name in row.parts and len(others) == 1 and others[0] not in many
            if pairs and (other := find(others[0])) is not None:
                beside[row.name] = other
        table = conjugate_table(
            *(name, pool, tokens, fit, config.seed, train, targets, config.penalties, table),
            *(beside, plan.room),
        )
        if table is not None:
            yield name, table


def _route(plan: LandmarkPlan, recipes: int, sequences: int, config: CompareConfig) -> str:
    """What a plan does with wide recipes, and why where it was not told to."""
    text = {
        "landmarks": f"{recipes} recipes through {plan.count:,} of {plan.train:,} training sequences (Nyström)",
        "sketch": f"{recipes} recipes through count sketches of {plan.count:,} numbers",
        "cg": f"{recipes} recipes by conjugate gradients (exact ridge), two passes over the tokens a step, "
        f"preconditioned by {plan.count:,} of {plan.train:,} training sequences",
    }[plan.solver]
    if config.landmarks is None and config.solver == "auto":
        text += f": {sequences:,} sequences are too many for exact ones in {config.memory_gib:.2g} GiB"
    return text


def _composition(recipe: Composition, data: Dataset, pair: str) -> Table:
    """Shares of letters or words; of pairs their difference, or `both_sides` of them, as the pools have it."""
    train = data.rows("train")
    sequences, counted = data.sequences + data.partners, train
    if data.partners:
        counted = np.concatenate([train, train + len(data)])
    counts = word_frequencies(sequences, counted) if data.is_text else kmer_frequencies(sequences, recipe.k)
    if pair:
        first, second = np.split(counts, 2)
        counts = np.asarray(both_sides(first, second)) if pair == "both" else second - first
    return make_table(counts, train)


def _covariates(data: Dataset) -> Table:
    """The covariates, each less its training mean, over its training deviation: their units would decide otherwise."""
    assert data.covariates is not None
    train = data.rows("train")
    known = data.covariates[train]
    scale = np.where(known.max(0) > known.min(0), known.std(0), 1.0)  # the deviation of equal numbers is their rounding
    return make_table(((data.covariates - known.mean(0)) / scale).astype(np.float32), train)
