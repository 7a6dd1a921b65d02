"""The commands `covjax embed` and `covjax predict`: a file of sequences in, vectors or predictions out."""

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from covjax.comparison.model import Model, cells
from covjax.data.dataset import tidy_sequences
from covjax.data.sequences import read_sequences
from covjax.embedder import Embedder
from covjax.errors import InputError, shown
from covjax.jobs.cli import exit_on_input_error, parse
from covjax.jobs.disk import new_text
from covjax.notes import note
from covjax.options import NOTHING, at_least, option

EMBED = """One vector for every sequence of a file.

    covjax embed proteins.fasta --to embeddings.npz
"""
PREDICT = """Predictions of a comparison's model for new sequences.

    covjax predict runs/mine/model new.fasta --to predictions.csv
"""
SUFFIXES = (".npz", ".npy", ".parquet", ".h5", ".csv")


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """What `covjax embed` is told."""

    data: str = option("", "sequences: FASTA, CSV, TSV, Parquet or text", NOTHING)
    to: str = option(
        "embeddings.npz", f"file to write, one of {', '.join(SUFFIXES)}; ids stand beside the rows", NOTHING
    )
    recipe: str = option("log_covariance", "as `covjax info` lists them")
    fitted: str = option("", "state that an earlier run wrote beside its file; rows compare only under one state")
    encoder: str = option("unirep-64", "name, folder or hub id of the encoder")
    layer: int = option(-1, "layer whose tokens are pooled; -1 is the last")
    eps: float = option(0.01, "ε of log(Σ+εI), on standardised tokens", allowed=lambda eps: eps > 0, rule="> 0")
    cache: str = option("", "folder for token activations; what is there is not encoded again", NOTHING)
    token_budget: int = option(16384, "tokens per encoder batch", **at_least(1))
    max_memory_gib: float = option(2.0, "token activations kept in memory", NOTHING)
    seed: int = option(0, "seed of random bases, autoencoders and shuffles")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What `covjax predict` is told."""

    model: str = option("", "folder model/ that `covjax compare` wrote", NOTHING)
    data: str = option("", "sequences: FASTA, CSV, TSV, Parquet or text", NOTHING)
    to: str = option("predictions.csv", "CSV to write: id, prediction, and a score for every label", NOTHING)
    encoder: str = option("", "where the encoder lies now, if not where the comparison had it", NOTHING)


def embed_main(argv: Sequence[str], command: str = "covjax embed") -> int:
    """Embed a file's sequences; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        config, flags = parse(command, EMBED, EmbedConfig, argv, files=("data",))
        path = _writable(config.to, SUFFIXES, flags.force)
        if not config.data:
            raise InputError(f"data: no file is named; {command} proteins.fasta --to embeddings.npz")
        ids, sequences = _read(config.data)
        if config.fitted:
            embedder = Embedder.load(config.fitted)
            note(f"state: {config.fitted} ({embedder.recipe}, fitted earlier)")
        else:
            embedder = Embedder(
                config.encoder,
                config.recipe,
                layer=config.layer,
                eps=config.eps,
                token_budget=config.token_budget,
                max_memory_gib=config.max_memory_gib,
                cache=config.cache or None,
                seed=config.seed,
            ).fit(list(sequences))
            state = path.with_name(path.name + ".fitted")
            embedder.save(state)
            note(f"state: fitted on these {len(ids):,} sequences, written to {state}; others: --fitted {state}")
        vectors = embedder.transform(list(sequences))
        write_vectors(path, ids, vectors)
        print(f"{len(ids):,} sequences x {vectors.shape[1]:,} numbers ({embedder.recipe}) in {path}")
    return 0


def predict_main(argv: Sequence[str], command: str = "covjax predict") -> int:
    """Predict for a file's sequences with a comparison's model; exit status 2 and one line for a user's error."""
    with exit_on_input_error(command):
        config, flags = parse(command, PREDICT, PredictConfig, argv, files=("model", "data"))
        path = _writable(config.to, (".csv",), flags.force)
        if not (config.model and config.data):
            raise InputError(f"data: name a model and a file; {command} runs/mine/model new.fasta")
        model = Model.load(config.model, config.encoder or None)
        ids, sequences = _read(config.data)
        scores = model.scores(list(sequences))
        decisions = cells(model.decide(scores), model.task, model.labels)
        with new_text(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "prediction", *([] if model.task == "regression" else model.labels)])
            for name, decision, row in zip(ids, decisions, scores):
                writer.writerow([name, decision, *([] if model.task == "regression" else (f"{v:.7g}" for v in row))])
        kind = "probabilities" if model.probe_name == "logistic" else "scores"
        more = "" if model.task == "regression" else f", {kind} of {len(model.labels)} labels"
        print(f"{len(ids):,} predictions{more} in {path}")
    return 0


def _read(data: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and sequences, tidied as a comparison reads them; what was changed is said."""
    ids, sequences = read_sequences(data)
    notes: list[str] = []
    tidy = tidy_sequences(sequences, [f"{data}: {shown(name, 60)}" for name in ids], "sequence", notes)
    for text in notes:
        note(f"note: {data}: {text}")
    return ids, tidy


def write_vectors(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Write rows with their ids: arrays `ids` and `vectors`; `.npy` holds vectors alone, ids in `.ids.txt` beside it.

    Raises InputError for a suffix that needs a package which is not there, and a disk that is full.
    """
    suffix = path.suffix.lower()
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix in (".npz", ".npy"):
            content = io.BytesIO()
            if suffix == ".npz":
                np.savez(content, ids=np.array(ids, dtype=str), vectors=vectors)
            else:
                np.save(content, vectors)
                with new_text(path.with_suffix(".ids.txt")) as file:
                    file.writelines(f"{name}\n" for name in ids)
            part.write_bytes(content.getbuffer())
        elif suffix == ".parquet":
            _write_parquet(part, ids, vectors)
        elif suffix == ".h5":
            _write_hdf5(part, ids, vectors)
        else:
            with new_text(part) as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", *(f"x{i}" for i in range(vectors.shape[1]))])
                writer.writerows([name, *(f"{v:.9g}" for v in row)] for name, row in zip(ids, vectors))
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"to: {path} cannot be written: {error.strerror or error}") from None


def _write_parquet(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise InputError('to: Parquet needs the package pyarrow: pip install "covjax[parquet]"') from None
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), vectors.shape[1])
    parquet.write_table(pyarrow.table({"id": pyarrow.array(list(ids)), "vector": lists}), path)


def _write_hdf5(path: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    try:
        import h5py
    except ImportError:
        raise InputError('to: HDF5 needs the package h5py: pip install "covjax[keras]"') from None
    with h5py.File(path, "w") as file:
        file.create_dataset("ids", data=list(ids), dtype=h5py.string_dtype())
        file.create_dataset("vectors", data=vectors)


def _writable(to: str, suffixes: Sequence[str], force: bool) -> Path:
    path = Path(to)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"to: {shown(to, 60)} ends in none of {', '.join(suffixes)}")
    if path.exists() and not force:
        raise InputError(f"to: {path} is there already; name another file, or add --force to replace it")
    return path
