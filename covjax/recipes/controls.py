"""Recipes that tell co-occurrence from what only looks like it."""

from collections.abc import Iterator

from covjax.recipes.base import CONTROL, Pooled, Recipe, RecipeSettings, SideBySide, recipes
from covjax.recipes.second_order import spectral_options

# The same pooler after each feature was shuffled within its sequence: {whole row: its control}.
TWINS = {name: f"shuffled_{name}" for name in ("covariance", "sqrt_covariance", "log_covariance")}
QUADRATIC = ("mean_outer", "mean+mean_outer")  # quadratic features of the mean alone
_TITLES = {"covariance": "shuffled Σ", "sqrt_covariance": "shuffled sqrt Σ", "log_covariance": "shuffled log(Σ+εI)"}


@recipes
def controls(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Quadratic features of the mean, and matrices whose co-occurrence was destroyed."""
    yield Pooled(name="mean_outer", title="outer product μμᵀ", role=CONTROL, pooler="mean_outer")
    yield SideBySide(name="mean+mean_outer", title="mean + μμᵀ", role=CONTROL, parts=("mean", "mean_outer"))
    for name, twin in TWINS.items():
        options = spectral_options(name, settings)
        yield Pooled(name=twin, title=_TITLES[name], role=CONTROL, pooler=name, options=options, shuffled=True)
