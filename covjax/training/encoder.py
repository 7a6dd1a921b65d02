"""Train a small genomic language model from a genome alone: masked bases, the architecture of NTv3.

    covjax train encoder genome.fa.gz --holdout chr4,chr12 --output runs/lm
    covjax compare windows.csv --encoder runs/lm/encoder

15 % of the bases of a window are hidden, and the model names them from the rest, on both strands. A base counts less
the more often it stands in the genome among the same neighbours. The records of --holdout are never trained on; their
bases are what the model is judged by, beside models that count k bases on each side. Batches are split over all
devices. A run killed at any point goes on from its newest checkpoint and ends bit-identical. Writes `checkpoints`,
`log.jsonl`, `tensorboard`, `held-out.json`, `figures` and `encoder`, a folder in the Hugging Face layout.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from covjax.autoencoders.saved import plain, to_arrays
from covjax.data.genome import read_bed, report_absent, stream_chromosomes
from covjax.data.text import NAMED, warn
from covjax.encoders import load
from covjax.encoders.ntv3 import LETTERS, VOCABULARY, NTv3
from covjax.encoders.weights import AskedTensors
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import TEMPORARY, new_text, put
from covjax.jobs.distributed import is_first, job
from covjax.jobs.folder import RunFolder, claim, load_newest_together, save_step_together
from covjax.notes import note, progress, silence
from covjax.options import FEATURES, NOTHING, NUMBERS, at_least, check_options, decided_by, option
from covjax.training.genome import (
    MARGIN,
    UNKNOWN,
    TwoSided,
    Windows,
    base_codes,
    inside_regions,
    repeat_weights,
)
from covjax.training.language import FILES, MaskedModel, initial_weights, named_tensors, save_folder
from covjax.training.log import Log, NoLog, draw_training, read_log
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

SIDES = ("outside", "inside")  # of regions
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # of the smoothing of k-mer models; the best on the held-out bases is shown


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Everything that decides what a language model is trained on and how."""

    data: str = option("", "genome in FASTA (also .gz)", NOTHING)
    output: str = option("runs/encoder", "folder of the checkpoints, logs, figures and the encoder", NOTHING)
    holdout: str = option("", "records held out from training, separated by commas")
    regions: str = option(
        "", "BED of regions (genes, …); the held-out figures are also given inside and outside them", NOTHING
    )
    width: int = option(128, "features of a token, in the convolutions over single bases", **at_least(2))
    blocks: int = option(4, "Transformer blocks", **at_least(1))
    heads: int = option(4, "heads of attention; 2 · heads divides the width of the blocks", **at_least(1))
    downsamples: int = option(2, "blocks that halve the length before the Transformer", **at_least(1))
    length: int = option(512, "bases in a window; a multiple of 2^downsamples", **at_least(16))
    steps: int = option(3000, "optimiser steps", **at_least(1))
    batch: int = option(48, "windows per step", **at_least(1))
    learning_rate: float = option(2e-3, "peak rate of AdamW", allowed=lambda rate: rate > 0, rule="> 0")
    warmup: int = option(200, "steps over which the rate rises from 0", **at_least(0))
    weight_decay: float = option(0.01, "decay of matrices", allowed=lambda decay: decay >= 0, rule=">= 0")
    seed: int = option(0, "seed of the windows, the hidden bases and the initial parameters", **at_least(0))
    dtype: str = option(
        "float32",
        "float32 or bfloat16: type of the computation; parameters are float32",
        allowed=lambda name: name in ("float32", "bfloat16"),
        rule="float32 or bfloat16",
    )
    held_windows: int = option(512, "held-out windows for the figures", NUMBERS, **at_least(1))
    save_every: int = option(500, "steps between checkpoints", NOTHING, **at_least(1))
    evaluate_every: int = option(500, "steps between evaluations on the held-out records", NOTHING, **at_least(1))
    log_every: int = option(20, "steps between rows of the log", NOTHING, **at_least(1))
    snapshots: tuple[int, ...] = option(
        (),
        "steps after which the encoder is also written, to snapshots/STEP; 0 is before the first",
        NOTHING,
        allowed=lambda steps: all(step >= 0 for step in steps),
        rule=">= 0",
    )

    def check(self) -> None:
        """Raise InputError naming the first field whose value is not allowed."""
        if not self.data:
            raise InputError("data: '' is not allowed; expected a genome in FASTA")
        check_options(self)
        if not 0 <= self.warmup <= self.steps:
            raise InputError(f"warmup: {self.warmup} is not allowed; 0 to steps")
        if late := [step for step in self.snapshots if step > self.steps]:
            raise InputError(f"snapshots: {late[0]} is not allowed; 0 to steps, {self.steps}")
        if self.length % 2**self.downsamples:
            raise InputError(f"length: {self.length} is not a multiple of {2**self.downsamples} (2^downsamples)")
        if self.width % (2 * self.heads):
            raise InputError(f"heads: {self.width} features cannot be divided by 2 · {self.heads}")

    def model(self) -> dict[str, Any]:
        """config.json of the encoder."""
        return {
            **{"model_type": "ntv3", "alphabet_size": len(VOCABULARY), "pad_token_id": 1, "mask_token_id": 2},
            **{"token_embed_dim": 16, "conv_init_embed_dim": self.width, "embed_dim": self.width},
            **{"ffn_embed_dim": 2 * self.width, "num_layers": self.blocks, "num_downsamples": self.downsamples},
            **{"attention_heads": self.heads, "key_size": self.width // self.heads},
            **{"deconv_upsample_type": "conv_transpose", "use_skip_connection": True, "layer_norm_eps": 1e-5},
        }


RUN = "covjax train encoder"
ENCODERS = ("encoder", "snapshots/*", "start")
OWNS = (
    *("checkpoints/*/", "log.jsonl", "tensorboard/events.out.tfevents.*", "held-out.json", "figures/training.png"),
    *(f"{folder}/{name}" for folder in ENCODERS for name in FILES),
    *(f"{folder}/" for folder in (*ENCODERS, "snapshots")),
)
MAIN_OPTIONS = ("data", "holdout", "output", "steps", "length", "width", "blocks")


class Genome(NamedTuple):
    """What a run reads: windows to train on and to judge by, the k-mer models' counts, and what identifies them."""

    train: Windows
    held: Windows
    rivals: TwoSided
    digest: str


def train_encoder(config: EncoderConfig, force: bool = False) -> dict[str, Any]:
    """Run or resume a training; returns what stands in `held-out.json`.

    `force` removes first what a training left in the folder, once all that it reads has been checked.

    Raises InputError for everything a user can put right.
    """
    config.check()
    with claim(config.output, RUN, OWNS) as folder:
        return _train(config, force, folder)


def _train(config: EncoderConfig, force: bool, folder: RunFolder) -> dict[str, Any]:
    output = folder.path
    genome = read_genome(config)
    mesh = data_mesh(config.batch)
    settings = decided_by(config, FEATURES, NUMBERS)
    manifest = json.loads(json.dumps({"config": settings, "data": genome.digest, "versions": {"jax": jax.__version__}}))
    folder.begin(manifest, force, {"data": config.data, "regions": config.regions})
    start = folder.path / "start"
    if is_first():
        start.mkdir(exist_ok=True)
        (start / "config.json").write_text(json.dumps(config.model(), indent=1) + "\n")

    def make(tensors: AskedTensors) -> NTv3:
        return NTv3("start", start, np.float32, tensors)

    model = MaskedModel(make(AskedTensors(initial_weights(config.seed))), config.dtype)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    note(f"{parameters:,} parameters, {config.batch * config.length:,} bases per step")
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
            x, weights = genome.train.batch(config.batch, config.seed, step)
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
                sums = _held_out_sums(config, genome, functools.partial(_evaluated, evaluation, state, mesh))
                figures = nnx.merge(graph, state).model.summarise(sums)
                log.write(step, "held-out", figures, time.monotonic() - begin)
            if saves:
                position = {"step": step, "rows": log.rows}
                save_step_together(output / "checkpoints", step, plain(state), manifest | position)
    report: dict[str, Any] = {}
    if is_first():
        report = _finish(config, genome, nnx.merge(graph, state).model, make, parameters)
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

    path = Path(config.output) / name
    temporary = path.with_name(f"{path.name}.{TEMPORARY}")
    save_folder(temporary, config.model(), named_tensors(make, model.encoder), ml_dtypes.bfloat16)
    path.mkdir(exist_ok=True)
    for file in FILES:
        put(temporary / file, path / file)
    temporary.rmdir()
    return path


def _finish(config: EncoderConfig, genome: Genome, model: MaskedModel, make: Any, parameters: int) -> dict[str, Any]:
    """Write the encoder, and judge what was written: weights of 16 bits."""
    output = Path(config.output)
    trained = MaskedModel(load(_save_encoder(config, model, make, "encoder")), "float32")
    sums = _held_out_sums(config, genome, nnx.jit(lambda *batch: trained.evaluate(*batch)))
    report = {"parameters": parameters, "model": _figures(sums), "k-mers": _rival_figures(config, genome)}
    with new_text(output / "held-out.json") as file:
        file.write(json.dumps(report, indent=1) + "\n")
    draw_training(read_log(output), output / "figures" / "training.png")
    return report


def read_genome(config: EncoderConfig) -> Genome:
    """Read and check the genome, and split its records into those for training and those for judging."""
    records, digest = {}, hashlib.sha256()
    for name, sequence in stream_chromosomes(config.data):
        records[name] = base_codes(sequence, name)
        digest.update(name.encode() + records[name].tobytes())
    names = [*dict.fromkeys(name.strip() for name in config.holdout.split(",") if name.strip())]
    if unknown := [name for name in names if name not in records]:
        some = ", ".join(shown(name, 40) for name in [*records][:5])
        raise InputError(f"holdout: {shown(unknown[0])} is not a record of {config.data}; it has {some}, …")
    if not names or len(names) == len(records):
        raise InputError(f"holdout: {config.holdout!r} leaves nothing to train on or to judge by; name some records")
    inside = _inside(config, records, names) if config.regions else None
    if short := [name for name, codes in records.items() if len(codes) < config.length]:
        some = ", ".join(shown(name, 40) for name in short[:NAMED])
        warn(f"{config.data}: left out {len(short):,} records shorter than {config.length} bases: {some}")
    weights = dict(zip(records, repeat_weights([*records.values()]), strict=True))
    numbers = np.array([LETTERS[letter] for letter in "ACGTN"], np.int32)
    mask = VOCABULARY.index("<mask>")
    rest = {name: codes for name, codes in records.items() if name not in names}
    held = {name: records[name] for name in names}
    note(f"{sum(map(len, rest.values())):,} bases to train on, {sum(map(len, held.values())):,} held out")
    train, judge = (
        Windows(part, counts, inside, config.length, numbers, mask) for part, counts in ((rest, weights), (held, None))
    )
    if not any(hidden.any() for _, hidden in judge.held_out(config.held_windows, config.batch, config.seed)):
        raise InputError("holdout: no known base is hidden in the held-out windows; hold out more, or raise --length")
    return Genome(train, judge, TwoSided([*rest.values()]), digest.hexdigest())


def _inside(config: EncoderConfig, records: Mapping[str, np.ndarray], held: Sequence[str]) -> dict[str, np.ndarray]:
    lines = defaultdict[str, list[int]](list)
    for region in (regions := read_bed(config.regions)):
        lines[region.chromosome].append(region.line)
    report_absent(config.regions, config.data, lines, [*records], warn)
    if not set(lines) & set(held):
        raise InputError(f"regions: none of {config.regions} lies on a held-out record; leave --regions out")
    return inside_regions(regions, records)


def _evaluated(evaluation: Any, state: Any, mesh: Any, x: np.ndarray, weights: np.ndarray) -> Any:
    return evaluation(state, *distribute(mesh, (x, weights)))


def _held_out_sums(config: EncoderConfig, genome: Genome, sums: Any) -> Any:
    batches = genome.held.held_out(config.held_windows, config.batch, config.seed)
    parts = [np.asarray(sums(*batch), np.float64) for batch in batches]
    return sum(parts)


def _figures(sums: Any) -> dict[str, Mapping[str, float]]:
    """Nats, perplexity, accuracy and the number of bases, in all and on both sides of regions where there are some."""

    def one(nats, right, count):
        nats = nats / count
        return {"nats": nats, "perplexity": float(np.exp(nats)), "accuracy": right / count, "bases": int(count)}

    parts = {"all": sums.sum(0), **{side: part for side, part in zip(SIDES, sums) if 0 < part[2] < sums[:, 2].sum()}}
    return {name: one(*map(float, part)) for name, part in parts.items()}


def _rival_figures(config: EncoderConfig, genome: Genome) -> dict[str, dict[str, float]]:
    """Nats of the two-sided models on the same bases; unlike the model's, none of their neighbours is hidden."""
    back = np.full(len(VOCABULARY), UNKNOWN)
    back[[LETTERS[letter] for letter in "ACGT"]] = range(4)
    losses: dict[float, list[np.ndarray]] = {strength: [] for strength in STRENGTHS}
    for x, weights in genome.held.held_out(config.held_windows, config.batch, config.seed):
        for codes, weight in zip(back[x[:, 1]], weights):
            for strength, parts in losses.items():
                parts.append(genome.rivals.nats(codes, np.flatnonzero(weight), strength))
    means = {strength: np.concatenate(parts, 1).mean(1) for strength, parts in losses.items()}
    best = {k: min(STRENGTHS, key=lambda strength: means[strength][k]) for k in range(MARGIN + 1)}
    return {str(k): {"nats": float(means[best[k]][k]), "smoothing": best[k]} for k in best}


def main(argv: Sequence[str], command: str = "covjax train encoder") -> int:
    """The command under the name it was typed by; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        config, flags = parse(command, __doc__ or "", EncoderConfig, argv, MAIN_OPTIONS, distributed=True)
        with silence(flags.quiet), job(command, flags.distributed):
            report = train_encoder(config, force=flags.force)
            if report:
                best = min(report["k-mers"], key=lambda k: report["k-mers"][k]["nats"])
                print(
                    f"held-out: {report['model']['all']['nats']:.4f} nats a hidden base; the best k-mer model, {best} "
                    f"on each side, {report['k-mers'][best]['nats']:.4f}; encoder in {config.output}/encoder"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
