"""Train a small language model: the loop that genomes and proteins share, and its figures."""

import contextlib
import functools
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from covjax.autoencoders.saved import plain, to_arrays
from covjax.encoders import load
from covjax.encoders.weights import AskedTensors
from covjax.errors import InputError
from covjax.jobs.disk import TEMPORARY, new_text, put
from covjax.jobs.distributed import is_first
from covjax.jobs.folder import RunFolder, claim, load_newest_together, save_step_together
from covjax.notes import note, progress
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.training.config import EncoderConfig
from covjax.training.genome import DNA
from covjax.training.kinds import Corpus, Kind
from covjax.training.language import (
    FILES,
    MaskedModel,
    initial_weights,
    named_tensors,
    save_folder,
    write_texts,
)
from covjax.training.log import Log, NoLog, draw_training, read_log
from covjax.training.proteins import PROTEINS
from covjax.training.state import (
    Step,
    TrainState,
    data_mesh,
    distribute,
    make_evaluation,
    make_optimiser,
    own_part,
    place,
    refuse_divergence,
    state_layout,
)

KINDS = {"ntv3": DNA, "esm": PROTEINS}
SIDES = ("outside", "inside")  # of regions
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # of the smoothing of k-mer models; the best on held-out letters is shown


RUN = "covjax train encoder"
ENCODERS = ("encoder", "snapshots/*", "start")
OWNS = (
    *("checkpoints/*/", "log.jsonl", "tensorboard/events.out.tfevents.*", "held-out.json", "figures/training.png"),
    *(f"{folder}/{name}" for folder in ENCODERS for name in FILES),
    *(f"{folder}/" for folder in (*ENCODERS, "snapshots")),
)


def train_encoder(config: EncoderConfig, force: bool = False) -> dict[str, Any]:
    """Run or resume a training; returns what stands in `held-out.json`.

    `force` removes first what a training left in the folder, once all that it reads has been checked.

    Raises InputError for everything a user can put right.
    """
    config.check()
    with claim(config.output, RUN, OWNS) as folder:
        return _train(config, force, folder)


def _train(config: EncoderConfig, force: bool, folder: RunFolder) -> dict[str, Any]:
    output, kind = folder.path, KINDS[config.kind]
    corpus = read_corpus(config)
    mesh = data_mesh(config.batch)
    settings = decided_by(config, FEATURES, NUMBERS)
    versions = {name: version(name) for name in ("covjax", "flax", "jax", "numpy", "optax")}
    manifest = json.loads(json.dumps({"config": settings, "data": corpus.digest, "versions": versions}))
    folder.begin(manifest, force, {"data": config.data, "regions": config.regions})
    start = folder.path / "start"
    if is_first():
        write_texts(start, kind.files(config))

    def make(tensors: AskedTensors) -> Any:
        return kind.encoder("start", start, np.float32, tensors)

    model = MaskedModel(make(AskedTensors(initial_weights(config.seed))), config.dtype)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    note(f"{parameters:,} parameters, {config.batch * config.length:,} tokens per step")
    optimiser = make_optimiser(
        config.steps, config.learning_rate, config.warmup, 0.9, clip=1.0, weight_decay=config.weight_decay
    )
    graph, state = nnx.split(TrainState(model, optimiser))
    layout, step, rows = state_layout(mesh, state), 0, 0
    checkpoint = load_newest_together(output / "checkpoints", state, manifest)
    if checkpoint is not None:
        arrays, step, rows = checkpoint[0], checkpoint[1]["step"], checkpoint[1]["rows"]
        note(f"resumed at step {step:,} of {config.steps:,} in {output}")
    else:
        arrays = to_arrays(state)
    state = place(layout, state, arrays)
    del arrays, model, checkpoint
    later = _later_snapshots(config, step)

    def snapshot() -> None:
        """Of the state at this step, where one is asked for."""
        if step in later and is_first():
            _save_encoder(config, nnx.merge(graph, state).model, make, f"snapshots/{step}")

    snapshot()
    advance, evaluation = Step(graph, layout), make_evaluation(graph, layout)
    part = own_part(mesh, config.batch)
    begin = time.monotonic()
    bar = progress(total=config.steps, initial=step, unit="step", disable=None if is_first() else True)
    journal = Log(output, step, rows, "", manifest["config"]) if is_first() else NoLog(rows)
    with bar, contextlib.closing(journal) as log:
        while step < config.steps:
            x, weights = corpus.train.batch(config.batch, config.seed, step)
            state, metrics = advance(state, *distribute(mesh, (x[part], weights[part]), config.batch))
            step += 1
            bar.update()
            last = step == config.steps
            saves = step % config.save_every == 0 or last
            if saves or step in later or step % config.log_every == 0:
                values = {name: float(value) for name, value in metrics.items()}
                refuse_divergence(values, step, "lower the rate, or raise --warmup")
            snapshot()
            if step % config.log_every == 0 or last:
                log.write(step, "train", values, time.monotonic() - begin)
                bar.set_postfix({"nats": f"{values['nats']:.4f}"}, refresh=False)
            if step % config.evaluate_every == 0 or last:
                sums = _held_out_sums(config, corpus, functools.partial(_evaluated, evaluation, state, mesh))
                figures = nnx.merge(graph, state).model.summarise(sums)
                log.write(step, "held-out", figures, time.monotonic() - begin)
            if saves:
                position = {"step": step, "rows": log.rows}
                save_step_together(output / "checkpoints", step, plain(state), manifest | position)
    report: dict[str, Any] = {}
    if is_first():
        report = _finish(config, corpus, nnx.merge(graph, state).model, make, parameters)
    return report


