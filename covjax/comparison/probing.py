"""Probes of every row: what a task is, the penalty that validation chooses, predictions on test."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from covjax import metrics
from covjax.comparison.config import RETRIEVAL, CompareConfig
from covjax.comparison.features import Tables
from covjax.comparison.retrieval import METRICS, query_scores
from covjax.comparison.tablefiles import find_complete, load_rest
from covjax.data import Dataset
from covjax.embedding.landmarks import probe_bytes
from covjax.embedding.plan import GIB
from covjax.embedding.tables import Table
from covjax.encoders.embed import shared_threads
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.jobs.disk import Damaged
from covjax.jobs.distributed import is_first, share, wait
from covjax.notes import note, progress
from covjax.probes import DualProbe, LinearProbe
from covjax.probes.coordinates import KernelSpace, SampleSpace, Space, row_blocks
from covjax.probes.logistic import logistic_path, probabilities
from covjax.probes.nonlinear import DECAYS, MULTIPLES, NetworkProbe, RadialProbe, empty_probe, fit_networks
from covjax.probes.ridge import ridge_path
from covjax.probes.ridge_blocks import factored_path

_LARGE = 2**29  # bytes of float64 coordinates
_LEAST_FACTORED = 1e-6  # penalty, below which the rounding of a float32 kernel may make it indefinite


@dataclasses.dataclass(frozen=True)
class Task:
    """Metrics by key (name shown, function); the first one is primary: it chooses the penalty and heads the report."""

    metrics: dict[str, tuple[str, Callable[..., Any]]]
    probes: tuple[str, ...]
    exclusive: bool = False

    @property
    def primary(self) -> str:
        """Key of the metric that selects and is compared."""
        return next(iter(self.metrics))


TASKS = {
    "multilabel": Task(
        {
            "auprc": ("macro AUPRC", metrics.average_precision),
            "auroc": ("macro AUROC", metrics.auroc),
            "fmax": ("Fmax", metrics.fmax),
        },
        ("logistic", "ridge"),
    ),
    "multiclass": Task(
        {
            "mcc": ("MCC", metrics.matthews),
            "accuracy": ("accuracy", metrics.accuracy),
            "auroc": ("macro AUROC", metrics.auroc),
        },
        ("logistic", "ridge"),
        exclusive=True,
    ),
    "regression": Task(
        {"r2": ("R²", metrics.r2), "pearson": ("Pearson", metrics.pearson), "spearman": ("Spearman", metrics.spearman)},
        ("ridge",),
    ),
}


RANKING = Task(METRICS, (RETRIEVAL,))  # its scores are those of queries: see `query_scores`


def task_of(config: CompareConfig, data: Dataset) -> Task:
    """The task under the comparison's protocol; InputError for retrieval where there are no classes or labels."""
    if config.protocol != RETRIEVAL:
        return TASKS[data.task]
    if data.task == "regression":
        raise InputError(
            "protocol: retrieval needs classes or labels that say which sequences belong together; the task of "
            f"{data.name} is regression: use --protocol probes"
        )
    return RANKING


