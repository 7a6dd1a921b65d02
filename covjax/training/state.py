"""Everything that training changes, as one pytree, and the donated step that changes it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from covjax.autoencoders.base import Autoencoder
from covjax.errors import InputError


class TrainState(nnx.Module):
    """The autoencoder, with whatever it keeps beside parameters, and the optimiser, which counts the steps."""

    def __init__(self, model: Any, optimiser: optax.GradientTransformation):
        self.model = model
        self.optimiser = nnx.Optimizer(model, optimiser, wrt=nnx.Param)


def make_optimiser(
    steps: int, learning_rate: float, warmup: int, decay: float, clip: float | None
) -> optax.GradientTransformation:
    """Adam; the rate rises linearly over `warmup` steps and falls linearly to 0 over the last `decay` share of steps.

    `clip` bounds the global norm of the gradient.
    """
    last = max(1, round(decay * steps))
    parts = [optax.constant_schedule(learning_rate)]
    boundaries = []
    if warmup:
        parts.insert(0, optax.linear_schedule(0.0, learning_rate, warmup))
        boundaries.append(warmup)
    if decay:
        parts.append(optax.linear_schedule(learning_rate, 0.0, last))
        boundaries.append(max(steps - last, warmup))
    schedule = optax.join_schedules(parts, boundaries)
    adam = optax.adam(schedule)
    return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)


class Step:
    """The pure step (state, x, weights) → (state, metrics); the old state is donated.

    Order: loss and gradients, `project_gradients`, optimiser, `after_step` (see `Autoencoder`). Every shape is compiled
    once, ahead of its first use; InputError where the program needs more memory than is free.
    """

    def __init__(self, graph: nnx.GraphDef, mesh: Mesh | None):
        def step(state, x, weights):
            train = nnx.merge(graph, state)
            loss = nnx.value_and_grad(lambda model: model.loss(x, weights), has_aux=True)
            (value, metrics), gradients = loss(train.model)
            gradients = train.model.project_gradients(gradients)
            train.optimiser.update(train.model, gradients)
            train.model.after_step(x, weights)
            return nnx.state(train), {"loss": value, "gradient_norm": optax.tree.norm(gradients), **metrics}

        # The state stays whole on every device; left alone, XLA may split what it returns.
        whole = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self._step = jax.jit(step, donate_argnums=0, out_shardings=whole)
        self._compiled: dict[Any, Callable] = {}

    def __call__(self, state: nnx.State, x: Array, weights: Array | None) -> tuple[nnx.State, dict[str, Array]]:
        """One step; see the class."""
        shape = x.shape
        if shape not in self._compiled:
            compiled = self._step.lower(state, x, weights).compile()
            _refuse_too_large(compiled, shape)
            self._compiled[shape] = compiled
        return self._compiled[shape](state, x, weights)


def make_evaluation(graph: nnx.GraphDef) -> Callable[[nnx.State, Array, Array | None], Any]:
    """Sums of one batch: `evaluate`'s where the autoencoder has it, else metrics times the number of examples."""

    @jax.jit
    def sums(state, x, weights):
        model = nnx.merge(graph, state).model
        if hasattr(model, "evaluate"):
            return model.evaluate(x, weights)
        value, metrics = model.loss(x, weights)
        return {name: metric * x.shape[0] for name, metric in {"loss": value, **metrics}.items()} | {
            "": jnp.float32(x.shape[0])
        }

    return sums


def summarise(model: Autoencoder, total: Any) -> dict[str, float]:
    """Figures of a data set from the sums of `make_evaluation`."""
    if hasattr(model, "summarise"):
        return dict(model.summarise(total))
    return {name: float(value) / float(total[""]) for name, value in total.items() if name}


def data_mesh(batch: int) -> Mesh | None:
    """A mesh of all devices with the axis "data"; None on one device. InputError where they cannot share a batch."""
    count = jax.device_count()
    if count == 1:
        return None
    if batch % count:
        raise InputError(f"batch: {batch} cannot be divided over {count} devices")
    return Mesh(np.array(jax.devices()), ("data",))


def replicate(mesh: Mesh | None, state: nnx.State) -> nnx.State:
    """The state on every device of the mesh."""
    return state if mesh is None else jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def distribute(mesh: Mesh | None, batch: tuple[Any, Any]) -> tuple[Array, Array | None]:
    """A batch split over the mesh by examples; a remainder that cannot be split goes to every device whole."""

    def place(array):
        if mesh is None:
            return jnp.asarray(array)
        axes = ("data",) if array.shape[0] % mesh.size == 0 else ()
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*axes)))

    x, weights = batch
    return place(x), None if weights is None else place(weights)


def _refuse_too_large(compiled: Any, shape: tuple[int, ...]) -> None:
    memory = compiled.memory_analysis()
    needed, free = memory.temp_size_in_bytes, _free_memory()  # the arguments are there already
    if free is not None and needed > free:
        raise InputError(
            f"batch: a step on {shape} needs {needed / 2**30:.3g} GiB more, {free / 2**30:.3g} GiB are free; "
            "make the batch or the autoencoder smaller"
        )


def _free_memory() -> int | None:
    """Bytes free on the first device, or on the machine where the device is the CPU; None where nothing says."""
    statistics: Mapping[str, int] = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
