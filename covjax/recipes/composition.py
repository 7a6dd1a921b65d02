"""The recipe that never sees the encoder: letters, k-mers or words counted."""

from collections.abc import Iterator

from covjax.recipes.base import COMPOSITION, Composition, Recipe, RecipeSettings, recipes


@recipes
def composition(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """One row."""
    yield Composition(name="composition", title="composition", role=COMPOSITION, k=settings.composition_k)
