"""A factored readout of the projected second moment: each unit one rank-1 quadratic form, far fewer weights than r²."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.pooling.learned import check_sizes, projection
from covjax.projected import projected_moment


class BilinearReadout(nnx.Module):
    """feat_h = a_hᵀ C b_h with C = (XA)ᵀ(XB)/n, everything learned; a pooler of `units` numbers.

    `tied` sets B = A (C symmetric, a_h and b_h still apart); `center` is None or "sequence" (C = AᵀΣB).
    """

    name = "bilinear_readout"
    permutation_invariant = True

    def __init__(
        self,
        features: int,
        rank: int = 32,
        units: int = 128,
        tied: bool = True,
        center: str | None = "sequence",
        seed: int = 0,
    ):
        check_sizes(features=features, rank=rank, units=units)
        if center not in (None, "sequence"):
            raise InputError(f"center must be None or 'sequence', got {center!r}")
        rngs = nnx.Rngs(seed)

        def random(rows: int, columns: int) -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), (rows, columns)) / columns**0.5)

        self.left = projection(rngs, features, rank)
        self.right = None if tied else projection(rngs, features, rank)
        self.a, self.b = random(units, rank), random(units, rank)
        self.center = center

    def __call__(
        self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None
    ) -> Float[Array, "units"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        right = None if self.right is None else self.right[...]
        c = projected_moment(x, self.left[...], right, weights, center=self.center)
        left = jnp.matmul(self.a[...], c, precision=jax.lax.Precision.HIGHEST)
        return jnp.sum(left * self.b[...], axis=1)
