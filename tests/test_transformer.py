"""Parts of the Transformer encoders against SciPy and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from covjax.encoders import layers
from covjax.encoders.layers import attended, attention, gelu, rotate


def test_gelu(rng):
    x = np.concatenate([rng.normal(size=1000) * 3, [-30, -6, 0, 6, 30]])
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), x * ndtr(x), atol=5e-7)


def test_rotate(rng):
    x = rng.normal(size=(2, 7, 3, 6))
    frequencies = np.array([1.0, 0.3, 0.01])
    place = np.array([[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 3]])
    turned = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * place[..., None] * frequencies)[:, :, None]
    found = rotate(jnp.asarray(x, jnp.float32), jnp.asarray(frequencies, jnp.float32), jnp.asarray(place))
    np.testing.assert_allclose(found, np.concatenate([turned.real, turned.imag], -1), atol=2e-6)


def test_attention_of_masked_and_numbered_rows(rng):
    q, k, v = rng.normal(size=(3, 2, 6, 2, 4)) * 3
    q[0, 0] *= 40  # large scores, of which only the maximum counts
    for mask in (np.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool), np.array([[1, 1, 2, 2, 2, 0], [1] * 6], np.int32)):
        own = (mask[:, :, None] == mask[:, None, :]) if mask.dtype == np.int32 else np.ones((2, 6, 6), bool)
        scores = np.einsum("bqhc,bkhc->bhqk", q, k) / 2
        scores = np.where((own & (mask[:, None] > 0))[:, None], scores, -np.inf)
        with np.errstate(invalid="ignore"):  # padding sees nothing
            shares = np.exp(scores - scores.max(-1, keepdims=True))
        expected = np.einsum("bhqk,bkhc->bqhc", shares / shares.sum(-1, keepdims=True), v).reshape(2, 6, 8)
        parts = (jnp.asarray(part, jnp.float32) for part in (q, k, v))
        found = jax.jit(attention)(*parts, attended(jnp.asarray(mask)))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(np.asarray(found)[mask > 0], expected[mask > 0], atol=2e-5)


def test_what_cudnn_is_given_is_the_same_attention(rng, monkeypatch):
    on_any_device = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, implementation, **o: on_any_device(*a, **o))
    q, k, v = (jnp.asarray(part, jnp.float32) for part in rng.normal(size=(3, 2, 3, 6, 8)))
    for mask in (np.array([[1, 1, 1, 1, 0, 0], [1] * 6], bool), np.array([[1, 1, 2, 2, 2, 0], [1] * 6], np.int32)):
        seen = attended(jnp.asarray(mask))
        result, expected = layers._fused(q, k, v, seen), layers._whole(q, k, v, seen)
        kept = np.broadcast_to((mask > 0)[:, None], result.shape[:3])
        np.testing.assert_allclose(np.asarray(result)[kept], np.asarray(expected)[kept], atol=2e-5)

    def transformed(mix):
        """The gradient, and in a batch of two the values, the gradient of their sum and every gradient."""
        total = lambda q, seen: jnp.sum(mix(q, k, v, seen) ** 2)
        every = jax.vmap(mix, (0, None, None, 0))
        two = (jnp.stack([q, q + 1]), jnp.stack([seen, seen[::-1]]))
        values = every(two[0], k, v, two[1])
        gradient = jax.grad(lambda q: jnp.sum(every(q, k, v, two[1]) ** 2))(two[0])
        return jax.grad(total)(q, seen), values, gradient, jax.vmap(jax.grad(total))(*two)

    seen = attended(jnp.ones((2, 6), bool).at[0, 4:].set(False))
    for result, expected in zip(transformed(layers._fused), transformed(layers._whole), strict=True):
        np.testing.assert_allclose(result, expected, atol=5e-5)
