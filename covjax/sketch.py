"""Random features whose inner products are unbiased for powers of the tokens' inner products.

Averaged over a sequence, a sketch of degree 2 approximates vec(M) in `size` numbers: E⟨φ̄_i, φ̄_j⟩ = ⟨M_i, M_j⟩_F.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from covjax.errors import InputError
from covjax.tokens import HIGHEST, TokensLike, check_tokens


def _prepare(x, size: int, degree: int = 1):
    x = check_tokens(x)
    for name, value in (("size", size), ("degree", degree)):
        if value < 1:
            raise InputError(f"{name} must be >= 1, got {value}")
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _signs(key: Array, shape: tuple[int, ...]) -> Int[Array, "*k"]:
    """-1 or 1; as of every draw here, the same whether JAX has 64 bits or not."""
    return 2 * jax.random.bernoulli(key, jnp.float32(0.5), shape).astype(jnp.int32) - 1


def random_projection(x: TokensLike, size: int, key: Array) -> Float[Array, "tokens size"]:
    """φ(x) = Gᵀx with G_ij ~ N(0, 1/size): E⟨φ(x), φ(y)⟩ = ⟨x, y⟩ (Johnson, Lindenstrauss 1984).

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shape or size < 1.
    """
    x = _prepare(x, size)
    return jnp.matmul(x, jax.random.normal(key, (x.shape[1], size), jnp.float32) / size**0.5, precision=HIGHEST)


def random_maclaurin(x: TokensLike, size: int, key: Array, degree: int = 2) -> Float[Array, "tokens size"]:
    """φ_k(x) = Π_j ⟨r_jk, x⟩ / √size with random signs r: E⟨φ(x), φ(y)⟩ = ⟨x, y⟩^degree (Kar, Karnick 2012).

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shape, size < 1 or degree < 1.
    """
    x = _prepare(x, size, degree)
    signs = _signs(key, (degree, x.shape[1], size)).astype(x.dtype)
    return jnp.prod(jnp.einsum("td,pdk->ptk", x, signs, precision=HIGHEST), axis=0) / size**0.5


def count_sketch(x: Float[Array, "features"], size: int, key: Array) -> Float[Array, "size"]:
    """Every number, under a random sign, added to one of `size` places: E⟨φ(x), φ(y)⟩ = ⟨x, y⟩ (Charikar et al. 2002).

    Linear, and read once: for vectors too wide for a matrix of `random_projection`.

    Raises InputError for size < 1.
    """
    if size < 1:
        raise InputError(f"size must be >= 1, got {size}")
    place_key, sign_key = jax.random.split(key)
    places = jax.random.randint(place_key, x.shape, 0, size, jnp.int32)
    return jax.ops.segment_sum(x * _signs(sign_key, x.shape).astype(x.dtype), places, num_segments=size)


def tensor_sketch(x: TokensLike, size: int, key: Array, degree: int = 2) -> Float[Array, "tokens size"]:
    """Count sketches of x^⊗degree, convolved by FFT: E⟨φ(x), φ(y)⟩ = ⟨x, y⟩^degree (Pham, Pagh 2013).

    O(tokens · (features + size log size)), against tokens · features · size for `random_maclaurin`.

    Raises:
        TypeError: `x` is not floating point.
        InputError: wrong shape, size < 1 or degree < 1.
    """
    x = _prepare(x, size, degree)
    bucket_key, sign_key = jax.random.split(key)
    buckets = jax.random.randint(bucket_key, (degree, x.shape[1]), 0, size, jnp.int32)
    signs = _signs(sign_key, (degree, x.shape[1])).astype(x.dtype)
    spectrum = jnp.ones((), jnp.complex64)
    for bucket, sign in zip(buckets, signs):
        sketch = jax.ops.segment_sum((x * sign[None]).T, bucket, num_segments=size).T
        spectrum = spectrum * jnp.fft.rfft(sketch, axis=1)
    return jnp.fft.irfft(spectrum, n=size, axis=1).astype(x.dtype)
