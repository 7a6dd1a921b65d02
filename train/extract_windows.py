"""Long inputs pooled window by window from their moments: no input's tokens are ever held together."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covjax.moments import Moments, merge, moments
from covjax.pooling import Pooler, moment_function

OPEN_BYTES = 2**30  # of moments whose sequence has windows to come
Layers = Mapping[int, Float[Array, "b t d"]]


class WindowMoments:
    """Moments of the sequences whose windows are passing by, and what the poolers make of them at the end.

    Windows of one sequence may come in any batch and order, in which their moments are merged (Chan, Golub, LeVeque
    1983). Windows of a batch that is split over devices are reduced where they are; d × d statistics travel.
    """

    def __init__(self, functions: Mapping[str, Callable[[Moments], Array]], widths: Mapping[int, int]):
        self._empty = {layer: Moments.zeros(width) for layer, width in widths.items()}
        # A shard's first and last windows, which are shorter, pass before the others: all its sequences may be open.
        self.most_open = max(1, OPEN_BYTES // sum(4 * width**2 for width in widths.values()))
        self._open: dict[int, dict[int, Moments]] = {}

        def of_rows(layers: Layers, mask):
            finite = {k: jnp.all(jnp.isfinite(x) | ~mask[..., None], axis=(1, 2)) for k, x in layers.items()}
            weights = mask.astype(jnp.float32)
            return {k: jax.vmap(moments)(x.astype(jnp.float32), weights) for k, x in layers.items()}, finite

        def merge_rows(state, parts, rows):
            def add(state, part):
                part, chosen = part
                return merge(state, jax.tree.map(lambda leaf: jnp.where(chosen, leaf, 0), part)), None

            return {k: jax.lax.scan(add, state[k], (parts[k], rows))[0] for k in state}

        def pool(state):
            return {f"{k}/{name}": function(m) for k, m in state.items() for name, function in functions.items()}

        self._of_rows, self._merge_rows, self._pool = jax.jit(of_rows), jax.jit(merge_rows), jax.jit(pool)

    @classmethod
    def for_poolers(cls, poolers: Mapping[str, Pooler], widths: Mapping[int, int]) -> "WindowMoments | None":
        """None where a pooler needs the tokens."""
        functions = {name: moment_function(pooler) for name, pooler in poolers.items()}
        known = {name: function for name, function in functions.items() if function is not None}
        return cls(known, widths) if len(known) == len(functions) else None

    def add(
        self, owners: Mapping[int, Bool[np.ndarray, "b"]], layers: Layers, mask: Bool[np.ndarray, "b t"]
    ) -> dict[int, Bool[Array, "b"]]:
        """The windows of a batch: {sequence: its rows}; {layer: whether all activations of a row are finite}."""
        parts, finite = self._of_rows(layers, mask)
        for owner, rows in owners.items():
            self._open[owner] = self._merge_rows(self._open.get(owner, self._empty), parts, rows)
        return finite

    def finish(self, owner: int) -> dict[str, Float[np.ndarray, "k"]]:
        """{"layer/pooler": vector} of a sequence all of whose windows were added, which is then forgotten."""
        return {name: np.asarray(vector) for name, vector in self._pool(self._open.pop(owner)).items()}
