"""The winner of a comparison: embedder and probe as one object that predicts for new sequences."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from covjax.activations import ArrayTokens, GivenTokens, PairTokens
from covjax.comparison.config import RETRIEVAL, CompareConfig
from covjax.comparison.layers import Layer
from covjax.comparison.mixtures import resolved
from covjax.comparison.probing import TASKS, FittedProbe, Probes, predictions, probe_names
from covjax.comparison.results import Results
from covjax.data import Dataset
from covjax.data.pairs import check_kind
from covjax.embedder import Embedder, origin
from covjax.embedding.fitted import FittedRecipe, fit_recipe
from covjax.embedding.tables import Sums, Table, centred_probe
from covjax.encoders.base import layer_index
from covjax.errors import InputError, shown
from covjax.jobs import checkpoint
from covjax.jobs.disk import json_digest, new_text, text_cell
from covjax.jobs.distributed import agree, is_first
from covjax.notes import note
from covjax.probes import DualProbe, LinearProbe
from covjax.recipes import Recipe, parts_of
from covjax.recipes.base import Components, row_name, with_parts

FORMAT = 1
HALF = 500 * 2**20  # bytes of weights above which they are kept in half precision
THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Model:
    """A fitted recipe with its encoder, and a linear probe on its vectors.

    `labels` are the targets' names; `probe_name` is logistic or ridge, `task` multilabel, multiclass or regression. A
    model of given activations has none but these to predict for; `reading` says which layer and how many special tokens
    at both ends the comparison took (arguments of `covjax.activations.read_activations`). A model of pairs (`pair` says
    what of them: `kind` and `window` of `PairTokens`) predicts for (sequence, second sequence) pairs.
    """

    embedder: Embedder
    probe: LinearProbe
    probe_name: str
    task: str
    labels: tuple[str, ...]
    reading: Mapping[str, int] | None = None
    pair: Mapping[str, Any] | None = None

    def scores(self, X: Any) -> Float[np.ndarray, "n k"]:
        """What the metrics of the comparison see, of sequences or activations: probabilities, or ridge's scores."""
        X = X if self.pair is None else self._pairs(X)
        return predictions(TASKS[self.task], self.probe_name, self.probe.scores(self.embedder.transform(X)))

    def _pairs(self, X: Any) -> PairTokens:
        """The tokens of a list of pairs; InputError for anything else, and as `check_kind`."""
        pairs = list(X)
        for i, pair in enumerate(pairs):
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(s, str) for s in pair)):
                raise InputError(
                    f"X: the model is of pairs, but row {i} is {shown(pair, 40)}; give (sequence, second sequence)"
                )
        if not pairs:
            raise InputError("X: no pair; at least one (sequence, second sequence) is needed")
        first, second = zip(*pairs)
        pair = dict(self.pair or {})
        check_kind(pair["kind"], first, second, "X: row {}".format)
        encoder, settings = self.embedder.load_encoder(), self.embedder
        layer = layer_index(settings.layer, encoder.num_layers)
        limits = settings.token_budget, settings.max_memory_gib
        return PairTokens(encoder, first, second, layer, pair["kind"], pair["window"], *limits)

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
        if self.pair is not None:
            manifest["pair"] = dict(self.pair)
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
        if manifest is None and checkpoint.read_manifest(path / "embedder") is not None:
            raise InputError(f"{path}: it holds an embedder and no probe: covjax.Embedder.load({path / 'embedder'})")
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
        model = cls(embedder, probe, manifest["probe"], manifest["task"], labels, reading, manifest.get("pair"))
        return model, manifest["made_of"]


