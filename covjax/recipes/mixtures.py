"""Mixtures of other rows, with shares chosen on validation: a row meant to be near the best on every task."""

from collections.abc import Iterator

from covjax.recipes.base import MIXTURE, Components, Recipe, RecipeSettings, Weighted, recipes
from covjax.recipes.rivals import BINS
from covjax.recipes.standard import WIDE

PARTS = ("mean", "regional_mean", "sqrt_covariance", "log_covariance")
STEPS = 4  # shares are quarters: 35 mixtures of four blocks


@recipes
def auto(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """The mixture and, where it may be wide, its principal components."""
    yield Weighted(name="auto", title="auto", role=MIXTURE, parts=PARTS, steps=STEPS, optional=True)
    if features is not None and features * (features + 1 + 1 + BINS) <= WIDE:
        return
    for count in settings.components:
        title = f"auto, {count} components"
        name = f"auto_{count}_components"
        yield Components(name=name, title=title, role=MIXTURE, part="auto", count=count, optional=True)
