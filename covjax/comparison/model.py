"""The winner of a comparison to take away: embedder and probe as one object that predicts for new sequences."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from covjax.activations import ArrayTokens, GivenTokens
from covjax.comparison.config import CompareConfig
from covjax.comparison.mixtures import resolved
from covjax.comparison.probing import TASKS, FittedProbe, Probes, predictions, probe_names
from covjax.comparison.results import Results
from covjax.data import Dataset
from covjax.embedder import Embedder, origin
from covjax.embedding.fitted import FittedRecipe, fit_recipe
from covjax.embedding.primal import Sums, centred_probe
from covjax.embedding.tables import Table
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.disk import new_text, text_cell
from covjax.jobs.distributed import agree, is_first
from covjax.notes import note
from covjax.probes import DualProbe, LinearProbe
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import Components, with_parts

FORMAT = 1
HALF = 500 * 2**20  # bytes of weights above which they are kept in half precision
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Model:
    """A fitted recipe with its encoder, and a linear probe on its vectors.

    `labels` are the targets' names; `probe_name` is logistic or ridge, `task` multilabel, multiclass or regression. A
    model of given activations has none but these to predict for; `reading` says which layer and how many special tokens
    at both ends the comparison took (arguments of `covjax.activations.read_activations`).
    """

    embedder: Embedder
    probe: LinearProbe
    probe_name: str
    task: str
    labels: tuple[str, ...]
    reading: Mapping[str, int] | None = None

    def scores(self, X: Any) -> Float[np.ndarray, "n k"]:
        """What the metrics of the comparison see, of sequences or activations: probabilities, or ridge's scores."""
        return predictions(TASKS[self.task], self.probe_name, self.probe.scores(self.embedder.transform(X)))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Probability of every label; InputError for a probe that has none (ridge, regression)."""
        if self.probe_name != "logistic":
            raise InputError(
                f"predict_proba: the probe is {self.probe_name}, which gives scores; use scores or predict"
            )
        return self.scores(X)

    def predict(self, X: Any) -> np.ndarray:
        """Predict for sequences or activations: class names (n,), labels present (n, k), or numbers (n,) or (n, k)."""
        return self.decide(self.scores(X))

    def decide(self, scores: Float[np.ndarray, "n k"]) -> np.ndarray:
        """The prediction of given scores; see `predict`."""
        return decide(scores, self.task, self.labels)

    def save(self, path: str | Path, made_of: str = "") -> int:
        """Write embedder and probe into a folder; the bytes written. Weights over 500 MB are kept in half precision.

        `made_of` is a digest of what the model comes from; see `Model.made_of`.
        """
        path = Path(path)
        self.embedder.save(path / "embedder")
        weights = np.asarray(self.probe.weights, np.float32)
        dtype = np.float16 if weights.nbytes > HALF else np.float32
        manifest = {"format": FORMAT, "probe": self.probe_name, "task": self.task, "labels": list(self.labels)}
        manifest |= {"reading": self.reading, "made_of": made_of, "embedder": _digest(path / "embedder")}
        # One scale a label: half precision has few exponents.
        scale = np.maximum(np.abs(weights).max(0, initial=0), np.finfo(np.float32).tiny)
        state = {"weights": (weights / scale).astype(dtype), "scale": scale, "bias": np.asarray(self.probe.bias)}
        checkpoint.save(path / "probe", state, manifest)
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    @classmethod
    def made_of(cls, path: str | Path) -> str | None:
        """The digest that a model was saved under; None where no whole model is, every byte of which is read."""
        try:
            return cls._read(Path(path), None)[1]
        except InputError:
            return None

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None) -> "Model":
        """Read what `save` wrote; InputError for another folder, another format, and changed, cut or missing files.

        The encoder is loaded by its name at first use, or is the one given here.
        """
        return cls._read(Path(path), encoder)[0]

    @classmethod
    def _read(cls, path: Path, encoder: Any) -> tuple["Model", str]:
        manifest = checkpoint.read_manifest(path / "probe")
        if manifest is None or "probe" not in manifest:
            raise InputError(f"{path}: no model is saved there; `covjax compare` writes one as model/")
        if manifest["format"] != FORMAT:
            raise InputError(f"{path}: format {manifest['format']}, this version of covjax reads {FORMAT}")
        state = checkpoint.load(path / "probe", {"weights": 0, "scale": 0, "bias": 0})
        probe = LinearProbe(state["weights"].astype(np.float64) * state["scale"], state["bias"])
        embedder = Embedder.load(path / "embedder", encoder)
        if _digest(path / "embedder") != manifest["embedder"]:
            raise InputError(f"{path}: its embedder/ and probe/ are of two models; the same comparison makes it again")
        labels = tuple(manifest["labels"])
        reading = manifest.get("reading")  # older ones lack it: they have an encoder
        return cls(embedder, probe, manifest["probe"], manifest["task"], labels, reading), manifest["made_of"]


def _digest(path: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds those of its arrays."""
    return hashlib.sha256(json.dumps(checkpoint.read_manifest(path), sort_keys=True).encode()).hexdigest()


def decide(scores: Float[np.ndarray, "n k"], task: str, labels: tuple[str, ...]) -> np.ndarray:
    """Class names of the highest score, labels of at least one half, or the numbers as they are."""
    if task == "multiclass":
        return np.array(labels, dtype=object)[scores.argmax(1)]
    if task == "multilabel":
        return scores >= THRESHOLD
    return scores[:, 0] if scores.shape[1] == 1 else scores