def _later_snapshots(config: EncoderConfig, step: int) -> set[int]:
    """Those of `step` and later; InputError for one that is not there and whose step has passed."""
    folder = Path(config.output) / "snapshots"
    if gone := [each for each in config.snapshots if each < step and not (folder / str(each) / FILES[-1]).is_file()]:
        raise InputError(
            f"snapshots: {gone[0]} is not in {folder}, and the run is at step {step} already; leave it out, or begin "
            "anew with --force"
        )
    return {each for each in config.snapshots if each >= step}


def _save_encoder(config: EncoderConfig, model: MaskedModel, make: Any, name: str) -> Path:
    """The encoder's folder in that of the run, its weights in 16 bits, last; files of others stay in it."""
    import ml_dtypes

    path, kind = Path(config.output) / name, KINDS[config.kind]
    temporary = path.with_name(f"{path.name}.{TEMPORARY}")
    tensors = {kind.stored(name): tensor for name, tensor in named_tensors(make, model.encoder).items()}
    save_folder(temporary, kind.files(config), tensors, ml_dtypes.bfloat16)
    path.mkdir(exist_ok=True)
    for file in (*kind.files(config), FILES[-1]):
        put(temporary / file, path / file)
    temporary.rmdir()
    return path


def _finish(config: EncoderConfig, corpus: Corpus, model: MaskedModel, make: Any, parameters: int) -> dict[str, Any]:
    """Write the encoder, and judge what was written: weights of 16 bits."""
    output = Path(config.output)
    trained = MaskedModel(load(_save_encoder(config, model, make, "encoder")), "float32")
    sums = _held_out_sums(config, corpus, nnx.jit(lambda *batch: trained.evaluate(*batch)))
    figures, rivals = _figures(sums, KINDS[config.kind]), _rival_figures(config, corpus)
    report = {"parameters": parameters, "model": figures, "k-mers": rivals}
    with new_text(output / "held-out.json") as file:
        file.write(json.dumps(report, indent=1) + "\n")
    draw_training(read_log(output), output / "figures" / "training.png")
    return report


def read_corpus(config: EncoderConfig) -> Corpus:
    """Read and check the training sequences and the held-out ones.

    Raises InputError for everything a user can put right.
    """
    corpus, letter = KINDS[config.kind].read(config), KINDS[config.kind].letter
    batches = corpus.held.held_out(config.held_windows, config.batch, config.seed)
    if not any(weights.any() for _, weights in batches):
        raise InputError(
            f"holdout: no known {letter} is hidden in the held-out sequences; hold out more, or raise --length"
        )
    return corpus


def _evaluated(evaluation: Any, state: Any, mesh: Any, x: np.ndarray, weights: np.ndarray) -> Any:
    return evaluation(state, *distribute(mesh, (x, weights)))


def _held_out_sums(config: EncoderConfig, corpus: Corpus, sums: Any) -> Any:
    batches = corpus.held.held_out(config.held_windows, config.batch, config.seed)
    parts = [np.asarray(sums(*batch), np.float64) for batch in batches]
    return sum(parts)


def _figures(sums: Any, kind: Kind) -> dict[str, Mapping[str, float]]:
    """Scores and the number of letters, in all and on both sides of regions where there are some."""

    def one(nats, right, count):
        return {**_scores(nats / count, right / count), f"{kind.letter}s": int(count)}

    parts = {"all": sums.sum(0), **{side: part for side, part in zip(SIDES, sums) if 0 < part[2] < sums[:, 2].sum()}}
    return {name: one(*map(float, part)) for name, part in parts.items()}


def _scores(nats: float, accuracy: float) -> dict[str, float]:
    return {"nats": nats, "perplexity": float(np.exp(nats)), "accuracy": accuracy}


def _rival_figures(config: EncoderConfig, corpus: Corpus) -> dict[str, dict[str, float]]:
    """Scores of the two-sided models on the same letters; unlike the model's, none of their neighbours is hidden."""
    kind = KINDS[config.kind]
    codes = np.full(len(kind.tokens), len(kind.letters))
    codes[[kind.tokens.index(letter) for letter in kind.letters]] = range(len(kind.letters))
    rows = [
        (codes[true], np.flatnonzero(weight))
        for x, weights in corpus.held.held_out(config.held_windows, config.batch, config.seed)
        for true, weight in zip(x[:, 1], weights)
    ]
    means = {}
    for strength in STRENGTHS:
        sums = np.zeros((2, len(corpus.rivals.counts)))  # nats and letters named right, of every k
        for row, places in rows:
            chances, true = corpus.rivals.chances(row, places, strength), row[places]
            sums[0] -= np.log(chances[:, range(len(places)), true]).sum(1)
            sums[1] += (chances.argmax(-1) == true).sum(1)
        means[strength] = sums / sum(len(places) for _, places in rows)
    best = [min(STRENGTHS, key=lambda strength: means[strength][0, k]) for k in range(len(corpus.rivals.counts))]
    return {
        str(k): {**_scores(*map(float, means[strength][:, k])), "smoothing": strength}
        for k, strength in enumerate(best)
    }