def predictions(task: Task, probe: str, scores: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k"]:
    """What the metrics see: probabilities from the logistic probe, the scores themselves from ridge.

    Ridge scores are not clipped to [0, 1]: thresholds of Fmax lie inside, and clipping would tie the ranking metrics.
    """
    return probabilities(scores, task.exclusive) if probe == "logistic" else scores


def macro(values: Float[np.ndarray, "*resamples k"]) -> Float[np.ndarray, "*resamples"]:
    """Mean over labels; a label undefined in a resample (one class only) is left out of that resample's mean.

    Which labels are defined depends on the truth alone, so both sides of a paired difference leave out the same. NaN
    where no label is defined.
    """
    defined = ~np.isnan(values)
    count = defined.sum(-1)
    return np.asarray(np.where(defined, values, 0).sum(-1) / np.where(count == 0, np.nan, count))


def metric_value(metric: Callable, truth: np.ndarray, shown: np.ndarray) -> float:
    """One number of a metric: the mean over labels where it has a value for each."""
    return float(macro(np.atleast_1d(metric(truth, shown))))


def best_ridge_value(
    task: Task,
    space: Space[Any],
    inputs: Float[np.ndarray, "m k"],
    known: np.ndarray,
    truth: np.ndarray,
    penalties: Sequence[float],
) -> float:
    """The primary metric of ridge at the best of the penalties: fitted on the first rows, scored on the others.

    `inputs` are what the space takes; `known` are the targets of the rows that ridge is fitted on, `truth` of the rest.
    """
    count, metric = len(known), task.metrics[task.primary][1]
    coordinates = space.coordinates(inputs)
    path = ridge_path(space.eigenvalues, coordinates[:count], known, penalties)
    scores = (predictions(task, "ridge", probe.scores(coordinates[count:])) for probe in path)
    return max(metric_value(metric, truth, each) for each in scores)


@dataclasses.dataclass(frozen=True)
class FittedProbe:
    """The probe at the chosen penalty, its scores of every sequence, and what the choice saw on validation.

    Retrieval has no probe and a penalty of 0; its scores are the metrics of each query, NaN for training sequences.
    """

    probe: LinearProbe | DualProbe | RadialProbe | NetworkProbe | None
    scores: Float[np.ndarray, "n k"]
    penalty: float
    validation: list[float]
    converged: bool


Probes = dict[str, dict[str, FittedProbe]]


def probe_names(config: CompareConfig, data: Dataset) -> tuple[str, ...]:
    """The probes of this comparison; InputError for one that the task cannot have."""
    allowed = task_of(config, data).probes
    if odd := [name for name in config.probes if name not in allowed]:
        if config.protocol == RETRIEVAL:
            raise InputError(f"probes: {odd[0]!r} is not used by --protocol retrieval; leave --probes out")
        raise InputError(f"probes: {odd[0]!r} does not fit the task {data.task}; allowed: {', '.join(allowed)}")
    return tuple(name for name in allowed if not config.probes or name in config.probes)


def fit_probes(config: CompareConfig, data: Dataset, tables: Tables, output: Path, manifest: dict[str, Any]) -> Probes:
    """Fitted probes by row label and probe name; complete checkpoints in `output/probes` are reused.

    In a job of several processes, which call this together, each fits and writes its share; process 0 returns all, the
    others none.
    A checkpoint fitted with other penalties or on other targets is refused with the difference; one on features that
    were lost and made again, whose last bits may be others, is fitted again.
    """
    names, folder = probe_names(config, data), output / "probes"
    settings, columns, is_kernel, kinds = {}, {}, {}, {}
    for label in tables:  # each once: they may be read from files
        table = tables[label]
        settings[label] = _settings(config, manifest, names, table)
        columns[label], is_kernel[label], kinds[label] = table.values.shape[1], table.is_kernel, table.probe
        del table  # before the next one is read

    def load(label: str) -> dict[str, FittedProbe] | None:
        # The kinds of probe have leaves of different names.
        linear = DualProbe if is_kernel[label] else LinearProbe
        empty: Any = empty_probe(kinds[label]) if kinds[label] else linear(np.empty(0), np.empty(0))
        empty = None if config.protocol == RETRIEVAL else empty
        like = {name: {"probe": empty, "scores": 0} for name in names}
        try:
            found = checkpoint.load_complete(folder / label, like, settings[label])
        except Damaged:
            raise
        except InputError:
            if not only_features_differ(checkpoint.read_manifest(folder / label), settings[label]):
                raise
            note(f"probes: {label}: its features were made again, and so are its probes")
            _forget(output)
            return None
        return found and {name: FittedProbe(**found[0][name], **found[1]["chosen"][name]) for name in names}

    fitted, missing = find_complete(list(tables), load)
    if not missing:
        note(f"probes: all {len(tables)} complete in {folder}, reused")
        return fitted
    note(f"probes: {len(tables) - len(missing)} complete and reused, {len(missing)} to fit")
    by_size = sorted(missing, key=lambda label: -columns[label])  # dealt so that all have as much to do
    dealt = {by_size[i] for i in share(len(missing))}
    own = [label for label in missing if label in dealt]

    def fit(label: str) -> dict[str, FittedProbe]:
        try:
            return fit_row(config, data, names, tables[label])
        except InputError as error:
            raise InputError(f"{data.name}: pooler {label!r}: {error}") from None

    with two_threads(config, probe_bytes(len(data), max(columns.values()))) as threads:
        fits = threads.map(fit, own)
        bar = progress(fits, total=len(own), desc=f"{'fit probes':>12}", unit="pooler", disable=not is_first())
        for label, fitted[label] in zip(own, bar):
            _save(folder / label, fitted[label], settings[label])
    wait()
    return load_rest(tables, fitted, load, folder) if is_first() else {}


@contextlib.contextmanager
def two_threads(config: CompareConfig, size: float) -> Iterator[ThreadPoolExecutor]:
    """Two rows at a time, of `size` bytes each, where memory allows it, or one.

    Eigendecompositions and L-BFGS leave a second core idle for most of their time. With all its threads in each row
    NumPy's linear algebra would take several times as long, since they wait for each other.
    """
    count = 2 if 2 * size <= config.memory_gib * GIB / 2 else 1
    with ThreadPoolExecutor(count) as threads, shared_threads(count):
        yield threads


def best_penalty(validation: Sequence[float], penalties: Sequence[float]) -> int:
    """Place of the penalty that is best on validation; of equal ones the stronger, which is the safer one."""
    return max(range(len(validation)), key=lambda i: (validation[i], penalties[i]))


def _save(path: Path, fits: dict[str, FittedProbe], settings: dict[str, Any]) -> None:
    chosen = {
        name: {"penalty": fit.penalty, "validation": fit.validation, "converged": fit.converged}
        for name, fit in fits.items()
    }
    state = {name: {"probe": fit.probe, "scores": fit.scores} for name, fit in fits.items()}
    checkpoint.save(path, state, settings | {"chosen": chosen})


def _rank(data: Dataset, table: Table) -> FittedProbe:
    if table.landmarks is not None:
        raise InputError("landmarks: retrieval needs all inner products; give more --max-memory-gib, or --landmarks 0")
    validation, test = data.rows("validation"), data.rows("test")
    queries = np.concatenate([validation, test])
    scores = np.full((len(data), len(METRICS)), np.nan)
    scores[queries] = query_scores(table, data.targets, data.rows("train"), queries)
    for split, rows in (("validation", validation), ("test", test)):
        if np.isnan(scores[rows]).all():
            raise InputError(f"labels: no {split} sequence shares one with a training sequence: nothing to retrieve")
    metric = RANKING.metrics[RANKING.primary][1]
    return FittedProbe(None, scores, 0.0, [float(metric(data.targets[validation], scores[validation]))], True)


def _settings(config: CompareConfig, manifest: dict[str, Any], names: tuple[str, ...], table: Table) -> dict[str, Any]:
    return ({"probe": [table.probe, MULTIPLES, DECAYS]} if table.probe else {}) | {
        "penalties": list(config.penalties),
        "probes": list(names),
        "data": manifest["data"],
        "features_digest": checkpoint.leaf_digests({"values": table.values})["['values']"],
    }


def _forget(folder: Path) -> None:
    """Remove what was scored and made of probes that are fitted again; `folder` may be that of one layer."""
    root = folder.parents[1] if folder.parent.name == "layers" else folder
    (root / "results.json").unlink(missing_ok=True)
    shutil.rmtree(root / "model" / "probe", ignore_errors=True)


def only_features_differ(saved: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> bool:
    """Whether saved probes were fitted on other features, and all else is the same."""
    if saved is None or saved.get("features_digest") == settings["features_digest"]:
        return False
    wanted = json.loads(json.dumps({**settings, "features_digest": saved.get("features_digest")}))
    return all(saved.get(key) == value for key, value in wanted.items())


def _coordinates(space: Any, table: Table, train: Int[np.ndarray, "n_train"]) -> Float[np.ndarray, "n r"]:
    """Of all sequences; many are float32, which is rounding of every coordinate by itself."""
    values, shape = table.values, (len(table.values), len(space.eigenvalues))
    out = np.empty(shape, np.float64 if 8 * shape[0] * shape[1] <= _LARGE else np.float32)
    rows = np.arange(len(values))
    if isinstance(space, SampleSpace) or (isinstance(space, KernelSpace) and table.landmarks is None):
        out[train], rows = space.sample_coordinates, np.setdiff1d(rows, train)
    for part in row_blocks(len(rows), values.shape[1]):
        out[rows[part]] = space.coordinates(values[rows[part]])
    return out


def probe_path(
    name: str, space: Any, coordinates: np.ndarray, targets: np.ndarray, penalties: Sequence[float], exclusive: bool
) -> tuple[list[LinearProbe], list[bool]]:
    """A probe on the coordinates at every penalty, and whether each converged."""
    if name == "ridge":
        probes = ridge_path(space.eigenvalues, coordinates, targets, penalties)
        return probes, [True] * len(probes)
    path = logistic_path(space.eigenvalues, coordinates, targets, penalties, exclusive)
    return path.probes, [slope <= 1e-4 for slope in path.gradient]


def fit_row(config: CompareConfig, data: Dataset, names: tuple[str, ...], table: Table) -> dict[str, FittedProbe]:
    """Every probe where validation is best: over penalties, and over bandwidths or weight decays where there are any.

    Of equal values the first space is taken, and in it the strongest penalty.
    """
    if config.protocol == RETRIEVAL:
        return {RETRIEVAL: _rank(data, table)}
    task: Task = TASKS[data.task]
    train, validation = data.rows("train"), data.rows("validation")
    targets, metric = data.targets[train], task.metrics[task.primary][1]

    def value(name: str, scores: np.ndarray) -> float:
        return metric_value(metric, data.targets[validation], predictions(task, name, scores))

    if table.probe == "mlp":
        return {name: _fit_network(config, data, table, name, partial(value, name)) for name in names}
    fitted: dict[str, FittedProbe] = {}
    if names == ("ridge",) and (path := _kernel_ridge(table, train, targets, config.penalties)):
        values = [value("ridge", probe.scores(table.values[validation])) for probe in path]
        best = best_penalty(values, config.penalties)
        return {"ridge": FittedProbe(path[best], path[best].scores(table.values), config.penalties[best], values, True)}
    for space in table.spaces(train):
        coordinates = _coordinates(space, table, train)
        for name in names:
            known = coordinates[train]
            probes, converged = probe_path(name, space, known, targets, config.penalties, task.exclusive)
            values = [value(name, probe.scores(coordinates[validation])) for probe in probes]
            if name in fitted and max(values) <= max(fitted[name].validation):
                continue
            best = best_penalty(values, config.penalties)
            fitted[name] = FittedProbe(
                space.probe(probes[best]),
                probes[best].scores(coordinates),
                config.penalties[best],
                values,
                converged[best],
            )
    return fitted


def _kernel_ridge(
    table: Table, train: Int[np.ndarray, "n_train"], targets: np.ndarray, penalties: Sequence[float]
) -> list[DualProbe]:
    """Ridge alone on an exact kernel, by a factorisation for each penalty where an eigendecomposition is more work.

    Empty where it is less, on features and landmarks, and for penalties that such a factor cannot bear.
    """
    n, outputs = len(train), targets.shape[1]
    is_exact = table.is_kernel and table.landmarks is None and not table.probe
    is_cheap = len(penalties) * (n + 6 * outputs) <= 20 * n
    is_safe = min(penalties) >= _LEAST_FACTORED and bool(np.isfinite(targets).all())
    if not (is_exact and is_cheap and is_safe) or table.is_constant(train):
        return []
    kernel = table.values[train]
    alphas = factored_path(kernel, targets, penalties) or []
    centre, mean = kernel.mean(0, dtype=np.float64), targets.mean(0)
    return [DualProbe(alpha, mean - centre @ alpha) for alpha in alphas]


def fit_at(task: Task, name: str, table: Table, data: Dataset, penalty: float) -> FittedProbe:
    """The linear probe at one penalty, fitted on the training rows; validation has no say."""
    train = data.rows("train")
    space: Any = table.space(train)
    coordinates = _coordinates(space, table, train)
    known, targets = coordinates[train], data.targets[train]
    probes, converged = probe_path(name, space, known, targets, [penalty], task.exclusive)
    return FittedProbe(space.probe(probes[0]), probes[0].scores(coordinates), penalty, [], converged[0])


def _fit_network(
    config: CompareConfig, data: Dataset, table: Table, name: str, value: Callable[[np.ndarray], float]
) -> FittedProbe:
    """The network of the probe's loss: squares under ridge, cross entropy under logistic."""
    train, validation = data.rows("train"), data.rows("validation")
    kind = "regression" if name == "ridge" else data.task
    path = fit_networks(
        table.values[train],
        data.targets[train].astype(np.float64),
        table.values[validation],
        value,
        kind,
        seed=config.seed,
    )
    best = best_penalty(path.validation, DECAYS)
    probe = path.probes[best]
    return FittedProbe(probe, probe.scores(table.values), DECAYS[best], path.validation, path.converged[best])
