"""Poolers by name: `get_pooler("covariance")(tokens, weights)` is one vector for one sequence."""

from covjax.pooling import first_order, learned, second_order, sparse  # noqa: F401  (each registers its poolers)
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
