"""The recipes of the library, in the order of a report."""

import dataclasses
import math
from collections.abc import Iterator

from covjax.recipes.base import (
    BASELINE,
    BASES,
    COMPOSITION,
    CONTROL,
    SECOND_ORDER,
    Components,
    Composition,
    Options,
    Pooled,
    Recipe,
    RecipeSettings,
    SideBySide,
    SparsePooled,
    SpecialToken,
    Trained,
    Truncated,
    recipes,
)


@recipes
def baselines(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """First-order rows; the mean comes first, as the reference."""
    titles = {"mean": "mean", "mean_std": "mean+std", "max": "max", "first": "first", "cls": "CLS", "last": "last"}
    for name, title in titles.items():
        if name == "cls":
            yield SpecialToken(name=name, title=title, role=BASELINE)
        else:
            yield Pooled(name=name, title=title, role=BASELINE, pooler=name)


TITLES = {"sqrt_covariance": "sqrt Σ", "log_covariance": "log(Σ+εI)"}


def spectral_options(name: str, settings: RecipeSettings) -> Options:
    """The options of the spectral poolers: the floor of the spectrum."""
    return {"sqrt_covariance": (("ridge", settings.ridge),), "log_covariance": (("eps", settings.eps),)}.get(name, ())


@recipes
def whole(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Full matrices, d(d + 1)/2 numbers each."""
    for name, title in {"second_moment": "second moment M", "covariance": "covariance Σ", **TITLES}.items():
        options = spectral_options(name, settings)
        yield Pooled(name=name, title=title, role=SECOND_ORDER, pooler=name, options=options)


WIDE = 4096  # vectors with more numbers also come as principal components


@recipes
def components(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Principal components of √Σ and log(Σ+εI), if these are wide."""
    if features is not None and features * (features + 1) // 2 <= WIDE:
        return
    for name, title in TITLES.items():
        for count in settings.components:
            yield Components(
                name=f"{name}_{count}_components",
                title=f"{title}, {count} components",
                role=SECOND_ORDER,
                part=name,
                count=count,
            )


@recipes
def beside_the_mean(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """The mean and a full matrix side by side."""
    for name, title in TITLES.items():
        yield SideBySide(name=f"mean+{name}", title=f"mean + {title}", role=SECOND_ORDER, parts=("mean", name))


@recipes
def composition(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Counts of letters, k-mers or words, in one row."""
    yield Composition(name="composition", title="composition", role=COMPOSITION, k=settings.composition_k)


# The same pooler after each feature was shuffled within its sequence: {whole row: its control}.
TWINS = {name: f"shuffled_{name}" for name in ("covariance", "sqrt_covariance", "log_covariance")}
QUADRATIC = ("mean_outer", "mean+mean_outer")  # quadratic features of the mean alone
_TITLES = {"covariance": "shuffled Σ", "sqrt_covariance": "shuffled sqrt Σ", "log_covariance": "shuffled log(Σ+εI)"}


@recipes
def controls(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Quadratic features of the mean, and matrices whose co-occurrence is destroyed by shuffling."""
    yield Pooled(name="mean_outer", title="outer product μμᵀ", role=CONTROL, pooler="mean_outer")
    yield SideBySide(name="mean+mean_outer", title="mean + μμᵀ", role=CONTROL, parts=("mean", "mean_outer"))
    for name, twin in TWINS.items():
        options = spectral_options(name, settings)
        yield Pooled(name=twin, title=_TITLES[name], role=CONTROL, pooler=name, options=options, shuffled=True)


@recipes
def sparse(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Mean, maximum and co-occurrence of an autoencoder's latents; none without `sae_latents`."""
    if not settings.sae_latents:
        return
    autoencoder = (("latents", settings.sae_latents), ("k", settings.sae_k), ("steps", settings.sae_steps))
    for name, title, role, options in (
        ("sae_mean", "SAE mean", BASELINE, ()),
        ("sae_max", "SAE max", BASELINE, ()),
        ("sae_cooccurrence", "SAE co-occurrence", SECOND_ORDER, (("pairs", settings.sae_pairs),)),
    ):
        yield SparsePooled(name=name, title=title, role=role, pooler=name, options=options, autoencoder=autoencoder)


LIGHT_WIDTH = 64  # a convolution over more channels costs more than all other rows together


@recipes
def trained(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Pools trained on labels (attention, light attention, a learned projection, …), each with every seed."""
    training = (
        ("steps", settings.steps),
        ("learning_rates", settings.learning_rates),
        ("weight_decays", settings.weight_decays),
    )
    light = None if features is not None and features <= LIGHT_WIDTH else LIGHT_WIDTH
    rank = 32 if features is None else min(32, features)
    slices = (("slices", 64), ("points", 8))
    learned: dict[str, tuple[str, str, str, Options, int | None]] = {
        "attention": ("attention", "attention", BASELINE, (("heads", 1),), None),
        "light_attention": ("light_attention", "light attention", BASELINE, (("kernel_size", 9),), light),
        "projected": ("projected", "projected (learned)", SECOND_ORDER, (("rank", rank),), None),
        "learned_sliced_wasserstein": ("sliced_wasserstein", "sliced Wasserstein (learned)", BASELINE, slices, None),
    }
    for queries in (4, 16):
        several = (("heads", 1), ("queries", queries))
        title = f"attention, {queries} queries"
        learned[f"attention_{queries}_queries"] = ("attention", title, BASELINE, several, None)
    for name in settings.trained:
        pooler, title, role, options, width = learned[name]
        first, *others = settings.seeds
        recipe = Trained(
            name=name,
            title=title,
            role=role,
            pooler=pooler,
            options=options,
            training=training,
            seed=first,
            width=width,
        )
        yield recipe
        for seed in others:
            yield dataclasses.replace(
                recipe, name=f"{name}_seed_{seed}", title=f"{title}, seed {seed}", seed=seed, replica_of=name
            )


# Families of truncated rows: the pooler's spectral function, the symbol shown, the whole matrix.
KINDS: dict[str, tuple[str | None, str, str]] = {
    "covariance": (None, "Σ", "covariance"),
    "sqrt_covariance": ("sqrt", "√Σ", "sqrt_covariance"),
}
FAMILIES: dict[str, str] = {
    f"{basis}_{kind}": whole for basis in BASES for kind, (_, _, whole) in KINDS.items()
}  # family: whole row


def matched_rank(features: int) -> int:
    """The largest r whose r(r + 1)/2 numbers are at most `features`: a covariance of the mean's size."""
    return (math.isqrt(8 * features + 1) - 1) // 2


@recipes
def truncated(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Covariances in every basis, at every rank, including the rank at which they have as many numbers as the mean."""
    ranks = sorted({*settings.ranks, *([] if features is None else [matched_rank(features)])} - {features})
    for basis in (basis for basis in BASES if basis in settings.bases):
        for kind, (spectral, symbol, _) in KINDS.items():
            for rank in ranks:
                yield Truncated(
                    name=f"{basis}_{kind}_{rank}",
                    title=f"{BASES[basis]}-{symbol} rank {rank}",
                    role=SECOND_ORDER,
                    family=f"{basis}_{kind}",
                    rank=rank,
                    pooler="projected_covariance",
                    options=() if spectral is None else (("spectral", spectral), ("ridge", settings.ridge)),
                    basis=basis,
                )
