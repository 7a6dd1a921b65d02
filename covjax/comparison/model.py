"""The winner of a comparison to take away: embedder and probe as one object that predicts for new sequences."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from covjax.comparison.probing import TASKS, predictions
from covjax.embedder import Embedder
from covjax.errors import InputError
from covjax.jobs import checkpoint
from covjax.probes import LinearProbe

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