def _digest(path: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds those of its arrays."""
    return json_digest(checkpoint.read_manifest(path))


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


def true_cells(data: Dataset) -> list[str]:
    """The targets of every row as a table's cells."""
    truth = data.targets
    if data.task == "multiclass":
        truth = np.array(data.target_names, dtype=object)[data.targets.argmax(1)]
    elif data.task == "regression" and data.targets.shape[1] == 1:
        truth = data.targets[:, 0]
    return cells(truth, data.task, data.target_names)


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
    by_name = {recipe.name: recipe for recipe in recipes}
    by_name |= {each.name: resolved(each, tables) for each in with_parts(name, by_name)}
    *parts, recipe = with_parts(name, by_name)
    seeds = [recipe for recipe in recipes if row_name(recipe) == name != recipe.name]
    made_under = {key: identity[key] for key in ("data", "encoder")}
    train = data.rows("train")
    memory = config.memory_gib
    source = recipe.part if isinstance(recipe, Components) and recipe.part in tables else name
    rows = tables[source].kernel_rows(train)
    sketches = {each.name: tables[each.name].values.shape[1] for each in [*parts, recipe] if _is_sketch(each, tables)}
    return fit_recipe(
        [*parts, recipe], tokens, train, config.seed, folder, made_under, data, seeds, memory, tables, rows, sketches
    )


def _is_sketch(recipe: Recipe, tables: Mapping[str, Table]) -> bool:
    """Parts of a mixture need not have a table here; a mixture is refused where a sketch would serve."""
    return not parts_of(recipe) and recipe.name in tables and tables[recipe.name].solver == "sketch"


def make_embedder(config: CompareConfig, tokens: ArrayTokens, fitted: FittedRecipe) -> Embedder:
    """The embedder of one row of the comparison."""
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
    return embedder.adopt(fitted, *origin(tokens))


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
        probe = DualProbe(tables[fitted.recipe.name].row_weights(np.asarray(probe.alpha, np.float64)), probe.bias)
        # A sum of the parts' kernels is of blocks as they are; that of one matrix is of its centred and scaled rows.
        is_sum = any(tables[part].is_kernel for part in parts_of(fitted.recipe))
        probe = LinearProbe(sums.weighted, probe.bias) if is_sum else centred_probe(probe, sums)
    embedder = make_embedder(config, tokens, fitted)
    reading = None
    if isinstance(tokens, GivenTokens):
        layer = config.layer if tokens.given.layer is None else tokens.given.layer
        reading = {"layer": layer, "drop_first": config.drop_first, "drop_last": config.drop_last}
    pair = {"kind": tokens.kind, "window": tokens.window} if isinstance(tokens, PairTokens) else None
    return Model(embedder, probe, probe_name, data.task, data.target_names, reading, pair)


def keep_winner(
    layer: Layer,
    data: Dataset,
    tables: Mapping[str, Table],
    probes: Probes,
    results: Results,
    output: Path,
) -> None:
    """Write `model/` of the row that validation chose, `Results.winner`; a model there stays.

    Retrieval has no probe, so the model is the embedder alone.
    `layer` and `tables` are that row's. In a job of several processes all call this together; process 0 writes.
    """
    name, pools, identity = results.winner, layer.folder / "pools", layer.features
    config, tokens, recipes = layer.config, layer.tokens, layer.recipes
    if config.protocol == RETRIEVAL:
        path = output / "model" / "embedder"
        if not agree(np.int64(is_first() and _holds(path, name))):
            fitted = fit_winner(config, data, tokens, recipes, name, pools, identity, tables)
            if is_first():
                make_embedder(config, tokens, fitted).save(path)
                note(f"model: {name}, an embedder alone: covjax.Embedder.load({str(path)!r})")
        return
    chosen = resolved(next(recipe for recipe in recipes if recipe.name == name), tables)
    kind = probe_names(config, data)[0]
    path = output / "model"
    made_of = dict(identity) | {"row": repr(chosen), "penalties": list(config.penalties)}
    digest = json_digest(made_of)
    done = is_first() and Model.made_of(path) == digest
    if not agree(np.int64(done)):
        note(f"model: {name}, {kind} probe")
        fitted = fit_winner(config, data, tokens, recipes, name, pools, identity, tables)
        rows, sums = tables[name].kernel_rows(data.rows("train")), None
        if tables[name].is_kernel:
            alpha = np.zeros((len(rows), data.targets.shape[1]))
            if is_first():
                probe = probes[name][kind].probe
                assert isinstance(probe, DualProbe)
                alpha = tables[name].row_weights(np.asarray(probe.alpha, np.float64))
            sums = fitted.sums(tokens, rows, agree(alpha))
        if is_first():
            model = make_model(config, data, tokens, fitted, probes[name][kind], kind, tables, sums)
            size = model.save(path, digest)
            new = "new.fasta" if model.reading is None else "--activations NEW"
            new = new if model.pair is None else "new_pairs.csv"
            note(f"model: {path}, {size / 2**20:.1f} MiB; covjax predict {path} {new}")


def _holds(path: Path, recipe: str) -> bool:
    """Whether a whole embedder of that recipe is there; the folder's other settings are the run's own."""
    try:
        return Embedder.load(path).recipe == recipe
    except InputError:
        return False


def write_predictions(path: Path, data: Dataset, probes: Probes, results: Results) -> None:
    """One line a sequence: id, split, truth, and what the first probe of the winner and of the mean predict for it.

    Sequences of the training and validation split are there too; their predictions are not a test of anything.
    """
    task = TASKS[data.task]
    columns, kind = [true_cells(data)], results.probes[0]
    for name in (results.winner, results.reference):
        scores = predictions(task, kind, probes[name][kind].scores[: len(data)])
        columns.append(cells(decide(scores, data.task, data.target_names), data.task, data.target_names))
    assert data.splits is not None
    with new_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "split", "truth", "prediction", "prediction_of_mean"])
        writer.writerows(map(text_cell, map(str, row)) for row in zip(data.ids, data.splits, *columns, strict=True))
