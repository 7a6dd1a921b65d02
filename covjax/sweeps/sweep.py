"""Train one autoencoder for every combination of some settings, in one pass over the data, and compare them.

Trainings take turns: step by step, each on the same batch, which is read or encoded once. What comes out is bit for bit
what each training alone gives. Where their states do not fit into memory together, several passes are made.
"""

import contextlib
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from covjax.activations.windows import Activations, hold
from covjax.autoencoders import autoencoder_options, load_autoencoder
from covjax.autoencoders.stability import max_cosines
from covjax.errors import InputError, shown
from covjax.inputs import TableLike
from covjax.jobs.folder import claim, write_text
from covjax.notes import note, progress, silence
from covjax.options import FEATURES, NUMBERS, decided_by
from covjax.sweeps.measures import Measured, check_labels, measure
from covjax.sweeps.page import write_page
from covjax.training.autoencoder import (
    Training,
    read_activations,
    state_shapes,
    training,
)
from covjax.training.batches import SharedStream, StreamReader, split_rows
from covjax.training.config import AutoencoderConfig
from covjax.training.state import share_memory, state_bytes

RUN = "covjax train --sweep"
PAGE, NUMBERS_FILE = "sweep.html", "sweep.json"
OWNS = ("members/*/", PAGE, NUMBERS_FILE, "pareto.png")
# What members may differ in beside the options of their kind; all else says which data they see, and when.
SETTINGS = ("kind", "learning_rate", "warmup", "decay", "clip", "seed")


class Member(NamedTuple):
    """One training of a sweep: its name, which is its folder's, the values swept over, and its config."""

    name: str
    values: dict[str, Any]
    config: AutoencoderConfig


def members(config: AutoencoderConfig) -> list[Member]:
    """The trainings of a config's `sweep`, every value of one setting with every value of the others.

    Raises InputError for a setting that cannot be swept over, one without values, and values that are given twice.
    """
    if not config.sweep:
        raise InputError("sweep: nothing to sweep over; give values, such as --sweep k=16,32,64")
    kinds = config.sweep.get("kind", (config.kind,))
    options = {name for kind in kinds for name in autoencoder_options(kind)}
    for name, entries in config.sweep.items():
        if name not in SETTINGS and name not in options:
            allowed = ", ".join([*SETTINGS, *sorted(options)])
            raise InputError(
                f"sweep: {shown(name)} is not an option of {', '.join(map(str, kinds))}; allowed: {allowed}"
            )
        if not isinstance(entries, tuple | list) or not entries:
            raise InputError(f"sweep: {name} is {shown(entries)}; expected a tuple of one or more values")
    trainings: dict[str, Member] = {}
    for combination in itertools.product(*config.sweep.values()):
        values = dict(zip(config.sweep, combination, strict=True))
        name = "_".join(f"{key}-{_plain(value)}" for key, value in values.items())
        if name in trainings:
            raise InputError(f"sweep: {name} is given twice")
        fields: dict[str, Any] = {key: value for key, value in values.items() if key in SETTINGS}
        own = {key: value for key, value in values.items() if key not in SETTINGS}
        output = f"{config.output}/members/{name}"
        one = dataclasses.replace(
            config, **fields, options=config.options | own, output=output, sweep={}, labels="", wandb=""
        )
        one.check()
        trainings[name] = Member(name, values, one)
    return list(trainings.values())


def _plain(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9.+]+", "-", str(value)).strip("-")


