"""Train an autoencoder on token activations: any registered kind, resumable at any point."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Generator
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from covjax.activations.windows import Activations, EncodedActivations, HeldActivations, StoredActivations, hold
from covjax.autoencoders import make_autoencoder, save_autoencoder
from covjax.autoencoders.saved import from_arrays, plain, to_arrays
from covjax.data.sequences import read_sequences
from covjax.encoders import load
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.jobs.disk import new_text
from covjax.jobs.distributed import is_first
from covjax.jobs.folder import RunFolder, claim, load_newest_together, save_step_together
from covjax.notes import note, progress
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.standardise import feature_statistics
from covjax.training.batches import (
    MixedTokenBatches,
    SequenceBatches,
    TokenBatches,
    default_size,
    iterate,
    split_rows,
)
from covjax.training.config import AutoencoderConfig
from covjax.training.log import Log, NoLog, draw_density, draw_training, held_out_report, read_log
from covjax.training.state import (
    Step,
    TrainState,
    data_mesh,
    distribute,
    make_evaluation,
    make_optimiser,
    make_schedule,
    own_part,
    place,
    refuse_divergence,
    refuse_too_large_state,
    state_layout,
    summarise,
)

RUN = "covjax train"
OWNS = (
    *("checkpoints/*/", "log.jsonl", "tensorboard/events.out.tfevents.*", "held-out.json", "autoencoder/"),
    *("figures/training.png", "figures/density.png"),
)
PROGRESS = ("fvu", "l0", "dead", "loss")  # shown while training, where the autoencoder reports them


class Result(NamedTuple):
    """What a run ends with: the autoencoder, its figures on the held-out sequences, and all of `held-out.json`."""

    model: Any
    held_out: dict[str, float]
    report: dict[str, Any]


def train_autoencoder(config: AutoencoderConfig, activations: Activations | None = None, force: bool = False) -> Result:
    """Run or resume a training; `activations` stand in for the config's store or data.

    `force` removes first what a training left in the folder, once all that it reads has been checked.

    Raises InputError for everything a user can put right.
    """
    if config.sweep:
        raise InputError(f"sweep: {shown(config.sweep)}: one autoencoder is trained here; several by train_sweep")
    return finish(training(config, activations, force))


# What one training is, step by step: it yields the steps done, at first those of its checkpoint, and returns the end.
Training = Generator[int, None, Result]


def training(
    config: AutoencoderConfig,
    activations: Activations | None = None,
    force: bool = False,
    open_stream: Callable[[Any, tuple[str, int]], Any] | None = None,
) -> Training:
    """`train_autoencoder` as a generator that waits before every step, so that several trainings can take turns.

    `open_stream` makes the iterator of the batches of a data set and of what tells it from others, the order of its
    examples and its seed; by default every training has its own.
    """
    config.check()
    need("grain", "train", "training an autoencoder")
    with claim(config.output, RUN, OWNS) as folder:
        return (yield from _train(config, activations, force, folder, open_stream))


def finish(steps: Training) -> Result:
    """What a training ends with, all its steps done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _train(
    config: AutoencoderConfig,
    activations: Activations | None,
    force: bool,
    folder: RunFolder,
    open_stream: Callable[[Any, tuple[str, int]], Any] | None,
) -> Training:
    output = folder.path
    if activations is None and config.store:
        folder.refuse_input("store", config.store)
    source = read_activations(config) if activations is None else activations
    activations = hold(source, jax.numpy.dtype(config.dtype), config.max_memory_gib)
    refuse_too_large(config, activations.features)
    train_rows, held_rows = split_rows(len(activations.lengths), config.held_out, config.split_seed)
    with _home(config):
        model = make_autoencoder(config.kind, activations.features, seed=config.seed, **config.options)
    devices = max(jax.device_count() // config.model_parallel, 1)
    size = config.batch or default_size(model.examples, activations.lengths[train_rows], devices)
    if config.batch is None:
        note(f"{size:,} {model.examples} a step")
        config = dataclasses.replace(config, batch=size)
    batches = _batches(config, model.examples, size, activations, train_rows)
    held = _batches(config, model.examples, size, activations, held_rows)
    note(f"order of the examples: {batches.order}")
    mesh = data_mesh(size, config.model_parallel)
    manifest = _manifest(config, activations, batches.order)
    inputs = {name: getattr(config, name) for name in ("store", "data", "encoder", "sequences")}
    folder.begin(manifest, force, inputs)

    optimiser = make_optimiser(config.steps, config.learning_rate, config.warmup, config.decay, config.clip)
    with _home(config):
        graph, state = nnx.split(TrainState(model, optimiser))
    layout = state_layout(mesh, state, _split_latents(config, model))
    data_set = batches.training(config.steps, config.seed, own_part(mesh, size))
    examples = open_stream(data_set, (batches.order, config.seed)) if open_stream else iterate(data_set)
    step = rows = 0
    found = load_newest_together(output / "checkpoints", state, manifest)
    if found is not None:
        arrays, step = found[0], found[1]["step"]
        examples.set_state(found[1]["iterator"])
        rows = found[1].get("rows", 0)
        note(f"resumed at step {step:,} of {config.steps:,} in {output}")
    else:
        with _home(config):
            _initialise(config, model, batches)
            graph, state = nnx.split(TrainState(model, optimiser))
        arrays = to_arrays(state)
    state = place(layout, state, arrays)  # copies: an array that occurs twice cannot be donated
    del arrays, model, found  # with them the first copy
    advance, evaluation = Step(graph, layout), make_evaluation(graph, layout)
    schedule = make_schedule(config.steps, config.learning_rate, config.warmup, config.decay)
    start = time.monotonic()

    def evaluate() -> Any:
        sums = [jax.device_get(evaluation(state, *distribute(mesh, batch))) for batch in held.once()]
        return jax.tree.map(lambda *parts: sum(parts), *sums)

    figures: dict[str, float] = {}
    total = None
    bar = progress(total=config.steps, initial=step, unit="step", disable=None if is_first() else True)
    journal = Log(output, step, rows, config.wandb, manifest["config"]) if is_first() else NoLog(rows)
    with bar, contextlib.closing(journal) as log:
        while step < config.steps:
            yield step
            state, metrics = advance(state, *distribute(mesh, next(examples), size))
            step += 1
            bar.update()
            last = step == config.steps
            saves = step % config.save_every == 0 or last
            if saves or step % config.log_every == 0:
                values = {name: float(value) for name, value in metrics.items()}
                # Also before a save: what cannot be continued is not kept.
                refuse_divergence(values, step, "lower the rate or clip the gradient")
            if step % config.log_every == 0 or last:
                rate = float(schedule(step - 1))
                log.write(step, "train", values | {"learning_rate": rate}, time.monotonic() - start)
                shown = values | figures
                bar.set_postfix({name: f"{shown[name]:.4g}" for name in PROGRESS if name in shown}, refresh=False)
            if step % config.evaluate_every == 0 or last:
                total = evaluate()
                model = nnx.merge(graph, state).model
                figures = summarise(model, total)
                log.write(step, "held-out", figures, time.monotonic() - start)
                log.draw(step, model, total)
            if last:
                log.finish(figures)
            if saves:  # after the log's rows of this step: they are kept with it
                position = {"step": step, "rows": log.rows, "iterator": examples.get_state()}
                save_step_together(output / "checkpoints", step, plain(state), manifest | position)
    model = nnx.merge(graph, state).model
    if total is None:  # the run was finished before
        total = evaluate()
        figures = summarise(model, total)
    if jax.process_count() > 1:  # what is spread over processes no single one can use
        spread = nnx.state(model)
        with _home(config):
            nnx.update(model, from_arrays(spread, to_arrays(spread)))
    if is_first():
        path, width = output / "autoencoder", activations.features
        save_autoencoder(path, model, config.kind, width, config.options, data=activations.identity)
    origin = getattr(source, "origin", None) or source
    report = held_out_report(model, figures, total, origin, held_rows, config.token_budget)
    if is_first():
        with new_text(output / "held-out.json") as file:
            file.write(json.dumps(report, indent=1) + "\n")
        draw_training(read_log(output), output / "figures" / "training.png")
        if "density" in report:
            draw_density(report["density"], output / "figures" / "density.png")
    return Result(model, figures, report)


def _initialise(config: AutoencoderConfig, model: Any, batches: TokenBatches | SequenceBatches) -> None:
    stream = batches.training(config.steps, config.split_seed)  # of which one seed measures what another does
    first = [stream[i] for i in range(min(config.init_batches, config.steps))]
    feature_statistics(first)  # refuses constant activations, of which an autoencoder learns nothing
    if hasattr(model, "initialise"):
        model.initialise(first)


def _home(config: AutoencoderConfig) -> contextlib.AbstractContextManager:
    """Where the state is made: a state that is split is more than one device holds, so in the host's memory."""
    if config.model_parallel == 1:
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def _split_latents(config: AutoencoderConfig, model: Any) -> int | None:
    """Number of latents of an autoencoder that has them, InputError where they cannot be split as the config says."""
    latents = getattr(model, "latents", None)
    if config.model_parallel > 1 and (latents is None or latents % config.model_parallel):
        has = "no latents" if latents is None else f"{latents} latents"
        raise InputError(f"model_parallel: {config.model_parallel}: {config.kind} has {has} to split evenly")
    return latents


def read_activations(config: AutoencoderConfig) -> Activations:
    """Where a config's activations come from; InputError where there is nothing that can be read."""
    layer = config.layers or config.layer
    if config.store:
        source: Activations = StoredActivations(config.store, layer, config.encoder, config.sequences)
    else:
        if jax.process_count() > 1:
            raise InputError(
                "data: every process would encode all of it; write a store first: covjax extract --keep-tokens true"
            )
        _, sequences = read_sequences(config.data)
        encoder = load(config.encoder)
        source = EncodedActivations(encoder, sequences, layer, config.token_budget, config.max_shapes)
    tokens = int(source.lengths.sum())
    size = tokens * source.features * np.dtype(jax.numpy.dtype(config.dtype)).itemsize / 2**30
    note(f"{len(source.lengths):,} sequences, {tokens:,} tokens of {source.features} features: {size:.3g} GiB")
    return source


def refuse_too_large(config: AutoencoderConfig, features: int) -> None:
    """InputError, before any of it is there, where the state of a training needs more memory than is free."""
    if (shapes := state_shapes(config, features)) is not None:
        refuse_too_large_state(shapes, config.model_parallel)


def state_shapes(config: AutoencoderConfig, features: int) -> Any:
    """A config's autoencoder with shapes for arrays; None for a kind that computes its start with NumPy."""
    try:
        return nnx.eval_shape(lambda: make_autoencoder(config.kind, features, seed=config.seed, **config.options))
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return None


def _batches(
    config: AutoencoderConfig, examples: str, size: int, activations: Activations, rows: np.ndarray
) -> TokenBatches | SequenceBatches:
    dtype = jax.numpy.dtype(config.dtype)
    if examples == "sequences":
        return SequenceBatches(activations, rows, size, dtype, config.max_shapes)
    if isinstance(activations, HeldActivations):
        return TokenBatches(activations, rows, size, dtype)
    # An encoder fills its batches from large blocks; a store's are shared by many processes.
    lanes = 4 if isinstance(activations, EncodedActivations) else 64
    return MixedTokenBatches(activations, rows, size, dtype, config.mix_tokens, lanes)


def _manifest(config: AutoencoderConfig, activations: Activations, order: str) -> dict[str, Any]:
    settings = decided_by(config, FEATURES, NUMBERS)
    # The order of the examples is Grain's and NumPy's: under others it might be another.
    versions = {name: version(name) for name in ("covjax", "flax", "grain", "jax", "numpy", "optax")}
    made = {"config": settings, "data": activations.identity, "order": order, "versions": versions}
    return json.loads(json.dumps(made))
