"""Recipes on the latents of a sparse autoencoder of the training sequences' tokens."""

from collections.abc import Iterator

from covjax.recipes.base import BASELINE, SECOND_ORDER, Recipe, RecipeSettings, SparsePooled, recipes


@recipes
def sparse(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Mean, maximum and co-occurrence of the latents; none without `sae_latents`."""
    if not settings.sae_latents:
        return
    autoencoder = (("latents", settings.sae_latents), ("k", settings.sae_k), ("steps", settings.sae_steps))
    for name, title, role, options in (
        ("sae_mean", "SAE mean", BASELINE, ()),
        ("sae_max", "SAE max", BASELINE, ()),
        ("sae_cooccurrence", "SAE co-occurrence", SECOND_ORDER, (("pairs", settings.sae_pairs),)),
    ):
        yield SparsePooled(name=name, title=title, role=role, pooler=name, options=options, autoencoder=autoencoder)
