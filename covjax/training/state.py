"""The state of a training, one donated step of it, and where it lies."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from covjax.autoencoders.base import Autoencoder
from covjax.autoencoders.saved import check_leaf, from_arrays, is_key
from covjax.errors import InputError


class TrainState(nnx.Module):
    """The autoencoder, with whatever it keeps beside parameters, and the optimiser, which counts the steps."""

    def __init__(self, model: Any, optimiser: optax.GradientTransformation):
        self.model = model
        self.optimiser = nnx.Optimizer(model, optimiser, wrt=nnx.Param)


def make_optimiser(
    steps: int, learning_rate: float, warmup: int, decay: float, clip: float | None, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Adam; the rate rises linearly over `warmup` steps and falls linearly to 0 over the last `decay` share of steps,
    or over what the warm-up leaves of them.

    `clip` bounds the global norm of the gradient. With `weight_decay` it is AdamW, which leaves vectors (biases, scales
    of norms) alone.
    """
    schedule = make_schedule(steps, learning_rate, warmup, decay)
    adam = optax.adam(schedule)
    if weight_decay:
        matrices = lambda parameters: jax.tree.map(lambda leaf: leaf.ndim > 1, parameters)  # noqa: E731
        adam = optax.adamw(schedule, weight_decay=weight_decay, mask=matrices)
    return adam if clip is None else optax.chain(optax.clip_by_global_norm(clip), adam)


def make_schedule(steps: int, learning_rate: float, warmup: int, decay: float) -> optax.Schedule:
    """The rate of `make_optimiser` as a function of the number of steps done."""
    last = max(1, min(round(decay * steps), steps - warmup))
    parts = [optax.constant_schedule(learning_rate)]
    boundaries = []
    if warmup:
        parts.insert(0, optax.linear_schedule(0.0, learning_rate, warmup))
        boundaries.append(warmup)
    if decay:
        parts.append(optax.linear_schedule(learning_rate, 0.0, last))
        boundaries.append(max(steps - last, warmup))
    return optax.join_schedules(parts, boundaries)


class Step:
    """The pure step (state, x, weights) → (state, metrics); the old state is donated.

    Order: loss and gradients, `project_gradients`, optimiser, `after_step` (see `Autoencoder`). Every shape is compiled
    once, ahead of its first use; InputError where the program needs more memory than is free. `layout`: the state's
    (see `state_layout`), None on one device.
    """

    def __init__(self, graph: nnx.GraphDef, layout: Any = None):
        def step(state, x, weights):
            train = nnx.merge(graph, state)
            loss = nnx.value_and_grad(lambda model: model.loss(x, weights), has_aux=True)
            (value, metrics), gradients = loss(train.model)
            gradients = train.model.project_gradients(gradients)
            train.optimiser.update(train.model, gradients)
            train.model.after_step(x, weights)
            return nnx.state(train), {"loss": value, "gradient_norm": optax.tree.norm(gradients), **metrics}

        # The state stays where it lies; left alone, XLA may split what it returns.
        out = None if layout is None else (layout, _whole(layout))
        self._step = jax.jit(step, donate_argnums=0, out_shardings=out)
        self._layout = layout
        self._compiled: dict[Any, Callable] = {}

    def __call__(self, state: nnx.State, x: Array, weights: Array | None) -> tuple[nnx.State, dict[str, Array]]:
        """One step; see the class."""
        shape = x.shape
        if shape not in self._compiled:
            compiled = self.lower(state, x, weights).compile()
            _refuse_too_large(compiled, shape)
            self._compiled[shape] = compiled
        return self._compiled[shape](state, x, weights)

    def lower(self, state: nnx.State, x: Any, weights: Any) -> Any:
        """The step for arguments of these shapes, as `jax.jit(…).lower` gives it."""
        with _mesh_of(self._layout):
            return self._step.lower(state, x, weights)


def make_evaluation(graph: nnx.GraphDef, layout: Any = None) -> Callable[[nnx.State, Array, Array | None], Any]:
    """Sums of one batch: `evaluate`'s where the autoencoder has it, else metrics times the number of examples."""

    def sums(state, x, weights):
        model = nnx.merge(graph, state).model
        if hasattr(model, "evaluate"):
            return model.evaluate(x, weights)
        value, metrics = model.loss(x, weights)
        return {name: metric * x.shape[0] for name, metric in {"loss": value, **metrics}.items()} | {
            "": jnp.float32(x.shape[0])
        }

    if layout is None:
        return jax.jit(sums)
    compiled = jax.jit(sums, out_shardings=_whole(layout))

    def run(state, x, weights):
        with _mesh_of(layout):
            return compiled(state, x, weights)

    return run


def summarise(model: Autoencoder, total: Any) -> dict[str, float]:
    """Figures of a data set from the sums of `make_evaluation`."""
    if hasattr(model, "summarise"):
        return dict(model.summarise(total))
    return {name: float(value) / float(total[""]) for name, value in total.items() if name}


def data_mesh(batch: int, model_parallel: int = 1) -> Mesh | None:
    """A mesh of all devices of all processes with the axes "data" and "model", the latter of `model_parallel` devices.

    None on one device. InputError where the devices cannot be divided so or cannot share a batch.
    """
    # Devices of one process side by side: every process then has one run of rows of each batch.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if len(devices) % model_parallel:
        raise InputError(f"model_parallel: {len(devices)} devices cannot be divided by {model_parallel}")
    if len(devices) == 1:
        return None
    grid = np.array(devices).reshape(-1, model_parallel)
    if batch % len(grid):
        raise InputError(f"batch: {batch} cannot be divided over {len(grid)} devices")
    return Mesh(grid, ("data", "model"))


