"""Long inputs pooled window by window from their moments: no input's tokens are ever held together."""

import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from covjax.encoders.windows import add_windows
from covjax.moments import Moments, merge, psum_merge
from covjax.pooling import Pooler, moment_function

OPEN_BYTES = 2**30  # of moments whose sequence has windows to come
Layers = Mapping[int, Float[Array, "b t d"]]


class WindowMoments:
    """Moments of the sequences whose windows are passing by, and what the poolers make of them at the end.

    Windows of one sequence may come in any batch and order, in which their moments are merged (Chan, Golub, LeVeque
    1983), one window after the other: beside the batch there is one d × d matrix for each sequence under way. Windows
    of a batch that is split over devices are reduced where they are; d × d statistics travel.
    """

    def __init__(
        self, functions: Mapping[str, Callable[[Moments], Array]], widths: Mapping[int, int], mesh: Mesh | None
    ):
        self._empty = {layer: Moments.zeros(width) for layer, width in widths.items()}
        # A shard's first and last windows, which are shorter, pass before the others: all its sequences may be open.
        self.most_open = max(1, OPEN_BYTES // sum(4 * width**2 for width in widths.values()))
        self._open: dict[int, dict[int, Moments]] = {}

        def total(x, weights):
            return add_windows(Moments.zeros(x.shape[-1]), x, weights)

        def over_devices(mesh, x, weights):
            (axis,), split = mesh.axis_names, PartitionSpec(*mesh.axis_names)
            each = lambda *own: psum_merge(total(*own), axis)  # noqa: E731
            # Windows without weight are passed over by `cond`, whose branches vary over the axis in different ways.
            return jax.shard_map(each, mesh=mesh, in_specs=split, out_specs=PartitionSpec(), check_vma=False)(
                x, weights
            )

        def add(state, layers, weights):
            of_batch = total if mesh is None else functools.partial(over_devices, mesh)
            return {k: merge(state[k], of_batch(layers[k], weights)) for k in state}

        def pool(state):
            return {f"{k}/{name}": function(m) for k, m in state.items() for name, function in functions.items()}

        self._add, self._pool = jax.jit(add), jax.jit(pool)

    @classmethod
    def for_poolers(
        cls, poolers: Mapping[str, Pooler], widths: Mapping[int, int], mesh: Mesh | None
    ) -> "WindowMoments | None":
        """None where a pooler needs the tokens; `mesh` as `embed` splits its batches."""
        functions = {name: moment_function(pooler) for name, pooler in poolers.items()}
        known = {name: function for name, function in functions.items() if function is not None}
        return cls(known, widths, mesh) if len(known) == len(functions) else None

    def add(self, owner: int, layers: Layers, mask: Bool[np.ndarray, "b t"]) -> None:
        """The windows of one sequence in a batch: the mask holds its tokens alone."""
        self._open[owner] = self._add(self._open.get(owner, self._empty), layers, mask.astype(np.float32))

    def finish(self, owner: int) -> dict[str, Float[np.ndarray, "k"]]:
        """{"layer/pooler": vector} of a sequence all of whose windows were added, which is then forgotten."""
        return {name: np.asarray(vector) for name, vector in self._pool(self._open.pop(owner)).items()}
