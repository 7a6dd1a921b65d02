"""What a recipe is: a way to turn the tokens of a sequence into one vector, and a row of a comparison."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from covjax.errors import InputError, shown
from covjax.options import at_least, option

BASELINE, SECOND_ORDER, CONTROL, COMPOSITION = "baseline", "second order", "control", "composition"
MIXTURE = "mixture"  # of blocks of first and second order, with shares chosen on labels: evidence of neither
ROLES = (BASELINE, SECOND_ORDER, CONTROL, COMPOSITION, MIXTURE)
BASES = {"pca": "PCA", "tucker": "Tucker", "random": "random"}  # name: what a report calls it
TRAINED = ("attention", "light_attention", "projected")
TRAINABLE = (*TRAINED, "attention_4_queries", "attention_16_queries", "learned_sliced_wasserstein")
Options = tuple[tuple[str, Any], ...]


def _positive(values: tuple[int, ...]) -> bool:
    return all(value >= 1 for value in values)


def _distinct(values: tuple) -> bool:
    return len(set(values)) == len(values)


@dataclasses.dataclass(frozen=True)
class RecipeSettings:
    """Settings that all recipes of a comparison share, with the defaults of reports and of `Embedder`."""

    ranks: tuple[int, ...] = option(
        (4, 8, 16, 32),
        "ranks of the truncated covariance; the one with as many numbers as the mean is added",
        allowed=lambda ranks: _positive(ranks) and _distinct(ranks),
        rule="distinct, >= 1",
    )
    bases: tuple[str, ...] = option(
        ("pca",),
        "bases of the truncated covariance: pca, tucker (optimised, starting from pca) or random",
        allowed=lambda bases: set(bases) <= set(BASES) and _distinct(bases),
        rule=f"distinct names among {', '.join(BASES)}",
    )
    components: tuple[int, ...] = option(
        (256, 1024),
        "principal components kept of full matrices with more than 4,096 numbers",
        allowed=_positive,
        rule=">= 1",
    )
    ridge: float = option(
        1e-6, "added to the eigenvalues before the square root", allowed=lambda ridge: ridge >= 0, rule=">= 0"
    )
    eps: float = option(0.01, "ε of log(Σ+εI), on standardised tokens", allowed=lambda eps: eps > 0, rule="> 0")
    composition_k: int = option(
        1,
        "length of the k-mers that the composition baseline counts; in text it counts words",
        allowed=lambda k: 1 <= k <= 6,
        rule="1 to 6",
    )
    trained: tuple[str, ...] = option(
        TRAINED,
        "pools trained on the task, then frozen and probed like the rest",
        allowed=lambda names: set(names) <= set(TRAINABLE),
        rule=f"names among {', '.join(TRAINABLE)}",
    )
    sae_latents: int = option(
        0,
        "latents of a TopK sparse autoencoder of the tokens, whose pools are compared too; 0: none",
        allowed=lambda latents: latents >= 0,
        rule=">= 0",
    )
    sae_k: int = option(
        16, "active latents of that autoencoder for each token", allowed=lambda k: k >= 1, rule="1 to sae_latents"
    )
    sae_steps: int = option(500, "training steps of that autoencoder, each on 2,048 training tokens", **at_least(1))
    sae_pairs: int = option(
        2048,
        "pairs of latents whose co-occurrence is pooled, the most frequent ones",
        **at_least(1),
    )
    steps: int = option(
        200,
        "training steps of every trained pool, each on about token_budget / 4 tokens",
        **at_least(1),
    )
    learning_rates: tuple[float, ...] = option(
        (3e-3,),
        "AdamW rates tried on validation for every trained pool",
        allowed=lambda rates: bool(rates) and all(rate > 0 for rate in rates),
        rule="> 0",
    )
    weight_decays: tuple[float, ...] = option(
        (1e-2, 1.0),
        "AdamW weight decays tried on validation for every trained pool",
        allowed=lambda decays: bool(decays) and all(decay >= 0 for decay in decays),
        rule=">= 0",
    )
    seeds: tuple[int, ...] = option(
        (0, 1, 2),
        "seeds of every trained pool; the table shows their mean",
        allowed=lambda seeds: bool(seeds) and _distinct(seeds),
        rule="distinct, at least one",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to embed a sequence, with a name that is the same everywhere and its role in a comparison.

    `name` is ASCII; `title` is the name in reports. Rows of one `family` differ only in `rank`. An `optional` recipe is
    compared only if `--rows` names it.
    """

    name: str
    title: str
    role: str
    family: str = ""
    rank: int | None = None
    optional: bool = dataclasses.field(default=False, repr=False)  # decides no number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooled(Recipe):
    """`covjax.get_pooler(pooler, **options)` on standardised tokens; `shuffled` first permutes every feature."""

    pooler: str
    options: Options = ()
    shuffled: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truncated(Pooled):
    """A pooler of the tokens, projected on `rank` columns of a basis: pca, tucker or random."""

    basis: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Referenced(Pooled):
    """A pooler with options that are arrays, fitted on the training tokens without labels.

    `reference` is the name of what is fitted (`covjax.embedding.references`), `fitting` its options.
    """

    reference: str
    fitting: Options = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparsePooled(Pooled):
    """A pooler of a sparse autoencoder's latents; it is trained without labels, with the options `autoencoder`."""

    autoencoder: Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(Pooled):
    """A pooler with parameters, trained on labels; if `width` is given, on that many principal components.

    `training` holds the steps and the grid, `seed` sets the start. If this repeats a row with another seed,
    `replica_of` names that row.
    """

    training: Options
    seed: int = 0
    width: int | None = None
    replica_of: str = ""