def own_part(mesh: Mesh | None, batch: int) -> slice:
    """The examples of a batch that this process's devices get."""
    if mesh is None:
        return slice(0, batch)
    places = [i for i, line in enumerate(mesh.devices) if any(d.process_index == jax.process_index() for d in line)]
    each = batch // mesh.shape["data"]
    return slice(places[0] * each, (places[-1] + 1) * each)


def state_layout(mesh: Mesh | None, state: nnx.State, latents: int | None = None) -> Any:
    """The sharding of every leaf of the state; None on one device.

    A leaf lies whole on every device, unless its first axis is that of the latents, of which every device along
    "model" gets its own. The optimiser's moments have the shapes of the parameters and go with them.
    """
    if mesh is None:
        return None
    split = mesh.shape["model"] > 1

    def lay(leaf):
        axes = ("model",) if split and leaf.shape[:1] == (latents,) else ()
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(lay, state)


def place(layout: Any, like: nnx.State, arrays: Any) -> nnx.State:
    """The state of `to_arrays`' arrays, or of arrays that a checkpoint held, on the devices of its layout.

    Raises InputError like `from_arrays`.
    """
    if layout is None:
        return from_arrays(like, arrays)

    def put(path, leaf, array, sharding):
        check_leaf(path, leaf, array)
        spread = jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
        return jax.random.wrap_key_data(spread, impl=jax.random.key_impl(leaf)) if is_key(leaf) else spread

    return jax.tree_util.tree_map_with_path(put, like, arrays, layout)


def refuse_divergence(values: Mapping[str, float], step: int, remedy: str) -> None:
    """Raise InputError, with the remedy, where one of a step's figures is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(f"learning_rate: {name} is {value} at step {step}; {remedy}")


def distribute(mesh: Mesh | None, batch: tuple[Any, Any], examples: int | None = None) -> tuple[Array, Array | None]:
    """A batch split over the mesh by examples; a remainder that cannot be split goes to every device whole.

    `examples`, their number in the whole batch, says that `batch` is only this process's part of it (`own_part`).
    """

    def spread(array):
        if mesh is None:
            return jnp.asarray(array)
        count = len(array) if examples is None else examples
        sharding = NamedSharding(mesh, PartitionSpec("data") if count % mesh.shape["data"] == 0 else PartitionSpec())
        if examples is not None:
            return jax.make_array_from_process_local_data(sharding, array, (count, *array.shape[1:]))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    x, weights = batch
    return spread(x), None if weights is None else spread(weights)


def _mesh_of(layout: Any) -> contextlib.AbstractContextManager:
    """For tracing: tells what is traced over which devices it runs (see `covjax.autoencoders.sparse.codes`)."""
    return (
        contextlib.nullcontext()
        if layout is None
        else jax.sharding.use_abstract_mesh(jax.tree.leaves(layout)[0].mesh.abstract_mesh)
    )


def _whole(layout: Any) -> NamedSharding:
    return NamedSharding(jax.tree.leaves(layout)[0].mesh, PartitionSpec())


def _refuse_too_large(compiled: Any, shape: tuple[int, ...]) -> None:
    memory = compiled.memory_analysis()
    needed, free = memory.temp_size_in_bytes, _free_memory()  # the arguments are there already
    if free is not None and needed > free:
        raise InputError(
            f"batch: a step on {shape} needs {needed / 2**30:.3g} GiB more, {free / 2**30:.3g} GiB are free; "
            "make the batch or the autoencoder smaller"
        )


def state_bytes(model: Autoencoder, sharing: int = 1) -> int:
    """Memory that a training's state needs: parameters and Adam's two moments, twice while they are put in their place.

    A state that is split is made in the host's memory; a device then holds its part of them and of the gradient.

    `model` may hold shapes alone (`nnx.eval_shape`); `sharing` devices split it between them.
    """
    parameters, rest = nnx.state(model, nnx.Param, ...)
    whole, split = 6 * _size(parameters) + 2 * _size(rest), 4 * _size(parameters) + _size(rest)
    return whole if sharing == 1 else split // sharing


def refuse_too_large_state(model: Autoencoder, sharing: int = 1) -> None:
    """InputError where the training state (see `state_bytes`) needs more memory than is free."""
    parameters, needed, free = _size(nnx.state(model, nnx.Param)), state_bytes(model, sharing), _free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"options: {parameters / 2**30:.3g} GiB of parameters need {needed / 2**30:.3g} GiB a device with "
            f"their gradient and Adam's moments, {free / 2**30:.3g} GiB are free; make the autoencoder smaller"
            " or split its latents with model_parallel"
        )


def share_memory(sizes: Sequence[int]) -> list[list[int]]:
    """Numbers of the states, of these bytes, in runs that fit into the free memory together; one alone always does."""
    free, total = _free_memory(), 0
    groups: list[list[int]] = []
    for number, size in enumerate(sizes):
        if not groups or (free is not None and total + size > free):
            groups.append([number])
            total = size
        else:
            groups[-1].append(number)
            total += size
    return groups


def _size(state: nnx.State) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if not is_key(leaf))


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
