"""ReLU autoencoders whose penalty moves from L1 towards the number of active latents during the training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covjax.autoencoders.base import register_autoencoder
from covjax.autoencoders.sparse.kinds import ReLU, row_norms
from covjax.autoencoders.sparse.module import token_mean
from covjax.errors import InputError
from covjax.standardise import Statistic
from covjax.tokens import TokensLike, WeightsLike, safe_ratio


@register_autoencoder("p_anneal")
class PAnneal(ReLU):
    """relu with the penalty λ Σ_h (z_h ‖W_h‖)^p; p falls from 1 to `end_p` (Karvonen et al. 2024, p-annealing).

    L1 pulls on strong latents as on weak ones, which makes all of them too small; a power below 1 pulls on weak ones.
    p falls in `updates` equal steps, evenly from the training step `anneal_start` to `anneal_end`. λ starts at `l1`.
    At each of them it is multiplied by the penalty with the old p over that with the new one, both of the latents of
    the last `window` training steps, so that the penalty's size stays while its form changes.

    Raises InputError for values out of range.

    Attributes:
        steps: training steps so far; p, coefficient: of the next one; recent: penalties of the last steps under p and
            under the p after it, each without λ.
    """

    def __init__(
        self,
        features: int,
        *,
        latents: int = 4096,
        l1: float = 1.0,
        end_p: float = 0.2,
        anneal_start: int = 500,
        anneal_end: int = 1500,
        updates: int = 10,
        window: int = 10,
        dead_after: float = 200_000,
        rescale: str = "none",
        seed: int = 0,
    ):
        if not 0 < end_p <= 1:
            raise InputError(f"end_p must be above 0 and at most 1, got {end_p}")
        if not 0 <= anneal_start < anneal_end:
            raise InputError(f"anneal_start must be >= 0 and before anneal_end, got {anneal_start} and {anneal_end}")
        if not (1 <= updates <= anneal_end - anneal_start and window >= 1):
            most = anneal_end - anneal_start
            raise InputError(f"updates must be from 1 to {most} (steps), window >= 1, got {updates} and {window}")
        super().__init__(features, latents=latents, l1=l1, dead_after=dead_after, rescale=rescale, seed=seed)
        self.end_p, self.anneal_start, self.anneal_end, self.updates = end_p, anneal_start, anneal_end, updates
        self.steps = Statistic(jnp.zeros((), jnp.int32))
        self.coefficient = Statistic(jnp.asarray(l1, jnp.float32))
        self.recent = Statistic(jnp.zeros((window, 2)))
        self.batch_penalties = Statistic(jnp.zeros(2))

    @property
    def p(self) -> Float[Array, ""]:
        """The exponent of the next training step."""
        return self._exponent(self._updates(self.steps[...]))

    def train_activate(self, pre, weights):
        """See `Dense`."""
        z = jax.nn.relu(pre)
        size = z * row_norms(self.decoder[...])[None]
        count = self._updates(self.steps[...])

        def penalty(p):
            each = jnp.sum(jnp.where(size > 0, jnp.where(size > 0, size, 1) ** p, 0), axis=1)
            return token_mean(each, weights)

        now, after = penalty(self._exponent(count)), penalty(self._exponent(count + 1))
        self.batch_penalties[...] = jax.lax.stop_gradient(jnp.stack([now, after]))
        return z, self.coefficient[...] * now

    def after_step(self, x: TokensLike, weights: WeightsLike = None) -> None:
        """See `SparseAutoencoder.after_step`; also counts the step, and where p falls adapts λ."""
        super().after_step(x, weights)
        recent = jnp.roll(self.recent[...], 1, axis=0).at[0].set(self.batch_penalties[...])
        step = self.steps[...] + 1
        falls = self._updates(step) > self._updates(self.steps[...])
        old, new = jnp.sum(recent, axis=0)
        ratio = jnp.where(falls & (new > 0), safe_ratio(old, new), 1)
        self.coefficient[...] = self.coefficient[...] * ratio
        self.recent[...] = jnp.where(falls, 0, recent)
        self.steps[...] = step

    def _updates(self, step):
        """How often p has fallen before a step."""
        return jnp.clip(
            (step - self.anneal_start) * self.updates // (self.anneal_end - self.anneal_start), 0, self.updates
        )

    def _exponent(self, updates):
        return 1 + (self.end_p - 1) * jnp.minimum(updates, self.updates) / self.updates
