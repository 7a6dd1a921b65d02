"""Poolers by name: `get_pooler("covariance")(tokens, weights)` is one vector for one sequence."""

# Each of these registers its poolers.
from covjax.pooling import distribution, first_order, learned, order, riemannian, second_order, sparse  # noqa: F401
from covjax.pooling.base import (
    FunctionPooler,
    Pooler,
    get_pooler,
    moment_function,
    pooler_names,
    pooler_options,
    register,
)

__all__ = ["FunctionPooler", "Pooler", "get_pooler", "moment_function", "pooler_names", "pooler_options", "register"]