def train_sweep(
    config: AutoencoderConfig,
    activations: Activations | None = None,
    labels: TableLike | None = None,
    force: bool = False,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Train or resume all members of a config's `sweep`, and measure them; returns what also stands in `sweep.json`.

    Args:
        config: with `sweep`, such as {"k": (16, 32), "latents": (1024, 4096)}.
        activations: stand in for the config's store or data.
        labels: (sequences, labels) of 0 and 1, in the order of the sequences, for the probes; None: no probes.
        force: remove first what a sweep left in the folder.
        names: of the labels.

    Every member lies in `members/NAME` of the output, as `train_autoencoder` would have left it.
    Raises InputError for everything a user can put right, before anything is trained.
    """
    whole = members(config)
    if jax.process_count() > 1:
        raise InputError("sweep: a sweep runs in one process; train its members one by one with --distributed")
    if config.wandb:
        raise InputError(f"wandb: {shown(config.wandb)}: a sweep does not write to wandb; see its page and TensorBoard")
    with claim(config.output, RUN, OWNS) as folder:
        if activations is None and config.store:
            folder.refuse_input("store", config.store)
        source = read_activations(config) if activations is None else activations
        targets = None if labels is None else check_labels(labels, len(source.lengths))
        tokens = hold(source, jax.numpy.dtype(config.dtype), config.max_memory_gib)
        sizes = [_state_bytes(member, tokens.features) for member in whole]
        settings = {k: v for k, v in decided_by(config, FEATURES, NUMBERS).items() if k not in config.sweep}
        settings["options"] = {k: v for k, v in config.options.items() if k not in config.sweep}
        identity = {"config": settings, "data": tokens.identity, "members": {each.name: each.values for each in whole}}
        inputs = {"store": config.store, "data": config.data, "encoder": config.encoder, "labels": config.labels}
        folder.begin(identity, force, inputs, grows="members")
        groups = share_memory(sizes)
        note(f"{len(whole)} autoencoders in {len(groups)} pass{'es' * (len(groups) > 1)} over the data")
        with progress(total=config.steps * len(whole), unit="step") as bar:
            for group in groups:
                train_together([whole[number] for number in group], tokens, bar)
        results = _measure(config, whole, tokens, targets, names)
        write_text(folder.path / NUMBERS_FILE, json.dumps(results, indent=1) + "\n")
        write_page(results, folder.path)
    return results


def _state_bytes(member: Member, features: int) -> int:
    try:
        shapes = state_shapes(member.config, features)
    except InputError as error:
        raise InputError(f"sweep: {member.name}: {error}") from None
    return 0 if shapes is None else state_bytes(shapes)


def train_together(group: Sequence[Member], activations: Activations, bar: Any) -> None:
    """Do all steps of some trainings, those that are behind first, so that in the end all take each batch together."""
    streams: dict[tuple[str, int], SharedStream] = {}

    def open_stream(data_set: Any, key: tuple[str, int]) -> StreamReader:
        if key not in streams:
            streams[key] = SharedStream(data_set)
        return streams[key].reader()

    with contextlib.ExitStack() as stack:
        runs: dict[str, Training] = {}
        for member in group:
            runs[member.name] = training(member.config, activations, open_stream=open_stream)
            stack.enter_context(contextlib.closing(runs[member.name]))
        steps: dict[str, int] = {}
        for name in list(runs):
            _advance(runs, steps, name)
            bar.update(steps.get(name, group[0].config.steps))
        while steps:
            least = min(steps.values())
            for name in [name for name, step in steps.items() if step == least]:
                _advance(runs, steps, name)
                bar.update()


def _advance(runs: Mapping[str, Training], steps: dict[str, int], name: str) -> None:
    with silence(True), _named(name):
        try:
            steps[name] = next(runs[name])
        except StopIteration:
            steps.pop(name, None)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _measure(
    config: AutoencoderConfig,
    whole: Sequence[Member],
    activations: Activations,
    targets: np.ndarray | None,
    names: Sequence[str] | None,
) -> dict[str, Any]:
    train_rows, held_rows = split_rows(len(activations.lengths), config.held_out, config.split_seed)
    rows, decoders = [], {}
    reference: dict[str, float] = {}
    for member in progress(whole, unit="autoencoder"):
        path = f"{config.output}/members/{member.name}"
        with open(f"{path}/held-out.json") as file:
            report = json.load(file)
        model = load_autoencoder(f"{path}/autoencoder")
        row: dict[str, Any] = {"name": member.name, "values": member.values, "kind": member.config.kind}
        row |= {"options": member.config.options, "held_out": report["figures"]}
        row["loss_recovered"] = report.get("loss_recovered", {}).get("recovered_from_mean")
        measures: Measured = measure(model, activations, train_rows, held_rows, targets, names)
        row |= measures.figures
        reference |= measures.reference
        rows.append(row)
        if hasattr(model, "decoder"):
            decoders[member.name] = np.asarray(model.decoder[...])
    for row, member in zip(rows, whole, strict=True):
        row["stability"] = _stability(member, whole, decoders)
    for row in rows:
        row["on_front"] = on_front(row, rows)
    settings = {**decided_by(config, FEATURES, NUMBERS), "sweep": config.sweep}
    return json.loads(json.dumps({"config": settings, "members": rows, "reference": reference}))


def _stability(member: Member, whole: Sequence[Member], decoders: Mapping[str, np.ndarray]) -> dict[str, float] | None:
    """The mean max cosine of a member's latents with those of the same settings at other seeds, and by chance."""

    def same(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key != "seed"}

    names = [each.name for each in whole if each.name != member.name and same(each.values) == same(member.values)]
    if member.name not in decoders or not names:
        return None
    own = decoders[member.name]
    cosines = [float(max_cosines(own, decoders[name]).mean()) for name in names]
    chance = max_cosines(*np.random.default_rng(0).normal(size=(2, *own.shape)))
    return {"mean_max_cosine": float(np.mean(cosines)), "by_chance": float(chance.mean()), "others": len(names)}


def on_front(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether no row is at least as good in FVU and L0 and better in one; None for a row without both figures."""

    def point(each: Mapping[str, Any]) -> tuple[float, float] | None:
        figures = each["held_out"]
        return (figures["fvu"], figures["l0"]) if {"fvu", "l0"} <= figures.keys() else None

    own = point(row)
    if own is None:
        return None
    others = [other for each in rows if (other := point(each)) is not None and other != own]
    return not any(other[0] <= own[0] and other[1] <= own[1] for other in others)
