"""How well a sparse autoencoder does on a set of tokens, from sums that do not depend on how the set is batched."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covjax.errors import InputError
from covjax.tokens import check_matrix, check_weights, safe_ratio, token_weights

_NAMES = ("x", "reconstruction", "latents")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """Sums over weighted tokens (a pytree): those of two batches, taken with the same shift, are added leaf by leaf.

    count: Σw; error: Σw‖x − x̂‖²; offset: Σw(x − c); spread: Σw‖x − c‖²; fired: for each latent, Σw over the tokens in
    which it is active. c is any point near the mean: without it the variance would be lost to rounding, as in
    `covjax.moments`, and with it the sums stay plain sums.
    """

    count: Float[Array, ""]
    error: Float[Array, ""]
    offset: Float[Array, "features"]
    spread: Float[Array, ""]
    fired: Float[Array, "latents"]

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


def token_sums(
    x: Float[Array, "tokens features"],
    reconstruction: Float[Array, "tokens features"],
    latents: Float[Array, "tokens latents"],
    shift: Float[Array, "features"],
    weights: Float[Array, "tokens"] | None = None,
) -> Sums:
    """Sums of one batch; rows of weight 0 may hold anything. Raises InputError for shapes that do not fit."""
    x, reconstruction, latents = (check_matrix(a, name) for a, name in zip((x, reconstruction, latents), _NAMES))
    if not (x.shape == reconstruction.shape and latents.shape[0] == x.shape[0] and shift.shape == x.shape[1:]):
        shapes = f"{x.shape}, {reconstruction.shape}, {latents.shape}, {shift.shape}"
        raise InputError(f"x, reconstruction, latents and shift do not fit: {shapes}")
    weights = check_weights(weights, x.shape[0])
    w, keep = token_weights(x, weights)
    x, reconstruction = (jnp.where(keep[:, None], jnp.asarray(a).astype(w.dtype), 0) for a in (x, reconstruction))
    deviation = jnp.where(keep[:, None], x - shift[None], 0)
    return Sums(
        count=jnp.sum(w),
        error=jnp.sum(w * jnp.sum(jnp.square(x - reconstruction), axis=1)),
        offset=jnp.sum(w[:, None] * deviation, axis=0),
        spread=jnp.sum(w * jnp.sum(jnp.square(deviation), axis=1)),
        fired=jnp.sum(jnp.where(keep[:, None] & (latents > 0), w[:, None], 0), axis=0),
    )


def fvu(sums: Sums) -> Float[Array, ""]:
    """Fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − x̄‖²: 1 for x̂ = x̄, 0 for x̂ = x."""
    variance = sums.spread - safe_ratio(jnp.sum(jnp.square(sums.offset)), sums.count)
    return safe_ratio(sums.error, variance)


def l0(sums: Sums) -> Float[Array, ""]:
    """Mean number of active latents."""
    return safe_ratio(jnp.sum(sums.fired), sums.count)


def dead_share(sums: Sums) -> Float[Array, ""]:
    """Share of the latents that are active in none of the tokens."""
    return jnp.mean(sums.fired == 0)


def density_histogram(sums: Sums, decades: int = 7) -> dict[str, int]:
    """Number of latents by the share of tokens in which they are active, in bins of a factor of ten; "0": none.

    "1e-3" counts shares in [1e-3, 1e-2); the lowest bin, "1e-<decades>", also what is below it; 1 is in "1e-1".
    """
    density = np.asarray(safe_ratio(sums.fired, sums.count), np.float64)
    # A power of ten in float32 may lie just below itself.
    exponent = np.floor(np.log10(np.where(density > 0, density, 1)) + 1e-6).clip(-decades, -1)
    counts = {f"1e-{n}": int(np.sum((density > 0) & (exponent == -n))) for n in range(decades, 0, -1)}
    return {"0": int(np.sum(density == 0))} | counts


def loss_recovered(
    loss: Callable[[Float[Any, "tokens features"]], Float[Array, ""]],
    x: Float[Any, "tokens features"],
    reconstruction: Float[Any, "tokens features"],
    mean: Float[Any, "features"],
) -> dict[str, float]:
    """Loss of the encoder's head on original, reconstructed, zero and mean activations, and the shares recovered.

    Recovered is (ablated − reconstructed) / (ablated − original): 1 as good as the original, 0 as bad as the ablation.

    Args:
        loss: what follows the layer, from activations of all tokens to one number.
        x, reconstruction: activations and what the autoencoder makes of them.
        mean: the activation that stands for every token in mean ablation.

    Raises InputError where an ablation does not change the loss, so that nothing could be recovered.
    """
    ablated = {"zero": jnp.zeros_like(x), "mean": jnp.broadcast_to(mean, x.shape)}
    losses = {"original": x, "reconstructed": reconstruction, **ablated}
    out = {name: float(loss(activations)) for name, activations in losses.items()}
    for name in ablated:
        if out[name] == out["original"]:
            raise InputError(f"loss: {name} ablation leaves it at {out[name]}: it does not depend on the activations")
        share = (out[name] - out["reconstructed"]) / (out[name] - out["original"])
        out[f"recovered_from_{name}"] = share
    return out