def cells(decisions: np.ndarray, task: str, labels: tuple[str, ...]) -> list[str]:
    """Predictions, or the truth in the same form, as a table's cells: names joined by `;`, numbers to 7 digits."""
    if task == "multiclass":
        return [str(each) for each in decisions]
    if task == "multilabel":
        present: Bool[np.ndarray, "n k"] = decisions
        return [";".join(name for name, there in zip(labels, row) if there) for row in present]
    return [";".join(f"{value:.7g}" for value in np.atleast_1d(row)) for row in decisions]


def fit_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: Sequence[Recipe],
    name: str,
    folder: Path,
    identity: Mapping[str, Any],
    tables: Mapping[str, Table],
) -> FittedRecipe:
    """Fit the recipe of one row again on the training tokens, which gives the state that the comparison had.

    `folder` holds the trained pools and autoencoders of the comparison, made under `identity`, `tables` its rows'.
    """
    by_name = {recipe.name: resolved(recipe, tables) for recipe in recipes}
    *parts, recipe = with_parts(name, by_name)
    seeds = [recipe for recipe in recipes if getattr(recipe, "replica_of", "") == name]
    made_under = {key: identity[key] for key in ("data", "encoder")}
    train = data.rows("train")
    memory = config.memory_gib
    table = tables.get(recipe.part) if isinstance(recipe, Components) else None
    return fit_recipe([*parts, recipe], tokens, train, config.seed, folder, made_under, data, seeds, memory, table)


def make_model(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    fitted: FittedRecipe,
    fitted_probe: FittedProbe,
    probe_name: str,
    tables: Mapping[str, Table],
    sums: Sums | None,
) -> Model:
    """The model of one row of the comparison; of given activations it predicts for such alone.

    The probe of a wide row, which was compared through a kernel, gets its weights from `sums` of the training vectors.
    """
    probe: Any = fitted_probe.probe
    if sums is not None:
        # A sum of the parts' kernels is of blocks as they are; that of one matrix is of its centred and scaled rows.
        is_sum = any(tables[part].is_kernel for part in parts_of(fitted.recipe))
        probe = LinearProbe(sums.weighted, probe.bias) if is_sum else centred_probe(probe, sums)
    embedder = Embedder(
        config.encoder,
        fitted.recipe.name,
        layer=config.layer,
        eps=config.eps,
        ridge=config.ridge,
        token_budget=config.token_budget,
        max_memory_gib=config.memory_gib / 2,
        seed=config.seed,
    )
    embedder.adopt(fitted, *origin(tokens))
    reading = None
    if isinstance(tokens, GivenTokens):
        layer = config.layer if tokens.given.layer is None else tokens.given.layer
        reading = {"layer": layer, "drop_first": config.drop_first, "drop_last": config.drop_last}
    return Model(embedder, probe, probe_name, data.task, data.target_names, reading)


def keep_winner(
    config: CompareConfig,
    data: Dataset,
    tokens: ArrayTokens,
    recipes: Sequence[Recipe],
    tables: Mapping[str, Table],
    probes: Probes,
    results: Results,
    identity: Mapping[str, Any],
    output: Path,
) -> None:
    """Write `model/` of the row that validation chose, `Results.winner`, and `predictions.csv`; a model there stays.

    In a job of several processes all call this together; process 0 writes.
    """
    name = results.winner
    chosen = resolved(next(recipe for recipe in recipes if recipe.name == name), tables)
    kind = probe_names(config, data)[0]
    path = output / "model"
    made_of = dict(identity) | {"row": repr(chosen), "penalties": list(config.penalties)}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    done = is_first() and Model.made_of(path) == digest
    if not agree(np.int64(done)):
        note(f"model: {name}, {kind} probe")
        fitted = fit_winner(config, data, tokens, recipes, name, output / "pools", identity, tables)
        train, sums = data.rows("train"), None
        if tables[name].is_kernel:
            alpha = np.zeros((len(train), data.targets.shape[1]))
            if is_first():
                probe = probes[name][kind].probe
                assert isinstance(probe, DualProbe)
                alpha = np.asarray(probe.alpha, np.float64)
            sums = fitted.sums(tokens, train, agree(alpha))
        if is_first():
            model = make_model(config, data, tokens, fitted, probes[name][kind], kind, tables, sums)
            size = model.save(path, digest)
            new = "new.fasta" if model.reading is None else "--activations NEW"
            note(f"model: {path}, {size / 2**20:.1f} MiB; covjax predict {path} {new}")
    if is_first():
        write_predictions(output / "predictions.csv", data, kind, probes[name][kind], probes[results.reference][kind])


def write_predictions(path: Path, data: Dataset, probe_name: str, chosen: FittedProbe, reference: FittedProbe) -> None:
    """One line a sequence: id, split, truth, and what the chosen row and the mean predict for it.

    Sequences of the training and validation split are there too; their predictions are not a test of anything.
    """
    task = TASKS[data.task]
    truth = data.targets
    if data.task == "multiclass":
        truth = np.array(data.target_names, dtype=object)[data.targets.argmax(1)]
    elif data.targets.shape[1] == 1:
        truth = data.targets[:, 0]
    columns = [cells(truth, data.task, data.target_names)]
    for fit in (chosen, reference):
        scores = predictions(task, probe_name, fit.scores)
        columns.append(cells(decide(scores, data.task, data.target_names), data.task, data.target_names))
    assert data.splits is not None
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "split", "truth", "prediction", "prediction_of_mean"])
        writer.writerows(map(text_cell, map(str, row)) for row in zip(data.ids, data.splits, *columns, strict=True))
