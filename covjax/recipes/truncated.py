"""Recipes of second order on few directions: Σ and √Σ in a basis fitted without labels, at several ranks."""

import math
from collections.abc import Iterator

from covjax.recipes.base import BASES, SECOND_ORDER, Recipe, RecipeSettings, Truncated, recipes

# Families of truncated rows: the pooler's spectral function, the symbol shown, the whole matrix.
KINDS = {"covariance": (None, "Σ", "covariance"), "sqrt_covariance": ("sqrt", "√Σ", "sqrt_covariance")}
FAMILIES = {f"{basis}_{kind}": whole for basis in BASES for kind, (_, _, whole) in KINDS.items()}  # family: whole row


def matched_rank(features: int) -> int:
    """The largest r whose r(r + 1)/2 numbers are at most `features`: a covariance of the mean's size."""
    return (math.isqrt(8 * features + 1) - 1) // 2


@recipes
def truncated(settings: RecipeSettings, features: int | None) -> Iterator[Recipe]:
    """Every basis, symbol and rank; the rank whose numbers are as many as the mean's among them."""
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
