"""Second moments in a chosen number of features by random sketches; the seed fixes the draw."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax import sketch
from covjax.errors import InputError
from covjax.moments import _moments
from covjax.pooling.base import FunctionPooler, register
from covjax.tokens import safe_ratio
from covjax.vectorize import vech

_HIGHEST = jax.lax.Precision.HIGHEST


def _sketch(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], function, size, degree, seed):
    phi = function(x, size, jax.random.key(seed), degree)
    return safe_ratio(jnp.matmul(w, phi, precision=_HIGHEST), jnp.sum(w))


def _pooler(name: str, function, size: int, degree: int, seed: int) -> FunctionPooler:
    if size < 1 or degree < 1:
        raise InputError(f"size and degree must be >= 1, got size {size} and degree {degree}")
    options = (("function", function), ("size", size), ("degree", degree), ("seed", seed))
    return FunctionPooler(name, _sketch, options=options)


@register("tensor_sketch")
def tensor_sketch(*, size: int = 1024, degree: int = 2, seed: int = 0) -> FunctionPooler:
    """Mean tensor sketch of the tokens, an unbiased sketch of the degree-th moment; size `size`."""
    return _pooler("tensor_sketch", sketch.tensor_sketch, size, degree, seed)


@register("random_maclaurin")
def random_maclaurin(*, size: int = 1024, degree: int = 2, seed: int = 0) -> FunctionPooler:
    """Mean random Maclaurin features, an unbiased sketch of the degree-th moment; size `size`."""
    return _pooler("random_maclaurin", sketch.random_maclaurin, size, degree, seed)


def _random_projection(x: Float[Array, "tokens features"], w: Float[Array, "tokens"], rank, seed):
    y = sketch.random_projection(x, rank, jax.random.key(seed))
    return vech(_moments(y, w).covariance())


@register("random_projection")
def random_projection(*, rank: int = 32, seed: int = 0) -> FunctionPooler:
    """vech of the covariance of randomly projected tokens; size rank(rank + 1)/2."""
    if rank < 1:
        raise InputError(f"rank must be >= 1, got {rank}")
    return FunctionPooler("random_projection", _random_projection, options=(("rank", rank), ("seed", seed)))
