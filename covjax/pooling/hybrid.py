"""Several poolers side by side."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.moments import Moments
from covjax.pooling.base import Pooler, get_pooler, moment_function, register


class Hybrid(nnx.Module):
    """The parts' vectors one after the other."""

    def __init__(self, parts: Sequence[Pooler]):
        self.parts = nnx.List(parts)
        self.name = "+".join(part.name for part in parts)
        self.permutation_invariant = all(part.permutation_invariant for part in parts)

    def __call__(
        self, x: Float[Array, "tokens features"], weights: Float[Array, "tokens"] | None = None
    ) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`)."""
        return jnp.concatenate([part(x, weights) for part in self.parts])

    @property
    def of_moments(self) -> Callable[[Moments], Float[Array, "k"]] | None:
        """See `covjax.pooling.base.moment_function`; None where one part needs the tokens."""
        functions = [moment_function(part) for part in self.parts]
        known = [function for function in functions if function is not None]
        return None if len(known) < len(functions) else lambda m: jnp.concatenate([each(m) for each in known])


@register("hybrid")
def hybrid(*, parts: Sequence[str | Pooler]) -> Hybrid:
    """Concatenate poolers given by name (default options) or as poolers; size: the sum of the parts'."""
    if isinstance(parts, str) or not parts:
        raise InputError(f"parts must be a non-empty list of pooler names or poolers, got {parts!r}")
    return Hybrid([get_pooler(part) if isinstance(part, str) else part for part in parts])