def row_name(recipe: Recipe) -> str:
    """The row that a recipe belongs to: its own name, or that of the row it repeats with another seed."""
    return (recipe.replica_of if isinstance(recipe, Trained) else "") or recipe.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialToken(Recipe):
    """The model's own special token before the sequence (CLS)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SideBySide(Recipe):
    """Other recipes' vectors side by side, each scaled to unit root-mean-square norm on the training sequences."""

    parts: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(SideBySide):
    """Other recipes' vectors side by side, each weighted by a share that is chosen on validation.

    `shares` has a whole number for each of `parts`, in units of 1 / `steps`; they sum to `steps`. It is empty until the
    shares are chosen.
    """

    steps: int
    shares: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components(Recipe):
    """The first `count` principal components of another recipe's vectors, fitted on the training sequences."""

    part: str
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed(Recipe):
    """Another recipe's vectors with a nonlinear probe: `probe` is rbf (a radial kernel) or mlp (a small network)."""

    part: str
    probe: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Composition(Recipe):
    """How often every k-mer of a sequence, or every word of a text, occurs; it does not use tokens."""

    k: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Covariates(Recipe):
    """Columns of numbers in the table; it does not use tokens."""

    columns: tuple[str, ...]


def parts_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the recipes that this one is made of; for a mixture with known shares, only those with a share."""
    if isinstance(recipe, Weighted) and recipe.shares:
        return tuple(part for part, share in zip(recipe.parts, recipe.shares, strict=True) if share)
    if isinstance(recipe, SideBySide):
        return recipe.parts
    return (recipe.part,) if isinstance(recipe, Components | Probed) else ()


def with_parts(name: str, by_name: Mapping[str, Recipe]) -> tuple[Recipe, ...]:
    """The recipe of that name, preceded by all recipes that it is made of, each once."""
    recipe = by_name[name]
    every = [each for part in parts_of(recipe) for each in with_parts(part, by_name)]
    return tuple(dict.fromkeys([*every, recipe]))


# Makes recipes for encoders of that many features a token; None where the number is not known yet.
Factory = Callable[[RecipeSettings, int | None], Iterator[Recipe]]
_FACTORIES: list[Factory] = []


def recipes(factory: Factory) -> Factory:
    """Register a function `(settings, features) -> recipes`; a file in `covjax/recipes/` with one adds rows.

    `features` is the number of features per token, or None if it is not known yet.
    """
    _FACTORIES.append(factory)
    return factory


def all_recipes(settings: RecipeSettings, features: int | None = None) -> tuple[Recipe, ...]:
    """Every recipe with these settings, by role and then in the order of registration.

    Of the default ranks those above `features` are left out. Raises InputError for such a rank that was asked for.
    """
    if features is not None and (large := [rank for rank in settings.ranks if rank > features]):
        if settings.ranks != RecipeSettings.ranks:
            raise InputError(f"ranks: {large[0]} is more than the encoder's {features} features")
        settings = dataclasses.replace(settings, ranks=tuple(rank for rank in settings.ranks if rank <= features))
    every = [recipe for factory in _FACTORIES for recipe in factory(settings, features)]
    return tuple(sorted(every, key=lambda recipe: ROLES.index(recipe.role)))


def unknown_recipe(argument: str, name: object, known: Iterable[Recipe]) -> InputError:
    """The error for a name that is not a recipe's: it shows the name, the nearest names, and all families."""
    known = list(known)
    near = difflib.get_close_matches(str(name), [recipe.name for recipe in known], 3, 0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ";"
    every = dict.fromkeys(f"{recipe.family}_RANK" if recipe.family else recipe.name for recipe in known)
    return InputError(f"{argument}: {shown(name, 60)} is not one of the recipes{hint} there are {', '.join(every)}")
