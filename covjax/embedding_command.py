"""The commands `covjax embed` and `covjax predict`: a file of sequences in, vectors or predictions out."""

import csv
import dataclasses
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covjax.data.pairs import check_kind, read_pairs
from covjax.data.sequences import check_readable, read_tidy, tidy
from covjax.errors import InputError, shown
from covjax.extras import need
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import TEMPORARY, new_text, put, refuse_address, refuse_existing, text_cell, writing
from covjax.notes import note, silence
from covjax.options import NOTHING, check_options, option

if TYPE_CHECKING:  # JAX takes seconds to import, and the help needs none of it
    from covjax.comparison.model import Model
    from covjax.embedder import Embedder

SUFFIXES = (".npz", ".npy", ".parquet", ".h5", ".csv")
FORCE = "replace the files that are there"
LETTERS_HELP = "accept letters other than those that the encoder reads"
LENGTH = option(
    2000,
    "longest sequence allowed, in letters; longer ones are refused, never cropped",
    NOTHING,
    lambda n: n >= 1,
    ">= 1",
)
EMBED = """One vector for every sequence of a file.

    covjax embed proteins.fasta --recipe log_covariance --to embeddings.npz
    covjax embed new.fasta --fitted embeddings.npz.fitted --to new.npz

The recipe is fitted, without labels, on the file's own sequences, and its state is written beside the vectors. Rows of
two files compare only under one state: --fitted applies that of an earlier run.
"""
PREDICT = """Predictions of a comparison's model for new sequences.

    covjax predict runs/mine/model new.fasta --to predictions.csv
    covjax predict runs/mine/model --activations new.npz
"""


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """What `covjax embed` is told."""

    data: str = option("", "sequences: FASTA, CSV, TSV, Parquet or text", NOTHING)
    to: str = option(
        "embeddings.npz", f"file to write, one of {', '.join(SUFFIXES)}; the ids are stored with the rows", NOTHING
    )
    recipe: str = option("log_covariance", "one of the recipes that `covjax info` lists")
    fitted: str = option(
        "", "fitted state that an earlier run wrote beside its file; its recipe, layer and eps are used"
    )
    encoder: str = option("unirep-64", "name, folder or hub id of the encoder")
    layer: int = option(-1, "layer whose tokens are pooled; -1 is the last")
    eps: float = option(0.01, "ε of log(Σ+εI), on standardised tokens", allowed=lambda eps: eps > 0, rule="> 0")
    max_length: int = LENGTH
    force_letters: bool = option(False, LETTERS_HELP, NOTHING)
    cache: str = option("", "folder for token activations; sequences already in it are not encoded again", NOTHING)
    token_budget: int = option(16384, "tokens per encoder batch", allowed=lambda n: n >= 1, rule=">= 1")
    max_memory_gib: float = option(2.0, "most token activations kept in memory", NOTHING, lambda gib: gib >= 0, ">= 0")
    seed: int = option(
        0, "seed of random bases, autoencoders and shuffles", allowed=lambda seed: seed >= 0, rule=">= 0"
    )


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What `covjax predict` is told."""

    model: str = option("", "folder model/ that `covjax compare` wrote", NOTHING)
    data: str = option("", "sequences: FASTA, CSV, TSV, Parquet or text", NOTHING)
    to: str = option("predictions.csv", "CSV to write: id, prediction, and a score for every label", NOTHING)
    encoder: str = option("", "where the encoder is now, if it has moved since the comparison", NOTHING)
    activations: str = option(
        "", "instead of sequences, for a model of activations: a file or folder, as in covjax compare", NOTHING
    )
    max_length: int = LENGTH
    force_letters: bool = option(False, LETTERS_HELP, NOTHING)


def embed_main(argv: Sequence[str], command: str = "covjax embed") -> int:
    """Embed a file's sequences; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        main = ("data", "to", "recipe", "encoder", "layer", "fitted")
        config, flags = parse(command, EMBED, EmbedConfig, argv, main, force=FORCE)
        check_options(config)
        path = writable(config.to, SUFFIXES, flags.force)
        if not config.data:
            raise InputError(f"data: no file is named; {command} proteins.fasta --to embeddings.npz")
        state = path.with_name(f"{path.name}.fitted")
        if not config.fitted:
            _check_state(state, flags.force)
        from covjax.jobs.compiled import store_compiled_programs

        with silence(flags.quiet):
            store_compiled_programs()
            ids, sequences = read_tidy(config.data, config.max_length)
            embedder = _embedder(config, vars(flags))
            if config.fitted:
                note(f"state: {config.fitted} ({embedder.recipe}, fitted earlier)")
            check_readable(config.data, ids, sequences, embedder.load_encoder(), config.force_letters)
            if not config.fitted:
                embedder.fit(sequences)
            vectors = embedder.transform(sequences)
            if not config.fitted:
                embedder.save(state)
                note(f"state: fitted on these {len(ids):,} sequences, written to {state}; others: --fitted {state}")
            write_vectors(path, ids, vectors)
        print(f"{len(ids):,} sequences x {vectors.shape[1]:,} numbers ({embedder.recipe}) in {path}")
    return 0


