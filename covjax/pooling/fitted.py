"""Poolers around arrays that were fitted on other tokens: a whitening, centres, a mixture, a bandwidth."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from covjax.moments import Moments
from covjax.pooling.learned import check_features
from covjax.tokens import TokensLike, WeightsLike, prepare_tokens


class Reference(nnx.Variable[Array]):
    """An array fitted beforehand: saved with the pooler, not trained."""


class FittedPooler(nnx.Module):
    """`function(x, w, **arrays, **options)` on checked, masked tokens; every array is an attribute of its own name.

    `from_moments(moments, **arrays, **options)` is the same of the tokens' moments, where that is possible.
    """

    permutation_invariant = True

    def __init__(
        self,
        name: str,
        function: Callable[..., Array],
        arrays: Mapping[str, Any],
        features: int | None = None,
        from_moments: Callable[..., Array] | None = None,
        **options: Any,
    ):
        self.name, self.function, self.features = name, function, features
        self.from_moments, self.arrays, self.options = from_moments, tuple(arrays), tuple(options.items())
        for key, array in arrays.items():
            setattr(self, key, Reference(jnp.asarray(array, jnp.float32)))

    def _given(self) -> dict[str, Any]:
        return {key: getattr(self, key)[...] for key in self.arrays} | dict(self.options)

    def __call__(self, x: TokensLike, weights: WeightsLike = None) -> Float[Array, "k"]:
        """Pool one sequence (see `covjax.pooling.Pooler`); InputError for another number of features."""
        x, w = prepare_tokens(x, weights)
        if self.features is not None:
            check_features(x, self.features)
        return self.function(x, w, **self._given())

    @property
    def of_moments(self) -> Callable[[Moments], Float[Array, "k"]] | None:
        """See `covjax.pooling.base.moment_function`."""
        return None if self.from_moments is None else partial(self.from_moments, **self._given())
