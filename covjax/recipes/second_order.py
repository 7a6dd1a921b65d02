"""Recipes of second order on whole matrices: M, Σ, √Σ and log(Σ+εI)."""

from collections.abc import Iterator

from covjax.recipes.base import SECOND_ORDER, Options, Pooled, Recipe, RecipeSettings, recipes

TITLES = {"sqrt_covariance": "sqrt Σ", "log_covariance": "log(Σ+εI)"}


def spectral_options(name: str, settings: RecipeSettings) -> Options:
    """What the spectral poolers are given: the floor of the spectrum."""
    return {"sqrt_covariance": (("ridge", settings.ridge),), "log_covariance": (("eps", settings.eps),)}.get(name, ())


@recipes
def whole(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Whole matrices, d(d + 1)/2 numbers each."""
    for name, title in {"second_moment": "second moment M", "covariance": "covariance Σ", **TITLES}.items():
        options = spectral_options(name, settings)
        yield Pooled(name=name, title=title, role=SECOND_ORDER, pooler=name, options=options)