def _check_state(state: Path, force: bool) -> None:
    """Refuse to write over a state unasked, and over anything else at all."""
    from covjax.jobs.checkpoint import CHECKPOINT

    is_state = (state / CHECKPOINT).is_file()
    if os.path.lexists(state) and not (force and is_state):
        remedy = ", or add --force to replace it" if is_state else ""
        raise InputError(f"to: {state}, where the fitted state goes, is there already; name another file{remedy}")


def _embedder(config: EmbedConfig, given: Collection[str]) -> "Embedder":
    """That of `fitted` under the limits given here, or a new one.

    `given` are the options that were typed. InputError where these, or others than the defaults, contradict `fitted`.
    """
    from covjax.embedder import Embedder

    limits = {"token_budget": config.token_budget, "max_memory_gib": config.max_memory_gib}
    more: dict[str, Any] = {**limits, "cache": config.cache or None}
    settings = {name: getattr(config, name) for name in ("recipe", "layer", "eps", "seed")}
    if not config.fitted:
        return Embedder(config.encoder, **settings, **more)
    encoder = config.encoder if "encoder" in given or config.encoder != EmbedConfig.encoder else None
    embedder = Embedder.load(config.fitted, encoder).set_params(**more)
    for name, value in settings.items():
        there = getattr(embedder, name)
        if value != there and (name in given or value != getattr(EmbedConfig, name)):
            raise InputError(
                f"{name}: {shown(value)}, but {config.fitted} was fitted with {shown(there)}; leave it out"
            )
    return embedder


def predict_main(argv: Sequence[str], command: str = "covjax predict") -> int:
    """Predict for a file's sequences with a comparison's model; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        main = ("model", "data", "to", "encoder", "activations")
        config, flags = parse(command, PREDICT, PredictConfig, argv, main, files=("model", "data"), force=FORCE)
        check_options(config)
        path = writable(config.to, (".csv",), flags.force)
        if not (config.model and (config.data or config.activations)):
            absent = "data" if config.model else "model"
            raise InputError(f"{absent}: none is named; {command} runs/mine/model new.fasta")
        from covjax.comparison.model import Model, cells
        from covjax.jobs.compiled import store_compiled_programs

        with silence(flags.quiet):
            store_compiled_programs()
            model = Model.load(config.model, config.encoder or None)
            score = _scores if model.reading is None else _activation_scores
            ids, scores = (_pair_scores if model.pair is not None else score)(model, config)
        decisions = cells(model.decide(scores), model.task, model.labels)
        labels = () if model.task == "regression" else model.labels
        with new_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(map(text_cell, ["id", "prediction", *labels]))
            for name, decision, row in zip(ids, decisions, scores):
                numbers = [f"{value:.7g}" for value in row] if labels else []
                writer.writerow([text_cell(name), text_cell(decision), *numbers])
        kind = "probabilities" if model.probe_name == "logistic" else "scores"
        more = f", {kind} of {len(labels)} labels" if labels else ""
        print(f"{len(ids):,} predictions{more} in {path}")
    return 0


def _scores(model: "Model", config: PredictConfig) -> tuple[tuple[str, ...], np.ndarray]:
    if config.activations:
        raise InputError(f"activations: {config.model} has its own encoder; give sequences")
    ids, sequences = read_tidy(config.data, config.max_length)
    check_readable(config.data, ids, sequences, model.embedder.load_encoder(), config.force_letters)
    return ids, model.scores(sequences)


def _pair_scores(model: "Model", config: PredictConfig) -> tuple[tuple[str, ...], np.ndarray]:
    if config.activations:
        raise InputError(f"activations: {config.model} predicts for pairs of sequences; give a table of them")
    ids, *columns = read_pairs(config.data)
    roles = ("sequence", "sequence_b")
    first, second = (tidy(config.data, ids, each, config.max_length, role) for each, role in zip(columns, roles))
    for sequences in (first, second):
        check_readable(config.data, ids, sequences, model.embedder.load_encoder(), config.force_letters)
    check_kind(dict(model.pair or {})["kind"], first, second, lambda i: f"{config.data}: {shown(ids[i])}")
    return ids, model.scores(list(zip(first, second)))


def _activation_scores(model: "Model", config: PredictConfig) -> tuple[tuple[str, ...], np.ndarray]:
    """Of all activations of the file, in its order; read as the comparison read its own."""
    if config.data or not config.activations:
        raise InputError(
            f"activations: {config.model} predicts from activations alone; {config.model} --activations NEW"
        )
    from covjax.activations import read_activations

    given = read_activations(config.activations, **dict(model.reading or {}), max_gib=model.embedder.max_memory_gib)
    return given.ids, model.scores(given)


def write_vectors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Write rows with their ids, whole or not at all: arrays `ids` and `vectors`, or columns `id` and `vector`.

    `.npy` holds the vectors alone; their ids stand in `.ids.txt` beside it, one a line.

    Raises InputError for a suffix that needs a package which is not there, and a disk that is full.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        with new_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", *(f"x{i}" for i in range(vectors.shape[1]))])
            writer.writerows([text_cell(name), *(f"{v:.9g}" for v in row)] for name, row in zip(ids, vectors))
        return
    if suffix == ".npy":
        if odd := [name for name in ids if len(name.splitlines()) != 1]:
            raise InputError(f"to: the id {shown(odd[0])} is not one line, as the list beside .npy needs; use .npz")
        with new_text(path.with_suffix(".ids.txt")) as file:
            file.writelines(f"{name}\n" for name in ids)
    part = path.with_name(f".{path.name}.{TEMPORARY}")
    try:
        with writing(path, vectors.nbytes):
            path.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[suffix](part, ids, vectors)
            put(part, path)
    except OSError as error:
        raise InputError(f"to: {path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _write_npz(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    with path.open("wb") as file:
        np.savez(file, ids=np.array(ids, dtype=str), vectors=vectors)


def _write_npy(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, vectors)


def _write_parquet(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    import pyarrow
    from pyarrow import parquet

    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    parquet.write_table(pyarrow.table({"id": pyarrow.array(list(ids)), "vector": lists}), path)


def _write_hdf5(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
        file.create_dataset("vectors", data=vectors)


WRITERS = {".npz": _write_npz, ".npy": _write_npy, ".parquet": _write_parquet, ".h5": _write_hdf5}
PACKAGES = {".parquet": ("pyarrow", "parquet", "to: writing Parquet"), ".h5": ("h5py", "keras", "to: writing HDF5")}


def writable(to: str, suffixes: Sequence[str], force: bool) -> Path:
    """The file to write, refused before hours of work where it cannot be."""
    refuse_address("to", to)
    path = Path(to)
    if (suffix := path.suffix.lower()) not in suffixes:
        raise InputError(f"to: {shown(to, 60)} ends in none of {', '.join(suffixes)}")
    if suffix in PACKAGES:
        need(*PACKAGES[suffix])
    for each in (path, path.with_suffix(".ids.txt")) if suffix == ".npy" else (path,):
        if os.path.isdir(each):
            raise InputError(f"to: {each} is a folder; name a file")
        refuse_existing("to", each, force, "file")
    return path
